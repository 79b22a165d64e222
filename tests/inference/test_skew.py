"""Coordinates for skewed noise scales: derivatives against differences, quantiles against a known distribution."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import loggamma, norm

from bayesflat.inference import nuts
from bayesflat.inference.skew import Stretched, stretched

SHAPE = 1.3  # of the gamma distribution: its log is skewed to the left by -1.05


def two_scales(centre=(1.0, -7.0), sd=(0.3, 2.0)):
    """Two scales after two other coordinates; the second is left as it is."""
    changed = {"location": [0.2, 0.0], "width": [0.5, 1.0], "skew": [-0.4, 0.0], "tail": [0.6, 1.0]}
    arrays = {name: np.array(value) for name, value in changed.items()}
    return Stretched(slice(2, 4), np.array(centre), np.array(sd), **arrays)


class LogGamma:
    """Minus the log-density of two coordinates: a normal one, and the log of a gamma variable that pulls on it."""

    parameters = (SimpleNamespace(name="other"), SimpleNamespace(name="log_noise_scales"))

    def __init__(self):
        self.slices = {"other": slice(0, 1), "log_noise_scales": slice(1, 2)}
        self.best = np.array([0.0, np.log(SHAPE)])
        curvature = np.array([[4.0, -2.0], [-2.0, SHAPE + 1.0]])
        self.covariance = np.linalg.inv(curvature)

    def __call__(self, z):
        pull = z[1] - self.best[1]
        return 0.5 * (2 * z[0] - pull) ** 2 - loggamma.logpdf(z[1], SHAPE)


def test_points_are_normal_where_the_scale_is_skewed():
    """Points drawn from N(maximum, Laplace's sd) become the log of a gamma variable, tails included."""
    target = LogGamma()
    found, approximation = SimpleNamespace(value=target.best), SimpleNamespace(covariance=target.covariance)
    coordinates = stretched(target, found, approximation)
    u = np.linspace(-3, 3, 13)
    sd = np.sqrt(target.covariance[1, 1])
    assert sd == pytest.approx(SHAPE**-0.5, rel=1e-12)
    points = np.column_stack([np.full(13, 0.7), target.best[1] + sd * u])
    z = coordinates.to_model(points)
    np.testing.assert_array_equal(z[:, 0], 0.7)
    off = (z[:, 1] - loggamma.ppf(norm.cdf(u), SHAPE)) / sd
    as_it_is = (points[:, 1] - loggamma.ppf(norm.cdf(u), SHAPE)) / sd
    assert np.abs(off).max() < 0.2  # another family of shapes, so not nothing
    assert np.abs(as_it_is).max() > 2


def test_scales_away_from_their_maximum_are_left_alone():
    target = LogGamma()
    found = SimpleNamespace(value=target.best + np.array([0.0, 1.0]))
    coordinates = stretched(target, found, SimpleNamespace(covariance=target.covariance))
    points = np.linspace(-2, 2, 10).reshape(5, 2)
    np.testing.assert_allclose(coordinates.to_model(points), points, rtol=1e-12)
    np.testing.assert_allclose(coordinates.slopes(points)[0], 1.0, rtol=1e-12)


def test_slopes_are_the_derivatives(rng):
    coordinates, step = two_scales(), 1e-6
    points = rng.normal(size=(20, 4)) * 2
    slope, bend = coordinates.slopes(points)
    for k in range(2):
        up, down = points.copy(), points.copy()
        up[:, 2 + k] += step
        down[:, 2 + k] -= step
        by_difference = (coordinates.to_model(up) - coordinates.to_model(down)) / (2 * step)
        np.testing.assert_allclose(by_difference[:, 2 + k], slope[:, k], rtol=1e-6)
        assert np.abs(np.delete(by_difference, 2 + k, axis=1)).max() == 0
        logs = [np.log(coordinates.slopes(at)[0][:, k]) for at in (up, down)]
        np.testing.assert_allclose((logs[0] - logs[1]) / (2 * step), bend[:, k], rtol=1e-5, atol=1e-7)


def test_density_of_points_is_that_of_the_model_times_the_jacobian(rng):
    coordinates, curvature = two_scales(), np.diag([1.0, 2.0, 3.0, 0.5]) + 0.1

    def function(z, layout):
        return -0.5 * z @ curvature @ z, -curvature @ z

    density = nuts.RememberedDensity(function, coordinates)
    for point in rng.normal(size=(5, 4)):
        value, gradient = density(point, None)
        steps = 1e-6 * np.eye(4)
        jacobian = [(coordinates.to_model(point + s) - coordinates.to_model(point - s)) / 2e-6 for s in steps]
        z = coordinates.to_model(point)
        assert value == pytest.approx(-0.5 * z @ curvature @ z + np.linalg.slogdet(jacobian)[1], rel=1e-7)
        by_difference = [(density(point + s, None)[0] - density(point - s, None)[0]) / 2e-6 for s in steps]
        np.testing.assert_allclose(gradient, by_difference, rtol=1e-5, atol=1e-6)
