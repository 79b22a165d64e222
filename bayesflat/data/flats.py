"""One detector's flat, read from FITS: which files, which detector, which pixels are good."""

from __future__ import annotations

import glob
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.camera import NAMED_CAMERAS, Camera, Detector
from bayesflat.errors import InputError, first_line

log = logging.getLogger(__name__)

FITS_ENDINGS = (".fits", ".fits.gz", ".fits.fz", ".fit")
DEFAULT_MASK_PLANES = ("NO_DATA",)
# DETECTOR_ID, FILTER_ID and ARCHIVE_ID_* look alike but number the archive HDUs: never read them
DETECTOR_KEYS = ("LSST BUTLER DATAID DETECTOR", "DETNAME", "DETECTOR", "DET-ID", "CCDNUM")
FILTER_KEYS = ("LSST BUTLER DATAID PHYSICAL_FILTER", "FILTER")
INSTRUMENT_KEYS = ("LSST BUTLER DATAID INSTRUMENT", "INSTRUME")


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


def find_flats(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """The FITS files that files, folders and globs stand for.

    Parameters
    ----------
    inputs : path or iterable of path
        Files; folders, for the ``*.fits``, ``*.fits.gz``, ``*.fits.fz`` and ``*.fit`` in them (not in folders below);
        globs of either.

    Returns
    -------
    paths : list of pathlib.Path
        Sorted, each file once.

    Raises
    ------
    InputError
        A path does not exist, a glob matches nothing, a folder has no FITS file in it, or there are no inputs.
    """
    return find_files(inputs, FITS_ENDINGS, "flats")


def find_files(inputs: str | Path | Iterable[str | Path], endings: tuple[str, ...], what: str) -> list[Path]:
    """As `find_flats`, with folders standing for the files in them that have one of the ``endings``."""
    inputs = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not inputs:
        raise InputError(f"no {what} given; accepted are files, folders and globs")
    found: dict[str, Path] = {}
    for given in inputs:
        for path in _expand(str(given), what):
            for file in _files_of(path, endings, what):
                found.setdefault(os.path.realpath(file), Path(file))
    return sorted(found.values())


def _expand(given: str, what: str) -> list[str]:
    if os.path.exists(given):  # before globs: a real name may have brackets in it
        return [given]
    if not glob.has_magic(given):
        raise InputError(f"{what} {given}: no such file or folder")
    matches = glob.glob(given, recursive=True)
    if not matches:
        raise InputError(f"{what} {given}: the glob matches nothing")
    return sorted(matches)


def _files_of(path: str, endings: tuple[str, ...], what: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        names = os.listdir(path)
    except OSError as error:
        raise InputError(f"{what} {path}: the folder cannot be read ({error.strerror})") from None
    # names with a leading dot are files that somebody is still writing
    files = [os.path.join(path, n) for n in sorted(names) if n.lower().endswith(endings) and not n.startswith(".")]
    files = [file for file in files if not os.path.isdir(file)]
    if not files:
        raise InputError(f"{what} {path}: the folder has no {', '.join('*' + e for e in endings)} in it")
    return files


def read_flat_header(path: str | Path, camera: Camera, physical_filter: str | None = None) -> tuple[Detector, str, str]:
    """Detector, physical filter and instrument of a flat, from its headers alone.

    Parameters
    ----------
    path : path
        The FITS file.
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
    with opened_fits(path) as hdus:
        return identify(hdus[0].header, image_hdu(hdus, path), path, camera, physical_filter)


def read_flat(
    path: str | Path,
    camera: Camera,
    mask_planes: Sequence[str] = DEFAULT_MASK_PLANES,
    physical_filter: str | None = None,
    identity: tuple[Detector, str, str] | None = None,
) -> Flat:
    """Read the flat of one detector.

    Parameters
    ----------
    path : path
        FITS with HDUs named IMAGE and, if there is one, MASK; else its first image is taken. Plain, gzipped or
        tile-compressed.
    camera : Camera
        Must have the detector, in the image's size.
    mask_planes : sequence of str
        Planes of the MASK that make a pixel bad. A file without NO_DATA has none of its pixels flagged by it.
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
        No such file; not FITS, or truncated; no image, or one of another size than the camera's detector; detector or
        filter unknown; the filter differs from ``physical_filter``; a mask plane that the file lacks.
    """
    with opened_fits(path) as hdus:
        hdu = image_hdu(hdus, path)
        detector, physical_filter, instrument = identity or identify(hdus[0].header, hdu, path, camera, physical_filter)
        with np.errstate(over="ignore"):  # beyond float32 is as good as infinite, and left out as such
            image = np.asarray(hdu.data, dtype=np.float32)
        del hdu.data  # a full-size image is 65 MB: do not hold it twice while the mask is read
        bad = _flagged(hdus, path, mask_planes, image.shape)
    return Flat(image, bad, detector, physical_filter, instrument, str(path))


@contextmanager
def opened_fits(path: str | Path) -> Iterator:
    """Open a FITS file so that whatever is wrong with it becomes an `InputError`.

    astropy only warns about some damage, such as truncation.  That is an error here; remarks about the style of header
    cards are dropped, other warnings of astropy are logged.
    """
    from astropy.io import fits

    if not os.path.isfile(path):
        raise InputError(f"{path}: {'is a folder, not a file' if os.path.isdir(path) else 'no such file'}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with fits.open(path, memmap=False) as hdus:
                len(hdus)  # reads all headers: a file cut short behind what is used is damaged all the same
                yield hdus
        except Exception as error:
            damage = _damage(caught)
            if damage:
                raise InputError(f"{path}: {damage}") from None
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: cannot be read as FITS ({first_line(error)})") from None
    _report(caught, path)


def _damage(caught: list[warnings.WarningMessage]) -> str:
    """What is wrong with the file, going by the warnings; empty if nothing is."""
    for warning in caught:
        text = first_line(warning.message)
        if "truncated" in text and "comment" not in text:
            return f"the file is truncated ({text})"
        if "Error validating header" in text:  # the HDUs from here on, maybe the mask, would go missing unsaid
            return f"the file is corrupted ({text.split('(note')[0].strip()})"
    return ""


def _report(caught: list[warnings.WarningMessage], path: str | Path) -> None:
    """Raise, log, or hand on the warnings that came up while a file was read."""
    from astropy.io.fits.verify import VerifyWarning
    from astropy.utils.exceptions import AstropyWarning

    damage = _damage(caught)
    if damage:
        raise InputError(f"{path}: {damage}")
    for warning in caught:
        if not issubclass(warning.category, AstropyWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif not issubclass(warning.category, VerifyWarning) and "header keyword is invalid" not in str(
            warning.message
        ):
            log.warning("%s: %s", path, first_line(warning.message))


def check_shape(shape: tuple[int, ...], detector: Detector, where: str | Path) -> None:
    """Raise `InputError` unless an image has the detector's size."""
    if tuple(shape) != (detector.ny, detector.nx):
        raise InputError(
            f"{where}: the image has {' x '.join(str(n) for n in reversed(shape))} pixels, detector {detector.name} of "
            f"the camera {detector.nx} x {detector.ny}; for other sizes give --camera a camera table"
        )


def named_hdu(hdus: Iterable, name: str, path: str | Path):
    """First image HDU of that name, or None; HDUs behind it are not even opened."""
    for number, hdu in enumerate(hdus):
        # astropy reads on over a damaged header: the HDU that it began, maybe the mask, would go missing unsaid
        if number and next(iter(hdu.header), "") != "XTENSION":
            raise InputError(f"{path}: the file is corrupted; the header of HDU {number} does not begin with XTENSION")
        if hdu.name == name and hdu.is_image and hdu.shape:
            return hdu
    return None


def image_hdu(hdus: Iterable, path: str | Path):
    """The HDU named IMAGE, else the first image."""
    hdu = named_hdu(hdus, "IMAGE", path)
    if hdu is None:
        if any(h.header.get("OBSTYPE") == "flatGradient" for h in hdus):
            raise InputError(f"{path}: is a flat gradient, the product of a fit; a flat is needed")
        hdu = next((h for h in hdus if h.is_image and h.shape and h.name not in ("MASK", "VARIANCE")), None)
    if hdu is None:
        raise InputError(f"{path}: there is no image in it")
    return hdu


def identify(
    primary: Mapping, hdu, path: str | Path, camera: Camera, physical_filter: str | None
) -> tuple[Detector, str, str]:
    """Detector, filter and instrument, checked against the camera and the caller's filter."""
    headers = (primary, hdu.header)
    instrument = next((str(value) for _, value in _cards(headers, INSTRUMENT_KEYS)), "")
    check_instrument(instrument, camera, path)
    detector = find_detector(headers, path, camera, DETECTOR_KEYS)
    if detector is None:
        raise InputError(
            f"{path}: no detector is named; looked for {', '.join(DETECTOR_KEYS)} in the headers and "
            f"for a detector of {camera.name} in the file name, such as _{next(iter(camera)).name}_"
        )
    check_shape(hdu.shape, detector, path)
    key, found = next(((k, str(value)) for k, value in _cards(headers, FILTER_KEYS)), ("", ""))
    if found and physical_filter and found != physical_filter:
        raise InputError(f"{path}: {key} is {found}, but --physical-filter is {physical_filter}")
    found = found or physical_filter or ""
    if not found:
        raise InputError(f"{path}: no filter in the headers ({', '.join(FILTER_KEYS)}); give --physical-filter")
    return detector, found, instrument


def check_instrument(instrument: str, camera: Camera, where: str | Path) -> None:
    """Refuse one named camera's flats with another: detector 3 is another one there, and the sizes may agree."""
    if instrument.lower() in NAMED_CAMERAS and camera.name.lower() in NAMED_CAMERAS.keys() - {instrument.lower()}:
        raise InputError(
            f"{where}: is of {instrument}, the camera is {camera.name}; --camera {instrument.lower()} takes it"
        )


def _cards(headers: Iterable[Mapping], keys: Iterable[str]) -> Iterator[tuple[str, str | int]]:
    """The keys that have a value: whole numbers as int, all else as stripped text."""
    for key in keys:
        for header in headers:
            value = header.get(key)
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, str):
                value = value.strip()
            if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
                yield key, value if isinstance(value, int) else str(value)


def find_detector(headers: Iterable[Mapping], path: str | Path, camera: Camera, keys: Iterable[str]) -> Detector | None:
    """Detector that the headers name, or else the file name.

    Parameters
    ----------
    headers : iterable of mapping
        Looked at in order, for each key in turn.
    path : path
        Its last part may hold ``_NAME_`` or ``_NAME.`` of a detector.
    camera : Camera
        Must have the detector.
    keys : iterable of str
        Keys that hold an id or a name. Text that is no detector's name is passed over: some cameras write serial
        numbers there.

    Returns
    -------
    detector : Detector or None
        None where neither names a detector.

    Raises
    ------
    InputError
        The camera lacks the detector, or an id and a name are those of different ones.
    """
    by_name: tuple[str, Detector] | None = None
    by_id: tuple[str, Detector] | None = None
    unknown = ""
    for key, value in _cards(headers, keys):
        if isinstance(value, str) and value in camera:
            by_name = by_name or (f"{key} {value}", camera[value])
        elif isinstance(value, int) or value.isdecimal():
            if by_id is None and int(value) not in camera:
                raise InputError(
                    f"{path}: {key} is {value}, camera {camera.name} has no such detector; "
                    f"its ids are {min(d.id for d in camera)} to {max(d.id for d in camera)}"
                )
            by_id = by_id or (f"{key} {value}", camera[int(value)])
        elif key == "DET_NAME":  # never a serial number: the table is another camera's, whatever its id says
            raise InputError(f"{path}: {key} is {value}, camera {camera.name} has no such detector")
        else:
            unknown = unknown or f"{key} is {value}"
    if by_name and by_id and by_name[1] != by_id[1]:
        raise InputError(
            f"{path}: {by_id[0]} and {by_name[0]} are different detectors in camera {camera.name}; "
            "is it the right camera?"
        )
    found = by_name or by_id
    detector = found[1] if found else _detector_in_name(Path(path).name, camera)
    if detector is None and unknown:
        raise InputError(f"{path}: {unknown}, camera {camera.name} has no such detector, and the file name names none")
    return detector


def _detector_in_name(name: str, camera: Camera) -> Detector | None:
    """The one detector whose name stands in a file name, between underscores, dots and the ends."""
    matches = [d for d in camera if re.search(rf"(^|_){re.escape(d.name)}[_.]", name)]
    # where R22_S11 stands, a detector called S11 stands too: the longer name is meant
    matches = [d for d in matches if not any(d.name in other.name and d is not other for other in matches)]
    return matches[0] if len(matches) == 1 else None


def _flagged(
    hdus: Iterable, path: str | Path, mask_planes: Sequence[str], shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Pixels that any of the mask planes flags, or None where no plane can flag any."""
    if not mask_planes:
        return None
    hdu = named_hdu(hdus, "MASK", path)
    # bit numbers differ from file to file: only this header knows them
    planes = {} if hdu is None else {key[3:]: value for key, value in hdu.header.items() if key.startswith("MP_")}
    lacking = [plane for plane in mask_planes if plane not in planes and plane not in DEFAULT_MASK_PLANES]
    if lacking:
        has = ", ".join(planes) if planes else "no mask planes"
        raise InputError(f"{path}: mask plane {', '.join(lacking)} is not in it; it has {has}")
    bits = [planes[plane] for plane in mask_planes if plane in planes]
    if not bits:
        return None
    mask = hdu.data
    if mask.dtype.kind not in "iu" or mask.shape != shape:
        raise InputError(
            f"{path}: MASK must hold integers in the image's shape {shape}, it holds {mask.dtype.name} in {mask.shape}"
        )
    width = 8 * mask.dtype.itemsize
    if not all(isinstance(bit, int) and 0 <= bit < width for bit in bits):
        raise InputError(f"{path}: MP_ bit numbers of MASK must be 0 to {width - 1}, they are {bits}")
    value = sum(1 << bit for bit in set(bits))
    if mask.dtype.kind == "i" and value >= 1 << (width - 1):
        value -= 1 << width  # the topmost bit is the sign
    return (mask & mask.dtype.type(value)) != 0
