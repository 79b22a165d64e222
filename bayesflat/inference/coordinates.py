"""Coordinates for a sampler, from a fit: block by block nearly N(0, 1), the skewed noise scales included.

Where the data hardly tell a scale from none, the posterior of its log has a tail far to the left, which steps made for
the middle seldom reach.  `bayesflat.model.coordinates` takes such a shape out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_triangular
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from bayesflat.inference.laplace import Laplace
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective
from bayesflat.model.coordinates import Shape, Whitened

# where the posterior is looked at (sd of Laplace's), until it is so far below the maximum that nothing is there
# (far to the left, where the data cannot tell a scale from none, the prior alone ends it)
_SIDES = (-1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0, -18.0, -27.0), (1.0, 2.0, 3.0, 4.0, 5.5, 7.0)
_NOTHING = 15.0
# where it falls by more than this between two of them, and matters, it is looked at between them; so often
_STEEP, _MATTERS, _HALVED = 4.0, 8.0, 2
_QUANTILES = np.linspace(-3.5, 3.5, 15)  # of N(0, 1), that are to be met
_NEAR = 4.0  # sd of the maximum within which a scale's own maximum lies
_FARTHEST = 40.0  # sd; beyond the steps the log-posterior goes on as a straight line


@dataclass(frozen=True)
class Coordinates:
    """The values that a sampler moves, and the model's own coordinates z.

    Attributes
    ----------
    transforms : dict of str to Whitened
        By the name of the parameter, in the order of the objective's.
    names : list of str
        Of the value variables in PyMC's points, in the same order.
    slices : dict of str to slice
        Where each parameter stands, among values and z alike.
    covariance : numpy.ndarray, shape (n, n)
        Of the values, in Laplace's approximation: 1 within a parameter.
    """

    transforms: dict[str, Whitened]
    names: list[str]
    slices: dict[str, slice]
    covariance: NDArray[np.float64]

    def as_point(self, values: NDArray) -> dict[str, NDArray]:
        """Values of shape (n,) as one of PyMC's points."""
        return {
            name: values[self.slices[parameter]].reshape(transform.centre.shape)
            for name, (parameter, transform) in zip(self.names, self.transforms.items(), strict=True)
        }

    def to_model(self, values: NDArray) -> NDArray[np.float64]:
        """The model's own coordinates of values of shape (..., n)."""
        z = np.empty_like(values)
        for name, transform in self.transforms.items():
            part = values[..., self.slices[name]]
            shaped = part.reshape(part.shape[:-1] + transform.centre.shape)
            z[..., self.slices[name]] = transform.to_model(shaped).reshape(part.shape)
        return z


def coordinates_of(objective: Objective, found: MapResult, approximation: Laplace) -> Coordinates:
    """Coordinates with Laplace's covariance taken out of each parameter, and their profile out of the noise scales.

    Parameters
    ----------
    objective : Objective
    found : MapResult
    approximation : Laplace
    """
    transforms, roots = {}, np.zeros_like(approximation.covariance)
    with threadpool_limits(1, "blas"):
        shape = shape_of_scales(objective, found, approximation)
        for p in objective.parameters:
            here = objective.slices[p.name]
            transforms[p.name] = Whitened(
                p.transform, found.value[here].reshape(p.mu.shape), approximation.covariance[here, here],
                shape if p is objective.parameters[-1] else None,
            )  # fmt: skip
            roots[here, here] = np.linalg.inv(transforms[p.name].root)
        covariance = roots @ approximation.covariance @ roots.T
    names = [f"{p.variable}_{Whitened.name}__" for p in objective.parameters]
    return Coordinates(transforms, names, objective.slices, 0.5 * (covariance + covariance.T))


def shape_of_scales(objective: Objective, found: MapResult, approximation: Laplace) -> Shape:
    """The shape of the posterior along each noise scale, in units of Laplace's width.

    What is looked at is the posterior of the scales alone, with the parameters of the mean integrated out: these are
    nearly linear.  Where few detectors tell of their scatter, much of its tail is the room that it gives to the mean.
    """
    scales = slice(objective.n_mean, objective.size)
    covariance = approximation.covariance[scales, scales]
    best = _log_marginal(objective, found.value, found.value, 0.0)
    shapes = []
    for column, variance in zip(covariance, np.diag(covariance), strict=True):
        direction = np.append(np.zeros(objective.n_mean), column / np.sqrt(variance))
        shapes.append(_shape(_profile(partial(_log_marginal, objective, found.value, direction), best)))
    return Shape.through(_QUANTILES, np.reshape(shapes, (*objective.parameters[-1].mu.shape, -1)))


def _profile(log_posterior: Callable[[float], float], best: float) -> dict[float, float]:
    """The log-posterior at steps along a scale, by the step; ``best`` is that at none."""
    at = {0.0: best}
    for side in _SIDES:
        for step in side:
            at[step] = log_posterior(step)
            if not at[step] > max(at.values()) - _NOTHING:
                break
    for _ in range(_HALVED):
        top = max(at.values())
        for one, other in list(pairwise(sorted(at))):
            higher, lower = sorted((at[one], at[other]), reverse=True)
            if higher > top - _MATTERS and higher - lower > _STEEP:
                middle = 0.5 * (one + other)
                at[middle] = log_posterior(middle)
    return at


def _log_marginal(objective: Objective, best: NDArray, direction: NDArray, step: float) -> float:
    """Log-posterior of the noise scales, with the mean's parameters integrated out (Laplace), but for a constant."""
    with np.errstate(all="ignore"):
        cost, gradient, curvature = objective.by_mean(best + step * direction)
        if not (np.isfinite(cost) and np.isfinite(curvature).all()):
            return -np.inf
        root = np.linalg.cholesky(curvature)
        pull = solve_triangular(root, gradient, lower=True)
    return 0.5 * float(pull @ pull) - cost - float(np.log(np.diag(root)).sum())


def _shape(log_posterior: dict[float, float]) -> NDArray[np.float64]:
    """The `_QUANTILES` of the distribution that has this log-density at these steps."""
    steps, values = np.array(sorted(log_posterior.items())).T
    top = np.argmax(values)
    if not np.all(np.isfinite(values)) or top in (0, len(steps) - 1) or abs(steps[top]) > _NEAR:
        return _QUANTILES  # not a maximum: whatever the coordinates, draws remain those of the posterior
    fine = np.arange(-_FARTHEST, _FARTHEST, 0.01)
    spline = CubicSpline(steps, values - values[top])
    at = np.clip(fine, steps[0], steps[-1])
    density = np.exp(spline(at) + spline(at, 1) * (fine - at))
    below = (np.cumsum(density) - 0.5 * density) / density.sum()
    return np.interp(norm.cdf(_QUANTILES), below, fine)
