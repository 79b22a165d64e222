"""The pixels of an HDU as numbers: blanks, the part of an untrimmed image that is the detector, and masks."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.camera import Detector
from bayesflat.errors import InputError
from bayesflat.text import shown

log = logging.getLogger(__name__)

DEFAULT_MASK_PLANES = ("NO_DATA",)
SECTIONS = ("TRIMSEC", "DATASEC")

Window = tuple[slice, slice]  # rows and columns


def read_pixels(hdu) -> NDArray:
    """An HDU's pixels: floats in their own type, integers in float32 with NaN where they are BLANK.

    astropy does the latter as long as pixels are signed and BLANK is not 0.
    """
    blank, zero, scale = (hdu.header.get(key) for key in ("BLANK", "BZERO", "BSCALE"))
    whole = hdu.header["BITPIX"] > 0
    data = hdu.data
    empty = None
    if whole and isinstance(blank, int) and (data.dtype.kind in "iu" or blank == 0):
        zero, scale = zero or 0, 1 if scale is None else scale
        empty = data == blank * scale + zero
    pixels = data if data.dtype.kind == "f" else data.astype(np.float32)
    if empty is not None and empty.any():
        pixels[empty] = np.nan
    return pixels


def check_shape(shape: tuple[int, ...], detector: Detector, where: str | Path) -> None:
    """Raise `InputError` unless an image has the detector's size."""
    if tuple(shape) != (detector.ny, detector.nx):
        raise InputError(_wrong_size(shape, detector, where) + "; for other sizes give --camera a camera table")


def _wrong_size(shape: tuple[int, ...], detector: Detector, where: str | Path) -> str:
    return (
        f"{where}: the image has {' x '.join(str(n) for n in reversed(shape))} pixels, detector {detector.name} of "
        f"the camera {detector.nx} x {detector.ny}"
    )


def find_window(header: Mapping, shape: tuple[int, ...], detector: Detector, where: str | Path) -> Window:
    """The part of an image that is the detector's: all of it, or what TRIMSEC or DATASEC say.

    These cards often stay behind when an image is trimmed, so they count only where the image has another size.

    Raises
    ------
    InputError
        Neither gives the detector's exact size.
    """
    if tuple(shape) == (detector.ny, detector.nx):
        return slice(None), slice(None)
    tried = []
    for key in SECTIONS:
        text = header.get(key)
        window = _parse(text, shape)
        if window and [part.stop - part.start for part in window] == [detector.ny, detector.nx]:
            return window
        if text:
            tried.append(f"{key} {shown(text)}")
    if tried:
        raise InputError(f"{_wrong_size(shape, detector, where)}, which {' and '.join(tried)} do not give either")
    check_shape(shape, detector, where)
    raise AssertionError


def _parse(section: object, shape: tuple[int, ...]) -> Window | None:
    """``[x1:x2,y1:y2]``, counted from 1 with both ends; None for anything else, or what overhangs the image."""
    found = re.fullmatch(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", str(section))
    if not found or len(shape) != 2:
        return None
    x1, x2, y1, y2 = (int(number) for number in found.groups())
    if not (1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]):
        return None
    return slice(y1 - 1, y2), slice(x1 - 1, x2)


def read_flagged(
    hdu, where: str | Path, mask_planes: Sequence[str], shape: tuple[int, ...], window: Window
) -> NDArray[np.bool_] | None:
    """Pixels that any of the mask planes flags, or None where no plane can flag any.

    Parameters
    ----------
    hdu : HDU or None
        The mask. Where its header has no planes (``MP_`` cards), as in astropy's CCDData, whatever is not 0 is bad.
    where : path
    mask_planes : sequence of str
        Without any, nothing is flagged.
    shape : tuple of int
        Of the image in the file, which the mask shares.
    window : tuple of slice
        The part of it that is the detector's; a mask of just this size will do.

    Raises
    ------
    InputError
        A plane that the mask lacks; a mask of another size, or not of integers.
    """
    reading = how_mask_is_read(None if hdu is None else hdu.header, mask_planes)
    # bit numbers differ from file to file: only this header knows them
    planes = _planes(hdu.header) if hdu is not None else {}
    bits = find_bits(planes, mask_planes, where)
    if hdu is None or not reading:
        return None
    log.debug("%s: mask %s", where, reading)
    sizes = [shape, _size(window, shape)]
    kind = np.dtype(f"f{-hdu.header['BITPIX'] // 8}").name if hdu.header["BITPIX"] < 0 else "integers"
    if (
        kind != "integers" or hdu.shape not in sizes
    ):  # before it is read: a compressed one may be said to be of any size
        raise InputError(
            f"{where}: MASK must hold integers in the image's shape {shape}, it holds {kind} in {hdu.shape}"
        )
    mask = hdu.data
    if mask.dtype.kind not in "iu":  # BSCALE makes floats of them
        raise InputError(f"{where}: MASK must hold integers, BZERO and BSCALE make it {mask.dtype.name}")
    if mask.shape == shape:
        mask = mask[window]
    if not planes:
        return mask != 0
    return flagged(mask, bits, where)


def find_bits(planes: Mapping[str, int], mask_planes: Sequence[str], where: str | Path) -> list[int]:
    """Bit numbers of mask planes, by those that a mask has; a mask need not have NO_DATA.

    Raises
    ------
    InputError
        A plane that the mask lacks.
    """
    lacking = [plane for plane in mask_planes if plane not in planes and plane not in DEFAULT_MASK_PLANES]
    if lacking:
        has = shown(", ".join(planes)) if planes else "no mask planes"
        raise InputError(f"{where}: mask plane {', '.join(lacking)} is not in it; it has {has}")
    return [planes[plane] for plane in mask_planes if plane in planes]


def flagged(mask: NDArray, bits: Sequence[int], where: str | Path) -> NDArray[np.bool_]:
    """Pixels of a mask of integers that have any of some bits; errors as `check_bit`."""
    width = 8 * mask.dtype.itemsize
    for bit in bits:
        check_bit(bit, width, where)
    value = sum(1 << bit for bit in set(bits))
    if mask.dtype.kind == "i" and value >= 1 << (width - 1):
        value -= 1 << width  # the topmost bit is the sign
    return (mask & mask.dtype.type(value)) != 0


def check_bit(bit: object, width: int, where: str | Path) -> None:
    """Refuse an MP_ card that is no bit number of a mask; T is none, although Python takes it for 1.

    Raises
    ------
    InputError
        It is not a whole number from 0 to ``width - 1``.
    """
    if isinstance(bit, bool) or not isinstance(bit, int) or not 0 <= bit < width:
        raise InputError(f"{where}: MP_ bit numbers of MASK must be 0 to {width - 1}, one is {bit!r}")


def how_mask_is_read(header: Mapping | None, mask_planes: Sequence[str]) -> str:
    """In words for the log: which pixels of a mask are bad; empty where it flags none."""
    if header is None or not mask_planes:
        return ""
    planes = _planes(header)
    if not planes:
        return "has no planes (MP_ cards): whatever is not 0 is bad"
    used = [plane for plane in mask_planes if plane in planes]
    return f"plane {', '.join(used)} is bad" if used else ""


def _planes(header: Mapping) -> dict[str, int]:
    return {key[3:]: value for key, value in header.items() if key.startswith("MP_")}


def _size(window: Window, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(len(range(*part.indices(n))) for part, n in zip(window, shape, strict=True))
