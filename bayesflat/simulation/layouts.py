"""How a simulated flat is laid out in FITS: as the files of its camera are.

LSST's pipelines write an empty primary HDU with the data id, then IMAGE, MASK, VARIANCE; so are the flats of LSSTCam,
LSSTComCam and cameras from a table.  DECam's calibrations have an image HDU a CCD, with ``CCDNUM`` and ``DETPOS``;
images of HSC are in the primary HDU, with ``DET-ID``.  These have no mask, nor has a file of all detectors: a pixel
without light is NaN there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.detector import Detector

MASK_PLANES = {  # bit numbers as LSST's pipelines have them
    "BAD": 0,
    "SAT": 1,
    "INTRP": 2,
    "CR": 3,
    "EDGE": 4,
    "DETECTED": 5,
    "DETECTED_NEGATIVE": 6,
    "SUSPECT": 7,
    "NO_DATA": 8,
    "VIGNETTED": 9,
    "PARTLY_VIGNETTED": 10,
}


@dataclass(frozen=True)
class DetectorImage:
    """The flat of one detector.

    Attributes
    ----------
    detector : Detector
        As coarse as the image.
    image, variance : numpy.ndarray of float32, shape (ny, nx)
        Electrons, and their square; `variance` is that of the white noise.
    mask : numpy.ndarray of int32, shape (ny, nx)
        Bits as in `MASK_PLANES`; dead columns are not masked, they are in `defects`.
    defects : numpy.ndarray of int, shape (n, 4)
        Boxes ``x0, y0, width, height`` (pixels).
    """

    detector: Detector
    image: NDArray[np.float32]
    mask: NDArray[np.int32]
    variance: NDArray[np.float32]
    defects: NDArray[np.int64]


class About(NamedTuple):
    """What the header of a flat says of it, beside the detector."""

    camera: str
    filter: str
    kind: str
    seed: int


Cards = list[tuple[str, Any, str]]


def _lsst(about: About, detector: Detector) -> tuple[Cards, Cards]:
    common: Cards = [
        ("INSTRUME", about.camera, "instrument"),
        ("FILTER", about.filter, "physical filter"),
        ("OBSTYPE", "flat", "kind of observation"),
        ("HIERARCH LSST BUTLER DATAID PHYSICAL_FILTER", about.filter, ""),
        ("HIERARCH LSST BUTLER DATAID INSTRUMENT", about.camera, ""),
    ]
    return common, [("DETECTOR", detector.id, "detector id"), ("DET_NAME", detector.name, "detector name")]


def _decam(about: About, detector: Detector) -> tuple[Cards, Cards]:
    common: Cards = [
        ("INSTRUME", "DECam", "instrument"),
        ("FILTER", about.filter, "physical filter"),
        ("OBSTYPE", f"{about.kind} flat", "kind of observation"),
    ]
    return common, [("CCDNUM", detector.id, "number of the CCD"), ("DETPOS", detector.name, "position of the CCD")]


def _hsc(about: About, detector: Detector) -> tuple[Cards, Cards]:
    common: Cards = [
        ("INSTRUME", "Hyper Suprime-Cam", "instrument"),
        ("FILTER01", about.filter, "physical filter"),
        ("DATA-TYP", f"{about.kind.upper()}FLAT", "kind of observation"),
    ]
    return common, [("DET-ID", detector.id, "number of the CCD")]


# cards that all detectors of a flat share, and a detector's own
_STYLES: dict[str, Callable[[About, Detector], tuple[Cards, Cards]]] = {"DECam": _decam, "HSC": _hsc}


def flat_hdus(flat: DetectorImage, about: About, *, compress: bool = False, mef: bool = False):
    """The HDUs of one detector's flat.

    Parameters
    ----------
    flat : DetectorImage
    about : About
    compress : bool
        Compress images in tiles (GZIP_2, without loss).
    mef : bool
        For a file of all detectors (`join`): the primary HDU has what they share, one more HDU the image.

    Returns
    -------
    astropy.io.fits.HDUList
    """
    from astropy.io import fits

    common, own = _STYLES.get(about.camera, _lsst)(about, flat.detector)
    common += [
        ("SIMKIND", about.kind, "simulated light, sky or dome"),
        ("SIMSEED", str(about.seed), "seed of the simulation"),
    ]
    unit = [("BUNIT", "electron")]
    if about.camera not in _STYLES and not mef:
        common += [*own, ("HIERARCH LSST BUTLER DATAID DETECTOR", flat.detector.id, "")]
        planes = fits.Header()
        for plane, bit in MASK_PLANES.items():
            card = f"MP_{plane}"
            planes[card if len(card) <= 8 else f"HIERARCH {card}"] = bit
        return fits.HDUList(
            [
                fits.PrimaryHDU(header=fits.Header(common)),
                _image_hdu("IMAGE", flat.image, fits.Header(unit), compress),
                _image_hdu("MASK", flat.mask, planes, compress),
                _image_hdu("VARIANCE", flat.variance, fits.Header([("BUNIT", "electron2")]), compress),
            ]
        )
    dark = flat.mask & (1 << MASK_PLANES["NO_DATA"]) != 0
    image = np.where(dark, np.float32(np.nan), flat.image)
    if about.camera == "HSC" and not (mef or compress):  # a compressed image cannot be in the primary HDU
        return fits.HDUList([fits.PrimaryHDU(image, fits.Header(common + own + unit))])
    primary = fits.PrimaryHDU(header=fits.Header(common))
    return fits.HDUList([primary, _image_hdu(flat.detector.name, image, fits.Header(own + unit), compress)])


def _image_hdu(name: str, data: NDArray, header: Any, compress: bool):
    from astropy.io import fits

    if compress:
        return fits.CompImageHDU(data, header, name=name, compression_type="GZIP_2", quantize_level=0.0)
    return fits.ImageHDU(data, header, name=name)


def join(parts: Sequence[Path], path: Path) -> None:
    """Make one file of those of single detectors, which go: their primary HDU, which is the same, and all the others.

    No pixel is read: FITS is made of blocks that can be put one after another.
    """
    from astropy.io import fits

    with open(path, "wb") as whole:
        for number, part in enumerate(parts):
            with fits.open(part) as hdus:
                start = hdus[1].fileinfo()["hdrLoc"]
            with open(part, "rb") as file:
                file.seek(start if number else 0)
                shutil.copyfileobj(file, whole)
            part.unlink()
