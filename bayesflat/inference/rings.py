"""Which rings about the centroid are full of bins, and which bins are missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.grouped import rows_of
from bayesflat.model.prepare import FitData

# a ring is full where no more than this part of its bins is missing beyond what is missing everywhere (and beyond what
# chance makes of that, in standard deviations); edges of rings are known to a part of a bin.  Where positions are this
# many times as many as bins, the bins lie on no grid
_MOST_MISSING, _BY_CHANCE, _SHELLS_PER_BIN, _MOST_EMPTY = 0.05, 3.0, 4, 4.0
_WHOLE = 0.8  # part of its pixels that a bin must have: where light or mask end, it may have some only


def full_rings(data: FitData, missing: NDArray, centroid: NDArray) -> NDArray[np.bool_]:
    """Bins within the largest circle about the centroid that the bins fill.

    Beyond it the rings are lopsided: any misfit of the radial function there pulls the centroid.  Bins that are missing
    everywhere, such as dead ones, make no ring lopsided.  Where light or mask end, bins may be cut: their values are
    not those of their centres, so half a bin's diagonal is left out as well.

    Parameters
    ----------
    data : FitData
    missing : numpy.ndarray, shape (n, 2)
        As from `missing_places`.
    centroid : numpy.ndarray, shape (2,)
        Offset from the pivot (mm).

    Returns
    -------
    numpy.ndarray of bool, shape (n_bins,)
    """
    pixel = max(data.binned.camera[int(n)].pixel_size for n in np.unique(data.binned.detector))
    radius = np.hypot(data.dx - centroid[0], data.dy - centroid[1])
    edge = data.radius.max() - np.hypot(*centroid)  # where the bins' own circle is about the pivot
    if len(missing):  # and where it is not, as in a flat that was corrected with a moved centroid
        step = data.bin_size * pixel / _SHELLS_PER_BIN
        away = np.hypot(missing[:, 0] - centroid[0], missing[:, 1] - centroid[1])
        edges = np.arange(0.0, max(radius.max(), away.max()) + 2 * step, step)
        # of rings as wide as a bin: thinner ones may have but a few places, all on one side
        there, lost = (np.convolve(np.histogram(r, edges)[0], np.ones(_SHELLS_PER_BIN)) for r in (radius, away))
        places = there + lost
        typical = np.median((lost / np.maximum(places, 1))[there > 0])
        allowed = typical + (1 - typical) * _MOST_MISSING
        allowed = allowed + _BY_CHANCE * np.sqrt(typical * (1 - typical) / np.maximum(places, 1))
        filled = ((there > 0) & (lost <= allowed * places))[: len(edges) - 1]
        # beyond the circle of the bins a ring lies on one side only
        full = np.flatnonzero(filled & (edges[:-1] <= edge))
        edge = min(edge, edges[full.max() + 1]) if len(full) else edge
    return radius <= edge - data.bin_size * pixel / np.sqrt(2)


def missing_places(data: FitData) -> NDArray[np.float64]:
    """Positions from the pivot (mm) at which a detector that has bins could have a whole one but does not: (n, 2).

    Detectors of one size have the same columns and rows of bins.
    """
    camera, detector, n_pixels = data.binned.camera, data.binned.detector, data.binned.n_pixels
    whole = np.ones(len(data), dtype=bool) if n_pixels is None else n_pixels >= _WHOLE * n_pixels.max()
    found, of_detector = [], rows_of(detector)
    of_size: dict[tuple[int, int], list[int]] = {}
    for number in of_detector:
        of_size.setdefault((camera[number].nx, camera[number].ny), []).append(number)
    for same in of_size.values():
        pixels, rows = [], []
        for number in same:
            rows.append(of_detector[number])
            at = camera[number].focal_plane_to_pixel(data.binned.xf[rows[-1]], data.binned.yf[rows[-1]])
            pixels.append(np.round(at, 3))
        columns, lines = (np.unique(np.concatenate([at[k] for at in pixels])) for k in range(2))
        if len(columns) * len(lines) * len(same) > _MOST_EMPTY * sum(map(len, rows)):
            continue  # no grid: it is not known which bins could be there
        for number, (x, y), here in zip(same, pixels, rows, strict=True):
            empty = np.ones((len(lines), len(columns)), dtype=bool)
            empty[np.searchsorted(lines, y), np.searchsorted(columns, x)] = ~whole[here]
            j, i = np.nonzero(empty)
            found.append(np.column_stack(camera[number].pixel_to_focal_plane(columns[i], lines[j])))
    pivot = data.binned.xf[0] - data.dx[0], data.binned.yf[0] - data.dy[0]
    return np.concatenate(found) - pivot if found else np.empty((0, 2))
