"""Coordinates in which the posterior of a fit is nearly N(0, 1): transforms for the variables of its model.

A sampler that knows nothing of the fit, with its defaults, then starts where the posterior is and takes steps of its
size.  Each variable has a transform of its own; what is correlated between variables stays so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike, NDArray
from pymc.distributions.transforms import Transform
from scipy.interpolate import CubicSpline

_NEWTON = 6  # steps from a guess that is near


def _functions(x):
    """The module whose functions take ``x``: NumPy, or PyTensor's tensors."""
    return np if isinstance(x, np.ndarray | float) else pt


@dataclass(frozen=True)
class NaturalSplines:
    """Natural cubic splines, one for each component of a variable, that go on straight beyond their knots.

    Attributes
    ----------
    knots : numpy.ndarray, shape (..., n_knots)
        Those of each component.
    value, slope : numpy.ndarray, shape (...)
        At the first knot.
    jumps : numpy.ndarray, shape (..., n_knots - 1)
        By how much the cubic coefficient changes at each knot but the last.
    """

    knots: NDArray[np.float64]
    value: NDArray[np.float64]
    slope: NDArray[np.float64]
    jumps: NDArray[np.float64]

    @classmethod
    def through(cls, knots: NDArray, values: NDArray) -> NaturalSplines:
        """Splines through values at knots, both of shape (..., n_knots)."""
        pieces = np.empty((*values.shape[:-1], 4, values.shape[-1] - 1))
        for where in np.ndindex(values.shape[:-1]):
            pieces[where] = CubicSpline(knots[where], values[where], bc_type="natural").c
        cubic = pieces[..., 0, :]
        return cls(knots, values[..., 0], pieces[..., 2, 0], np.diff(cubic, axis=-1, prepend=0.0))

    def __call__(self, x):
        """Their values at x, of shape (..., n)."""
        at, beyond = self._split(x)
        above = self._above(at)
        inside = self.value + self.slope * (at - self.knots[..., 0]) + (self.jumps * above**3).sum(-1)
        return inside + self.derivative(x) * beyond

    def derivative(self, x):
        """Their slopes at x."""
        return self.slope + 3.0 * (self.jumps * self._above(self._split(x)[0]) ** 2).sum(-1)

    def _split(self, x):
        """The nearest point between the first knot and the last, and what x is beyond it."""
        at = _functions(x).clip(x, self.knots[..., 0], self.knots[..., -1])
        return at, x - at

    def _above(self, at):
        return _functions(at).clip(at[..., None] - self.knots[..., :-1], 0.0, np.inf)


@dataclass(frozen=True)
class Shape:
    """A smooth, growing function of each component, that gives a normal variable another distribution.

    Attributes
    ----------
    spline : NaturalSplines
        The function.
    guess : NaturalSplines
        Nearly its inverse.
    """

    spline: NaturalSplines
    guess: NaturalSplines

    @classmethod
    def through(cls, normal: NDArray, wanted: NDArray) -> Shape:
        """From quantiles of N(0, 1), shape (n_quantiles,), to those that are wanted, shape (..., n_quantiles)."""
        normal = np.broadcast_to(normal, wanted.shape)
        return cls(NaturalSplines.through(normal, wanted), NaturalSplines.through(wanted, normal))

    def __call__(self, u):
        """S(u), of shape (..., n)."""
        return self.spline(u)

    def inverse(self, s):
        """The u of S(u)."""
        u = self.guess(s)
        for _ in range(_NEWTON):
            u = u - (self.spline(u) - s) / self.spline.derivative(u)
        return u

    def log_slope(self, u):
        """Log of the derivative."""
        return _functions(u).log(self.spline.derivative(u))


class Whitened(Transform):
    """``parameter = transform(centre + sd S(root value / sd))``, with ``root root'`` the covariance and sd its widths.

    Parameters
    ----------
    transform : Scaled or Disc
        From the model's own coordinates of the variable to its parameter.
    centre : array_like, shape (n,), or () for a scalar
        In the model's own coordinates.
    covariance : numpy.ndarray, shape (n, n)
        Of the posterior there.
    shape : Shape, optional
        S, for coordinates whose posterior is skewed; by default it changes nothing.
    """

    name = "whitened"

    def __init__(
        self, transform: Transform, centre: ArrayLike, covariance: NDArray, shape: Shape | None = None
    ) -> None:
        self.transform = transform
        self.centre = np.asarray(centre, dtype=float)
        self.ndim_supp = self.centre.ndim
        self.root = np.linalg.cholesky(covariance)
        self.sd = np.sqrt(np.diag(covariance)).reshape(self.centre.shape)
        self.shape = shape
        self._inverse = np.linalg.inv(self.root)

    def to_model(self, value):
        """The model's own coordinates, of values of shape (..., n), or of a scalar variable's."""
        away = self._correlated(value)
        return self.centre + (self.sd * self.shape(away / self.sd) if self.shape else away)

    def forward(self, value, *inputs):
        """Parameter to value."""
        away = self.transform.forward(value, *inputs) - self.centre
        if self.shape:
            away = self.sd * self.shape.inverse(away / self.sd)
        return away @ self._inverse.T if self.ndim_supp else away / self.root[0, 0]

    def backward(self, value, *inputs):
        """Value to parameter."""
        return self.transform.backward(self.to_model(value), *inputs)

    def log_jac_det(self, value, *inputs):
        """Log of the determinant of the parameter's derivatives by the value."""
        log_slope = pt.sum(self.transform.log_jac_det(self.to_model(value), *inputs))
        if self.shape:
            log_slope += pt.sum(self.shape.log_slope(self._correlated(value) / self.sd))
        return log_slope + np.log(np.diag(self.root)).sum()

    def _correlated(self, value):
        return value @ self.root.T if self.ndim_supp else value * self.root[0, 0]
