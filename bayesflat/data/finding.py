"""Which files the paths on a command line stand for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from bayesflat.errors import InputError

FITS_ENDINGS = (".fits", ".fits.gz", ".fits.fz", ".fit")


def find_files(
    inputs: str | Path | Iterable[str | Path], endings: tuple[str, ...], what: str, *, tree: bool = False
) -> list[Path]:
    """As `find_flats`, with folders standing for the files in them that have one of the ``endings``.

    With ``tree``, a folder without any stands for those in the folders below it.
    """
    inputs = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not inputs:
        raise InputError(f"no {what} given; accepted are files, folders and globs")
    found: dict[str, Path] = {}
    for given in inputs:
        for path in _expand(str(given), what):
            for file in _files_of(path, endings, what, tree):
                found.setdefault(os.path.realpath(file), Path(file))
    return sorted(found.values())


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
        Sorted, each file once, also where links lead to it.

    Raises
    ------
    InputError
        A path does not exist, a glob matches nothing, a folder has no FITS file in it, or there are no inputs.
    """
    return find_files(inputs, FITS_ENDINGS, "flats")


def _expand(given: str, what: str) -> list[str]:
    if os.path.exists(given):  # before globs: a real name may have brackets in it
        return [given]
    if not glob.has_magic(given):
        raise InputError(f"{what} {given}: no such file or folder")
    matches = glob.glob(given, recursive=True)
    if not matches:
        raise InputError(f"{what} {given}: the glob matches nothing")
    return sorted(matches)


def _files_of(path: str, endings: tuple[str, ...], what: str, tree: bool) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        files = _matching(path, os.listdir(path), endings)
    except OSError as error:
        raise InputError(f"{what} {path}: the folder cannot be read ({error.strerror})") from None
    if tree and not files:
        for folder, _, names in os.walk(path):
            files += _matching(folder, names, endings)
    if not files:
        raise InputError(f"{what} {path}: the folder has no {', '.join('*' + e for e in endings)} in it")
    return files


def _matching(folder: str, names: list[str], endings: tuple[str, ...]) -> list[str]:
    # names with a leading dot are files that somebody is still writing
    files = [os.path.join(folder, n) for n in sorted(names) if n.lower().endswith(endings) and not n.startswith(".")]
    return [file for file in files if not os.path.isdir(file)]
