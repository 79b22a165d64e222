"""Zernike's polynomials over a disc, without those of a circle or a plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_jacobi


def zernike(x: NDArray, y: NDArray, edge: float, degree: int) -> NDArray[np.float64]:
    """All polynomials of degree 2 or more that depend on the azimuth.

    Parameters
    ----------
    x, y : numpy.ndarray, shape (n,)
        Positions from the centre of the disc.
    edge : float
        Its radius, in the same unit.
    degree : int
        The largest.

    Returns
    -------
    numpy.ndarray, shape (n, n_terms(degree))
        Of rms 1 over the disc.
    """
    rho, theta = np.hypot(x, y) / edge, np.arctan2(y, x)
    return np.column_stack(
        [
            np.sqrt(2 * (n + 1)) * _radial(n, m, rho) * turn(m * theta)
            for n in range(2, degree + 1)
            for m in range(n, 0, -2)
            for turn in (np.cos, np.sin)
        ]
    )


def n_terms(degree: int) -> int:
    """Number of the polynomials of `zernike`."""
    return sum(2 * len(range(n, 0, -2)) for n in range(2, degree + 1))


def _radial(n: int, m: int, rho: NDArray) -> NDArray[np.float64]:
    """The radial polynomial, 1 at the edge (Born & Wolf, Principles of Optics, 9.2.1), by Jacobi's."""
    k = (n - m) // 2
    return (-1) ** k * rho**m * eval_jacobi(k, m, 0, 1 - 2 * rho**2)
