"""What `apply` does with a data repository: flats in, corrected flats out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesflat.commands.apply import BUTLER_CARDS, correct_file, make_cards
from bayesflat.config import RunConfig
from bayesflat.data.camera import Camera, Detector, get_camera
from bayesflat.gradient.correction import check_centroids, check_products, check_usable
from bayesflat.gradient.product import FlatGradient
from bayesflat.processes import in_processes
from bayesflat.rubin.output import flat_kind
from bayesflat.rubin.repository import Dataset, Repository, local
from bayesflat.rubin.work import (
    Outcome,
    Query,
    WorkUnit,
    check_places,
    file_name,
    find_detector,
    find_units,
    finish_units,
    place,
)
from bayesflat.stages import Stage, stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Products:
    """The dome's gradient and the reference of a unit, and the cards that corrected flats get."""

    dome: FlatGradient
    sky: FlatGradient
    cards: dict[str, tuple[Any, str]]
    inputs: tuple[Dataset, ...]


def run_apply(
    query: Query,
    out: str | Path | None,
    config: RunConfig,
    *,
    gradient: str | Path | None = None,
    reference: str | Path | None = None,
    processes: int = 1,
    overwrite: bool = False,
    force: bool = False,
) -> list[Outcome]:
    """Correct the dome flats of a repository, filter by filter.

    Parameters
    ----------
    query : Query
    out : str or Path or None
        Folder to write, as for `find_units`.
    config : RunConfig
        Its ``connections`` name the dataset types; camera and connections are all that is used.
    gradient, reference : str or Path, optional
        Products in files; those of the repository where not given.
    processes : int
    overwrite : bool
        Whether earlier results may be replaced, in the folder and in the output run.
    force : bool
        Whether to apply products that did not converge or are unusable.

    Returns
    -------
    list of Outcome
        One for each filter and date; where one failed, the others are there all the same.

    Raises
    ------
    InputError
        What is wrong before any work is done.
    """
    names = config.connections
    camera = get_camera(config.camera)
    kind = flat_kind(names.output_flat)
    repository, units = find_units(query, out, names.input_flat, camera, overwrite)
    files = []
    for unit in units:
        detectors = [find_detector(number, camera, dataset.uri) for number, dataset in unit.flats.items()]
        files.append({one.id: _name(names.output_flat, unit, one) for one in detectors})
        data_ids = [_data_id(unit, one.id) for one in detectors]
        check_places(unit, sorted(files[-1].values()), [kind], data_ids, overwrite)
    at = stage("correcting flats", sum(len(unit.flats) for unit in units))

    def finish(k: int, unit: WorkUnit) -> int:
        products = _products(repository, unit, config, gradient, reference, force)
        _correct(unit, camera, products, files[k], kind, processes, overwrite, at)
        return len(unit.flats)

    return finish_units(units, enumerate(units), finish)


def _name(dataset_type: str, unit: WorkUnit, detector: Detector) -> str:
    """Name of a corrected flat's file."""
    parts = (dataset_type, unit.data_id["instrument"], unit.physical_filter, detector.name)
    return file_name("_".join(parts)) + ".fits"


def _data_id(unit: WorkUnit, detector: int) -> dict[str, Any]:
    return {**unit.data_id, "detector": detector}


def _products(
    repository: Repository,
    unit: WorkUnit,
    config: RunConfig,
    gradient: str | Path | None,
    reference: str | Path | None,
    force: bool,
) -> _Products:
    names = config.connections
    found = [
        Path(given) if given is not None else repository.product(name, unit.physical_filter, unit.date)
        for given, name in ((gradient, names.gradient), (reference, names.reference_gradient))
    ]
    with ExitStack() as stack:
        dome_path, sky_path = (
            stack.enter_context(local(one.uri)) if isinstance(one, Dataset) else one for one in found
        )  # fmt: skip
        dome, sky = FlatGradient.read(dome_path), FlatGradient.read(sky_path)
        cards = make_cards(dome, dome_path, sky, sky_path)
    check_products(dome, sky, unit.physical_filter)
    check_centroids(get_camera(config.camera), dome, sky)
    check_usable(dome, sky, force)
    return _Products(dome, sky, cards, tuple(one for one in found if isinstance(one, Dataset)))


def _correct(
    unit: WorkUnit,
    camera: Camera,
    products: _Products,
    files: Mapping[int, str],
    kind,
    processes: int,
    overwrite: bool,
    at: Stage,
) -> None:
    """The flats of a unit into its folder and into the repository: all, or none."""
    instrument = unit.data_id["instrument"]
    with place(unit, sorted(files.values()), overwrite) as folder:
        references, tasks, names = {}, {}, {}
        for number, dataset in unit.flats.items():
            cards = dict(products.cards)
            if unit.output is not None:
                references[number] = unit.output.reference(kind, _data_id(unit, number))
                cards |= _provenance(references[number], (dataset, *products.inputs))
            identity = (camera[number], unit.physical_filter, instrument)
            names[number] = dataset.uri
            tasks[number] = (dataset.uri, folder / files[number], products.dome, products.sky, cards, identity)
        with closing(in_processes(correct_dataset, tasks, processes, "correcting flats", names=names)) as done:
            for _ in done:
                at.advance()
        if unit.output is not None:
            unit.output.put((folder / files[number], kind, ref) for number, ref in references.items())


def _provenance(ref, inputs: tuple[Dataset, ...]) -> dict[str, tuple[Any, str]]:
    """Cards of a dataset and what it was made from, named as Butler's own."""
    values: dict[str, Any] = {"ID": str(ref.id), "RUN": ref.run, "DATASETTYPE": ref.datasetType.name}
    values |= {f"DATAID {key.upper()}": value for key, value in sorted(ref.dataId.required.items())}
    values["N_INPUTS"] = len(inputs)
    for k, one in enumerate(inputs):
        values |= {f"INPUT {k} ID": one.id, f"INPUT {k} RUN": one.run, f"INPUT {k} DATASETTYPE": one.dataset_type}
    return {f"HIERARCH {BUTLER_CARDS} {key}": (value, "") for key, value in values.items()}


def correct_dataset(
    uri: str,
    target: Path,
    dome: FlatGradient,
    sky: FlatGradient,
    cards: dict[str, tuple[Any, str]],
    identity: tuple[Detector, str, str],
) -> None:
    """Correct the flat of one detector, wherever its file is."""
    with local(uri) as path:
        camera = Camera(identity[2], [identity[0]])
        correct_file(path, target, camera, dome, sky, identity[1], cards, identity)
