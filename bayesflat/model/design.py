"""Derivatives of the log of the mean at the bins: banded by the spline's coefficients, dense by other parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Design:
    """A design matrix of which only what is not 0 is formed; the spline's coefficients come first.

    Attributes
    ----------
    first : numpy.ndarray of int, shape (n_bins,)
        The first of the four coefficients that a bin feels.
    banded : numpy.ndarray, shape (n_bins, 4)
        Derivatives by these four.
    n_banded : int
        Number of coefficients.
    dense : numpy.ndarray, shape (n_bins, m)
        Derivatives by the other parameters.
    """

    first: NDArray[np.int64]
    banded: NDArray[np.float64]
    n_banded: int
    dense: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.n_banded + self.dense.shape[1]

    def transposed(self, weight: NDArray) -> NDArray[np.float64]:
        """``J' w`` of a weight a bin: shape (size,)."""
        banded = np.zeros(self.n_banded)
        _transposed(self.first, self.banded, weight, banded)
        return np.concatenate([banded, weight @ self.dense])

    def gram(self, weight: NDArray) -> NDArray[np.float64]:
        """``J' W J`` of a weight a bin: shape (size, size)."""
        n, m = self.n_banded, self.dense.shape[1]
        beside, of_dense = np.zeros((n, 4 + m)), np.zeros((m, m))
        _gram(self.first, self.banded, self.dense, weight, beside, of_dense)
        out = np.zeros((self.size, self.size))
        for k in range(4):  # the diagonal and the three above it
            out[np.arange(n - k), np.arange(k, n)] = beside[: n - k, k]
        out[:n, n:], out[n:, n:] = beside[:, 4:], of_dense
        return np.triu(out) + np.triu(out, 1).T


@njit(cache=True)
def _transposed(first, banded, weight, out):
    for i in range(len(first)):
        for j in range(4):
            out[first[i] + j] += weight[i] * banded[i, j]


@njit(cache=True)
def _gram(first, banded, dense, weight, beside, of_dense):
    """Upper triangles: ``beside`` holds a coefficient's products with itself, the next three, and dense columns."""
    m = dense.shape[1]
    for i in range(len(first)):
        for j in range(4):
            wj, row = weight[i] * banded[i, j], beside[first[i] + j]
            for k in range(4 - j):
                row[k] += wj * banded[i, j + k]
            for k in range(m):
                row[4 + k] += wj * dense[i, k]
        for j in range(m):
            wj, row = weight[i] * dense[i, j], of_dense[j]
            for k in range(j, m):
                row[k] += wj * dense[i, k]
