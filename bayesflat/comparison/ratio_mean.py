"""The log of the ratio of two flats as a function of its parameters, and the sky's curve that it needs.

See `bayesflat.comparison.ratio` for the formula.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bayesflat.comparison.posterior import Linear
from bayesflat.comparison.surface import SCALES, Surface
from bayesflat.config import FitConfig
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.product import FlatGradient
from bayesflat.gradient.spline import spread_knots
from bayesflat.inference.linalg import covariance_root
from bayesflat.inference.rough import Rough
from bayesflat.model.parameters import RIM_GRADIENT, RIM_OUTER_GRADIENT, SIGMA_CENTROID, SIGMA_RADIAL, SIGMA_RATIO
from bayesflat.model.prepare import FitData
from bayesflat.model.smooth import TYPICAL

INTERVALS = 60  # largest number of intervals of the B-spline: 3.3 mm at LSSTCam's rim, 23 mm at its centre
_BINS_PER_INTERVAL = 40


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
        self.spline = LogSpline(spread_knots(0.0, radius, intervals, 20 * intervals + 1))
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
        """D, its slope (1/mm), and its derivatives by the coefficients; beyond its knots D is constant."""
        spline, inside = self.spline, np.minimum(radius, self.spline.knots[-1])
        basis = spline.design(inside)
        basis[:, 1] += basis[:, 0]
        coefficients = parameters[self.slices["radial"]]
        coefficients = np.append(coefficients[0], coefficients)
        slope = np.where(radius <= inside, spline.slope(coefficients, inside), 0.0)
        return spline.evaluate(coefficients, inside), slope, basis[:, 1:]

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
