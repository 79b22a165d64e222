"""Files into a data repository: dataset types as LSST's tasks have them, and all files of a unit of work at once."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesflat.errors import InputError, first_line
from bayesflat.files import owned_folder

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """A dataset type that we write.

    Attributes
    ----------
    name : str
    dimensions : tuple of str
    storage_class : str
    calibration : bool
        Whether datasets of the type can be certified; must be as the repository has it.
    """

    name: str
    dimensions: tuple[str, ...]
    storage_class: str
    calibration: bool


def gradient_kind(name: str, reference: bool) -> Kind:
    """A product: the reference is a calibration, the dome's gradient is not."""
    return Kind(name, ("instrument", "physical_filter"), "IsrCalib", reference)


def plot_kind(name: str) -> Kind:
    """A plot of one filter."""
    return Kind(name, ("instrument", "physical_filter"), "Plot", False)


def flat_kind(name: str) -> Kind:
    """A flat of one detector."""
    return Kind(name, ("instrument", "detector", "physical_filter"), "ExposureF", True)


class OutputRun:
    """A RUN collection that takes what comes out.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        Writeable.
    run : str
        Made with the first dataset that is put into it.
    overwrite : bool
        Whether datasets that it has already may be replaced.

    Raises
    ------
    InputError
        There is a collection of that name that is no RUN.
    """

    def __init__(self, butler: Butler, run: str, overwrite: bool = False) -> None:
        from lsst.daf.butler import CollectionType, MissingCollectionError

        self.butler, self.run, self.overwrite = butler, run, overwrite
        try:
            info = butler.collections.get_info(run)
        except MissingCollectionError:
            return
        if info.type != CollectionType.RUN:
            raise InputError(f"--output-run {run}: is a {info.type.name} collection there, a RUN is needed")

    def check(self, kinds: Iterable[Kind], data_ids: Iterable[Mapping[str, Any]]) -> None:
        """Refuse what could not be put: dataset types defined otherwise, datasets that exist already.

        What a CALIBRATION or TAGGED collection has too is not replaced even with ``overwrite``.  A dataset without its
        file, as a killed run leaves it, is replaced in any case.
        """
        data_ids = list(data_ids)
        for kind in kinds:
            self._check_kind(kind)
            for data_id in data_ids:
                there = self._there(kind, data_id)
                if there is None:
                    continue
                named = " ".join(str(value) for key, value in data_id.items() if key != "instrument")
                holds = f"--output-run {self.run}: holds {kind.name} of {named} already"
                if not self.overwrite and self._stored(there):
                    raise InputError(f"{holds}; give another run, or --overwrite")
                if collection := self._in_use(there):
                    raise InputError(f"{holds}, and {collection} has it too; give another run")

    def _check_kind(self, kind: Kind) -> None:
        """Compare with the type of that name, if there is one."""
        from lsst.daf.butler import MissingDatasetTypeError

        try:
            there = self.butler.get_dataset_type(kind.name)
        except MissingDatasetTypeError:
            return
        has = (set(there.dimensions.required), there.storageClass_name, there.isCalibration())
        wanted = (set(kind.dimensions), kind.storage_class, kind.calibration)
        if has != wanted:
            raise InputError(
                f"--output-run: the repository's dataset type {kind.name} is {_described(*has)}; "
                f"it must be {_described(*wanted)}"
            )

    def _there(self, kind: Kind, data_id: Mapping[str, Any]):
        """The dataset in this run, or None."""
        from lsst.daf.butler import MissingCollectionError, MissingDatasetTypeError

        try:
            return self.butler.find_dataset(kind.name, dict(data_id), collections=self.run)
        except (MissingCollectionError, MissingDatasetTypeError):
            return None

    def _stored(self, ref) -> bool:
        """Whether a dataset has its file: a run that was killed while it replaced one leaves the entry alone."""
        return self.butler.getURI(ref, predict=True).exists()

    def _in_use(self, ref) -> str:
        """A collection that has certified or tagged a dataset, which would lose it."""
        from lsst.daf.butler import CollectionType

        kinds = {CollectionType.CALIBRATION, CollectionType.TAGGED}
        others = self.butler.registry.queryDatasetAssociations(ref.datasetType, ..., collectionTypes=kinds)
        return next((one.collection for one in others if one.ref.id == ref.id), "")

    def reference(self, kind: Kind, data_id: Mapping[str, Any]):
        """A new dataset of this run, whose id a file may name before it is put."""
        from lsst.daf.butler import DataCoordinate, DatasetRef

        universe = self.butler.dimensions
        return DatasetRef(self._type(kind), DataCoordinate.standardize(dict(data_id), universe=universe), run=self.run)

    def _type(self, kind: Kind):
        from lsst.daf.butler import DatasetType

        return DatasetType(
            kind.name, kind.dimensions, kind.storage_class, universe=self.butler.dimensions,
            isCalibration=kind.calibration,
        )  # fmt: skip

    def put(self, files: Iterable[tuple[Path, Kind, Any]]) -> None:
        """Copy files into the repository: all of them, or none.

        Parameters
        ----------
        files : iterable of tuple of Path, Kind and DatasetRef
            References as `reference` makes them.

        Raises
        ------
        InputError
            The repository refuses it.
        """
        from lsst.daf.butler import CollectionType, FileDataset

        files = list(files)
        try:
            self.butler.collections.register(self.run, CollectionType.RUN)
            for kind in {kind for _, kind, _ in files}:
                self.butler.registry.registerDatasetType(self._type(kind))
            found = [self._there(kind, ref.dataId.required) for _, kind, ref in files]
            old = [ref for ref in found if ref and (self.overwrite or not self._stored(ref))]
            datasets = [
                FileDataset(str(path), [ref], formatter=_formatter(kind.storage_class)) for path, kind, ref in files
            ]
            kept = [self.butler.getURI(ref) for ref in old if self._stored(ref)]
            with _kept(kept), self.butler.transaction():
                self.butler.pruneDatasets(old, unstore=True, purge=True)
                self.butler.ingest(*datasets, transfer="copy")
        except Exception as error:
            raise InputError(f"--output-run {self.run}: cannot be written ({first_line(error)})") from None
        log.info("%d datasets put into %s", len(files), self.run)


@contextmanager
def _kept(files: Iterable[Any]) -> Iterator[None]:
    """Restore files if what follows fails: a transaction restores the tables of a repository, not its files."""
    from lsst.resources import ResourcePath

    with owned_folder() as folder:
        copies = [(file, ResourcePath(f"{folder}/{k}")) for k, file in enumerate(files)]
        for file, copy in copies:
            copy.transfer_from(file, "copy")
        try:
            yield
        except BaseException:
            for file, copy in copies:
                file.transfer_from(copy, "copy", overwrite=True)
            raise


def _described(dimensions: Iterable[str], storage_class: str, calibration: bool) -> str:
    return f"{storage_class} ({', '.join(sorted(dimensions))}), {'a' if calibration else 'no'} calibration"


def _formatter(storage_class: str):
    """Ours where LSST's own are not installed; None means what the repository is configured to take."""
    if storage_class == "Plot" or _installed("lsst.obs.base"):
        return None
    from bayesflat.formatters import ExposureFormatter, GradientFormatter

    return {"IsrCalib": GradientFormatter, "ExposureF": ExposureFormatter}[storage_class]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
