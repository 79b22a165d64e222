"""What `bayesflat apply` does: dome flats from disk, and corrected ones with all else as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np

from bayesflat import __version__
from bayesflat.data.camera import Camera, Detector, get_camera
from bayesflat.data.flats import check_shape, find_flats, identify, image_hdu, named_hdu, opened_fits
from bayesflat.errors import InputError
from bayesflat.files import checksum, filling
from bayesflat.gradient.correction import check_products, corrections, floating, warn_of_unconverged
from bayesflat.gradient.product import FlatGradient
from bayesflat.processes import in_processes

log = logging.getLogger(__name__)

# SHA-256 of the gradient that was applied: by this card a flat that was corrected is known
_DONE = "CPPGRSUM"
BUTLER_CARDS = "LSST BUTLER"  # how the cards begin that name a dataset and its inputs
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
    """Correct dome flats, and leave them under their own names in a folder.

    Parameters
    ----------
    inputs : iterable of str or Path
        Flats, folders or globs of them.
    out : str or Path
        Folder to write; all files appear at once, when all are done.
    gradient, reference : str or Path
        Products of the dome and of the sky flats.
    camera : str
        As for `get_camera`.
    physical_filter : str, optional
        For flats whose headers do not say.
    processes : int
    overwrite : bool
        Whether files of an earlier run may be replaced.
    progress : callable, optional
        Called with the number of flats; what it returns is called after each.

    Returns
    -------
    list of Path
        The corrected flats.

    Raises
    ------
    InputError
        What cannot be read; products that do not belong together or to the flats; flats that were corrected before, or
        whose names are the same; a folder that holds one of the inputs.
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
    warn_of_unconverged(dome, sky)  # once, not with every flat
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


def make_cards(dome: FlatGradient, gradient: str | Path, sky: FlatGradient, reference: str | Path) -> dict:
    """What a corrected flat says of the products, and of the files that they were read from."""
    return {  # ids and checksums leave no room for comments
        "CPPGRAD": (_name_of(dome, gradient), ""),
        _DONE: (checksum(gradient), ""),
        "CPPREF": (_name_of(sky, reference), ""),
        "CPPRFSUM": (checksum(reference), ""),
        "CPPBY": (f"bayesflat {__version__}", "what applied them"),
    }


def correct_file(
    path: Path,
    target: Path,
    camera: Camera,
    gradient: FlatGradient,
    reference: FlatGradient,
    physical_filter: str | None,
    cards: dict[str, tuple[str, str]],
    identity: tuple[Detector, str, str] | None = None,
) -> None:
    """Correct one flat: image and variance scaled, NO_DATA where the gradients say nothing, all else as it was.

    With an ``identity``, as for `bayesflat.data.flats.read_flat`, the headers are not asked which detector it is.
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
        # a pixel without data reads 0 in LSST's flats, where a mask can say so
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
            if flagged:  # else the mask is not even read
                mask.data[rows][correction.nowhere] |= mask.data.dtype.type(1 << mask.header[_NO_DATA])
        image.data = pixels
        if variance is not None:
            variance.data = spread
        if f"HIERARCH {BUTLER_CARDS} ID" in cards:  # the dataset's, and no longer those of the one that it is made of
            for key in [key for key in header if key.startswith(BUTLER_CARDS)]:
                del header[key]
        for key, (value, comment) in cards.items():
            header[key] = (value, comment)
        hdus.writeto(target)


def _name_of(product: FlatGradient, path: str | Path) -> str:
    """Its calibration id where it has one, else its file name."""
    return str(product.metadata.get("CALIB_ID") or "") or Path(path).name
