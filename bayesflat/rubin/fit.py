"""What `fit` does with a data repository: a product for each filter and date.

Only this process uses the repository.  Workers that bin get the addresses of files; workers that fit get bins, and
return the contents of the files to write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayesflat.commands.caches import check_caches
from bayesflat.commands.fit import FILES, LOG, PRODUCT, RADIAL_PLOT, REFERENCE, RESIDUAL_PLOT, fit_into
from bayesflat.config import RunConfig
from bayesflat.data.binning import FlatRegister, bin_flat
from bayesflat.data.camera import Camera, Detector, get_camera
from bayesflat.data.defects import Box, read_boxes
from bayesflat.data.flats import read_flat
from bayesflat.errors import InputError
from bayesflat.files import checksum, owned_folder
from bayesflat.gradient.product import FlatGradient
from bayesflat.logs import capture_records, logging_to
from bayesflat.processes import Workers, in_processes
from bayesflat.rubin.output import Kind, gradient_kind, plot_kind
from bayesflat.rubin.repository import Dataset, Repository, local
from bayesflat.rubin.work import (
    Outcome,
    Query,
    WorkUnit,
    check_places,
    find_detector,
    find_units,
    finish_units,
    place,
)
from bayesflat.stages import stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """Result of a fit, from any worker: the files by their names, and what is printed."""

    files: dict[str, bytes]
    gradient: FlatGradient
    converged: bool
    verdict: str
    message: str


def run_fit(
    query: Query,
    out: str | Path | None,
    config: RunConfig,
    *,
    processes: Workers = 1,
    overwrite: bool = False,
    sampling: bool = False,
    terms: bool = False,
    report: bool = True,
) -> list[Outcome]:
    """Fit the flats of a repository: a product for each filter and date.

    Parameters
    ----------
    query : Query
    out : str or Path or None
        Folder to write, as for `find_units`.
    config : RunConfig
        Its ``connections`` name the dataset types.
    processes : int or concurrent.futures.Executor
        Number of processes that bin the detectors and then fit the filters, or an executor.
    overwrite : bool
        Whether earlier products may be replaced, in the folder and in the output run.
    sampling, terms, report : bool
        As for `bayesflat.commands.fit.run_fit`.

    Returns
    -------
    list of Outcome
        One for each filter and date; where one failed, the others are there all the same.

    Raises
    ------
    InputError
        What is wrong before any work is done: no such repository, collection, dataset type, filter; results that are
        there already.
    """
    names = config.connections
    reference = config.do_reference_gradient
    product = gradient_kind(names.output_reference_gradient if reference else names.output_gradient, reference)
    outputs = {
        REFERENCE if reference else PRODUCT: product,
        RESIDUAL_PLOT: plot_kind(names.model_residual_plot),
        RADIAL_PLOT: plot_kind(names.radial_model_plot),
    }
    camera = get_camera(config.camera)
    table = Path(config.camera)
    if table.is_file():  # a worker may run in another folder
        config = config.replace(camera=str(table.resolve()))
    with capture_records() as records:
        repository, units = find_units(query, out, names.input_flats, camera, overwrite)
    for unit in units:
        check_places(unit, FILES, outputs.values(), [unit.data_id], overwrite)
    errors: dict[int, Exception] = {}
    registers = [_register(unit, camera, config) for unit in units]
    parts = _bin(repository, units, registers, config, processes, errors)
    tasks = {
        k: (
            registers[k], parts[k].bins, parts[k].inputs,
            config.replace(physical_filter=unit.physical_filter), sampling, terms, report,
            [*records, *parts[k].records],
        )
        for k, unit in enumerate(units) if k not in errors
    }  # fmt: skip
    named = {k: unit.name for k, unit in enumerate(units)}

    def finish(k: int, fitted: Fitted) -> Fitted:
        _leave(units[k], fitted.files, outputs, overwrite)
        return fitted

    with closing(in_processes(fit_unit, tasks, processes, "fitting", names=named, errors=errors)) as fits:
        return finish_units(units, fits, finish, errors)


def _register(unit: WorkUnit, camera: Camera, config: RunConfig) -> FlatRegister:
    """The detectors of a unit that are to be binned."""
    register = FlatRegister(camera, config.do_use_non_science_detectors)
    for number, dataset in unit.flats.items():
        detector = find_detector(number, camera, dataset.uri)
        register.add(detector, unit.physical_filter, unit.data_id["instrument"], dataset.uri)
    return register


@dataclass
class _Parts:
    """What a unit is fitted to: bins by detector, what was read for them, and log records."""

    bins: dict[int, dict] = field(default_factory=dict)
    inputs: list[dict] = field(default_factory=list)
    records: list[logging.LogRecord] = field(default_factory=list)


def _bin(
    repository: Repository,
    units: Sequence[WorkUnit],
    registers: Sequence[FlatRegister],
    config: RunConfig,
    processes: Workers,
    errors: dict[int, Exception],
) -> list[_Parts]:
    """Bin all flats of all units; errors by unit."""
    defects = _Defects(repository, config.connections.input_defects, {unit.date for unit in units})
    tasks: dict[tuple[int, int], tuple] = {}
    parts = [_Parts() for _ in units]
    for k, (unit, register) in enumerate(zip(units, registers, strict=True)):
        try:
            tables = defects.of(unit, register.paths, parts[k].records)
        except InputError as error:
            errors[k] = error
            continue
        for number, table in tables.items():
            parts[k].inputs += table.inputs
            identity = (register.camera[number], unit.physical_filter, unit.data_id["instrument"])
            tasks[k, number] = (
                unit.flats[number].uri, table.boxes, identity, config.mask_planes, config.bin_factor,
                config.detector_boundary,
            )  # fmt: skip
    at = stage("binning", len(tasks))
    failed: dict[tuple[int, int], Exception] = {}
    names = {(k, number): units[k].flats[number].uri for k, number in tasks}
    with closing(in_processes(bin_dataset, tasks, processes, "reading flats", names=names, errors=failed)) as results:
        for (k, number), (columns, sha256, records) in results:
            parts[k].bins[number] = columns
            parts[k].inputs.append(units[k].flats[number].record(sha256))
            parts[k].records += records
            at.advance()
    for k, number in sorted(failed):
        errors.setdefault(k, failed[k, number])
    for one in parts:
        one.inputs.sort(key=input_order)
        one.records.sort(key=lambda record: record.created)
    return parts


def input_order(record: Mapping[str, Any]) -> tuple:
    """Sort key of records, so that their order does not depend on which worker was ready first."""
    return record["dataset_type"], record["data_id"].get("detector", -1), record["id"]


@dataclass(frozen=True)
class _Table:
    """Defects of a detector, what a product says of the input, and the log records of reading it."""

    boxes: list[Box]
    inputs: list[dict]
    records: list[logging.LogRecord]


class _Defects:
    """The defects of detectors, each table read once."""

    def __init__(self, repository: Repository, name: str | None, dates: Iterable[str | None]) -> None:
        # the expression chooses flats: it may name filters, which defects do not have
        self._found = {
            date: {} if name is None else repository.find(name, ("detector",), date, where="") for date in dates
        }
        self._read: dict[str, _Table] = {}

    def of(self, unit: WorkUnit, numbers: Iterable[int], records: list[logging.LogRecord]) -> dict[int, _Table]:
        """The table of each detector; its log records are added to ``records``, for each unit that needs the table."""
        found = self._found[unit.date]
        numbers = list(numbers)
        lacking = sum((number,) not in found for number in numbers)
        with capture_records() as now:
            if lacking:
                log.warning("%s: no defects for %d of %d detectors", unit.name, lacking, len(numbers))
        tables = {number: self._one(found.get((number,))) for number in numbers}
        records += [*now, *(record for table in tables.values() for record in table.records)]
        return tables

    def _one(self, dataset: Dataset | None) -> _Table:
        if dataset is None:
            return _Table([], [], [])
        if dataset.id not in self._read:
            with capture_records() as records, local(dataset.uri) as path:
                self._read[dataset.id] = _Table(read_boxes(path), [dataset.record(checksum(path))], records)
        return self._read[dataset.id]


def bin_dataset(
    uri: str,
    boxes: list[Box],
    identity: tuple[Detector, str, str],
    mask_planes: Sequence[str],
    bin_factor: int,
    detector_boundary: int,
) -> tuple[dict, str, list[logging.LogRecord]]:
    """Read and bin the flat of one detector; its columns, the checksum of the file, and the log records."""
    with capture_records() as records, local(uri) as path:
        flat = read_flat(path, Camera(identity[2], [identity[0]]), mask_planes, identity=identity)
        return bin_flat(flat, boxes, bin_factor, detector_boundary), checksum(path), records


def fit_unit(
    register: FlatRegister,
    parts: Mapping[int, dict],
    inputs: Sequence[dict],
    config: RunConfig,
    sampling: bool,
    terms: bool,
    report: bool,
    records: Sequence[logging.LogRecord] = (),
) -> Fitted:
    """Fit the bins of one filter, anywhere: all files come back with the result.

    Records that were captured before, when its flats and defects were read, go into its log and its report too.
    """
    check_caches()
    with owned_folder() as folder:
        with logging_to(folder / LOG if config.saveLogOutput else None, records) as warnings:
            result = fit_into(
                folder, register.assemble(parts), inputs, config, sampling=sampling, terms=terms,
                warnings=warnings if report else None,
            )  # fmt: skip
        files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    return Fitted(files, result.gradient, result.converged, result.verdict, result.message)


def _leave(unit: WorkUnit, files: Mapping[str, bytes], outputs: Mapping[str, Kind], overwrite: bool) -> None:
    """Files into the folder and into the repository: both, or neither."""
    with place(unit, FILES, overwrite) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if unit.output is not None:
            unit.output.put(
                (folder / name, kind, unit.output.reference(kind, unit.data_id)) for name, kind in outputs.items()
            )
