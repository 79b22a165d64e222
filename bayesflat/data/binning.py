"""From flats to the binned focal plane: the mean of the good pixels in each bin of each detector."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, Detector
from bayesflat.data.defects import Box, apply_defects
from bayesflat.data.fitsfile import opened_fits
from bayesflat.data.flats import Flat, FlatSource, find_sources, flat_of, read_hdus
from bayesflat.data.headers import warn_of_filter
from bayesflat.data.pixels import DEFAULT_MASK_PLANES
from bayesflat.errors import InputError
from bayesflat.processes import Workers, in_processes
from bayesflat.stages import stage

if TYPE_CHECKING:
    from astropy.nddata import CCDData

log = logging.getLogger(__name__)

BIN_FACTOR = 128
DETECTOR_BOUNDARY = 10
# rows of pixels that are worked on at once: few enough for the cache, enough to keep Python's share small
_STRIP = 128
_AT_ONCE = 16  # detectors of one file that a process reads, which opens it once for them

Columns = dict[str, NDArray]


def bin_flat(
    flat: Flat,
    boxes: Iterable[Box] = (),
    bin_factor: int = BIN_FACTOR,
    detector_boundary: int = DETECTOR_BOUNDARY,
) -> Columns:
    """Bin the flat of one detector.

    Parameters
    ----------
    flat : Flat
        Its bad and its non-finite pixels are left out.
    boxes : iterable of Box
        Defects, left out too.
    bin_factor : int
        Side of a bin (pixels).
    detector_boundary : int
        Pixels left out at each edge. From there on bins are whole ones; what remains at the far edges is left out.

    Returns
    -------
    columns : dict of str to numpy.ndarray
        ``xf``, ``yf`` (mm, the bin's centre), ``value`` (mean of the good pixels), ``n_pixels`` (how many those are),
        ``amplifier`` (that of the bin's centre), ``detector``, ``itl``; a row per bin that has a good pixel.

    Raises
    ------
    InputError
        Not one whole bin fits into the detector.
    """
    detector = flat.detector
    n_x, n_y = _count_bins(detector, bin_factor, detector_boundary)
    total, count = _sum_bins(flat.image, _bad_pixels(flat, boxes), n_x, n_y, bin_factor, detector_boundary)
    row, column = np.nonzero(count)
    count = count[row, column]
    # pixel i has its centre at i, so the centre of bin_factor pixels is half a pixel below the middle of their count
    px = detector_boundary + column * bin_factor + (bin_factor - 1) / 2
    py = detector_boundary + row * bin_factor + (bin_factor - 1) / 2
    xf, yf = detector.pixel_to_focal_plane(px, py)
    return {
        "xf": xf,
        "yf": yf,
        "value": total[row, column] / count,
        "n_pixels": count,
        "amplifier": detector.amplifier(px, py),
        "detector": np.full(len(count), detector.id, dtype=np.int64),
        "itl": np.full(len(count), detector.is_itl),
    }


def _count_bins(detector: Detector, bin_factor: int, detector_boundary: int) -> tuple[int, int]:
    """Whole bins along x and y."""
    if bin_factor != int(bin_factor) or bin_factor < 1:
        raise InputError(f"bin_factor is {bin_factor}; it must be a whole number of pixels, 1 or more")
    if detector_boundary != int(detector_boundary) or detector_boundary < 0:
        raise InputError(f"detector_boundary is {detector_boundary}; it must be a whole number of pixels, 0 or more")
    usable = [size - 2 * detector_boundary for size in (detector.nx, detector.ny)]
    if min(usable) < bin_factor:
        raise InputError(
            f"bin_factor {bin_factor} leaves no whole bin on detector {detector.name} of {detector.nx} x {detector.ny} "
            f"pixels with a detector_boundary of {detector_boundary}; at most {max(min(usable), 0)} fit"
        )
    return usable[0] // bin_factor, usable[1] // bin_factor


def _bad_pixels(flat: Flat, boxes: Iterable[Box]) -> NDArray[np.bool_] | None:
    boxes = list(boxes)
    if not boxes:
        return flat.bad
    bad = np.zeros(flat.image.shape, dtype=bool) if flat.bad is None else flat.bad.copy()
    apply_defects(bad, boxes)
    return bad


def _sum_bins(
    image: NDArray, bad: NDArray[np.bool_] | None, n_x: int, n_y: int, bin_factor: int, start: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum and number of the good pixels of each bin, shape (n_y, n_x), a strip of rows at a time."""
    total = np.empty((n_y, n_x))
    count = np.empty((n_y, n_x), dtype=np.int64)
    columns = slice(start, start + n_x * bin_factor)
    step = max(1, _STRIP // bin_factor)
    for first in range(0, n_y, step):
        last = min(first + step, n_y)
        rows = slice(start + first * bin_factor, start + last * bin_factor)
        pixels = image[rows, columns]
        good = np.isfinite(pixels)
        if bad is not None:
            good &= ~bad[rows, columns]
        if good.all():
            count[first:last] = bin_factor**2
        else:
            pixels = np.where(good, pixels, 0)
            count[first:last] = _sum_blocks(good, n_x, bin_factor, np.int64)
        total[first:last] = _sum_blocks(pixels, n_x, bin_factor, np.float64)
    return total, count


def _sum_blocks(pixels: NDArray, n_x: int, bin_factor: int, dtype: type) -> NDArray:
    """Sums over blocks of ``bin_factor`` squared; down the columns first, which runs along the memory."""
    by_column: NDArray = pixels.reshape(-1, bin_factor, n_x * bin_factor).sum(axis=1, dtype=dtype)
    return by_column.reshape(-1, n_x, bin_factor).sum(axis=2)


def bin_focal_plane(
    flats: Iterable[Flat | CCDData],
    camera: Camera,
    defects: Mapping[int, Iterable[Box]] | None = None,
    bin_factor: int = BIN_FACTOR,
    detector_boundary: int = DETECTOR_BOUNDARY,
    use_non_science: bool = False,
) -> BinnedFlat:
    """Bin the flats of a focal plane, one at a time.

    Parameters
    ----------
    flats : iterable of Flat or astropy.nddata.CCDData
        One per detector, all of one filter and instrument; none is kept. The header of a CCDData names its detector.
    camera : Camera
        The camera that the flats were read with.
    defects : mapping of int to iterable of Box, optional
        By detector id.
    bin_factor, detector_boundary : int
        Side of a bin and width of the edge that is left out (pixels).
    use_non_science : bool
        Also take guider and wavefront detectors.

    Returns
    -------
    binned : BinnedFlat
        In the order of detector ids.

    Raises
    ------
    InputError
        Two flats of one detector, two filters or two instruments; nothing to bin; a bin that does not fit.
    """
    register = FlatRegister(camera, use_non_science)
    binned: dict[int, Columns] = {}
    for given in flats:
        flat = given if isinstance(given, Flat) else flat_of(given, camera, f"flat {register.seen}")
        del given
        if register.add(flat.detector, flat.physical_filter, flat.instrument, flat.path or f"flat {register.seen}"):
            boxes = (defects or {}).get(flat.detector.id, ())
            binned[flat.detector.id] = bin_flat(flat, boxes, bin_factor, detector_boundary)
        del flat  # else it would stay while the next one is read
    return register.assemble(binned)


def bin_files(
    paths: Iterable[str | Path],
    camera: Camera,
    *,
    defects: Mapping[int, Iterable[Box]] | None = None,
    bin_factor: int = BIN_FACTOR,
    detector_boundary: int = DETECTOR_BOUNDARY,
    mask_planes: Sequence[str] = DEFAULT_MASK_PLANES,
    physical_filter: str | None = None,
    detector_key: str | None = None,
    filter_key: str | None = None,
    use_non_science: bool = False,
    processes: Workers = 1,
    progress: Callable[[], object] | None = None,
) -> BinnedFlat:
    """Read and bin the flats of a focal plane; all headers are checked before any pixel is read.

    Parameters
    ----------
    paths : iterable of path
        FITS files, of one detector each or of several.
    camera, defects, bin_factor, detector_boundary, use_non_science
        As for `bin_focal_plane`.
    mask_planes, physical_filter, detector_key, filter_key
        As for `bayesflat.data.flats.read_flats`.
    processes : int or concurrent.futures.Executor
        Number of processes that read flats, or an executor; the result does not depend on it. A script that asks for
        more than one process needs the usual ``if __name__ == "__main__"``.
    progress : callable, optional
        Called once for each flat that is done, without arguments; those of detectors that are skipped count.

    Returns
    -------
    binned : BinnedFlat
        In the order of detector ids.

    Raises
    ------
    InputError
        As `bin_focal_plane` and `bayesflat.data.flats.read_flats` do.
    """
    if isinstance(processes, int) and processes < 1:
        raise InputError(f"processes is {processes}; it must be 1 or more")
    register = FlatRegister(camera, use_non_science)
    tasks: dict[str, tuple[list[FlatSource], dict[int, list[Box]]]] = {}
    skipped = 0
    for path in paths:
        sources = []
        for source in find_sources(
            path, camera, physical_filter, mask_planes=mask_planes, detector_key=detector_key, filter_key=filter_key
        ):
            flat = source.hdus
            if register.add(flat.detector, flat.physical_filter, flat.instrument, flat.where):
                _count_bins(flat.detector, bin_factor, detector_boundary)
                sources.append(source)
            else:
                skipped += 1
        for part in batched(sources, _AT_ONCE):
            boxes = {source.hdus.detector.id: list((defects or {}).get(source.hdus.detector.id, ())) for source in part}
            tasks[part[0].hdus.where] = (list(part), boxes)
    _log_masks([source for sources, _ in tasks.values() for source in sources])
    at = stage("binning", register.seen)

    def done() -> None:
        at.advance()
        if progress is not None:
            progress()

    for _ in range(skipped):
        done()
    work = partial(
        _read_and_bin, mask_planes=mask_planes, bin_factor=bin_factor, detector_boundary=detector_boundary
    )  # fmt: skip
    binned: dict[int, Columns] = {}
    names = {where: str(sources[0].path) for where, (sources, _) in tasks.items()}
    # an interrupt in progress() must end the pool too
    with closing(in_processes(work, tasks, processes, "reading flats", names=names)) as results:
        for _, columns in results:
            for number in columns:
                binned[number] = columns[number]
                done()
    return register.assemble(binned)


def _read_and_bin(
    sources: Sequence[FlatSource],
    boxes: Mapping[int, list[Box]],
    *,
    mask_planes: Sequence[str],
    bin_factor: int,
    detector_boundary: int,
) -> dict[int, Columns]:
    """Bins of flats in one file, one in memory at a time."""
    binned = {}
    with opened_fits(sources[0].path) as hdus:
        for source in sources:
            flat = read_hdus(hdus, source.hdus, mask_planes)
            binned[flat.detector.id] = bin_flat(flat, boxes[flat.detector.id], bin_factor, detector_boundary)
            del flat
    return binned


def _log_masks(sources: Sequence[FlatSource]) -> None:
    """Say how masks are read, with the number of flats that each way concerns."""
    for reading, n in sorted(Counter(source.mask for source in sources).items()):
        log.info("mask of %d of %d flats: %s", n, len(sources), reading or "there is none, or no plane of it is used")


class FlatRegister:
    """Checks that flats go together (one per detector, one filter, one instrument), and puts their bins together.

    Parameters
    ----------
    camera : Camera
    use_non_science : bool
        Whether guider and wavefront detectors are binned too.

    Attributes
    ----------
    seen : int
        Flats that were added, binned or not.
    paths : dict of int to str
        Where the flat of each detector that is binned comes from.
    filter, instrument : (str, str)
        The value that all flats share, and the flat that it was first found in; empty where none has one.
    """

    def __init__(self, camera: Camera, use_non_science: bool) -> None:
        self.camera = camera
        self.use_non_science = use_non_science
        self.seen = 0
        self.paths: dict[int, str] = {}
        self.filter = ("", "")
        self.instrument = ("", "")

    def add(self, detector: Detector, physical_filter: str, instrument: str, path: str) -> bool:
        """Add a flat; returns whether it is to be binned.

        Raises
        ------
        InputError
            Its detector is not the camera's or has a flat already, or its filter or instrument is another than that of
            the flats before.
        """
        self.seen += 1
        if detector.id not in self.camera or self.camera[detector.id] != detector:
            raise InputError(f"{path}: its detector {detector.name} is not one of camera {self.camera.name}")
        if not (detector.is_science or self.use_non_science):
            return False
        if detector.id in self.paths:
            raise InputError(
                f"{path}: detector {detector.id} ({detector.name}) is also in {self.paths[detector.id]}; "
                "a detector may have one flat"
            )
        self.paths[detector.id] = path
        self.filter = self._agree(self.filter, physical_filter, path, "filter")
        self.instrument = self._agree(self.instrument, instrument, path, "instrument")
        return True

    @staticmethod
    def _agree(first: tuple[str, str], value: str, path: str, what: str) -> tuple[str, str]:
        """The value of the first flat that has one, which all others must share."""
        if value and first[0] and value != first[0]:
            raise InputError(f"{path}: its {what} is {value}, that of {first[1]} is {first[0]}; a fit takes one {what}")
        return first if first[0] or not value else (value, path)

    def assemble(self, binned: Mapping[int, Columns]) -> BinnedFlat:
        """One table of the detectors' bins, in the order of their ids."""
        if not self.paths:
            if self.seen:
                raise InputError(
                    f"none of the {self.seen} flats is of a science detector; "
                    "do_use_non_science_detectors=true takes the others"
                )
            raise InputError("no flats given")
        empty = [number for number in sorted(binned) if not len(binned[number]["value"])]
        if len(empty) == len(binned):
            raise InputError(f"{self.paths[empty[0]]}: not one good pixel, as in all {len(empty)} flats given")
        for number in empty:
            log.warning(
                "%s: detector %d (%s) has no bin with a good pixel and is left out",
                self.paths[number],
                number,
                self.camera[number].name,
            )
        warn_of_filter(self.filter[0], self.camera, self.filter[1])
        parts = [binned[number] for number in sorted(binned)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return BinnedFlat.from_columns(
            columns, self.camera, instrument=self.instrument[0], physical_filter=self.filter[0], where="flats"
        )
