"""What the HDUs of a file of flats hold: which detector's image, mask and uncertainty, and what is no flat at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.fitsfile import numbered_hdus
from bayesflat.data.headers import HeaderKeys, find_detector, find_filter, find_instrument, header_keys
from bayesflat.data.instruments import LAST_RESORT, instruments_called
from bayesflat.data.pixels import find_window
from bayesflat.errors import InputError

log = logging.getLogger(__name__)

Identity = tuple[Detector, str, str]  # detector, physical filter, instrument

# words in the name of an HDU that tell what it holds
_MASKS = {"MASK", "MSK", "DQ", "BPM"}
# with the power of a factor by which they go with an image that is multiplied by it
_SPREADS = {"VARIANCE": 2, "VAR": 2, "ERR": 1, "ERROR": 1, "SIGMA": 1, "STDDEV": 1, "IVAR": -2, "INVVAR": -2}
_UNCERT = "UNCERT"  # of astropy's CCDData, which says its kind
_OTHERS = {
    "WEIGHT", "WHT", "WGT", "PSF", "PSFIMAGE", "BKG", "BACKGROUND", "SKY", "OVERSCAN", "PREVIEW", "THUMBNAIL",
}  # fmt: skip
_KNOWN = {*_MASKS, *_SPREADS, _UNCERT, *_OTHERS}
_UTYPES = {"StdDevUncertainty": 1, "VarianceUncertainty": 2, "InverseVariance": -2}


@dataclass(frozen=True)
class FlatHDUs:
    """The HDUs of one detector's flat.

    Attributes
    ----------
    detector : Detector
    physical_filter, instrument : str
        The instrument is empty where the headers do not say.
    where : str
        What messages call it: the file, and the HDU where the file holds several detectors.
    image : int
        Number of the HDU.
    mask, spread : int or None
        Those of mask and uncertainty, where there are any.
    power : int
        Where the image is multiplied by a factor, the uncertainty is by this power of it.
    alone : bool
        Whether the file is of one detector, so that the primary header is its own.
    """

    detector: Detector
    physical_filter: str
    instrument: str
    where: str
    image: int
    mask: int | None = None
    spread: int | None = None
    power: int = 2
    alone: bool = True


def find_flat_hdus(
    hdus: Iterable,
    path: str | Path,
    camera: Camera,
    physical_filter: str | None = None,
    *,
    detector_key: str | None = None,
    filter_key: str | None = None,
    identity: Identity | None = None,
) -> list[FlatHDUs]:
    """The flats in a file, from its headers alone: one, or where each image names its detector, several.

    A file has one detector where it has one image besides masks and uncertainties, or one that is called IMAGE; its
    headers name the detector, or the file's name does.  Otherwise each image must name its own.

    Parameters
    ----------
    hdus : iterable of HDU
    path : path
        What messages call the file.
    camera : Camera
        Must have the detectors.
    physical_filter : str, optional
        For headers that do not say.
    detector_key, filter_key : str, optional
        Cards to look at in place of those of the instrument.
    identity : Identity, optional
        Detector, filter and instrument of a file of one detector, where they are known already.

    Returns
    -------
    flats : list of FlatHDUs
        In the order of the images; detectors of any purpose.

    Raises
    ------
    InputError
        No image; an image of no detector that is known, or of another size; two of one detector; a mask that may belong
        to several; what `find_filter` and `find_instrument` refuse.
    """
    images = _images(hdus, path)
    primary, science = images.primary, images.science
    if not science:
        raise InputError(f"{path}: there is no image in it")
    headers = [science[0].header, primary] if science[0].header is not primary else [primary]
    instrument = identity[2] if identity else find_instrument(headers, camera, path)
    keys = header_keys(instrument, camera, detector_key, filter_key)

    def own_detector(image: _Image) -> Detector | None:
        return find_detector([image.header], image.where(path), camera, keys.detector)

    main = _main_image(science, own_detector if identity is None else lambda _: None)
    if main is None and identity is not None:
        raise InputError(f"{path}: holds {len(science)} images; a file of one detector is needed")
    if main is None:
        flats = _several(images, path, camera, keys, instrument, physical_filter, own_detector)
    else:
        headers = [main.header, primary] if main.header is not primary else [primary]
        if identity is None:
            found = find_filter(headers, keys, path, physical_filter)
            identity = only_detector(headers, path, camera, keys), found, instrument
        flat = FlatHDUs(*identity, where=str(path), image=main.number)
        flats = [_with_companions(flat, images.named(_MASKS), images.named({*_SPREADS, _UNCERT}), path)]
    for flat in flats:
        image = images.numbered[flat.image]
        if flat.alone or flat.detector.is_science:  # others are not read, whatever their size
            find_window(image.header, image.shape, flat.detector, flat.where)
    return flats


def _several(
    images: _Images,
    path: str | Path,
    camera: Camera,
    keys: HeaderKeys,
    instrument: str,
    physical_filter: str | None,
    own_detector: Callable[[_Image], Detector | None],
) -> list[FlatHDUs]:
    """The flats of a file in which each image must name its own detector."""
    flats = []
    for image in images.science:
        where = image.where(path)
        if _is_known_not_science(image, instrument, camera):
            log.debug("%s: holds no science detector, and is left alone", where)
            continue
        detector = own_detector(image)
        if detector is None:
            raise InputError(
                f"{where}: the image names no detector of camera {camera.name}; looked for "
                f"{', '.join(keys.detector)} in its header; --detector-key names another card"
            )
        headers = [image.header, images.primary]
        mine = find_instrument(headers, camera, where)
        found = find_filter(headers, keys, where, physical_filter)
        flats.append(FlatHDUs(detector, found, mine, where, image.number, alone=False))
    _check_different(flats)
    return _companions(flats, images, own_detector, path)


def one_flat(flats: Sequence[FlatHDUs], path: str | Path) -> FlatHDUs:
    """The only flat of a file.

    Raises
    ------
    InputError
        There are several.
    """
    if len(flats) != 1:
        raise InputError(f"{path}: holds {len(flats)} detectors; read_flats reads them one by one")
    return flats[0]


# ---- images and their names ----


@dataclass(frozen=True)
class _Image:
    """An HDU that holds an image."""

    number: int
    name: str
    header: Mapping
    shape: tuple[int, ...]

    @property
    def words(self) -> set[str]:
        return set(re.split(r"[^A-Z0-9]+", self.name.upper()))

    @property
    def version(self) -> int | None:
        return self.header.get("EXTVER")

    def where(self, path: str | Path) -> str:
        return f"{path}[{self.name or self.number}]"


@dataclass(frozen=True)
class _Images:
    """All images of a file, and the primary header."""

    primary: Mapping
    numbered: dict[int, _Image]

    @property
    def science(self) -> list[_Image]:
        return [image for image in self.numbered.values() if not image.words & _KNOWN]

    def named(self, words: set[str]) -> list[_Image]:
        return [image for image in self.numbered.values() if image.words & words]


def _images(hdus: Iterable, path: str | Path) -> _Images:
    primary: Mapping = {}
    numbered: dict[int, _Image] = {}
    product = False
    for number, hdu in numbered_hdus(hdus, path):
        if number == 0:
            primary = hdu.header
        product |= hdu.header.get("OBSTYPE") == "flatGradient"
        if hdu.name == "ARCHIVE_INDEX":  # LSST's archive: its images, if any, are no flats
            break
        if hdu.is_image and hdu.shape:
            name = str(hdu.header.get(LAST_RESORT) or "").strip()
            numbered[number] = _Image(number, name, hdu.header, tuple(hdu.shape))
    if product and not any(image.name == "IMAGE" for image in numbered.values()):
        raise InputError(f"{path}: is a flat gradient, the product of a fit; a flat is needed")
    return _Images(primary, numbered)


def _main_image(science: Sequence[_Image], own_detector: Callable[[_Image], Detector | None]) -> _Image | None:
    """The image of a file of one detector; None where there are several that could be."""
    if len(science) == 1:
        return science[0]
    main = next((image for image in science if image.name.upper() == "IMAGE"), None)
    if main is not None and not any(own_detector(image) for image in science if image is not main):
        return main
    return None


def only_detector(headers: Sequence[Mapping], path: str | Path, camera: Camera, keys: HeaderKeys) -> Detector:
    """The detector of a file that holds no other, by its headers, its name, or as the only one of the camera.

    Raises
    ------
    InputError
        As `find_detector`, or none of these tells.
    """
    name = None if keys.chosen[0] else Path(path).name
    detector = find_detector(headers, path, camera, keys.detector, name)
    if detector is not None:
        return detector
    if len(camera) == 1 and not keys.chosen[0]:
        return next(iter(camera))
    if keys.chosen[0]:
        raise InputError(f"{path}: no card {keys.detector[0]} (--detector-key) that names a detector of {camera.name}")
    raise InputError(
        f"{path}: no detector is named; looked for {', '.join(keys.detector)} in the headers and "
        f"for a detector of {camera.name} in the file name, such as _{next(iter(camera)).name}_; "
        "--detector-key names another card"
    )


def _is_known_not_science(image: _Image, instrument: str, camera: Camera) -> bool:
    """Whether the instrument's HDUs of that name hold no science, and the camera has no detector of that name."""
    names = [image.name, str(image.header.get("DETPOS") or "").strip()]
    if any(name in camera for name in names if name):
        return False
    return any(
        one.not_science and re.fullmatch(one.not_science, name)
        for one in instruments_called(instrument or camera.name)
        for name in names
    )


def _check_different(flats: Sequence[FlatHDUs]) -> None:
    first: dict[int, str] = {}
    for flat in flats:
        if flat.detector.id in first:
            raise InputError(
                f"{flat.where}: detector {flat.detector.id} ({flat.detector.name}) is also in "
                f"{first[flat.detector.id]}; an HDU holds one detector"
            )
        first[flat.detector.id] = flat.where


# ---- masks and uncertainties ----


def _with_companions(flat: FlatHDUs, masks: Sequence[_Image], spreads: Sequence[_Image], path: str | Path) -> FlatHDUs:
    """The flat with its mask and uncertainty, of which there may be one each; those called as LSST does go first."""
    mask, spread = _best(masks, "MASK", path), _best(spreads, "VARIANCE", path)
    power = 2 if spread is None else _power(spread, path)
    return replace(
        flat,
        mask=None if mask is None else mask.number,
        spread=None if spread is None or power is None else spread.number,
        power=power or 2,
    )


def _best(images: Sequence[_Image], name: str, path: str | Path) -> _Image | None:
    exact = [image for image in images if image.name.upper() == name]
    if len(images) > 1 and not exact:
        raise InputError(f"{images[1].where(path)}: {images[0].where(path)} may be the same detector's {name.lower()}")
    return next(iter(exact or images), None)


def _power(spread: _Image, path: str | Path) -> int | None:
    if _UNCERT not in spread.words:
        return next(power for word, power in _SPREADS.items() if word in spread.words)
    power = _UTYPES.get(str(spread.header.get("UTYPE", "StdDevUncertainty")))
    if power is None:
        log.warning("%s: UTYPE %s is not known; it is left as it is", spread.where(path), spread.header["UTYPE"])
    return power


def _companions(
    flats: Sequence[FlatHDUs], images: _Images, own_detector: Callable[[_Image], Detector | None], path: str | Path
) -> list[FlatHDUs]:
    """Masks and uncertainties, each with the flat that it belongs to."""
    masks = _assigned(images.named(_MASKS), flats, images, own_detector, path)
    spreads = _assigned(images.named({*_SPREADS, _UNCERT}), flats, images, own_detector, path)
    return [_with_companions(flat, masks.get(flat.image, []), spreads.get(flat.image, []), path) for flat in flats]


def _assigned(
    found: Sequence[_Image],
    flats: Sequence[FlatHDUs],
    images: _Images,
    own_detector: Callable[[_Image], Detector | None],
    path: str | Path,
) -> dict[int, list[_Image]]:
    """The images that go with each flat: by detector, by EXTVER, or because each follows its own."""
    by_detector = {flat.detector.id: flat.image for flat in flats}
    by_version = {images.numbered[flat.image].version: flat.image for flat in flats}
    versioned = len(by_version) == len(flats) and None not in by_version
    result: dict[int, list[_Image]] = {}
    following = []
    for image in found:
        detector = own_detector(image)
        if detector is not None and detector.id in by_detector:
            result.setdefault(by_detector[detector.id], []).append(image)
        elif detector is None and versioned and image.version in by_version:
            result.setdefault(by_version[image.version], []).append(image)
        elif detector is None:
            following.append(image)
    science = [image.number for image in images.science]
    leaders = [max((n for n in science if n < image.number), default=-1) for image in following]
    leading = {flat.image for flat in flats if flat.detector.is_science}
    if following and (len(set(leaders)) < len(leaders) or not leading <= set(leaders)):
        raise InputError(
            f"{following[0].where(path)}: it cannot be told which detector's it is; its header must name the detector"
        )
    flat_images = set(by_detector.values())
    for image, leader in zip(following, leaders, strict=True):
        if leader in flat_images:
            result.setdefault(leader, []).append(image)
    return result
