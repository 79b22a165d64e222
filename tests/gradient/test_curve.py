"""The log of the radial function as a B-spline: against SciPy's, and written out by hand beyond its knots."""

import numpy as np
import pytest
from scipy.interpolate import BSpline

from bayesflat.gradient.curve import LogSpline


def knots_over(edges):
    return np.concatenate([np.full(3, edges[0]), edges, np.full(3, edges[-1])])


# a spline that begins at the centre, one that does not, and one whose intervals are alike
SPLINES = {
    "centre": LogSpline(knots_over([0.0, 30.0, 70.0, 75.0, 200.0, 290.0, 301.0, 333.0, 350.0])),
    "hole": LogSpline(knots_over([40.0, 41.5, 90.0, 180.0, 260.0, 300.0])),
    "one piece": LogSpline(knots_over([0.0, 350.0])),
}


@pytest.fixture(params=list(SPLINES))
def spline(request):
    return SPLINES[request.param]


@pytest.fixture
def coefficients(spline, rng):
    return rng.normal(size=spline.size)


@pytest.fixture
def inside(spline, rng):
    """Radii within the outer knots, in no order, with the knots themselves."""
    first, last = spline.knots[0], spline.knots[-1]
    return rng.permutation(np.concatenate([rng.uniform(first, last, 300), np.unique(spline.knots)]))


def test_values_and_slopes_are_scipys(spline, coefficients, inside):
    expected = BSpline(spline.knots, coefficients, 3)
    steepest = np.abs(expected(inside, 1)).max()
    np.testing.assert_allclose(spline.evaluate(coefficients, inside), expected(inside), rtol=0, atol=1e-12)
    np.testing.assert_allclose(spline.slope(coefficients, inside), expected(inside, 1), rtol=0, atol=1e-11 * steepest)


def test_design_is_scipys(spline, inside):
    expected = BSpline.design_matrix(inside, spline.knots, 3).toarray()
    assert spline.size == expected.shape[1]
    np.testing.assert_allclose(spline.design(inside), expected, rtol=0, atol=1e-12)
    # four at each radius, and what the band leaves out is zero
    first, values, slopes = spline.basis(inside)
    assert values.shape == slopes.shape == (len(inside), 4)
    np.testing.assert_allclose(values, np.take_along_axis(expected, first[:, None] + np.arange(4), 1), atol=1e-12)
    np.testing.assert_allclose(values.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(slopes.sum(1), 0.0, atol=1e-11)


def test_it_goes_on_linearly_beyond_its_last_knot(spline, coefficients):
    last = spline.knots[-1]
    inner = BSpline(spline.knots, coefficients, 3)
    radius = last + np.array([0.0, 1e-9, 0.3, 20.0, 400.0])
    slope = inner(last, 1)
    np.testing.assert_allclose(spline.slope(coefficients, radius), slope, rtol=1e-10)
    np.testing.assert_allclose(spline.evaluate(coefficients, radius), inner(last) + slope * (radius - last), rtol=1e-10)
    np.testing.assert_allclose(spline.design(radius) @ coefficients, spline.evaluate(coefficients, radius), rtol=1e-10)


def test_it_goes_on_linearly_to_the_centre(coefficients, spline):
    first = spline.knots[0]
    inner = BSpline(spline.knots, coefficients, 3)
    radius = np.linspace(0.0, first, 7)
    slope = inner(first, 1)
    assert (len(np.unique(radius)) == 1) == (first == 0)  # where the knots begin at the centre there is nothing before
    np.testing.assert_allclose(spline.slope(coefficients, radius), slope, rtol=1e-10)
    expected = inner(first) + slope * (radius - first)
    np.testing.assert_allclose(spline.evaluate(coefficients, radius), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(spline.design(radius) @ coefficients, expected, rtol=1e-10, atol=1e-12)


def test_slopes_are_those_of_the_values(spline, coefficients):
    """By central differences, on both sides of the outer knots too."""
    step = 1e-4
    first, last = spline.knots[0], spline.knots[-1]
    at = np.concatenate([np.linspace(max(first - 30, 1.0), last + 30, 400), [first + step, last]])
    values = [spline.evaluate(coefficients, at + sign * step) for sign in (1, -1)]
    slopes = spline.slope(coefficients, at)
    np.testing.assert_allclose(slopes, (values[0] - values[1]) / (2 * step), rtol=0, atol=1e-4 * np.abs(slopes).max())


def test_radii_of_any_shape(spline, coefficients):
    radius = np.linspace(0, 1.1 * spline.knots[-1], 24)
    expected = spline.evaluate(coefficients, radius)
    np.testing.assert_array_equal(spline.evaluate(coefficients, radius.reshape(2, 3, 4)), expected.reshape(2, 3, 4))
    np.testing.assert_array_equal(
        spline.slope(coefficients, radius.reshape(4, 6)).ravel(), spline.slope(coefficients, radius)
    )
    assert spline.evaluate(coefficients, radius[5]).shape == ()
    assert spline.evaluate(coefficients, radius[5]) == expected[5]
    assert spline.evaluate(coefficients, np.empty(0)).shape == (0,)


def test_places_are_the_means_of_three_knots(spline):
    """Of the coefficients that are these radii, the spline is the radius itself (Marsden's identity)."""
    assert len(spline.places) == spline.size
    assert (spline.places[0], spline.places[-1]) == (spline.knots[0], spline.knots[-1])
    assert np.all(np.diff(spline.places) > 0)
    expected = [np.mean(spline.knots[k + 1 : k + 4]) for k in range(spline.size)]
    np.testing.assert_allclose(spline.places, expected, rtol=1e-14)
    radius = np.linspace(0.0, spline.knots[-1] + 50, 200)
    np.testing.assert_allclose(spline.evaluate(spline.places, radius), radius, rtol=1e-10, atol=1e-9)
    # as many places as coefficients, and they determine them
    assert np.linalg.cond(spline.design(spline.places)) < 1e3


def test_pieces_cover_all_radii(spline):
    breaks, first, powers = spline.pieces
    assert breaks[0] == 0.0
    assert breaks[-1] > 1e4
    assert np.all(np.diff(breaks) > 0)
    assert len(first) == len(powers) == len(breaks) - 1
    assert first.min() == 0
    assert first.max() == spline.size - 4
    # the outer ones are straight
    np.testing.assert_array_equal(powers[-1, 2:], 0.0)
    if spline.knots[0] > 0:
        np.testing.assert_array_equal(powers[0, 2:], 0.0)
