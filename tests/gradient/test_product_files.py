"""Files of a product: what is written is read, in the layout that was promised, whole or not at all."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table

from bayesflat.gradient.estimates import STATISTICS
from bayesflat.gradient.product import FlatGradient
from tests.gradient.products import (
    COLUMNS,
    EMPTY,
    FULL,
    KNOTS,
    METADATA,
    N_KNOTS,
    NODES,
    SCALARS,
    VALUES,
    YAML_KEYS,
    assert_same,
)


def test_round_trip(tmp_path, ending):
    FULL.write(tmp_path / f"g{ending}")
    back = FlatGradient.read(tmp_path / f"g{ending}")
    assert_same(back, FULL)
    assert (back.instrument, back.physical_filter) == ("LSSTCam", "i_39")
    assert {key: back.metadata[key] for key in METADATA} == METADATA
    fixed = {"OBSTYPE": "flatGradient", "flatGradient_SCHEMA": "FlatGradient", "flatGradient_VERSION": 1.0}
    fixed["CALIBCLS"] = "lsst.ip.isr.FlatGradient"
    assert {key: back.metadata[key] for key in fixed} == fixed
    assert {key: back.metadata[key] for key in EMPTY} == dict.fromkeys(EMPTY, "")
    assert back.estimates is None
    assert [path.name for path in tmp_path.iterdir()] == [f"g{ending}"]
    # a file of a file is the same file
    back.write(tmp_path / f"h{ending}")
    again = FlatGradient.read(tmp_path / f"h{ending}")
    assert_same(again, FULL)
    assert again.metadata == back.metadata


def test_gzipped(tmp_path):
    FULL.write(tmp_path / "g.fits.gz")
    assert (tmp_path / "g.fits.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert_same(FlatGradient.read(tmp_path / "g.fits.gz"), FULL)


def test_fits_round_trip_of_all_fields(tmp_path, estimates):
    config = {"do_fit_gradient": True, "radial_spline_nodes": NODES, "note": 'a "quoted" one', "none": None}
    path = tmp_path / "g.fits"
    replace(FULL, estimates=estimates, config=config).write(path)
    back = FlatGradient.read(path)
    assert_same(back, FULL)
    assert back.config == config
    known = back.estimates
    assert (known.names, known.units) == (estimates.names, estimates.units)
    for key in STATISTICS:
        np.testing.assert_array_equal(known.columns[key], estimates.columns[key], err_msg=key)
    np.testing.assert_array_equal(known.covariance, estimates.covariance)
    assert (known.method, known.converged, known.reference) == ("laplace", True, False)
    assert {key: value for key, (value, _) in known.header.items() if key != "GRADNORM"} == {
        "SEED": 17,
        "LOGPOST": -12.5,
    }
    assert np.isnan(known.header["GRADNORM"][0])
    assert known.header["SEED"][1] == "seed"


@pytest.mark.parametrize(("converged", "reference"), [(True, True), (False, False)])
def test_flags(tmp_path, estimates, converged, reference):
    path = tmp_path / "g.fits"
    replace(FULL, estimates=replace(estimates, converged=converged, reference=reference)).write(path)
    header = fits.getheader(path, "PARAMETERS")
    assert (header["CONVERGD"], header["REFGRAD"], header["METHOD"]) == (converged, reference, "laplace")
    back = FlatGradient.read(path).estimates
    assert (back.converged, back.reference) == (converged, reference)


def test_fits_layout(tmp_path, estimates):
    path = tmp_path / "g.fits"
    replace(FULL, estimates=estimates, config={"seed": 1, "nodes": [0, 1.5]}).write(path)
    with fits.open(path) as hdus:
        assert hdus[0].data is None
        assert [type(hdu).__name__ for hdu in hdus] == [
            "PrimaryHDU",
            "BinTableHDU",
            "BinTableHDU",
            "ImageHDU",
            "BinTableHDU",
        ]
        table, header = hdus[1].data, hdus[1].header
        assert table.names == COLUMNS
        assert len(table) == 1
        assert [header[f"TFORM{i}"] for i in range(1, 14)] == ["7D", "7D"] + ["D"] * 11
        assert [header.get(f"TDIM{i}") for i in (3, 13)] == ["(1)", "(1)"]
        assert [header[f"TDIM{i}"] for i in range(3, 14)] == ["(1)"] * 11
        np.testing.assert_array_equal(table["RADIAL_SPLINE_NODES"], [NODES])
        np.testing.assert_array_equal(table["RADIAL_SPLINE_VALUES"], [VALUES])
        for name, value in SCALARS.items():
            assert table[name.upper()].shape == (1, 1)
            assert table[name.upper()][0, 0] == value
        expected = METADATA | dict.fromkeys(EMPTY, "")
        expected |= {"OBSTYPE": "flatGradient", "flatGradient_SCHEMA": "FlatGradient", "flatGradient_VERSION": 1.0}
        expected["CALIBCLS"] = "lsst.ip.isr.FlatGradient"
        assert {key: header[key] for key in expected} == expected

        assert [hdu.name for hdu in hdus[2:]] == ["PARAMETERS", "COVARIANCE", "CONFIG"]
        parameters = hdus["PARAMETERS"].data
        assert parameters.names == [
            "name",
            "unit",
            "map",
            "mean",
            "sd",
            "q05",
            "q50",
            "q95",
            "ess_bulk",
            "ess_tail",
            "r_hat",
        ]
        assert list(parameters["name"][-4:]) == [
            "gradient_y",
            "outer_gradient_x",
            "outer_gradient_y",
            "log_noise_scale",
        ]
        assert list(parameters["unit"][-5:]) == ["1/mm"] * 4 + [""]
        assert hdus["COVARIANCE"].data.shape == (len(parameters),) * 2
        assert list(hdus["CONFIG"].data["key"]) == ["seed", "nodes"]
        assert list(hdus["CONFIG"].data["value"]) == ["1", "[0, 1.5]"]


def test_curve_in_fits(tmp_path, curved):
    """A table more, of knots; its coefficients are rows of PARAMETERS."""
    path = tmp_path / "g.fits"
    replace(curved, config={"seed": 1}).write(path)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus[2:]].count("RADIAL") == 1
        assert hdus[1].data.names == COLUMNS  # LSST's table is as it was
        assert hdus["RADIAL"].data.names == ["knot"]
        assert hdus["RADIAL"].header["DEGREE"] == 3
        np.testing.assert_array_equal(hdus["RADIAL"].data["knot"], KNOTS)
        names = list(hdus["PARAMETERS"].data["name"])
        assert names[-N_KNOTS:] == [f"log_radial[{k}]" for k in range(N_KNOTS)]
    back = FlatGradient.read(path)
    assert_same(back, curved)
    np.testing.assert_array_equal(back.knots, KNOTS)
    for name in ("best", "mean", "covariance"):
        np.testing.assert_array_equal(getattr(back.curve, name), getattr(curved.curve, name), err_msg=name)
    radius = np.linspace(0, 350, 50)
    np.testing.assert_array_equal(back.compute_radial_sd(radius), curved.compute_radial_sd(radius))
    assert back.reach == 350.0


def test_errors_beyond_the_nodes_are_those_of_the_last_one(curved):
    """As the values are, which the product holds there."""
    last = curved.radial_spline_nodes[-1]
    beyond = curved.compute_radial_sd([last, last + 5.0, 1e4])
    assert beyond[0] > 0
    np.testing.assert_array_equal(beyond, beyond[0])


def test_smoothness_in_fits(tmp_path, curved):
    """As many as coefficients, of which the outer two have none."""
    path = tmp_path / "g.fits"
    bend_sd = np.r_[np.nan, np.geomspace(1e-6, 1e-3, N_KNOTS - 2), np.nan]
    replace(curved, bend_sd=bend_sd).write(path)
    assert fits.getdata(path, "RADIAL").names == ["knot", "bend_sd"]
    back = FlatGradient.read(path)
    np.testing.assert_array_equal(back.bend_sd, bend_sd)
    np.testing.assert_array_equal(back.knots, KNOTS)
    curved.write(tmp_path / "without.fits")
    assert FlatGradient.read(tmp_path / "without.fits").bend_sd is None


def test_a_product_without_a_curve_has_no_table_of_knots(tmp_path, curved):
    """So is one of an earlier version: its errors are those of the values at the nodes."""
    path = tmp_path / "g.fits"
    old = replace(curved, knots=None)
    old.write(path)
    with fits.open(path) as hdus:
        assert "RADIAL" not in hdus
    back = FlatGradient.read(path)
    assert back.knots is None
    assert back.curve is None
    radius = np.linspace(0, 350, 50)
    np.testing.assert_array_equal(back.compute_radial_sd(radius), old.compute_radial_sd(radius))


@pytest.mark.parametrize("ending", [".yaml", ".ecsv"])
def test_other_formats_leave_the_curve_behind(tmp_path, curved, ending):
    path = tmp_path / f"g{ending}"
    curved.write(path)
    assert "log_radial" not in path.read_text()
    assert "knot" not in path.read_text()
    back = FlatGradient.read(path)
    assert_same(back, curved)
    assert back.knots is None
    assert back.curve is None
    assert np.all(np.isnan(back.compute_radial_sd([0.0, 100.0])))


def test_outer_columns_are_there_where_the_term_is_off(tmp_path):
    path = tmp_path / "g.fits"
    FlatGradient(NODES, VALUES).write(path)
    table = Table.read(path, hdu=1)
    found = [table[name][0, 0] for name in ("OUTER_GRADIENT_X", "OUTER_GRADIENT_Y", "OUTER_GRADIENT_RADIUS")]
    assert found == [0, 0, 325]
    assert [table.meta[key] for key in ("INSTRUME", "FILTER", "CALIB_ID")] == ["", "", ""]


def test_yaml_layout(tmp_path):
    path = tmp_path / "g.yaml"
    replace(FULL, itl_ratio=np.float64(0.9), metadata=METADATA | {"SEED": np.int64(3)}).write(path)
    content = yaml.safe_load(path.read_text())
    assert sorted(content) == sorted(YAML_KEYS)
    assert content["radialSplineNodes"] == NODES
    assert content["radialSplineValues"] == VALUES
    assert all(type(content[key]) is float for key in YAML_KEYS[3:])
    assert (content["itlRatio"], content["centroidDeltaY"], content["outerGradientRadius"]) == (0.9, -0.5, 320.0)
    assert type(content["metadata"]) is dict
    assert content["metadata"]["OBSTYPE"] == "flatGradient"
    assert content["metadata"]["SEED"] == 3
    assert content["metadata"]["DETECTOR"] == ""


def test_ecsv_layout(tmp_path):
    path = tmp_path / "g.ecsv"
    FULL.write(path)
    table = Table.read(path, format="ascii.ecsv")
    assert table.colnames == COLUMNS
    assert len(table) == 1
    np.testing.assert_array_equal(table["RADIAL_SPLINE_VALUES"][0], VALUES)
    assert table["GRADIENT_Y"][0][0] == -2e-5
    assert table.meta["CALIBCLS"] == "lsst.ip.isr.FlatGradient"
    assert table.meta["flatGradient_VERSION"] == 1.0


@pytest.mark.parametrize("ending", [".yaml", ".ecsv"])
def test_uncertainties_that_a_format_cannot_hold_are_warned_of(tmp_path, caplog, estimates, ending):
    path = tmp_path / f"g{ending}"
    with caplog.at_level(logging.WARNING, logger="bayesflat"):
        replace(FULL, estimates=estimates).write(path)
    (record,) = caplog.records
    kind = ending[1:].upper()
    assert record.getMessage() == f"{path}: a file in {kind} holds the gradient alone; its uncertainties stay behind"
    assert FlatGradient.read(path).estimates is None


def test_without_uncertainties_nothing_is_warned_of(tmp_path, caplog, ending):
    with caplog.at_level(logging.WARNING, logger="bayesflat"):
        FULL.write(tmp_path / f"g{ending}")
    assert not caplog.records


# ---- whole or not at all ----


def test_failing_write_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"g{ending}"
    FULL.write(path)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError, yaml.representer.RepresenterError)):
        replace(FULL, metadata={"FILTER": object()}).write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_failing_write_leaves_nothing(tmp_path, ending):
    with pytest.raises((ValueError, TypeError, yaml.representer.RepresenterError)):
        replace(FULL, metadata={"FILTER": object()}).write(tmp_path / f"g{ending}")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "g.fits"
    FULL.write(path)
    before = path.read_bytes()
    written = fits.HDUList.writeto

    def interrupted(self, target, *args, **kwargs):
        written(self, target, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(fits.HDUList, "writeto", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(FULL, itl_ratio=2.0).write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["g.fits"]


def test_writing_over_an_old_file(tmp_path, ending):
    path = tmp_path / f"g{ending}"
    FULL.write(path)
    replace(FULL, itl_ratio=2.0).write(path)
    assert FlatGradient.read(path).itl_ratio == 2.0
