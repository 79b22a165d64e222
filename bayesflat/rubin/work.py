"""The work that is asked of a data repository: a piece for each filter and date, where it goes, what became of it."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.flats import check_instrument
from bayesflat.errors import InputError, first_line
from bayesflat.files import check_free, filling
from bayesflat.rubin.output import Kind, OutputRun
from bayesflat.rubin.repository import Dataset, Repository, parse_date

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """What the command line asks of a repository.

    Attributes
    ----------
    repo : str
    collections : sequence of str
    physical_filters : sequence of str
        Empty: all that there are flats of.
    dates : sequence of str
        ISO 8601, for CALIBRATION collections.
    instrument : str or None
    where : str
    output_run : str or None
        RUN collection for the results.
    """

    repo: str
    collections: Sequence[str]
    physical_filters: Sequence[str] = ()
    dates: Sequence[str] = ()
    instrument: str | None = None
    where: str = ""
    output_run: str | None = None


@dataclass(frozen=True)
class Piece:
    """The flats of one filter, for one date.

    Attributes
    ----------
    physical_filter : str
    date : str or None
    folder : Path or None
        Where its files go; None: nowhere but into the repository.
    output : OutputRun or None
        The run that takes the results.
    data_id : dict
        Of its products.
    flats : dict of int to Dataset
        By detector id.
    """

    physical_filter: str
    date: str | None
    folder: Path | None
    output: OutputRun | None
    data_id: dict[str, str]
    flats: dict[int, Dataset]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.physical_filter + (f" {self.date}" if self.date is not None else "")


@dataclass(frozen=True)
class Outcome:
    """What became of a piece.

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


def find_pieces(
    query: Query, out: str | Path | None, flats: str, camera: Camera, overwrite: bool
) -> tuple[Repository, list[Piece]]:
    """The flats that are asked for, by filter and date, and where their results go.

    Parameters
    ----------
    query : Query
    out : str or Path or None
        Folder to write, with a folder for each filter in it unless one was named, and for each date where there are
        several. None: the results go into the repository alone.
    flats : str
        Dataset type.
    camera : Camera
    overwrite : bool
        Whether the output run's datasets may be replaced.

    Raises
    ------
    InputError
        No such repository, collection, instrument, dataset type or filter; no flats; nowhere for the results to go.
    """
    if out is None and query.output_run is None:
        raise InputError("-o or --output-run must say where the results go")
    repository, dates = open_repository(query, camera, writeable=query.output_run is not None)
    pieces = []
    for date in dates:
        found = repository.find(flats, ("physical_filter", "detector"), date)
        there = list(dict.fromkeys(key[0] for key in found))
        filters = list(dict.fromkeys(query.physical_filters)) or there
        if not filters:
            raise repository.nothing(flats, None, (), date)
        for physical_filter in filters:
            mine = {key[1]: dataset for key, dataset in found.items() if key[0] == physical_filter}
            if not mine:
                raise repository.nothing(flats, physical_filter, there, date)
            folder = None if out is None else folder_of(Path(out), query, physical_filter, date)
            output = None
            if query.output_run is not None:
                # a run holds one dataset of a filter
                run = query.output_run if len(dates) == 1 else f"{query.output_run}/{file_name(date)}"
                output = OutputRun(repository.butler, run, overwrite)
            data_id = {"instrument": repository.instrument, "physical_filter": physical_filter}
            pieces.append(Piece(physical_filter, date, folder, output, data_id, mine))
    log.info("%s: %s", query.repo, "; ".join(f"{len(piece.flats)} flats of {piece.name}" for piece in pieces))
    return repository, pieces


def open_repository(query: Query, camera: Camera, *, writeable: bool) -> tuple[Repository, list[str | None]]:
    """The repository, once it is sure to be of the camera, and the dates that are asked for: None where there are none.

    Raises
    ------
    InputError
        As `find_pieces`.
    """
    for date in query.dates:
        parse_date(date)
    repository = Repository(
        query.repo, query.collections, instrument=query.instrument, where=query.where,
        writeable=writeable,
    )  # fmt: skip
    check_instrument(repository.instrument, camera, query.repo)
    dates = list(dict.fromkeys(query.dates)) or [None]
    if query.dates and not repository.has_calibrations:
        message = (
            f"--date chooses among what a CALIBRATION collection certifies; {', '.join(query.collections)} is none"
        )
        if len(dates) > 1:
            raise InputError(message)
        log.warning("%s: it does nothing here", message)
    return repository, dates


def folder_of(out: Path, query: Query, physical_filter: str, date: str | None) -> Path:
    """Where the files of a filter and date go: deeper where several filters, or several dates, are asked for."""
    folder = out / file_name(physical_filter) if len(query.physical_filters) != 1 else out
    return folder / file_name(date) if len(set(query.dates)) > 1 else folder


def file_name(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", text)


def find_detector(number: int, camera: Camera, where: str) -> Detector:
    """The camera's detector of a data id."""
    if number not in camera:
        raise InputError(f"{where}: is of detector {number}, camera {camera.name} has no such detector")
    return camera[number]


@contextmanager
def place(piece: Piece, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A folder to fill: the piece's own, or one that is gone afterwards."""
    if piece.folder is not None:
        with filling(piece.folder, names, overwrite) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bayesflat-") as folder:
        yield Path(folder)


def _places(piece: Piece) -> tuple[str, ...]:
    """Where its results are, to print."""
    places = [str(piece.folder)] if piece.folder is not None else []
    return (*places, *([f"run {piece.output.run}"] if piece.output is not None else []))


def check_places(
    piece: Piece, names: Sequence[str], kinds: Iterable[Kind], data_ids: Iterable[dict], overwrite: bool
) -> None:
    """Refuse a piece whose results could not be left: files in its folder, datasets in its run."""
    if piece.folder is not None:
        check_free(piece.folder, names, overwrite)
    if piece.output is not None:
        piece.output.check(kinds, data_ids)


def finish_pieces(
    pieces: Sequence[Piece],
    found: Iterable[tuple[int, Any]],
    finish: Callable[[int, Any], Any],
    errors: dict[int, Exception] | None = None,
) -> list[Outcome]:
    """Finish pieces one by one; what became of each.

    Parameters
    ----------
    pieces : sequence of Piece
    found : iterable of tuple
        Number of a piece and what there is of it, as it comes.
    finish : callable
        Called with these two; leaves the results where they belong, and returns what is said of them. Where it fails,
        the other pieces go on.
    errors : dict, optional
        Of pieces that have failed already, or will while ``found`` is asked for more.

    Raises
    ------
    KeyboardInterrupt
        It says which pieces are there already.
    """
    errors = {} if errors is None else errors
    results: dict[int, Any] = {}
    try:
        for k, what in found:
            try:
                results[k] = finish(k, what)
            except Exception as error:
                errors[k] = error
    except KeyboardInterrupt:
        done = ", ".join(pieces[k].name for k in results)
        raise KeyboardInterrupt(f"interrupted; written: {done or 'nothing'}") from None
    return [
        Outcome(piece.name, error=_explained(errors[k], piece.name))
        if k in errors
        else Outcome(piece.name, _places(piece), results[k])
        for k, piece in enumerate(pieces)
    ]


def _explained(error: Exception, name: str) -> str:
    """One line; what is no mistake of the user's keeps its traceback in the log."""
    if isinstance(error, InputError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.filename or 'file'}: {error.strerror}"
    log.debug("%s failed", name, exc_info=error)
    return f"{name}: {type(error).__name__}: {first_line(error)}"
