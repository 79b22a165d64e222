"""The command `bayesflat apply`: read dome flats from disk and write corrected ones, otherwise unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bayesflat.data.camera import Camera, Detector, get_camera
from bayesflat.data.flats import check_shape, find_flats, identify, image_hdu, named_hdu, opened_fits
from bayesflat.errors import InputError
from bayesflat.files import checksum, filling
from bayesflat.gradient.correction import check_products, corrections, floating, warn_of_unconverged
from bayesflat.gradient.product import FlatGradient
from bayesflat.processes import in_processes

log = logging.getLogger(__name__)

Cards = dict[str, tuple[str, str]]  # keyword to value and comment

_DONE = "CPPGRSUM"  # SHA-256 of the gradient that was applied: this card marks a flat as corrected
BUTLER_CARDS = "LSST BUTLER"  # first words of the cards that name a dataset and its inputs
_NO_DATA = "MP_NO_DATA"


def run_apply(
    inputs: Iterable[str | Path],
    out: str | Path,
    gradient: str | Path,
    reference: str | Path,
    *,
    camera: str = "lsstcam",
    physical_filter: str | None = None,
    processes: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], Callable[[], None]] | None = None,
) -> list[Path]:
    """Correct dome flats, and write them under the same names to a folder.

    Parameters
    ----------
    inputs : iterable of str or Path
        Flats, folders or globs.
    out : str or Path
        Folder to write; its files appear together at the end.
    gradient, reference : str or Path
        Products of the dome and of the sky flats.
    camera : str
        As for `get_camera`.
    physical_filter : str, optional
        Filter of flats whose headers do not name it.
    processes : int
    overwrite : bool
        Whether files of an earlier run may be replaced.
    progress : callable, optional
        Called with the number of flats; returns a function that is called after each flat.

    Returns
    -------
    list of Path
        The corrected flats.

    Raises
    ------
    InputError
        A file cannot be read; products do not belong together or to the flats; flats were corrected before, or have
        the same name; the folder holds one of the inputs.
    """
    paths = find_flats(inputs)
    out = Path(out)
    names: dict[str, Path] = {}
    for path in paths:
        if path.name in names:
            raise InputError(f"{path} and {names[path.name]} have the same name; correct them into different folders")
        if path.resolve().parent == out.resolve():
            raise InputError(f"{out}: holds the flat {path.name} that is to be corrected; give another folder")
        names[path.name] = path
    dome, sky = FlatGradient.read(gradient), FlatGradient.read(reference)
    check_products(dome, sky)
    warn_of_unconverged(dome, sky)  # once, not for every flat
    geometry = get_camera(camera)
    cards = make_cards(dome, gradient, sky, reference)
    advance = progress(len(paths)) if progress else lambda: None
    with filling(out, sorted(names), overwrite) as folder:
        tasks = {
            k: (path, folder / path.name, geometry, dome, sky, physical_filter, cards) for k, path in enumerate(paths)
        }
        with closing(in_processes(correct_file, tasks, processes, "correcting flats")) as done:
            for _ in done:
                advance()
    log.info("%d flats corrected", len(paths))
    return [out / name for name in sorted(names)]


def make_cards(dome: FlatGradient, gradient: str | Path, sky: FlatGradient, reference: str | Path) -> Cards:
    """Header cards of a corrected flat that identify the products and the files that they were read from."""
    return {  # an id or a checksum leaves no room for a comment
        "CPPGRAD": (_name_of(dome, gradient), ""),
        _DONE: (checksum(gradient), ""),
        "CPPREF": (_name_of(sky, reference), ""),
        "CPPRFSUM": (checksum(reference), ""),
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
    identity: tuple[Detector, str, str] | None = None,
) -> None:
    """Correct one flat: scale image and variance, and flag NO_DATA beyond the radial functions.

    With an ``identity``, as for `bayesflat.data.flats.read_flat`, detector and filter are not read from the headers.
    """
    with opened_fits(path) as hdus:
        header = hdus[0].header
        if _DONE in header:
            raise InputError(f"{path}: was corrected before (card {_DONE}); apply gradients to the flat as it was")
        image = image_hdu(hdus, path)
        detector, physical_filter, _ = identity or identify(header, image, path, camera, physical_filter)
        check_shape(image.shape, detector, path)
        check_products(gradient, reference, physical_filter)
        mask, variance = named_hdu(hdus, "MASK", path), named_hdu(hdus, "VARIANCE", path)
        pixels, spread = floating(image.data), None if variance is None else floating(variance.data)
        flagged = mask is not None and _NO_DATA in mask.header
        # a pixel without data is 0 in LSST's flats, which have a mask to flag it
        empty = 0.0 if flagged else np.nan
        for rows, correction in corrections(detector, gradient, reference):
            pixels[rows] *= correction.factor
            if spread is not None:
                spread[rows] *= correction.factor * correction.factor
            if not correction.nowhere.any():
                continue
            pixels[rows][correction.nowhere] = empty
            if spread is not None:
                spread[rows][correction.nowhere] = empty
            if flagged:  # otherwise the mask is not even read from disk
                mask.data[rows][correction.nowhere] |= mask.data.dtype.type(1 << mask.header[_NO_DATA])
        image.data = pixels
        if variance is not None:
            variance.data = spread
        if f"HIERARCH {BUTLER_CARDS} ID" in cards:  # these replace the cards of the uncorrected dataset
            for key in [key for key in header if key.startswith(BUTLER_CARDS)]:
                del header[key]
        for key, (value, comment) in cards.items():
            header[key] = (value, comment)
        hdus.writeto(target)


def _name_of(product: FlatGradient, path: str | Path) -> str:
    """The calibration id of a product if it has one, else its file name."""
    return str(product.metadata.get("CALIB_ID") or "") or Path(path).name
