"""Means of the bins of each detector, ring and sector: what replicates and data are compared by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bayesflat.model.prepare import FitData

RINGS, SECTORS = 30, 24


def usable(data: FitData) -> NDArray[np.bool_]:
    """Bins whose means are looked at, shape (n_bins,): replicates know nothing of how far an odd detector is off."""
    return (data.weight > 0) & (data.value > 0) & ~data.is_odd


def groupings(data: FitData, used: NDArray) -> Iterator[tuple[str, NDArray, NDArray]]:
    """Name, places of the groups that have bins, and to which of them each bin that is used belongs."""
    detector, index = np.unique(data.binned.detector[used], return_inverse=True)
    yield "detector", detector.astype(float), index
    radius = data.radius[used]
    step = max(float(radius.max()), 1e-9) / RINGS
    ring, index = np.unique(np.minimum(radius // step, RINGS - 1), return_inverse=True)
    yield "radius", (ring + 0.5) * step, index
    azimuth = np.degrees(np.arctan2(data.dy[used], data.dx[used])) % 360.0
    step = 360.0 / SECTORS
    sector, index = np.unique(np.minimum(azimuth // step, SECTORS - 1), return_inverse=True)
    yield "azimuth", (sector + 0.5) * step, index


def group_means(index: NDArray, n: int, values: NDArray) -> NDArray[np.float64]:
    """Mean of the finite values of each of n groups; NaN where there is none."""
    finite = np.isfinite(values)
    if not finite.all():
        index, values = index[finite], values[finite]
    counts = np.bincount(index, minlength=n)
    sums = np.bincount(index, values, minlength=n)
    return np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0)
