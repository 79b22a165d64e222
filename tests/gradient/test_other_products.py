"""Files that are not our own: LSST's, and bad ones."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayesflat.gradient.product import FlatGradient
from tests.gradient.products import COLUMNS, EMPTY, FULL, METADATA, NODES, SCALARS, VALUES, assert_same
from tests.helpers import message

# ---- LSST's own files ----


def lsst_columns(outer):
    """LSST's table: vectors, scalars as vectors of length one; the outer gradient in August 2025 only."""
    names = COLUMNS if outer else COLUMNS[:10]
    columns = {name: np.array([[SCALARS[name.lower()]]]) for name in names[2:]}
    return {"RADIAL_SPLINE_NODES": np.array([NODES]), "RADIAL_SPLINE_VALUES": np.array([VALUES])} | columns


def lsst_metadata():
    fixed = {"OBSTYPE": "flatGradient", "flatGradient_SCHEMA": "FlatGradient", "flatGradient_VERSION": 1.0}
    return fixed | METADATA | dict.fromkeys(EMPTY, "") | {"CALIBCLS": "lsst.ip.isr.FlatGradient"}


def without_outer(gradient):
    return replace(gradient, outer_gradient_x=0.0, outer_gradient_y=0.0, outer_gradient_radius=325.0)


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("kind", ["fits", "ecsv"])
def test_lsst_table(tmp_path, kind, outer):
    table = Table(lsst_columns(outer))
    path = tmp_path / f"flat_gradient.{kind}"
    if kind == "fits":
        hdu = fits.table_to_hdu(table)
        for key, value in lsst_metadata().items():
            hdu.header[f"HIERARCH {key}" if len(key) > 8 else key] = value
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    else:
        table.meta.update(lsst_metadata())
        table.write(path, format="ascii.ecsv")
    back = FlatGradient.read(path)
    assert_same(back, FULL if outer else without_outer(FULL))
    assert (back.instrument, back.physical_filter) == ("LSSTCam", "i_39")
    assert back.estimates is None
    assert back.config == {}


def test_undefined_cards(tmp_path):
    # LSST's None may come as a card without a value
    path = tmp_path / "g.fits"
    FULL.write(path)
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["FILTER"] = None
        hdus[1].header["DETECTOR"] = None
    back = FlatGradient.read(path)
    assert back.physical_filter == ""
    assert back.metadata["DETECTOR"] == ""


LSST_YAML = """\
centroidDeltaX: 0.8
centroidDeltaY: -0.5
centroidX: 3.0
centroidY: -2.0
gradientX: 3.0e-05
gradientY: -2.0e-05
itlRatio: 0.9512345678901234
metadata: !<lsst.daf.base.PropertyList>
- [OBSTYPE, String, flatGradient, '']
- [flatGradient_SCHEMA, String, FlatGradient, '']
- [flatGradient_VERSION, Double, 1.0, '']
- [INSTRUME, String, LSSTCam, 'which camera']
- [RAFTNAME, Undef, null, '']
- [DETECTOR, Undef, null, '']
- [FILTER, String, i_39, '']
- [CALIBCLS, String, lsst.ip.isr.FlatGradient, '']
- [CALIBDATE, String, '2025-11-03T10:20:30.123456', '']
normalizationFactor: 20123.456789012345
radialSplineNodes: [0.0, 100.0, 200.0, 250.0, 300.0, 325.0, 350.0]
radialSplineValues: [1.0, 0.99, 0.98, 0.97, 0.93, 0.79, 0.5]
"""
OUTER_YAML = "outerGradientRadius: 320.0\nouterGradientX: 1.0e-05\nouterGradientY: 4.0e-05\n"


@pytest.mark.parametrize("outer", [False, True])
def test_lsst_yaml(tmp_path, outer):
    path = tmp_path / "flat_gradient.yaml"
    path.write_text(LSST_YAML + (OUTER_YAML if outer else ""))
    back = FlatGradient.read(path)
    assert_same(back, FULL if outer else without_outer(FULL))
    assert (back.instrument, back.physical_filter) == ("LSSTCam", "i_39")
    assert back.metadata["RAFTNAME"] == back.metadata["DETECTOR"] == ""
    assert back.metadata["CALIBDATE"] == "2025-11-03T10:20:30.123456"
    # and what was read can be written in every format
    for kind in ("fits", "ecsv", "yaml"):
        back.write(tmp_path / f"again.{kind}")
        assert_same(FlatGradient.read(tmp_path / f"again.{kind}"), back)


def test_infinite_outer_radius(tmp_path):
    # the version of August 2025 switches the term off so
    path = tmp_path / "g.yaml"
    path.write_text(LSST_YAML + "outerGradientRadius: .inf\nouterGradientX: 0.0\nouterGradientY: 0.0\n")
    assert FlatGradient.read(path).compute_plane(3.0, 400.0) == 1 - 2e-5 * 402


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "g.yaml"
    target = tmp_path / "made"
    path.write_text(
        f"metadata: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{target}]]\n"
    )
    assert "cannot be read as a flat gradient" in message(FlatGradient.read, path)
    assert not target.exists()


# ---- bad files ----


def test_no_such_file(tmp_path, ending):
    path = tmp_path / f"no{ending}"
    assert message(FlatGradient.read, path) == f"{path}: no such file"


@pytest.mark.parametrize("name", ["g.txt", "g", "g.json"])
def test_other_endings(tmp_path, name):
    path = tmp_path / name
    path.write_text("x")
    expected = f"{path}: a flat gradient is a file in .fits, .yaml or .ecsv"
    assert message(FlatGradient.read, path) == expected
    assert message(FULL.write, path) == expected
    assert path.read_text() == "x"


def test_garbage(tmp_path, ending):
    path = tmp_path / f"g{ending}"
    path.write_text("%: {[ not a file\n\x01\n")
    assert message(FlatGradient.read, path).startswith(f"{path}: cannot be read as ")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just text\n"])
def test_yaml_without_a_mapping(tmp_path, text):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    assert message(FlatGradient.read, path) == f"{path}: not a flat gradient; a mapping is needed"


def test_fits_without_a_table(tmp_path):
    path = tmp_path / "g.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((2, 2)))]).writeto(path)
    assert message(FlatGradient.read, path) == f"{path}: no table in it, so no flat gradient"


@pytest.mark.parametrize(("obstype", "found"), [("dark", "'dark'"), (None, "None")])
def test_another_calibration(tmp_path, ending, obstype, found):
    path = tmp_path / f"g{ending}"
    FULL.write(path)
    if ending == ".fits":
        with fits.open(path, mode="update") as hdus:
            if obstype:
                hdus[1].header["OBSTYPE"] = obstype
            else:
                del hdus[1].header["OBSTYPE"]
    else:
        kept = [line for line in path.read_text().splitlines() if obstype or "OBSTYPE" not in line]
        path.write_text("\n".join(kept).replace("OBSTYPE: flatGradient", f"OBSTYPE: {obstype}") + "\n")
    expected = f"{path}: not a flat gradient; OBSTYPE is {found}, 'flatGradient' is needed"
    assert message(FlatGradient.read, path) == expected


@pytest.mark.parametrize("kind", ["fits", "ecsv"])
def test_missing_column(tmp_path, kind):
    path = tmp_path / f"g.{kind}"
    columns = lsst_columns(False)
    del columns["GRADIENT_X"]
    table = Table(columns, meta={"OBSTYPE": "flatGradient"})
    table.write(path, format="ascii.ecsv" if kind == "ecsv" else "fits")
    expected = f"{path}: not a flat gradient; column GRADIENT_X missing, found {', '.join(columns)}"
    assert message(FlatGradient.read, path) == expected


def test_missing_key(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(LSST_YAML.replace("itlRatio", "ratio"))
    assert message(FlatGradient.read, path) == f"{path}: not a flat gradient; key itlRatio missing"


def test_nodes_without_values(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(LSST_YAML.replace("0.79, ", ""))
    assert "7 spline nodes but 6 values" in message(FlatGradient.read, path)


@pytest.mark.parametrize("value", ["abc", "null", "[1, 2]"])
def test_value_that_is_no_number(tmp_path, value):
    path = tmp_path / "g.yaml"
    path.write_text(LSST_YAML.replace("itlRatio: 0.9512345678901234", f"itlRatio: {value}"))
    assert str(path) in message(FlatGradient.read, path)


@pytest.mark.parametrize(("value", "expected"), [("1", 1.0), ("9e-01", 0.9)])
def test_numbers_that_yaml_takes_for_something_else(tmp_path, value, expected):
    # a whole number, and one without a point, which YAML 1.1 takes for text
    path = tmp_path / "g.yaml"
    path.write_text(LSST_YAML.replace("itlRatio: 0.9512345678901234", f"itlRatio: {value}"))
    back = FlatGradient.read(path)
    assert back.itl_ratio == expected
    assert type(back.itl_ratio) is float
