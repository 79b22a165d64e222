"""The product: its numbers against formulas written anew."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BSpline

from bayesflat.gradient.estimates import STATISTICS
from bayesflat.gradient.product import FlatGradient
from tests.gradient.products import FULL, KNOTS, N_KNOTS, NODES, SCALARS, VALUES, akima


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
