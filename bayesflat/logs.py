"""The package's log in a file, and log records that are captured to be handed on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue

from bayesflat.errors import InputError
from bayesflat.text import printable

_PACKAGE = "bayesflat"


@contextmanager
def logging_to(
    path: Path | None, earlier: Sequence[logging.LogRecord] = (), level: int = logging.DEBUG
) -> Iterator[list[str]]:
    """Write the package's log to a file, with times; yield the warnings in it, as they come.

    Parameters
    ----------
    path : Path or None
        None: only the warnings are kept.
    earlier : sequence of logging.LogRecord
        Records that were captured before, and belong into the log too.
    level : int
        From which level on.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    warnings = _Warnings(logging.WARNING)
    handlers: list[logging.Handler] = [warnings]
    if path is not None:
        try:
            handlers.append(logging.FileHandler(path, encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: the log cannot be written ({error.strerror})") from None
        handlers[-1].setLevel(level)
        handlers[-1].setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    try:
        for record in earlier:
            for handler in handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
        with _attached(handlers, level if path is not None else logging.WARNING):
            yield warnings.texts
    finally:
        for handler in handlers:
            handler.close()


@contextmanager
def capture_records(level: int = logging.INFO) -> Iterator[list[logging.LogRecord]]:
    """Yield the records that this thread logs meanwhile, from a level on; they can be sent to another process."""
    capture = _Capture(level)
    with _attached([capture], level):
        yield capture.records


@contextmanager
def _attached(handlers: Sequence[logging.Handler], level: int) -> Iterator[None]:
    """Hand the package's records of a level and above to handlers too; other handlers' levels stay as they are."""
    root = logging.getLogger(_PACKAGE)
    before = root.level
    root.setLevel(min(before or logging.WARNING, level))
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)


class PrintableFormatter(logging.Formatter):
    """Writes out what would steer a terminal, or what UTF-8 cannot hold: messages quote headers and file names."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return printable(super().format(record))


class _Warnings(logging.Handler):
    """Collects the texts of warnings."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(printable(record.getMessage()))


class _Capture(QueueHandler):
    """Collects the records of one thread."""

    def __init__(self, level: int) -> None:
        super().__init__(SimpleQueue())  # not used: `enqueue` keeps the records itself
        self.setLevel(level)
        self.records: list[logging.LogRecord] = []
        self.mine = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if threading.get_ident() == self.mine:
            super().emit(record)

    def enqueue(self, record: logging.LogRecord) -> None:
        self.records.append(record)
