"""Files and folders that appear whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import fcntl
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
    present = [name for name in names if os.path.lexists(folder / name)]
    if present and not overwrite:
        raise InputError(f"{folder}: holds {present[-1]} already; give another folder, or --overwrite")
    for name in present:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise InputError(f"{folder / name}: is a folder, where a file is to be written; give another folder")
    return present


@contextmanager
def filling(folder: str | Path, names: Sequence[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; on success its files move to ``folder``, on failure nothing is left behind.

    Parameters
    ----------
    folder : str or Path
        Made, with its parents, where it is not there.
    names : sequence of str
        All files that may be written, the most important one last: it is the last to appear, and the first to go where
        it is replaced, so that where it exists all files are of its run.  Those that an earlier run left and this one
        does not write are removed with ``overwrite``.  No other file is touched.
    overwrite : bool
        Whether files of these names may be replaced.

    Raises
    ------
    InputError
        ``folder`` is a file, cannot be written, or holds one of the files without ``overwrite``; another run is writing
        to it.
    """
    folder = Path(folder)
    check_free(folder, names, overwrite)
    with _claimed(folder):
        # on the same disk as the target, or files would not move in one step
        try:
            temporary = Path(tempfile.mkdtemp(prefix=".bayesflat-", dir=folder))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
        try:
            yield temporary
            # again, for where folders cannot be claimed
            _move(temporary, folder, names, check_free(folder, names, overwrite))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is not there, for this process alone; made in vain it is removed.

    The claim is a lock of the system's on the folder, which ends with the process however that ends.
    """
    made = []
    while True:
        try:
            for part in reversed([folder, *folder.parents]):
                if not part.exists():
                    part.mkdir()
                    made.append(part)
            lock = os.open(folder, os.O_RDONLY)
        except FileExistsError:
            continue  # another run has just made it
        except OSError as error:
            _remove_empty(made)
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InputError(f"{folder}: another run is writing to it; give another folder, or wait") from None
        except OSError:
            pass  # some network disks have no locks
        if os.path.exists(folder) and os.path.samestat(os.stat(folder), os.fstat(lock)):
            break
        os.close(lock)  # the run that had made it has removed it
    try:
        yield
    finally:
        _remove_empty(made)
        os.close(lock)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that nothing was put into, the innermost first."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _move(temporary: Path, folder: Path, names: Sequence[str], present: Sequence[str]) -> None:
    """Move the files of a run to their folder, and those of the run before out of it: all of them, or none."""
    old = temporary / ".replaced"
    old.mkdir()
    moved = []
    try:
        for name in reversed(present):
            os.replace(folder / name, old / name)
        for name in names:
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
                moved.append(name)
    except BaseException:
        for name in reversed(moved):
            (folder / name).unlink()
        for name in present:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
        raise
