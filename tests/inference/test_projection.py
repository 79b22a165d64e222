"""Nodes that describe a curve: the least misfit, its derivatives, and where automatic nodes lie."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator, make_lsq_spline
from scipy.optimize import least_squares

from bayesflat.config import FitConfig
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.spline import spread_knots
from bayesflat.inference.projection import CLEAR, MOST, Curve, fit_nodes, place_nodes, project
from bayesflat.quantities import MMAG
from bayesflat.simulation.truth import default_light

OUTER = 355.0
RIDGE = 1e-7  # which keeps values that no bin feels on the curve
GIVEN = np.array([0.0, 100, 180, 230, 260, 280, 295, 305, 312, 319, 326, 335, 345, 365])


def curve_through(function, outer, covariance=None, intervals=160):
    """A curve that follows a radial function closely, and bins all over a disc."""
    knots = spread_knots(0.0, outer + 2.0, intervals, 20 * intervals)
    at = np.linspace(0.0, outer + 2.0, 4000)
    spline = LogSpline(knots)
    coefficients = make_lsq_spline(at, np.log(function(at)), knots).c
    radius = np.sqrt(np.linspace(1e-6, 1.0, 40_000)) * outer
    return Curve.of_bins(spline, coefficients, radius, np.ones(len(radius)), covariance)


@pytest.fixture(scope="module")
def lsst():
    """LSSTCam's vignetting."""
    return curve_through(default_light("sky").radial_function, OUTER)


def moved(curve, change):
    return replace(curve, coefficients=curve.coefficients + change)


def misfit_by_hand(found, curve, radius):
    """Akima's spline by SciPy over the curve, less 1 (mmag)."""
    spline = Akima1DInterpolator(found.nodes, found.values)
    return 2500 / np.log(10) * (spline(radius) / np.exp(curve.spline.evaluate(curve.coefficients, radius)) - 1)


def cost_by_hand(nodes, values, curve, held=False):
    """Akima's spline over the curve, less 1, at the bins: the sum of squares is the mean one, and that of a ridge."""
    values = np.append(values, 0.0) if held else values
    off = Akima1DInterpolator(nodes, values)(curve.radius) / curve(curve.radius) - 1
    free = slice(None, -1) if held else slice(None)
    away = values[free] / curve(nodes[free]) - 1
    return np.concatenate([np.sqrt(curve.weight / curve.weight.sum()) * off, RIDGE**0.5 * away])


@pytest.mark.parametrize("held", [False, True])
def test_misfit_is_the_least(lsst, rng, held):
    """SciPy's least squares from there gain nothing, and no perturbation does; the last value is held at 0."""
    nodes = np.append(GIVEN[:-1], [358.0, 372.0, 390.0, 420.0]) if held else GIVEN
    found = fit_nodes(lsst, nodes, held)
    free = found.values[:-1] if held else found.values
    assert (found.values[-1] == 0) == held
    best = np.sum(cost_by_hand(nodes, free, lsst, held) ** 2)
    felt = nodes[: len(free)] < 373  # values farther out change no bin
    for _ in range(30):
        direction = np.where(felt, rng.normal(size=len(free)), 0.0)
        for step in (1e-3, 1e-2):
            assert np.sum(cost_by_hand(nodes, free + step * direction, lsst, held) ** 2) > best
    theirs = least_squares(lambda v: cost_by_hand(nodes, v, lsst, held), free, x_scale=free, max_nfev=60)
    assert 2 * theirs.cost > best * (1 - 1e-3)
    np.testing.assert_allclose(found.misfit, misfit_by_hand(found, lsst, lsst.radius), atol=1e-8)


def test_values_are_the_curves_where_the_spline_can_follow_it():
    """Of a gentle curve and many nodes; a node that no bin feels lies on the curve."""
    gentle = curve_through(lambda r: 1.1 - 0.3 * (r / 355) ** 2, OUTER)
    nodes = np.append(np.linspace(0.0, 360.0, 25), [380.0, 400.0, 420.0])
    found = fit_nodes(gentle, nodes)
    within = nodes <= OUTER
    np.testing.assert_allclose(found.values[within], gentle(nodes[within]), rtol=1e-4)
    assert found.values[-1] == pytest.approx(gentle(nodes[-1:])[0], rel=1e-5)


def test_derivatives_are_those_of_refitted_values(lsst, rng):
    """Of values by each coefficient, and by relative changes of the curve.

    They leave out how the misfit, of 0.1 mmag, bends the cost: some per cent of the largest where the curve is flat.
    """
    placed = place_nodes(lsst)
    found = placed.by_coefficients(lsst.spline)
    step, off = 1e-6, []
    for k in rng.choice(lsst.spline.size, 25, replace=False):
        change = step * np.eye(lsst.spline.size)[k]
        up, down = (fit_nodes(moved(lsst, s * change), placed.nodes).values for s in (1, -1))
        expected = (up - down) / (2 * step)
        off.append((found[:, k] - expected) / np.abs(expected).max())
    assert np.abs(off).max() < 0.1
    assert np.sqrt(np.mean(np.square(off))) < 0.01
    coefficients = lsst.coefficients + rng.normal(0, 1e-5, (3, lsst.spline.size))
    drawn = placed.of_draws(lsst.spline, coefficients)
    for one, values in zip(coefficients, drawn, strict=True):
        expected = fit_nodes(replace(lsst, coefficients=one), placed.nodes).values
        np.testing.assert_allclose(values - placed.values, expected - placed.values, atol=0.2 * 1e-5)
    # a change of the level is one of all values
    np.testing.assert_allclose(found.sum(axis=1), placed.values, rtol=2e-3)


@pytest.mark.parametrize("nodes", ["auto", GIVEN.tolist()], ids=["auto", "given"])
@pytest.mark.parametrize("constrained", [False, True])
def test_twice_the_curve_gives_twice_the_values(lsst, nodes, constrained):
    config = FitConfig(radial_spline_nodes=nodes, do_constrain_zero=constrained)
    one, two = project(lsst, config), project(moved(lsst, np.log(2.0)), config)
    np.testing.assert_array_equal(two.nodes, one.nodes)
    np.testing.assert_allclose(two.values, 2 * one.values, rtol=1e-7)
    np.testing.assert_allclose(two.misfit, one.misfit, atol=1e-4)


@pytest.mark.parametrize("constrained", [False, True])
def test_automatic_nodes_follow_lsstcams_vignetting(lsst, constrained):
    """To 0.1 mmag at nearly all bins, with few nodes; one lies beyond the outermost bin.

    At the rim the light has kinks, and nodes keep some distance from each other.
    """
    found = place_nodes(lsst, constrained)
    assert len(found.nodes) <= MOST == 80
    assert np.all(np.diff(found.nodes) > 0)
    assert found.nodes[0] == 0.0
    assert np.sum(found.nodes > OUTER) == (4 if constrained else 1)
    assert found.nodes[found.nodes > OUTER][0] < OUTER + 2.5
    misfit = np.abs(misfit_by_hand(found, lsst, lsst.radius))
    assert lsst.weight[misfit > 0.1].sum() < 0.01 * lsst.weight.sum()
    assert misfit.max() < 0.25
    assert (found.values[-1] == 0) == constrained
    assert np.all(found.values[:-1] > 0)
    # most of them where the light falls
    assert np.sum(found.nodes > 290) > 0.5 * len(found.nodes)


def test_automatic_nodes_follow_no_closer_than_the_curve_is_known(lsst, rng):
    """Within 0.3 of its sd relative to its level, by hand; the larger it is, the fewer nodes there are."""
    root = rng.normal(size=(lsst.spline.size, lsst.spline.size)) / lsst.spline.size**0.5
    numbers = [len(place_nodes(lsst).nodes)]
    for sd in (1e-3, 1e-2):
        covariance = sd**2 * root @ root.T
        known = curve_through(default_light("sky").radial_function, OUTER, covariance)
        rows = known.spline.design(known.radius)
        rows -= np.average(rows, axis=0, weights=known.weight)
        expected = MMAG * np.sqrt(np.diag(rows @ covariance @ rows.T))
        np.testing.assert_allclose(known.sd, expected, rtol=1e-6)
        found = place_nodes(known)
        misfit = misfit_by_hand(found, known, known.radius)
        assert np.all(np.abs(misfit) < 1.001 * np.maximum(0.1, 0.3 * expected))
        numbers.append(len(found.nodes))
    assert numbers[0] > numbers[1] > numbers[2]


def test_the_level_is_no_matter_of_nodes(lsst):
    """What scales all of the curve alike is not in its sd."""
    covariance = 0.1**2 * np.ones((lsst.spline.size, lsst.spline.size))
    known = curve_through(default_light("sky").radial_function, OUTER, covariance)
    np.testing.assert_allclose(known.sd, 0.0, atol=1e-3)
    np.testing.assert_array_equal(place_nodes(known).nodes, place_nodes(lsst).nodes)


@pytest.mark.parametrize("constrained", [False, True])
def test_placed_nodes_as_a_list_give_the_same(lsst, constrained):
    config = FitConfig(do_constrain_zero=constrained)
    one = project(lsst, config)
    other = project(lsst, config.replace(radial_spline_nodes=one.nodes.tolist()))
    np.testing.assert_allclose(other.values, one.values, rtol=1e-12)
    np.testing.assert_allclose(other.gain, one.gain, rtol=1e-12, atol=1e-15)


def test_values_that_are_held_do_not_change_with_the_curve(lsst):
    found = place_nodes(lsst, constrained=True)
    np.testing.assert_array_equal(found.by_coefficients(lsst.spline)[-1], 0.0)
    assert np.abs(found.by_coefficients(lsst.spline)[:-1]).max(axis=1).min() > 1e-3


@pytest.mark.parametrize("held", [False, True])
def test_nodes_that_end_within_the_bins(lsst, held):
    """Bins farther out do not count; a value that is held at 0 there cannot follow, and it is said where."""
    nodes = np.array([0.0, 100, 180, 230, 260, 280, 300])
    found = fit_nodes(lsst, nodes, held)
    within = lsst.radius <= 300
    inner = replace(lsst, radius=lsst.radius[within], weight=lsst.weight[within], sd=lsst.sd[within])
    np.testing.assert_allclose(found.values, fit_nodes(inner, nodes, held).values, rtol=1e-12)
    assert found.radius.max() <= 300
    if held:
        assert found.values[-1] == 0
        assert found.worst[0] > 900  # nothing is left of the light there
        assert found.worst[1] > 299
    else:
        np.testing.assert_allclose(found.values, lsst(nodes), rtol=0.01)


def test_a_clear_misfit_is_warned_of(lsst, caplog):
    """By its size and its radius, as they are by hand."""
    config = FitConfig(radial_spline_nodes=[0.0, 150, 250, 300, 330, 345, 370])
    found = project(lsst, config)
    (text,) = [record.getMessage() for record in caplog.records]
    misfit = np.abs(misfit_by_hand(found, lsst, lsst.radius))
    assert misfit.max() > CLEAR
    assert f"through 7 nodes misses the fitted radial function by {misfit.max():.2g} mmag at" in text
    assert f" {lsst.radius[misfit.argmax()]:.0f} mm;" in text
    assert text.startswith("radial_spline_nodes: ")
    assert '"auto" places nodes' in text


def test_a_misfit_that_errors_hide_is_not_warned_of(lsst, rng, caplog):
    """0.3 of the curve's sd is beyond the same nodes' misfit if the curve is hardly known."""
    root = rng.normal(size=(lsst.spline.size, lsst.spline.size)) / lsst.spline.size**0.5
    unknown = curve_through(default_light("sky").radial_function, OUTER, 0.3**2 * root @ root.T)
    config = FitConfig(radial_spline_nodes=[0.0, 150, 250, 300, 330, 345, 370])
    assert np.all(0.3 * unknown.sd > np.abs(misfit_by_hand(project(lsst, config), lsst, lsst.radius)))
    caplog.clear()
    project(unknown, config)
    assert not caplog.records


def test_automatic_nodes_that_run_out_are_warned_of(caplog):
    """Light in rings 3 mm wide would need a node a mm; the advice to place nodes automatically would not help."""
    rings = curve_through(lambda r: 1.0 + 0.05 * np.sin(2 * np.pi * r / 6.0), OUTER, intervals=600)
    found = project(rings, FitConfig())
    assert len(found.nodes) == MOST
    (text,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    misfit = np.abs(misfit_by_hand(found, rings, rings.radius))
    assert text.endswith(f"by {misfit.max():.2g} mmag at {rings.radius[misfit.argmax()]:.0f} mm")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([*GIVEN[:-2], 350.0], "radial_spline_nodes end at 350 mm and bins at 355.0 mm: the product's radial function "
         "is constant from there on"),
        (GIVEN[1:], "radial_spline_nodes begin at 100 mm and bins at 0.4 mm: the product's radial function is constant "
         "up to there"),
        (GIVEN, None),
    ],
    ids=["end", "begin", "hold all"],
)  # fmt: skip
def test_bins_outside_given_nodes_are_warned_of(lsst, caplog, nodes, said):
    project(lsst, FitConfig(radial_spline_nodes=list(nodes)))
    ends = [r.getMessage() for r in caplog.records if "constant" in r.getMessage()]
    assert ends == ([said] if said else [])


@pytest.mark.parametrize(("outer", "end"), [(12.0, 22.0), (30.0, 45.0)])
def test_light_that_hardly_falls_ends_near_a_small_camera(outer, end):
    """At 1.5 of the outermost radius, and 10 mm beyond it at least."""
    flat = curve_through(lambda r: 1.0 - 1e-5 * r, outer, intervals=20)
    assert place_nodes(flat, constrained=True).nodes[-1] == pytest.approx(end, abs=0.1)


def test_a_small_misfit_is_not_warned_of(lsst, caplog):
    placed = place_nodes(lsst)
    with caplog.at_level(logging.WARNING, "bayesflat"):
        project(lsst, FitConfig(radial_spline_nodes=placed.nodes.tolist()))
        project(lsst, FitConfig())
    assert not caplog.records
