"""Smooth fields within a detector: the functions that describe them best, and how smooth they are.

A smooth field has a covariance like ``exp(-d**2 / (2 scale**2))``.  Its Karhunen-Loève expansion has uncorrelated
coefficients, and since the covariance is a product of one in x and one in y, so are its functions; those of the same
degree have about the same variance.  Polynomials would not do: a smooth field's coefficients of those are correlated,
and where they are taken as uncorrelated, errors come out too small, by 5 to 35% on LSSTCam.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander
from numpy.typing import NDArray

DEGREE = 6  # of a surface: the sum of the degrees along x and along y
# scale of a typical field, as a part of the detector's longer side: 15 mm of LSSTCam's 40
TYPICAL = 0.375
LEAST, MOST = 0.2, 0.7  # below, the degree does not suffice; above, all fields look alike
_STEPS = 51
_ORDER = 15  # of Legendre's polynomials that the functions are made of
_SEEN = slice(1, 5)  # degrees by which the scale is judged: the offset hides lower ones, white noise higher ones


def modes(u: NDArray, scale: float) -> NDArray[np.float64]:
    """The first functions of the expansion of a smooth field, each of rms 1.

    Parameters
    ----------
    u : numpy.ndarray, shape (n,)
        Position, -1 .. 1 from edge to edge.
    scale : float
        Of the field, as a part of the distance between the edges.

    Returns
    -------
    numpy.ndarray, shape (DEGREE + 1, n)
    """
    return (_legendre(u) @ _coefficients(round(scale, 9))).T


def scale_of(variances: NDArray, scale: float) -> float:
    """Scale of the field whose variances by degree are most like those found.

    Parameters
    ----------
    variances : numpy.ndarray, shape (DEGREE + 1,)
        Of each of the coefficients of a degree.
    scale : float
        Of the functions that these belong to.

    Returns
    -------
    float
        From `LEAST` to `MOST`.
    """
    grid = np.geomspace(LEAST, MOST, _STEPS)
    degree = np.add.outer(np.arange(DEGREE + 1), np.arange(DEGREE + 1))
    spread = []
    for candidate in grid:
        along = np.einsum("ki,kl,li->i", _coefficients(scale), _covariance(candidate), _coefficients(scale))
        expected = [np.outer(along, along)[degree == n].mean() for n in range(DEGREE + 1)]
        spread.append(np.std(np.log(variances / expected)[_SEEN]))
    return float(grid[np.argmin(spread)])


@cache
def _coefficients(scale: float) -> NDArray[np.float64]:
    """Of the functions, in Legendre's polynomials: (_ORDER + 1, DEGREE + 1)."""
    vectors = np.linalg.eigh(_covariance(scale))[1][:, : -DEGREE - 2 : -1]
    return vectors * np.sign(_legendre(np.ones(1)) @ vectors)  # positive at the right edge


@cache
def _covariance(scale: float) -> NDArray[np.float64]:
    """Of the coefficients of a field of variance 1 in Legendre's polynomials."""
    at, weight = leggauss(2 * _ORDER)
    field = np.exp(-((at[:, None] - at) ** 2) / (8 * scale**2))
    weighted = _legendre(at) * weight[:, None] / 2
    return weighted.T @ field @ weighted


def _legendre(u: NDArray) -> NDArray[np.float64]:
    """Legendre's polynomials of rms 1: (n, _ORDER + 1)."""
    return legvander(u, _ORDER) * np.sqrt(2 * np.arange(_ORDER + 1) + 1)
