"""The binned focal plane: what the model is fitted to, as a table in memory and on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.data.camera import Camera
from bayesflat.data.fitsfile import opened_fits
from bayesflat.data.grouped import rows_of
from bayesflat.data.headers import warn_of_instrument
from bayesflat.errors import InputError, first_line
from bayesflat.files import ROWS, check_rows, check_text_ends, replacing
from bayesflat.text import check_name, shown

log = logging.getLogger(__name__)

REQUIRED = {"xf": float, "yf": float, "value": float, "detector": np.int64, "itl": bool}
_TABLE = "a binned table in FITS or ECSV"
OPTIONAL = {"amplifier": np.int64, "n_pixels": np.int64}
_SLACK = 1.5  # pixels: others' tables may count pixels from the corner
_SAME = 1e-3  # mm: bins that are so close are the same


@dataclass(frozen=True)
class BinnedFlat:
    """The bins of a focal plane, in the flat's own units (nothing is normalized or cut here).

    Attributes
    ----------
    camera : Camera
        The camera that the detectors belong to.
    xf, yf : numpy.ndarray of float, shape (n_bins,)
        Centre of each bin on the focal plane (mm).
    value : numpy.ndarray of float, shape (n_bins,)
        Mean of the bin's good pixels.
    detector, amplifier : numpy.ndarray of int, shape (n_bins,)
        Detector id, and the amplifier that the bin's centre lies in.
    itl : numpy.ndarray of bool, shape (n_bins,)
        Whether the detector belongs to the ITL group.
    n_pixels : numpy.ndarray of int or None
        Number of good pixels, where known.
    instrument, physical_filter : str
        Where known, else empty.
    run : str
        Id of the run that wrote it to a file; empty where none did.
    """

    camera: Camera
    xf: NDArray[np.float64]
    yf: NDArray[np.float64]
    value: NDArray[np.float64]
    detector: NDArray[np.int64]
    itl: NDArray[np.bool_]
    amplifier: NDArray[np.int64]
    n_pixels: NDArray[np.int64] | None = None
    instrument: str = ""
    physical_filter: str = ""
    run: str = ""

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, ArrayLike],
        camera: Camera,
        *,
        instrument: str = "",
        physical_filter: str = "",
        where: str = "binned table",
    ) -> BinnedFlat:
        """Check columns and make a binned flat of them.

        Parameters
        ----------
        columns : mapping of str to array_like
            ``xf``, ``yf`` (mm), ``value``, ``detector``, ``itl`` and, if known, ``amplifier`` and ``n_pixels``.
        camera : Camera
            Must know every detector; gives the amplifiers where there is no such column.
        instrument, physical_filter : str
            Where known.
        where : str
            What an error message calls the table.

        Raises
        ------
        InputError
            A column is missing, holds text or NaN (``value`` may hold NaN: such bins are dropped at the fit), or
            differs in length; no row; positions in another unit than mm; a detector that the camera lacks; a bin that
            lies outside its detector or amplifier, or is there twice.
        """
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            raise InputError(
                f"{where}: column {', '.join(missing)} missing; "
                f"it needs {', '.join(REQUIRED)}, found {shown(', '.join(columns))}"
            )
        for name in ("xf", "yf"):
            unit = getattr(columns[name], "unit", None)
            if unit is not None and str(unit) != "mm":
                raise InputError(f"{where}: column {name} is in {str(unit) or 'no unit'}; positions must be in mm")
        arrays = {
            name: _column(columns[name], name, kind, where)
            for name, kind in (REQUIRED | OPTIONAL).items()
            if name in columns
        }
        if len({len(a) for a in arrays.values()}) > 1:
            raise InputError(f"{where}: columns differ in length")
        if len(arrays["value"]) == 0:
            raise InputError(f"{where}: no rows")
        amplifier, itl = _locate(camera, arrays, where)
        _check_different(camera, arrays, where)
        wrong = np.flatnonzero(itl != arrays["itl"])
        if len(wrong):
            name = camera[int(arrays["detector"][wrong[0]])].name
            log.warning(
                "%s: column itl differs from camera %s for detector %s; the table's is used", where, camera.name, name
            )
        arrays.setdefault("amplifier", amplifier)
        most = max(camera[int(number)].n_amplifiers for number in np.unique(arrays["detector"]))
        beyond = np.flatnonzero((arrays["amplifier"] < 0) | (arrays["amplifier"] >= most))
        if len(beyond):
            raise InputError(
                f"{where}: column amplifier is {arrays['amplifier'][beyond[0]]} in row {beyond[0]}; "
                f"camera {camera.name} has amplifiers 0 to {most - 1}"
            )
        check_name(instrument, "INSTRUME", where)
        check_name(physical_filter, "FILTER", where)
        _check_amplifiers(camera, arrays, where)
        warn_of_instrument(instrument, camera, where)
        return cls(camera=camera, instrument=instrument, physical_filter=physical_filter, run="", **arrays)

    @property
    def groups(self) -> tuple[str, str]:
        """Names of the two groups, ITL and the rest; the rest is ``others`` unless it has a type or group in common."""
        names = []
        for of_group, default in ((self.itl, "ITL"), (~self.itl, "")):
            detectors = [self.camera[int(number)] for number in np.unique(self.detector[of_group])]
            kinds = {d.group or default or d.physical_type for d in detectors}
            names.append(kinds.pop() if len(kinds) == 1 else default or "others")
        return names[0], names[1]

    def select(self, rows: NDArray | slice) -> BinnedFlat:
        """The same binned flat with some of its bins (a boolean or index array, or a slice)."""
        names = [name for name in REQUIRED | OPTIONAL if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def write(self, path: str | Path, overwrite: bool = True) -> None:
        """Write the table as FITS, or as ECSV where ``path`` ends so; it appears whole or not at all.

        Without ``overwrite``, a file that is there is an `InputError`.
        """
        from astropy.table import Table

        names = [name for name in REQUIRED | OPTIONAL if getattr(self, name) is not None]
        table = Table({name: getattr(self, name) for name in names})
        table["xf"].unit = table["yf"].unit = "mm"
        if self.n_pixels is not None:
            table["n_pixels"].unit = "pix"
        for key, text in (("INSTRUME", self.instrument), ("FILTER", self.physical_filter), ("RUNID", self.run)):
            if text:
                table.meta[key] = text
        if _format(path) != "fits":
            table.meta[ROWS] = len(table)
        with replacing(path, overwrite) as temporary:
            table.write(temporary, format=_format(path))

    @classmethod
    def read(cls, path: str | Path, camera: Camera) -> BinnedFlat:
        """Read a binned table (FITS or ECSV).

        Raises
        ------
        InputError
            No such file, no table in it, or columns as in `from_columns`.
        """
        from astropy.table import Table

        where = str(path)
        try:
            if _format(path) == "fits":
                with opened_fits(path, what=_TABLE) as hdus:
                    if len(hdus) < 2 or hdus[1].is_image or not hasattr(hdus[1], "columns"):
                        raise InputError(f"{where}: no binned table; its first extension must be a table")
                    # NaN is NaN here, not a missing value
                    table = Table.read(hdus[1], format="fits", mask_invalid=False)
            else:
                check_text_ends(path)
                table = Table.read(path, format=_format(path))
                check_rows(table.meta, len(table), where)
        except FileNotFoundError:
            raise InputError(f"{where}: no such file") from None
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{where}: cannot be read as {_TABLE} ({first_line(error)})") from None
        columns = {name: table[name] for name in table.colnames}
        text = {key: str(table.meta.get(key) or "").strip() for key in ("INSTRUME", "FILTER", "RUNID")}
        binned = cls.from_columns(
            columns, camera, instrument=text["INSTRUME"], physical_filter=text["FILTER"], where=where
        )
        return replace(binned, run=text["RUNID"])


def _format(path: str | Path) -> str:
    return "ascii.ecsv" if str(path).lower().endswith(".ecsv") else "fits"


def _column(values: ArrayLike, name: str, kind: type, where: str) -> NDArray:
    """One column as an array of its kind, or an error that says what is wrong with it."""
    masked = np.ma.asarray(values)
    if masked.ndim != 1:
        raise InputError(f"{where}: column {name} must hold one number a row; its shape is {masked.shape}")
    if masked.dtype.kind not in "fiub":
        raise InputError(f"{where}: column {name} holds text, numbers are needed")
    if np.ma.is_masked(masked) and name != "value":
        raise InputError(f"{where}: column {name} has missing values")
    array = np.ma.filled(masked.astype(float), np.nan) if np.ma.is_masked(masked) else np.asarray(masked)
    if name != "value" and not np.all(np.isfinite(array)):
        raise InputError(
            f"{where}: column {name} holds NaN or infinity in row {np.flatnonzero(~np.isfinite(array))[0]}"
        )
    converted: NDArray = array.astype(kind)
    if kind is not float and not np.array_equal(converted, array):
        accepted = "true or false" if kind is bool else "whole numbers"
        raise InputError(f"{where}: column {name} must hold {accepted}")
    return converted


def _locate(camera: Camera, arrays: Mapping[str, NDArray], where: str) -> tuple[NDArray, NDArray]:
    """Amplifier and vendor of each bin from the camera, checking that each bin lies on its detector."""
    amplifier = np.empty(len(arrays["value"]), dtype=np.int64)
    itl = np.empty(len(amplifier), dtype=bool)
    for number, rows in rows_of(arrays["detector"]).items():
        if number not in camera:
            raise InputError(f"{where}: detector {number} is not in camera {camera.name} of {len(camera)} detectors")
        detector = camera[number]
        px, py = detector.focal_plane_to_pixel(arrays["xf"][rows], arrays["yf"][rows])
        outside = (px < -_SLACK) | (px > detector.nx - 1 + _SLACK) | (py < -_SLACK) | (py > detector.ny - 1 + _SLACK)
        if outside.any():
            row = rows[np.flatnonzero(outside)[0]]
            raise InputError(
                f"{where}: row {row} at ({arrays['xf'][row]:.2f}, {arrays['yf'][row]:.2f}) mm "
                f"lies outside its detector {detector.name}; is it the right camera?"
            )
        amplifier[rows] = detector.amplifier(px, py)
        itl[rows] = detector.is_itl
    return amplifier, itl


def _check_different(camera: Camera, arrays: Mapping[str, NDArray], where: str) -> None:
    """Refuse a table that holds a bin twice: its error would come out too small."""
    keys = arrays["detector"], *(np.rint(arrays[name] / _SAME).astype(np.int64) for name in ("xf", "yf"))
    order = np.lexsort(keys)
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    if same.any():
        one, other = sorted(int(row) for row in order[np.flatnonzero(same)[0] :][:2])
        name = camera[int(arrays["detector"][one])].name
        raise InputError(
            f"{where}: rows {one} and {other} are the same bin of detector {name}, at "
            f"({arrays['xf'][one]:.2f}, {arrays['yf'][one]:.2f}) mm ({int(same.sum())} in all are there twice)"
        )


def _check_amplifiers(camera: Camera, arrays: Mapping[str, NDArray], where: str) -> None:
    """Refuse amplifiers in which the bins do not lie; those at a border may be of either side."""
    for number, rows in rows_of(arrays["detector"]).items():
        detector, given = camera[number], arrays["amplifier"][rows]
        px, py = detector.focal_plane_to_pixel(arrays["xf"][rows], arrays["yf"][rows])
        corners = [detector.amplifier(px + x, py + y) for x in (-_SLACK, _SLACK) for y in (-_SLACK, _SLACK)]
        wrong = np.flatnonzero(np.all([given != amplifier for amplifier in corners], axis=0))
        if len(wrong):
            k = wrong[0]
            raise InputError(
                f"{where}: column amplifier is {given[k]} in row {rows[k]}, but the bin lies in amplifier "
                f"{detector.amplifier(px[k], py[k])} of detector {detector.name}; amplifiers count as column + "
                f"{detector.amp_nx} * row from the corner of pixel (0, 0), or leave the column out"
            )


def is_binned_table(path: str | Path) -> bool:
    """Whether a file is meant as a binned table: ECSV, or FITS whose first extension is a table with such columns."""
    if not Path(path).is_file():
        return False
    if _format(path) != "fits":
        return True
    from astropy.io import fits

    try:
        with opened_fits(path) as hdus:
            found = hdus[1].columns.names if len(hdus) > 1 and type(hdus[1]) is fits.BinTableHDU else []
    except Exception:
        return False  # no FITS at all: the reader of flats reports what is wrong with it
    return any(name in found for name in REQUIRED)
