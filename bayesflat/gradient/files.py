"""Flat gradients on disk: LSST's table in FITS, YAML and ECSV, and in FITS our own HDUs behind it.

A gradient comes and goes as the arguments of `bayesflat.FlatGradient`, by name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from bayesflat.data.fitsfile import check_sums, opened_fits
from bayesflat.errors import InputError, first_line
from bayesflat.files import check_text_ends, replacing
from bayesflat.gradient.estimates import STATISTICS, Azimuth, Estimates, Offsets
from bayesflat.text import check_name, shown

log = logging.getLogger(__name__)

Arguments = dict[str, Any]

# attribute: (LSST's column, LSST's YAML key)
_VECTORS = {
    "radial_spline_nodes": ("RADIAL_SPLINE_NODES", "radialSplineNodes"),
    "radial_spline_values": ("RADIAL_SPLINE_VALUES", "radialSplineValues"),
}
_SCALARS = {
    "itl_ratio": ("ITL_RATIO", "itlRatio"),
    "centroid_x": ("CENTROID_X", "centroidX"),
    "centroid_y": ("CENTROID_Y", "centroidY"),
    "centroid_delta_x": ("CENTROID_DELTA_X", "centroidDeltaX"),
    "centroid_delta_y": ("CENTROID_DELTA_Y", "centroidDeltaY"),
    "gradient_x": ("GRADIENT_X", "gradientX"),
    "gradient_y": ("GRADIENT_Y", "gradientY"),
    "normalization_factor": ("NORMALIZATION_FACTOR", "normalizationFactor"),
}
# only LSST's class of August 2025 has these
_OUTER = {
    "outer_gradient_x": ("OUTER_GRADIENT_X", "outerGradientX"),
    "outer_gradient_y": ("OUTER_GRADIENT_Y", "outerGradientY"),
    "outer_gradient_radius": ("OUTER_GRADIENT_RADIUS", "outerGradientRadius"),
}
_UNITS = dict.fromkeys(
    (
        "radial_spline_nodes",
        "centroid_x",
        "centroid_y",
        "centroid_delta_x",
        "centroid_delta_y",
        "outer_gradient_radius",
    ),
    "mm",
)
_UNITS |= dict.fromkeys(("gradient_x", "gradient_y", "outer_gradient_x", "outer_gradient_y"), "mm-1")
FIXED_METADATA = {
    "OBSTYPE": "flatGradient",
    "flatGradient_SCHEMA": "FlatGradient",
    "flatGradient_VERSION": 1.0,
    "CALIBCLS": "lsst.ip.isr.FlatGradient",
}
_EMPTY = ("DETECTOR", "DET_NAME", "DET_SER", "RAFTNAME", "SLOTNAME", "SEQFILE", "SEQNAME", "SEQCKSUM")
_AZIMUTH = ("term", "m", "amplitude", "sd", "phase", "p")
_OFFSETS = ("detector", "amplifier", "mean", "sd")
_LISTS = ("inputs", "camera_table")  # of the config, with a row for each entry
_PROPERTY_LIST = "lsst.daf.base.PropertyList"
_CONTENTS = "HDUS"  # card of the primary header that lists what follows LSST's table


def write(gradient: Arguments, path: str | Path, overwrite: bool) -> None:
    """Write a gradient; see `bayesflat.FlatGradient.write`."""
    kind = _kind(path)
    if kind != "fits" and gradient["estimates"] is not None:
        log.warning("%s: a file in %s holds the gradient alone; its uncertainties stay behind", path, kind.upper())
    with replacing(path, overwrite) as temporary:
        if kind == "yaml":
            _write_yaml(gradient, temporary)
        elif kind == "ecsv":
            table_of(gradient).write(temporary, format="ascii.ecsv")
        else:
            _write_fits(gradient, temporary)


def read(path: str | Path) -> Arguments:
    """Read a gradient; see `bayesflat.FlatGradient.read`."""
    reader = {"yaml": _read_yaml, "ecsv": _read_ecsv, "fits": _read_fits}[_kind(path)]
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return reader(path)
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path}: cannot be read as a flat gradient ({reason})") from None


def _kind(path: str | Path) -> str:
    name = str(path).lower()
    for kind, endings in {"yaml": (".yaml",), "ecsv": (".ecsv",), "fits": (".fits", ".fits.gz")}.items():
        if name.endswith(endings):
            return kind
    raise InputError(f"{path}: a flat gradient is a file in .fits, .yaml or .ecsv")


def _metadata(gradient: Arguments) -> dict[str, Any]:
    """LSST's header: what the gradient brings, what is fixed, and empty cards for what a focal plane does not have."""
    return {**dict.fromkeys(("INSTRUME", "FILTER", "CALIB_ID", *_EMPTY), ""), **gradient["metadata"], **FIXED_METADATA}


def table_of(gradient: Arguments):
    """LSST's table as a QTable: one row of vectors; scalars are vectors of length 1."""
    from astropy.table import QTable
    from astropy.units import Quantity

    table = QTable(meta=_metadata(gradient))
    for name, (column, _) in (_VECTORS | _SCALARS | _OUTER).items():
        values = np.atleast_2d(np.asarray(gradient[name], dtype=float))
        table[column] = Quantity(values, _UNITS[name]) if name in _UNITS else values
    return table


def _write_fits(gradient: Arguments, path: Path) -> None:
    from astropy.io import fits
    from astropy.table import Table

    table = table_of(gradient)
    metadata, table.meta = table.meta, {}
    hdu = fits.table_to_hdu(table)
    for key, value in metadata.items():
        # long keys need the HIERARCH convention; asked for by name, astropy does not warn
        hdu.header[f"HIERARCH {key}" if len(key) > 8 else key] = value
    hdus = [fits.PrimaryHDU(), hdu]
    if gradient["estimates"] is not None:
        hdus += _estimates_to_hdus(gradient["estimates"])
    if gradient["config"]:
        # a row for each input: columns are as wide as their widest value
        config = {key: value for key, value in gradient["config"].items() if key not in _LISTS}
        for name in _LISTS:
            config |= {f"{name}[{i}]": value for i, value in enumerate(gradient["config"].get(name, []))}
        rows = Table({"key": list(config), "value": [json.dumps(v) for v in config.values()]})
        hdus.append(fits.BinTableHDU(rows, name="CONFIG"))
    if gradient["offsets"] is not None:
        columns = {key: getattr(gradient["offsets"], key) for key in _OFFSETS}
        hdus.append(fits.BinTableHDU(Table(columns), name="OFFSETS"))
    if gradient["knots"] is not None:
        columns = {"knot": gradient["knots"]}
        if gradient["bend_sd"] is not None:  # as many as coefficients: four less than knots
            columns["bend_sd"] = np.append(gradient["bend_sd"], np.full(4, np.nan))
        radial = fits.BinTableHDU(Table(columns), name="RADIAL")
        radial.header["DEGREE"] = (3, "of the B-spline; linear beyond its knots")
        radial.header["OF"] = ("log(radial)", "with coefficients log_radial[k] of PARAMETERS")
        radial.header["TUNIT1"] = "mm"
        if "bend_sd" in columns:
            radial.header["TUNIT2"] = "mm-2"
        hdus.append(radial)
    if gradient["estimates"] is not None and "VERDICT" in gradient["estimates"].header:
        # without a test the table is empty
        other, kinds = gradient["azimuth"], ("U1", "i8", "f8", "f8", "f8", "f8")
        empty = {key: np.array([], dtype=kind) for key, kind in zip(_AZIMUTH, kinds, strict=True)}
        columns = empty if other is None else {key: list(getattr(other, key)) for key in _AZIMUTH}
        hdus.append(fits.BinTableHDU(Table(columns), name="AZIMUTH"))
        hdus[-1].header["TUNIT5"] = "deg"
        hdus[-1].header["AZCHI2"] = (None if other is None else other.chi2, "of all terms together")
        hdus[-1].header["AZDOF"] = (0 if other is None else other.dof, "its degrees of freedom")
    listed = " ".join(hdu.name for hdu in hdus[2:])
    hdus[0].header[_CONTENTS] = (listed, "" if len(listed) > 40 else "HDUs behind the gradient")
    fits.HDUList(hdus).writeto(path, checksum=True)


def _estimates_to_hdus(estimates: Estimates) -> list:
    from astropy.io import fits
    from astropy.table import Table

    table = Table({"name": list(estimates.names), "unit": list(estimates.units), **estimates.columns})
    parameters = fits.BinTableHDU(table, name="PARAMETERS")
    cards = {
        "METHOD": (estimates.method, "mean, sd, quantiles: map (none), laplace, nuts"),
        "CONVERGD": (estimates.converged, "did the fit converge and pass its diagnostics"),
        "REFGRAD": (estimates.reference, "is it the reference (sky)"),
        **estimates.header,
    }
    for key, (value, comment) in cards.items():
        missing = isinstance(value, float) and not np.isfinite(value)
        parameters.header[key] = (None if missing else value, comment)
    return [parameters, fits.ImageHDU(estimates.covariance, name="COVARIANCE")]


def _read_fits(path: str | Path) -> Arguments:
    from astropy.io import fits
    from astropy.table import Table

    with opened_fits(path, what="a flat gradient") as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        if not tables:
            raise InputError(f"{path}: no table in it, so no flat gradient")
        _check_contents(hdus, path)
        first = Table.read(tables[0], mask_invalid=False)  # NaN is NaN here, not a missing value
        # a key may come in capitals; the fixed ones are known
        spelled = {key.upper(): key for key in FIXED_METADATA}
        metadata = {
            spelled.get(key.upper(), key): "" if value is None else value
            for key, (value, _) in _cards(tables[0].header).items()
        }
        estimates = _estimates_from_hdus(hdus) if "PARAMETERS" in hdus and "COVARIANCE" in hdus else None
        config: dict[str, Any] = {}
        if "CONFIG" in hdus:
            rows = {str(row["key"]): json.loads(row["value"]) for row in hdus["CONFIG"].data}
            for key, value in rows.items():
                name = key.partition("[")[0]
                if name in _LISTS:
                    config.setdefault(name, []).append(value)
                else:
                    config[key] = value
        offsets = None
        if "OFFSETS" in hdus:
            rows = hdus["OFFSETS"].data
            offsets = Offsets(
                detector=np.array(rows["detector"], dtype=np.int64),
                amplifier=np.array(rows["amplifier"], dtype=np.int64),
                mean=np.array(rows["mean"], dtype=float),
                sd=np.array(rows["sd"], dtype=float),
            )
        more: dict[str, Any] = {}
        if "AZIMUTH" in hdus and len(hdus["AZIMUTH"].data):
            rows, cards = hdus["AZIMUTH"].data, hdus["AZIMUTH"].header
            columns = {key: np.array(rows[key], dtype=float) for key in _AZIMUTH[2:]}
            more["azimuth"] = Azimuth(
                tuple(str(term) for term in rows["term"]), np.array(rows["m"], dtype=np.int64), **columns,
                chi2=float(cards["AZCHI2"]), dof=int(cards["AZDOF"]),
            )  # fmt: skip
        if "RADIAL" in hdus:
            more["knots"] = np.array(hdus["RADIAL"].data["knot"], dtype=float)
            if "bend_sd" in hdus["RADIAL"].columns.names:
                more["bend_sd"] = np.array(hdus["RADIAL"].data["bend_sd"][:-4], dtype=float)
    return _from_table(first, metadata, path, estimates=estimates, offsets=offsets, config=config, **more)


def _check_contents(hdus, path: str | Path) -> None:
    """Refuse a file that has lost HDUs, or whose data are not those that were written.

    Without the list in its primary header it is LSST's own, or older.
    """
    listed = hdus[0].header.get(_CONTENTS)
    lost = [name for name in str(listed or "").split() if name not in hdus]
    if lost:
        raise InputError(
            f"{path}: HDU {', '.join(lost)} is missing, which its primary header lists ({_CONTENTS}); was it cut short?"
        )
    check_sums(hdus, path, needed=listed is not None)


def _cards(header) -> dict[str, tuple[Any, str]]:
    """Value and comment of the cards that do not describe the table itself; None for undefined values."""
    from astropy.io.fits.card import Undefined

    structural = (
        "XTENSION", "BITPIX", "PCOUNT", "GCOUNT", "TFIELDS", "EXTNAME", "COMMENT", "HISTORY", "", "CHECKSUM", "DATASUM",
    )  # fmt: skip
    return {
        card.keyword: (None if isinstance(card.value, Undefined) else card.value, card.comment)
        for card in header.cards
        if card.keyword not in structural
        and not card.keyword.startswith(("NAXIS", "TTYPE", "TFORM", "TDIM", "TUNIT", "TNULL", "TSCAL", "TZERO"))
    }


def _estimates_from_hdus(hdus) -> Estimates:
    data, header = hdus["PARAMETERS"].data, hdus["PARAMETERS"].header
    rest = {
        key: (np.nan if value is None else value, comment)
        for key, (value, comment) in _cards(header).items()
        if key not in ("METHOD", "CONVERGD", "REFGRAD")
    }
    return Estimates(
        names=tuple(str(name) for name in data["name"]),
        units=tuple(str(unit) for unit in data["unit"]),
        columns={key: np.array(data[key], dtype=float) for key in STATISTICS},
        covariance=np.array(hdus["COVARIANCE"].data, dtype=float),
        method=header["METHOD"],
        converged=bool(header["CONVERGD"]),
        reference=bool(header["REFGRAD"]),
        header=rest,
    )


def _read_ecsv(path: str | Path) -> Arguments:
    from astropy.table import Table

    check_text_ends(path)
    table = Table.read(path, format="ascii.ecsv")
    return _from_table(table, dict(table.meta), path)


def _from_table(table, metadata: dict[str, Any], path: str | Path, **more: Any) -> Arguments:
    """From LSST's table; the outer gradient where there is one."""
    _check_metadata(metadata, path)
    missing = [column for column, _ in (_VECTORS | _SCALARS).values() if column not in table.colnames]
    if missing:
        raise InputError(
            f"{path}: not a flat gradient; column {missing[0]} missing, found {shown(', '.join(table.colnames), 400)}"
        )
    _check_outer([column for column, _ in _OUTER.values()], table.colnames, path)

    def row(column: str) -> np.ndarray:
        return np.ma.filled(np.ma.atleast_1d(table[column][0]).astype(float), np.nan)  # what is missing is NaN

    values: dict[str, Any] = {name: row(column) for name, (column, _) in _VECTORS.items()}
    values |= {
        name: float(row(column)[0]) for name, (column, _) in (_SCALARS | _OUTER).items() if column in table.colnames
    }
    return {**values, "metadata": metadata, **more}


def _write_yaml(gradient: Arguments, path: Path) -> None:
    import yaml

    content: dict[str, Any] = {"metadata": {key: _plain(value) for key, value in _metadata(gradient).items()}}
    content |= {key: gradient[name].tolist() for name, (_, key) in _VECTORS.items()}
    # what LSST's files may lack comes first: a file that is cut short lacks something that is needed
    content |= {key: float(gradient[name]) for name, (_, key) in (_OUTER | _SCALARS).items()}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _read_yaml(path: str | Path) -> Arguments:
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that knows LSST's property list: entries of [name, type, value, comment]."""

    def property_list(loader, node):
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        return {entry[0]: entry[2] for entry in loader.construct_sequence(node, deep=True)}

    Loader.add_constructor(f"!<{_PROPERTY_LIST}>", property_list)
    Loader.add_constructor(_PROPERTY_LIST, property_list)
    check_text_ends(path)
    content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=Loader)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a flat gradient; a mapping is needed")
    metadata = {key: "" if value is None else value for key, value in (content.get("metadata") or {}).items()}
    _check_metadata(metadata, path)
    missing = [key for _, key in (_VECTORS | _SCALARS).values() if key not in content]
    if missing:
        raise InputError(f"{path}: not a flat gradient; key {missing[0]} missing")
    values = {name: content[key] for name, (_, key) in _VECTORS.items()}
    _check_outer([key for _, key in _OUTER.values()], content, path)
    values |= {name: float(content[key]) for name, (_, key) in (_SCALARS | _OUTER).items() if key in content}
    return {**values, "metadata": metadata}


def _check_outer(names: list[str], found: Container[str], path: str | Path) -> None:
    """Refuse a part of an outer plane: LSST's files have all of it, or nothing."""
    missing = [name for name in names if name not in found]
    if 0 < len(missing) < len(names):
        raise InputError(f"{path}: not a flat gradient; {missing[0]} missing, of {', '.join(names)}")


def _check_metadata(metadata: dict[str, Any], path: str | Path) -> None:
    if (found := metadata.get("OBSTYPE")) != "flatGradient":
        raise InputError(f"{path}: not a flat gradient; OBSTYPE is {shown(repr(found))}, 'flatGradient' is needed")
    for key in ("INSTRUME", "FILTER"):
        check_name(str(metadata.get(key) or ""), key, path)
