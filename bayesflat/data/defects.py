"""Defects of detectors: boxes of pixels to leave out, from a table per detector."""

from __future__ import annotations

import glob
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.finding import FITS_ENDINGS, find_files
from bayesflat.data.fitsfile import opened_fits
from bayesflat.data.headers import check_instrument, detector_called, find_detector
from bayesflat.errors import InputError, first_line
from bayesflat.files import check_rows, check_text_ends
from bayesflat.text import shown

log = logging.getLogger(__name__)

DETECTOR_KEYS = ("LSST BUTLER DATAID DETECTOR", "DETECTOR", "DET_NAME")
BOX_COLUMNS = ("x0", "y0", "width", "height")
REGION_COLUMNS = ("x", "y", "shape", "r")
_DATE = re.compile(r"(?<!\d)\d{4}-?\d\d-?\d\d(T\d\d:?\d\d(:?\d\d(\.\d+)?)?(Z|[-+]\d\d:?\d\d)?)?(?!\d)")


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


@dataclass(frozen=True)
class _Table:
    """A table of defects, and the moment from which on it holds, where it says so."""

    path: Path
    detector: Detector
    boxes: list[Box]
    since: datetime | None


def find_defects(path: str | Path, camera: Camera, date: str | None = None) -> dict[int, list[Box]]:
    """Read the defects of any number of detectors.

    Parameters
    ----------
    path : path
        A table; a folder of tables (FITS and ECSV), or of folders of tables, as LSST keeps them: a folder for each
        detector, with a table for each date from which on it holds; or a glob.
    camera : Camera
        Must have the detectors.
    date : str, optional
        Which of several tables of a detector holds: the latest that is not after this date (UTC), in ISO form.

    Returns
    -------
    defects : dict of int to list of Box
        By detector id.

    Raises
    ------
    InputError
        Nothing there, two tables of one detector that dates do not tell apart, a table that does not say its detector,
        no date, or as in `read_defects`.
    """
    when = None if date is None else _parse_date(date, "--defects-date")
    tables: dict[int, list[_Table]] = {}
    for file in find_files(path, (*FITS_ENDINGS, ".ecsv"), "defects", tree=True):
        table = _read(file, Path(path), camera)
        tables.setdefault(table.detector.id, []).append(table)
    found = {number: _holding(several, when) for number, several in tables.items()}
    return {number: table.boxes for number, table in found.items() if table is not None}


def _holding(tables: list[_Table], when: datetime | None) -> _Table | None:
    """The one table of a detector that holds at a moment; None where the first one comes later."""
    detector = f"detector {tables[0].detector.id} ({tables[0].detector.name})"
    if len(tables) > 1:
        dates = sorted({table.since for table in tables if table.since is not None})
        if len(dates) < len(tables):
            raise InputError(
                f"{tables[1].path}: defects of {detector} are also in {tables[0].path}; "
                "a detector may have one table, or one of each date"
            )
        if when is None:
            of_dates = ", ".join(date.isoformat() for date in dates)
            raise InputError(f"{tables[0].path.parent}: {detector} has defects of {of_dates}; --defects-date chooses")
    if when is None:
        return tables[0]
    before = [table for table in tables if table.since is None or table.since <= when]
    if not before:
        log.warning("%s: %s has no defects yet at %s", tables[0].path, detector, when.isoformat())
        return None
    return max(before, key=lambda table: table.since or datetime.min)


def _read(file: Path, root: Path, camera: Camera) -> _Table:
    """A table with detector and date, from its header, its name, or the folders that it lies in."""
    headers, columns = _read_table(file)
    check_instrument(_text(headers, "INSTRUME"), camera, file)
    detector = find_detector(headers, file, camera, DETECTOR_KEYS, file.name)
    folders = [part for part in file.parts[len(root.parts) - 1 : -1] if not glob.has_magic(part)]
    named = [found for found in (detector_called(part, camera) for part in folders) if found is not None]
    if detector is not None and named and named[-1] != detector:
        raise InputError(
            f"{file}: is of detector {detector.name}, its folder of {named[-1].name} in camera {camera.name}; "
            "is it the right camera?"
        )
    detector = detector or (named[-1] if named else None)
    if detector is None:
        raise InputError(
            f"{file}: no detector is named; looked for {', '.join(DETECTOR_KEYS)} in "
            f"the header and for a detector of {camera.name} in the file name and those of its folders"
        )
    texts = [file.name[: file.name.rindex(".")], _text(headers, "CALIBDATE"), *reversed(folders)]
    since = next((moment for moment in map(_date_in, texts) if moment is not None), None)
    return _Table(file, detector, boxes_of_columns(columns, file), since)


def _text(headers: list[Mapping], key: str) -> str:
    return next((str(header[key]).strip() for header in headers if header.get(key)), "")


def _parse_date(text: str, where: str) -> datetime:
    moment = _date_in(text)
    if moment is None:
        raise InputError(f"{where} {text}: not a date such as 2026-01-31 or 2026-01-31T12:00:00")
    return moment


def _date_in(text: str) -> datetime | None:
    """The moment (UTC) that stands in a text, as in CALIBDATE or in LSST's names of files, 20260131T120000."""
    found = _DATE.search(text)
    try:
        moment = datetime.fromisoformat(found[0]) if found else None
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment


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
        No such file, no table, other columns, values that are missing or no numbers, a detector that the camera lacks,
        another camera's INSTRUME.
    """
    headers, columns = _read_table(path)
    check_instrument(_text(headers, "INSTRUME"), camera, path)
    return find_detector(headers, path, camera, DETECTOR_KEYS, Path(path).name), boxes_of_columns(columns, path)


def read_boxes(path: str | Path) -> list[Box]:
    """Read a table of defects as `read_defects` does, whatever it says of its detector."""
    return boxes_of_columns(_read_table(path)[1], path)


def boxes_of_columns(columns: Mapping[str, NDArray], path: str | Path) -> list[Box]:
    """Boxes from the columns of a table, by their names in lower case; as `read_defects`."""
    if all(name in columns for name in BOX_COLUMNS):
        return _boxes(columns, path)
    if all(name in columns for name in REGION_COLUMNS):
        return _regions(columns, path)
    raise InputError(
        f"{path}: not a table of defects; its columns must be {', '.join(BOX_COLUMNS)} or "
        f"X, Y, SHAPE, R, ROTANG, they are {shown(', '.join(columns)) or 'none'}"
    )


def _read_table(path: str | Path) -> tuple[list[Mapping], dict[str, NDArray]]:
    """Headers and columns (by names in lower case) of the first table in a file."""
    from astropy.table import Table

    if str(path).lower().endswith(".ecsv"):
        try:
            check_text_ends(path)
            table = Table.read(path, format="ascii.ecsv")
            check_rows(table.meta, len(table), path)
        except InputError:
            raise
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
            log.warning("%s: row %d skipped: shape %s, accepted are POINT, BOX and ROTBOX", path, row, shown(shape))
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
        raise InputError(f"{path}: column {name} missing; it has {shown(', '.join(columns))}")
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
