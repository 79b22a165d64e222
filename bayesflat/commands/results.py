"""Printing of the results of commands, and their exit status."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console

if TYPE_CHECKING:
    from bayesflat.comparison.comparison import Comparison
    from bayesflat.gradient.product import FlatGradient

DONE, WRONG_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 2, 3, 130

stderr = Console(stderr=True)
stdout = Console()

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
    click.echo(f"bayesflat: {' '.join(message.split())}", err=True)
    return WRONG_INPUT


def show_fit(result: ShownFit, where: str, quiet: bool, name: str = "") -> int:
    """Print a fit, and return the exit status."""
    prefix = f"{name}: " if name else ""
    if not quiet:
        from bayesflat.commands.tables import fit_table

        stdout.print(fit_table(result.gradient))
        word = result.gradient.require_estimates().header["VERDICT"][0]
        stdout.print(f"{prefix}{result.message}\n{prefix}verdict: {word}\n{where}", highlight=False)
    if not result.converged:
        click.echo(f"bayesflat: {prefix}{result.verdict}; the product says so", err=True)
        return NOT_CONVERGED
    return DONE


def show_comparison(comparison: Comparison, where: str, quiet: bool, name: str = "") -> int:
    """Print a comparison, and return the exit status."""
    prefix = f"{name}: " if name else ""
    if not quiet:
        from bayesflat.commands.tables import comparison_lines

        lines = comparison_lines(comparison)
        stdout.print("\n".join([prefix + lines[0], *lines[1:]]), highlight=False, markup=False, soft_wrap=True)
        stdout.print(where, highlight=False)
    if not comparison.converged:
        click.echo(f"bayesflat: {prefix}{'; '.join(comparison.notes)}; comparison.json says so", err=True)
        return NOT_CONVERGED
    return DONE


def show_flats(count: int, where: str, quiet: bool, name: str = "") -> int:
    """Print the number of corrected flats, and return the exit status."""
    if not quiet:
        stdout.print(f"{name}: {count} corrected flats {where}" if name else f"{count} corrected flats {where}",
                     highlight=False)  # fmt: skip
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
