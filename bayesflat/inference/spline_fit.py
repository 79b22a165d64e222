"""Akima splines of given nodes, fitted to a profile of the radial function."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from bayesflat.gradient.spline import akima_basis
from bayesflat.inference.rough import Rough

_STEPS = 6
_DRAWS, _SEED = 64, 0


class SplineFit:
    """The best Akima spline through nodes: steps of Gauss and Newton, from interpolation or from another fit.

    As in the model, the spline goes on beyond the first and the last node with their values.

    Parameters
    ----------
    found : Rough
        With the profile.
    nodes : list of float
        mm, ascending.
    constrained : bool
        Whether the function is 0 at the last node.
    near : SplineFit, optional
        A fit with nearly these nodes: one step from it is enough.
    least : float
        Least radius of the last node (mm), where nodes may move.
    start : numpy.ndarray, shape (n_nodes,), optional
        Values to begin with.

    Attributes
    ----------
    values : numpy.ndarray, shape (n_nodes,)
        The function at the nodes.
    log_radial : numpy.ndarray
        Its log at the profile's radii; 0 where the spline is not positive.
    jacobian : numpy.ndarray, shape (n, n_free)
        Its derivatives by the free values.
    chi_squared : float
        Of the profile; infinite where the spline is not positive, and then there is no Jacobian.
    """

    def __init__(
        self,
        found: Rough,
        nodes: list[float],
        constrained: bool,
        near: SplineFit | None = None,
        least: float = 0.0,
        start: NDArray | None = None,
    ) -> None:
        self.found, self.nodes, self.constrained, self.least = found, nodes, constrained, least
        self.values: NDArray[np.float64]
        places = np.asarray(nodes)
        if start is not None:
            values = start
        elif near is None:
            values = np.exp(np.interp(places, found.radius, found.log_radial))
            slope = (values[-2] - values[-3]) / (places[-2] - places[-3])
            values[-1] = 0.0 if constrained else max(values[-2] + slope * (places[-1] - places[-2]), 0.0)
        else:
            values = Akima1DInterpolator(near.nodes, near.values)(places)
            values[-1] = near.values[-1]
        self.free = free = slice(None, -1) if constrained else slice(None)
        self.chi_squared, self.values, self.log_radial = np.inf, values, np.zeros_like(found.radius)
        steps = _STEPS if near is None else 1
        for step in range(steps + 1):
            basis = akima_basis(places, values, found.radius)
            radial = basis @ values  # the spline of twice the values is twice the spline
            if not np.all(radial > 0):
                break
            off = np.log(radial) - found.log_radial
            weighed = found.information @ off
            jacobian = basis[:, free] / radial[:, None]
            if off @ weighed < self.chi_squared:
                self.chi_squared, self.values, self.log_radial = float(off @ weighed), values, np.log(radial)
                self.jacobian = jacobian
            if step < steps:
                values = values.copy()
                values[free] -= np.linalg.solve(self._curvature(jacobian), jacobian.T @ weighed)

    def _curvature(self, jacobian: NDArray) -> NDArray[np.float64]:
        """Of half of chi-squared."""
        curvature = jacobian.T @ self.found.information @ jacobian
        curvature[np.diag_indices_from(curvature)] *= 1 + 1e-6
        curvature[np.diag_indices_from(curvature)] += np.max(np.abs(self.values)) ** -2.0  # a node that no point feels
        return curvature

    @cached_property
    def bent(self) -> float:
        """Mean chi-squared between splines drawn from the normal approximation and what is linear in their values.

        0 where Akima's weights hardly vary within the noise.  Where a slope is the mean of two that differ, with
        weights that are noise, the posterior is bent and has kinks, which hold up an optimiser and a sampler.  Infinite
        where a draw is not positive.
        """
        if not np.isfinite(self.chi_squared):
            return np.inf
        curvature = self._curvature(self.jacobian)
        normal = np.random.default_rng(_SEED).standard_normal((len(curvature), _DRAWS))
        moved = np.linalg.solve(np.linalg.cholesky(curvature).T, normal)
        values = np.repeat(self.values[:, None], _DRAWS, axis=1)
        values[self.free] += moved
        inside = np.clip(self.found.radius, self.nodes[0], self.nodes[-1])
        radial = Akima1DInterpolator(self.nodes, values)(inside)
        if not np.all(radial > 0):
            return np.inf
        off = np.log(radial) - self.log_radial[:, None] - self.jacobian @ moved
        return float(np.sum(off * (self.found.information @ off)) / _DRAWS)

    def with_nodes(self, nodes: list[float]) -> SplineFit:
        """The fit with somewhat other nodes."""
        return SplineFit(self.found, nodes, self.constrained, self, self.least)
