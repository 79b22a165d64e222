"""Steps of the noise scales: from Fisher's information, and as long as a variance asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.marginal import Covariance, Marginal

_STEPS = 8
_DOWN = -0.45  # of a step: at -0.5 a scale would fall to 0


def lengthened(step: NDArray) -> NDArray[np.float64]:
    """Steps of logs of standard deviations that end where Fisher's steps of the variances do.

    Where n residuals have the standard deviation s and the model sigma, Fisher's step of log sigma is ``(s**2 /
    sigma**2 - 1) / 2``: it is far too long from below, and from above it never gains more than a factor of 1.6.
    ``log(1 + 2 step) / 2`` is ``log(s / sigma)``.

    Parameters
    ----------
    step : numpy.ndarray
        Fisher's, of the logs of standard deviations.
    """
    return 0.5 * np.log1p(2.0 * np.maximum(step, _DOWN))


def fit_scales(
    noise: HierarchicalNoise, residual: NDArray, scales: NDArray, typical: NDArray, width: NDArray
) -> NDArray[np.float64]:
    """A few steps of Fisher's scoring for the logs of the noise scales, with the mean fixed.

    Parameters
    ----------
    noise : HierarchicalNoise
    residual : numpy.ndarray, shape (n_bins,)
        Of the logs of the values.
    scales, typical, width : numpy.ndarray, shape (n_scales,)
        Where to begin; centres and widths of the priors.
    """

    def likelihood(at: NDArray) -> tuple[float, Covariance, Marginal]:
        """Minus the log-posterior, and what it is made of."""
        covariance = noise.covariance(at)
        found = covariance.marginal(residual)
        return float(np.sum(((at - typical) / width) ** 2) / 2 - found.log_likelihood), covariance, found

    value, covariance, found = likelihood(scales)
    for _ in range(_STEPS):
        slope = noise.by_log_scales(covariance, found, scales) - (scales - typical) / width**2
        curvature = noise.information(covariance, scales) + np.diag(width**-2.0)
        step = lengthened(np.linalg.solve(curvature, slope))
        for halving in range(6):
            new = scales + step * 0.5**halving
            ahead, covariance, found = likelihood(new)
            if ahead < value:
                break
        else:
            break
        gained, scales, value = value - ahead, new, ahead
        if gained < 0.1:
            break
    return scales
