"""Coordinates in which the posterior of the noise scales is nearly normal, for a sampler to move in.

Where the data hardly tell a scale from none, the posterior of its log has a tail far to the left, which steps made for
the middle seldom reach.  The sinh-arcsinh transformation (Jones & Pewsey 2009, Biometrika 96, 761) makes a normal
variable as skewed and as heavy-tailed as that, and can be undone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares
from scipy.stats import norm

from bayesflat.inference.laplace import Laplace
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective

# where the posterior is looked at (sd of Laplace's), and the normal quantiles that are to be met
_STEPS = np.array([-8.0, -5.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0])
_QUANTILES = np.linspace(-3.0, 3.0, 25)
_FARTHEST = 14.0  # sd; beyond the steps the log-posterior goes on as a straight line


@dataclass(frozen=True)
class Stretched:
    """Points to move among, in place of the model's own coordinates z.

    They differ in the noise scales alone, where ``z = centre + sd * S((point - centre) / sd)`` with
    ``S(u) = location + width * sinh((asinh(u) + skew) / tail)``.

    Attributes
    ----------
    here : slice
        The noise scales among the coordinates.
    centre, sd : numpy.ndarray, shape (n_scales,)
        Maximum, and Laplace's width.
    location, width, skew, tail : numpy.ndarray, shape (n_scales,)
        0, 1, 0 and 1 where nothing is changed.
    """

    here: slice
    centre: NDArray[np.float64]
    sd: NDArray[np.float64]
    location: NDArray[np.float64]
    width: NDArray[np.float64]
    skew: NDArray[np.float64]
    tail: NDArray[np.float64]

    def to_model(self, points: NDArray) -> NDArray[np.float64]:
        """The model's coordinates of points of shape (..., n)."""
        z = np.array(points, dtype=float)
        _, angle = self._angle(points)
        z[..., self.here] = self.centre + self.sd * (self.location + self.width * np.sinh(angle))
        return z

    def slopes(self, points: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Derivatives of the scales' z by the points, and of their logs once more: both of shape (..., n_scales)."""
        u, angle = self._angle(points)
        stretch = 1 / (self.tail * np.sqrt(1 + u * u))  # of the angle
        return self.width * np.cosh(angle) * stretch, (np.tanh(angle) * stretch - u / (1 + u * u)) / self.sd

    def _angle(self, points: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``u``, and what S takes the hyperbolic sine of."""
        u = (points[..., self.here] - self.centre) / self.sd
        return u, (np.arcsinh(u) + self.skew) / self.tail


def stretched(objective: Objective, found: MapResult, approximation: Laplace) -> Stretched:
    """Coordinates whose profile of the posterior along each noise scale is normal, with Laplace's width.

    The profile is taken along the line that the other parameters follow, given the scale, in Laplace's approximation.
    """
    here = objective.slices[objective.parameters[-1].name]
    sd = np.sqrt(np.diag(approximation.covariance))
    lowest = objective(found.value)  # all lines pass there
    shapes = []
    for i in range(here.start, here.stop):
        direction = approximation.covariance[:, i] / sd[i]
        with np.errstate(all="ignore"):
            costs = [objective(found.value + step * direction) if step else lowest for step in _STEPS]
        shapes.append(_shape(-np.array(costs)))
    return Stretched(here, found.value[here], sd[here], *np.transpose(shapes))


def _shape(log_posterior: NDArray) -> tuple[float, float, float, float]:
    """Location, width, skew and tail of the distribution that has this log-density at `_STEPS`."""
    top = log_posterior[_STEPS == 0]
    if not np.all(np.isfinite(log_posterior)) or np.any(log_posterior > top):
        return 0.0, 1.0, 0.0, 1.0  # not a maximum: whatever the coordinates, draws remain those of the posterior
    fine = np.arange(-_FARTHEST, _FARTHEST, 0.01)
    spline = CubicSpline(_STEPS, log_posterior - top)
    at = np.clip(fine, _STEPS[0], _STEPS[-1])
    density = np.exp(spline(at) + spline(at, 1) * (fine - at))
    below = (np.cumsum(density) - 0.5 * density) / density.sum()
    wanted = np.interp(norm.cdf(_QUANTILES), below, fine)

    def misses(p: NDArray) -> NDArray:
        return p[0] + np.exp(p[1]) * np.sinh((np.arcsinh(_QUANTILES) + p[2]) / np.exp(p[3])) - wanted

    location, log_width, skew, log_tail = least_squares(misses, np.zeros(4)).x
    return location, np.exp(log_width), skew, np.exp(log_tail)
