"""Where each detector lies: pixels to focal plane and back, and the amplifier that a pixel belongs to.

Pixel (0, 0) has its *centre* at (0, 0), so a detector covers -0.5 .. nx - 0.5.  Positions on the focal plane are in mm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.errors import InputError, first_line

SCIENCE = "science"


@dataclass(frozen=True)
class Detector:
    """One detector of a camera.

    Attributes
    ----------
    id : int
        Number of the detector.
    name : str
        Name, for LSSTCam raft and slot (``R22_S11``).
    physical_type : str
        Maker's type; a detector whose type contains "ITL" is an ITL one.
    purpose : str
        ``science``, ``guider`` or ``wavefront``; only science detectors are fitted unless asked otherwise.
    x, y : float
        Position of the reference point on the focal plane (mm).
    yaw : float
        Rotation, counter-clockwise (degrees).
    nx, ny : int
        Size (pixels).
    pixel_size : float
        Side of a pixel (mm).
    refpos_x, refpos_y : float
        The pixel that lies at ``x, y``.
    amp_nx, amp_ny : int
        Columns and rows of amplifiers.
    """

    id: int
    name: str
    physical_type: str
    purpose: str
    x: float
    y: float
    yaw: float
    nx: int
    ny: int
    pixel_size: float
    refpos_x: float
    refpos_y: float
    amp_nx: int = 8
    amp_ny: int = 2

    @property
    def is_itl(self) -> bool:
        """Whether it belongs to the ITL group (the other group is the rest)."""
        return "ITL" in self.physical_type

    @property
    def is_science(self) -> bool:
        """Whether it takes science images."""
        return self.purpose.lower() == SCIENCE

    @property
    def n_amplifiers(self) -> int:
        """Number of amplifiers."""
        return self.amp_nx * self.amp_ny

    def _rotation(self) -> tuple[float, float]:
        """Cosine and sine of the yaw, exact at multiples of 90 degrees."""
        quarter, rest = divmod(self.yaw, 90.0)
        if rest == 0.0:
            return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarter) % 4]
        return math.cos(math.radians(self.yaw)), math.sin(math.radians(self.yaw))

    def pixel_to_focal_plane(self, px: ArrayLike, py: ArrayLike) -> tuple[NDArray, NDArray]:
        """Focal-plane position of pixel positions.

        Parameters
        ----------
        px, py : array_like
            Pixel positions, zero at the centre of the first pixel; any shapes that broadcast.

        Returns
        -------
        xf, yf : numpy.ndarray
            ``R(yaw) @ ((px, py) - refpos) * pixel_size + (x, y)`` (mm).
        """
        cos, sin = self._rotation()
        u = (np.asarray(px, dtype=float) - self.refpos_x) * self.pixel_size
        v = (np.asarray(py, dtype=float) - self.refpos_y) * self.pixel_size
        return cos * u - sin * v + self.x, sin * u + cos * v + self.y

    def focal_plane_to_pixel(self, xf: ArrayLike, yf: ArrayLike) -> tuple[NDArray, NDArray]:
        """Pixel positions of focal-plane positions (mm): the inverse of `pixel_to_focal_plane`."""
        cos, sin = self._rotation()
        u = (np.asarray(xf, dtype=float) - self.x) / self.pixel_size
        v = (np.asarray(yf, dtype=float) - self.y) / self.pixel_size
        return cos * u + sin * v + self.refpos_x, -sin * u + cos * v + self.refpos_y

    def amplifier(self, px: ArrayLike, py: ArrayLike) -> NDArray[np.int64]:
        """Amplifier ``column + amp_nx * row`` of pixel positions, counted from the corner of pixel (0, 0).

        Positions beyond the edge count for the amplifier at that edge.
        """
        column = np.floor((np.asarray(px, dtype=float) + 0.5) * self.amp_nx / self.nx).astype(np.int64)
        row = np.floor((np.asarray(py, dtype=float) + 0.5) * self.amp_ny / self.ny).astype(np.int64)
        return np.clip(column, 0, self.amp_nx - 1) + self.amp_nx * np.clip(row, 0, self.amp_ny - 1)

    def corners(self) -> NDArray:
        """The four corners on the focal plane, in order around the detector: shape (4, 2), mm."""
        px = np.array([-0.5, self.nx - 0.5, self.nx - 0.5, -0.5])
        py = np.array([-0.5, -0.5, self.ny - 0.5, self.ny - 0.5])
        return np.column_stack(self.pixel_to_focal_plane(px, py))

    def coarsened(self, factor: int) -> Detector:
        """The same detector with pixels ``factor`` times as large, ``nx // factor`` by ``ny // factor`` of them."""
        if factor < 1 or factor > min(self.nx, self.ny):
            raise InputError(
                f"coarsening factor {factor} does not fit detector {self.name} of {self.nx} x {self.ny} pixels"
            )
        return replace(
            self,
            nx=self.nx // factor,
            ny=self.ny // factor,
            pixel_size=self.pixel_size * factor,
            refpos_x=(self.refpos_x - (factor - 1) / 2) / factor,
            refpos_y=(self.refpos_y - (factor - 1) / 2) / factor,
        )


class Camera:
    """A named set of detectors.

    Parameters
    ----------
    name : str
        Name of the instrument, as in ``INSTRUME``.
    detectors : iterable of Detector
        Any number of them, with unique ids and names.

    Raises
    ------
    InputError
        No detector, or an id or a name twice.
    """

    def __init__(self, name: str, detectors: Iterable[Detector]) -> None:
        self.name = name
        self._by_id: dict[int, Detector] = {}
        self._by_name: dict[str, Detector] = {}
        for detector in detectors:
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

    def science(self) -> Camera:
        """The camera without guider and wavefront detectors."""
        return Camera(self.name, [d for d in self if d.is_science])

    def coarsened(self, factor: int) -> Camera:
        """The camera with pixels ``factor`` times as large."""
        return Camera(self.name, [d.coarsened(factor) for d in self])

    def subset(self, keys: Iterable[int | str]) -> Camera:
        """The camera with the detectors of these ids or names only."""
        return Camera(self.name, [self[key] for key in keys])

    def write(self, path: str | Path) -> None:
        """Write the camera table (ECSV); its ``INSTRUME`` holds the name."""
        from astropy.table import Table

        from bayesflat.files import replacing

        rows = [[getattr(d, "id" if key == "detector" else key) for key in _COLUMNS] for d in self]
        table = Table(rows=rows, names=list(_COLUMNS), meta={"INSTRUME": self.name})
        for key in _UNITS:
            table[key].unit = _UNITS[key]
        with replacing(path) as temporary:
            table.write(temporary, format="ascii.ecsv")

    @classmethod
    def read(cls, path: str | Path) -> Camera:
        """Read a camera table (ECSV; its columns are the attributes of `Detector`, with ``detector`` for the id).

        Raises
        ------
        InputError
            No such file, not a table, a column missing or with values that it cannot hold.
        """
        from astropy.table import Table

        try:
            table = Table.read(path, format="ascii.ecsv")
        except FileNotFoundError:
            raise InputError(
                f"camera {path}: no such file; accepted are {', '.join(NAMED_CAMERAS)} or a table in ECSV"
            ) from None
        except Exception as error:
            raise InputError(f"camera {path}: not a table in ECSV ({first_line(error)})") from None
        missing = [key for key in _COLUMNS if key not in table.colnames and key not in _OPTIONAL]
        if missing:
            raise InputError(f"camera {path}: column {', '.join(missing)} missing; it has {', '.join(table.colnames)}")
        detectors = [_detector_from_row(path, number, row) for number, row in enumerate(table)]
        return cls(str(table.meta.get("INSTRUME", Path(path).stem)), detectors)


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
}
_OPTIONAL = ("amp_nx", "amp_ny")
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


def _detector_from_row(path: str | Path, number: int, row) -> Detector:
    """A detector from one row of the camera table, or an error that names the row and the column."""
    values = {}
    for key, kind in _COLUMNS.items():
        if key in _OPTIONAL and key not in row.colnames:
            continue
        if np.ma.is_masked(row[key]):
            raise InputError(f"camera {path}: row {number}, column {key} has no value")
        try:
            value = kind(row[key])
            if kind is int and value != float(row[key]):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"camera {path}: row {number}, column {key}: {row[key]} is not {kind.__name__}") from None
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
    return Camera("LSSTCam", detectors)


def lsstcomcam() -> Camera:
    """LSSTComCam: raft R22 alone, nine ITL detectors, ids 0 to 8."""
    return Camera("LSSTComCam", _raft("R22", 0, 0.0, 0.0, _ITL))


NAMED_CAMERAS = {"lsstcam": lsstcam, "lsstcomcam": lsstcomcam}


def get_camera(name_or_table: str | Path) -> Camera:
    """A camera by its name (``lsstcam``, ``lsstcomcam``, in any case) or from a table on disk."""
    named = NAMED_CAMERAS.get(str(name_or_table).lower())
    return named() if named else Camera.read(name_or_table)
