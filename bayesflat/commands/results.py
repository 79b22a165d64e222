"""What commands print of their results, and the exit status that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console

DONE, WRONG_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 2, 3, 130

stderr = Console(stderr=True)
stdout = Console()

Show = Callable[[Any, str, bool, str], int]  # of a result, where it was written, whether to be quiet, and its name


@dataclass(frozen=True)
class Outcome:
    """What became of a unit of work.

    Attributes
    ----------
    name : str
        Its filter and date.
    written : tuple of str
        Where the results are.
    result : Any
        Of a fit, a `bayesflat.rubin.fit.Fitted`.
    error : str or None
        The line that says why there is nothing.
    """

    name: str
    written: tuple[str, ...] = ()
    result: Any = None
    error: str | None = None


def fail(message: str) -> int:
    """One line, and the status of wrong input."""
    click.echo(f"bayesflat: {' '.join(message.split())}", err=True)
    return WRONG_INPUT


def show_fit(result, where: str, quiet: bool, name: str = "") -> int:
    """A `bayesflat.inference.fitting.FitResult`, or a `bayesflat.rubin.fit.Fitted`."""
    of = f"{name}: " if name else ""
    if not quiet:
        from bayesflat.commands.tables import fit_table

        stdout.print(fit_table(result.gradient))
        stdout.print(f"{of}{result.message}\n{where}", highlight=False)
    if not result.converged:
        click.echo(f"bayesflat: {of}{result.verdict}; the product says so", err=True)
        return NOT_CONVERGED
    return DONE


def show_comparison(comparison, where: str, quiet: bool, name: str = "") -> int:
    """A `bayesflat.comparison.comparison.Comparison`."""
    of = f"{name}: " if name else ""
    if not quiet:
        from bayesflat.commands.tables import comparison_lines

        lines = comparison_lines(comparison)
        stdout.print("\n".join([of + lines[0], *lines[1:]]), highlight=False, markup=False, soft_wrap=True)
        stdout.print(where, highlight=False)
    if not comparison.converged:
        click.echo(f"bayesflat: {of}{'; '.join(comparison.notes)}; comparison.json says so", err=True)
        return NOT_CONVERGED
    return DONE


def show_flats(count: int, where: str, quiet: bool, name: str = "") -> int:
    """How many flats were corrected."""
    if not quiet:
        stdout.print(f"{name}: {count} corrected flats {where}" if name else f"{count} corrected flats {where}",
                     highlight=False)  # fmt: skip
    return DONE


def show_all(outcomes: Iterable[Outcome], quiet: bool, show: Show) -> int:
    """What became of each filter and date; the exit status of the worst."""
    status = DONE
    for one in outcomes:
        if one.error is not None:
            status = fail(one.error)
            continue
        shown = show(one.result, f"written to {' and '.join(one.written)}", quiet, one.name)
        status = max(status, shown) if status != WRONG_INPUT else status
    return status
