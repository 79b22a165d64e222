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
the noise scales, and that of the surface, at their maximum (Rasmussen & Williams 2006, 5.4.1).
"""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from bayesflat.comparison.posterior import Linear, Posterior
from bayesflat.comparison.surface import SCALES, Surface
from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.product import FlatGradient
from bayesflat.gradient.spline import spread_knots
from bayesflat.inference.linalg import covariance_root
from bayesflat.inference.rough import OUTLIER, Rough, fit_scales, rough_fit
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.marginal import Covariance
from bayesflat.model.noise import FLOOR
from bayesflat.model.parameters import RIM_GRADIENT, RIM_OUTER_GRADIENT, SIGMA_CENTROID, SIGMA_RADIAL, SIGMA_RATIO
from bayesflat.model.prepare import FitData
from bayesflat.model.smooth import TYPICAL

log = logging.getLogger(__name__)

Positions = tuple[NDArray, NDArray, NDArray]  # x, y (mm), and whether the detector is an ITL one

INTERVALS = 60  # largest number of intervals of the B-spline: 3.3 mm at LSSTCam's rim, 23 mm at its centre
_BINS_PER_INTERVAL = 40
_FEW_BINS = 20_000  # number of bins in the first round
_LEFT = 0.01  # expected fraction of the scatter of detectors, amplifiers and patterns that does not cancel
_FIRST_STEPS, _MOST_STEPS = 3, 60  # steps of least squares: in the first round, and at most in the last
_SHRINKS, _LEAST_PART = 0.95, 0.25  # each step should be so much shorter than the last; least part of one
_SCALE_STEPS = 3  # of these, in which the width of the surface's prior is found as well
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
            rough = rough_fit(sky, config.model_copy(update={"do_fit_centroid": True, "do_fit_gradient": True}))
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


@dataclass(frozen=True)
class SkyCurve:
    """The sky's radial function, about its centroid, as the ratio needs it.

    Attributes
    ----------
    spline : LogSpline
    coefficients : numpy.ndarray, shape (n,)
        Of the log of the radial function.
    covariance : numpy.ndarray, shape (n, n)
    centroid : numpy.ndarray, shape (2,)
        Offset from the pivot (mm).
    planes : dict of str to numpy.ndarray
        ``gradient`` and ``outer_gradient`` (1/mm).
    smooth : float
        `FitData.smooth` of the sky's bins.
    """

    spline: LogSpline
    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    centroid: NDArray[np.float64]
    planes: dict[str, NDArray[np.float64]]
    smooth: float

    @classmethod
    def of_product(cls, sky: FlatGradient) -> SkyCurve | None:
        """The curve of a product; None where it has none, or no centroid and plane were fitted with it."""
        curve, names = sky.curve, ("centroid_delta", "gradient", "outer_gradient")
        if curve is None or not np.all(np.isfinite(curve.covariance)):
            return None
        estimates = sky.require_estimates()
        if not all(estimates[f"{name}_{axis}"]["sd"] > 0 for name in names[:2] for axis in "xy"):
            return None
        centroid, *planes = (np.array([getattr(sky, f"{name}_{axis}") for axis in "xy"]) for name in names)
        smooth = float(estimates.header.get("SMOOTH", (TYPICAL, ""))[0])
        return cls(
            curve.spline, curve.best, curve.covariance, centroid, dict(zip(names[1:], planes, strict=True)), smooth
        )

    @classmethod
    def of_first_fit(cls, rough: Rough) -> SkyCurve:
        """The curve of a first fit of the sky's bins."""
        prior, parameters = rough.radial, rough.parameters
        zero = np.zeros(2)
        planes = {name: parameters.get(name, zero) for name in ("gradient", "outer_gradient")}
        covariance = np.linalg.inv(rough.information + prior.precision)
        centroid = parameters.get("centroid_delta", zero)
        return cls(prior.spline, prior.mean, 0.5 * (covariance + covariance.T), centroid, planes, rough.smooth)


def _sparse_design(spline: LogSpline, radius: NDArray) -> csr_array:
    """The B-splines at some radii, of which each feels four: shape (n_radii, n)."""
    first, values, _ = spline.basis(radius)
    columns = (first[:, None] + np.arange(4)).ravel()
    return csr_array((values.ravel(), columns, np.arange(0, 4 * len(radius) + 1, 4)), (len(radius), spline.size))


class RatioMean:
    """The expected log-ratio and its derivatives.

    The parameters are, in this order, the coefficients of the B-spline, the log of the throughput ratio, the centroid
    and the planes, all of them dome minus sky.
    """

    def __init__(self, sky: SkyCurve, data: FitData, config: FitConfig, outer: bool) -> None:
        self.sky = sky
        self.sky_root = covariance_root(sky.covariance)
        self.centroid, self.planes = sky.centroid, sky.planes
        self.pivot = config.fp_centroid_x, config.fp_centroid_y
        self.outer_radius = config.outer_gradient_radius
        radius = np.hypot(data.dx, data.dy).max() + config.centroid_max
        intervals = int(np.clip(len(data) // _BINS_PER_INTERVAL, 1, INTERVALS))
        self.knots = spread_knots(0.0, radius, intervals, 20 * intervals + 1)
        n = intervals + 2  # one less than the B-splines: the first two have equal coefficients, so D is flat at 0
        moving = [("itl_ratio", 1)] * data.has_ratio + [("centroid_delta", 2), ("gradient", 2)]
        moving += [("outer_gradient", 2)] * outer
        self.slices, start = {"radial": slice(0, n)}, n
        for name, size in moving:
            self.slices[name] = slice(start, start + size)
            start += size
        self.size = start
        # default priors of the difference of two fits
        rim, both = data.radius.max(), np.sqrt(2.0)
        widths = {
            "radial": both * SIGMA_RADIAL, "itl_ratio": both * SIGMA_RATIO, "gradient": both * RIM_GRADIENT / rim,
            "centroid_delta": both * SIGMA_CENTROID * config.centroid_max,
            "outer_gradient": both * RIM_OUTER_GRADIENT / rim,
        }  # fmt: skip
        self.widths = np.concatenate([np.full(s.stop - s.start, widths[name]) for name, s in self.slices.items()])
        self.surface: Surface | None = None

    def with_surface(self, parameters: NDArray, data: FitData) -> RatioMean:
        """The same with a smooth surface, of which the other parameters explain nothing at the bins that are given."""
        explained = np.r_[tuple(s for name, s in self.slices.items() if name != "itl_ratio")]

        def others(x: NDArray, y: NDArray) -> NDArray:
            return self.linearised(parameters, x, y, np.zeros(len(x), dtype=bool))[1][:, explained]

        found = copy(self)
        found.surface = Surface(others, data.binned.xf, data.binned.yf, data.weight, self.pivot)
        found.size = self.size + found.surface.size
        found.slices = self.slices | {"surface": slice(self.size, found.size)}
        found.widths = np.append(self.widths, np.full(found.surface.size, SCALES[-1]))
        return found

    def rescale(self, parameters: NDArray, information: NDArray) -> None:
        """Set the prior width of the surface where the marginal likelihood of its coefficients is largest.

        Parameters
        ----------
        parameters : numpy.ndarray, shape (size,)
            After a step.
        information : numpy.ndarray, shape (size, size)
            Of that step, with the priors.
        """
        here = self.slices["surface"]
        rest = np.delete(np.arange(self.size), here)
        cross = information[rest, here]
        with_prior = information[here, here] - cross.T @ np.linalg.solve(information[np.ix_(rest, rest)], cross)
        known, vectors = np.linalg.eigh(with_prior - np.diag(self.widths[here] ** -2.0))
        pull = vectors.T @ (with_prior @ parameters[here])
        variances = SCALES[:, None] ** 2
        evidence = np.sum(variances * pull**2 / (1 + variances * known) - np.log1p(variances * known), axis=1)
        self.widths[here] = SCALES[np.argmax(evidence)]

    def radial(self, parameters: NDArray, radius: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """D, its slope (1/mm), and its derivatives by the coefficients."""
        inside = np.clip(radius, 0.0, self.knots[-1])
        basis = BSpline.design_matrix(inside, self.knots, 3).toarray()
        basis[:, 1] += basis[:, 0]
        coefficients = parameters[self.slices["radial"]]
        spline = BSpline(self.knots, np.append(coefficients[0], coefficients), 3)
        return spline(inside), spline(inside, 1), basis[:, 1:]

    def log_radial_sky(self, radius: NDArray, slope: bool = False) -> NDArray[np.float64]:
        """Log of the sky's radial function, or its slope (1/mm)."""
        spline, coefficients = self.sky.spline, self.sky.coefficients
        return spline.slope(coefficients, radius) if slope else spline.evaluate(coefficients, radius)

    def linearised(self, parameters: NDArray, x: NDArray, y: NDArray, itl: NDArray) -> Linear:
        """Mean log-ratio and derivatives at positions on the focal plane (mm): shapes (n_bins,), (n_bins, size)."""
        slices = self.slices
        design = np.zeros((len(x), self.size))
        position = np.column_stack([x, y]) - self.pivot
        from_sky, from_dome = self._from_centres(parameters, position)
        r_sky, r_dome = np.hypot(*from_sky.T), np.hypot(*from_dome.T)
        d, slope, design[:, slices["radial"]] = self.radial(parameters, r_dome)
        mean = d + self.log_radial_sky(r_dome) - self.log_radial_sky(r_sky)
        moved = (self.log_radial_sky(r_dome, slope=True) + slope) / np.maximum(r_dome, 1e-9)
        design[:, slices["centroid_delta"]] = -moved[:, None] * from_dome
        if "itl_ratio" in slices:
            design[:, slices["itl_ratio"].start] = itl
            mean = mean + np.where(itl, parameters[slices["itl_ratio"]], 0.0)
        if self.surface is not None:
            columns = self.surface(x, y)
            design[:, slices["surface"]] = columns
            mean = mean + columns @ parameters[slices["surface"]]
        beyond = np.hypot(*position.T) >= self.outer_radius
        for name, where in (("gradient", 1.0), ("outer_gradient", beyond.astype(float))):
            if name in slices:
                plane = np.maximum(1 + where * (position @ (self.planes[name] + parameters[slices[name]])), 1e-3)
                mean = mean - np.log(plane / (1 + where * (position @ self.planes[name])))
                design[:, slices[name]] = -position * (where / plane)[:, None]
        return mean, design

    def radius_dome(self, parameters: NDArray, data: FitData) -> NDArray[np.float64]:
        """Radius of bins from the dome's centroid (mm)."""
        return np.hypot(*self._from_centres(parameters, np.column_stack([data.dx, data.dy]))[1].T)

    def by_sky(self, parameters: NDArray, x: NDArray, y: NDArray) -> NDArray[np.float64]:
        """Derivatives of the mean by the whitened coefficients of the sky's radial function: (n_bins, n_coefficients).

        They are zero if the centroids are the same.
        """
        from_centres = self._from_centres(parameters, np.column_stack([x, y]) - self.pivot)
        sky, dome = (_sparse_design(self.sky.spline, np.hypot(*p.T)) for p in from_centres)
        return (dome - sky) @ self.sky_root

    def _from_centres(self, parameters: NDArray, position: NDArray) -> tuple[NDArray, NDArray]:
        """Positions relative to the sky's and to the dome's centroid."""
        from_sky = position - self.centroid
        return from_sky, from_sky - parameters[self.slices["centroid_delta"]]


def _fit(mean: RatioMean, data: FitData, value: NDArray, itl_ratio: float) -> Paired:
    """Least squares and noise scales in turn, on a subset of the bins and then on all but outliers."""
    few = slice(None, None, max(1, round(len(data) / _FEW_BINS)))
    parameters = np.zeros(mean.size)
    parameters[mean.slices["radial"]] = np.median(value)
    parameters, scales, _ = _round(mean, data.select(few), value[few], parameters, None, _FIRST_STEPS)
    # the sky's radial function is not known beyond its bins
    inside = mean.radius_dome(parameters, data) <= mean.sky.spline.knots[-1]
    data, value = data.select(inside), value[inside]
    outlier = _outliers(HierarchicalNoise(data), scales, value - mean.linearised(parameters, *_at(data))[0])
    data = replace(data, weight=(~outlier).astype(float))
    mean = mean.with_surface(parameters, data)
    parameters = np.append(parameters, np.zeros(mean.size - len(parameters)))
    parameters, scales, noise = _round(mean, data, value, parameters, scales, 1)
    at = _at(data)
    covariance = noise.covariance(scales)
    last, part = np.inf, 1.0
    for k in range(_MOST_STEPS):
        ahead, length, information = gauss_newton_step(mean, parameters, covariance, at, value)
        if k > _SCALE_STEPS and length > _SHRINKS * last:  # to and fro: whole steps go too far
            part = max(0.5 * part, _LEAST_PART)
        last, parameters = length, parameters + part * (ahead - parameters)
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
    mean: RatioMean, parameters: NDArray, covariance: Covariance, at: Positions, value: NDArray
) -> tuple[NDArray, float, NDArray]:
    """A Gauss-Newton step: the new parameters, the length of the step (standard deviations), and the information."""
    expected, design = mean.linearised(parameters, *at)
    information = covariance.information(design) + np.diag(mean.widths**-2.0)
    slope = -design.T @ covariance.marginal(value - expected).by_residual - parameters / mean.widths**2
    step = np.linalg.solve(information, slope)
    return parameters + step, float(np.sqrt(max(float(step @ information @ step), 0.0))), information


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
    joint = np.linalg.inv(covariance.information(design) + np.diag(precision))
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
        log_change, row, widened[-1, -1] = _ratio_of_detectors_present(mean, parameters, noise, covariance, at, value)
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

    def log_surface(x: ArrayLike, y: ArrayLike) -> Linear:
        rows = np.zeros((np.size(x), n))
        if mean.surface is not None:
            rows[:, slices["surface"]] = mean.surface(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        return rows @ parameters, wide(rows)

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
) -> tuple[float, NDArray, float]:
    """Log of dome/sky of the throughput ratio of the detectors present, its derivatives, and its own variance.

    It includes the mean offsets of the detectors of each vendor.
    """
    vendor = noise.effects.vendor
    expected, design = mean.linearised(parameters, *at)
    effects = covariance.conditional_means(np.column_stack([value - expected, -design]))
    alike = np.ones((len(vendor), 1 + noise.n_amplifiers))  # the ratio's offsets are small
    of_detectors = np.einsum("dk,dkn->dn", noise.by_effects(alike)[:, 0], effects)
    itl, rest = (of_detectors[vendor == v].mean(0) for v in range(2))  # "itl" comes before "rest"
    k = mean.slices["itl_ratio"].start
    row = (itl - rest)[1:]
    row[k] += 1.0
    of_means, _ = noise.spread(covariance, alike)
    return float(parameters[k] + (itl - rest)[0]), row, float(of_means.sum())
