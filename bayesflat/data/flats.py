"""Flats of detectors, read from FITS: one from a file, or one after the other from a file of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.finding import find_flats as find_flats
from bayesflat.data.fitsfile import opened_fits, unpacked
from bayesflat.data.headers import find_filter, find_instrument, header_keys
from bayesflat.data.layout import FlatHDUs, Identity, find_flat_hdus, one_flat, only_detector
from bayesflat.data.pixels import (
    DEFAULT_MASK_PLANES,
    check_shape,
    find_window,
    how_mask_is_read,
    read_flagged,
    read_pixels,
)
from bayesflat.errors import InputError

if TYPE_CHECKING:
    from astropy.nddata import CCDData


@dataclass(frozen=True, eq=False)
class Flat:
    """The flat of one detector.

    Attributes
    ----------
    image : numpy.ndarray, shape (ny, nx)
        Response of each pixel, any unit; NaN and infinity are left out of the bins.
    bad : numpy.ndarray of bool or None, shape (ny, nx)
        Pixels flagged by the mask planes that were asked for; None where there are none.
    detector : Detector
        The detector of the camera.
    physical_filter, instrument : str
        Where known, else empty.
    path : str
        Where it was read from; error messages call it so.
    """

    image: NDArray
    bad: NDArray[np.bool_] | None
    detector: Detector
    physical_filter: str = ""
    instrument: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        check_shape(self.image.shape, self.detector, self.path or "flat")
        if self.bad is not None and (self.bad.shape != self.image.shape or self.bad.dtype != bool):
            raise InputError(
                f"{self.path or 'flat'}: bad must be a boolean array of the image's shape {self.image.shape}, "
                f"it is {self.bad.dtype} of {self.bad.shape}"
            )


def flat_of(ccd: CCDData, camera: Camera, where: str = "flat") -> Flat:
    """The flat in astropy's `CCDData`, whose header names the detector as that of a file does.

    Parameters
    ----------
    ccd : astropy.nddata.CCDData
        Its mask is what is bad; its uncertainty and unit are not used.
    camera : Camera
        Must have the detector, in the image's size or in that which TRIMSEC or DATASEC give.
    where : str
        What messages call it.

    Raises
    ------
    InputError
        Its header names no detector, or another camera's instrument; another size.
    """
    headers = [ccd.header]
    instrument = find_instrument(headers, camera, where)
    keys = header_keys(instrument, camera)
    detector = only_detector(headers, where, camera, keys)
    image = np.asarray(ccd.data)
    window = find_window(ccd.header, image.shape, detector, where)
    bad = None if ccd.mask is None else np.broadcast_to(np.asarray(ccd.mask, dtype=bool), image.shape)[window]
    physical_filter = find_filter(headers, keys, where, needed=False)
    return Flat(image[window], bad, detector, physical_filter, instrument, where)


@dataclass(frozen=True)
class FlatSource:
    """Where the flat of one detector lies, and how its mask will be read.

    Attributes
    ----------
    path : Path
    hdus : FlatHDUs
    mask : str
        As from `how_mask_is_read`.
    """

    path: Path
    hdus: FlatHDUs
    mask: str = ""


def find_sources(
    path: str | Path,
    camera: Camera,
    physical_filter: str | None = None,
    *,
    mask_planes: Sequence[str] = DEFAULT_MASK_PLANES,
    detector_key: str | None = None,
    filter_key: str | None = None,
) -> list[FlatSource]:
    """The flats in a file, from its headers alone; parameters and errors as for `read_flats`."""
    with opened_fits(path) as hdus:
        flats = find_flat_hdus(
            hdus, path, camera, physical_filter, detector_key=detector_key, filter_key=filter_key
        )  # fmt: skip
        masks = [how_mask_is_read(None if flat.mask is None else hdus[flat.mask].header, mask_planes) for flat in flats]
    return [FlatSource(Path(path), flat, mask) for flat, mask in zip(flats, masks, strict=True)]


def read_sources(sources: Sequence[FlatSource], mask_planes: Sequence[str] = DEFAULT_MASK_PLANES) -> Iterator[Flat]:
    """The flats of one file one by one, each read when it is asked for; errors as for `read_flats`."""
    path = sources[0].path
    with unpacked(path) as file:
        for source in sources:
            with opened_fits(path, file) as hdus:  # closed before the caller goes on: warnings are caught in it
                flat = read_hdus(hdus, source.hdus, mask_planes)
            yield flat
            del flat  # else it would stay while the next one is read


def read_hdus(hdus, flat: FlatHDUs, mask_planes: Sequence[str] = DEFAULT_MASK_PLANES) -> Flat:
    """The flat in some HDUs of an open file, whose data are let go of."""
    hdu = hdus[flat.image]
    shape = hdu.shape
    window = find_window(hdu.header, shape, flat.detector, flat.where)
    with np.errstate(over="ignore"):  # beyond float32 is as good as infinite, and left out as such
        image = np.asarray(read_pixels(hdu)[window], dtype=np.float32)
    del hdu.data  # a full-size image is 65 MB: do not hold it twice while the mask is read
    mask = None if flat.mask is None else hdus[flat.mask]
    bad = read_flagged(mask, flat.where, mask_planes, shape, window)
    if mask is not None:
        del mask.data
    return Flat(image, bad, flat.detector, flat.physical_filter, flat.instrument, flat.where)


def read_flat_header(path: str | Path, camera: Camera, physical_filter: str | None = None) -> Identity:
    """Detector, physical filter and instrument of a flat, from its headers alone.

    Parameters
    ----------
    path : path
        The FITS file, of one detector.
    camera : Camera
        Must have the detector, in the image's size.
    physical_filter : str, optional
        For files whose headers do not say.

    Returns
    -------
    detector : Detector
    physical_filter, instrument : str
        The instrument is empty where the headers do not say.

    Raises
    ------
    InputError
        As `read_flat` does, except for what only the mask and the pixels can tell.
    """
    flat = one_flat([source.hdus for source in find_sources(path, camera, physical_filter)], path)
    return flat.detector, flat.physical_filter, flat.instrument


def read_flat(
    path: str | Path,
    camera: Camera,
    mask_planes: Sequence[str] = DEFAULT_MASK_PLANES,
    physical_filter: str | None = None,
    identity: Identity | None = None,
) -> Flat:
    """Read the flat of a file of one detector.

    Parameters
    ----------
    path : path
        FITS with HDUs named IMAGE and, if there is one, MASK; or with one image besides masks and uncertainties. Plain,
        packed as a whole (gzip, bzip2, xz) or tile-compressed.
    camera : Camera
        Must have the detector, in the image's size or in that which TRIMSEC or DATASEC give.
    mask_planes : sequence of str
        Planes of the MASK that make a pixel bad. A file without NO_DATA has none of its pixels flagged by it; in a mask
        without any planes, whatever is not 0 is bad.
    physical_filter : str, optional
        For files whose headers do not say.
    identity : tuple of Detector, str, str, optional
        Detector, filter and instrument where they are known already; the headers are not read for them then.

    Returns
    -------
    flat : Flat

    Raises
    ------
    InputError
        No such file; not FITS, or truncated; no image, or one of another size than the camera's detector; several
        detectors; detector or filter unknown; another camera's instrument; the filter differs from
        ``physical_filter``; a mask plane that the file lacks.
    """
    with opened_fits(path) as hdus:
        flat = one_flat(find_flat_hdus(hdus, path, camera, physical_filter, identity=identity), path)
        return read_hdus(hdus, flat, mask_planes)


def read_flats(
    path: str | Path,
    camera: Camera,
    mask_planes: Sequence[str] = DEFAULT_MASK_PLANES,
    physical_filter: str | None = None,
    *,
    detector_key: str | None = None,
    filter_key: str | None = None,
) -> Iterator[Flat]:
    """Read the flats of a file of any number of detectors, one by one.

    Parameters
    ----------
    path : path
        FITS as for `read_flat`, or with an image of each detector, whose header names it.
    camera, mask_planes, physical_filter
        As for `read_flat`.
    detector_key, filter_key : str, optional
        Header cards that name detector and filter, where they are not those that are known of the instrument;
        ``A+B`` joins the values of two cards with an underscore.

    Yields
    ------
    flat : Flat
        In the order of the file, of science detectors and others.

    Raises
    ------
    InputError
        As `read_flat` does, but for files of several detectors; an image whose detector cannot be told, or two of one.
    """
    sources = find_sources(
        path, camera, physical_filter, mask_planes=mask_planes, detector_key=detector_key, filter_key=filter_key
    )
    yield from read_sources(sources, mask_planes)
