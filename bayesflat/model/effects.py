"""What acts on the bins of a detector: functions of the pixel column times functions of the row, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bayesflat.model.design import Design


@dataclass(frozen=True)
class Projected:
    """A design matrix J, as it is seen by the effects U of each detector, whose bins feel a part of its columns.

    Attributes
    ----------
    columns : numpy.ndarray of int, shape (n_detectors, m)
        Columns of J; those of a detector differ.
    values : numpy.ndarray, shape (n_detectors, size, m)
        ``U'WJ`` in these columns; it is 0 in all others.
    gram : numpy.ndarray, shape (n, n)
        ``J'WJ``.
    """

    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    gram: NDArray[np.float64]

    @classmethod
    def nothing(cls, n_detectors: int, size: int) -> Projected:
        """A design without columns."""
        return cls(np.empty((n_detectors, 0), dtype=np.int64), np.empty((n_detectors, size, 0)), np.empty((0, 0)))

    @property
    def whole(self) -> NDArray[np.float64]:
        """``U'WJ`` in all columns: shape (n_detectors, size, n)."""
        n_detectors, size, _ = self.values.shape
        out = np.zeros((n_detectors, size, len(self.gram)))
        np.put_along_axis(out, self.columns[:, None, :], self.values, axis=2)
        return out

    def summed(self, values: NDArray, group: NDArray, n_groups: int) -> NDArray[np.float64]:
        """Sum over the detectors of each group of values (n_detectors, k, m) in these columns: (n_groups, k, n)."""
        out = np.zeros((n_groups, values.shape[1], len(self.gram)))
        _add_columns(self.columns, values, group, out)
        return out

    def product(self, left: NDArray, right: NDArray) -> NDArray[np.float64]:
        """Sum over the detectors of ``left' right``, both of shape (n_detectors, k, m): (n, n)."""
        out = np.zeros_like(self.gram)
        _add_blocks(self.columns, np.matmul(left.transpose(0, 2, 1), right), out)
        return out


@dataclass(frozen=True)
class Effects:
    """Which effects act on which bins.

    Every effect is a function of the bin's pixel column times one of its row, so that sums over bins go row by row.

    Attributes
    ----------
    detector : numpy.ndarray of int, shape (n_bins,)
        Index of the detector, 0 .. n_detectors - 1.
    column, row : numpy.ndarray of int, shape (n_bins,)
        Indices into ``x`` and ``y``; bins of a row that follow one another are summed fastest.
    x, y : numpy.ndarray, shapes (n_columns, n_x) and (n_rows, n_y)
        The functions of the column and of the row.
    terms : numpy.ndarray of int, shape (size, 2)
        Effect k at a bin is ``x[column, terms[k, 0]] * y[row, terms[k, 1]]``.
    own, shared : slice
        Which effects each detector has of its own (from the first on), and which a vendor's detectors share.
    weight : numpy.ndarray, shape (n_bins,)
        0 for outliers.
    vendor : numpy.ndarray of int, shape (n_detectors,)
    times : numpy.ndarray, shape (n_detectors, n_own)
        How many times its vendor's scatter each own effect has: more than 1 where a detector or an amplifier is odd.
    """

    detector: NDArray[np.int64]
    column: NDArray[np.int64]
    row: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    terms: NDArray[np.int64]
    own: slice
    shared: slice
    weight: NDArray[np.float64]
    vendor: NDArray[np.int64]
    times: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Number of effects."""
        return len(self.terms)

    @property
    def n_detectors(self) -> int:
        """Number of detectors."""
        return len(self.vendor)

    def design(self, bins: slice | NDArray = slice(None)) -> NDArray[np.float64]:
        """All effects at some bins: shape (n_bins, size)."""
        return self.x[self.column[bins]][:, self.terms[:, 0]] * self.y[self.row[bins]][:, self.terms[:, 1]]

    def project(self, r: NDArray) -> NDArray[np.float64]:
        """``U'Wr`` of each detector: shape (n_detectors, size)."""
        out = np.zeros((self.n_detectors, self.size))
        _project(*self._runs, self._along_x, self.y, self.terms, self.weight, r, out)
        return out

    def project_columns(self, jacobian: NDArray) -> NDArray[np.float64]:
        """`project` of every column of an array of shape (n_bins, n): shape (n_detectors, size, n)."""
        out = np.zeros((self.n_detectors, self.size, jacobian.shape[1]))
        _project_columns(
            self.detector, self.column, self.row, self.x, self.y, self.terms, self.weight,
            np.ascontiguousarray(jacobian), out,
        )  # fmt: skip
        return out

    def projected(self, design: NDArray | Design) -> Projected:
        """A design, or an array of shape (n_bins, n), as the effects see it."""
        if not isinstance(design, Design):
            return self.projected_beside(design, slice(0, 0), Projected.nothing(self.n_detectors, self.size))
        low, high = np.full(self.n_detectors, design.n_banded), np.zeros(self.n_detectors, dtype=np.int64)
        np.minimum.at(low, self.detector, design.first)
        np.maximum.at(high, self.detector, design.first + 4)
        width = int(np.max(high - low))
        low = np.minimum(low, design.n_banded - width)
        first = design.first - low[self.detector]
        values = np.zeros((self.n_detectors, self.size, width + design.dense.shape[1]))
        _project_banded(
            self.detector, self.column, self.row, self.x, self.y, self.terms, self.weight, first, design.banded, width,
            values,
        )  # fmt: skip
        values[:, :, width:] = self.project_columns(design.dense)
        rest = np.tile(np.arange(design.n_banded, design.size), (self.n_detectors, 1))
        return Projected(np.hstack([low[:, None] + np.arange(width), rest]), values, design.gram(self.weight))

    def projected_beside(self, design: NDArray, known: slice, before: Projected) -> Projected:
        """`projected` of an array of shape (n_bins, n), some columns of which were projected before."""
        n = design.shape[1]
        new = np.delete(np.arange(n), known)
        moving = design if len(new) == n else design[:, new]
        values, gram = np.empty((self.n_detectors, self.size, n)), np.empty((n, n))
        values[:, :, new], values[:, :, known] = self.project_columns(moving), before.values
        weighted = moving * self.weight[:, None]
        gram[np.ix_(new, new)], gram[known, known] = weighted.T @ moving, before.gram
        gram[new, known] = weighted.T @ design[:, known]
        gram[known, new] = gram[new, known].T
        return Projected(np.tile(np.arange(n), (self.n_detectors, 1)), values, gram)

    def all_effects(self, own: NDArray, shared: NDArray) -> NDArray[np.float64]:
        """Own effects (n_detectors, n_own) and shared ones (n_vendors, n_shared) together: (n_detectors, size)."""
        x = np.zeros((self.n_detectors, self.size))
        x[:, self.own] = own
        x[:, self.shared] += shared[self.vendor]
        return x

    def expand(self, x: NDArray) -> NDArray[np.float64]:
        """``U x`` at the bins, of coefficients of shape (n_detectors, size)."""
        n = len(self.detector)
        out = np.empty(n)
        _rest(*self._runs, self._along_x, self.y, self.terms, np.ones(n), np.zeros(n), x, out)
        return -out

    def weighted_rest(self, r: NDArray, x: NDArray) -> tuple[NDArray[np.float64], float]:
        """``W (r - U x)`` at the bins, and ``(r - U x)'W(r - U x)``: in one pass."""
        out = np.empty(len(self.detector))
        square = _rest(*self._runs, self._along_x, self.y, self.terms, self.weight, r, x, out)
        return out, square

    def sum(self, values: NDArray) -> NDArray[np.float64]:
        """Sum of ``W values`` over the bins of each detector."""
        return np.bincount(self.detector, self.weight * values, minlength=self.n_detectors)

    def sum_good(self, values: NDArray) -> NDArray[np.float64]:
        """Sum of values over the bins of each detector that count."""
        return np.bincount(self.detector, np.where(self.weight > 0, values, 0.0), minlength=self.n_detectors)

    @cached_property
    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where runs of neighbours in a row begin (and the last one ends), and detector, row and first column of each.

        Loops over neighbours read what lies side by side.
        """
        same = (np.diff(self.detector) == 0) & (np.diff(self.row) == 0) & (np.diff(self.column) == 1)
        first = np.concatenate([[0], np.flatnonzero(~same) + 1])
        ends = np.append(first, len(self.detector))
        return ends, self.detector[first], self.row[first], self.column[first]

    @cached_property
    def _along_x(self) -> NDArray[np.float64]:
        """The functions of the column, each by itself: shape (n_x, n_columns)."""
        return np.ascontiguousarray(self.x.T)

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """``U'WU`` of each detector: shape (n_detectors, size, size)."""
        out = np.zeros((self.n_detectors, self.size, self.size))
        _gram(*self._runs, self._along_x, self.y, self.terms, self.weight, out)
        return out

    @cached_property
    def log_weights(self) -> NDArray[np.float64]:
        """Sum of the logs of the weights of each detector's bins that count."""
        logs = np.log(self.weight, out=np.zeros_like(self.weight), where=self.weight > 0)
        return np.bincount(self.detector, logs, minlength=self.n_detectors)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Bins of each detector that count."""
        return np.bincount(self.detector[self.weight > 0], minlength=self.n_detectors)


# slices make the loops over neighbours simple ones, which are run several numbers at a time
@njit(cache=True, fastmath={"reassoc", "contract"})
def _project(ends, detector, row, column, x, y, terms, weight, r, out):
    sums = np.zeros(len(x))
    for n in range(len(detector)):
        size = ends[n + 1] - ends[n]
        w, here = weight[ends[n] : ends[n + 1]], r[ends[n] : ends[n + 1]]
        for k in range(len(x)):
            along = x[k, column[n] : column[n] + size]
            s = 0.0
            for i in range(size):
                s += w[i] * here[i] * along[i]
            sums[k] += s
        if n + 1 == len(detector) or row[n + 1] != row[n] or detector[n + 1] != detector[n]:
            for k in range(len(terms)):
                out[detector[n], k] += sums[terms[k, 0]] * y[row[n], terms[k, 1]]
            sums[:] = 0.0


@njit(cache=True, fastmath={"reassoc", "contract"})
def _gram(ends, detector, row, column, x, y, terms, weight, out):
    n_x, n_terms = len(x), len(terms)
    sums = np.zeros((n_x, n_x))
    weighted = np.empty(np.max(np.diff(ends)))
    for n in range(len(detector)):
        size = ends[n + 1] - ends[n]
        w = weight[ends[n] : ends[n + 1]]
        for k in range(n_x):
            along = x[k, column[n] : column[n] + size]
            there = 0.0
            for i in range(size):
                weighted[i] = w[i] * along[i]
                there += abs(weighted[i])
            for j in range(k + 1 if there > 0.0 else 0):  # most amplifiers are elsewhere
                other = x[j, column[n] : column[n] + size]
                s = 0.0
                for i in range(size):
                    s += weighted[i] * other[i]
                sums[k, j] += s
        if n + 1 == len(detector) or row[n + 1] != row[n] or detector[n + 1] != detector[n]:
            for k in range(n_x):
                for j in range(k):
                    sums[j, k] = sums[k, j]
            of = out[detector[n]]
            for k in range(n_terms):
                factor, of_k = y[row[n], terms[k, 1]], sums[terms[k, 0]]
                if factor != 0.0:
                    for j in range(k + 1):
                        of[k, j] += factor * y[row[n], terms[j, 1]] * of_k[terms[j, 0]]
            sums[:] = 0.0
    for d in range(len(out)):
        for k in range(n_terms):
            for j in range(k):
                out[d, j, k] = out[d, k, j]


@njit(cache=True, fastmath={"reassoc", "contract"})
def _project_columns(detector, column, row, x, y, terms, weight, jacobian, out):
    n = jacobian.shape[1]
    sums = np.zeros((n, x.shape[1]))
    for i in range(len(detector)):
        along = x[column[i]]
        for j in range(n):
            wj, s = weight[i] * jacobian[i, j], sums[j]
            for k in range(len(along)):
                s[k] += wj * along[k]
        if i + 1 == len(detector) or row[i + 1] != row[i] or detector[i + 1] != detector[i]:
            for k in range(len(terms)):
                factor = y[row[i], terms[k, 1]]
                for j in range(n):
                    out[detector[i], k, j] += sums[j, terms[k, 0]] * factor
            sums[:] = 0.0


@njit(cache=True, fastmath={"reassoc", "contract"})
def _project_banded(detector, column, row, x, y, terms, weight, first, banded, width, out):
    n_x = x.shape[1]
    sums = np.zeros((width, n_x))
    low, high = width, 0  # the columns that bins of this row feel
    for i in range(len(detector)):
        k, along = first[i], x[column[i]]
        low, high = min(low, k), max(high, k + 4)
        w, b = weight[i], banded[i]
        b0, b1, b2, b3 = w * b[0], w * b[1], w * b[2], w * b[3]
        s0, s1, s2, s3 = sums[k], sums[k + 1], sums[k + 2], sums[k + 3]
        for j in range(n_x):
            s0[j] += b0 * along[j]
            s1[j] += b1 * along[j]
            s2[j] += b2 * along[j]
            s3[j] += b3 * along[j]
        if i + 1 == len(detector) or row[i + 1] != row[i] or detector[i + 1] != detector[i]:
            for k in range(len(terms)):
                factor, of_k = y[row[i], terms[k, 1]], out[detector[i], k]
                if factor != 0.0:
                    for j in range(low, high):
                        of_k[j] += sums[j, terms[k, 0]] * factor
            sums[low:high] = 0.0
            low, high = width, 0


@njit(cache=True)
def _add_columns(columns, values, group, out):
    for d in range(len(columns)):
        for k in range(values.shape[1]):
            for j in range(columns.shape[1]):
                out[group[d], k, columns[d, j]] += values[d, k, j]


@njit(cache=True)
def _add_blocks(columns, blocks, out):
    for d in range(len(columns)):
        for i in range(columns.shape[1]):
            for j in range(columns.shape[1]):
                out[columns[d, i], columns[d, j]] += blocks[d, i, j]


@njit(cache=True, fastmath={"reassoc", "contract"})
def _rest(ends, detector, row, column, x, y, terms, weight, r, coefficients, out):
    height = np.zeros(len(x))
    square = 0.0
    for n in range(len(detector)):
        size = ends[n + 1] - ends[n]
        if n == 0 or row[n] != row[n - 1] or detector[n] != detector[n - 1]:
            height[:] = 0.0
            for k in range(len(terms)):
                height[terms[k, 0]] += coefficients[detector[n], k] * y[row[n], terms[k, 1]]
        w, left = weight[ends[n] : ends[n + 1]], out[ends[n] : ends[n + 1]]
        left[:] = r[ends[n] : ends[n + 1]]
        for k in range(len(x)):
            along, h = x[k, column[n] : column[n] + size], height[k]
            for i in range(size):
                left[i] -= h * along[i]
        for i in range(size):
            weighted = w[i] * left[i]
            square += weighted * left[i]
            left[i] = weighted
    return square
