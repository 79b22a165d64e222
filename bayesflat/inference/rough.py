"""A first fit with hierarchical noise: where the search begins, which bins are used, and how smooth the light is.

All but the centroid is nearly linear in the log of the value, and generalised least squares gives everything in a few
steps, with the noise scales and the outliers in between.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.data.grouped import medians_of
from bayesflat.errors import InputError
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.spline import spread_knots
from bayesflat.inference.odd import LEAST_SCATTER, find_odd
from bayesflat.inference.rings import full_rings, missing_places
from bayesflat.inference.scales import fit_scales
from bayesflat.inference.smoothness import bending_variance
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.log_mean import LogMean
from bayesflat.model.parameters import RIM_GRADIENT, RIM_OUTER_GRADIENT, SIGMA_CENTROID, SIGMA_RATIO
from bayesflat.model.prepare import FitData
from bayesflat.model.radial import SIGMA_LOG_RADIAL, RadialPrior

log = logging.getLogger(__name__)

FINE = 160  # intervals of the B-spline, at most
_ROUNDS = 4
_BINS_PER_INTERVAL, _FEWEST_BINS, _FEWEST_OF_VENDOR = 20, 20, 5
# robust standard deviations from the others beyond which a bin is an outlier; before the first fit, from the rings'
# medians
OUTLIER, _OUTLIER_AT_FIRST = 5.0, 10.0
_STEEPEST = 0.5  # what a plane may do at the rim, in a first fit


@dataclass(frozen=True)
class Rough:
    """A first fit.

    Attributes
    ----------
    radial : RadialPrior
        Knots of the log of the radial function, and its smoothness.
    information : numpy.ndarray, shape (n, n)
        Inverse covariance of its coefficients, everything else being free and the radial function not yet smooth.
    parameters : dict of str to numpy.ndarray
        ``log_radial``, the other parameters of the mean, and ``log_noise_scales``.
    inside : numpy.ndarray of bool, shape (n_bins,)
        Bins within the largest circle about the centroid that the bins fill.
    outlier : numpy.ndarray of bool, one for each bin inside
        Bins far from what the fit leaves of the others: dust and defects.
    smooth : float
        `FitData.smooth` of these bins.
    odd : dict of (int, int) to float
        `FitData.odd` of these bins.
    """

    radial: RadialPrior
    information: NDArray[np.float64]
    parameters: dict[str, NDArray]
    inside: NDArray[np.bool_]
    outlier: NDArray[np.bool_]
    smooth: float
    odd: dict[tuple[int, int], float] = field(default_factory=dict)


def rough_fit(data: FitData, config: FitConfig) -> Rough:
    """Fit roughly, and find the outliers.

    Parameters
    ----------
    data : FitData
        Its nodes and weights are not used.
    config : FitConfig
        Which terms are fitted.

    Raises
    ------
    InputError
        Fewer bins than a radial function needs.
    """
    alive = data.value > 0
    _require_bins(alive)
    y = np.log(np.where(alive, data.value, np.nan))
    spline, start, outlying = _rings(data, y)
    y = np.where(alive, y, 0.0)
    parameters = {"log_radial": start}
    if data.has_ratio:
        parameters["itl_ratio"] = np.ones(())
    parameters |= {name: np.zeros(2) for name, switch in _SWITCH.items() if getattr(config, switch)}
    inside, outlier = np.ones(len(data), dtype=bool), outlying | ~alive
    missing = missing_places(data)
    scales: NDArray | None = None
    for k in range(_ROUNDS):
        rows = np.flatnonzero(inside)
        here, y_here = replace(data.select(inside), weight=(~outlier[rows]).astype(float)), y[rows]
        noise = HierarchicalNoise(here)
        typical, width = noise.typical_scales()
        scales = typical if scales is None else scales
        spline, parameters = _respanned(spline, here, parameters)
        parameters, information = _least_squares(here, y_here, config, noise, scales, spline, parameters)
        residual = y_here - LogMean(here, config, spline)(parameters)
        scales = fit_scales(noise, residual, scales, typical, width)
        if k > 0:  # the first step is too rough to judge bins by
            rest = _unexplained(noise, residual, scales)
            scatter = 1.4826 * np.median(np.abs(rest[~outlier[rows]]))
            limit = OUTLIER * max(scatter, LEAST_SCATTER)
            outlier[rows] = (np.abs(rest) > limit) | ~alive[rows]
        residual = np.where(alive[rows], residual, np.nan)
        odd = find_odd(here.binned.detector, here.binned.amplifier, here.itl, residual)
        smooth, last_odd = data.smooth, data.odd
        data = replace(data, smooth=noise.smoothness(scales), odd=odd)
        last, inside = inside, full_rings(data, missing, parameters.get("centroid_delta", np.zeros(2)))
        _require_bins(inside)
    n = spline.size
    marginal = information[:n, :n] - information[:n, n:] @ np.linalg.solve(information[n:, n:], information[n:, :n])
    return Rough(
        radial=_prior_of(spline, parameters["log_radial"], marginal),
        information=marginal,
        parameters=parameters | {"log_noise_scales": np.asarray(scales)},
        inside=last,
        outlier=outlier[last],
        smooth=smooth,
        odd=last_odd,
    )


def _require_bins(usable: NDArray) -> None:
    """Refuse what is too few bins for a radial function, of which each detector has a few."""
    if usable.sum() < _FEWEST_BINS:
        raise InputError(
            f"{usable.sum()} of {len(usable)} bins are good and in full rings about the centroid; at least "
            f"{_FEWEST_BINS} are needed: bin more finely (bin_factor)"
        )


def _prior_of(spline: LogSpline, coefficients: NDArray, information: NDArray) -> RadialPrior:
    """How smooth the radial function is, by marginal likelihood."""
    places = spline.places
    to_places = spline.design(places)
    inverse = np.linalg.inv(to_places)
    bending, smooth = bending_variance(places, to_places @ coefficients, inverse.T @ information @ inverse)
    return RadialPrior(spline, inverse @ smooth, bending)


def _least_squares(
    data: FitData,
    y: NDArray,
    config: FitConfig,
    noise: HierarchicalNoise,
    scales: NDArray,
    spline: LogSpline,
    parameters: dict[str, NDArray],
) -> tuple[dict[str, NDArray], NDArray[np.float64]]:
    """One step of generalised least squares: the parameters, and the information on them."""
    log_mean, design = LogMean(data, config, spline).with_design(parameters)
    covariance = noise.covariance(scales)
    information = covariance.information(design)
    loose = information + np.diag(1.0 / _widths(data, config, parameters) ** 2)
    solved = np.linalg.solve(loose, -design.transposed(covariance.marginal(y - log_mean).by_residual))
    moved, start = {}, 0
    for name, value in parameters.items():
        step = solved[start : start + value.size].reshape(value.shape)
        start += value.size
        # a ratio stays positive
        moved[name] = value * np.exp(step / value) if name == "itl_ratio" else value + step
    return _bounded(moved, data, config), loose


def _unexplained(noise: HierarchicalNoise, residual: NDArray, scales: NDArray) -> NDArray[np.float64]:
    """What no effect explains of the residuals, at all bins, also those of weight 0."""
    found = noise.covariance(scales).marginal(residual)
    return residual - noise.effects.expand(noise.effects.all_effects(found.own, found.shared))


_SWITCH = {
    "centroid_delta": "do_fit_centroid",
    "gradient": "do_fit_gradient",
    "outer_gradient": "do_fit_outer_gradient",
}


def _rings(data: FitData, y: NDArray) -> tuple[LogSpline, NDArray[np.float64], NDArray[np.bool_]]:
    """A B-spline through the medians of rings, the vendors apart, its coefficients, and the bins far from them."""
    radius = data.radius
    intervals = int(np.clip(len(data) // _BINS_PER_INTERVAL, 4, FINE))
    spline = _spline_over(radius, intervals)
    edges = spline.knots[3:-3]
    ring = np.clip(np.searchsorted(edges, radius) - 1, 0, len(edges) - 2)
    offset = np.zeros(len(data))
    if data.has_ratio:
        of_vendor, n = 2 * ring + data.itl, 2 * (len(edges) - 1)
        rest, itl = medians_of(of_vendor, y, n).reshape(-1, 2).T
        both = np.bincount(of_vendor[np.isfinite(y)], minlength=n).reshape(-1, 2).min(1) >= _FEWEST_OF_VENDOR
        ratio = np.median((itl - rest)[both]) if both.any() else np.nanmedian(y[data.itl]) - np.nanmedian(y[~data.itl])
        offset = np.where(data.itl, ratio, 0.0)
    values = medians_of(ring, y - offset, len(edges) - 1)
    there = np.isfinite(values)
    coefficients = np.interp(spline.places, 0.5 * (edges[1:] + edges[:-1])[there], values[there])
    off = y - offset - spline.evaluate(coefficients, radius)
    # a detector or an amplifier that is off as a whole is not made of outliers
    most = int(data.binned.amplifier.max()) + 1
    index = np.unique(data.binned.detector, return_inverse=True)[1] * most + data.binned.amplifier
    off = off - medians_of(index, off)[index]
    scatter = 1.4826 * np.nanmedian(np.abs(off))
    return spline, coefficients, np.abs(np.nan_to_num(off)) > _OUTLIER_AT_FIRST * max(scatter, 1e-6)


def _spline_over(radius: NDArray, intervals: int) -> LogSpline:
    """Knots over all radii, and an interval beyond the outermost."""
    first, last = float(radius.min()), float(radius.max())
    first = 0.0 if first < 0.05 * last else first
    knots = spread_knots(first, last, intervals, 20 * intervals)
    step = knots[-4] - knots[-5]
    edges = np.append(knots[3:-3], last + step)
    return LogSpline(np.concatenate([np.full(3, edges[0]), edges, np.full(3, edges[-1])]))


def _respanned(
    spline: LogSpline, data: FitData, parameters: dict[str, NDArray]
) -> tuple[LogSpline, dict[str, NDArray]]:
    """About the same radial function with knots over the radii from the centroid as it is now."""
    cx, cy = parameters.get("centroid_delta", (0.0, 0.0))
    new = _spline_over(np.hypot(data.dx - cx, data.dy - cy), len(spline.knots) - 8)
    coefficients = spline.evaluate(parameters["log_radial"], new.places)
    return new, parameters | {"log_radial": coefficients}


def _bounded(parameters: dict[str, NDArray], data: FitData, config: FitConfig) -> dict[str, NDArray]:
    """Centroid and planes, pulled back to where they are possible, if a rough step left that."""
    out = dict(parameters)
    most = {"centroid_delta": 0.8 * config.centroid_max}
    most |= dict.fromkeys(("gradient", "outer_gradient"), _STEEPEST / data.radius.max())
    for name, length in most.items():
        if name in out:
            out[name] = out[name] * min(1.0, length / max(np.hypot(*out[name]), 1e-300))
    return out


def _widths(data: FitData, config: FitConfig, parameters: dict[str, NDArray]) -> NDArray[np.float64]:
    """Widths of the priors of a step: loose, to hold what the bins do not."""
    rim = data.radius.max()
    widths = {
        "log_radial": SIGMA_LOG_RADIAL,
        "itl_ratio": SIGMA_RATIO,
        "centroid_delta": SIGMA_CENTROID * config.centroid_max,
        "gradient": RIM_GRADIENT / rim,
        "outer_gradient": RIM_OUTER_GRADIENT / rim,
    }
    return np.concatenate([np.full(value.size, widths[name]) for name, value in parameters.items()])
