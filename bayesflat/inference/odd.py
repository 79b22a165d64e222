"""Detectors and amplifiers that are off as a whole: found by their medians, among the others of their vendor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.grouped import medians_of

# a detector or an amplifier is odd beyond so many robust standard deviations from its vendor's others, and a part of
# its throughput; and beyond `_MOST_ODD` (26% low, 35% high) even where the others scatter by 8%, as in u
ODD, _LEAST_ODD, _MOST_ODD = 6.0, 0.01, 0.3
_FEWEST_ALIKE, _FEWEST = 5, 3  # others that tell a scatter, and a median
_FEWEST_ODD = 4  # bins of an odd amplifier: fewer may be dust
LEAST_SCATTER = 3e-4  # of bins about a first fit: flats without noise have no outliers


def find_odd(
    detector: NDArray, amplifier: NDArray, itl: NDArray, residual: NDArray, fewest: int = _FEWEST_ODD
) -> dict[tuple[int, int], float]:
    """Detectors and amplifiers whose median is far from those of others, and how many times the others' scatter.

    A detector's others are those of its vendor.  An amplifier counts relative to its detector; its others are all of
    the vendor, less what those at its place have in common.

    Parameters
    ----------
    detector, amplifier : numpy.ndarray of int, shape (n,)
        Of bins, or of amplifiers.
    itl : numpy.ndarray of bool, shape (n,)
        The vendor.
    residual : numpy.ndarray, shape (n,)
        Log of the value, less that of the mean; NaN does not count.
    fewest : int
        Residuals at least of an amplifier that is odd.

    Returns
    -------
    dict of (int, int) to float
        As `FitData.odd`.
    """
    numbers, index = np.unique(detector, return_inverse=True)
    medians, of_vendor = medians_of(index, residual), np.zeros(len(numbers), dtype=bool)
    of_vendor[index] = itl
    found = {(int(numbers[k]), -1): times for k, times in _far(medians, of_vendor).items()}
    # the amplifiers of one detector after those of the other, as many of each
    most = int(amplifier.max()) + 1
    of, number = np.divmod(np.arange(len(numbers) * most), most)
    group = index * most + amplifier
    relative = medians_of(group, residual - medians[index], len(of))
    relative[np.bincount(group[np.isfinite(residual)], minlength=len(of)) < fewest] = np.nan
    place = of_vendor[of] * most + number
    relative = relative - medians_of(place, relative)[place]
    found |= {(int(numbers[of[k]]), int(number[k])): times for k, times in _far(relative, of_vendor[of]).items()}
    return found


def _far(values: NDArray, itl: NDArray) -> dict[int, float]:
    """Which values are far from those of their vendor, and how many times the others' scatter."""
    found: dict[int, float] = {}
    for group in (itl, ~itl):
        there = group & np.isfinite(values)
        n = int(there.sum())
        if n < _FEWEST:
            continue
        away = np.abs(values - np.median(values[there]))
        scatter = max(1.4826 * float(np.median(away[there])), LEAST_SCATTER)
        limit = ODD * (1 + 10 / n) * scatter if n >= _FEWEST_ALIKE else np.inf  # of few, it is loosely known
        limit = min(max(limit, _LEAST_ODD), _MOST_ODD)
        found |= {int(k): float(away[k] / scatter) for k in np.flatnonzero(there & (away > limit))}
    return found
