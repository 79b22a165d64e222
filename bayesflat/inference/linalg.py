"""Roots of covariances and curvatures that may be singular to rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular


def covariance_root(covariance: NDArray) -> NDArray[np.float64]:
    """A root of a covariance, also where it is singular to rounding: times normal numbers it gives draws."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def curvature_root(curvature: NDArray) -> NDArray[np.float64]:
    """Lower triangular root of a curvature, enlarged a little where nothing constrains a direction."""
    diagonal = np.abs(np.diag(curvature))
    for ridge in (0.0, *np.logspace(-14, 0, 15)):
        try:
            return np.linalg.cholesky(curvature + ridge * np.diag(diagonal + diagonal.max()))
        except np.linalg.LinAlgError:
            continue
    return np.diag(np.sqrt(diagonal + diagonal.max()))  # nothing but the scale of each parameter


def whitened_norm(root: NDArray, gradient: NDArray) -> float:
    """Length of a gradient in coordinates in which the curvature is 1; infinite where the gradient is not finite."""
    if not np.isfinite(gradient).all():
        return np.inf
    return float(np.linalg.norm(solve_triangular(root, gradient, lower=True)))
