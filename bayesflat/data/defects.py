"""Defects of detectors: boxes of pixels to leave out, from a table per detector."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.finding import FITS_ENDINGS, find_files
from bayesflat.data.fitsfile import opened_fits
from bayesflat.data.headers import find_detector
from bayesflat.errors import InputError, first_line

log = logging.getLogger(__name__)

DETECTOR_KEYS = ("LSST BUTLER DATAID DETECTOR", "DETECTOR", "DET_NAME")
BOX_COLUMNS = ("x0", "y0", "width", "height")
REGION_COLUMNS = ("x", "y", "shape", "r")


@dataclass(frozen=True)
class Box:
    """A box of pixels, which may overhang the detector.

    Attributes
    ----------
    x0, y0 : int
        Lower left pixel, counted from 0; it belongs to the box.
    width, height : int
        Size (pixels).
    """

    x0: int
    y0: int
    width: int
    height: int


def apply_defects(bad: NDArray[np.bool_], boxes: Iterable[Box]) -> None:
    """Set the pixels of the boxes in ``bad``, shape (ny, nx); what overhangs is clipped."""
    for box in boxes:
        # a negative end would count from the far edge
        rows = slice(max(box.y0, 0), max(box.y0 + box.height, 0))
        columns = slice(max(box.x0, 0), max(box.x0 + box.width, 0))
        bad[rows, columns] = True


def find_defects(path: str | Path, camera: Camera) -> dict[int, list[Box]]:
    """Read the defects of any number of detectors.

    Parameters
    ----------
    path : path
        A table, a folder of tables (FITS and ECSV, not in folders below), or a glob.
    camera : Camera
        Must have the detectors.

    Returns
    -------
    defects : dict of int to list of Box
        By detector id.

    Raises
    ------
    InputError
        Nothing there, two tables of one detector, a table that does not say its detector, or as in `read_defects`.
    """
    tables: dict[int, Path] = {}
    defects: dict[int, list[Box]] = {}
    for file in find_files(path, (*FITS_ENDINGS, ".ecsv"), "defects"):
        detector, boxes = read_defects(file, camera)
        if detector is None:
            raise InputError(
                f"{file}: no detector is named; looked for {', '.join(DETECTOR_KEYS)} in "
                f"the header and for a detector of {camera.name} in the file name"
            )
        if detector.id in tables:
            raise InputError(
                f"{file}: defects of detector {detector.id} ({detector.name}) are also in {tables[detector.id]}; "
                "a detector may have one table"
            )
        tables[detector.id] = file
        defects[detector.id] = boxes
    return defects


def read_defects(path: str | Path, camera: Camera) -> tuple[Detector | None, list[Box]]:
    """Read the defects of one detector.

    Parameters
    ----------
    path : path
        FITS, or ECSV where it ends so. Columns, in any case, ``x0, y0, width, height`` (pixels from 0) or those of a
        FITS region, ``X, Y, SHAPE, R, ROTANG`` (pixels from 1): POINT, BOX, and ROTBOX at multiples of 90 degrees.
        Other shapes and angles are skipped with a warning in the log.
    camera : Camera
        Must have the detector.

    Returns
    -------
    detector : Detector or None
        From ``DETECTOR`` (id) and ``DET_NAME`` of the header, else from the file name; None where neither says.
    boxes : list of Box

    Raises
    ------
    InputError
        No such file, no table, other columns, values that are missing or no numbers, a detector that the camera lacks.
    """
    headers, columns = _read_table(path)
    return find_detector(headers, path, camera, DETECTOR_KEYS, Path(path).name), _read_boxes(columns, path)


def read_boxes(path: str | Path) -> list[Box]:
    """Read a table of defects as `read_defects` does, whatever it says of its detector."""
    return _read_boxes(_read_table(path)[1], path)


def _read_boxes(columns: Mapping[str, NDArray], path: str | Path) -> list[Box]:
    if all(name in columns for name in BOX_COLUMNS):
        return _boxes(columns, path)
    if all(name in columns for name in REGION_COLUMNS):
        return _regions(columns, path)
    raise InputError(
        f"{path}: not a table of defects; its columns must be {', '.join(BOX_COLUMNS)} or "
        f"X, Y, SHAPE, R, ROTANG, they are {', '.join(columns) or 'none'}"
    )


def _read_table(path: str | Path) -> tuple[list[Mapping], dict[str, NDArray]]:
    """Headers and columns (by names in lower case) of the first table in a file."""
    from astropy.table import Table

    if str(path).lower().endswith(".ecsv"):
        try:
            table = Table.read(path, format="ascii.ecsv")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except Exception as error:
            raise InputError(f"{path}: cannot be read as a table in ECSV ({first_line(error)})") from None
        return [table.meta], {name.lower(): table[name] for name in table.colnames}
    with opened_fits(path) as hdus:
        hdu = next((h for h in hdus if h.header.get("XTENSION") in ("BINTABLE", "TABLE") and not h.is_image), None)
        if hdu is None:
            raise InputError(f"{path}: there is no table in it")
        table = Table.read(hdu, format="fits")
        return [hdus[0].header, hdu.header], {name.lower(): table[name] for name in table.colnames}


def _boxes(columns: Mapping[str, NDArray], path: str | Path) -> list[Box]:
    boxes = []
    for row in range(len(columns["x0"])):
        x0, y0 = (_whole(columns, name, row, 0, path) for name in ("x0", "y0"))
        width, height = (_size(columns, name, row, 0, path) for name in ("width", "height"))
        boxes.append(Box(x0, y0, width, height))
    return boxes


def _regions(columns: Mapping[str, NDArray], path: str | Path) -> list[Box]:
    """Boxes of a FITS region table; pixel 0 has its centre at 1 there."""
    boxes = []
    for row, shape in enumerate(columns["shape"]):
        shape = shape.decode() if isinstance(shape, bytes) else str(shape)
        shape = shape.strip().upper()
        if shape not in ("POINT", "BOX", "ROTBOX"):
            log.warning("%s: row %d skipped: shape %s, accepted are POINT, BOX and ROTBOX", path, row, shape)
            continue
        x, y = (_number(columns, name, row, 0, path) for name in ("x", "y"))
        if shape == "POINT":
            boxes.append(Box(math.trunc(x - 1), math.trunc(y - 1), 1, 1))
            continue
        width, height = (_size(columns, "r", row, index, path) for index in (0, 1))
        if shape == "ROTBOX":
            angle = _number(columns, "rotang", row, 0, path)
            quarters = round(angle / 90)
            if abs(angle - 90 * quarters) > 1e-6:
                log.warning("%s: row %d skipped: ROTBOX at %g degrees, accepted are multiples of 90", path, row, angle)
                continue
            if quarters % 2:
                width, height = height, width
        # the -1 of the pixel count and the +1 of the box's first pixel cancel
        boxes.append(Box(math.floor(x - width / 2), math.floor(y - height / 2), width, height))
    return boxes


def _number(columns: Mapping[str, NDArray], name: str, row: int, index: int, path: str | Path) -> float:
    """One finite number of a column whose entries may be vectors."""
    if name not in columns:
        raise InputError(f"{path}: column {name} missing; it has {', '.join(columns)}")
    values = np.ma.atleast_1d(columns[name][row])
    if values.dtype.kind not in "iuf":
        raise InputError(f"{path}: column {name} holds text, numbers are needed")
    if len(values) <= index:
        raise InputError(f"{path}: row {row}, column {name} has {len(values)} values, {index + 1} are needed")
    if np.ma.is_masked(values[index]) or not np.isfinite(values[index]):
        raise InputError(f"{path}: row {row}, column {name} holds no finite number")
    return float(values[index])


def _whole(columns: Mapping[str, NDArray], name: str, row: int, index: int, path: str | Path) -> int:
    value = _number(columns, name, row, index, path)
    if value != int(value):
        raise InputError(f"{path}: row {row}, column {name} is {value}; it must be a whole number of pixels")
    return int(value)


def _size(columns: Mapping[str, NDArray], name: str, row: int, index: int, path: str | Path) -> int:
    value = _whole(columns, name, row, index, path)
    if value < 1:
        raise InputError(f"{path}: row {row}, column {name} is {value}; it must be at least 1 pixel")
    return value
