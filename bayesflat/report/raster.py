"""The bins of a focal plane as an image: the index of the bin at each of its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Detector

MANY = 25  # number of bins on a detector that suffices to measure their spacing


@dataclass(frozen=True)
class BinRaster:
    """The index of the bin at each pixel of an image of the focal plane.

    Attributes
    ----------
    index : numpy.ndarray of int, shape (n_y, n_x)
        Row of the bin; -1 where there is none.  The first row is the lowest.
    extent : tuple of float
        Left, right, bottom and top of the image (mm).
    """

    index: NDArray[np.int32]
    extent: tuple[float, float, float, float]

    @classmethod
    def of(cls, binned: BinnedFlat, size: int) -> BinRaster:
        """The raster of a binned flat, ``size`` pixels along its longer side.

        It covers all detectors that have bins and the camera's other science detectors.
        """
        present = np.unique(binned.detector)
        shown = [d for d in binned.camera if d.is_science or d.id in present]
        corners = np.concatenate([d.corners() for d in shown])
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = 0.025 * float((high - low).max())
        low, high = low - margin, high + margin
        step = float((high - low).max()) / size
        n_x, n_y = (int(n) for n in np.ceil((high - low) / step - 1e-6))
        x, y = low[0] + (np.arange(n_x) + 0.5) * step, low[1] + (np.arange(n_y) + 0.5) * step
        index = np.full((n_y, n_x), -1, dtype=np.int32)

        order = np.argsort(binned.detector, kind="stable")
        parts = np.split(order, np.searchsorted(binned.detector[order], present)[1:])
        detectors = [binned.camera[int(number)] for number in present]
        pixels = [d.focal_plane_to_pixel(binned.xf[p], binned.yf[p]) for d, p in zip(detectors, parts, strict=True)]
        usual = _spacing(pixels)
        for detector, part, (px, py) in zip(detectors, parts, pixels, strict=True):
            (x0, y0), (x1, y1) = detector.corners().min(axis=0), detector.corners().max(axis=0)
            columns = slice(*np.searchsorted(x, (x0 - step, x1 + step)))
            rows = slice(*np.searchsorted(y, (y0 - step, y1 + step)))
            at = detector.focal_plane_to_pixel(*np.meshgrid(x[columns], y[rows]))
            found = _look_up(detector, px, py, usual, *at)
            window = index[rows, columns]
            window[found >= 0] = part[found[found >= 0]]
        return cls(index, (float(low[0]), float(low[0] + n_x * step), float(low[1]), float(low[1] + n_y * step)))

    def values(self, values: NDArray) -> np.ma.MaskedArray:
        """Image of values, one for each bin; masked where there is no bin or the value is not finite."""
        return np.ma.masked_invalid(np.append(values, np.nan).astype(np.float32)[self.index])

    def draw(self, axes: Axes, values: NDArray, norm: Normalize, cmap: str) -> AxesImage:
        """Draw values on axes, one for each bin."""
        return axes.imshow(
            self.values(values),
            norm=norm,
            cmap=cmap,
            extent=self.extent,
            origin="lower",
            interpolation="nearest",
            aspect="equal",
        )


def _spacing(pixels: Sequence[tuple[NDArray, NDArray]]) -> NDArray:
    """Median over detectors of the distance of neighbouring bins along pixel x and y; NaN without neighbours."""
    steps = np.full((2, len(pixels)), np.nan)
    for k, position in enumerate(pixels):
        for axis in (0, 1):
            differences = np.diff(np.sort(position[axis]))
            # differences below half a pixel are rounding, within one column of bins
            steps[axis, k] = np.min(differences, initial=np.inf, where=differences > 0.5)
    steps[~np.isfinite(steps)] = np.nan
    known = np.isfinite(steps)
    usual = np.array([np.median(row[ok]) if ok.any() else np.nan for row, ok in zip(steps, known, strict=True)])
    return np.where(np.isfinite(usual), usual, usual[::-1])  # bins of a single column are taken as square


def _look_up(detector: Detector, px: NDArray, py: NDArray, usual: NDArray, x: NDArray, y: NDArray) -> NDArray[np.intp]:
    """Index of the bin of a detector at each pixel position x, y; -1 where there is none.

    Bins on a grid fill its cells.  Without a grid, a position belongs to the nearest bin.
    """
    usual, own = np.where(np.isfinite(usual), usual, min(detector.nx, detector.ny)), _spacing([(px, py)])
    # the spacing of a few bins is not reliable, since each may lack its neighbours
    for spacing in (own, usual) if len(px) >= MANY else (usual, own):
        grid = _grid(detector, px, py, spacing)
        if grid is None:
            continue
        table, origin = grid
        column, row = (np.floor((p - o) / s + 0.5).astype(int) for p, o, s in zip((x, y), origin, spacing, strict=True))
        inside = (column >= 0) & (column < table.shape[1]) & (row >= 0) & (row < table.shape[0])
        found = np.full(x.shape, -1)
        found[inside] = table[row[inside], column[inside]]
        return found

    from scipy.spatial import cKDTree

    tree = cKDTree(np.column_stack([px, py]))
    # side of bins of equal size that would fill the detector
    reach = math.sqrt(detector.nx * detector.ny / len(px))
    distance, found = tree.query(np.column_stack([x.ravel(), y.ravel()]), distance_upper_bound=reach)
    found = np.where(np.isfinite(distance), found, -1).reshape(x.shape)
    on_detector = (x >= -0.5) & (x <= detector.nx - 0.5) & (y >= -0.5) & (y <= detector.ny - 0.5)
    return np.where(on_detector, found, -1)


def _grid(detector: Detector, px: NDArray, py: NDArray, spacing: NDArray) -> tuple[NDArray, tuple] | None:
    """Table (row, column) of bins on a grid of that spacing, and the centre of its first cell; None without a grid."""
    if not np.all(np.isfinite(spacing)):
        return None
    origin = (px.min(), py.min())
    cells = [(p - o) / s for p, o, s in zip((px, py), origin, spacing, strict=True)]
    column, row = (np.rint(c).astype(int) for c in cells)
    shape = (row.max() + 1, column.max() + 1)
    if max(np.abs(cells[0] - column).max(), np.abs(cells[1] - row).max()) > 0.1 or math.prod(shape) > (
        detector.nx + 1
    ) * (detector.ny + 1):
        return None
    table = np.full(shape, -1)
    table[row, column] = np.arange(len(px))
    return (table, origin) if np.count_nonzero(table >= 0) == len(px) else None
