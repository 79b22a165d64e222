"""Files and folders that appear whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bayesflat.errors import InputError


def checksum(path: str | Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_text_ends(path: str | Path) -> None:
    """Refuse a file of text without a newline at its end: cut within its last number, it would read as another one.

    Raises
    ------
    InputError
        The last line is not ended.
    """
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_CUR)
            if file.read(1) not in b"\r\n":
                raise InputError(f"{path}: its last line has no newline; was it cut short? If it is complete, add one")


@contextmanager
def replacing(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path``, on failure it is removed.

    The temporary name ends as ``path`` does, since writers choose a format by the ending.

    Raises
    ------
    InputError
        ``path`` is there, and may not be replaced.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: is there already; overwrite=True replaces it")
    handle, name = tempfile.mkstemp(prefix=".", suffix="." + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.unlink()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_free(folder: str | Path, names: Sequence[str], overwrite: bool) -> list[str]:
    """Which of these files a folder holds already; an `InputError` unless they may be replaced."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; -o needs a folder")
    present = [name for name in names if (folder / name).exists()]
    if present and not overwrite:
        raise InputError(f"{folder}: holds {present[-1]} already; give another folder, or --overwrite")
    return present


@contextmanager
def filling(folder: str | Path, names: Sequence[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; on success its files move to ``folder``, on failure nothing is left behind.

    Parameters
    ----------
    folder : str or Path
        Made, with its parents, where it is not there.
    names : sequence of str
        All files that may be written, the most important one last: it is the last to appear.  Those that an earlier
        run left and this one does not write are removed with ``overwrite``, so that the folder tells of one run.
    overwrite : bool
        Whether files of these names may be replaced.

    Raises
    ------
    InputError
        ``folder`` is a file, cannot be written, or holds one of the files without ``overwrite``.
    """
    folder = Path(folder)
    present = check_free(folder, names, overwrite)
    # the nearest folder that is there: on the same disk as the target, or files would not move in one step
    home = folder.absolute()
    while not home.exists():
        home = home.parent
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".bayesflat-", dir=home))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        yield temporary
        folder.mkdir(parents=True, exist_ok=True)
        for name in present:
            if not (temporary / name).exists():
                (folder / name).unlink()
        for name in names:
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
