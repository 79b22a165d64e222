"""How a dome flat differs from a sky flat, bin by bin: the detectors are the same in both, and cancel in the ratio.

What is left of the noise is small, and its scales come from the ratio itself: white noise, and what does not cancel of
detectors, amplifiers and patterns (lamp and sky differ in colour).  The log of the ratio is

    log R(|x - c - delta|) + D(|x - c - delta|) - log R(|x - c|) + log_itl_ratio - log(dome plane / sky plane)

with R and c the sky's radial function and centroid, delta the dome's centroid from the sky's, and D the log of the
ratio of the two radial functions: a cubic B-spline, flat at the centre.  R matters only where delta moves it.  It comes
from a rough fit of the sky's bins, which needs no nodes, and with the errors that this gives it: with nodes that fall
short, delta would be off by many of its own.  All is normal and nearly linear: generalised least squares in a few
steps, with the noise scales at their maximum (Rasmussen & Williams 2006, 5.4.1).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline
from threadpoolctl import threadpool_limits

from bayesflat.comparison.posterior import Linear, Posterior
from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.laplace import covariance_root
from bayesflat.inference.rough import OUTLIER, Rough, fit_scales, rough_fit
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.marginal import Covariance
from bayesflat.model.noise import FLOOR
from bayesflat.model.parameters import RIM_GRADIENT, RIM_OUTER_GRADIENT, SIGMA_CENTROID, SIGMA_RADIAL, SIGMA_RATIO
from bayesflat.model.prepare import FitData

log = logging.getLogger(__name__)

INTERVALS = 60  # of the B-spline, at most: 3.3 mm at LSSTCam's rim, 23 mm at its centre
_BINS_PER_INTERVAL = 40
_BY_AREA = 0.75  # part of the intervals that is spread by area, as the bins are
_FEW_BINS = 20_000  # of the first round
_LEFT = 0.01  # what is expected to be left of the scatter of detectors, amplifiers and patterns
_FIRST_STEPS, _MOST_STEPS, _TOLERANCE = 3, 8, 1e-3  # of least squares; the last one in standard deviations
_MICRON = 1e-3  # mm, to which bins of the two tables must agree


@dataclass(frozen=True)
class Paired:
    """The ratio of two flats, fitted.

    Attributes
    ----------
    posterior : Posterior
    data : FitData
        Of the sky: the bins that both have; outliers weigh nothing.
    log_ratio : numpy.ndarray, shape (n_bins,)
        Log of dome over sky, each normalized; as it was measured.
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
    rough: Rough | None = None,
    itl_ratio: float = 1.0,
    outer: bool = False,
) -> Paired:
    """Fit the ratio of two flats.

    Parameters
    ----------
    sky, dome : FitData
        Bins after the cuts, about the same pivot.
    config : FitConfig
        Of the sky's fit.
    rough : Rough, optional
        The rough fit of the sky's bins, with centroid and plane, where it is at hand; all of ``sky`` is inside.
    itl_ratio : float
        Throughput ratio of the sky, from which the product's difference is counted.
    outer : bool
        Whether an outer plane is fitted though the sky has none.

    Raises
    ------
    InputError
        The flats have no bin in common.
    """
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        if rough is None:
            wanted = {"do_fit_centroid": True, "do_fit_gradient": True, "radial_spline_nodes": "auto"}
            rough = rough_fit(sky, config.model_copy(update=wanted))
            sky = sky.select(rough.inside)
        rows_sky, rows_dome = _common(sky, dome)
        data = sky.select(rows_sky)
        alive = (data.value > 0) & (dome.value[rows_dome] > 0)
        data = replace(data.select(alive), smooth=rough.smooth)
        value = np.log(dome.value[rows_dome][alive]) - np.log(data.value)
        return _fit(_Mean(rough, data, config, outer or config.do_fit_outer_gradient), data, value, itl_ratio)


def _common(a: FitData, b: FitData) -> tuple[NDArray, NDArray]:
    """Rows of the bins that two flats have in common."""
    keys = []
    for data in (a, b):
        x, y = (np.rint(p / _MICRON).astype(np.int64) for p in (data.binned.xf, data.binned.yf))
        keys.append(np.rec.fromarrays([data.binned.detector, x, y]))
    _, rows_a, rows_b = np.intersect1d(*keys, return_indices=True)
    if not len(rows_a):
        raise InputError(
            f"the flats have no bin in common ({len(a)} bins of sky, {len(b)} of dome): "
            "bin both with the same camera, bin_factor and detector_boundary"
        )
    order = np.argsort(rows_a)  # bins of a row one after the other, as they were
    return rows_a[order], rows_b[order]


class _Mean:
    """The log-ratio that is expected, and its derivatives.

    The numbers are, in this order, the B-spline's coefficients, the log of the throughput ratios' ratio, the centroid
    and the planes: all of them dome minus sky.
    """

    def __init__(self, rough: Rough, data: FitData, config: FitConfig, outer: bool) -> None:
        to_places = BSpline.design_matrix(rough.radius, rough.knots, 3).toarray()
        self.log_sky = BSpline(rough.knots, np.linalg.solve(to_places, rough.log_radial), 3)
        # root of the covariance of the coefficients, whose information is that at the places seen through the splines
        self.sky_root = covariance_root(np.linalg.inv(to_places.T @ rough.information @ to_places))
        self.centroid = rough.parameters.get("centroid_delta", np.zeros(2))
        self.planes = {name: rough.parameters.get(name, np.zeros(2)) for name in ("gradient", "outer_gradient")}
        self.pivot = config.fp_centroid_x, config.fp_centroid_y
        self.outer_radius = config.outer_gradient_radius
        radius = np.hypot(data.dx, data.dy).max() + config.centroid_max
        intervals = int(np.clip(len(data) // _BINS_PER_INTERVAL, 1, INTERVALS))
        self.knots = _knots(radius, intervals)
        n = intervals + 2  # one less than the B-splines: the first two go together, which makes it flat at the centre
        moving = [("itl_ratio", 1)] * data.has_ratio + [("centroid_delta", 2), ("gradient", 2)]
        moving += [("outer_gradient", 2)] * outer
        self.slices, start = {"radial": slice(0, n)}, n
        for name, size in moving:
            self.slices[name] = slice(start, start + size)
            start += size
        self.size = start
        # the difference of two fits' default priors
        rim, both = data.radius.max(), np.sqrt(2.0)
        widths = {
            "radial": both * SIGMA_RADIAL, "itl_ratio": both * SIGMA_RATIO, "gradient": both * RIM_GRADIENT / rim,
            "centroid_delta": both * SIGMA_CENTROID * config.centroid_max,
            "outer_gradient": both * RIM_OUTER_GRADIENT / rim,
        }  # fmt: skip
        self.widths = np.concatenate([np.full(s.stop - s.start, widths[name]) for name, s in self.slices.items()])

    def radial(self, numbers: NDArray, radius: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """D, its slope (1/mm), and its derivatives by the coefficients."""
        inside = np.clip(radius, 0.0, self.knots[-1])
        basis = BSpline.design_matrix(inside, self.knots, 3).toarray()
        basis[:, 1] += basis[:, 0]
        coefficients = numbers[self.slices["radial"]]
        spline = BSpline(self.knots, np.append(coefficients[0], coefficients), 3)
        return spline(inside), spline(inside, 1), basis[:, 1:]

    def of_sky(self, radius: NDArray, slope: bool = False) -> NDArray[np.float64]:
        """Log of the sky's radial function, or its slope (1/mm); 0 beyond its bins."""
        inside = np.clip(radius, self.log_sky.t[0], self.log_sky.t[-1])
        return np.where(inside == radius, self.log_sky(inside, 1), 0.0) if slope else self.log_sky(inside)

    def linearised(self, numbers: NDArray, x: NDArray, y: NDArray, itl: NDArray) -> Linear:
        """Mean and derivatives at positions on the focal plane (mm): shapes (n_bins,), (n_bins, size)."""
        slices = self.slices
        design = np.zeros((len(x), self.size))
        position = np.column_stack([x, y]) - self.pivot
        from_sky, from_dome = self._from_centres(numbers, position)
        of_sky, of_dome = np.hypot(*from_sky.T), np.hypot(*from_dome.T)
        d, slope, design[:, slices["radial"]] = self.radial(numbers, of_dome)
        mean = d + self.of_sky(of_dome) - self.of_sky(of_sky)
        moved = (self.of_sky(of_dome, slope=True) + slope) / np.maximum(of_dome, 1e-9)
        design[:, slices["centroid_delta"]] = -moved[:, None] * from_dome
        if "itl_ratio" in slices:
            design[:, slices["itl_ratio"].start] = itl
            mean = mean + np.where(itl, numbers[slices["itl_ratio"]], 0.0)
        beyond = np.hypot(*position.T) >= self.outer_radius
        for name, where in (("gradient", 1.0), ("outer_gradient", beyond.astype(float))):
            if name in slices:
                plane = np.maximum(1 + where * (position @ (self.planes[name] + numbers[slices[name]])), 1e-3)
                mean = mean - np.log(plane / (1 + where * (position @ self.planes[name])))
                design[:, slices[name]] = -position * (where / plane)[:, None]
        return mean, design

    def of_dome(self, numbers: NDArray, data: FitData) -> NDArray[np.float64]:
        """Radius of bins from the dome's centroid (mm)."""
        return np.hypot(*self._from_centres(numbers, np.column_stack([data.dx, data.dy]))[1].T)

    def by_sky(self, numbers: NDArray, x: NDArray, y: NDArray) -> NDArray[np.float64]:
        """Derivatives of the mean by the sky's radial function, in its standard deviations: (n_bins, n_coefficients).

        The two terms cancel where the centroids are the same.
        """
        bases = [
            BSpline.design_matrix(np.clip(np.hypot(*p.T), self.log_sky.t[0], self.log_sky.t[-1]), self.log_sky.t, 3)
            for p in self._from_centres(numbers, np.column_stack([x, y]) - self.pivot)
        ]
        return (bases[1] - bases[0]) @ self.sky_root

    def _from_centres(self, numbers: NDArray, position: NDArray) -> tuple[NDArray, NDArray]:
        """Positions from the sky's and from the dome's centroid."""
        from_sky = position - self.centroid
        return from_sky, from_sky - numbers[self.slices["centroid_delta"]]


def _knots(last: float, intervals: int) -> NDArray[np.float64]:
    """Knots of a cubic B-spline from the centre on, denser where there are more bins."""
    at = np.linspace(0.0, last, 20 * intervals + 1)
    share = _BY_AREA * (at / last) ** 2 + (1 - _BY_AREA) * at / last
    edges = np.interp(np.linspace(0.0, 1.0, intervals + 1), share, at)
    return np.concatenate([np.full(3, edges[0]), edges, np.full(3, edges[-1])])


def _fit(mean: _Mean, data: FitData, value: NDArray, itl_ratio: float) -> Paired:
    """Least squares and noise scales in turn, on few bins and then on all that are neither outliers nor too far out."""
    few = slice(None, None, max(1, round(len(data) / _FEW_BINS)))
    numbers = np.zeros(mean.size)
    numbers[mean.slices["radial"]] = np.median(value)
    numbers, scales, _ = _round(mean, data.select(few), value[few], numbers, None, _FIRST_STEPS)
    # where the dome's radius is beyond the sky's bins, nothing is known of what the sky's radial function is there
    inside = mean.of_dome(numbers, data) <= mean.log_sky.t[-1]
    data, value = data.select(inside), value[inside]
    outlier = _outliers(HierarchicalNoise(data), scales, value - mean.linearised(numbers, *_at(data))[0])
    data = replace(data, weight=(~outlier).astype(float))
    numbers, scales, noise = _round(mean, data, value, numbers, scales, 1)
    at = _at(data)
    covariance = noise.covariance(scales)
    for _ in range(_MOST_STEPS):
        numbers, length = _step(mean, numbers, covariance, at, value)
        if length < _TOLERANCE:
            break
    log.info(
        "ratio of the flats fitted: %d bins, %d of them outliers, last step %.1e sd", len(data), outlier.sum(), length
    )
    sizes = np.exp(scales) + FLOOR * (np.arange(len(scales)) == 0)
    return Paired(
        posterior=_posterior(mean, numbers, noise, covariance, at, value, itl_ratio),
        data=data,
        log_ratio=value,
        scales=dict(zip(noise.labels, sizes.tolist(), strict=True)),
        converged=bool(length < _TOLERANCE),
    )


def _at(data: FitData) -> tuple[NDArray, NDArray, NDArray]:
    return data.binned.xf, data.binned.yf, data.itl


def _round(
    mean: _Mean, data: FitData, value: NDArray, numbers: NDArray, scales: NDArray | None, steps: int
) -> tuple[NDArray, NDArray, HierarchicalNoise]:
    """So many steps of least squares, and then the noise scales; from what is expected of them on, where not given."""
    noise, at = HierarchicalNoise(data), _at(data)
    typical, width = noise.typical_scales()
    typical = typical + np.where(np.arange(len(typical)) > 0, np.log(_LEFT), 0.0)  # all but white noise
    scales = typical if scales is None else scales
    for _ in range(steps):
        numbers, _ = _step(mean, numbers, noise.covariance(scales), at, value)
    return numbers, fit_scales(noise, value - mean.linearised(numbers, *at)[0], scales, typical, width), noise


def _step(mean: _Mean, numbers: NDArray, covariance: Covariance, at: tuple, value: NDArray) -> tuple[NDArray, float]:
    """One step of Gauss and Newton: the numbers, and its length (standard deviations)."""
    expected, design = mean.linearised(numbers, *at)
    information = covariance.information(design) + np.diag(mean.widths**-2.0)
    slope = -design.T @ covariance.marginal(value - expected).by_residual - numbers / mean.widths**2
    step = np.linalg.solve(information, slope)
    return numbers + step, float(np.sqrt(max(step @ information @ step, 0.0)))


def _outliers(noise: HierarchicalNoise, scales: NDArray, residual: NDArray) -> NDArray[np.bool_]:
    """Bins far from what the effects explain of the others."""
    covariance = noise.covariance(scales)
    found = covariance.marginal(residual)
    rest = residual - noise.effects.expand(covariance.all_effects(found.own, found.shared))
    return np.abs(rest) > OUTLIER * 1.4826 * np.median(np.abs(rest))


def _posterior(
    mean: _Mean, numbers: NDArray, noise: HierarchicalNoise, covariance: Covariance, at: tuple, value: NDArray,
    itl_ratio: float,
) -> Posterior:  # fmt: skip
    """What follows for the product's scalars.

    The posterior's numbers are those of the mean, then the sky's radial function in its standard deviations, which
    stays near 0, and one that stands for what the detectors' offsets leave open in the throughput ratio.
    """
    slices, n = mean.slices, mean.size
    expected, design = mean.linearised(numbers, *at)
    design = np.hstack([design, mean.by_sky(numbers, *at[:2])])
    m = design.shape[1] - n
    precision = np.concatenate([mean.widths**-2.0, np.ones(m)])
    joint = np.linalg.inv(covariance.information(design) + np.diag(precision))
    # one step of all
    pull = -design.T @ covariance.marginal(value - expected).by_residual
    pull[:n] -= numbers / mean.widths**2
    step = joint @ pull
    numbers, of_sky = numbers + step[:n], step[n:]
    widened = np.zeros((n + m + 1, n + m + 1))
    widened[:-1, :-1] = joint

    def wide(rows: NDArray, *more: NDArray) -> NDArray:
        found = np.zeros((len(rows), n + m + 1))
        for part, start in zip((rows, *more), (0, n), strict=False):
            found[:, start : start + part.shape[1]] = part
        return found

    scalars = {"itl_ratio": (0.0, np.zeros(n + m + 1))}
    if "itl_ratio" in slices:
        there, row, widened[-1, -1] = _ratio_of_detectors_present(mean, numbers, noise, covariance, at, value)
        row = wide(row[None])[0]
        row[-1] = 1.0
        scalars["itl_ratio"] = (itl_ratio * np.expm1(there), itl_ratio * np.exp(there) * row)
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        for k, axis in enumerate("xy"):
            row = np.zeros(n + m + 1)
            if name in slices:
                row[slices[name].start + k] = 1.0
            scalars[f"{name}_{axis}"] = (float(row[:n] @ numbers), row)
    (centre,), _, basis = mean.radial(numbers, np.zeros(1))
    of_centre = wide(basis)[0]  # the coefficients come first

    def log_radial(radius: ArrayLike) -> Linear:
        d, _, basis = mean.radial(numbers, np.atleast_1d(np.asarray(radius, dtype=float)))
        return d - centre, wide(basis) - of_centre

    def log_ratio(x: ArrayLike, y: ArrayLike, itl: ArrayLike) -> Linear:
        x, y, itl = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(itl, dtype=bool)
        found, rows = mean.linearised(numbers, x, y, itl)
        by_sky = mean.by_sky(numbers, x, y)
        return found + by_sky @ of_sky - centre, wide(rows, by_sky) - of_centre

    return Posterior(widened, scalars, log_radial, log_ratio, (float(centre), of_centre))


def _ratio_of_detectors_present(
    mean: _Mean, numbers: NDArray, noise: HierarchicalNoise, covariance: Covariance, at: tuple, value: NDArray
) -> tuple[float, NDArray, float]:
    """Log of the ratios' ratio with the mean offsets of the detectors in it, its derivatives, and its own variance."""
    vendor = noise.effects.vendor
    expected, design = mean.linearised(numbers, *at)
    effects = covariance.conditional_means(np.column_stack([value - expected, -design]))
    of_detectors = np.einsum("dk,dkn->dn", noise.areas[:, 0], effects)
    itl, rest = (of_detectors[vendor == v].mean(0) for v in range(2))  # "itl" comes before "rest"
    k = mean.slices["itl_ratio"].start
    row = (itl - rest)[1:]
    row[k] += 1.0
    of_means, _ = noise.spread(covariance, np.ones((len(vendor), 1)))
    return float(numbers[k] + (itl - rest)[0]), row, float(of_means.sum())
