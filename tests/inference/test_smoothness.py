"""How smooth a profile is: the noise that is left in known ones, and the variance of the second derivative itself."""

import numpy as np
import pytest

from bayesflat.inference.smoothness import bending_variance
from bayesflat.model.radial import second_derivative

N, SD = 80, 1e-3
RADIUS = np.linspace(0.5, 60.0, N)
STEP = RADIUS[1] - RADIUS[0]
# neighbours that are anticorrelated, as values of a fine spline are
COVARIANCE = SD**2 * (np.eye(N) - 0.4 * (np.eye(N, k=1) + np.eye(N, k=-1)))
INFORMATION = np.linalg.inv(COVARIANCE)
STRAIGHT = -0.001 * RADIUS
BENT = np.log(1.0 - 0.05 * (RADIUS / 60) ** 2 - 0.3 / (1 + np.exp(-(RADIUS - 48) / 1.5)))


def noisy(truth, rng):
    return truth + np.linalg.cholesky(COVARIANCE) @ rng.standard_normal(N)


def smooth(profile, information=INFORMATION):
    return bending_variance(RADIUS, profile, information)[1]


def chi_squared(off):
    return off @ INFORMATION @ off


def test_of_a_straight_line_little_noise_is_left(rng):
    """Of the noise of 80 points, what fits the line's two numbers is left, and about six numbers more."""
    left = [chi_squared(smooth(noisy(STRAIGHT, rng)) - STRAIGHT) for _ in range(40)]
    assert 1.0 < np.mean(left) < 0.15 * N


def test_a_fall_is_followed_and_all_else_is_smooth(rng):
    """Within the fall and elsewhere, less noise is left than in the profile, and little bias."""
    off = np.array([smooth(noisy(BENT, rng)) - BENT for _ in range(40)])
    assert np.mean([chi_squared(o) for o in off]) < 0.45 * N
    assert np.sqrt(np.mean(off[:, RADIUS < 38] ** 2)) < 0.5 * SD
    assert np.all(np.abs(off.mean(axis=0)) < 0.6 * SD)  # of which chance has 0.16 at most


def test_a_bend_no_larger_than_the_noise_is_left(rng):
    """A wave as high as one point's noise: smoothed away, it would leave a chi-squared of a hundred and more."""
    wave = SD * np.sin(RADIUS / 2)
    assert chi_squared(wave) > 100
    left = [chi_squared(smooth(noisy(wave, rng)) - wave) for _ in range(20)]
    assert np.mean(left) < 0.45 * N


def test_what_has_no_noise_is_left_as_it_is():
    np.testing.assert_allclose(smooth(BENT, INFORMATION * 1e8), BENT, atol=1e-6)


def test_mean_is_that_of_the_posterior_with_these_variances(rng):
    """By Woodbury's identity: data plus a prior that bends by the variances, lines of any slope being free."""
    profile = noisy(BENT, rng)
    variance, mean = bending_variance(RADIUS, profile, INFORMATION)
    second = np.array([(np.eye(N)[k - 1] - 2 * np.eye(N)[k] + np.eye(N)[k + 1]) / STEP**2 for k in range(1, N - 1)])
    np.testing.assert_allclose(second_derivative(RADIUS), second, rtol=1e-9, atol=1e-9)
    # the least change of the profile that makes its second derivatives as small as the prior wants them
    of_bends = second @ COVARIANCE @ second.T + np.diag(variance)
    expected = profile - COVARIANCE @ second.T @ np.linalg.solve(of_bends, second @ profile)
    # variances are settled to 1%
    assert np.abs(mean - expected).max() < 0.05 * SD


def test_variance_is_that_of_the_truth(rng):
    """Profiles whose second derivatives are drawn: one variance inside, another one outside, 100 times as large."""
    true = np.where(RADIUS[1:-1] < 30, 1e-3, 1e-2) ** 2
    logs = []
    for _ in range(60):
        bends = np.sqrt(true) * rng.standard_normal(N - 2)
        slopes = np.concatenate([[0.0], np.cumsum(bends * STEP)])
        truth = np.concatenate([[0.0], np.cumsum(slopes * STEP)])
        logs.append(np.log(bending_variance(RADIUS, noisy(truth, rng), INFORMATION)[0]))
    mean = np.exp(np.mean(logs, axis=0)) / true
    away = np.abs(RADIUS[1:-1] - 30) > 10  # neighbours within about three points are taken as alike
    # the log of a mean of some ten squares lies about 0.1 to 0.2 below the log of its expectation
    assert np.all(mean[away] > 0.55)
    assert np.all(mean[away] < 1.4)


@pytest.mark.parametrize("factor", [1e-2, 30.0])
def test_units_do_not_matter(rng, factor):
    """Of the values, and of the radius."""
    profile = noisy(BENT, rng)
    variance, mean = bending_variance(RADIUS, profile, INFORMATION)
    scaled = bending_variance(RADIUS, factor * profile, INFORMATION / factor**2)
    np.testing.assert_allclose(scaled[0], factor**2 * variance, rtol=1e-6)
    np.testing.assert_allclose(scaled[1], factor * mean, rtol=1e-6, atol=1e-9 * factor)
    longer = bending_variance(factor * RADIUS, profile, INFORMATION)
    np.testing.assert_allclose(longer[0], variance / factor**4, rtol=1e-5)
    np.testing.assert_allclose(longer[1], mean, rtol=1e-6, atol=1e-9)
