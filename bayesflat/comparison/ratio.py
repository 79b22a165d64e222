"""The posterior of the log-ratio of a dome flat and a sky flat, fitted bin by bin.

The detectors are the same in both flats, and cancel in the ratio.  The remaining noise is small, and its scales are
estimated from the ratio: white noise, and the part of the scatter of detectors, amplifiers and patterns that does not
cancel because lamp and sky differ in colour.  The log of the ratio is

    log R(|x - c - delta|) + D(|x - c - delta|) - log R(|x - c|) + log_itl_ratio - log(dome plane / sky plane) + S(x)

with R and c the sky's radial function and centroid, delta the dome's centroid relative to the sky's, and D the log of
the ratio of the two radial functions: a cubic B-spline, flat at the centre.  S is a smooth surface over the focal plane
(`bayesflat.comparison.surface`).  R matters only through delta.  It is the curve of the sky's product, with its errors
(or that of a first fit, where a product has none): a spline whose nodes do not follow the flat would bias delta by many
standard deviations.  Everything is normal and nearly linear, so a few steps of generalised least squares suffice, with
the noise scales, and that of the surface, at their maximum (Rasmussen & Williams 2006, 5.4.1).  Where that is not so,
because the flats have much that the formula has not, a quasi-Newton search follows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from bayesflat.comparison.posterior import Linear, Posterior
from bayesflat.comparison.ratio_mean import RatioMean, SkyCurve
from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.linalg import curvature_root
from bayesflat.inference.odd import find_odd
from bayesflat.inference.rough import OUTLIER, rough_fit
from bayesflat.inference.scales import fit_scales
from bayesflat.model.effects import Projected
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.marginal import Covariance
from bayesflat.model.noise import FLOOR
from bayesflat.model.prepare import FitData

log = logging.getLogger(__name__)

Positions = tuple[NDArray, NDArray, NDArray]  # x, y (mm), and whether the detector is an ITL one

_FEW_BINS = 20_000  # number of bins in the first round
_LEFT = 0.01  # expected fraction of the scatter of detectors, amplifiers and patterns that does not cancel
_FIRST_STEPS = 3  # steps of least squares in the first round
_ODD_ROUNDS = 3  # of these, until they find the same detectors and amplifiers off
_SCALE_STEPS = 3  # of those in the last, in which the width of the surface's prior is found as well
_SHRINKS = 0.5  # each step should be so much shorter than the last: else a search takes its place
_MOST_STEPS, _SEARCHED = 20, 50  # of these, and of a search
_TOLERANCE = 1e-2  # largest step at convergence (standard deviations)
_MICRON = 1e-3  # mm to which positions of bins in the two tables must agree


@dataclass(frozen=True)
class Paired:
    """The ratio of two flats, fitted.

    Attributes
    ----------
    posterior : Posterior
    data : FitData
        The sky's data, of the bins that both flats have; outliers have weight 0.
    log_ratio : numpy.ndarray, shape (n_bins,)
        Measured log of dome/sky, each normalized.
    scales : dict of str to float
        Standard deviations of the noise of the log-ratio, by effect.
    converged : bool
    """

    posterior: Posterior
    data: FitData
    log_ratio: NDArray[np.float64]
    scales: dict[str, float]
    converged: bool


def fit_ratio(
    sky: FitData,
    dome: FitData,
    config: FitConfig,
    *,
    curve: SkyCurve | None = None,
    itl_ratio: float = 1.0,
    outer: bool = False,
) -> Paired:
    """Fit the ratio of two flats.

    Parameters
    ----------
    sky, dome : FitData
        Bins after the cuts, about the same pivot.
    config : FitConfig
        Configuration of the sky's fit.
    curve : SkyCurve, optional
        The sky's radial function, from its product; then ``sky`` has only the bins of that fit.  By default from a
        first fit of the sky's bins.
    itl_ratio : float
        Throughput ratio of the sky, which turns the log of dome/sky into a difference in product units.
    outer : bool
        Whether an outer plane is fitted even if the sky has none.

    Raises
    ------
    InputError
        The flats have no bin in common.
    """
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        if curve is None:
            rough = rough_fit(sky, config.replace(do_fit_centroid=True, do_fit_gradient=True))
            sky, curve = sky.select(rough.inside), SkyCurve.of_first_fit(rough)
        rows_sky, rows_dome = _common(sky, dome)
        data = sky.select(rows_sky)
        alive = (data.value > 0) & (dome.value[rows_dome] > 0)
        data = replace(data.select(alive), smooth=curve.smooth)
        value = np.log(dome.value[rows_dome][alive]) - np.log(data.value)
        return _fit(RatioMean(curve, data, config, outer or config.do_fit_outer_gradient), data, value, itl_ratio)


def _common(a: FitData, b: FitData) -> tuple[NDArray, NDArray]:
    """Rows of the bins that two flats have in common."""
    _, rows_a, rows_b = np.intersect1d(_keys(a), _keys(b), return_indices=True)
    if not len(rows_a):
        raise InputError(
            f"the flats have no bin in common ({len(a)} bins of sky, {len(b)} of dome): "
            "bin both with the same camera, bin_factor and detector_boundary"
        )
    order = np.argsort(rows_a)  # the order of the bins in the sky
    return rows_a[order], rows_b[order]


def _keys(data: FitData) -> NDArray:
    """Detector and position (micron) of each bin, as records."""
    x, y = (np.rint(p / _MICRON).astype(np.int64) for p in (data.binned.xf, data.binned.yf))
    return np.rec.fromarrays([data.binned.detector, x, y])


def _fit(mean: RatioMean, data: FitData, value: NDArray, itl_ratio: float) -> Paired:
    """Least squares and noise scales in turn, on a subset of the bins and then on all but outliers."""
    few = slice(None, None, max(1, round(len(data) / _FEW_BINS)))
    parameters = np.zeros(mean.size)
    parameters[mean.slices["radial"]] = np.median(value)
    # what is off in both flats is not in their ratio, and what is off in one of them would widen the scatter of all
    data = replace(data, odd={})
    for _ in range(_ODD_ROUNDS):
        parameters, scales, _ = _round(mean, data.select(few), value[few], parameters, None, _FIRST_STEPS)
        # the sky's radial function is not known beyond its bins
        inside = mean.radius_dome(parameters, data) <= mean.sky.spline.knots[-1]
        within = data.select(inside)
        residual = value[inside] - mean.linearised(parameters, *_at(within))[0]
        odd, known = find_odd(within.binned.detector, within.binned.amplifier, within.itl, residual), data.odd
        data = replace(data, odd=odd)
        if odd.keys() == known.keys():
            break
    data, value = data.select(inside), value[inside]
    outlier = _outliers(HierarchicalNoise(data), scales, residual)
    data = replace(data, weight=(~outlier).astype(float))
    mean = mean.with_surface(parameters, data)
    parameters = np.append(parameters, np.zeros(mean.size - len(parameters)))
    parameters, scales, noise = _round(mean, data, value, parameters, scales, 1)
    at = _at(data)
    covariance = noise.covariance(scales)
    surface = _surface_of(mean, noise, at)
    length = np.inf
    for k in range(_MOST_STEPS):
        last = length if k > _SCALE_STEPS else np.inf
        ahead, length, information = gauss_newton_step(mean, parameters, covariance, at, value, surface)
        if length > max(_SHRINKS * last, _TOLERANCE):
            parameters, length = search_maximum(mean, parameters, information, covariance, at, value)
        else:
            parameters = ahead
        if k < _SCALE_STEPS:
            mean.rescale(parameters, information)
        elif length < _TOLERANCE:
            break
    log.info(
        "ratio of the flats fitted: %d bins, %d of them outliers, last step %.1e sd", len(data), outlier.sum(), length
    )
    sizes = np.exp(scales) + FLOOR * (np.arange(len(scales)) == 0)
    return Paired(
        posterior=ratio_posterior(mean, parameters, noise, covariance, at, value, itl_ratio),
        data=data,
        log_ratio=value,
        scales=dict(zip(noise.labels, sizes.tolist(), strict=True)),
        converged=bool(length < _TOLERANCE),
    )


def _surface_of(mean: RatioMean, noise: HierarchicalNoise, at: Positions) -> tuple[slice, Projected]:
    """The surface's columns of the design, which no parameter moves, as the effects see them."""
    if mean.surface is None:
        return slice(0, 0), Projected.nothing(noise.effects.n_detectors, noise.effects.size)
    return mean.slices["surface"], noise.effects.projected(mean.surface(*at[:2]))


def _at(data: FitData) -> Positions:
    return data.binned.xf, data.binned.yf, data.itl


def _round(
    mean: RatioMean, data: FitData, value: NDArray, parameters: NDArray, scales: NDArray | None, steps: int
) -> tuple[NDArray, NDArray, HierarchicalNoise]:
    """Steps of least squares, then a fit of the noise scales, which start from typical scales unless they are given."""
    noise, at = HierarchicalNoise(data), _at(data)
    typical, width = noise.typical_scales()
    typical = typical + np.where(np.arange(len(typical)) > 0, np.log(_LEFT), 0.0)  # white noise does not cancel
    scales = typical if scales is None else scales
    for _ in range(steps):
        parameters = gauss_newton_step(mean, parameters, noise.covariance(scales), at, value)[0]
    return parameters, fit_scales(noise, value - mean.linearised(parameters, *at)[0], scales, typical, width), noise


def gauss_newton_step(
    mean: RatioMean,
    parameters: NDArray,
    covariance: Covariance,
    at: Positions,
    value: NDArray,
    surface: tuple[slice, Projected] | None = None,
) -> tuple[NDArray, float, NDArray]:
    """A Gauss-Newton step: the new parameters, the length of the step (standard deviations), and the information."""
    expected, design = mean.linearised(parameters, *at)
    effects = covariance.effects
    projected = effects.projected(design) if surface is None else effects.projected_beside(design, *surface)
    information = covariance.information(projected) + np.diag(mean.widths**-2.0)
    slope = -design.T @ covariance.marginal(value - expected).by_residual - parameters / mean.widths**2
    step = np.linalg.solve(information, slope)
    return parameters + step, float(np.sqrt(max(float(step @ information @ step), 0.0))), information


def search_maximum(
    mean: RatioMean, parameters: NDArray, information: NDArray, covariance: Covariance, at: Positions, value: NDArray
) -> tuple[NDArray, float]:
    """Where a quasi-Newton search for the maximum of the posterior ends, and the length of the step that is left there.

    Where the flats have much that the mean cannot follow, its curvature counts: Gauss-Newton steps, which neglect it,
    go to and fro or creep.  In the coordinates in which the information is 1, only few directions are curved otherwise
    (unless the search begins far away: then it is to begin anew where it ends).
    """
    root = np.linalg.inv(curvature_root(information)).T

    def cost(z: NDArray) -> tuple[float, NDArray]:
        """Minus the log-posterior, and its gradient."""
        here = parameters + root @ z
        expected, design = mean.linearised(here, *at)
        found = covariance.marginal(value - expected)
        slope = -design.T @ found.by_residual - here / mean.widths**2
        return float(np.sum((here / mean.widths) ** 2) / 2 - found.log_likelihood), -root.T @ slope

    options = {"gtol": _TOLERANCE, "norm": 2, "maxiter": _SEARCHED}
    found = minimize(cost, np.zeros(len(parameters)), jac=True, method="BFGS", options=options)
    return parameters + root @ found.x, float(np.linalg.norm(found.jac))


def _outliers(noise: HierarchicalNoise, scales: NDArray, residual: NDArray) -> NDArray[np.bool_]:
    """Bins whose residual, less the conditional mean of the effects, is beyond `OUTLIER` robust standard deviations."""
    covariance = noise.covariance(scales)
    found = covariance.marginal(residual)
    rest = residual - noise.effects.expand(noise.effects.all_effects(found.own, found.shared))
    return np.abs(rest) > OUTLIER * 1.4826 * np.median(np.abs(rest))


def ratio_posterior(
    mean: RatioMean,
    parameters: NDArray,
    noise: HierarchicalNoise,
    covariance: Covariance,
    at: Positions,
    value: NDArray,
    itl_ratio: float,
) -> Posterior:
    """The posterior of the log-ratio, with the scalars in product units.

    Its parameters are those of the mean, then the whitened coefficients of the sky's radial function, which stay near
    0, and one for the uncertainty of the throughput ratio from the detectors' offsets.
    """
    slices, n = mean.slices, mean.size
    expected, design = mean.linearised(parameters, *at)
    design = np.hstack([design, mean.by_sky(parameters, *at[:2])])
    m = design.shape[1] - n
    precision = np.concatenate([mean.widths**-2.0, np.ones(m)])
    surface = _surface_of(mean, noise, at)
    projected = noise.effects.projected_beside(design, *surface)
    joint = np.linalg.inv(covariance.information(projected) + np.diag(precision))
    # one step of all parameters, the sky's radial function included
    pull = -design.T @ covariance.marginal(value - expected).by_residual
    pull[:n] -= parameters / mean.widths**2
    step = joint @ pull
    parameters, sky_step = parameters + step[:n], step[n:]
    widened = np.zeros((n + m + 1, n + m + 1))
    widened[:-1, :-1] = joint

    def wide(rows: NDArray, *more: NDArray) -> NDArray:
        """Rows with a column for each parameter of the posterior."""
        found = np.zeros((len(rows), n + m + 1))
        for part, start in zip((rows, *more), (0, n), strict=False):
            found[:, start : start + part.shape[1]] = part
        return found

    scalars = {"itl_ratio": (0.0, np.zeros(n + m + 1))}
    if "itl_ratio" in slices:
        log_change, row, widened[-1, -1] = _ratio_of_detectors_present(
            mean, parameters, noise, covariance, at, value, surface
        )
        row = wide(row[None])[0]
        row[-1] = 1.0
        scalars["itl_ratio"] = (itl_ratio * np.expm1(log_change), itl_ratio * np.exp(log_change) * row)
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        for k, axis in enumerate("xy"):
            row = np.zeros(n + m + 1)
            if name in slices:
                row[slices[name].start + k] = 1.0
            scalars[f"{name}_{axis}"] = (float(row[:n] @ parameters), row)
    (centre,), _, basis = mean.radial(parameters, np.zeros(1))

    def log_surface(x: NDArray, y: NDArray) -> NDArray[np.float64]:
        return np.zeros(len(x)) if mean.surface is None else mean.surface(x, y) @ parameters[slices["surface"]]

    centre_row = wide(basis)[0]  # the coefficients come first

    def log_radial(radius: ArrayLike) -> Linear:
        d, _, basis = mean.radial(parameters, np.atleast_1d(np.asarray(radius, dtype=float)))
        return d - centre, wide(basis) - centre_row

    def log_ratio(x: ArrayLike, y: ArrayLike, itl: ArrayLike) -> Linear:
        x, y, itl = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(itl, dtype=bool)
        found, rows = mean.linearised(parameters, x, y, itl)
        by_sky = mean.by_sky(parameters, x, y)
        return found + by_sky @ sky_step - centre, wide(rows, by_sky) - centre_row

    return Posterior(widened, scalars, log_radial, log_ratio, (float(centre), centre_row), log_surface)


def _ratio_of_detectors_present(
    mean: RatioMean,
    parameters: NDArray,
    noise: HierarchicalNoise,
    covariance: Covariance,
    at: Positions,
    value: NDArray,
    surface: tuple[slice, Projected],
) -> tuple[float, NDArray, float]:
    """Log of dome/sky of the throughput ratio of the detectors present, its derivatives, and its own variance.

    It includes the mean offsets of the detectors of each vendor.
    """
    vendor = noise.effects.vendor
    expected, design = mean.linearised(parameters, *at)
    found = covariance.marginal(value - expected)
    of_residual = noise.effects.all_effects(found.own, found.shared)
    of_design = covariance.conditional_means(noise.effects.projected_beside(design, *surface))
    alike = np.ones((len(vendor), 1 + noise.n_amplifiers))  # the ratio's offsets are small
    by_effects = noise.by_effects(alike)[:, 0]
    difference = np.where(vendor == 0, 1 / np.sum(vendor == 0), -1 / np.sum(vendor == 1))  # "itl" comes before "rest"
    k = mean.slices["itl_ratio"].start
    row = -np.einsum("d,dk,dkn->n", difference, by_effects, of_design, optimize=True)
    row[k] += 1.0
    of_means, _ = noise.spread(covariance, alike)
    change = difference @ np.sum(by_effects * of_residual, axis=1)
    return float(parameters[k] + change), row, float(of_means.sum())
