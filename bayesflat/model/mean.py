"""The mean and its derivatives in NumPy, for the optimiser; tests hold PyMC's `expected_values` to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.model.akima import evaluate_basis, evaluate_cubic
from bayesflat.prepare import FitData

_TIED = 1e-9  # as in bayesflat.model.akima
_ORDER = ("radial_spline_values", "itl_ratio", "centroid_delta", "gradient", "outer_gradient")


def akima_with_jacobian(nodes: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    """Coefficients of Akima's cubics, and their derivatives by the node values.

    Returns
    -------
    coefficients : numpy.ndarray, shape (n_nodes - 1, 4)
        Of each interval, in powers of the distance from its left node, lowest first.
    jacobian : numpy.ndarray, shape (n_nodes - 1, 4, n_nodes)
    """
    n = len(nodes)
    h = np.diff(nodes)
    identity = np.eye(n)
    # rows: the slopes of the intervals, two extrapolated ones beyond each end; all are linear in the values
    inner = np.diff(identity, axis=0) / h[:, None]
    before = 2 * inner[0] - inner[1]
    after = 2 * inner[-1] - inner[-2]
    to_slopes = np.vstack([2 * before - inner[0], before, inner, after, 2 * after - inner[-1]])
    m = to_slopes @ values
    to_change = np.diff(to_slopes, axis=0)
    signed = to_change @ values
    to_size = np.sign(signed)[:, None] * to_change
    change = np.abs(signed)
    left, right = change[:-2], change[2:]
    total = left + right
    defined = total > _TIED * total.max()
    safe = np.where(defined, total, 1.0)
    weight = left / safe
    step, to_step = m[2:-1] - m[1:-2], to_slopes[2:-1] - to_slopes[1:-2]
    to_weight = (to_size[:-2] * right[:, None] - left[:, None] * to_size[2:]) / safe[:, None] ** 2
    t = np.where(defined, m[1:-2] + weight * step, 0.5 * (m[:-3] + m[3:]))
    to_t = np.where(
        defined[:, None],
        to_slopes[1:-2] + weight[:, None] * to_step + step[:, None] * to_weight,
        0.5 * (to_slopes[:-3] + to_slopes[3:]),
    )

    def cubics(v, t, s, h):
        return np.stack([v[:-1], t[:-1], (3 * s - 2 * t[:-1] - t[1:]) / h, (t[:-1] + t[1:] - 2 * s) / h**2], axis=1)

    return (
        cubics(values, t, np.diff(values) / h, h),
        cubics(identity, to_t, inner, h[:, None]),
    )


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

    def with_jacobian(self, parameters: Mapping[str, NDArray]) -> tuple[NDArray, NDArray, dict[str, slice]]:
        """The mean and its derivatives.

        Returns
        -------
        mean : numpy.ndarray, shape (n_bins,)
        jacobian : numpy.ndarray, shape (n_bins, n)
            By all parameters that are there, in product units.
        columns : dict of str to slice
            Columns of each parameter.
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
        return mean, rows.T, columns

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
