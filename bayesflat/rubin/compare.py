"""What `compare` does with a data repository: the products of a filter, and their flats binned again for the ratio."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bayesflat.commands.compare import FILES, write_comparison
from bayesflat.commands.fit import record
from bayesflat.comparison.comparison import Comparison, check_pair, compare
from bayesflat.config import RunConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.binning import FlatRegister
from bayesflat.data.camera import Camera, get_camera
from bayesflat.data.defects import read_boxes
from bayesflat.errors import InputError
from bayesflat.files import checksum
from bayesflat.gradient.product import FlatGradient
from bayesflat.processes import in_processes
from bayesflat.quantities import TOLERANCE_MMAG
from bayesflat.rubin.fit import bin_dataset
from bayesflat.rubin.repository import Dataset, Repository, local
from bayesflat.rubin.work import (
    Outcome,
    Query,
    WorkUnit,
    check_places,
    find_detector,
    finish_units,
    folder_of,
    open_repository,
    place,
)
from bayesflat.stages import Stage, stage

log = logging.getLogger(__name__)


def run_compare(
    query: Query,
    out: str | Path,
    config: RunConfig,
    *,
    binned: tuple[str | Path, str | Path] | None = None,
    unpaired: bool = False,
    rope_mmag: float = TOLERANCE_MMAG,
    radius: float | None = None,
    processes: int = 1,
    overwrite: bool = False,
    report: bool = True,
) -> list[Outcome]:
    """Compare the products of a repository, filter by filter.

    A paired comparison needs the bins, which are not in a repository: the flats that the products say they were fitted
    to are binned again, with the same defects and in the same way.

    Parameters
    ----------
    query : Query
        Without filters, all that there are gradients of.
    out : str or Path
        Folder to write, as for `find_units`.
    config : RunConfig
        Its camera, and of its ``connections`` the names of ``gradient`` and ``reference_gradient``.
    binned : (str or Path, str or Path), optional
        Binned tables of sky and dome, of one filter and date; then no flats are read.
    unpaired : bool
        Whether to compare the products alone.
    rope_mmag, radius : float
        As for `compare`.
    processes : int
        Who bins the flats.
    overwrite : bool
        Whether earlier comparisons may be replaced.
    report : bool
        Whether to write ``report.html``.

    Returns
    -------
    list of Outcome
        One for each filter and date; where one failed, the others are there all the same.

    Raises
    ------
    InputError
        What is wrong before any work is done.
    """
    if binned is not None and unpaired:
        raise InputError("--binned is for a paired comparison; leave it or --unpaired out")
    camera = get_camera(config.camera)
    repository, dates = open_repository(query, camera, writeable=False)
    units = _find(repository, query, Path(out), config.connections.gradient, dates)
    if binned is not None and len(units) > 1:
        raise InputError(f"--binned is for one filter and date; there are {', '.join(one.name for one in units)}")
    for unit in units:
        check_places(unit, FILES, (), (), overwrite)
    tables: tuple[BinnedFlat, BinnedFlat] | None = None
    if binned is not None:
        tables = BinnedFlat.read(binned[0], camera), BinnedFlat.read(binned[1], camera)
    given = [record(path) for path in binned or ()]

    def finish(_: int, unit: WorkUnit) -> Comparison:
        with place(unit, FILES, overwrite) as folder:
            products, inputs = _products(repository, unit, config)
            mine = tables
            if tables is None and not unpaired:
                mine, flats = _binned(repository, unit, products, camera, processes)
                inputs = inputs + flats
            comparison = compare(*products, binned=mine, camera=camera, rope_mmag=rope_mmag, radius=radius)
            write_comparison(comparison, inputs + given, folder, report)
        return comparison

    return finish_units(units, enumerate(units), finish)


def _find(
    repository: Repository, query: Query, out: Path, gradient: str, dates: Sequence[str | None]
) -> list[WorkUnit]:
    """A unit for each date and each filter that is named, or else that has a gradient."""
    units = []
    for date in dates:
        filters = list(dict.fromkeys(query.physical_filters))
        filters = filters or [name for (name,) in repository.find(gradient, ("physical_filter",), date)]
        if not filters:
            raise repository.nothing(gradient, None, (), date)
        for name in filters:
            data_id = {"instrument": repository.instrument, "physical_filter": name}
            units.append(WorkUnit(name, date, folder_of(out, query, name, date), None, data_id, {}))
    return units


def _products(
    repository: Repository, unit: WorkUnit, config: RunConfig
) -> tuple[tuple[FlatGradient, FlatGradient], list[dict[str, Any]]]:
    """Sky and dome, and what is recorded of their files."""
    names = config.connections
    products, inputs = [], []
    for name in (names.reference_gradient, names.gradient):
        dataset = repository.product(name, unit.physical_filter, unit.date)
        with local(dataset.uri) as path:
            products.append(FlatGradient.read(path))
            inputs.append(dataset.record(checksum(path)))
    sky, dome = products
    check_pair(sky, dome)  # before any flat is read
    return (sky, dome), inputs


def _binned(
    repository: Repository,
    unit: WorkUnit,
    products: Sequence[FlatGradient],
    camera: Camera,
    processes: int,
) -> tuple[tuple[BinnedFlat, BinnedFlat] | None, list[dict[str, Any]]]:
    """The bins that the products were fitted to, and what is recorded of the flats; None where they are not there."""

    def find(record: Mapping[str, Any]) -> Dataset | None:
        return repository.dataset(record["id"]) if "id" in record else None

    return bin_pair(products, find, unit.name, unit.data_id, camera, processes)


def bin_pair(
    products: Sequence[FlatGradient],
    find: Callable[[Mapping[str, Any]], Dataset | None],
    name: str,
    data_id: Mapping[str, Any],
    camera: Camera,
    processes: int = 1,
) -> tuple[tuple[BinnedFlat, BinnedFlat] | None, list[dict[str, Any]]]:
    """Bin the flats again that two products were fitted to.

    Parameters
    ----------
    products : (FlatGradient, FlatGradient)
        Of sky and dome.
    find : callable
        Returns the dataset that a product records as its input; None where it is gone.
    name : str
        What messages call the comparison.
    data_id : mapping
        Instrument and physical filter.
    camera : Camera
    processes : int

    Returns
    -------
    tables : (BinnedFlat, BinnedFlat) or None
        None, and a warning, where inputs are gone.
    records : list of dict
        What is recorded of the flats and defects.

    Raises
    ------
    InputError
        A file that has changed, or cannot be read.
    """
    tables, records = [], []
    for what, product in zip(("sky", "dome"), products, strict=True):
        found, lacking = _flats_of(find, product)
        if lacking:
            log.warning("%s: %s of the %s's product, so the products are compared alone", name, lacking, what)
            return None, []
        at = stage(f"binning the {what}'s flats", len(found))
        tables.append(_bin(found, data_id, product, camera, processes, at))
        records += [dataset.record(sha256) for inputs in found.values() for dataset, sha256 in inputs]
    sky, dome = tables
    return (sky, dome), records


Inputs = dict[int, list[tuple[Dataset, str]]]


def _flats_of(find: Callable[[Mapping[str, Any]], Dataset | None], product: FlatGradient) -> tuple[Inputs, str]:
    """Flat and defects of each detector with their checksums, the flat first; or what is missing."""
    flats: Inputs = {}
    defects: Inputs = {}
    for one in product.config.get("inputs", []):
        dataset = find(one)
        if dataset is None:
            return {}, f"{one['name']} is not in the repository, an input"
        where = flats if "physical_filter" in dataset.data_id else defects
        where.setdefault(dataset.data_id["detector"], []).append((dataset, one["sha256"]))
    return {k: flat + defects.get(k, []) for k, flat in sorted(flats.items())}, "" if flats else "no flat is recorded"


def _bin(
    found: Inputs,
    data_id: Mapping[str, Any],
    product: FlatGradient,
    camera: Camera,
    processes: int,
    at: Stage,
) -> BinnedFlat:
    """Bin flats as they were for a product."""
    settings = product.config
    instrument, physical_filter = data_id["instrument"], data_id["physical_filter"]
    register = FlatRegister(camera, settings["do_use_non_science_detectors"])
    tasks = {}
    for number, ((flat, _), *defects) in found.items():
        detector = find_detector(number, camera, flat.uri)
        if not register.add(detector, physical_filter, instrument, flat.uri):
            continue
        boxes = []
        for table, sha256 in defects:
            with local(table.uri) as path:
                _unchanged(table, sha256, checksum(path))
                boxes += read_boxes(path)
        identity = (detector, physical_filter, instrument)
        tasks[number] = (
            flat.uri, boxes, identity, settings["mask_planes"], settings["bin_factor"], settings["detector_boundary"]
        )  # fmt: skip
    parts = {}
    names = {number: found[number][0][0].uri for number in tasks}
    with closing(in_processes(bin_dataset, tasks, processes, "reading flats", names=names)) as results:
        for number, (columns, sha256, _) in results:
            _unchanged(*found[number][0], sha256)
            parts[number] = columns
            at.advance()
    return register.assemble(parts)


def _unchanged(dataset: Dataset, then: str, now: str) -> None:
    if now != then:
        raise InputError(f"{dataset.uri}: has changed since the product was fitted to it (its SHA-256 is another)")
