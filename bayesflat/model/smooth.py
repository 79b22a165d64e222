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
from numpy.typing import ArrayLike, NDArray

DEGREE = 6  # of a surface on a square: the sum of the degrees along x and along y
_LONGEST = 3  # times as long as wide are detectors that get functions enough for their length
# scale of a typical field, as a part of the detector's side (the shorter one): 15 mm of LSSTCam's 40
TYPICAL = 0.375
LEAST, MOST = 0.2, 0.7  # below, the degree does not suffice; above, all fields look alike
_STEPS = 51
_ORDER = 15  # of Legendre's polynomials that the functions of a short side are made of
_SEEN = 1, 4  # degrees by which the scale is judged: the offset hides lower ones, white noise higher ones


def times_of(nx: ArrayLike, ny: ArrayLike) -> tuple[int, int]:
    """How many times its shorter side most detectors are long, in x and in y: one of the two is 1.

    Along a side that is twice as long, a field varies twice as often.

    Parameters
    ----------
    nx, ny : array_like, shape (n_detectors,)
        Pixels of the detectors.
    """
    aspect = float(np.median(np.asarray(ny) / np.asarray(nx)))
    return min(max(1, round(1 / aspect)), _LONGEST), min(max(1, round(aspect)), _LONGEST)


@cache
def surface_terms(times: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    """The functions along x and y of each term of a surface, and its degree, by which terms have a like variance.

    The degree is the sum of the orders, those along a shorter side counted as often as the longer one is long: up to
    `DEGREE` times that.
    """
    of_x, of_y = times[1], times[0]
    return tuple(
        (i, (degree - of_x * i) // of_y, degree)
        for degree in range(DEGREE * times[0] * times[1] + 1)
        for i in range(degree // of_x + 1)
        if (degree - of_x * i) % of_y == 0
    )


def modes(u: NDArray, scale: float, times: int = 1) -> NDArray[np.float64]:
    """The first functions of the expansion of a smooth field, each of rms 1.

    Parameters
    ----------
    u : numpy.ndarray, shape (n,)
        Position, -1 .. 1 from edge to edge.
    scale : float
        Of the field, as a part of the distance between the edges.
    times : int
        How many times the shorter side the distance is.

    Returns
    -------
    numpy.ndarray, shape (DEGREE * times + 1, n)
    """
    return (_legendre(u, _ORDER * times) @ _coefficients(round(scale, 9), times)).T


def scale_of(variances: NDArray, scale: float, times: tuple[int, int] = (1, 1)) -> float:
    """Scale of the field whose variances by degree are most like those found.

    Parameters
    ----------
    variances : numpy.ndarray, shape (n_degrees,)
        Of each of the coefficients of a degree (`surface_terms`).
    scale : float
        Of the functions that these belong to, as a part of the shorter side.
    times : tuple of int
        As `times_of` gives them.

    Returns
    -------
    float
        From `LEAST` to `MOST`.
    """
    grid = np.geomspace(LEAST, MOST, _STEPS)
    i, j, degree = np.transpose(surface_terms(times))
    seen = slice(_SEEN[0] * max(times), _SEEN[1] * max(times) + 1)
    spread = []
    for candidate in grid:
        along_x, along_y = (_variances(scale / long, candidate / long, long) for long in times)
        expected = np.bincount(degree, along_x[i] * along_y[j]) / np.bincount(degree)
        spread.append(np.std(np.log(variances / expected)[seen]))
    return float(grid[np.argmin(spread)])


def _variances(scale: float, true_scale: float, times: int) -> NDArray[np.float64]:
    """Variances of the coefficients of the functions for one scale, of a field with another."""
    of = _coefficients(round(scale, 9), times)
    return np.einsum("ki,kl,li->i", of, _covariance(true_scale, times), of)


@cache
def _coefficients(scale: float, times: int) -> NDArray[np.float64]:
    """Of the functions, in Legendre's polynomials: (_ORDER * times + 1, DEGREE * times + 1)."""
    vectors = np.linalg.eigh(_covariance(scale, times))[1][:, : -DEGREE * times - 2 : -1]
    return vectors * np.sign(_legendre(np.ones(1), _ORDER * times) @ vectors)  # positive at the right edge


@cache
def _covariance(scale: float, times: int) -> NDArray[np.float64]:
    """Of the coefficients of a field of variance 1 in Legendre's polynomials."""
    at, weight = leggauss(2 * _ORDER * times)
    field = np.exp(-((at[:, None] - at) ** 2) / (8 * scale**2))
    weighted = _legendre(at, _ORDER * times) * weight[:, None] / 2
    return weighted.T @ field @ weighted


def _legendre(u: NDArray, order: int) -> NDArray[np.float64]:
    """Legendre's polynomials of rms 1: (n, order + 1)."""
    return legvander(u, order) * np.sqrt(2 * np.arange(order + 1) + 1)
