"""The prior of the radial function, and its B-spline in PyTensor.

The log of the radial function is smooth: its second derivative is normal, with a variance that varies slowly with
radius (Wahba 1978, J. R. Stat. Soc. B 40, 364, with one variance).  Coefficients also have a wide prior each, which
makes the whole proper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.tensor.variable import TensorVariable

from bayesflat.gradient.curve import LogSpline
from bayesflat.model.akima import piecewise_cubic

SIGMA_LOG_RADIAL = 0.3  # of each coefficient, about a first estimate


@dataclass(frozen=True)
class RadialPrior:
    """A normal prior of the coefficients of the log of the radial function.

    Attributes
    ----------
    spline : LogSpline
        Its knots.
    mean : numpy.ndarray, shape (n,)
        Of the wide prior of each coefficient.
    bending : numpy.ndarray, shape (n - 2,)
        Variance of the second derivative (1/mm**4) at the inner ones of `LogSpline.places`.
    """

    spline: LogSpline
    mean: NDArray[np.float64]
    bending: NDArray[np.float64]

    @property
    def root(self) -> NDArray[np.float64]:
        """A root of the precision, shape (2 n - 2, n): second derivatives and coefficients in their own widths."""
        bends = second_derivative(self.spline.places) @ self.spline.design(self.spline.places)
        return np.vstack([bends / np.sqrt(self.bending)[:, None], np.eye(self.spline.size) / SIGMA_LOG_RADIAL])

    @property
    def precision(self) -> NDArray[np.float64]:
        """Inverse covariance, shape (n, n)."""
        root = self.root
        return root.T @ root

    @property
    def centre(self) -> NDArray[np.float64]:
        """Mean of the prior, shape (n,): second derivatives are 0 and coefficients ``mean`` as nearly as both allow."""
        return np.linalg.solve(self.precision, self.mean / SIGMA_LOG_RADIAL**2)


def second_derivative(radius: NDArray) -> NDArray[np.float64]:
    """From values to their second derivatives at the inner points: shape (n - 2, n)."""
    step = np.diff(radius)
    slopes = np.diff(np.eye(len(radius)), axis=0) / step[:, None]
    return np.diff(slopes, axis=0) / (0.5 * (step[1:] + step[:-1]))[:, None]


def log_spline(spline: LogSpline, coefficients: TensorVariable, radius: TensorVariable) -> TensorVariable:
    """Log of the radial function at each radius.

    Parameters
    ----------
    spline : LogSpline
    coefficients : TensorVariable, shape (n,)
    radius : TensorVariable, shape (n_bins,)
        mm.
    """
    breaks, first, powers = spline.pieces
    cubics = pt.sum(powers * coefficients[first[:, None] + np.arange(4)][:, None, :], axis=2)
    return pt.as_tensor(piecewise_cubic(cubics, pt.constant(breaks), radius))
