"""What is neither radial nor planar: against a dense computation, its distribution, and terms that were put in."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.azimuth import TERMS, azimuth, design
from bayesflat.inference.fitting import fit
from bayesflat.inference.map import make_objective
from tests.helpers import CENTROID_AND_PLANE, config_with, noisy_flat, small_config


@pytest.fixture(scope="module")
def flat(small_camera):
    return noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))


@pytest.fixture(scope="module")
def fitted(flat):
    return fit(flat, small_config())


def dense_fit(fitted, terms):
    """Generalised least squares with the dense covariance, of all parameters of the mean and the terms together.

    The terms' coefficients and their covariance.
    """
    objective, z = fitted.objective, fitted.laplace.centre
    data, n = fitted.data, objective.n_mean
    good = np.flatnonzero(data.weight > 0)
    noise, scales = objective.noise, objective.to_parameters(z)["log_noise_scales"]
    own, shared, white = noise.variances(scales)
    u, vendor = noise.effects.design(), noise.effects.vendor[noise.effects.detector]
    same = noise.effects.detector[:, None] == noise.effects.detector
    alike = vendor[:, None] == vendor
    o, s = noise.effects.own, noise.effects.shared
    dense = np.where(same, (u[:, o] * own[vendor]) @ u[:, o].T, 0.0)
    dense += np.where(alike, (u[:, s] * shared[vendor]) @ u[:, s].T, 0.0) + white * np.eye(len(data))
    inverse = np.linalg.inv(dense[np.ix_(good, good)])
    step = 1e-6
    jacobian = np.column_stack(
        [(objective.log_mean(z + step * e) - objective.log_mean(z - step * e)) / (2 * step) for e in np.eye(len(z))[:n]]
    )
    every = np.hstack([jacobian, terms])[good]
    residual = (np.log(data.value) - objective.log_mean(z))[good]
    prior, k = np.zeros((every.shape[1], every.shape[1])), slice(0, n)
    prior[k, k] = objective._prior(z)[2][k, k]
    pull = every.T @ inverse @ residual
    pull[k] -= objective._prior(z)[1][k]
    curvature = every.T @ inverse @ every + prior
    return np.linalg.solve(curvature, pull)[n:], np.linalg.inv(curvature)[n:, n:]


def test_amplitudes_are_those_of_a_dense_fit(fitted):
    expected, covariance = dense_fit(fitted, design(fitted.data, fitted.laplace.mean["centroid_delta"]))
    found = azimuth(fitted.objective, fitted.laplace)
    for k in range(len(TERMS)):
        pair = slice(2 * k, 2 * k + 2)
        assert found.amplitude[k] == pytest.approx(np.hypot(*expected[pair]), rel=1e-3, abs=1e-7)
        along = expected[pair] / np.hypot(*expected[pair])
        assert found.sd[k] == pytest.approx(np.sqrt(along @ covariance[pair, pair] @ along), rel=1e-4)
        apart = expected[pair] @ np.linalg.solve(covariance[pair, pair], expected[pair])
        assert found.p[k] == pytest.approx(chi2.sf(apart, 2), rel=1e-2)
    assert found.chi2 == pytest.approx(expected @ np.linalg.solve(covariance, expected), rel=1e-3)
    assert found.dof == 14


def test_chance_is_chance(fitted, rng):
    """Flats drawn from the fitted model: the chi-squared has its distribution, whatever parameters follow."""
    z, chances = fitted.laplace.centre, []
    for _ in range(100):
        drawn = np.exp(fitted.objective.log_replicate(z, rng))
        objective = make_objective(replace(fitted.data, value=drawn), fitted.config)
        chances.append(azimuth(objective, fitted.laplace).p_value)
    assert kstest(chances, "uniform").pvalue > 0.01


def test_a_flat_without_such_things_is_told_so(fitted, caplog):
    found = fitted.gradient.azimuth
    assert found.p_value > 1e-3
    assert not found.matters(2e-3)
    header = fitted.gradient.estimates.header
    assert (header["AZCHI2"][0], header["AZDOF"][0], header["AZPVAL"][0]) == (found.chi2, 14, found.p_value)


@pytest.mark.parametrize(
    ("term", "words"),
    [(0, "the flat has coma"), (1, "the flat has a quadrupole"), (5, "the rim is elliptical")],
)
def test_terms_that_are_put_in_come_out(flat, term, words, caplog):
    """Amplitude and angle within their errors; the other terms are not blamed."""
    name, m, f = TERMS[term]
    size, angle = 0.03, 40.0
    radius, theta = np.hypot(flat.xf - 0.3, flat.yf + 0.2), np.arctan2(flat.yf + 0.2, flat.xf - 0.3)
    clean = fit(flat, small_config())
    outermost = clean.gradient.outermost_bin
    value = flat.value * np.exp(size * f(radius / outermost) * np.cos(m * (theta - np.radians(angle))))
    result = fit(replace(flat, value=value), small_config())
    found = result.gradient.azimuth
    assert found.term[term] == name
    assert found.p_value < 1e-6
    assert found.clearest() == term
    assert abs(found.amplitude[term] - size) < 4 * found.sd[term] + 0.02 * size
    apart = (found.phase[term] - angle + 180 / m) % (360 / m) - 180 / m
    assert abs(apart) < 4 * np.degrees(found.sd[term] / size) / m + 0.5
    (said,) = [r.getMessage() for r in caplog.records if "the model has no term for it" in r.getMessage()]
    name, number = re.match(r"(.*): (\S+) ± ", said).groups()
    assert name == words
    assert float(number) == pytest.approx(100 * found.amplitude[term], abs=0.05)
    assert f"at {outermost:.0f} mm, brightest at {found.phase[term]:.0f} degrees" in said


def test_it_travels_with_the_product(fitted, tmp_path):
    fitted.gradient.write(tmp_path / "a.fits")
    back, found = FlatGradient.read(tmp_path / "a.fits").azimuth, fitted.gradient.azimuth
    assert back.term == found.term
    for name in ("m", "amplitude", "sd", "phase", "p"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
        assert getattr(back, name).dtype == getattr(found, name).dtype
    assert (back.chi2, back.dof) == (found.chi2, found.dof)


def test_independent_noise_has_no_test(flat, tmp_path):
    """Its bins are said to be independent: whatever the flat, chance would seem excluded."""
    result = fit(flat, config_with("normal", **CENTROID_AND_PLANE))
    assert result.gradient.azimuth is None
    header = result.gradient.estimates.header
    assert header["AZDOF"][0] == 0
    assert np.isnan([header["AZCHI2"][0], header["AZPVAL"][0]]).all()
    result.gradient.write(tmp_path / "a.fits")
    assert FlatGradient.read(tmp_path / "a.fits").azimuth is None
