"""Sizes that FITS headers announce, held against the file before anything of that size is read.

One wrong number would have a reader go back in the file for ever, count to a billion, or ask for more memory than there
is.  Only the cards that say how much data follow are looked at (FITS standard 4.0, sections 4.4.1, 7.3 and 10.1).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import IO

from bayesflat.errors import InputError
from bayesflat.text import shown

_BLOCK, _CARD = 2880, 80
_SIZES = re.compile(rb"(BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|ZNAXIS\d*|ZTILE\d+) *= (.*)", re.DOTALL)
_COLUMN = re.compile(rb"(TFORM\d+) *= *'([^']*)'", re.DOTALL)
_FORM = re.compile(r"\s*(\d*)([A-Z])")
_BITPIX = (8, 16, 32, 64, -32, -64)
_MOST = 999  # axes and columns
_BYTES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}


def check_sizes(file: IO[bytes], path: str | Path) -> None:
    """Go through the headers of a FITS file, and refuse sizes that cannot be.

    What does not begin as a header ends the walk: the reader reports it.

    Parameters
    ----------
    file : file
        Open for reading, anywhere; it is left at its start.
    path : path
        What messages call it.

    Raises
    ------
    InputError
        A number of axes, elements or columns that FITS does not have, or more data than the file has.
    """
    length = file.seek(0, 2)
    place, number = 0, 0
    while place < length:
        file.seek(place)
        read = _read_header(file)
        if read is None:
            break
        cards, columns, kind, place = read
        size = _Sizes(cards, columns, kind, f"HDU {number}", path).data_size()
        if place + size > length:
            raise InputError(
                f"{path}: the file is truncated (HDU {number} should have {size} bytes of data, "
                f"{max(0, length - place)} are left)"
            )
        place += -(-size // _BLOCK) * _BLOCK
        number += 1
    file.seek(0)


def _read_header(file: IO[bytes]) -> tuple[dict[str, str], dict[str, str], str, int] | None:
    """Cards with sizes, columns, what kind of HDU it is, and where its data begin; None where no header begins."""
    cards: dict[str, str] = {}
    columns: dict[str, str] = {}
    kind = ""
    while block := file.read(_BLOCK):
        if not kind:
            if not block.startswith((b"SIMPLE  =", b"XTENSION=")):
                return None
            kind = block[10:_CARD].decode("latin-1").strip("' ").split("'")[0].strip() if block[0] == ord("X") else "T"
        for k in range(0, len(block), _CARD):
            card = block[k : k + _CARD]
            if card.rstrip() == b"END":
                return cards, columns, kind, file.tell()
            if found := _SIZES.match(card):
                cards.setdefault(found[1].decode(), found[2].split(b"/")[0].decode("latin-1").strip())
            elif found := _COLUMN.match(card):
                columns.setdefault(found[1].decode(), found[2].decode("latin-1"))
    return None


class _Sizes:
    """The sizes of one HDU."""

    def __init__(self, cards: dict[str, str], columns: dict[str, str], kind: str, name: str, path: str | Path) -> None:
        self.cards, self.columns, self.kind, self.name, self.path = cards, columns, kind, name, path

    def refuse(self, key: str, needed: str) -> InputError:
        has = f"{key} of {self.name} is {shown(self.cards[key])}" if key in self.cards else f"{self.name} has no {key}"
        return InputError(f"{self.path}: the file is corrupted; {has}, {needed}")

    def whole(self, key: str, default: int | None = None, least: int = 0, most: float = math.inf) -> int:
        """The whole number of a card, within limits."""
        if key not in self.cards and default is not None:
            return default
        try:
            value = int(self.cards[key])
        except (KeyError, ValueError):
            raise self.refuse(key, "a whole number is needed") from None
        if not least <= value <= most:
            limits = f"at least {least}" if math.isinf(most) else f"{least} to {most:g}" if least < most else f"{least}"
            raise self.refuse(key, f"it must be {limits}")
        return value

    def data_size(self) -> int:
        """Bytes of data, without padding; checks what else would ask for memory."""
        if self.whole("BITPIX", least=-64, most=64) not in _BITPIX:
            raise self.refuse("BITPIX", f"it must be one of {', '.join(map(str, _BITPIX))}")
        axes = [self.whole(f"NAXIS{k + 1}") for k in range(self.whole("NAXIS", most=_MOST))]
        if not axes:
            return 0
        grouped = self.kind == "T" and axes[0] == 0 and len(axes) > 1  # random groups of radio astronomy
        copies = self.whole("GCOUNT", 1) if grouped else self.whole("GCOUNT", 1, least=1, most=1)
        elements = math.prod(axes[1:] if grouped else axes)
        if self.kind in ("BINTABLE", "TABLE"):
            self._check_table(axes)
        return abs(int(self.cards["BITPIX"])) // 8 * copies * (self.whole("PCOUNT", 0) + elements)

    def _check_table(self, axes: list[int]) -> None:
        if len(axes) != 2:
            raise self.refuse("NAXIS", "a table has 2")
        fields = self.whole("TFIELDS", most=_MOST)
        if axes[1] and fields and not axes[0]:
            raise self.refuse("NAXIS1", "rows of a table have bytes")
        if self.kind == "TABLE":
            return
        width = 0
        for k in range(fields):
            form = _FORM.match(self.columns.get(f"TFORM{k + 1}", ""))
            if form:
                count = int(form[1] or 1)
                width += -(-count // 8) if form[2] == "X" else count * _BYTES.get(form[2], 0)
        if width > axes[0]:
            raise self.refuse("NAXIS1", f"its columns (TFORM) need {width} bytes a row")
        shape = [self.whole(f"ZNAXIS{k + 1}") for k in range(self.whole("ZNAXIS", 0, most=_MOST))]
        tiles = [self.whole(f"ZTILE{k + 1}", 1 if k else max(1, n), least=1) for k, n in enumerate(shape)]
        needed = math.prod(-(-n // tile) for n, tile in zip(shape, tiles, strict=True)) if shape else 0
        if needed > axes[1]:
            raise self.refuse(
                "ZNAXIS1", f"an image of {' x '.join(map(str, shape))} has {needed} tiles, the file has {axes[1]}"
            )
