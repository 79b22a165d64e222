"""Files and folders that appear whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayesflat.errors import InputError

_PREFIX = ".bayesflat-"  # of folders for what is not finished
_OURS = re.compile(r"\.bayesflat-[a-z0-9_]{8}")  # as `tempfile.mkdtemp` names them
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# astropy and NumPy do not hand on the error's number
_FULL_IN_WORDS = ("No space left on device", "Not enough space on disk", "requested and")


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


ROWS = "ROWS"  # in the header of our tables in ECSV: their number of rows, which a cut after a whole row changes


def check_rows(header: Mapping[str, Any], n_rows: int, path: str | Path) -> None:
    """Refuse a table with another number of rows than its header says; those of others say nothing.

    Raises
    ------
    InputError
        The numbers differ.
    """
    if header.get(ROWS, n_rows) != n_rows:
        raise InputError(f"{path}: has {n_rows} rows, and its header says {header[ROWS]}; was it cut short?")


# ---- a disk that is full ----


def written_in_vain(error: BaseException) -> bool:
    """Whether an error means that a disk took no more: then the file that is written is at fault, none that is read."""
    if not isinstance(error, OSError):
        return False
    return error.errno in _FULL or (error.errno is None and any(words in str(error) for words in _FULL_IN_WORDS))


@contextmanager
def naming(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Let errors of a full disk name a file or folder that is written, and not a temporary one within it."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if temporary is not None and str(name).startswith(str(temporary)):
            name = str(Path(path, *Path(str(name)).relative_to(temporary).parts))
        elif not written_in_vain(error) or name is not None:
            raise
        number = error.errno or errno.ENOSPC
        raise OSError(number, error.strerror or os.strerror(number), str(name or path)) from None


# ---- folders for what is not finished ----


@contextmanager
def owned_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder, which goes in the end; those that killed processes left beside it go first.

    Its process holds a lock on it: where the lock is free, no process lives that needs the folder.

    Parameters
    ----------
    parent : str or Path, optional
        Where it is made; by default the system's folder for temporary files.
    """
    parent = Path(tempfile.gettempdir() if parent is None else parent)
    remove_left_over(parent)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int | None]:
    """A new folder and the lock on it; None on disks that know no locks, where nobody removes it either."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = None
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), os.stat(folder)):
                return folder, lock
        except FileNotFoundError:
            pass  # another process took it for left over before it was locked
        except OSError:
            if lock is not None:
                os.close(lock)
            return folder, None
        if lock is not None:
            os.close(lock)


def remove_left_over(parent: str | Path) -> None:
    """Remove the temporary folders in a folder whose processes were killed."""
    try:
        with os.scandir(parent) as entries:
            found = [e.path for e in entries if _OURS.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for folder in found:
        with contextlib.suppress(OSError):  # another user's, or in use: the lock is not to be had
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def replacing(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path near ``path``; on success it takes the place of ``path``, on failure it is removed.

    The temporary file has the same name, in a folder of its own, since writers choose a format by the ending.

    Raises
    ------
    InputError
        ``path`` is there, and may not be replaced; or its folder is not there, or cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: is there already; overwrite=True replaces it")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(owned_folder(path.parent))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        with naming(path.parent, folder):
            yield folder / path.name
            os.replace(folder / path.name, path)


def check_free(folder: str | Path, names: Sequence[str], overwrite: bool) -> list[str]:
    """Which of these files a folder holds already; an `InputError` unless they may be replaced."""
    folder = Path(folder)
    nearest_folder(folder)
    present = [name for name in names if os.path.lexists(folder / name)]
    if present and not overwrite:
        raise InputError(f"{folder}: holds {present[-1]} already; give another folder, or --overwrite")
    for name in present:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise InputError(f"{folder / name}: is a folder, where a file is to be written; give another folder")
    return present


def nearest_folder(folder: str | Path) -> Path:
    """The folder itself, or of its parents the nearest that is there.

    Raises
    ------
    InputError
        It, or one of its parents, is a file or a link that leads nowhere.
    """
    place = Path(folder).absolute()
    while not place.is_dir():
        what = "" if place == Path(folder).absolute() else f"{place} "
        if place.exists():
            raise InputError(f"{folder}: {what}is a file; -o needs a folder")
        if place.is_symlink():
            raise InputError(f"{folder}: {what}is a link that leads nowhere, or to itself; -o needs a folder")
        place = place.parent
    return place


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
        ``folder`` is a file or leads nowhere, cannot be written, or holds one of the files without ``overwrite``;
        another run is writing to it.
    """
    folder = Path(folder)
    check_free(folder, names, overwrite)
    with _claimed(folder), contextlib.ExitStack() as stack:
        try:  # on the same disk as the target, or files would not move in one step
            temporary = stack.enter_context(owned_folder(folder))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
        with naming(folder, temporary):
            yield temporary
            # again, for where folders cannot be claimed
            _move(temporary, folder, names, check_free(folder, names, overwrite))


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
