"""Units of work on a data repository: one for each filter and date, with where its results go."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesflat.commands.results import Outcome
from bayesflat.data.camera import Camera, Detector
from bayesflat.data.headers import check_instrument
from bayesflat.data.instruments import instruments_called
from bayesflat.errors import InputError, first_line
from bayesflat.files import check_free, filling, owned_folder
from bayesflat.processes import Ended
from bayesflat.rubin.output import Kind, OutputRun
from bayesflat.rubin.query import Query
from bayesflat.rubin.repository import Dataset, Repository, parse_date

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkUnit:
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


def find_units(
    query: Query, out: str | Path | None, flats: str, camera: Camera, overwrite: bool
) -> tuple[Repository, list[WorkUnit]]:
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
    units = []
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
                run = query.output_run if len(dates) == 1 else f"{query.output_run}/{file_name(str(date))}"
                output = OutputRun(repository.butler, run, overwrite)
            data_id = {"instrument": repository.instrument, "physical_filter": physical_filter}
            units.append(WorkUnit(physical_filter, date, folder, output, data_id, mine))
    log.info("%s: %s", query.repo, "; ".join(f"{len(unit.flats)} flats of {unit.name}" for unit in units))
    return repository, units


def open_repository(query: Query, camera: Camera, *, writeable: bool) -> tuple[Repository, list[str | None]]:
    """The repository, checked against the camera, and the dates of the query; a single None where it has none.

    Raises
    ------
    InputError
        As `find_units`.
    """
    for date in query.dates:
        parse_date(date)
    repository = Repository(
        query.repo, query.collections, instrument=query.instrument, where=query.where,
        writeable=writeable,
    )  # fmt: skip
    if instruments_called(repository.instrument):  # a repository may have an instrument that is its own
        check_instrument(repository.instrument, camera, query.repo)
    dates: list[str | None] = [*dict.fromkeys(query.dates)] or [None]
    if query.dates and not repository.has_calibrations:
        message = (
            f"--date chooses among what a CALIBRATION collection certifies; {', '.join(query.collections)} is none"
        )
        if len(dates) > 1:
            raise InputError(message)
        log.warning("%s: it does nothing here", message)
    return repository, dates


def folder_of(out: Path, query: Query, physical_filter: str, date: str | None) -> Path:
    """Folder of a filter and date: there is a subfolder for each filter, or date, of a query that has several."""
    folder = out / file_name(physical_filter) if len(query.physical_filters) != 1 else out
    return folder / file_name(str(date)) if len(set(query.dates)) > 1 else folder


def file_name(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", text)


def find_detector(number: int, camera: Camera, where: str) -> Detector:
    """The camera's detector of a data id."""
    if number not in camera:
        raise InputError(f"{where}: is of detector {number}, camera {camera.name} has no such detector")
    return camera[number]


@contextmanager
def place(unit: WorkUnit, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A folder to fill: the unit's own, or a temporary one."""
    if unit.folder is not None:
        with filling(unit.folder, names, overwrite) as folder:
            yield folder
        return
    with owned_folder() as folder:
        yield folder


def _places(unit: WorkUnit) -> tuple[str, ...]:
    """Folder and run that hold the results, to print."""
    places = [str(unit.folder)] if unit.folder is not None else []
    return (*places, *([f"run {unit.output.run}"] if unit.output is not None else []))


def check_places(
    unit: WorkUnit, names: Sequence[str], kinds: Iterable[Kind], data_ids: Iterable[dict], overwrite: bool
) -> None:
    """Refuse a unit whose results could not be left: files in its folder, datasets in its run."""
    if unit.folder is not None:
        check_free(unit.folder, names, overwrite)
    if unit.output is not None:
        unit.output.check(kinds, data_ids)


def finish_units(
    units: Sequence[WorkUnit],
    found: Iterable[tuple[int, Any]],
    finish: Callable[[int, Any], Any],
    errors: dict[int, Exception] | None = None,
) -> list[Outcome]:
    """Finish units one by one, and return the outcome of each.

    Parameters
    ----------
    units : sequence of WorkUnit
    found : iterable of tuple
        Index of a unit and its result, in any order.
    finish : callable
        Called with these two; leaves the results where they belong, and returns what is printed of them. Where it
        fails, the other units go on.
    errors : dict, optional
        Exceptions of units that have failed already, or that fail while ``found`` is consumed.

    Raises
    ------
    KeyboardInterrupt, Ended
        Its message lists the units that are written.
    """
    errors = {} if errors is None else errors
    results: dict[int, Any] = {}
    try:
        for k, what in found:
            try:
                results[k] = finish(k, what)
            except Exception as error:
                errors[k] = error
    except (KeyboardInterrupt, Ended) as error:
        done = ", ".join(units[k].name for k in results)
        if isinstance(error, Ended):
            error.message = f"terminated; written: {done or 'nothing'}"
            raise
        raise KeyboardInterrupt(f"interrupted; written: {done or 'nothing'}") from None
    return [
        Outcome(unit.name, error=_explained(errors[k], unit.name))
        if k in errors
        else Outcome(unit.name, _places(unit), results[k])
        for k, unit in enumerate(units)
    ]


def _explained(error: Exception, name: str) -> str:
    """One line; the traceback of an unexpected error goes into the log."""
    if isinstance(error, InputError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.filename or 'file'}: {error.strerror}"
    log.debug("%s failed", name, exc_info=error)
    return f"{name}: {type(error).__name__}: {first_line(error)}"
