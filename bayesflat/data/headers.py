"""Which detector, filter and instrument a file is of, going by its header cards."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bayesflat.data.camera import NAMED_CAMERAS, Camera, Detector
from bayesflat.data.instruments import (
    DETECTOR_KEYS,
    FILTER_KEYS,
    INSTRUMENT_KEYS,
    LAST_RESORT,
    LSST_DETECTOR,
    LSST_FILTER,
    Instrument,
    instruments_called,
    usual_name,
)
from bayesflat.errors import InputError
from bayesflat.text import check_name, shown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeaderKeys:
    """The cards to look at.

    Attributes
    ----------
    detector, filter : tuple of str
        The best first; ``A+B`` joins the values of two cards with an underscore.
    chosen : tuple of bool
        Whether the user named the detector's and the filter's card: then it must be there, and mean something.
    upper_case : bool
        Whether filters are written in upper case, whatever the card says.
    """

    detector: tuple[str, ...]
    filter: tuple[str, ...]
    chosen: tuple[bool, bool] = (False, False)
    upper_case: bool = False


def header_keys(
    instrument: str, camera: Camera, detector_key: str | None = None, filter_key: str | None = None
) -> HeaderKeys:
    """The cards of an instrument, or where it is not in the table those of the camera; the user's go before all."""
    known = _known(instrument, camera)
    detector = (LSST_DETECTOR, *(known.detector_keys if known else ()), *DETECTOR_KEYS, LAST_RESORT)
    filters = (LSST_FILTER, *(known.filter_keys if known else ()), *FILTER_KEYS)
    return HeaderKeys(
        detector=(detector_key,) if detector_key else tuple(dict.fromkeys(detector)),
        filter=(filter_key,) if filter_key else tuple(dict.fromkeys(filters)),
        chosen=(detector_key is not None, filter_key is not None),
        upper_case=bool(known and known.upper_case),
    )


def _known(instrument: str, camera: Camera) -> Instrument | None:
    """The entry of the table; where two share a name, the one that the camera is."""
    cameras = instruments_called(camera.name)
    found = instruments_called(instrument) or cameras
    return next((one for one in found if one in cameras), found[0] if found else None)


def find_instrument(headers: Sequence[Mapping], camera: Camera, where: str | Path) -> str:
    """The instrument that headers name, by its usual name; empty where they do not say.

    Raises
    ------
    InputError
        As `check_instrument`.
    """
    key, name = next(((key, str(value)) for key, value in _cards(headers, INSTRUMENT_KEYS)), ("", ""))
    check_name(name, key, where)
    check_instrument(name, camera, where)
    known = _known(name, camera) if name else None
    return known.name if known and known.is_called(name) else name


def check_instrument(instrument: str, camera: Camera, where: str | Path) -> None:
    """Refuse what is of another camera: detector 3 is another one there, and the sizes may agree.

    Raises
    ------
    InputError
        The camera is one of the table of instruments, and the name is none of its names.
    """
    mine = instruments_called(camera.name)
    if not instrument or not mine or any(one.is_called(instrument) for one in mine):
        return
    others = [one.name.lower() for one in instruments_called(instrument)]
    hint = next((f"--camera {name} takes it" for name in others if name in NAMED_CAMERAS), "give --camera its table")
    raise InputError(f"{where}: is of {instrument}, the camera is {camera.name}; {hint}")


def warn_of_instrument(instrument: str, camera: Camera, where: str) -> None:
    """Warn where an instrument has another name than the camera: a camera of a table may be called anything."""
    if instrument and usual_name(instrument) != usual_name(camera.name):
        log.warning("%s: is of %s, the camera is %s", where, instrument, camera.name)


def warn_of_filter(physical_filter: str, camera: Camera, where: str) -> None:
    """Warn of a filter that the camera does not have, as far as its filters are known."""
    known = next(iter(instruments_called(camera.name)), None)
    if physical_filter and known and not known.has_filter(physical_filter):
        log.warning(
            "%s: filter %s is none of %s that is known; it has %s",
            where, physical_filter, known.name, ", ".join(known.filters),
        )  # fmt: skip


def find_filter(
    headers: Sequence[Mapping],
    keys: HeaderKeys,
    where: str | Path,
    physical_filter: str | None = None,
    *,
    needed: bool = True,
) -> str:
    """The physical filter that headers name, which must be the one asked for, if one is; empty if it is not needed.

    Raises
    ------
    InputError
        They name another one than ``physical_filter``, or none and it is not given either.
    """
    key, found = next(((k, str(value)) for k, value in _cards(headers, keys.filter)), ("", ""))
    check_name(found, key, where)
    if not found and keys.chosen[1]:
        raise InputError(f"{where}: no card {keys.filter[0]} (--filter-key) in the headers, or it is empty")
    if keys.upper_case:
        found, physical_filter = found.upper(), physical_filter and physical_filter.upper()
    if found and physical_filter and found != physical_filter:
        raise InputError(f"{where}: {key} is {found}, but --physical-filter is {physical_filter}")
    if needed and not (found or physical_filter):
        raise InputError(
            f"{where}: no filter in the headers ({', '.join(keys.filter)}); give --filter-key or --physical-filter"
        )
    return found or physical_filter or ""


def find_detector(
    headers: Sequence[Mapping], path: str | Path, camera: Camera, keys: Iterable[str], name: str | None = None
) -> Detector | None:
    """Detector that the headers name, or else a file's name.

    Parameters
    ----------
    headers : sequence of mapping
        Looked at in order, for each key in turn.
    path : path
        What messages call the file.
    camera : Camera
        Must have the detector.
    keys : iterable of str
        Keys that hold an id or a name. Text that is no detector's name is passed over: some cameras write serial
        numbers there. EXTNAME counts where it is a detector's name and no other key says anything.
    name : str, optional
        Of the file; it may hold ``_NAME_`` or ``_NAME.`` of a detector.

    Returns
    -------
    detector : Detector or None
        None where neither names a detector.

    Raises
    ------
    InputError
        The camera lacks the detector, or an id and a name are those of different ones.
    """
    by_name: tuple[str, Detector] | None = None
    by_id: tuple[str, Detector] | None = None
    unknown = ""
    for key, value in _cards(headers, keys):
        if key == LAST_RESORT and (by_name or by_id):
            continue
        named = detector_called(str(value), camera) if isinstance(value, str) else None
        if named is not None:
            by_name = by_name or (f"{key} {shown(value)}", named)
        elif key == LAST_RESORT:  # what HDUs are called need not have to do with detectors
            continue
        elif isinstance(value, int) or value.isdecimal():
            if by_id is None and int(value) not in camera:
                raise InputError(
                    f"{path}: {key} is {shown(value)}, camera {camera.name} has no such detector; "
                    f"its ids are {min(d.id for d in camera)} to {max(d.id for d in camera)}"
                )
            by_id = by_id or (f"{key} {shown(value)}", camera[int(value)])
        elif key == "DET_NAME":  # never a serial number: the table is another camera's, whatever its id says
            raise InputError(f"{path}: {key} is {shown(value)}, camera {camera.name} has no such detector")
        else:
            unknown = unknown or f"{key} is {shown(value)}"
    if by_name and by_id and by_name[1] != by_id[1]:
        raise InputError(
            f"{path}: {by_id[0]} and {by_name[0]} are different detectors in camera {camera.name}; "
            "is it the right camera?"
        )
    found = by_name or by_id
    detector = found[1] if found else _detector_in_name(name or "", camera)
    if detector is None and unknown:
        raise InputError(f"{path}: {unknown}, camera {camera.name} has no such detector, and the file name names none")
    return detector


def detector_called(name: str, camera: Camera) -> Detector | None:
    """The detector of that name, or the only one whose name differs by letter case alone."""
    if name in camera:
        return camera[name]
    alike = [detector for detector in camera if detector.name.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def _detector_in_name(name: str, camera: Camera) -> Detector | None:
    """The one detector whose name stands in a file name, between underscores, dots and the ends."""
    matches = [d for d in camera if re.search(rf"(^|_){re.escape(d.name)}[_.]", name)]
    # where R22_S11 stands, a detector called S11 stands too: the longer name is meant
    matches = [d for d in matches if not any(d.name in other.name and d is not other for other in matches)]
    return matches[0] if len(matches) == 1 else None


def _cards(headers: Sequence[Mapping], keys: Iterable[str]) -> Iterator[tuple[str, str | int]]:
    """The keys that have a value: whole numbers as int, all else as stripped text."""
    for key in keys:
        parts = key.split("+")
        for header in headers:
            values = [_value(header.get(part)) for part in parts]
            if any(value is None for value in values):
                continue
            yield key, values[0] if len(values) == 1 else "_".join(str(value) for value in values)  # type: ignore[misc]


def _value(value: object) -> str | int | None:
    """A card's value, None where it says nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    return value.strip() or None if isinstance(value, str) else value
