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


def _functions(x):
    """The module whose functions take ``x``: NumPy, or PyTensor's tensors."""
    return np if isinstance(x, np.ndarray | float) else pt


@dataclass(frozen=True)
class SinhArcsinh:
    """``S(u) = location + width * sinh((asinh(u) + skew) / tail)``: a normal variable made skewed and heavy-tailed.

    The transformation of Jones & Pewsey (2009, Biometrika 96, 761).  All are of the variable's shape; 0, 1, 0 and 1
    change nothing.
    """

    location: NDArray[np.float64]
    width: NDArray[np.float64]
    skew: NDArray[np.float64]
    tail: NDArray[np.float64]

    def __call__(self, u):
        """S(u), of shape (..., n)."""
        return self.location + self.width * _functions(u).sinh(self._angle(u))

    def inverse(self, s):
        """The u of S(u)."""
        of = _functions(s)
        return of.sinh(self.tail * of.arcsinh((s - self.location) / self.width) - self.skew)

    def log_slope(self, u):
        """Log of the derivative."""
        of = _functions(u)
        return np.log(self.width / self.tail) + of.log(of.cosh(self._angle(u))) - 0.5 * of.log1p(u * u)

    def _angle(self, u):
        return (_functions(u).arcsinh(u) + self.skew) / self.tail


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
    shape : SinhArcsinh, optional
        S, for coordinates whose posterior is skewed; by default it changes nothing.
    """

    name = "whitened"

    def __init__(
        self, transform: Transform, centre: ArrayLike, covariance: NDArray, shape: SinhArcsinh | None = None
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
