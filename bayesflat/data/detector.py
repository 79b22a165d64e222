"""Where a detector lies: pixels to focal plane and back, and the amplifier that a pixel belongs to.

Pixel (0, 0) has its *centre* at (0, 0), so a detector covers -0.5 .. nx - 0.5.  Positions on the focal plane are in mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.errors import InputError

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
        Maker's type; a detector whose type contains "ITL" is an ITL one, unless it has a group.
    purpose : str
        ``science``, ``guider``, ``wavefront``, ``focus``; only science detectors are fitted unless asked otherwise.
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
    group : str
        One of two groups of detectors whose throughputs differ; empty: the physical type tells.
    itl : bool or None
        Whether `group` is the one whose throughput stands above the line of the ratio; set by the camera.
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
    group: str = ""
    itl: bool | None = None

    @property
    def is_itl(self) -> bool:
        """Whether it belongs to the ITL group, or to the first of a camera's own groups (the other is the rest)."""
        return "ITL" in self.physical_type if self.itl is None else self.itl

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
