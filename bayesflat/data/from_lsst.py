"""Cameras of LSST's code: `lsst.afw.cameraGeom.Camera` by its methods, without importing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayesflat.data.detector import Detector
from bayesflat.errors import InputError

_UNEVEN = 1.0  # pixel by which amplifiers may deviate from an even division


def detectors_from_lsst(camera: Any) -> tuple[str, list[Detector]]:
    """Name and detectors of a camera; see `bayesflat.data.camera.Camera.from_lsst`."""
    try:
        return str(camera.getName()), [_detector(one) for one in camera]
    except (AttributeError, TypeError) as error:
        raise InputError(f"{type(camera).__name__}: no camera as lsst.afw.cameraGeom has them ({error})") from None


def _detector(detector: Any) -> Detector:
    name, box, pixel, place = detector.getName(), detector.getBBox(), detector.getPixelSize(), detector.getOrientation()
    nx, ny = box.getWidth(), box.getHeight()
    if (box.getMinX(), box.getMinY()) != (0, 0):
        raise InputError(
            f"detector {name}: its pixels are counted from ({box.getMinX()}, {box.getMinY()}); (0, 0) is accepted"
        )
    if pixel.getX() != pixel.getY():
        raise InputError(f"detector {name}: pixels of {pixel.getX():g} x {pixel.getY():g} mm; they must be square")
    position, reference = place.getFpPosition(), place.getReferencePoint()
    amp_nx, amp_ny = _amplifiers(name, [one.getBBox() for one in detector.getAmplifiers()], nx, ny)
    return Detector(
        id=int(detector.getId()),
        name=str(name),
        physical_type=str(detector.getPhysicalType()),
        purpose=str(detector.getType()).rpartition(".")[2].lower(),  # an enum: DetectorType.SCIENCE
        x=float(position.getX()),
        y=float(position.getY()),
        yaw=float(place.getYaw().asDegrees()),
        nx=int(nx),
        ny=int(ny),
        pixel_size=float(pixel.getX()),
        refpos_x=float(reference.getX()),
        refpos_y=float(reference.getY()),
        amp_nx=amp_nx,
        amp_ny=amp_ny,
    )


def _amplifiers(name: str, boxes: Sequence[Any], nx: int, ny: int) -> tuple[int, int]:
    """Columns and rows of amplifiers, which must divide the detector evenly; 1 and 1 where none are known."""
    if not boxes:
        return 1, 1
    lefts, bottoms = sorted({box.getMinX() for box in boxes}), sorted({box.getMinY() for box in boxes})
    columns, rows = len(lefts), len(bottoms)
    even = all(
        abs(start - k * length / len(starts)) <= _UNEVEN
        for starts, length in ((lefts, nx), (bottoms, ny))
        for k, start in enumerate(starts)
    )
    if columns * rows != len(boxes) or not even:
        raise InputError(
            f"detector {name}: its {len(boxes)} amplifiers do not divide {nx} x {ny} pixels evenly in columns and rows"
        )
    return columns, rows
