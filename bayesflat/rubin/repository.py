"""Rubin's data repositories, read: which datasets there are, where their files lie, and these as local files.

Datasets are found with `lsst.daf.butler` and their files read with our own readers, so that neither the rest of LSST's
stack nor the formatter that wrote a dataset need be installed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from bayesflat.errors import InputError, first_line

log = logging.getLogger(__name__)

_SHOWN = 20  # names that an error message lists

Key = tuple  # values of the dimensions that tell datasets of a type apart


@dataclass(frozen=True)
class Dataset:
    """One dataset of a repository, as anything but the repository itself needs it.

    Attributes
    ----------
    id, dataset_type, run : str
        Its UUID, the name of its type, and the run that it was made in.
    data_id : dict
        Values of its dimensions.
    uri : str
        Where its file lies, locally or remotely.
    """

    id: str
    dataset_type: str
    run: str
    data_id: dict[str, Any]
    uri: str

    def record(self, sha256: str) -> dict[str, Any]:
        """What a product records of an input."""
        return {
            "name": self.uri, "sha256": sha256, "id": self.id, "dataset_type": self.dataset_type, "run": self.run,
            "data_id": self.data_id,
        }  # fmt: skip


@contextmanager
def local(uri: str) -> Iterator[Path]:
    """Yield the path of a file; a remote one is there while the context lasts.

    Raises
    ------
    InputError
        No such file, or it cannot be fetched; also errors about the local copy, with the remote name in its place.
    """
    from lsst.resources import ResourcePath

    with ExitStack() as stack:
        resource = ResourcePath(uri)
        try:
            path = Path(stack.enter_context(resource.as_local()).ospath)
        except FileNotFoundError:
            raise InputError(f"{uri}: no such file") from None
        except Exception as error:
            raise InputError(f"{uri}: cannot be fetched ({first_line(error)})") from None
        if not path.is_file():
            raise InputError(f"{uri}: no such file")
        try:
            yield path
        except InputError as error:
            if resource.isLocal:
                raise
            raise InputError(str(error).replace(str(path), uri)) from None


class Repository:
    """What a data repository holds in some of its collections.

    Parameters
    ----------
    repo : str
        Its folder, configuration file, address or label.
    collections : iterable of str
        RUN, TAGGED, CALIBRATION or CHAINED collections, searched in this order.
    instrument : str, optional
        Not needed where the repository has only one.
    where : str
        An expression of Butler's that datasets must satisfy.
    writeable : bool

    Raises
    ------
    InputError
        ``lsst-daf-butler`` is not installed; no such repository, collection or instrument.
    """

    def __init__(
        self,
        repo: str,
        collections: Iterable[str],
        *,
        instrument: str | None = None,
        where: str = "",
        writeable: bool = False,
    ) -> None:
        try:
            from lsst.daf.butler import Butler
        except ImportError:
            raise InputError("--butler needs lsst-daf-butler; pip install 'bayesflat[lsst]'") from None
        self.repo = str(repo)
        self.where = where
        self.collections = list(collections)
        if not self.collections:
            raise InputError("--butler needs --collections, the collections to search")
        try:
            self.butler = Butler.from_config(self.repo, writeable=writeable)
        except FileNotFoundError:
            raise InputError(f"--butler {repo}: no data repository there (no butler.yaml)") from None
        except Exception as error:
            raise InputError(f"--butler {repo}: cannot be opened as a data repository ({first_line(error)})") from None
        with self._saying("--collections"):
            self._leaves = self._flatten()
        with self._saying("--instrument"):
            self.instrument = self._instrument(instrument)

    def _flatten(self) -> list[tuple[str, bool]]:
        """The collections that hold datasets themselves, in order, and whether they are CALIBRATION ones."""
        from lsst.daf.butler import CollectionType, MissingCollectionError

        try:
            info = self.butler.collections.query_info(self.collections, flatten_chains=True)
        except MissingCollectionError:
            there = sorted(self.butler.collections.query("*"))
            lacking = next((name for name in self.collections if name not in there), ", ".join(self.collections))
            raise InputError(f"--collections: {self.repo} has no {lacking}; it has {_listed(there)}") from None
        return [(one.name, one.type == CollectionType.CALIBRATION) for one in info]

    def _instrument(self, instrument: str | None) -> str:
        there = sorted(record.name for record in self.butler.query_dimension_records("instrument", explain=False))
        if instrument is None and len(there) == 1:
            return there[0]
        if instrument is None:
            raise InputError(f"--instrument must say which one: {self.repo} has {_listed(there)}")
        if instrument not in there:
            raise InputError(f"--instrument: {self.repo} has no {instrument}; it has {_listed(there)}")
        return instrument

    @property
    def has_calibrations(self) -> bool:
        """Whether any of the collections is a CALIBRATION one, where a date selects."""
        return any(calibration for _, calibration in self._leaves)

    def find(
        self, dataset_type: str, dimensions: tuple[str, ...], date: str | None = None, where: str | None = None
    ) -> dict[Key, Dataset]:
        """The datasets of a type.

        Parameters
        ----------
        dataset_type : str
        dimensions : tuple of str
            Those that tell the datasets apart, beside the instrument; the type must have them and no others.
        date : str, optional
            ISO 8601, TAI: in CALIBRATION collections, those that were certified for it.
        where : str, optional
            In place of the repository's own expression.

        Returns
        -------
        datasets : dict of tuple to Dataset
            By the dimensions' values; of several with the same ones, that of the first collection.

        Raises
        ------
        InputError
            No such type, or one of other dimensions; a faulty expression or date; without a date, a CALIBRATION
            collection that has several for the same dimensions.
        """
        with self._saying(dataset_type):
            return self._find(dataset_type, dimensions, date, self.where if where is None else where)

    def _find(self, name: str, dimensions: tuple[str, ...], date: str | None, where: str) -> dict[Key, Dataset]:
        from lsst.daf.butler import InvalidQueryError, MissingDatasetTypeError

        moment = parse_date(date) if date is not None else None
        try:
            kind = self.butler.get_dataset_type(name)
        except MissingDatasetTypeError:
            there = sorted(one.name for one in self.butler.registry.queryDatasetTypes())
            raise InputError(f"{self.repo} has no dataset type {name}; it has {_listed(there)}") from None
        if set(kind.dimensions.required) != {"instrument", *dimensions}:
            raise InputError(
                f"{self.repo}: dataset type {name} has the dimensions {', '.join(kind.dimensions.required)}; "
                f"instrument, {', '.join(dimensions)} are needed"
            )
        found: dict[Key, Any] = {}
        for collection, calibration in self._leaves:
            try:
                refs = self.butler.query_datasets(
                    kind, collection, find_first=False, where=where, instrument=self.instrument, explain=False,
                    limit=None,
                )  # fmt: skip
            except InvalidQueryError as error:
                raise InputError(f"--where {where}: {first_line(error)}") from None
            by_id = {ref.id: ref for ref in refs}
            if calibration and by_id:
                by_id = self._certified(kind, collection, by_id, moment)
            here: dict[Key, Any] = {}
            for ref in by_id.values():
                key = tuple(ref.dataId[dimension] for dimension in dimensions)
                if key in here:
                    raise InputError(
                        f"{collection}: holds {name} of {_spelled(dimensions, key)} for several dates; --date chooses"
                    )
                here[key] = ref
            found = here | found
        return {key: self._dataset(found[key]) for key in sorted(found)}

    def _certified(self, kind, collection: str, by_id: Mapping, moment) -> dict:
        """Those that a CALIBRATION collection has certified for a moment, or for any."""
        certified = self.butler.registry.queryDatasetAssociations(kind, [collection], flattenChains=False)
        return {
            one.ref.id: by_id[one.ref.id]
            for one in certified
            if one.ref.id in by_id and (moment is None or one.timespan is None or one.timespan.contains(moment))
        }

    def _dataset(self, ref) -> Dataset:
        try:
            uri = str(self.butler.getURI(ref))
        except Exception as error:
            raise InputError(f"{self.repo}: {ref} has no file that can be read ({first_line(error)})") from None
        return Dataset(str(ref.id), ref.datasetType.name, ref.run, dict(ref.dataId.required), uri)

    def product(self, name: str, physical_filter: str, date: str | None = None) -> Dataset:
        """The product of one filter, by the name of its dataset type; errors as `find`, or there is none."""
        # the expression chooses flats: it may name detectors, which products do not have
        found = self.find(name, ("physical_filter",), date, where="")
        if (physical_filter,) not in found:
            raise self.nothing(name, physical_filter, (key[0] for key in found), date)
        return found[physical_filter,]

    def dataset(self, id: str) -> Dataset | None:
        """The dataset of an id, in any collection; None where it was removed."""
        try:
            ref = self.butler.get_dataset(UUID(id))
        except ValueError:  # no id
            return None
        return None if ref is None else self._dataset(ref)

    def nothing(self, name: str, physical_filter: str | None, there: Iterable[str], date: str | None) -> InputError:
        """The error that names the filters of which there are datasets."""
        there = sorted(set(there))
        what = f"{name} of {self.instrument}" + (f" and {physical_filter}" if physical_filter else "")
        for_date = f" for {date}" if date is not None else ""
        chosen = f" where {self.where}" if self.where else ""
        rest = f"; there are those of {_listed(there)}" if there else ""
        return InputError(f"{self.repo}: no {what} in {', '.join(self.collections)}{chosen}{for_date}{rest}")

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        """Errors of Butler's as one line."""
        from lsst.daf.butler import ButlerUserError
        from lsst.daf.butler.registry import RegistryError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except InputError:
            raise
        except (ButlerUserError, RegistryError, SQLAlchemyError, LookupError, ValueError) as error:
            raise InputError(f"{self.repo}: {what}: {first_line(str(error).strip('"'))}") from None


def parse_date(text: str):
    """A moment from ISO 8601, in TAI as Butler's own commands take it."""
    from astropy.time import Time

    try:
        return Time(text.strip(), scale="tai", format="isot" if "T" in text else "iso")
    except ValueError:
        raise InputError(f"--date {text}: not a date; accepted are 2026-01-31 and 2026-01-31T12:00:00 (TAI)") from None


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + rest


def _spelled(dimensions: tuple[str, ...], key: Key) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(dimensions, key, strict=True))
