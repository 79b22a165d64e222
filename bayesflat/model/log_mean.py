"""The log of the mean and its derivatives in NumPy, for hierarchical noise; tests compare it with PyMC's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.curve import LogSpline, combine
from bayesflat.model.design import Design
from bayesflat.model.prepare import FitData


class LogMean:
    """The log of the mean at the bins of a focal plane.

    Parameters
    ----------
    data : FitData
    config : FitConfig
    spline : LogSpline
        Of the log of the radial function.
    """

    def __init__(self, data: FitData, config: FitConfig, spline: LogSpline) -> None:
        self.data, self.spline = data, spline
        self.beyond = data.radius >= config.outer_gradient_radius

    def __call__(self, parameters: Mapping[str, NDArray]) -> NDArray[np.float64]:
        """Log of what each bin should read, shape (n_bins,); NaN where a plane is not positive.

        Parameters
        ----------
        parameters : mapping of str to numpy.ndarray
            By name, product units; terms that are off are absent.
        """
        radius, _, _ = self._radius(parameters)
        return self.spline.evaluate(parameters["log_radial"], radius) + self._rest(parameters)

    def with_design(self, parameters: Mapping[str, NDArray]) -> tuple[NDArray, Design]:
        """The log of the mean, and its derivatives by all parameters that are fitted.

        In product units, in the order: coefficients of the radial function, ratio, centroid, plane, outer plane.
        """
        data = self.data
        radius, ux, uy = self._radius(parameters)
        first, basis, slopes = self.spline.basis(radius)
        coefficients = np.ascontiguousarray(parameters["log_radial"])
        log_mean = combine(first, basis, coefficients) + self._rest(parameters)
        columns = []
        if "itl_ratio" in parameters:
            columns.append(np.where(data.itl, 1 / float(parameters["itl_ratio"]), 0.0))
        if "centroid_delta" in parameters:
            slope = combine(first, slopes, coefficients)
            columns += [-slope * ux, -slope * uy]
        for _, plane, here in self._planes(parameters):
            share = np.where(here, -1 / plane, 0.0)
            columns += [share * data.dx, share * data.dy]
        dense = np.stack(columns, axis=1) if columns else np.empty((len(data), 0))
        return log_mean, Design(first, basis, self.spline.size, dense)

    def _radius(self, parameters: Mapping[str, NDArray]) -> tuple[NDArray, NDArray, NDArray]:
        """Radius from the moved centroid, and its derivatives by position."""
        dx, dy = self.data.dx, self.data.dy
        if "centroid_delta" in parameters:
            dx = dx - parameters["centroid_delta"][0]
            dy = dy - parameters["centroid_delta"][1]
        radius = np.hypot(dx, dy)
        inverse = np.divide(1.0, radius, out=np.zeros_like(radius), where=radius > 0)
        return radius, dx * inverse, dy * inverse

    def _planes(self, parameters: Mapping[str, NDArray]) -> Iterator[tuple[str, NDArray, NDArray | bool]]:
        """Name of each planar term, its plane, and where it applies."""
        dx, dy = self.data.dx, self.data.dy
        for name, here in (("gradient", True), ("outer_gradient", self.beyond)):
            if name in parameters:
                gradient = parameters[name]
                yield name, np.where(here, 1 + gradient[0] * dx + gradient[1] * dy, 1.0), here

    def _rest(self, parameters: Mapping[str, NDArray]) -> NDArray[np.float64]:
        """Log of all but the radial function."""
        rest = np.zeros(len(self.data))
        if "itl_ratio" in parameters:
            rest += np.where(self.data.itl, np.log(float(parameters["itl_ratio"])), 0.0)
        for _, plane, _ in self._planes(parameters):
            with np.errstate(invalid="ignore", divide="ignore"):
                rest -= np.log(plane)
        return rest
