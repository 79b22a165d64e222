"""Bins by the detector, amplifier or ring that they belong to: what is worked out group by group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rows_of(group: NDArray) -> dict[int, NDArray[np.int64]]:
    """The rows of each group, in their order.

    Parameters
    ----------
    group : numpy.ndarray of int, shape (n,)
        To which each row belongs.
    """
    order = np.argsort(group, kind="stable")
    numbers, first = np.unique(group[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, first[1:]), strict=True))


def medians_of(index: NDArray, values: NDArray, size: int | None = None) -> NDArray[np.float64]:
    """Median of the values of each group that are not NaN; NaN where there is none.

    Parameters
    ----------
    index : numpy.ndarray of int, shape (n,)
        The group of each value: 0, 1, ...
    values : numpy.ndarray, shape (n,)
    size : int, optional
        Number of groups; by default up to the last that has values.
    """
    good = np.flatnonzero(np.isfinite(values))
    out = np.full(int(index.max()) + 1 if size is None else size, np.nan)
    order = good[np.argsort(values[good])]
    # whole numbers of 16 bits, as those of detectors and amplifiers are, are sorted by counting
    order = order[np.argsort(index[order].astype(np.min_scalar_type(len(out))), kind="stable")]
    counts = np.bincount(index[good], minlength=len(out))
    first = np.cumsum(counts) - counts
    some = counts > 0
    low, high = (first + (counts - 1) // 2)[some], (first + counts // 2)[some]
    out[some] = 0.5 * (values[order[low]] + values[order[high]])
    return out
