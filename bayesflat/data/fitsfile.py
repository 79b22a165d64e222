"""FITS files as a whole: opened so that damage is said in one line, and copied HDU by HDU."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import logging
import lzma
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from bayesflat.data.sizes import check_sizes
from bayesflat.errors import InputError, first_line
from bayesflat.files import naming, owned_folder, written_in_vain

log = logging.getLogger(__name__)

# first bytes of a file that is compressed as a whole, and what reads and writes it
_COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": partial(gzip.open, compresslevel=1),  # floats take five times as long at 6, and as much room
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_REFUSED = {b"PK\x03\x04": "zip", b"\x1f\x9d": "compress"}
_CHUNK = 2**22  # bytes that are copied at a time


@contextmanager
def opened_fits(path: str | Path, file: IO[bytes] | None = None, what: str = "FITS") -> Iterator:
    """Open a FITS file so that whatever is wrong with it becomes an `InputError`.

    astropy only warns about some damage, such as truncation.  That is an error here; remarks about the style of header
    cards are dropped, other warnings of astropy are logged.

    Parameters
    ----------
    path : path
    file : file, optional
        Its bytes as from `unpacked`, which stay open.
    what : str
        What messages say that it cannot be read as.

    Yields
    ------
    hdus : astropy.io.fits.HDUList
    """
    from astropy.io import fits

    with (
        unpacked(path) if file is None else contextlib.nullcontext(file) as opened,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            check_sizes(opened, path)
            hdus = fits.open(opened, memmap=False)
            len(hdus)  # reads all headers: a file cut short behind what is used is damaged all the same
            yield hdus
        except Exception as error:
            damage = _damage(caught)
            if damage:
                raise InputError(f"{path}: {damage}") from None
            if isinstance(error, InputError) or written_in_vain(error):
                raise  # what is written meanwhile is no fault of this file
            raise InputError(f"{path}: cannot be read as {what} ({first_line(error)})") from None
    _report(caught, path)


@contextmanager
def unpacked(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a file; of one that is compressed as a whole, those of a temporary file that it is unpacked into.

    astropy takes the end of compressed bytes, wherever it comes, for the end of the file, and would unpack them anew
    for every HDU.

    Raises
    ------
    InputError
        No such file; its compressed bytes end early, or are damaged.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: {'is a folder, not a file' if os.path.isdir(path) else 'no such file'}")
    with open(path, "rb") as file:
        opener = _opener(path)
        if opener is None:
            yield file
            return
        with owned_folder() as folder:
            plain = folder / "unpacked.fits"
            try:
                with opener(file) as packed, naming(f"{folder.parent} (TMPDIR)"), open(plain, "wb") as out:
                    shutil.copyfileobj(packed, out, _CHUNK)
            except EOFError:
                raise InputError(f"{path}: the file is truncated (its compressed bytes end early)") from None
            except (OSError, zlib.error, lzma.LZMAError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise  # the disk is full, and so on
                raise InputError(f"{path}: the file is corrupted ({first_line(error)})") from None
            with open(plain, "rb") as whole:  # astropy takes no file that is open for writing
                yield whole


def _opener(path: str | Path) -> Callable[..., Any] | None:
    """What reads and writes a file that is compressed as a whole; None for a plain one."""
    with open(path, "rb") as file:
        start = file.read(8)
    refused = next((name for magic, name in _REFUSED.items() if start.startswith(magic)), "")
    if refused:
        raise InputError(f"{path}: is packed by {refused}; accepted are FITS as it is, or packed by gzip, bzip2 or xz")
    if len(start) < 2 and str(path).lower().endswith(".gz"):
        raise InputError(f"{path}: the file is truncated (it has {len(start)} bytes)")
    return next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)


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


def check_sums(hdus: Iterable, path: str | Path, *, needed: bool) -> None:
    """Hold data and headers against the checksums that they were written with; before any data are used.

    Parameters
    ----------
    hdus : iterable of HDU
    path : path
        What messages call the file.
    needed : bool
        Whether to warn of an HDU without DATASUM.

    Raises
    ------
    InputError
        Data that are not those that were written.  Headers that were changed are warned of.
    """
    for number, hdu in numbered_hdus(hdus, path):
        name = f"HDU {number} ({hdu.name})" if hdu.name else f"HDU {number}"
        if "DATASUM" not in hdu.header:
            if needed:
                log.warning("%s: %s has no DATASUM, by which its data could be checked", path, name)
        elif not hdu.verify_datasum():
            raise InputError(f"{path}: the data of {name} are not those that were written (DATASUM)")
        elif "CHECKSUM" in hdu.header and not _sums_up(hdu):
            log.warning("%s: the header of %s was changed after it was written (CHECKSUM)", path, name)


def _sums_up(hdu) -> bool:
    """Whether the bytes of an HDU, blanks and all, have the sum that CHECKSUM brings about (FITS 4.0, appendix J)."""
    buffer = io.BytesIO()
    copy_hdu(hdu, buffer)
    found = int(np.frombuffer(buffer.getbuffer(), dtype=">u4").sum(dtype=np.uint64))
    while found >> 32:  # ones' complement: carries go round
        found = (found & 0xFFFFFFFF) + (found >> 32)
    return found == 0xFFFFFFFF


# ---- writing ----


@contextmanager
def written_like(path: str | Path, target: str | Path) -> Iterator[IO[bytes]]:
    """Open ``target`` to write bytes, which are compressed as a whole where those of ``path`` are."""
    with naming(target), (_opener(path) or open)(target, "wb") as file:
        yield file


def copy_hdu(hdu, out: IO[bytes]) -> None:
    """Write the bytes of an HDU as they lie in the file that it was read from."""
    info = hdu.fileinfo()
    start, end = info["hdrLoc"], info["datLoc"] + info["datSpan"]
    info["file"].seek(start)
    for place in range(start, end, _CHUNK):
        out.write(info["file"].read(min(end - place, _CHUNK)))


def write_hdu(hdu, out: IO[bytes]) -> None:
    """Write an HDU whose header or data were changed; CHECKSUM and DATASUM are brought up to date where they are."""
    from astropy.io import fits

    buffer = io.BytesIO()
    primary = isinstance(hdu, fits.PrimaryHDU)
    alone = fits.HDUList([hdu] if primary else [fits.PrimaryHDU(), hdu])
    keywords = _keywords(hdu)
    sums: bool | str = "CHECKSUM" in keywords or ("datasum" if "DATASUM" in keywords else False)
    # cards that break the rules of FITS stay as they are
    alone.writeto(buffer, output_verify="ignore", checksum=sums)
    out.write(buffer.getbuffer()[0 if primary else 2880 :])


def _keywords(hdu) -> set[str]:
    """Keywords in the file; the header of a compressed image does not show those of the table that it is in."""
    info = hdu.fileinfo()
    info["file"].seek(info["hdrLoc"])
    header = info["file"].read(info["datLoc"] - info["hdrLoc"]).decode("latin-1")
    return {header[k : k + 8].rstrip() for k in range(0, len(header), 80)}


def numbered_hdus(hdus: Iterable, path: str | Path) -> Iterator[tuple[int, Any]]:
    """Number and HDU, one by one; astropy reads on over a damaged header, which is an error here.

    The HDU that it began, maybe the mask, would go missing unsaid.
    """
    for number, hdu in enumerate(hdus):
        if number and next(iter(hdu.header), "") not in ("XTENSION", "SIMPLE"):
            raise InputError(f"{path}: the file is corrupted; the header of HDU {number} does not begin with XTENSION")
        yield number, hdu
