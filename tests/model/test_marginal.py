"""The closed form of the hierarchical likelihood against a dense covariance matrix and finite differences."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayesflat.model.effects import Effects
from bayesflat.model.marginal import Covariance

N = 90
OWN, SHARED = slice(0, 5), slice(1, 7)


@pytest.fixture(params=["both vendors", "one vendor", "a lone detector"])
def case(request, rng):
    """A few detectors with outlying, half-trusted and missing bins; an effect that no bin of a detector shows."""
    vendor = {"both vendors": [0, 1, 0, 1, 1], "one vendor": [0, 0, 0], "a lone detector": [0]}[request.param]
    x, y = rng.normal(size=(11, 3)), rng.normal(size=(8, 4))
    x[:5, 2] = 0.0
    detector = np.sort(rng.integers(len(vendor), size=N))
    column = rng.integers(11, size=N)
    column[detector == 0] %= 5
    effects = Effects(
        detector=detector,
        column=column,
        row=rng.integers(8, size=N) // 2,  # some rows follow one another
        x=x,
        y=y,
        terms=np.array([(0, 0), (1, 0), (2, 1), (0, 2), (1, 3), (2, 3), (0, 1)]),
        own=OWN,
        shared=SHARED,
        weight=rng.choice([0.0, 1.0, 0.5], N, p=[0.1, 0.7, 0.2]),
        vendor=np.array(vendor),
        times=rng.choice([1.0, 3.0], (len(vendor), 5), p=[0.7, 0.3]),  # some are odd
    )
    n_vendors = max(vendor) + 1
    variances = {
        "own": rng.uniform(0.1, 2.0, (n_vendors, 5)),
        "shared": rng.uniform(0.1, 2.0, (n_vendors, 6)),
        "white": 0.3,
    }
    return effects, rng.normal(size=N), variances


def design(effects):
    """What the effects are, written out bin by bin."""
    return np.array(
        [
            [effects.x[c, i] * effects.y[r, j] for i, j in effects.terms]
            for c, r in zip(effects.column, effects.row, strict=True)
        ]
    )


def dense(effects, own, shared, white):
    """Covariance of the bins that count, pair by pair, and which bins these are."""
    u, vendor = design(effects), effects.vendor[effects.detector]
    good = effects.weight > 0
    covariance = np.diag(np.where(good, white / np.where(good, effects.weight, 1.0), 0.0))
    for i in range(N):
        for j in range(N):
            if vendor[i] == vendor[j]:
                covariance[i, j] += np.sum(u[i, SHARED] * shared[vendor[i]] * u[j, SHARED])
            if effects.detector[i] == effects.detector[j]:
                times = effects.times[effects.detector[i]]
                covariance[i, j] += np.sum(u[i, OWN] * own[vendor[i]] * times**2 * u[j, OWN])
    return covariance[np.ix_(good, good)], good


def test_log_likelihood_equals_the_dense_one(case):
    effects, r, variances = case
    covariance, good = dense(effects, **variances)
    expected = multivariate_normal(np.zeros(good.sum()), covariance).logpdf(r[good])
    assert Covariance(effects, **variances).marginal(r).log_likelihood == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("r", "by_residual"), ("own", "by_own"), ("shared", "by_shared"), ("white", "by_white")],
)
def test_derivatives_agree_with_finite_differences(case, name, attribute):
    effects, r, variances = case
    arguments = {"r": r, **variances}

    def at(x):
        changed = {**arguments, name: x}
        return Covariance(effects, changed["own"], changed["shared"], float(changed["white"])).marginal(changed["r"])

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
    found = Covariance(effects, **variances).marginal(r)
    solved = np.linalg.solve(covariance, r[good])
    u, detector = design(effects)[good], effects.detector[good]
    for d, vendor in enumerate(effects.vendor):
        own = variances["own"][vendor] * effects.times[d] ** 2
        expected = own * (u[detector == d][:, OWN].T @ solved[detector == d])
        np.testing.assert_allclose(found.own[d], expected, atol=1e-10)
    for v in np.unique(effects.vendor):
        here = effects.vendor[detector] == v
        np.testing.assert_allclose(
            found.shared[v], variances["shared"][v] * (u[here][:, SHARED].T @ solved[here]), atol=1e-10
        )


def test_conditional_means_of_many_residuals_are_those_of_each(case, rng):
    """The effect on a detector is the sum of its own and the vendor's."""
    effects, _, variances = case
    residuals = rng.normal(size=(N, 3))
    covariance = Covariance(effects, **variances)
    found = covariance.conditional_means(residuals)
    for k, r in enumerate(residuals.T):
        each = covariance.marginal(r)
        expected = np.zeros((effects.n_detectors, effects.size))
        expected[:, OWN] += each.own
        expected[:, SHARED] += each.shared[effects.vendor]
        np.testing.assert_allclose(found[:, :, k], expected, atol=1e-10)


@pytest.mark.parametrize("which", [("own",), ("shared",), ("own", "shared")])
def test_absurd_scales_are_never_preferred(case, which):
    """Ever greater variances are ever less likely, even where rounding leaves no digits of a difference."""
    effects, r, variances = case
    found = []
    for power in range(6, 31, 4):
        larger = {name: value * 10.0 ** (2 * power) if name in which else value for name, value in variances.items()}
        found.append(Covariance(effects, **larger | {"white": 1e-8}).marginal(1e3 * r).log_likelihood)
    # where a determinant has no value, the log-likelihood has none: no sampler goes there
    found = [value for value in found if np.isfinite(value)]
    assert len(found) > 1
    assert np.all(np.diff(found) < 0)


def test_without_effects_bins_are_independent(case):
    effects, r, variances = case
    none = {name: np.full_like(variances[name], 1e-30) for name in ("own", "shared")}
    found = Covariance(effects, **none, white=0.3).marginal(r).log_likelihood
    good = effects.weight > 0
    variance = 0.3 / effects.weight[good]
    assert found == pytest.approx(-0.5 * np.sum(r[good] ** 2 / variance + np.log(2 * np.pi * variance)), rel=1e-12)


def test_information_equals_the_dense_one(case, rng):
    effects, _, variances = case
    covariance, good = dense(effects, **variances)
    jacobian = rng.normal(size=(N, 3))
    expected = jacobian[good].T @ np.linalg.solve(covariance, jacobian[good])
    np.testing.assert_allclose(Covariance(effects, **variances).information(jacobian), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["own", "shared", "white"])
def test_derivatives_of_the_log_determinant_agree_with_finite_differences(case, rng, name):
    """Of ``-log|J' C**-1 J + P| / 2``, from the dense covariance."""
    effects, _, variances = case
    jacobian, constant = rng.normal(size=(N, 3)), np.diag([0.3, 1.0, 2.0])

    def information(changed):
        covariance, good = dense(effects, **variances | changed)
        return jacobian[good].T @ np.linalg.solve(covariance, jacobian[good]) + constant

    x = np.asarray(variances[name], dtype=float)
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-4
        up, down = (np.linalg.slogdet(information({name: x + s * step}))[1] for s in (1, -1))
        expected[index] = -0.5 * (up - down) / 2e-4
    inverse = np.linalg.inv(information({}))
    alone = information({}) - constant
    found = getattr(Covariance(effects, **variances).by_log_determinant(jacobian, inverse, alone), f"by_{name}")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_detector_given_the_shared_pattern(case, rng):
    """Drawn effects scatter as the dense posterior does; log-likelihoods are those given the pattern."""
    effects, r, variances = case
    covariance, good = dense(effects, **variances)
    found = Covariance(effects, **variances)
    draws = [found.draw(r, rng) for _ in range(4000)]
    u, detector, vendor = design(effects)[good], effects.detector[good], effects.vendor
    cross = [
        variances["shared"][v] * (u[:, SHARED] * (vendor[detector] == v)[:, None]) for v in range(len(variances["own"]))
    ]
    for v, to_shared in enumerate(cross):
        mean = to_shared.T @ np.linalg.solve(covariance, r[good])
        spread = np.diag(variances["shared"][v]) - to_shared.T @ np.linalg.solve(covariance, to_shared)
        drawn = np.array([d.shared[v] for d in draws])
        sd = np.sqrt(np.diag(spread))
        np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * sd.max() / 4000**0.5)
        np.testing.assert_allclose(np.cov(drawn.T), spread, atol=6 * sd.max() ** 2 / 4000**0.5)
    for d, v in enumerate(vendor):
        own = variances["own"][v] * effects.times[d] ** 2
        to_own = own * (u[:, OWN] * (detector == d)[:, None])
        mean = to_own.T @ np.linalg.solve(covariance, r[good])
        spread = np.diag(own) - to_own.T @ np.linalg.solve(covariance, to_own)
        drawn = np.array([x.own[d] for x in draws])
        sd = np.sqrt(np.diag(spread))
        np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * sd.max() / 4000**0.5)
        np.testing.assert_allclose(np.cov(drawn.T), spread, atol=6 * sd.max() ** 2 / 4000**0.5)
        here = detector == d
        spread = (u[here][:, OWN] * own) @ u[here][:, OWN].T
        spread += np.diag(variances["white"] / effects.weight[good][here])
        left = r[good][here] - u[here][:, SHARED] @ draws[0].shared[v]
        expected = multivariate_normal(np.zeros(here.sum()), spread).logpdf(left) if here.any() else 0.0
        assert draws[0].log_likelihood[d] == pytest.approx(expected, rel=1e-9)


def test_workspace_is_used_again(case):
    """A covariance in arrays that another one has used is the same as one in new arrays."""
    effects, r, variances = case
    workspace = {}
    Covariance(effects, variances["own"] * 3, variances["shared"], 0.1, workspace).marginal(r)
    again = Covariance(effects, **variances, workspace=workspace).marginal(r)
    fresh = Covariance(effects, **variances).marginal(r)
    assert again.log_likelihood == fresh.log_likelihood
    np.testing.assert_array_equal(again.by_own, fresh.by_own)
