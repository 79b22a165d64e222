"""Flats and defects as LSST's code has them in memory, by their methods, without importing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayesflat.data.defects import Box, boxes_of_columns
from bayesflat.data.detector import Detector
from bayesflat.data.flats import Flat
from bayesflat.data.pixels import find_bits, flagged
from bayesflat.errors import InputError


def flat_from_lsst(
    exposure: Any, detector: Detector, physical_filter: str, instrument: str, mask_planes: Sequence[str], where: str
) -> Flat:
    """The flat in an ``lsst.afw.image.Exposure``.

    Parameters
    ----------
    exposure : lsst.afw.image.Exposure
        Used are ``image.array``, ``mask.array`` and ``mask.getMaskPlaneDict()``.
    detector : Detector
    physical_filter, instrument : str
    mask_planes : sequence of str
        Planes that make a pixel bad.
    where : str
        What messages call it.

    Raises
    ------
    InputError
        Another size than the detector's, or a mask plane that it lacks.
    """
    mask = exposure.mask
    bits = find_bits(mask.getMaskPlaneDict(), mask_planes, where)
    bad = flagged(np.asarray(mask.array), bits, where) if bits else None
    image = np.asarray(exposure.image.array, dtype=np.float32)
    return Flat(image, bad, detector, physical_filter, instrument, where)


def boxes_from_lsst(defects: Any, where: str) -> list[Box]:
    """Boxes of ``lsst.ip.isr.Defects``, or of a table with the columns that `read_defects` takes.

    Raises
    ------
    InputError
        Something else.
    """
    if hasattr(defects, "colnames"):
        return boxes_of_columns({name.lower(): defects[name] for name in defects.colnames}, where)
    try:
        boxes = [one.getBBox() for one in defects]
        return [Box(one.getMinX(), one.getMinY(), one.getWidth(), one.getHeight()) for one in boxes]
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{where}: {type(defects).__name__} is neither lsst.ip.isr.Defects nor a table ({error})"
        ) from None
