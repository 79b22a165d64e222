"""Coordinates of a fit: quantiles against known distributions, derivatives against differences, PyMC's log-density."""

from types import SimpleNamespace

import numpy as np
import pytensor
import pytest
from scipy.stats import loggamma, norm

from bayesflat.inference.coordinates import coordinates_of, shape_of_scales
from bayesflat.inference.fitting import fit
from bayesflat.model.build import build_model
from bayesflat.model.coordinates import Shape, Whitened
from bayesflat.model.disc import Disc
from bayesflat.model.parameters import Scaled
from tests.helpers import CENTROID_AND_PLANE, config_with, noisy_flat, small_config

SHAPE = 1.3  # of the gamma distribution: its log is skewed to the left by -1.05


class LogGamma:
    """Minus the log-density of two coordinates: a normal one, and the log of a gamma variable that pulls on it."""

    n_mean, size = 1, 2

    def __init__(self, funnel=False):
        scale = SimpleNamespace(name="log_noise_scales", mu=np.zeros(1))
        self.parameters = (SimpleNamespace(name="other", mu=np.zeros(1)), scale)
        self.funnel = funnel  # the first coordinate's width is the gamma variable, or 1/2 and it follows the second one
        self.best = np.array([0.0, np.log(SHAPE - 1 if funnel else SHAPE)])
        curvature = [[np.exp(-2 * self.best[1]), 0.0], [0.0, SHAPE - 1]] if funnel else [[4.0, -2.0], [-2.0, SHAPE + 1]]
        self.covariance = np.linalg.inv(curvature)

    def by_mean(self, z):
        if self.funnel:
            precision = np.exp(-2 * z[1])
            cost = 0.5 * z[0] ** 2 * precision + z[1]
            gradient, curvature = np.array([z[0] * precision]), np.array([[precision]])
        else:
            off = 2 * z[0] - (z[1] - self.best[1])
            cost, gradient, curvature = 0.5 * off**2, np.array([2 * off]), np.array([[4.0]])
        return cost - loggamma.logpdf(z[1], SHAPE), gradient, curvature


@pytest.mark.parametrize("funnel", [False, True])
def test_values_are_normal_where_the_scale_is_skewed(funnel):
    """Values drawn from N(0, 1) become the log of a gamma variable, tails included, whatever the other coordinate."""
    target = LogGamma(funnel)
    found, approximation = SimpleNamespace(value=target.best), SimpleNamespace(covariance=target.covariance)
    shape = shape_of_scales(target, found, approximation)
    u, sd = np.linspace(-3, 3, 61)[:, None], np.sqrt(target.covariance[1, 1])
    wanted = (loggamma.ppf(norm.cdf(u), SHAPE) - target.best[1]) / sd
    assert np.abs(shape(u) - wanted).max() < 0.02
    assert np.abs(u - wanted).max() > 1.2
    # a sampler moves values, and feels the slope of their density: that of N(0, 1), but for little
    log_density = loggamma.logpdf(target.best[1] + sd * shape(u), SHAPE) + shape.log_slope(u)
    left = np.diff(log_density[:, 0]) / np.diff(u[:, 0]) + 0.5 * (u[1:, 0] + u[:-1, 0])
    assert np.abs(left).max() < 0.1


def test_a_tail_that_only_the_prior_ends_is_in_the_coordinate():
    """A scale that the data cannot tell from none has a second level far to the left: a hundredth of its draws."""
    target, width = LogGamma(), 6.0
    steps = np.linspace(-40, 10, 50_001)

    def density(x):
        return norm.pdf(x) + 0.02 * norm.pdf(x, -8.0, width) / (1 + np.exp(3 * (x + 2)))

    target.by_mean = lambda z: (-np.log(density(z[1])), np.zeros(1), np.eye(1))
    shape = shape_of_scales(target, SimpleNamespace(value=np.zeros(2)), SimpleNamespace(covariance=np.eye(2)))
    below = np.cumsum(density(steps)) / density(steps).sum()
    for u in (-3.0, -2.5, -2.0, 0.0, 2.0):
        assert shape(np.array([[u]]))[0, 0] == pytest.approx(np.interp(norm.cdf(u), below, steps), abs=0.5)


def test_a_normal_scale_keeps_its_coordinate():
    """Its log-density is a parabola, which what it is looked at through has exactly."""
    target = LogGamma()
    target.by_mean = lambda z: (0.5 * z @ z, z[:1], np.eye(1))
    shape = shape_of_scales(target, SimpleNamespace(value=np.zeros(2)), SimpleNamespace(covariance=np.eye(2)))
    u = np.linspace(-5, 5, 41)[:, None]
    np.testing.assert_allclose(shape(u), u, atol=2e-4)
    np.testing.assert_allclose(shape.log_slope(u), 0.0, atol=2e-3)


def test_scales_far_from_their_maximum_are_left_alone():
    target = LogGamma()
    found = SimpleNamespace(value=target.best + np.array([0.0, 9.0]))
    shape = shape_of_scales(target, found, SimpleNamespace(covariance=target.covariance))
    u = np.linspace(-2, 2, 5)[:, None]
    np.testing.assert_allclose(shape(u), u, rtol=1e-12)


NORMAL = np.linspace(-3, 3, 9)
# the log of a gamma variable, and a normal one
SHAPES = Shape.through(NORMAL, np.stack([loggamma.ppf(norm.cdf(NORMAL), SHAPE), NORMAL]))


def test_the_shape_has_an_inverse_and_a_slope(rng):
    u, step = 2 * rng.normal(size=(20, 2)), 1e-6
    np.testing.assert_allclose(SHAPES.inverse(SHAPES(u)), u, rtol=1e-10)
    far = np.array([[-40.0, -40.0], [40.0, 40.0]])  # straight there
    np.testing.assert_allclose(SHAPES(far + 1.0) - SHAPES(far), np.exp(SHAPES.log_slope(far)), rtol=1e-10)
    np.testing.assert_allclose(SHAPES.inverse(SHAPES(far)), far, rtol=1e-10)
    by_difference = (SHAPES(u + step) - SHAPES(u - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(SHAPES.log_slope(u)), by_difference, rtol=1e-7)
    np.testing.assert_allclose(SHAPES(u)[:, 1], u[:, 1], rtol=1e-14)


COVARIANCE = np.array([[4.0, 1.0], [1.0, 0.5]])
TRANSFORMS = {
    "scales": Whitened(Scaled([1.0, -7.0], [0.3, 2.0]), [0.5, 1.0], COVARIANCE, SHAPES),
    "centroid": Whitened(Disc(0.5, 2.0), [0.4, -0.3], 0.1 * COVARIANCE),
    "ratio": Whitened(Scaled(1.0, 0.2), 0.3, np.array([[4.0]])),
}


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_transforms_have_an_inverse_and_a_jacobian(name, rng):
    transform = TRANSFORMS[name]
    symbol = pytensor.tensor.tensor(shape=transform.centre.shape, dtype="float64")
    backward, log_jacobian = transform.backward(symbol), transform.log_jac_det(symbol)
    back = pytensor.function([symbol], [backward, transform.forward(backward), log_jacobian])
    value, step = rng.normal(size=transform.centre.shape), 1e-6
    parameter, again, found = back(value)
    np.testing.assert_allclose(again, value, rtol=1e-9)
    np.testing.assert_allclose(transform.backward(value), parameter, rtol=1e-13)
    np.testing.assert_allclose(transform.forward(parameter), value, rtol=1e-9)
    n = max(value.size, 1)
    moved = [step * e.reshape(value.shape) for e in np.eye(n)]
    jacobian = [np.ravel(transform.backward(value + e) - transform.backward(value - e)) / (2 * step) for e in moved]
    assert found == pytest.approx(np.linalg.slogdet(np.array(jacobian))[1], abs=1e-7)


def test_middle_and_root_are_the_normal_approximation(rng):
    """Without a shape, draws of N(0, 1) have the covariance about the centre."""
    transform = Whitened(Scaled([1.0, -7.0], [0.3, 2.0]), [0.5, 1.0], COVARIANCE)
    z = transform.to_model(rng.normal(size=(4000, 2)))
    np.testing.assert_allclose(z.mean(0), [0.5, 1.0], atol=4 * np.sqrt(4.0 / 4000))
    np.testing.assert_allclose(np.cov(z.T), COVARIANCE, atol=4 * 4 * np.sqrt(2 / 4000))


@pytest.fixture(scope="module", params=["hierarchical", "normal"])
def fitted(request, small_camera):
    config = small_config() if request.param == "hierarchical" else config_with("normal", **CENTROID_AND_PLANE)
    return fit(noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5)), config)


def test_models_density_in_coordinates_of_the_fit(fitted, rng):
    """That of the model's own coordinates, times the determinant of their derivatives; and its gradient."""
    own = build_model(fitted.data, fitted.config, fitted.objective.noise).compile_logp()
    density = fitted.model.logp_dlogp_function(ravel_inputs=True)
    coordinates = coordinates_of(fitted.objective, fitted.map, fitted.laplace)
    n, step = fitted.objective.size, 1e-5
    offsets = []
    for value in 0.5 * rng.normal(size=(3, n)):
        z = coordinates.to_model(value)
        point = {
            p.value_name: z[fitted.objective.slices[p.name]].reshape(p.mu.shape) for p in fitted.objective.parameters
        }
        ends = [coordinates.to_model(value + s * step * np.eye(n)) for s in (1, -1)]
        determinant = np.linalg.slogdet((ends[0] - ends[1]) / (2 * step))[1]
        found, gradient = density(value)
        offsets.append(float(found) - float(own(point)) - determinant)
        for k in rng.integers(n, size=4):
            e = step * np.eye(n)[k]
            by_difference = (float(density(value + e)[0]) - float(density(value - e)[0])) / (2 * step)
            assert gradient[k] == pytest.approx(by_difference, abs=1e-4 * np.abs(gradient).max() + 1e-4)
    np.testing.assert_allclose(offsets, 0.0, atol=1e-5)


def test_samplers_begin_at_the_maximum_where_the_posterior_is_of_unit_width(fitted):
    """Second differences of PyMC's own log-density along each value, without the shapes of the scales."""
    start = fitted.model.initial_point()
    assert all(np.abs(value).max() < 1e-9 for value in start.values())
    n_mean, n, step = fitted.objective.n_mean, fitted.objective.size, 1e-3
    density = fitted.model.logp_dlogp_function(ravel_inputs=True)
    coordinates = coordinates_of(fitted.objective, fitted.map, fitted.laplace)
    bends = np.array([(density(-step * e)[1] - density(step * e)[1])[:n_mean] / (2 * step) for e in np.eye(n)[:n_mean]])
    # the curvature of the mean at given scales is the inverse of its part of the covariance, nearly
    expected = np.linalg.inv(coordinates.covariance[:n_mean, :n_mean])
    np.testing.assert_allclose(np.diag(bends) / np.diag(expected), 1.0, atol=0.3)
