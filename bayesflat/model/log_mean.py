"""The log of the mean and its derivatives in NumPy, for hierarchical noise; tests compare it with PyMC's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.curve import LogSpline, combine
from bayesflat.model.design import Design
from bayesflat.model.prepare import FitData

_TERMS = ("itl_ratio", "centroid_delta", "gradient", "outer_gradient")  # in the order of the design's columns


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
        radius, rest, _ = self._at_bins(parameters, dense=False)
        return self.spline.evaluate(parameters["log_radial"], radius) + rest

    def with_design(self, parameters: Mapping[str, NDArray]) -> tuple[NDArray, Design]:
        """The log of the mean, and its derivatives by all parameters that are fitted.

        In product units, in the order: coefficients of the radial function, ratio, centroid, plane, outer plane.
        """
        radius, rest, dense = self._at_bins(parameters, dense=True)
        first, basis, slopes = self.spline.basis(radius)
        coefficients = np.ascontiguousarray(parameters["log_radial"])
        if "centroid_delta" in parameters:
            column = int("itl_ratio" in parameters)
            dense[:, column : column + 2] *= -combine(first, slopes, coefficients)[:, None]
        return combine(first, basis, coefficients) + rest, Design(first, basis, self.spline.size, dense)

    def _at_bins(self, parameters: Mapping[str, NDArray], *, dense: bool) -> tuple[NDArray, NDArray, NDArray]:
        """Radius from the moved centroid, log of all but the radial function, and derivatives but by its coefficients.

        The latter, shape (n_bins, m), are those of the radius where the centroid is concerned; m is 0 if they are not
        wanted.
        """
        data, n = self.data, len(self.data)
        values = {name: np.zeros(2) for name in _TERMS} | {"itl_ratio": np.ones(1)}
        fitted = np.array([name in parameters for name in _TERMS])
        sizes = np.array([len(value) for value in values.values()])
        values |= {name: np.ravel(parameters[name]).astype(float) for name in _TERMS if name in parameters}
        radius, rest, out = np.empty(n), np.empty(n), np.empty((n, sizes @ fitted if dense else 0))
        ratio, centroid, gradient, outer = (values[name] for name in _TERMS)
        _fill(data.dx, data.dy, data.itl, self.beyond, ratio[0], centroid, gradient, outer, fitted, radius, rest, out)
        return radius, rest, out


@njit(cache=True, error_model="numpy")
def _fill(dx, dy, itl, beyond, ratio, centroid, gradient, outer, fitted, radius, rest, dense):
    """One pass over the bins; ``fitted`` in the order of `_TERMS`."""
    log_ratio = np.log(ratio)
    for i in range(len(dx)):
        x, y = dx[i] - centroid[0], dy[i] - centroid[1]
        r = np.sqrt(x * x + y * y)
        radius[i] = r
        value = log_ratio if itl[i] else 0.0
        plane = 1.0 + gradient[0] * dx[i] + gradient[1] * dy[i]
        value -= np.log(plane)
        outer_plane = 1.0
        if beyond[i]:
            outer_plane = 1.0 + outer[0] * dx[i] + outer[1] * dy[i]
            value -= np.log(outer_plane)
        rest[i] = value
        if dense.shape[1] == 0:
            continue
        k = 0
        if fitted[0]:
            dense[i, k] = 1.0 / ratio if itl[i] else 0.0
            k += 1
        if fitted[1]:
            dense[i, k] = x / r if r > 0.0 else 0.0
            dense[i, k + 1] = y / r if r > 0.0 else 0.0
            k += 2
        if fitted[2]:
            dense[i, k] = -dx[i] / plane
            dense[i, k + 1] = -dy[i] / plane
            k += 2
        if fitted[3]:
            dense[i, k] = -dx[i] / outer_plane if beyond[i] else 0.0
            dense[i, k + 1] = -dy[i] / outer_plane if beyond[i] else 0.0
