"""Options for data repositories, and the query that they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bayesflat.commands.options import Names, group
from bayesflat.errors import InputError
from bayesflat.rubin.query import Query


@dataclass(frozen=True)
class Source:
    """Where in a data repository the input is."""

    repo: str | None
    collections: tuple[list[str], ...]
    instrument: str | None
    dates: tuple[str, ...]


@dataclass(frozen=True)
class SourceAndOutput(Source):
    """Which flats are chosen besides, and where the results go."""

    where: str
    output_run: str | None


_SOURCE = (
    click.option(
        "-b", "--butler", "repo", metavar="REPO", help="Take the input from a data repository: folder or label."
    ),
    click.option(
        "-i",
        "--collections",
        type=Names(),
        multiple=True,
        metavar="C[,C...]",
        help="Its collections, searched in order.",
    ),
    click.option("--instrument", metavar="NAME", help="Not needed where the repository has only one."),
    click.option(
        "--date",
        "dates",
        multiple=True,
        metavar="ISO",
        help="Take what CALIBRATION collections certify for this date (TAI); repeat for several.",
    ),
)

source_options = group("source", Source, "Data repository", *_SOURCE)

source_and_output_options = group(
    "source",
    SourceAndOutput,
    "Data repository",
    *_SOURCE,
    click.option("-d", "--where", default="", metavar="EXPR", help="Butler's expression that flats must satisfy."),
    click.option(
        "--output-run",
        metavar="RUN",
        help="Put the results into this RUN collection (several dates: RUN/DATE); -o is not needed then.",
    ),
)


def query_of(source: Source, inputs: Sequence[str], out: Path | None, filters: Sequence[str]) -> Query | None:
    """The query of a repository, or None where the input is files.

    Raises
    ------
    InputError
        Options that do not go together, or no input at all.
    """
    where, output_run = (source.where, source.output_run) if isinstance(source, SourceAndOutput) else ("", None)
    if source.repo is None:
        given = {
            "--collections": source.collections,
            "--date": source.dates,
            "--instrument": source.instrument,
            "--where": where,
            "--output-run": output_run,
        }
        alone = next((option for option, value in given.items() if value), None)
        if alone:
            raise InputError(f"{alone} needs --butler, the data repository")
        if not inputs:
            raise InputError("no INPUT given; accepted are files, folders and globs, or --butler")
        if out is None:
            raise InputError("-o must say which folder to write")
        return None
    if inputs:
        raise InputError(f"{inputs[0]}: the input comes from --butler or from files, not from both")
    collections = [name for names in source.collections for name in names]
    return Query(source.repo, collections, filters, source.dates, source.instrument, where, output_run)
