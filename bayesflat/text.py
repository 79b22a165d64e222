"""Text from files, made fit for terminals, messages and FITS headers; and numbers with their errors."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from bayesflat.errors import InputError

MOST_SHOWN = 80  # characters of a value in a message
MOST_NAME = 200  # characters of a name that is a name


def printable(text: str) -> str:
    r"""Text with everything that steers a terminal, or that UTF-8 cannot hold, written out as ``\x1b``.

    Line ends and tabs stay.  Bytes of a file name that are no UTF-8 are in Python's text as surrogates.
    """
    if text.isprintable():
        return text
    return "".join(_written_out(c) for c in text)


def _written_out(character: str) -> str:
    kind = unicodedata.category(character)
    if character in "\n\t" or not (kind.startswith("C") or kind in ("Zl", "Zp")):
        return character
    if kind == "Cs":
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode("ascii")


def shown(value: Any, most: int = MOST_SHOWN) -> str:
    """A value from a file as a message has it: printable, on one line, and cut where it is long."""
    text = str(value)
    text = printable(" ".join(text[: 4 * most].split()) if len(text) > 4 * most else " ".join(text.split()))
    return text if len(text) <= most else text[: most - 3] + "..."


def check_name(name: str, what: str, where: Any) -> str:
    """The name of a camera, detector or filter, which a FITS header must be able to hold.

    Parameters
    ----------
    name : str
    what : str
        What a message calls it, such as ``INSTRUME``.
    where : Any
        The file that it is from.

    Raises
    ------
    InputError
        It has other characters than printable ASCII, or more than 200.
    """
    if len(name) > MOST_NAME:
        raise InputError(
            f"{where}: {what} has {len(name)} characters ({shown(name)}); at most {MOST_NAME} are accepted"
        )
    if not (name.isascii() and name.isprintable()):
        raise InputError(
            f"{where}: {what} is {shown(name)}; FITS headers hold letters without accents, digits and ASCII signs only"
        )
    return name


def plus_minus(value: float, sd: float, scale: float = 1.0, digits: int = 5) -> str:
    """``value ± sd`` with two digits of the sd, or the value with ``digits`` digits where there is no sd."""
    value, sd = scale * value, scale * sd
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(sd) and sd > 0):
        return f"{value:.{digits}g}".replace("-", "−")
    decimals = 1 - math.floor(math.log10(sd))
    if decimals > 12:
        return f"{value:.{digits}g} ± {sd:.1g}".replace("-", "−")
    value, sd = round(value, decimals) + 0.0, round(sd, decimals)
    return f"{value:.{max(0, decimals)}f} ± {sd:.{max(0, decimals)}f}".replace("-", "−")
