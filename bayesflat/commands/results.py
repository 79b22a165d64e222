"""Printing of the results of commands, and their exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console

from bayesflat.errors import first_line
from bayesflat.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from bayesflat.comparison.comparison import Comparison
    from bayesflat.gradient.product import FlatGradient

DONE, WRONG_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 2, 3, 130  # and 128 more than the signal that ended the work


class _Console(Console):
    """A console that leaves it to `say` what to do where nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Let the error go on."""
        raise


stderr = Console(stderr=True)
stdout = _Console()

# prints a result and returns the exit status; takes the result, where it was written, whether to be quiet, and its name
Show = Callable[[Any, str, bool, str], int]


class ShownFit(Protocol):
    """The part of a fit that is printed: `bayesflat.inference.fitting.FitResult` and `bayesflat.rubin.fit.Fitted`."""

    @property
    def gradient(self) -> FlatGradient:
        """The product."""

    @property
    def converged(self) -> bool:
        """Whether the fit converged."""

    @property
    def message(self) -> str:
        """How the maximum was judged."""

    @property
    def verdict(self) -> str:
        """How convergence was judged, and advice where it failed."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a unit of work.

    Attributes
    ----------
    name : str
        Filter and date.
    written : tuple of str
        Where the results were written.
    result : Any
        What `Show` takes: a `bayesflat.rubin.fit.Fitted`, a `Comparison`, or a number of flats.
    error : str or None
        Error message in one line; None on success.
    """

    name: str
    written: tuple[str, ...] = ()
    result: Any = None
    error: str | None = None


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


def show_fit(result: ShownFit, where: str, quiet: bool, name: str = "") -> int:
    """Print a fit, and return the exit status."""
    prefix = f"{name}: " if name else ""
    if not quiet:
        from bayesflat.commands.tables import fit_table

        word = result.gradient.require_estimates().header["VERDICT"][0]
        lines = f"{prefix}{result.message}\n{prefix}verdict: {word}\n{where}"
        say(fit_table(result.gradient), lines, where=where)
    if not result.converged:
        click.echo(printable(f"bayesflat: {prefix}{result.verdict}; the product says so"), err=True)
        return NOT_CONVERGED
    return DONE


def show_comparison(comparison: Comparison, where: str, quiet: bool, name: str = "") -> int:
    """Print a comparison, and return the exit status."""
    prefix = f"{name}: " if name else ""
    if not quiet:
        from bayesflat.commands.tables import comparison_lines

        lines = comparison_lines(comparison)
        say("\n".join([prefix + lines[0], *lines[1:], where]), where=where)
    if not comparison.converged:
        notes = "; ".join(comparison.notes)
        click.echo(printable(f"bayesflat: {prefix}{notes}; comparison.json says so"), err=True)
        return NOT_CONVERGED
    return DONE


def show_flats(count: int, where: str, quiet: bool, name: str = "") -> int:
    """Print the number of corrected flats, and return the exit status."""
    if not quiet:
        text = f"{count} corrected flats {where}"
        say(f"{name}: {text}" if name else text, where=text)
    return DONE


def show_all(outcomes: Iterable[Outcome], quiet: bool, show: Show) -> int:
    """Print the outcome of each filter and date, and return the worst exit status."""
    status = DONE
    for one in outcomes:
        if one.error is not None:
            status = fail(one.error)
            continue
        shown = show(one.result, f"written to {' and '.join(one.written)}", quiet, one.name)
        status = max(status, shown) if status != WRONG_INPUT else status
    return status
