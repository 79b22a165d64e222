"""The radial function as the model has it: its log is a cubic B-spline, which goes on linearly beyond its outer knots.

The log is linear in the coefficients, and each radius feels four of them (de Boor 1978, A Practical Guide to Splines).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from bayesflat.gradient.piecewise import interval

_FAR = 1e5  # mm: the end of the last piece


@dataclass(frozen=True)
class LogSpline:
    """A cubic B-spline in the log of the radial function.

    Attributes
    ----------
    knots : numpy.ndarray, shape (n + 4,)
        Ascending radii (mm), the first and the last of them fourfold.
    """

    knots: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "knots", np.asarray(self.knots, dtype=float))

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return len(self.knots) - 4

    @property
    def places(self) -> NDArray[np.float64]:
        """Greville's abscissae (mm), shape (n,): a coefficient is about the spline's value there (Schoenberg)."""
        knots = self.knots
        return np.clip((knots[1:-3] + knots[2:-2] + knots[3:-1]) / 3, knots[0], knots[-1])

    @cached_property
    def pieces(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """The spline as cubics between breaks.

        Returns
        -------
        breaks : numpy.ndarray, shape (m + 1,)
            From 0 to far beyond the outer knot.
        first : numpy.ndarray of int, shape (m,)
            The first of the four coefficients that a piece feels.
        powers : numpy.ndarray, shape (m, 4, 4)
            Of each piece: coefficients of the powers of the distance from its left break, lowest first, by each of the
            four.
        """
        edges = self.knots[3:-3]
        every = BSpline(self.knots, np.eye(self.size), 3)
        # Taylor's polynomials at the left breaks
        cubics = np.stack([every(edges[:-1], nu=p) / math.factorial(p) for p in range(4)], axis=1)
        first = np.arange(len(edges) - 1)
        powers = np.stack([cubics[k, :, k : k + 4] for k in first])
        width, p = edges[-1] - edges[-2], np.arange(4)
        beyond = np.zeros((1, 4, 4))
        beyond[0, 0] = width**p @ powers[-1]
        beyond[0, 1] = (p * width ** np.maximum(p - 1, 0)) @ powers[-1]
        breaks = np.append(edges, edges[-1] + _FAR)
        first, powers = np.append(first, first[-1]), np.concatenate([powers, beyond])
        if edges[0] > 0:
            before = np.zeros((1, 4, 4))
            before[0, 0], before[0, 1] = powers[0, 0] - edges[0] * powers[0, 1], powers[0, 1]
            breaks, first, powers = np.append(0.0, breaks), np.append(0, first), np.concatenate([before, powers])
        return breaks, first.astype(np.int64), powers

    def basis(self, radius: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """The four B-splines that each radius feels.

        Returns
        -------
        first : numpy.ndarray of int, shape (n_radii,)
            Index of the first of them.
        values, slopes : numpy.ndarray, shape (n_radii, 4)
            Their values and their derivatives (1/mm).
        """
        radius = np.ascontiguousarray(radius, dtype=float)
        first = np.empty(len(radius), dtype=np.int64)
        values, slopes = np.empty((len(radius), 4)), np.empty((len(radius), 4))
        _basis(*self.pieces, radius, first, values, slopes)
        return first, values, slopes

    def design(self, radius: NDArray) -> NDArray[np.float64]:
        """All B-splines at some radii: shape (n_radii, n)."""
        first, values, _ = self.basis(radius)
        out = np.zeros((len(first), self.size))
        np.put_along_axis(out, first[:, None] + np.arange(4), values, axis=1)
        return out

    def evaluate(self, coefficients: NDArray, radius: NDArray) -> NDArray[np.float64]:
        """Log of the radial function at radii of any shape (mm)."""
        radius = np.asarray(radius, dtype=float)
        first, values, _ = self.basis(radius.ravel())
        return combine(first, values, np.ascontiguousarray(coefficients)).reshape(radius.shape)

    def slope(self, coefficients: NDArray, radius: NDArray) -> NDArray[np.float64]:
        """Derivative of the log of the radial function (1/mm)."""
        radius = np.asarray(radius, dtype=float)
        first, _, slopes = self.basis(radius.ravel())
        return combine(first, slopes, np.ascontiguousarray(coefficients)).reshape(radius.shape)


@dataclass(frozen=True)
class RadialCurve:
    """A fitted radial function.

    Attributes
    ----------
    spline : LogSpline
    best, mean : numpy.ndarray, shape (n,)
        Coefficients of the log of the radial function: maximum and mean of the posterior.
    covariance : numpy.ndarray, shape (n, n)
    """

    spline: LogSpline
    best: NDArray[np.float64]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


@njit(cache=True)
def _basis(breaks, first_of_piece, powers, radius, first, values, slopes):
    k = 0
    for i in range(len(radius)):
        k = interval(breaks, radius[i], k)
        t = radius[i] - breaks[k]
        first[i] = first_of_piece[k]
        for j in range(4):
            a, b, c, d = powers[k, 0, j], powers[k, 1, j], powers[k, 2, j], powers[k, 3, j]
            values[i, j] = a + t * (b + t * (c + t * d))
            slopes[i, j] = b + t * (2 * c + t * 3 * d)


@njit(cache=True)
def combine(first, values, coefficients):
    """Sum of four values times their coefficients, from the ``first`` one on, at each radius: shape (n_radii,)."""
    out = np.empty(len(first))
    for i in range(len(first)):
        s = 0.0
        for j in range(4):
            s += values[i, j] * coefficients[first[i] + j]
        out[i] = s
    return out
