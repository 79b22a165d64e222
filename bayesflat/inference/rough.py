"""A rough fit with hierarchical noise that needs no spline nodes: where the search begins, and what nodes are worth.

The log of the radial function is a fine cubic B-spline.  Then all but the centroid is linear in the log of the value,
and generalised least squares gives everything in a few steps, with the noise scales and the outliers in between.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from bayesflat.config import FitConfig
from bayesflat.gradient.spline import greville, spread_knots
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.parameters import RIM_GRADIENT, RIM_OUTER_GRADIENT, SIGMA_CENTROID, SIGMA_RADIAL, SIGMA_RATIO
from bayesflat.model.prepare import FitData

log = logging.getLogger(__name__)

FINE = 160  # intervals of the B-spline, at most
# bins of each round: all steps but the last need few
_FEW_BINS = (20_000, 30_000, 30_000, 60_000)
_BINS_PER_INTERVAL = 20
_SCALE_STEPS = 8
_BEYOND = 5e-4  # part of the bins that lies beyond the radius to which nodes are placed
# robust standard deviations from the others beyond which a bin is an outlier; before the first fit, from the rings'
# medians
OUTLIER, _OUTLIER_AT_FIRST = 5.0, 10.0
# rings are full where no more than this part of their bins is missing, as defects may be; their edges are told
# to a part of a bin.  Where positions are this many times as many as bins, the bins lie on no grid
_MOST_MISSING, _SHELLS_PER_BIN, _MOST_EMPTY = 0.05, 4, 4.0
_WHOLE = 0.8  # part of its pixels that a bin must have: where light or mask end, it may have some only


@dataclass(frozen=True)
class Rough:
    """A rough fit.

    Attributes
    ----------
    radius : numpy.ndarray, shape (n,)
        mm, from the moved centroid, ascending.
    log_radial : numpy.ndarray, shape (n,)
        Log of the radial function there.
    information : numpy.ndarray, shape (n, n)
        Inverse covariance of ``log_radial``, everything else being free.
    knots : numpy.ndarray, shape (n + 4,)
        Of the cubic B-spline that takes these values at these radii (mm).
    outer : float
        Radius within which all but a few bins lie (mm).
    parameters : dict of str to numpy.ndarray
        The other parameters of the mean, and ``log_noise_scales``.
    inside : numpy.ndarray of bool, shape (n_bins,)
        Bins within the largest circle about the centroid that the bins fill.
    outlier : numpy.ndarray of bool, one for each bin inside
        Bins far from what the fit leaves of the others: dust and defects.
    smooth : float
        `FitData.smooth` of these bins.
    choice : numpy.ndarray, shape (n_nodes,), or None
        What the choice of nodes adds to the variances of the logs of the values there; None for given nodes.
    """

    radius: NDArray[np.float64]
    log_radial: NDArray[np.float64]
    information: NDArray[np.float64]
    knots: NDArray[np.float64]
    outer: float
    parameters: dict[str, NDArray]
    inside: NDArray[np.bool_]
    outlier: NDArray[np.bool_]
    smooth: float
    choice: NDArray[np.float64] | None = None


def rough_fit(data: FitData, config: FitConfig) -> Rough:
    """Fit roughly, and find the outliers.

    Parameters
    ----------
    data : FitData
        Its nodes and weights are not used.
    config : FitConfig
        Which terms are fitted.
    """
    alive = data.value > 0
    y = np.log(np.where(alive, data.value, np.nan))
    spline, outlying = _rings(data, y)
    y = np.where(alive, y, 0.0)
    names = [n for n in ("centroid_delta", "gradient", "outer_gradient") if getattr(config, _SWITCH[n])]
    parameters = {name: np.zeros(2) for name in names} | ({"itl_ratio": np.ones(())} if data.has_ratio else {})
    inside, outlier = np.ones(len(data), dtype=bool), outlying | ~alive
    missing = _missing(data)
    scales: NDArray | None = None
    for k, few in enumerate(_FEW_BINS):
        here = data.select(inside)
        rows = np.flatnonzero(inside)
        every = slice(None, None, max(1, round(len(rows) / few)))
        some = replace(here, weight=(~outlier[rows]).astype(float)).select(every)
        noise, y_some = HierarchicalNoise(some), y[rows][every]
        typical, width = noise.typical_scales()
        scales = typical if scales is None else scales
        spline = _respanned(spline, here, parameters)
        spline, parameters, information = _least_squares(some, y_some, config, noise, scales, spline, parameters)
        scales = fit_scales(noise, _residual(some, y_some, config, spline, parameters), scales, typical, width)
        if k > 0:  # the first step is too rough to judge bins by
            rest = _unexplained(here, y[rows], config, ~outlier[rows], scales, spline, parameters)
            limit = OUTLIER * 1.4826 * np.median(np.abs(rest[~outlier[rows]]))
            outlier[rows] = (np.abs(rest) > limit) | ~alive[rows]
        smooth, data = data.smooth, replace(data, smooth=noise.smoothness(scales))
        last, inside = inside, _full_rings(data, missing, parameters.get("centroid_delta", np.zeros(2)))
    places = greville(spline.t)
    cx, cy = parameters.get("centroid_delta", (0.0, 0.0))
    return Rough(
        radius=places,
        log_radial=spline(places),
        information=_at_places(information, spline, places),
        knots=spline.t,
        outer=float(np.quantile(np.hypot(here.dx - cx, here.dy - cy), 1 - _BEYOND)),
        parameters=parameters | {"log_noise_scales": np.asarray(scales)},
        inside=last,
        outlier=outlier[last],
        smooth=smooth,
    )


def _least_squares(data, y, config, noise, scales, spline, parameters):
    """One step of generalised least squares: the spline, the parameters, and the information on all of them."""
    residual, design = _linearised(data, y, config, spline, parameters)
    covariance = noise.covariance(scales)
    information = covariance.information(design)
    n = len(spline.c)
    information += np.diag(1.0 / _widths(data, config, parameters, n) ** 2)
    solved = np.linalg.solve(information, -design.T @ covariance.marginal(residual).by_residual)
    moved, start = {}, n
    for name, value in parameters.items():
        step = solved[start : start + value.size].reshape(value.shape)
        start += value.size
        moved[name] = value * np.exp(step) if name == "itl_ratio" else value + step
    return BSpline(spline.t, spline.c + solved[:n], 3), moved | _inside(moved, config), information


def _unexplained(data, y, config, good, scales, spline, parameters) -> NDArray[np.float64]:
    """What no effect explains of the residuals, at all bins."""
    noise = HierarchicalNoise(replace(data, weight=good.astype(float)))
    residual = _residual(data, y, config, spline, parameters)
    covariance = noise.covariance(scales)
    found = covariance.marginal(residual)
    return residual - noise.effects.expand(covariance.all_effects(found.own, found.shared))


def _at_places(information: NDArray, spline: BSpline, places: NDArray) -> NDArray[np.float64]:
    """From the information on coefficients and parameters to that on the spline's values at places."""
    n = len(spline.c)
    rest = information[n:, n:]
    marginal = information[:n, :n] - information[:n, n:] @ np.linalg.solve(rest, information[n:, :n])
    inverse = np.linalg.inv(BSpline.design_matrix(places, spline.t, 3).toarray())
    return inverse.T @ marginal @ inverse


_SWITCH = {
    "centroid_delta": "do_fit_centroid",
    "gradient": "do_fit_gradient",
    "outer_gradient": "do_fit_outer_gradient",
}


def _full_rings(data: FitData, missing: NDArray, centroid: NDArray) -> NDArray[np.bool_]:
    """Bins within the largest circle about the centroid that the bins fill.

    Beyond it the rings are lopsided: any misfit of the radial function there pulls the centroid.  Where light or mask
    end, bins may be cut: their values are not those of their centres, so half a bin's diagonal is left out as well.
    """
    pixel = max(data.binned.camera[int(n)].pixel_size for n in np.unique(data.binned.detector))
    radius = np.hypot(data.dx - centroid[0], data.dy - centroid[1])
    edge = data.radius.max() - np.hypot(*centroid)  # where the bins' own circle is about the pivot
    if len(missing):  # and where it is not, as in a flat that was corrected with a moved centroid
        step = data.bin_size * pixel / _SHELLS_PER_BIN
        away = np.hypot(missing[:, 0] - centroid[0], missing[:, 1] - centroid[1])
        edges = np.arange(0.0, max(radius.max(), away.max()) + 2 * step, step)
        # of rings as wide as a bin: thinner ones may have but a few places, all on one side
        there, gone = (np.convolve(np.histogram(r, edges)[0], np.ones(_SHELLS_PER_BIN)) for r in (radius, away))
        full = np.flatnonzero((there > 0) & (gone <= _MOST_MISSING * (there + gone)))
        full = full[full < len(edges) - 1]
        edge = min(edge, edges[full.max() + 1]) if len(full) else edge
    return radius <= edge - data.bin_size * pixel / np.sqrt(2)


def _missing(data: FitData) -> NDArray[np.float64]:
    """Positions from the pivot (mm) at which a detector that has bins could have a whole one but does not: (n, 2).

    Detectors of one size have the same columns and rows of bins.
    """
    camera, detector, n_pixels = data.binned.camera, data.binned.detector, data.binned.n_pixels
    whole = np.ones(len(data), dtype=bool) if n_pixels is None else n_pixels >= _WHOLE * n_pixels.max()
    found, numbers = [], np.unique(detector)
    of_size: dict[tuple[int, int], list[int]] = {}
    for number in numbers.tolist():
        of_size.setdefault((camera[number].nx, camera[number].ny), []).append(number)
    for same in of_size.values():
        pixels, rows = [], []
        for number in same:
            rows.append(np.flatnonzero(detector == number))
            at = camera[number].focal_plane_to_pixel(data.binned.xf[rows[-1]], data.binned.yf[rows[-1]])
            pixels.append(np.round(at, 3))
        columns, lines = (np.unique(np.concatenate([at[k] for at in pixels])) for k in range(2))
        if len(columns) * len(lines) * len(same) > _MOST_EMPTY * sum(map(len, rows)):
            continue  # no grid: what could be there cannot be told
        for number, (x, y), here in zip(same, pixels, rows, strict=True):
            empty = np.ones((len(lines), len(columns)), dtype=bool)
            empty[np.searchsorted(lines, y), np.searchsorted(columns, x)] = ~whole[here]
            j, i = np.nonzero(empty)
            found.append(np.column_stack(camera[number].pixel_to_focal_plane(columns[i], lines[j])))
    pivot = data.binned.xf[0] - data.dx[0], data.binned.yf[0] - data.dy[0]
    return np.concatenate(found) - pivot if found else np.empty((0, 2))


def _rings(data: FitData, y: NDArray) -> tuple[BSpline, NDArray[np.bool_]]:
    """A B-spline through the medians of rings, the vendors apart, and the bins far from them."""
    radius = data.radius
    intervals = int(np.clip(len(data) // _BINS_PER_INTERVAL, 4, FINE))
    knots = _knots(radius, intervals)
    edges = knots[3:-3]
    ring = np.clip(np.searchsorted(edges, radius) - 1, 0, intervals - 1)
    offset = np.zeros(len(data))
    if data.has_ratio:
        offset = np.where(data.itl, np.nanmedian(y[data.itl]) - np.nanmedian(y[~data.itl]), 0.0)
        medians = [(np.nanmedian(y[(ring == k) & data.itl]), np.nanmedian(y[(ring == k) & ~data.itl]))
                   for k in range(intervals) if _both(ring == k, data.itl, y)]  # fmt: skip
        if medians:
            offset = np.where(data.itl, np.median([a - b for a, b in medians]), 0.0)
    at, values = [], []
    for k in range(intervals):
        here = y[ring == k] - offset[ring == k]
        if np.isfinite(here).any():
            at.append(0.5 * (edges[k] + edges[k + 1]))
            values.append(np.nanmedian(here))
    spline = BSpline(knots, np.interp(greville(knots), at, values), 3)
    off = y - offset - spline(radius)
    scatter = 1.4826 * np.nanmedian(np.abs(off))
    return spline, np.abs(np.nan_to_num(off)) > _OUTLIER_AT_FIRST * max(scatter, 1e-6)


def _knots(radius: NDArray, intervals: int) -> NDArray[np.float64]:
    """Knots of a cubic B-spline over all radii."""
    margin = 1e-9 * radius.max() + 1e-9
    return spread_knots(radius.min() - margin, radius.max() + margin, intervals, 20 * intervals)


def _respanned(spline: BSpline, data: FitData, parameters: dict) -> BSpline:
    """About the same spline over the radii from the centroid as it is now."""
    cx, cy = parameters.get("centroid_delta", (0.0, 0.0))
    knots = _knots(np.hypot(data.dx - cx, data.dy - cy), len(spline.t) - 7)
    return BSpline(knots, spline(greville(knots), extrapolate=True), 3)


def _both(ring: NDArray, itl: NDArray, y: NDArray) -> bool:
    good = ring & np.isfinite(y)
    return min(np.sum(good & itl), np.sum(good & ~itl)) >= 5


def _inside(parameters: dict[str, NDArray], config: FitConfig) -> dict[str, NDArray]:
    """The centroid, pulled back well inside its disc where a rough step left it."""
    if "centroid_delta" not in parameters:
        return {}
    centroid = parameters["centroid_delta"]
    return {"centroid_delta": centroid * min(1.0, 0.8 * config.centroid_max / max(np.hypot(*centroid), 1e-9))}


def _residual(data: FitData, y: NDArray, config: FitConfig, spline: BSpline, parameters: dict) -> NDArray:
    """Log of value over mean."""
    dx, dy = data.dx, data.dy
    centroid = parameters.get("centroid_delta", np.zeros(2))
    radius = np.clip(np.hypot(dx - centroid[0], dy - centroid[1]), spline.t[0], spline.t[-1])
    out = y - spline(radius)
    if "itl_ratio" in parameters:
        out = out - np.where(data.itl, np.log(parameters["itl_ratio"]), 0.0)
    for name in ("gradient", "outer_gradient"):
        if name in parameters:
            out = out + np.log(np.maximum(_plane(name, data, config, parameters), 1e-3))
    return out


def _plane(name: str, data: FitData, config: FitConfig, parameters: dict) -> NDArray:
    g = parameters[name]
    here = data.radius >= config.outer_gradient_radius if name == "outer_gradient" else True
    return np.where(here, 1 + g[0] * data.dx + g[1] * data.dy, 1.0)


def _linearised(data: FitData, y: NDArray, config: FitConfig, spline: BSpline, parameters: dict):
    """Residuals, and derivatives of the log of the mean: by the spline's coefficients, then by the parameters."""
    dx, dy = data.dx, data.dy
    centroid = parameters.get("centroid_delta", np.zeros(2))
    ux, uy = dx - centroid[0], dy - centroid[1]
    radius = np.hypot(ux, uy)
    clipped = np.clip(radius, spline.t[0], spline.t[-1])
    columns = [BSpline.design_matrix(clipped, spline.t, 3).toarray()]
    for name in parameters:
        if name == "itl_ratio":
            columns.append(data.itl[:, None].astype(float))
        elif name == "centroid_delta":
            slope = np.where(radius == clipped, spline.derivative()(clipped), 0.0) / np.maximum(radius, 1e-9)
            columns.append(np.stack([-slope * ux, -slope * uy], axis=1))
        else:
            plane = np.maximum(_plane(name, data, config, parameters), 1e-3)
            share = np.where(data.radius >= config.outer_gradient_radius, 1.0, 0.0) if name == "outer_gradient" else 1.0
            columns.append(np.stack([-share * dx / plane, -share * dy / plane], axis=1))
    return _residual(data, y, config, spline, parameters), np.hstack(columns)


def _widths(data: FitData, config: FitConfig, parameters: dict, n: int) -> NDArray[np.float64]:
    """Widths of the priors of a step: loose, to hold what the bins do not."""
    rim = data.radius.max()
    widths = {
        "itl_ratio": SIGMA_RATIO,
        "centroid_delta": SIGMA_CENTROID * config.centroid_max,
        "gradient": RIM_GRADIENT / rim,
        "outer_gradient": RIM_OUTER_GRADIENT / rim,
    }
    others = [np.full(value.size, widths[name]) for name, value in parameters.items()]
    return np.concatenate([np.full(n, SIGMA_RADIAL), *others])


def fit_scales(
    noise: HierarchicalNoise, residual: NDArray, scales: NDArray, typical: NDArray, width: NDArray
) -> NDArray[np.float64]:
    """A few steps of Fisher's scoring for the logs of the noise scales, the mean held."""

    def cost(at):
        return np.sum(((at - typical) / width) ** 2) / 2 - noise.covariance(at).marginal(residual).log_likelihood

    value = cost(scales)
    for _ in range(_SCALE_STEPS):
        covariance = noise.covariance(scales)
        found = covariance.marginal(residual)
        slope = noise.by_log_scales(covariance, found, scales) - (scales - typical) / width**2
        curvature = noise.information(covariance, scales) + np.diag(width**-2.0)
        step = np.clip(np.linalg.solve(curvature, slope), -2.0, 2.0)
        for halving in range(6):
            new = scales + step * 0.5**halving
            ahead = cost(new)
            if ahead < value:
                break
        else:
            break
        gained, scales, value = value - ahead, new, ahead
        if gained < 0.1:
            break
    return scales
