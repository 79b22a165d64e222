"""The prior of the radial function and its B-spline in PyTensor, against NumPy, SciPy and draws."""

from dataclasses import replace

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy.interpolate import BSpline, make_interp_spline
from scipy.stats import multivariate_normal

from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.spline import spread_knots
from bayesflat.inference.map import PLAIN
from bayesflat.model.build import build_model
from bayesflat.model.parameters import mean_parameters
from bayesflat.model.prepare import prepare
from bayesflat.model.radial import SIGMA_LOG_RADIAL, RadialPrior, log_spline, second_derivative
from bayesflat.model.start import estimate
from tests.helpers import CENTROID_AND_PLANE, hierarchical_config, small_flat, with_radial


def a_prior(first=0.0, seed=1):
    """A prior that is as uneven as can be: knots by area, variances over four orders of magnitude."""
    rng = np.random.default_rng(seed)
    spline = LogSpline(spread_knots(first, 62.0, 12, 300))
    return RadialPrior(spline, rng.normal(-0.3, 0.2, spline.size), 10 ** rng.uniform(-8, -4, spline.size - 2))


@pytest.mark.parametrize("first", [0.0, 7.0])
def test_spline_in_pytensor_is_that_of_numpy(rng, first):
    """Values, and gradients by coefficients and radii; before the first knot and beyond the last one, too."""
    spline = a_prior(first).spline
    coefficients = rng.normal(size=spline.size)
    radius = np.concatenate([rng.uniform(0, 80, 300), spline.knots[3:-3], [0.0, 200.0]])
    weight = rng.normal(size=len(radius))
    c, r = pt.dvector(), pt.dvector()
    out = log_spline(spline, c, r)
    total = pt.sum(weight * out)
    function = pytensor.function([c, r], [out, pytensor.grad(total, c), pytensor.grad(total, r)], mode=PLAIN)
    found, by_coefficients, by_radius = function(coefficients, radius)
    np.testing.assert_allclose(found, spline.evaluate(coefficients, radius), atol=1e-12)
    inside = (radius >= first) & (radius <= 62.0)
    np.testing.assert_allclose(found[inside], BSpline(spline.knots, coefficients, 3)(radius[inside]), atol=1e-11)
    np.testing.assert_allclose(by_coefficients, weight @ spline.design(radius), atol=1e-10)
    smooth = np.min(np.abs(radius[:, None] - spline.knots), axis=1) > 1e-3
    for k, shift in ((300, 1e-5),):
        up, down = (spline.evaluate(coefficients, radius + s) for s in (shift, -shift))
        expected = weight * (up - down) / (2 * shift)
        np.testing.assert_allclose(by_radius[:k][smooth[:k]], expected[:k][smooth[:k]], atol=1e-6)


def test_second_derivative_is_exact_for_parabolas(rng):
    """On uneven points; of a cubic it is that at the mean of the three points."""
    radius = np.sort(rng.uniform(0, 60, 15))
    operator = second_derivative(radius)
    np.testing.assert_allclose(operator @ (2.0 - 0.3 * radius + 0.7 * radius**2), 1.4, rtol=1e-8)
    middle = (radius[:-2] + radius[1:-1] + radius[2:]) / 3
    np.testing.assert_allclose(operator @ radius**3, 6 * middle, rtol=1e-8)


def square_by_hand(prior, coefficients):
    """Sum of squares of the second derivatives and of the coefficients, each over its own variance."""
    at = prior.spline.places
    values = BSpline(prior.spline.knots, coefficients, 3)(at)
    total = np.sum((coefficients - prior.mean) ** 2) / SIGMA_LOG_RADIAL**2
    for k in range(1, len(at) - 1):
        before, after = at[k] - at[k - 1], at[k + 1] - at[k]
        bend = 2 * (values[k - 1] / before / (before + after) - values[k] / before / after)
        bend += 2 * values[k + 1] / after / (before + after)
        total += bend**2 / prior.bending[k - 1]
    return total


def log_density_by_hand(prior, coefficients):
    """Complete the square about its least value; the normalisation is from the curvature by differences."""
    n = prior.spline.size
    zero = square_by_hand(prior, np.zeros(n))
    axes = np.eye(n)
    single = np.array([square_by_hand(prior, a) for a in axes])
    curvature = np.array(
        [[square_by_hand(prior, a + b) - single[i] - single[j] + zero for j, b in enumerate(axes)]
         for i, a in enumerate(axes)]
    ) / 2  # fmt: skip
    slope = single - zero - np.diag(curvature)
    least = np.linalg.solve(curvature, -slope / 2)
    square = square_by_hand(prior, coefficients) - square_by_hand(prior, least)
    return 0.5 * (np.linalg.slogdet(curvature)[1] - n * np.log(2 * np.pi) - square)


@pytest.fixture
def parameter(small_camera, rng):
    """The parameter as the model makes it, and its prior."""
    config = hierarchical_config(**CENTROID_AND_PLANE)
    data = with_radial(prepare(small_flat(small_camera, rng), config))
    return mean_parameters(data, config, estimate(data, config))[0], data, config


def test_log_density_is_the_one_by_hand(parameter, rng):
    """Of PyMC, of `Parameter.log_prior`, and of `Parameter.pull` but for a constant."""
    one, data, config = parameter
    prior = data.radial
    with build_model(data, config) as model:
        pass
    value = model.rvs_to_values[model["log_radial"]]
    density = pytensor.function([value], model.logp(vars=[model["log_radial"]], jacobian=False), mode=PLAIN)
    pulls = []
    for _ in range(4):
        coefficients = prior.mean + rng.normal(0, 0.02, prior.spline.size)
        expected = log_density_by_hand(prior, coefficients)
        assert float(one.log_prior(coefficients)) == pytest.approx(expected, rel=1e-7)
        assert float(density(one.to_value(coefficients))) == pytest.approx(expected, rel=1e-7)
        pulls.append(0.5 * np.sum(one.pull(coefficients) ** 2) + expected)
    assert np.ptp(pulls) < 1e-6 * abs(expected)


def test_pull_and_its_jacobian(parameter, rng):
    one, _, _ = parameter
    at = one.mu + rng.normal(0, 0.02, one.size)
    steps = 1e-6 * np.eye(one.size)
    by_differences = np.array([(one.pull(at + s) - one.pull(at - s)) / 2e-6 for s in steps]).T
    found = one.pull_jacobian(np.eye(one.size))
    np.testing.assert_allclose(found, by_differences, rtol=1e-6, atol=1e-7 * np.abs(found).max())
    moved = one.pull_jacobian(one.transform.jacobian(one.to_value(at)))
    by_value = np.array(
        [(one.pull(one.from_value(one.to_value(at) + s)) - one.pull(one.from_value(one.to_value(at) - s))) / 2e-6
         for s in steps]
    ).T  # fmt: skip
    np.testing.assert_allclose(moved, by_value, rtol=1e-5, atol=1e-6 * np.abs(moved).max())


def test_centre_is_where_the_density_is_highest():
    prior = a_prior()
    highest = square_by_hand(prior, prior.centre)
    for step in 1e-3 * np.eye(prior.spline.size):
        up, down = square_by_hand(prior, prior.centre + step), square_by_hand(prior, prior.centre - step)
        assert min(up, down) > highest
        assert abs(up - down) < 1e-3 * (up + down - 2 * highest)


def test_draws_scatter_as_the_density_says(parameter, rng):
    """`Parameter.draw` and PyMC's draws: squares of second derivatives and of coefficients by hand, and covariances."""
    one, data, config = parameter
    prior, n = data.radial, 4000
    expected = np.linalg.inv(prior.precision)
    np.testing.assert_allclose(one.covariance, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    sd = np.sqrt(np.diag(expected))
    drawn = np.array([one.draw(rng) for _ in range(n)])
    theirs = pm.draw(build_model(data, config)["log_radial"], n, random_seed=1)
    bends = second_derivative(prior.spline.places) @ prior.spline.design(prior.spline.places)
    of_bends = np.sqrt(np.diag(bends @ expected @ bends.T))
    for draws in (drawn, theirs):
        off = draws - prior.centre
        assert np.all(np.abs(off.mean(0)) < 5 * sd / n**0.5)
        scatter = np.cov(draws.T)
        np.testing.assert_allclose(scatter / np.outer(sd, sd), expected / np.outer(sd, sd), atol=6 / n**0.5)
        np.testing.assert_allclose((off @ bends.T).std(0) / of_bends, 1.0, atol=5 / (2 * n) ** 0.5)
    # where bending is far below what coefficients of their own would have, it is the prior's
    assert np.all(of_bends < 1.001 * np.sqrt(prior.bending))
    tight = replace(prior, bending=1e-6 * prior.bending)
    of_bends = np.sqrt(np.diag(bends @ np.linalg.inv(tight.precision) @ bends.T))
    np.testing.assert_allclose(of_bends, np.sqrt(tight.bending), rtol=0.01)


def test_a_prior_in_the_config_replaces_the_smooth_one(small_camera, rng):
    """Coefficients are then independent: a normal density of each."""
    priors = {"log_radial": {"dist": "normal", "sigma": 0.05}}
    config = hierarchical_config(priors=priors)
    data = with_radial(prepare(small_flat(small_camera, rng), config))
    one = mean_parameters(data, config, estimate(data, config))[0]
    at = data.radial.mean + rng.normal(0, 0.05, one.size)
    expected = multivariate_normal(data.radial.mean, 0.05**2 * np.eye(one.size)).logpdf(at)
    assert float(one.log_prior(at)) == pytest.approx(expected, rel=1e-10)
    model = build_model(data, config)
    value = model.rvs_to_values[model["log_radial"]]
    density = pytensor.function([value], model.logp(vars=[model["log_radial"]], jacobian=False), mode=PLAIN)
    assert float(density(one.to_value(at))) == pytest.approx(expected, rel=1e-10)


def test_smooth_curves_are_near_their_interpolant():
    """Greville's places determine the spline: coefficients through a parabola's values there give the parabola."""
    spline = a_prior().spline
    parabola = 0.1 - 0.002 * spline.places - 1e-4 * spline.places**2
    coefficients = np.linalg.solve(spline.design(spline.places), parabola)
    at = np.linspace(0, 62, 500)
    np.testing.assert_allclose(spline.evaluate(coefficients, at), 0.1 - 0.002 * at - 1e-4 * at**2, atol=1e-12)
    theirs = make_interp_spline(spline.places, parabola, t=spline.knots)
    np.testing.assert_allclose(coefficients, theirs.c, atol=1e-12)
