"""The terminal: what is printed to stdout and stderr, the log, and the stage of long work."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.logging import RichHandler

from bayesflat.commands.options import Common
from bayesflat.errors import first_line
from bayesflat.logs import PrintableFormatter, logging_to
from bayesflat.stages import shown
from bayesflat.text import printable

if TYPE_CHECKING:
    from rich.table import Table

WRONG_INPUT = 2
_WIDE = 250  # columns: what goes to a file or another program is not wrapped


class _Console(Console):
    """A console that leaves it to `say` what to do where nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Let the error go on."""
        raise


def _console(*, stderr: bool) -> Console:
    """A console as wide as the terminal, or as COLUMNS says; wide where there is neither."""
    made = _Console(stderr=stderr)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDE
    return made


stderr, stdout = _console(stderr=True), _console(stderr=False)


def fail(message: str) -> int:
    """Print an error message in one line, and return the exit status of wrong input."""
    click.echo(printable(f"bayesflat: {' '.join(message.split())}"), err=True)
    return WRONG_INPUT


def say(*what: str | Table, where: str = "") -> None:
    """Print to stdout; where that is closed or full, say so on stderr, and where the results are: they are whole.

    Parameters
    ----------
    *what : str or rich.table.Table
    where : str
        Where the results were written, for that message.
    """
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        for one in what:
            if isinstance(one, str):
                click.echo(printable(one))
            else:
                stdout.print(one)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        click.echo(printable(f"bayesflat: stdout cannot be written ({reason}){where and '; '}{where}"), err=True)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # else Python tries once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def working(common: Common) -> Iterator[None]:
    """Log to stderr while a command runs, and into a file where one is named; on a terminal, show its stage."""
    logger = logging.getLogger("bayesflat")
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(common.verbose, 2)]
    if common.log_level is not None:
        level = logging.getLevelNamesMapping()[common.log_level.upper()]
    elif common.quiet:
        level = logging.ERROR
    handler = _handler()
    handler.setLevel(level)
    before = logger.level
    logger.setLevel(min(level, before or level))
    logger.addHandler(handler)
    try:
        with ExitStack() as stack:
            if common.log_file is not None:
                stack.enter_context(logging_to(common.log_file, level=min(level, logging.INFO)))
            stack.enter_context(shown(stderr) if stderr.is_terminal and not common.quiet else nullcontext())
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _handler() -> logging.Handler:
    """Log to a terminal in its width and colours, and to anything else in plain lines."""
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(console=stderr, show_path=False, show_time=False, markup=False, rich_tracebacks=False)
        handler.setFormatter(PrintableFormatter())
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    return handler
