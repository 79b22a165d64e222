"""The command `bayesflat apply`: read dome flats from disk and write corrected ones, otherwise unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bayesflat.commands.runs import check_beside
from bayesflat.data.camera import Camera, get_camera
from bayesflat.data.finding import find_flats
from bayesflat.data.fitsfile import copy_hdu, numbered_hdus, opened_fits, write_hdu, written_like
from bayesflat.data.headers import warn_of_filter, warn_of_instrument
from bayesflat.data.layout import FlatHDUs, Identity, find_flat_hdus
from bayesflat.data.pixels import check_bit, check_shape, find_window, read_pixels
from bayesflat.errors import InputError
from bayesflat.files import check_free, checksum, filling
from bayesflat.gradient.correction import (
    check_centroids,
    check_products,
    check_usable,
    correct_planes,
)
from bayesflat.gradient.product import FlatGradient
from bayesflat.processes import in_processes
from bayesflat.stages import stage
from bayesflat.text import shown

log = logging.getLogger(__name__)

Cards = dict[str, tuple[str, str]]  # keyword to value and comment

DONE = "CPPGRSUM"  # SHA-256 of the gradient that was applied: this card marks a flat as corrected
BUTLER_CARDS = "LSST BUTLER"  # first words of the cards that name a dataset and its inputs
_MOST_ID = 200  # characters
_NO_DATA = "MP_NO_DATA"
_LOSSLESS = ("GZIP_2", "GZIP_1", "NOCOMPRESS")  # compressions of floats that lose nothing


def run_apply(
    inputs: Iterable[str | Path],
    out: str | Path,
    gradient: str | Path,
    reference: str | Path,
    *,
    camera: str | None = None,
    physical_filter: str | None = None,
    detector_key: str | None = None,
    filter_key: str | None = None,
    processes: int = 1,
    overwrite: bool = False,
    force: bool = False,
) -> dict[Path, int]:
    """Correct dome flats, and write them under the same names to a folder.

    Parameters
    ----------
    inputs : iterable of str or Path
        Flats, folders or globs.
    out : str or Path
        Folder to write; its files appear together at the end.
    gradient, reference : str or Path
        Products of the dome and of the sky flats.
    camera : str, optional
        As for `get_camera`; by default the one that the dome's product is of.
    physical_filter : str, optional
        Filter of flats whose headers do not name it.
    detector_key, filter_key : str, optional
        As for `bayesflat.data.flats.read_flats`.
    processes : int
    overwrite : bool
        Whether files of an earlier run may be replaced.
    force : bool
        Whether to apply products that did not converge or are unusable.

    Returns
    -------
    dict of Path to int
        The corrected files, with the number of detectors that were corrected in each.

    Raises
    ------
    InputError
        A file cannot be read; products are no use, or do not belong together or to the flats; flats were corrected
        before, or have the same name; the folder holds one of the inputs.
    """
    paths = find_flats(inputs)
    out = Path(out)
    check_free(out, [], overwrite)
    names: dict[str, Path] = {}
    for path in paths:
        if path.name in names:
            raise InputError(f"{path} and {names[path.name]} have the same name; correct them into different folders")
        if path.resolve().parent == out.resolve():
            raise InputError(f"{out}: holds the flat {path.name} that is to be corrected; give another folder")
        names[path.name] = path
    dome, sky = FlatGradient.read(gradient), FlatGradient.read(reference)
    check_products(dome, sky)
    check_usable(dome, sky, force)  # once, not for every flat
    check_beside(gradient, dome)
    check_beside(reference, sky)
    geometry = get_camera(camera) if camera else dome.camera
    check_centroids(geometry, dome, sky)
    cards = make_cards(dome, gradient, sky, reference)
    corrected: dict[Path, int] = {}
    seen: dict[tuple[str, str], str] = {}
    with filling(out, sorted(names), overwrite) as folder:
        tasks = {
            path: (
                path, folder / path.name, geometry, dome, sky, physical_filter, cards, None, detector_key, filter_key
            )
            for path in paths
        }  # fmt: skip
        at = stage("correcting flats", len(paths))
        with closing(in_processes(correct_file, tasks, processes, "correcting flats")) as done:
            for path, flats in done:
                corrected[out / path.name] = len(flats)
                seen |= {(flat.physical_filter, flat.instrument): str(path) for flat in flats}
                at.advance()
    for (name, instrument), where in seen.items():
        warn_of_filter(name, geometry, where)
        warn_of_instrument(instrument, geometry, where)
    log.info("%d flats in %d files corrected", sum(corrected.values()), len(corrected))
    return dict(sorted(corrected.items()))


def make_cards(dome: FlatGradient, gradient: str | Path, sky: FlatGradient, reference: str | Path) -> Cards:
    """Header cards of a corrected flat that identify the products and the files that they were read from."""
    return cards_of(dome, checksum(gradient), sky, checksum(reference), (gradient, reference))


def cards_of(
    dome: FlatGradient, dome_sha256: str, sky: FlatGradient, sky_sha256: str, names: tuple[str | Path, str | Path]
) -> Cards:
    """The same from the checksums of the files, whose names stand for products that have no id."""
    return {  # an id or a checksum leaves no room for a comment
        "CPPGRAD": (_name_of(dome, names[0]), ""),
        DONE: (dome_sha256, ""),
        "CPPREF": (_name_of(sky, names[1]), ""),
        "CPPRFSUM": (sky_sha256, ""),
        "CPPBY": (f"bayesflat {version('bayesflat')}", "what applied them"),
    }


def correct_file(
    path: Path,
    target: Path,
    camera: Camera,
    gradient: FlatGradient,
    reference: FlatGradient,
    physical_filter: str | None,
    cards: Cards,
    identity: Identity | None = None,
    detector_key: str | None = None,
    filter_key: str | None = None,
) -> list[FlatHDUs]:
    """Correct the flats of a file: scale image and variance, and flag NO_DATA beyond the radial functions.

    HDUs that are not changed are copied byte by byte.  Of a file of several detectors those for science are corrected,
    one in memory at a time; each gets the cards, and so does the primary header.

    Parameters
    ----------
    path, target : Path
    camera : Camera
    gradient, reference : FlatGradient
    physical_filter : str or None
    cards : dict
        As from `make_cards`.
    identity : tuple, optional
        As for `bayesflat.data.flats.read_flat`: detector and filter are not read from the headers then.
    detector_key, filter_key : str, optional
        As for `bayesflat.data.flats.read_flats`.

    Returns
    -------
    list of FlatHDUs
        What was corrected.
    """
    with opened_fits(path) as hdus:
        for number, hdu in numbered_hdus(hdus, path):
            if DONE in hdu.header:
                where = f" of HDU {number}" if number else ""
                raise InputError(
                    f"{path}: was corrected before (card {DONE}{where}); apply gradients to the flat as it was"
                )
        flats = find_flat_hdus(
            hdus, path, camera, physical_filter,
            detector_key=detector_key, filter_key=filter_key, identity=identity,
        )  # fmt: skip
        todo = [flat for flat in flats if flat.alone or flat.detector.is_science]
        if not todo:
            raise InputError(f"{path}: none of its {len(flats)} detectors is a science detector of {camera.name}")
        for flat in todo:
            check_products(gradient, reference, flat.physical_filter, flat.instrument)
        # an image that was compressed as a primary HDU becomes one again when it is unpacked: then HDU 0 is lost
        marked = {0} | {flat.image for flat in todo if not flat.alone or "SIMPLE" in hdus[flat.image].header}
        waiting = {min(n for n in (flat.image, flat.mask, flat.spread) if n is not None): flat for flat in todo}
        changed: set[int] = set()
        with written_like(path, target) as out:
            for number, hdu in enumerate(hdus):
                if number in waiting:
                    changed |= _correct(hdus, waiting[number], gradient, reference)
                if number in marked:
                    _mark(hdu.header, cards)
                if number in marked or number in changed:
                    write_hdu(hdu, out)
                else:
                    copy_hdu(hdu, out)
                if number in changed:
                    del hdu.data  # only the detector in work is held
    return todo


def _correct(hdus, flat: FlatHDUs, gradient: FlatGradient, reference: FlatGradient) -> set[int]:
    """Correct one detector's flat in memory; returns the numbers of the HDUs whose data are changed."""
    shape = hdus[flat.image].shape
    window = find_window(hdus[flat.image].header, shape, flat.detector, flat.where)

    def part(data: np.ndarray) -> np.ndarray:
        """The detector's part of an image, mask or uncertainty, which may be trimmed where the image is not."""
        if data.shape == shape:
            return data[window]
        check_shape(data.shape, flat.detector, flat.where)
        return data

    powers = {flat.image: 1} | ({flat.spread: flat.power} if flat.spread is not None else {})
    pixels = {number: read_pixels(hdus[number]) for number in powers}
    planes = [(part(pixels[number]), power) for number, power in powers.items()]
    bit = None if flat.mask is None else _bit(hdus[flat.mask].header, flat.where)
    # a pixel without data is 0 in LSST's flats, which have a mask to flag it
    empty = 0.0 if flat.mask is not None and _NO_DATA in hdus[flat.mask].header else np.nan
    # the mask is only read from disk where it is needed
    mask = None if flat.mask is None else lambda: part(hdus[flat.mask].data)
    changed = set(powers)
    masked = correct_planes(flat.detector, gradient, reference, planes, mask, bit, empty, flat.where)
    if masked and flat.mask is not None:
        changed.add(flat.mask)
    for number in powers:
        _replace(hdus[number], pixels[number])
    return changed


def _bit(header, where: str) -> int | None:
    """What flags a pixel without data in a mask; None in one whose planes have no NO_DATA."""
    if _NO_DATA in header:
        check_bit(header[_NO_DATA], abs(header["BITPIX"]), where)
        return 1 << header[_NO_DATA]
    return None if any(key.startswith("MP_") for key in header) else 1


def _replace(hdu, pixels: np.ndarray) -> None:
    """Put floating pixels into an HDU, with nothing lost when it is written.

    Compressed integers, and floats that were compressed as scaled integers, would be quantised (again).
    """
    hdu.data = pixels
    for key in ("BLANK", "BZERO", "BSCALE"):
        hdu.header.remove(key, ignore_missing=True)
    if hasattr(hdu, "compression_type"):
        hdu.quantize_level, hdu.quantize_method = 0.0, -1  # none, and no dither
        if hdu.compression_type not in _LOSSLESS:
            hdu.compression_type = _LOSSLESS[0]


def _mark(header, cards: Cards) -> None:
    """Put the cards into a header."""
    if f"HIERARCH {BUTLER_CARDS} ID" in cards:  # these replace the cards of the uncorrected dataset
        for key in [key for key in header if key.startswith(BUTLER_CARDS)]:
            del header[key]
    for key, (value, comment) in cards.items():
        header[key] = (value, comment)


def _name_of(product: FlatGradient, path: str | Path) -> str:
    """The calibration id of a product if it has one, else its file name."""
    name = str(product.metadata.get("CALIB_ID") or "") or Path(path).name
    return shown(name, _MOST_ID).encode("ascii", "backslashreplace").decode()  # headers hold nothing else
