"""Cameras: named sets of detectors, built in or from a table."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bayesflat.data.detector import SCIENCE, Detector
from bayesflat.errors import InputError, first_line
from bayesflat.files import ROWS, check_rows, check_text_ends
from bayesflat.text import MOST_NAME, check_name, shown

LSSTCAM = "LSSTCam"
LIGHT_RADIUS = 350.0  # mm: where the light of LSSTCam's flats ends


class Camera:
    """A named set of detectors.

    Where detectors have a `Detector.group`, all science detectors must, and there are two at most.  The throughput
    ratio is that of the group with "ITL" in its name, else of the first in the alphabet, over the other one.

    Parameters
    ----------
    name : str
        Name of the instrument, as in ``INSTRUME``.
    detectors : iterable of Detector
        Any number of them, with unique ids and names.

    Raises
    ------
    InputError
        No detector, an id or a name twice, more than two groups, or a science detector without one.
    """

    def __init__(self, name: str, detectors: Iterable[Detector]) -> None:
        self.name = check_name(name, "its name (INSTRUME)", "camera")
        self._by_id: dict[int, Detector] = {}
        self._by_name: dict[str, Detector] = {}
        for detector in _in_groups(name, list(detectors)):
            check_name(detector.name, f"name of detector {detector.id}", f"camera {name}")
            if detector.id in self._by_id or detector.name in self._by_name:
                raise InputError(f"camera {name}: detector {detector.id} ({detector.name}) is there twice")
            self._by_id[detector.id] = detector
            self._by_name[detector.name] = detector
        if not self._by_id:
            raise InputError(f"camera {name} has no detectors")

    def __repr__(self) -> str:
        return f"Camera({self.name!r}, {len(self)} detectors)"

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Detector]:
        return iter(self._by_id.values())

    def __contains__(self, key: int | str) -> bool:
        return key in self._by_id or key in self._by_name

    def __getitem__(self, key: int | str) -> Detector:
        """The detector of that id (int) or name (str)."""
        found = self._by_name.get(key) if isinstance(key, str) else self._by_id.get(int(key))
        if found is None:
            ids = list(self._by_id)
            raise InputError(
                f"camera {self.name} has no detector {key}; it has {len(ids)}, ids {min(ids)} to {max(ids)}, "
                f"names {next(iter(self)).name} ..."
            )
        return found

    @property
    def radius(self) -> float:
        """Radius of the outermost corner of a science detector (of any detector where there is none), mm."""
        detectors = [d for d in self if d.is_science] or list(self)
        return float(max(np.hypot(*d.corners().T).max() for d in detectors))

    @property
    def scale(self) -> float:
        """Size relative to LSSTCam, by which lengths that fit LSSTCam are multiplied.

        It is 1 for LSSTCam; the outermost corner of any other camera is taken for the end of the light, which is at
        350 mm in LSSTCam.  Parts of a built-in camera, and coarsened ones, have the scale of the whole.
        """
        whole = _scale_of_named(self.name.lower())
        return self.radius / LIGHT_RADIUS if whole is None else whole

    def science(self) -> Camera:
        """The camera without guider, wavefront and focus detectors."""
        return Camera(self.name, [d for d in self if d.is_science])

    def coarsened(self, factor: int) -> Camera:
        """The camera with pixels ``factor`` times as large."""
        return Camera(self.name, [d.coarsened(factor) for d in self])

    def subset(self, keys: Iterable[int | str]) -> Camera:
        """The camera with the detectors of these ids or names only."""
        return Camera(self.name, [self[key] for key in keys])

    def write(self, path: str | Path, overwrite: bool = True) -> None:
        """Write the camera table (ECSV); its ``INSTRUME`` holds the name.

        Without ``overwrite``, a file that is there is an `InputError`.
        """
        from bayesflat.files import replacing

        with replacing(path, overwrite) as temporary:
            temporary.write_text("\n".join(self.to_lines()) + "\n", encoding="utf-8")

    def to_lines(self) -> list[str]:
        """Lines of the camera table in ECSV, which `from_lines` reads."""
        from astropy.table import Table

        names = [key for key in _COLUMNS if key != "group" or any(d.group for d in self)]
        rows = [[getattr(d, "id" if key == "detector" else key) for key in names] for d in self]
        table = Table(rows=rows, names=names, meta={"INSTRUME": self.name, ROWS: len(rows)})
        for key in _UNITS:
            table[key].unit = _UNITS[key]
        text = io.StringIO()
        table.write(text, format="ascii.ecsv")
        return text.getvalue().splitlines()

    @classmethod
    def from_lsst(cls, camera: Any) -> Camera:
        """The same camera as an ``lsst.afw.cameraGeom.Camera``, without LSST's code.

        Parameters
        ----------
        camera : lsst.afw.cameraGeom.Camera
            Used are its name, and of each detector id, name, purpose (``getType``), physical type, size, pixel size,
            orientation (position, reference pixel and yaw) and amplifiers.  Pitch and roll have no effect on positions
            to first order, and are left out.

        Returns
        -------
        Camera

        Raises
        ------
        InputError
            Something else than such a camera; pixels that are not square or not counted from 0; amplifiers that do not
            divide their detector evenly in columns and rows.
        """
        from bayesflat.data.from_lsst import detectors_from_lsst

        return cls(*detectors_from_lsst(camera))

    @classmethod
    def read(cls, path: str | Path) -> Camera:
        """Read a camera table (ECSV, or CSV where the file ends so).

        Its columns are the attributes of `Detector`, with ``detector`` for the id.  Its name is that of ``INSTRUME`` in
        an ECSV table, else of the file.

        Raises
        ------
        InputError
            No such file, not a table, a column missing or with values that it cannot hold.
        """
        return cls._of(_read_table(path), path)

    @classmethod
    def from_lines(cls, lines: Sequence[str], where: str | Path) -> Camera:
        """The camera of a table's lines, as of `to_lines`; ``where`` is what messages call it, errors as for `read`."""
        return cls._of(_parse_table(lines, where, "ECSV"), where)

    @classmethod
    def _of(cls, table, path: str | Path) -> Camera:
        check_rows(table.meta, len(table), f"camera {path}")
        missing = [key for key in _COLUMNS if key not in table.colnames and key not in _OPTIONAL]
        if missing:
            raise InputError(f"camera {path}: column {', '.join(missing)} missing; it has {', '.join(table.colnames)}")
        detectors = [_detector_from_row(path, number, row) for number, row in enumerate(table)]
        # a file may be called anything
        name = str(table.meta.get("INSTRUME") or re.sub(r"[^ -~]", "_", Path(path).stem)[:MOST_NAME])
        check_name(name, "INSTRUME", f"camera {path}")
        return cls(name, detectors)


_COLUMNS = {
    "detector": int,
    "name": str,
    "physical_type": str,
    "purpose": str,
    "x": float,
    "y": float,
    "yaw": float,
    "nx": int,
    "ny": int,
    "pixel_size": float,
    "refpos_x": float,
    "refpos_y": float,
    "amp_nx": int,
    "amp_ny": int,
    "group": str,
}
_OPTIONAL = ("amp_nx", "amp_ny", "group")
_UNITS = {
    "x": "mm",
    "y": "mm",
    "yaw": "deg",
    "nx": "pix",
    "ny": "pix",
    "pixel_size": "mm",
    "refpos_x": "pix",
    "refpos_y": "pix",
}


def _read_table(path: str | Path):
    """A table in ECSV or CSV, in UTF-8 with or without the mark that spreadsheets put first."""
    kind = "CSV" if str(path).lower().endswith(".csv") else "ECSV"
    try:
        if kind == "ECSV":  # spreadsheets need not end the last line
            check_text_ends(path)
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"camera {path}: no such file; accepted are {', '.join(NAMED_CAMERAS)} or a table in ECSV or CSV"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"camera {path}: not a table in {kind} ({first_line(error)})") from None
    return _parse_table(lines, path, kind)


def _parse_table(lines: Sequence[str], path: str | Path, kind: str):
    from astropy.io import ascii as formats
    from astropy.table import Table

    texts = [name for name in _COLUMNS if _COLUMNS[name] is str]
    # a detector called 05 would be a number
    options = {"converters": {name: [formats.convert_numpy(str)] for name in texts}} if kind == "CSV" else {}
    try:
        return Table.read(list(lines), format=f"ascii.{kind.lower()}", **options)
    except Exception as error:
        raise InputError(f"camera {path}: not a table in {kind} ({first_line(error)})") from None


def _in_groups(camera: str, detectors: list[Detector]) -> list[Detector]:
    """The detectors, those with a group as members of the first or the second one."""
    groups = sorted({d.group for d in detectors if d.group}, key=lambda group: ("ITL" not in group, group))
    if not groups:
        return detectors
    if len(groups) > 2:
        raise InputError(f"camera {camera}: the groups are {shown(', '.join(groups))}; at most two can be told apart")
    without = next((d for d in detectors if d.is_science and not d.group), None)
    if without is not None:
        raise InputError(f"camera {camera}: detector {without.id} ({without.name}) has no group; others have")
    # part of a camera keeps what the whole one has set
    first = groups[0] if len(groups) == 2 or "ITL" in groups[0] else None
    return [replace(d, itl=d.group == first) if d.group and d.itl is None else d for d in detectors]


def _detector_from_row(path: str | Path, number: int, row) -> Detector:
    """A detector from one row of the camera table, or an error that names the row and the column."""
    values = {}
    for key, kind in _COLUMNS.items():
        if key in _OPTIONAL and key not in row.colnames:
            continue
        if key == "group" and np.ma.is_masked(row[key]):  # guiders need none
            continue
        if np.ma.is_masked(row[key]):
            raise InputError(f"camera {path}: row {number}, column {key} has no value")
        try:
            value = kind(row[key])
            if kind is int and value != float(row[key]):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"camera {path}: row {number}, column {key}: {shown(row[key])} is not {kind.__name__}"
            ) from None
        if kind is not str and not math.isfinite(value):
            raise InputError(f"camera {path}: row {number}, column {key} is not finite")
        if key in ("nx", "ny", "pixel_size", "amp_nx", "amp_ny") and value <= 0:
            raise InputError(f"camera {path}: row {number}, column {key} is {value}; it must be above 0")
        values["id" if key == "detector" else key] = value
    return Detector(**values)


# ---- LSST's cameras (sizes in pixels of 10 um, positions in mm; from LSST's obs_lsst camera descriptions) ----

_E2V = partial(Detector, physical_type="E2V", nx=4096, ny=4004, pixel_size=0.01, refpos_x=2047.5, refpos_y=2001.5)
_ITL = partial(Detector, physical_type="ITL", nx=4072, ny=4000, pixel_size=0.01, refpos_x=2036.5, refpos_y=2000.5)
_ITL_GUIDER = partial(_ITL, physical_type="ITL_G")
_ITL_WAVEFRONT = partial(_ITL, physical_type="ITL_WF", ny=2000, refpos_y=1000.5, amp_ny=1)
_ITL_RAFTS = ("R01", "R02", "R03", "R10", "R20", "R41", "R42", "R43")
_RAFT_PITCH = 127.0
_CCD_PITCH = 42.25
_CORNERS = (  # id, name, x, y, yaw
    (189, "R00_SG0", -212.24, -258.74, 90.0),
    (190, "R00_SG1", -258.74, -212.24, 180.0),
    (191, "R00_SW0", -214.25, -202.625, 180.0),
    (192, "R00_SW1", -214.25, -225.875, 0.0),
    (193, "R04_SG0", 258.74, -212.24, 180.0),
    (194, "R04_SG1", 212.24, -258.74, 270.0),
    (195, "R04_SW0", 202.625, -214.25, 270.0),
    (196, "R04_SW1", 225.875, -214.25, 90.0),
    (197, "R40_SG0", -258.74, 212.24, 0.0),
    (198, "R40_SG1", -212.24, 258.74, 90.0),
    (199, "R40_SW0", -202.625, 214.25, 90.0),
    (200, "R40_SW1", -225.875, 214.25, 270.0),
    (201, "R44_SG0", 212.24, 258.74, 270.0),
    (202, "R44_SG1", 258.74, 212.24, 0.0),
    (203, "R44_SW0", 214.25, 202.625, 0.0),
    (204, "R44_SW1", 214.25, 225.875, 180.0),
)


def _raft(name: str, first_id: int, x: float, y: float, kind: Callable[..., Detector]) -> list[Detector]:
    """The nine CCDs of a science raft, S00 to S22: row a, column b."""
    return [
        kind(
            id=first_id + 3 * a + b,
            name=f"{name}_S{a}{b}",
            purpose=SCIENCE,
            x=x + (b - 1) * _CCD_PITCH,
            y=y + (a - 1) * _CCD_PITCH,
            yaw=0.0,
        )
        for a in range(3)
        for b in range(3)
    ]


def lsstcam() -> Camera:
    """LSSTCam: 189 science, 8 guider and 8 wavefront detectors, ids 0 to 204."""
    detectors: list[Detector] = []
    for i in range(5):
        for j in range(5):
            if i in (0, 4) and j in (0, 4):
                continue
            raft = f"R{i}{j}"
            kind = _ITL if raft in _ITL_RAFTS else _E2V
            detectors += _raft(raft, len(detectors), (j - 2) * _RAFT_PITCH, (i - 2) * _RAFT_PITCH, kind)
    for number, name, x, y, yaw in _CORNERS:
        guider = name[-2] == "G"
        kind = _ITL_GUIDER if guider else _ITL_WAVEFRONT
        purpose = "guider" if guider else "wavefront"
        detectors.append(kind(id=number, name=name, purpose=purpose, x=x, y=y, yaw=yaw))
    return Camera(LSSTCAM, detectors)


def lsstcomcam() -> Camera:
    """LSSTComCam: raft R22 alone, nine ITL detectors, ids 0 to 8."""
    return Camera("LSSTComCam", _raft("R22", 0, 0.0, 0.0, _ITL))


# ---- cameras of other observatories: tables beside this module, which say where their numbers come from ----


def _from_table(name: str) -> Camera:
    with resources.as_file(resources.files("bayesflat.data") / "tables" / f"{name}.ecsv") as path:
        return Camera.read(path)


def decam() -> Camera:
    """DECam: 62 science CCDs of 2048 x 4096 pixels with the ids of ``CCDNUM``, 8 focus and 4 guide CCDs.

    Pixels and focal plane are those of the images and their ``DETSEC``: x grows from S29, S30, S31 to N29, N30, N31.
    """
    return _from_table("decam")


def hsc() -> Camera:
    """Hyper Suprime-Cam: 104 science CCDs of 2048 x 4176 pixels, ids 0 to 103 of ``DET-ID``, and 8 focus CCDs.

    Pixels are those of LSST's pipelines, which mirror the raw images.
    """
    return _from_table("hsc")


NAMED_CAMERAS = {"lsstcam": lsstcam, "lsstcomcam": lsstcomcam, "decam": decam, "hsc": hsc}


@cache
def _scale_of_named(name: str) -> float | None:
    """Scale of the built-in camera of that name; None where there is none."""
    if name not in NAMED_CAMERAS:
        return None
    return 1.0 if name == LSSTCAM.lower() else NAMED_CAMERAS[name]().radius / LIGHT_RADIUS


def get_camera(name_or_table: str | Path) -> Camera:
    """A camera by its name (``lsstcam``, ``lsstcomcam``, ``decam``, ``hsc``, in any case) or from a table on disk."""
    named = NAMED_CAMERAS.get(str(name_or_table).lower())
    return named() if named else Camera.read(name_or_table)


def is_built_in(camera: Camera) -> bool:
    """Whether the camera is all of the built-in one of its name, as it is."""
    named = NAMED_CAMERAS.get(camera.name.lower())
    return named is not None and list(camera) == list(named())
