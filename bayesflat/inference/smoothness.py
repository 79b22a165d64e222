"""How smooth the radial function is: the variance of its second derivative, by marginal likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from bayesflat.model.radial import second_derivative

_WIDTH = 3.0  # points of the profile over which the bending is taken as alike
_STEPS, _SETTLED = 100, 0.01
_TINY = 1e-9
_LEAST = 1e-4  # of the variance that noise alone gives: among some hundred points, less bending can't be told


def bending_variance(radius: NDArray, value: NDArray, information: NDArray) -> tuple[NDArray, NDArray]:
    """Variance of the second derivative of a profile at each of its inner points, and the smooth profile that follows.

    Parameters
    ----------
    radius : numpy.ndarray, shape (n,)
        Ascending.
    value : numpy.ndarray, shape (n,)
        The profile.
    information : numpy.ndarray, shape (n, n)
        Its inverse covariance.

    Returns
    -------
    variance : numpy.ndarray, shape (n - 2,)
    mean : numpy.ndarray, shape (n,)
        Posterior mean of the profile with these.

    Notes
    -----
    A smoothing spline is the posterior mean under a prior of one variance (Wahba 1978, J. R. Stat. Soc. B 40, 364).
    Here every point has a variance of its own, the mean of its neighbours' squared second derivatives over the mean
    part of them that the profile determines.  With one neighbourhood, this is MacKay's fixed point (1992, Neural
    Comput. 4, 415), which maximises the marginal likelihood.
    """
    second = second_derivative(radius)
    noise = np.einsum("ij,ji->i", second, np.linalg.solve(information, second.T))
    variance = np.maximum(_averaged((second @ value) ** 2), _LEAST * noise)
    for _ in range(_STEPS):
        precision = information + second.T @ (second / variance[:, None])
        mean = np.linalg.solve(precision, information @ value)
        left = np.einsum("ij,ji->i", second, np.linalg.solve(precision, second.T))
        determined = np.maximum(_averaged(1.0 - left / variance), _TINY)
        last, variance = variance, np.maximum(_averaged((second @ mean) ** 2) / determined, _LEAST * noise)
        if np.max(np.abs(np.log(variance / last))) < _SETTLED:
            break
    return variance, mean


def _averaged(square: NDArray) -> NDArray[np.float64]:
    return gaussian_filter1d(square, _WIDTH, mode="nearest")
