"""Printing of the results of commands, as text or as JSON, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import click

from bayesflat.commands.options import Common
from bayesflat.commands.terminal import WRONG_INPUT, fail, say
from bayesflat.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from bayesflat.comparison.comparison import Comparison
    from bayesflat.gradient.product import FlatGradient

DONE, NOT_CONVERGED, INTERRUPTED = 0, 3, 130  # and 128 more than the signal that ended the work


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
        What a `Kind` takes: a fit, a `Comparison`, or a number of flats.
    error : str or None
        Error message in one line; None on success.
    """

    name: str
    written: tuple[str, ...] = ()
    result: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of result, and how it is told.

    Attributes
    ----------
    text : callable
        Of a result, and "written to" where: what is printed, tables and lines; the last one says where.
    summary : callable
        Of a result: a dict for JSON.
    failure : callable
        Of a result: what failed to converge; empty where it all did.
    """

    text: Callable[[Any, str], list[str | Table]]
    summary: Callable[[Any], dict[str, Any]]
    failure: Callable[[Any], str] = lambda _: ""


def _fit_text(result: ShownFit, where: str) -> list[str | Table]:
    from bayesflat.commands.tables import fit_table

    word = result.gradient.require_estimates().header["VERDICT"][0]
    return [fit_table(result.gradient), result.message, f"verdict: {word}", where]


def _fit_summary(result: ShownFit) -> dict[str, Any]:
    from bayesflat.report.summaries import fit_summary

    return {"message": result.verdict, **fit_summary(result.gradient)}


def _comparison_text(comparison: Comparison, where: str) -> list[str | Table]:
    from bayesflat.commands.tables import comparison_lines

    return [*comparison_lines(comparison), where]


def _comparison_summary(comparison: Comparison) -> dict[str, Any]:
    from bayesflat.report.summaries import comparison_summary

    return comparison_summary(comparison)


FIT = Kind(
    _fit_text, _fit_summary,
    lambda fit: "" if fit.converged else f"{fit.verdict}; the product says so",
)  # fmt: skip
COMPARISON = Kind(
    _comparison_text, _comparison_summary,
    lambda found: "" if found.converged else f"{'; '.join(found.notes)}; comparison.json says so",
)  # fmt: skip
FLATS = Kind(lambda count, where: [f"{count} corrected flats {where}"], lambda count: {"corrected_flats": count})


def show(kind: Kind, result: Any, written: str, common: Common) -> int:
    """Print a result and where it was written, and return the exit status."""
    return _show_all(kind, [Outcome("", (written,), result)], common, several=False)


def show_all(kind: Kind, outcomes: Iterable[Outcome], common: Common) -> int:
    """Print the outcome of each filter and date, and return the worst exit status."""
    return _show_all(kind, outcomes, common, several=True)


def _show_all(kind: Kind, outcomes: Iterable[Outcome], common: Common, *, several: bool) -> int:
    status, summaries = DONE, list[dict[str, Any]]()
    for one in outcomes:
        if one.error is not None:
            status = fail(one.error)
            summaries.append({"name": one.name, "error": one.error})
            continue
        prefix = f"{one.name}: " if one.name else ""
        where = f"written to {' and '.join(one.written)}"
        if common.json:
            named = {"name": one.name} if several else {}
            summaries.append({**named, **kind.summary(one.result), "written": list(one.written)})
        elif not common.quiet:
            lines = kind.text(one.result, where)
            say(*(f"{prefix}{line}" if isinstance(line, str) else line for line in lines), where=str(lines[-1]))
        failure = kind.failure(one.result)
        if failure:
            click.echo(printable(f"bayesflat: {prefix}{failure}"), err=True)
            status = max(status, NOT_CONVERGED) if status != WRONG_INPUT else status
    if common.json:
        say_json(summaries if several else summaries[0])
    return status


def say_json(what: Any) -> None:
    """Print as JSON, whatever --quiet says."""
    say(json.dumps(what, indent=1, allow_nan=False, ensure_ascii=False))
