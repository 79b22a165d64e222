"""astropy at the door: lengths with units, tables with units, and files that are not replaced unasked."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from bayesflat.data.binned import BinnedFlat
from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from tests.helpers import message

NAMES = ("radial_spline_values[0]", "radial_spline_values[1]", "radial_spline_values[2]", "radial_spline_values[3]")
ESTIMATES = Estimates(
    NAMES, ("",) * 4, {key: np.zeros(4) for key in STATISTICS}, 1e-6 * np.eye(4), "laplace", True, False
)  # fmt: skip
GRADIENT = FlatGradient(
    [0.0, 100.0, 200.0, 300.0], [1.0, 0.99, 0.95, 0.8], itl_ratio=0.9, centroid_x=1.0, centroid_delta_x=0.5,
    gradient_x=1e-5, gradient_y=-2e-5, outer_gradient_radius=250.0, outer_gradient_x=3e-5,
    normalization_factor=7.0, estimates=ESTIMATES, metadata={"FILTER": "i_39"},
)  # fmt: skip
X, Y = np.array([0.0, 30.0, -260.0]), np.array([10.0, -150.0, 20.0])


@pytest.mark.parametrize("unit", [u.mm, u.m, u.um, u.imperial.inch])
def test_lengths_in_any_unit(unit):
    x, y = (X * u.mm).to(unit), (Y * u.mm).to(unit)
    radius = np.hypot(X, Y)
    for found, expected in (
        (GRADIENT.compute_radial((radius * u.mm).to(unit)), GRADIENT.compute_radial(radius)),
        (GRADIENT.compute_radial_sd((radius * u.mm).to(unit)), GRADIENT.compute_radial_sd(radius)),
        (GRADIENT.radius(x, y), np.hypot(X - 1.5, Y)),
        (GRADIENT.compute_plane(x, y), GRADIENT.compute_plane(X, Y)),
        (GRADIENT.compute_model(x, y, [True, False, True]), GRADIENT.compute_model(X, Y, [True, False, True])),
    ):
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_columns_with_and_without_a_unit():
    table = Table({"x": X / 10, "y": Y})
    table["x"].unit = "cm"
    np.testing.assert_allclose(GRADIENT.compute_plane(table["x"], table["y"]), GRADIENT.compute_plane(X, Y), rtol=1e-12)


@pytest.mark.parametrize("unit", [u.s, u.deg, u.dimensionless_unscaled, u.pix])
def test_what_is_no_length_is_refused(unit):
    text = message(GRADIENT.compute_radial, [1.0] * unit)
    assert text.startswith(f"radius is in {unit}" if str(unit) else "radius is in no unit")
    assert "it must be a length, or plain numbers, which are mm" in text
    assert message(GRADIENT.compute_plane, 1 * u.mm, 1 * unit).startswith("y is in")


def test_the_table_of_a_gradient_has_units():
    table = GRADIENT.to_table()
    assert isinstance(table, QTable)
    assert len(table) == 1
    assert table.meta["FILTER"] == "i_39"
    np.testing.assert_array_equal(table["RADIAL_SPLINE_NODES"][0].to_value("cm"), [0, 10, 20, 30])
    np.testing.assert_array_equal(table["RADIAL_SPLINE_VALUES"][0], GRADIENT.radial_spline_values)
    assert table["CENTROID_DELTA_X"][0, 0] == 0.5 * u.mm
    assert table["GRADIENT_Y"][0, 0] == -2e-5 / u.mm
    assert table["OUTER_GRADIENT_RADIUS"][0, 0] == 25 * u.cm
    assert table["ITL_RATIO"][0, 0] == 0.9


@pytest.mark.parametrize("ending", [".fits", ".ecsv"])
def test_files_have_units_and_read_as_before(tmp_path, ending):
    path = tmp_path / f"g{ending}"
    GRADIENT.write(path)
    table = QTable.read(path, **({"hdu": 1} if ending == ".fits" else {}))
    assert table["CENTROID_X"][0, 0] == 1.0 * u.mm
    assert table["OUTER_GRADIENT_X"][0, 0] == 3e-5 / u.mm
    found = FlatGradient.read(path)
    for name in ("centroid_x", "gradient_y", "outer_gradient_radius", "itl_ratio", "normalization_factor"):
        assert getattr(found, name) == getattr(GRADIENT, name)
    np.testing.assert_array_equal(found.radial_spline_nodes, GRADIENT.radial_spline_nodes)
    assert not [key for key in found.metadata if key.startswith("TUNIT")]
    if ending == ".fits":
        header = fits.getheader(path, 1)
        assert header["TUNIT1"] == "mm"
        assert "TUNIT2" not in header


def test_a_file_is_kept_where_it_may_not_be_replaced(tmp_path, small_camera):
    columns = {"xf": [0.0], "yf": [0.0], "value": [1.0], "detector": [12], "itl": [False], "n_pixels": [4]}
    binned = BinnedFlat.from_columns(columns, small_camera)
    for name, what in (("g.fits", GRADIENT), ("g.yaml", GRADIENT), ("b.fits", binned), ("c.ecsv", small_camera)):
        path = tmp_path / name
        path.write_text("mine")
        assert message(what.write, path, overwrite=False) == f"{path}: is there already; overwrite=True replaces it"
        assert path.read_text() == "mine"
        what.write(path, overwrite=True)
        assert path.read_bytes() != b"mine"
    table = QTable.read(tmp_path / "b.fits")
    assert (table["xf"].unit, table["n_pixels"].unit) == (u.mm, u.pix)
    assert BinnedFlat.read(tmp_path / "b.fits", small_camera).n_pixels.tolist() == [4]
