"""The closed form of the hierarchical likelihood against a dense covariance matrix and finite differences."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayesflat.model.marginal import Covariance, Effects

N, AMPLIFIERS, SURFACE = 90, 3, 2


@pytest.fixture(params=["both vendors", "one vendor", "a lone detector"])
def case(request, rng):
    """A few detectors with spoilt, half-trusted and missing bins; an amplifier without bins."""
    vendor = {"both vendors": [0, 1, 0, 1, 1], "one vendor": [0, 0, 0], "a lone detector": [0]}[request.param]
    detector = np.sort(rng.integers(len(vendor), size=N))
    amplifier = rng.integers(AMPLIFIERS, size=N)
    amplifier[(detector == 0) & (amplifier == 2)] = 1
    effects = Effects(
        detector=detector,
        amplifier=amplifier,
        surface=rng.normal(size=(N, SURFACE)),
        weight=rng.choice([0.0, 1.0, 0.5], N, p=[0.1, 0.7, 0.2]),
        vendor=np.array(vendor),
        n_amplifiers=AMPLIFIERS,
    )
    n_vendors = max(vendor) + 1
    variances = {
        "own": rng.uniform(0.1, 2.0, (n_vendors, effects.size)),
        "shared": rng.uniform(0.1, 2.0, (n_vendors, effects.size)),
        "white": 0.3,
    }
    return effects, rng.normal(size=N), variances


def design(effects):
    """What the effects are, written out: one column for the detector, one for each amplifier, then the surface."""
    columns = np.zeros((N, effects.size))
    columns[:, 0] = 1.0
    columns[np.arange(N), 1 + effects.amplifier] = 1.0
    columns[:, 1 + AMPLIFIERS :] = effects.surface
    return columns


def dense(effects, own, shared, white):
    """Covariance of the bins that count, pair by pair, and which bins these are."""
    u, vendor = design(effects), effects.vendor[effects.detector]
    good = effects.weight > 0
    covariance = np.diag(np.where(good, white / np.where(good, effects.weight, 1.0), 0.0))
    for i in range(N):
        for j in range(N):
            if vendor[i] == vendor[j]:
                covariance[i, j] += np.sum(u[i] * shared[vendor[i]] * u[j])
            if effects.detector[i] == effects.detector[j]:
                covariance[i, j] += np.sum(u[i] * own[vendor[i]] * u[j])
    return covariance[np.ix_(good, good)], good


def test_log_likelihood_equals_the_dense_one(case):
    effects, r, variances = case
    covariance, good = dense(effects, **variances)
    expected = multivariate_normal(np.zeros(good.sum()), covariance).logpdf(r[good])
    assert Covariance(effects, **variances).of(r).log_likelihood == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("r", "by_residual"), ("own", "by_own"), ("shared", "by_shared"), ("white", "by_white")],
)
def test_derivatives_agree_with_finite_differences(case, name, attribute):
    effects, r, variances = case
    arguments = {"r": r, **variances}

    def at(x):
        changed = {**arguments, name: x}
        return Covariance(effects, changed["own"], changed["shared"], float(changed["white"])).of(changed["r"])

    def value(x):
        return at(x).log_likelihood

    x = np.asarray(arguments[name], dtype=float)
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-5
        expected[index] = (value(x + step) - value(x - step)) / 2e-5
    found = getattr(at(arguments[name]), attribute)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_conditional_means_equal_the_dense_ones(case):
    """Own effects: D U' C**-1 r of their detector; shared ones: Q times the sum of that over the vendor."""
    effects, r, variances = case
    covariance, good = dense(effects, **variances)
    found = Covariance(effects, **variances).of(r)
    solved = np.linalg.solve(covariance, r[good])
    u, detector = design(effects)[good], effects.detector[good]
    for d, vendor in enumerate(effects.vendor):
        expected = variances["own"][vendor] * (u[detector == d].T @ solved[detector == d])
        np.testing.assert_allclose(found.own[d], expected, atol=1e-10)
    for v in np.unique(effects.vendor):
        here = effects.vendor[detector] == v
        np.testing.assert_allclose(found.shared[v], variances["shared"][v] * (u[here].T @ solved[here]), atol=1e-10)


def test_without_effects_bins_are_independent(case):
    effects, r, variances = case
    none = np.zeros_like(variances["own"])
    found = Covariance(effects, own=none, shared=none, white=0.3).of(r).log_likelihood
    good = effects.weight > 0
    variance = 0.3 / effects.weight[good]
    assert found == pytest.approx(-0.5 * np.sum(r[good] ** 2 / variance + np.log(2 * np.pi * variance)), rel=1e-12)


def test_information_equals_the_dense_one(case, rng):
    effects, _, variances = case
    covariance, good = dense(effects, **variances)
    jacobian = rng.normal(size=(N, 3))
    expected = jacobian[good].T @ np.linalg.solve(covariance, jacobian[good])
    np.testing.assert_allclose(Covariance(effects, **variances).information(jacobian), expected, rtol=1e-9)
