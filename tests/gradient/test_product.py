"""The product: its numbers against formulas written anew, and its files against LSST's layout."""

import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from scipy.interpolate import BSpline

from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from tests.helpers import message

NODES = [0.0, 100.0, 200.0, 250.0, 300.0, 325.0, 350.0]
VALUES = [1.0, 0.99, 0.98, 0.97, 0.93, 0.79, 0.5]
METADATA = {
    "INSTRUME": "LSSTCam",
    "FILTER": "i_39",
    "CALIB_ID": "instrument=LSSTCam filter=i_39 calibDate=2025-11-03T10:20:30.123456",
    "CALIBDATE": "2025-11-03T10:20:30.123456",
    "CALIB_CREATION_DATE": "2025-11-03",
    "CALIB_CREATION_TIME": "10:20:30.123456",
}
SCALARS = {
    "itl_ratio": 0.9512345678901234,
    "centroid_x": 3.0,
    "centroid_y": -2.0,
    "centroid_delta_x": 0.8,
    "centroid_delta_y": -0.5,
    "gradient_x": 3e-5,
    "gradient_y": -2e-5,
    "outer_gradient_x": 1e-5,
    "outer_gradient_y": 4e-5,
    "outer_gradient_radius": 320.0,
    "normalization_factor": 20123.456789012345,
}
FULL = FlatGradient(NODES, VALUES, **SCALARS, metadata=METADATA)
COLUMNS = [
    "RADIAL_SPLINE_NODES",
    "RADIAL_SPLINE_VALUES",
    "ITL_RATIO",
    "CENTROID_X",
    "CENTROID_Y",
    "CENTROID_DELTA_X",
    "CENTROID_DELTA_Y",
    "GRADIENT_X",
    "GRADIENT_Y",
    "NORMALIZATION_FACTOR",
    "OUTER_GRADIENT_X",
    "OUTER_GRADIENT_Y",
    "OUTER_GRADIENT_RADIUS",
]
YAML_KEYS = [
    "metadata",
    "radialSplineNodes",
    "radialSplineValues",
    "itlRatio",
    "centroidX",
    "centroidY",
    "centroidDeltaX",
    "centroidDeltaY",
    "gradientX",
    "gradientY",
    "normalizationFactor",
    "outerGradientX",
    "outerGradientY",
    "outerGradientRadius",
]
EMPTY = ["DETECTOR", "DET_NAME", "DET_SER", "RAFTNAME", "SLOTNAME", "SEQFILE", "SEQNAME", "SEQCKSUM"]


def akima(nodes, values, r):
    """Akima's spline at one radius: his weighted slopes at the nodes, a cubic between them."""
    x, y = np.array(nodes), np.array(values)
    m = list(np.diff(y) / np.diff(x))
    # two slopes more at either end, each as far from its neighbour as that one is from its own
    m = [3 * m[0] - 2 * m[1], 2 * m[0] - m[1], *m, 2 * m[-1] - m[-2], 3 * m[-1] - 2 * m[-2]]

    def slope(i):
        before, after = abs(m[i + 1] - m[i]), abs(m[i + 3] - m[i + 2])
        return (after * m[i + 1] + before * m[i + 2]) / (after + before)

    r = min(max(r, x[0]), x[-1])
    i = min(int(np.searchsorted(x, r, side="right")) - 1, len(x) - 2)
    h = x[i + 1] - x[i]
    t = (r - x[i]) / h
    return (
        (1 + 2 * t) * (1 - t) ** 2 * y[i]
        + t * (1 - t) ** 2 * h * slope(i)
        + t**2 * (3 - 2 * t) * y[i + 1]
        + t**2 * (t - 1) * h * slope(i + 1)
    )


def assert_same(a, b):
    """The same values exactly."""
    for name in ("radial_spline_nodes", "radial_spline_values", *SCALARS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture(params=[".fits", ".yaml", ".ecsv"])
def ending(request):
    return request.param


@pytest.fixture
def estimates():
    names = [f"radial_spline_values[{i}]" for i in range(len(NODES))]
    names += ["itl_ratio", "centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y"]
    names += ["outer_gradient_x", "outer_gradient_y", "log_noise_scale"]
    n = len(names)
    rng = np.random.default_rng(1)
    columns = {key: rng.normal(size=n) for key in STATISTICS}
    for key in ("ess_bulk", "ess_tail", "r_hat"):
        columns[key] = np.full(n, np.nan)
    root = rng.normal(size=(n, n))
    units = [""] * (len(NODES) + 1) + ["mm"] * 2 + ["1/mm"] * 4 + [""]
    header = {"SEED": (17, "seed"), "LOGPOST": (-12.5, "log-posterior"), "GRADNORM": (np.nan, "gradient norm")}
    return Estimates(tuple(names), tuple(units), columns, root @ root.T, "laplace", True, False, header)


KNOTS = np.r_[[0.0] * 3, [0.0, 80.0, 160.0, 240.0, 280.0, 310.0, 330.0, 355.0], [355.0] * 3]
N_KNOTS = len(KNOTS) - 4


@pytest.fixture
def curved(estimates):
    """A product with a fitted curve: rows of the log of the radial function stand last, correlated with all others."""
    rng = np.random.default_rng(8)
    places = np.clip((KNOTS[1:-3] + KNOTS[2:-2] + KNOTS[3:-1]) / 3, 0, 355)
    best = np.log(np.interp(places, NODES, VALUES))
    n = len(estimates.names) + N_KNOTS
    root = 1e-3 * rng.normal(size=(n, n))
    columns = {key: np.append(column, np.full(N_KNOTS, np.nan)) for key, column in estimates.columns.items()}
    columns["map"][-N_KNOTS:] = best
    columns["mean"][-N_KNOTS:] = best + 1e-3
    with_curve = Estimates(
        (*estimates.names, *(f"log_radial[{k}]" for k in range(N_KNOTS))), (*estimates.units, *[""] * N_KNOTS), columns,
        root @ root.T, "laplace", True, False, {"RADIUSMX": (352.5, "largest radius of a bin (mm)")},
    )  # fmt: skip
    return replace(FULL, estimates=with_curve, knots=KNOTS)


# ---- evaluation ----


def test_radial_function_is_akimas_spline():
    radii = np.array([0, 3.3, 50, 100, 199.9, 200, 260, 299, 301.5, 324, 325, 349.99, 350])
    expected = [akima(NODES, VALUES, r) for r in radii]
    np.testing.assert_allclose(FULL.compute_radial(radii), expected, rtol=1e-13)
    # at the nodes the values themselves
    np.testing.assert_allclose(FULL.compute_radial(NODES), VALUES, rtol=1e-14)


def test_akima_is_not_a_natural_spline():
    # a step does not ring beyond the neighbouring intervals: Akima's mark
    gradient = FlatGradient(np.arange(8.0), [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(gradient.compute_radial([0.5, 1.5, 5.5, 6.5]), [1, 1, 0, 0])
    # in its middle the cubic with slope 0 at both sides is halfway
    assert gradient.compute_radial(3.5) == pytest.approx(0.5, abs=1e-15)


def test_radius_is_clipped_to_the_nodes():
    inner = FlatGradient([10.0, 20.0, 30.0, 40.0], [0.9, 0.8, 0.5, 0.2])
    np.testing.assert_allclose(inner.compute_radial([0.0, 9.99, 40.01, 1e4]), [0.9, 0.9, 0.2, 0.2], rtol=1e-14)
    # by position, too: (800, 0) is far beyond the last node
    assert FULL.compute_radial(FULL.radius(800.0, 0.0)) == pytest.approx(0.5, rel=1e-14)


def test_model_by_hand():
    # inside the outer radius: dx, dy from the pivot (3, -2) are 30 and 40; from the moved centre 29.2 and 40.5
    x, y = 33.0, 38.0
    radius = (29.2**2 + 40.5**2) ** 0.5
    plane = 1 + 3e-5 * 30 - 2e-5 * 40
    rest = akima(NODES, VALUES, radius) / plane
    assert FULL.radius(x, y) == pytest.approx(radius, rel=1e-15)
    assert FULL.compute_plane(x, y) == pytest.approx(plane, rel=1e-15)
    assert FULL.compute_model(x, y, False) == pytest.approx(rest, rel=1e-13)
    assert FULL.compute_model(x, y, True) == pytest.approx(rest * SCALARS["itl_ratio"], rel=1e-13)


def test_model_by_hand_beyond_the_outer_radius():
    # dx, dy from the pivot are -198 and 264: 330 mm
    x, y = 3.0 - 198, -2.0 + 264
    plane = (1 + 3e-5 * -198 - 2e-5 * 264) * (1 + 1e-5 * -198 + 4e-5 * 264)
    radial = akima(NODES, VALUES, np.hypot(-198 - 0.8, 264 + 0.5))
    assert FULL.compute_plane(x, y) == pytest.approx(plane, rel=1e-15)
    assert FULL.compute_model(x, y, False) == pytest.approx(radial / plane, rel=1e-13)


def test_model_of_arrays():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-400, 400, (2, 50, 3))
    itl = rng.random((50, 3)) < 0.4
    expected = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        dx, dy = x[at] - 3, y[at] + 2
        value = akima(NODES, VALUES, ((dx - 0.8) ** 2 + (dy + 0.5) ** 2) ** 0.5)
        value *= SCALARS["itl_ratio"] if itl[at] else 1
        value /= 1 + 3e-5 * dx - 2e-5 * dy
        value /= 1 + 1e-5 * dx + 4e-5 * dy if dx**2 + dy**2 >= 320**2 else 1
        expected[at] = value
    np.testing.assert_allclose(FULL.compute_model(x, y, itl), expected, rtol=1e-12)


def test_outer_plane_begins_at_its_radius_from_the_fixed_pivot():
    gradient = replace(FULL, gradient_x=0.0, gradient_y=0.0, outer_gradient_radius=325.0)
    # exactly 325 mm from the pivot: 125, 300 and 325 are a right triangle
    assert gradient.compute_plane(3.0 + 125, -2.0 + 300) == 1 + 1e-5 * 125 + 4e-5 * 300
    assert gradient.compute_plane(3.0 + 125, np.nextafter(298, 0)) == 1
    # the moved centre would put this one at 325.8 mm: it is inside all the same
    assert gradient.compute_plane(3.0 - 324.99, -2.0) == 1
    moved = replace(gradient, centroid_delta_x=8.0)
    x, y = np.random.default_rng(2).uniform(-350, 350, (2, 1000))
    np.testing.assert_array_equal(moved.compute_plane(x, y), gradient.compute_plane(x, y))


def test_centroid_moves_the_radial_function_alone():
    moved = replace(FULL, centroid_delta_x=5.8, centroid_delta_y=-7.5)
    x, y = np.random.default_rng(3).uniform(-250, 250, (2, 500))
    np.testing.assert_array_equal(moved.compute_plane(x, y), FULL.compute_plane(x, y))
    # 5 mm in x, -7 mm in y: the same radial function there
    np.testing.assert_allclose(moved.radius(x + 5, y - 7), FULL.radius(x, y), rtol=1e-13)
    assert not np.allclose(moved.compute_model(x, y, False), FULL.compute_model(x, y, False))


def test_pivot_moves_everything():
    moved = replace(FULL, centroid_x=13.0, centroid_y=8.0)
    x, y = np.random.default_rng(4).uniform(-250, 250, (2, 500))
    np.testing.assert_allclose(moved.compute_model(x + 10, y + 10, True), FULL.compute_model(x, y, True), rtol=1e-12)


def test_plane_is_one_at_the_pivot():
    assert FULL.compute_plane(3.0, -2.0) == 1
    assert FULL.compute_model(3.8, -2.5, False) == pytest.approx(1 / (1 + 3e-5 * 0.8 + 2e-5 * 0.5), rel=1e-14)


def test_normalization_does_not_enter():
    x, y = np.random.default_rng(5).uniform(-350, 350, (2, 100))
    other = replace(FULL, normalization_factor=1.0)
    np.testing.assert_array_equal(other.compute_model(x, y, True), FULL.compute_model(x, y, True))


def test_defaults_do_nothing():
    plain = FlatGradient(NODES, VALUES)
    x, y = np.random.default_rng(6).uniform(-350, 350, (2, 100))
    np.testing.assert_array_equal(plain.compute_plane(x, y), 1)
    np.testing.assert_array_equal(plain.compute_model(x, y, True), plain.compute_model(x, y, False))
    assert (plain.instrument, plain.physical_filter) == ("", "")


def test_nodes_and_values_are_copies():
    nodes = np.array(NODES)
    gradient = FlatGradient(nodes, VALUES)
    nodes[0] = 5
    assert gradient.radial_spline_nodes[0] == 0


def test_as_many_values_as_nodes():
    with pytest.raises(ValueError, match=r"^7 spline nodes but 6 values; they must be equal in number$"):
        FlatGradient(NODES, VALUES[:-1])


def test_rows_of_estimates(estimates):
    row = estimates["centroid_delta_y"]
    assert list(row) == list(STATISTICS)
    assert row["sd"] == estimates.columns["sd"][len(NODES) + 2]
    with pytest.raises(KeyError, match="no parameter 'centroid'; there are radial_spline_values"):
        estimates["centroid"]


# ---- the fitted curve ----


def test_curve_is_in_the_last_rows_of_the_estimates(curved):
    curve = curved.curve
    np.testing.assert_array_equal(curve.spline.knots, KNOTS)
    np.testing.assert_array_equal(curve.best, curved.estimates.columns["map"][-N_KNOTS:])
    np.testing.assert_array_equal(curve.mean, curve.best + 1e-3)
    np.testing.assert_array_equal(curve.covariance, curved.estimates.covariance[-N_KNOTS:, -N_KNOTS:])


@pytest.mark.parametrize("without", ["knots", "estimates"])
def test_no_curve_without_knots_or_estimates(curved, without):
    assert replace(curved, **{without: None}).curve is None


def test_sd_is_that_of_the_curve(curved):
    """R sqrt(B C B'), with SciPy's B-splines; the radial function itself is Akima's spline of the nodes."""
    radius = np.array([[0.0, 3.0, 120.0], [299.0, 341.0, 349.0]])
    basis = BSpline.design_matrix(radius.ravel(), KNOTS, 3).toarray()
    of_log = np.sqrt(np.diag(basis @ curved.estimates.covariance[-N_KNOTS:, -N_KNOTS:] @ basis.T)).reshape(2, 3)
    found = curved.compute_radial_sd(radius)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, FULL.compute_radial(radius) * of_log, rtol=1e-9)
    assert curved.compute_radial_sd(120.0) == pytest.approx(found[0, 2], rel=1e-12)


def test_without_a_curve_sd_is_that_of_the_values(curved):
    """As in a product of an earlier version: by differences of Akima's spline, each at two steps (Richardson)."""
    # values none of whose slopes are alike, where his weights have kinks
    values = np.array([1.0, 0.995, 0.98, 0.965, 0.93, 0.79, 0.5])
    old = replace(curved, knots=None, radial_spline_values=values)
    radius = np.array([0.0, 50.0, 199.0, 262.0, 317.0, 350.0])
    basis = np.empty((len(radius), len(values)))
    for k in range(len(values)):
        slopes = []
        for step in (2e-6, 1e-6):
            change = step * (np.arange(len(values)) == k)
            up, down = ([akima(NODES, values + sign * change, r) for r in radius] for sign in (1, -1))
            slopes.append((np.array(up) - np.array(down)) / (2 * step))
        basis[:, k] = (4 * slopes[1] - slopes[0]) / 3
    covariance = old.estimates.covariance[: len(values), : len(values)]
    expected = np.sqrt(np.diag(basis @ covariance @ basis.T))
    np.testing.assert_allclose(old.compute_radial_sd(radius), expected, rtol=1e-5)


@pytest.mark.parametrize(("last", "reach"), [(350.0, 350.0), (340.0, 340.0), (360.0, 352.5)])
def test_reach_ends_with_the_nodes_or_the_bins(curved, last, reach):
    """Whichever ends first; the knots go on and say nothing."""
    assert replace(curved, radial_spline_nodes=[*NODES[:-1], last]).reach == reach


# ---- files ----


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


# ---- imports ----


def test_import_is_light(tmp_path):
    path = tmp_path / "g.fits"
    FULL.write(path)
    code = (
        "import sys, bayesflat.gradient.product as g\n"
        "heavy = lambda: [m for m in ('pymc', 'pytensor', 'matplotlib', 'arviz', 'numba') if m in sys.modules]\n"
        "assert not heavy(), heavy()\n"
        "assert 'astropy' not in sys.modules and 'scipy' not in sys.modules\n"
        f"print(g.FlatGradient.read({str(path)!r}).compute_plane(3.0, -102.0))\n"
        "assert not heavy(), heavy()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert float(done.stdout) == 1 + 2e-5 * 100
