"""The flat as an observed variable: PyMC's own calls, held to the closed form and to the dense covariance."""

import gc
import re
import weakref

import arviz as az
import numpy as np
import pymc as pm
import pytest

from bayesflat.inference.fitting import fit
from bayesflat.model.build import build_model
from bayesflat.model.hierarchical import HierarchicalNoise
from tests.helpers import noisy_flat, small_config


@pytest.fixture(scope="module")
def result(small_camera):
    return fit(noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5)), small_config())


@pytest.fixture(scope="module")
def model(result):
    """In coordinates of the fit, and starting there, which PyMC must be able to clone."""
    return result.model


def test_the_flat_is_observed(result, model):
    (flat,) = model.observed_RVs
    assert flat.name == "flat"
    assert model.potentials == []
    np.testing.assert_array_equal(model.rvs_to_values[flat].eval(), result.data.value)
    assert {v.name for v in model.free_RVs} == {
        "log_radial",
        "centroid_delta",
        "gradient",
        "itl_ratio",
        "log_noise_scales",
    }


@pytest.mark.parametrize("which", ["as built", "of the fit"])
def test_log_likelihood_is_the_joint_one(result, which):
    """A number a draw, of all bins together; minus what the objective has but for the priors."""
    objective, model = result.objective, result.model
    if which == "as built":
        model = build_model(result.data, result.config)
    points = [result.map.value + step for step in (0.0, 0.01, -0.02)]
    parameters = [objective.to_parameters(z) for z in points]
    draws = {p.variable: np.array([[one[p.name] for one in parameters]]) for p in objective.parameters}
    dims = {p.variable: [p.dims] for p in objective.parameters if p.dims}
    coords = {name: list(values) for name, values in model.coords.items() if values is not None}
    tree = az.from_dict({"posterior": draws}, dims=dims, coords=coords)
    with model:
        pm.compute_log_likelihood(tree, progressbar=False)
    found = tree["log_likelihood"]["flat"]
    assert found.shape == (1, 3)
    expected = [objective.noise.covariance(one["log_noise_scales"]) for one in parameters]
    logs = np.log(result.data.value)
    good = result.data.weight > 0
    expected = [
        covariance.marginal(logs - objective.log_mean(z)).log_likelihood - logs[good].sum()
        for covariance, z in zip(expected, points, strict=True)
    ]
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-9)


def test_posterior_predictive_scatters_as_the_noise_says(result, model):
    """Draws at fixed parameters against the dense covariance, within Monte Carlo errors."""
    n, scales = 3000, result.map.parameters["log_noise_scales"]
    given = {p.variable: result.map.parameters[p.name] for p in result.objective.parameters}
    flat = pm.do(model, given)["flat"]
    drawn = np.log(pm.draw(flat, n, random_seed=1)) - result.objective.log_mean(result.map.value)
    noise: HierarchicalNoise = result.objective.noise
    own, shared, white = noise.variances(scales)
    effects = noise.effects
    vendor, o, s = effects.vendor, effects.own, effects.shared
    rows = [np.flatnonzero(effects.detector == d)[k] for d, k in ((12, 5), (12, 40), (13, 5), (0, 5), (5, 5))]
    u, of = effects.design(np.array(rows)), effects.detector[rows]
    expected = np.zeros((len(rows), len(rows)))
    for i in range(len(rows)):
        for j in range(len(rows)):
            if of[i] == of[j]:
                expected[i, j] += np.sum(u[i, o] * own[vendor[of[i]]] * u[j, o]) + white * (i == j)
            if vendor[of[i]] == vendor[of[j]]:
                expected[i, j] += np.sum(u[i, s] * shared[vendor[of[i]]] * u[j, s])
    sd = np.sqrt(np.diag(expected))
    found = np.cov(drawn[:, rows].T)
    assert np.all(np.abs(drawn[:, rows].mean(0)) < 4.5 * sd / n**0.5)
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(2) * np.outer(sd, sd) / n**0.5)


def test_prior_predictive_draws(model, result):
    """Two draws of one seed are the same; of others they differ."""
    with model:
        one, same, other = (
            pm.sample_prior_predictive(3, random_seed=seed)["prior_predictive"]["flat"].values for seed in (1, 1, 2)
        )
    np.testing.assert_array_equal(one, same)
    assert one.shape == (1, 3, len(result.data))
    assert np.all(np.abs(np.log(one / other)).max(-1) > 1e-3)


def test_start_of_samplers_is_the_fit(result, model):
    """Of every variable the value 0: the maximum, but for the scales, whose posterior is skewed; no initial values."""
    assert all(value is None for value in model.rvs_to_initial_values.values())
    point = model.initial_point()
    for variable in model.free_RVs:
        value = point[model.rvs_to_values[variable].name]
        np.testing.assert_allclose(value, 0.0, atol=1e-9, err_msg=variable.name)
        (p,) = (p for p in result.objective.parameters if p.variable == variable.name)
        if p.name != "log_noise_scales":
            found = np.asarray(model.rvs_to_transforms[variable].backward(value))
            expected = p.from_value(result.map.value[result.objective.slices[p.name]])
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=variable.name)


def test_graph_has_named_nodes_in_plates(model):
    text = pm.model_to_mermaid(model)
    for name in ("log_radial", "itl_ratio", "centroid_delta", "gradient", "log_noise_scales", "dx", "dy", "itl"):
        assert f"{name} --> flat" in text
    plates = dict(re.findall(r'subgraph "(\w+) \(\d+\)"\n(.*?)end', text, re.S))
    assert {name: set(inside.split()) for name, inside in plates.items()} == {
        "axis": {"centroid_delta", "gradient"},
        "bin": {"dx", "dy", "itl", "flat"},
        "knot": {"log_radial"},
        "noise_scale": {"log_noise_scales"},
    }


def test_models_do_not_outlive_their_use(small_camera):
    """Bins are megabytes: what PyMC registers of the flat is the same for all models."""
    result = fit(noisy_flat(small_camera), small_config())
    noise = weakref.ref(build_model(result.data, result.config)["flat"].owner.op.noise)
    gc.collect()
    assert noise() is None
