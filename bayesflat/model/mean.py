"""The mean and its derivatives in NumPy, for the optimiser; tests hold PyMC's `expected_values` to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.spline import akima_with_jacobian
from bayesflat.model.akima import collect_moments, evaluate_basis, evaluate_cubic
from bayesflat.model.prepare import FitData

_ORDER = ("radial_spline_values", "itl_ratio", "centroid_delta", "gradient", "outer_gradient")


class Mean:
    """The mean at the bins of a focal plane.

    Parameters
    ----------
    data : FitData
    config : FitConfig
    """

    def __init__(self, data: FitData, config: FitConfig) -> None:
        self.data = data
        self.beyond = data.radius >= config.outer_gradient_radius

    def __call__(self, parameters: Mapping[str, NDArray]) -> NDArray[np.float64]:
        """What each bin should read, shape (n_bins,).

        Parameters
        ----------
        parameters : mapping of str to numpy.ndarray
            By name, product units; terms that are off are absent.
        """
        radius, _, _ = self._radius(parameters)
        coefficients, _ = akima_with_jacobian(self.data.nodes, parameters["radial_spline_values"])
        return evaluate_cubic(coefficients, self.data.nodes, radius) * self._factor(parameters)

    def with_jacobian(self, parameters: Mapping[str, NDArray]) -> tuple[NDArray, NDArray]:
        """The mean and its derivatives.

        Returns
        -------
        mean : numpy.ndarray, shape (n_bins,)
        jacobian : numpy.ndarray, shape (n_bins, n)
            By all parameters that are fitted, in product units: radial values, ratio, centroid, plane, outer plane.
        """
        data, nodes = self.data, self.data.nodes
        sizes = {name: np.size(value) for name, value in parameters.items() if name in _ORDER}
        ends = np.cumsum([sizes[name] for name in _ORDER if name in sizes])
        columns = {
            name: slice(end - sizes[name], end)
            for name, end in zip([n for n in _ORDER if n in sizes], ends, strict=True)
        }
        rows = np.empty((ends[-1], len(data)))  # written and read parameter by parameter
        radius, ux, uy = self._radius(parameters)
        coefficients, to_coefficients = akima_with_jacobian(nodes, parameters["radial_spline_values"])
        factor = self._factor(parameters)
        mean = evaluate_cubic(coefficients, nodes, radius) * factor
        radial = rows[columns["radial_spline_values"]]
        evaluate_basis(to_coefficients, nodes, radius, radial)
        radial *= factor
        if "itl_ratio" in columns:
            rows[columns["itl_ratio"]] = np.where(data.itl, mean / parameters["itl_ratio"], 0.0)
        if "centroid_delta" in columns:
            derivative = np.hstack([coefficients[:, 1:] * (1.0, 2.0, 3.0), np.zeros((len(nodes) - 1, 1))])
            slope = evaluate_cubic(derivative, nodes, radius) * factor
            rows[columns["centroid_delta"]] = -slope * ux, -slope * uy
        for name, plane, here in self._planes(parameters):
            share = np.where(here, -mean / plane, 0.0)
            rows[columns[name]] = share * data.dx, share * data.dy
        return mean, rows.T

    def with_pull(self, parameters: Mapping[str, NDArray]) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
        """The mean, and a function that multiplies its transposed Jacobian by a weight per bin.

        Returns
        -------
        mean : numpy.ndarray, shape (n_bins,)
        pull : callable
            From weights, shape (n_bins,), to sums in the order of `with_jacobian`'s columns, shape (n,); the Jacobian
            itself is never made.
        """
        data, nodes = self.data, self.data.nodes
        radius, ux, uy = self._radius(parameters)
        coefficients, to_coefficients = akima_with_jacobian(nodes, parameters["radial_spline_values"])
        factor = self._factor(parameters)
        mean = evaluate_cubic(coefficients, nodes, radius) * factor

        def pull(weight: NDArray) -> NDArray[np.float64]:
            moments = collect_moments(nodes, radius, weight * factor)
            found = [np.einsum("kp,kpn->n", moments, to_coefficients)]
            if "itl_ratio" in parameters:
                found.append([(weight @ np.where(data.itl, mean, 0.0)) / float(parameters["itl_ratio"])])
            if "centroid_delta" in parameters:
                derivative = np.hstack([coefficients[:, 1:] * (1.0, 2.0, 3.0), np.zeros((len(nodes) - 1, 1))])
                slope = weight * evaluate_cubic(derivative, nodes, radius) * factor
                found.append([-slope @ ux, -slope @ uy])
            for _, plane, here in self._planes(parameters):
                share = weight * np.where(here, -mean / plane, 0.0)
                found.append([share @ data.dx, share @ data.dy])
            return np.concatenate(found)

        return mean, pull

    def _radius(self, parameters):
        """Radius from the moved centroid, clipped to the nodes, and its derivatives by position."""
        dx, dy = self.data.dx, self.data.dy
        if "centroid_delta" in parameters:
            dx = dx - parameters["centroid_delta"][0]
            dy = dy - parameters["centroid_delta"][1]
        radius = np.hypot(dx, dy)
        first, last = self.data.nodes[0], self.data.nodes[-1]
        # clipped radii do not move with the centroid
        share = np.divide(1.0, radius, out=np.zeros_like(radius), where=(radius > first) & (radius <= last))
        return np.clip(radius, first, last), dx * share, dy * share

    def _planes(self, parameters):
        """Name of each planar term, its plane, and where it applies."""
        dx, dy = self.data.dx, self.data.dy
        for name, here in (("gradient", True), ("outer_gradient", self.beyond)):
            if name in parameters:
                gradient = parameters[name]
                yield name, np.where(here, 1 + gradient[0] * dx + gradient[1] * dy, 1.0), here

    def _factor(self, parameters):
        """All but the radial function."""
        factor = np.where(self.data.itl, parameters["itl_ratio"], 1.0) if "itl_ratio" in parameters else 1.0
        factor = np.broadcast_to(factor, self.data.value.shape)
        for _, plane, _ in self._planes(parameters):
            factor = factor / plane
        return factor
