"""NUTS with independent noise, fast enough for many draws: against Laplace, identities and other samplers."""

import logging
import multiprocessing
import os
import re
from dataclasses import replace

import arviz as az
import numpy as np
import pymc as pm
import pytest

from bayesflat.errors import InputError
from bayesflat.inference import coordinates, draws, nuts
from bayesflat.inference.chains import Chains
from bayesflat.inference.fitting import fit, sample
from bayesflat.model.build import build_model
from bayesflat.model.coordinates import Shape
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import CENTROID_AND_PLANE, NODES, VALUES, config_with, noisy_flat


@pytest.fixture(scope="module")
def simple(small_camera):
    """Independent bins: fast enough for many draws."""
    white = Light(radial=(NODES, VALUES), itl_ratio=0.9, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))
    binned = simulate_binned(small_camera, white, Noise(white=0.005), 4, bin_factor=20, detector_boundary=0)
    result = fit(binned, config_with("normal", **CENTROID_AND_PLANE))
    return result, sample(result, draws=800, tune=200, chains=2, cores=2)


def test_draws_agree_with_the_normal_approximation(simple):
    """Many bins, so the posterior is normal: mean and width within four Monte Carlo errors."""
    before, after = (result.gradient.estimates for result in simple)
    for name in ("itl_ratio", "centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y"):
        old, new = before[name], after[name]
        assert abs(new["mean"] - old["map"]) < 4 * old["sd"] / new["ess_bulk"] ** 0.5 + 0.05 * old["sd"], name
        assert new["sd"] / old["sd"] == pytest.approx(1, abs=4 / (2 * new["ess_tail"]) ** 0.5 + 0.03), name
        assert new["map"] == old["map"]
    assert (before.method, after.method) == ("laplace", "nuts")
    assert simple[1].diagnostics.passed
    assert simple[1].converged
    # 14 parameters would be accepted often enough with longer steps, which turn half an orbit and draw squares alike
    assert simple[1].posterior["sample_stats"]["step_size"].max() == nuts.LEVELS[0][1]


def test_density_of_the_last_points_is_remembered(rng):
    asked = []

    def function(point, layout):
        asked.append(point.copy())
        return -0.5 * point @ point, -point

    density = nuts.RememberedDensity(function)
    points = rng.normal(size=(2 ** (nuts.LEVELS[-1][0] + 2), 3)) * np.array([1.0, 1.0, 1e6])
    for _ in range(2):
        for point in points:
            value, gradient = density(point, None)
            assert value == pytest.approx(-0.5 * point @ point, rel=1e-14)
            np.testing.assert_allclose(gradient, -point, rtol=1e-14)  # however steep
    assert len(asked) == len(points)
    density(rng.normal(size=3), None)  # which takes the place of the oldest
    density(points[-1], None)
    assert len(asked) == len(points) + 1
    density(points[0], None)
    assert len(asked) == len(points) + 2


def test_draws_are_those_of_the_posterior_whatever_the_coordinates(simple, monkeypatch):
    """Coordinates that skew a scale whose posterior is normal cost efficiency and nothing else."""
    result = simple[0]
    here = result.objective.slices["log_noise_scale"]
    centre, sd = result.map.value[here], result.laplace.covariance[here, here] ** 0.5
    normal = np.linspace(-3, 3, 9)
    shape = Shape.through(normal, 0.1 + 0.8 * np.sinh((np.arcsinh(normal) - 0.3) / 0.9))
    monkeypatch.setattr(coordinates, "shape_of_scales", lambda *_: shape)
    result = replace(result)  # its model is not made yet
    tree = sample(result, draws=1500, tune=200, chains=2, cores=2).posterior
    offs = [(of["unconstrained"]["z"].values[..., here][..., 0] - centre) / sd for of in (simple[1].posterior, tree)]
    bulk, tail = np.array([[float(az.ess(off)), float(az.ess(off, method="tail", prob=0.9))] for off in offs]).T
    assert tail.min() > 300
    assert abs(offs[0].mean() - offs[1].mean()) < 4 * np.sqrt(np.sum(1 / bulk))
    assert offs[1].std() / offs[0].std() == pytest.approx(1, abs=4 * np.sqrt(np.sum(0.5 / tail)))
    lp, z = result.model.compile_logp(), result.objective.to_parameters(tree["unconstrained"]["z"].values[1, 7])
    point = {
        result.model.rvs_to_values[v].name: result.model.rvs_to_transforms[v].forward(z[p.name])
        for p, v in zip(result.objective.parameters, result.model.free_RVs, strict=True)
    }
    assert tree["sample_stats"]["lp"].values[1, 7] == pytest.approx(float(lp(point)), rel=1e-10)


def test_statistics_are_those_of_the_draws(simple):
    sampled = simple[1]
    estimates, group = sampled.gradient.estimates, sampled.posterior["posterior"]
    x = group["centroid_delta"].sel(axis="x").values
    row = estimates["centroid_delta_x"]
    assert row["mean"] == pytest.approx(x.mean(), rel=1e-12)
    assert row["sd"] == pytest.approx(x.std(ddof=1), rel=1e-12)
    assert row["q95"] == pytest.approx(np.quantile(x, 0.95), rel=1e-12)
    assert row["ess_bulk"] == pytest.approx(float(az.ess(x, method="bulk")), rel=1e-6)
    i, j = (estimates.names.index(name) for name in ("centroid_delta_x", "gradient_x"))
    gradient = group["gradient"].sel(axis="x").values
    assert estimates.covariance[i, j] == pytest.approx(np.cov(x.ravel(), gradient.ravel())[0, 1], rel=1e-9)


def test_independent_log_likelihood_by_detector_sums_to_pymcs(small_camera):
    for likelihood in ("normal", "student_t", "laplace"):
        result = fit(noisy_flat(small_camera), config_with(likelihood, do_constrain_zero=False))
        model = build_model(result.data, result.config)
        point = {p.value_name: result.map.value[result.objective.slices[p.name]].reshape(np.shape(p.mu))
                 for p in result.objective.parameters}  # fmt: skip
        by_bin = model.compile_logp(vars=model.observed_RVs, sum=False)(point)[0]
        total = result.objective.log_likelihood_by_detector(result.map.value).sum()
        assert total == pytest.approx(by_bin.sum(), rel=1e-9), likelihood


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")  # of a few, near the limit
def test_arviz_reads_the_posterior(simple):
    """Predicting left-out detectors costs about half a unit of log-likelihood for each parameter (AIC's rule)."""
    sampled = simple[1]
    found = az.loo(sampled.posterior, pointwise=True)
    assert np.mean(found.pareto_k < 0.7) > 0.8
    at_best = sampled.objective.log_likelihood_by_detector(sampled.map.value).sum()
    assert 0.5 * sampled.objective.size < at_best - found.elpd < 3 * sampled.objective.size
    summary = az.psense_summary(sampled.posterior, var_names=["centroid_delta", "gradient"])
    assert list(summary.index) == ["centroid_delta[x]", "centroid_delta[y]", "gradient[x]", "gradient[y]"]


def test_same_seed_same_draws(simple):
    one, two, other = (sample(simple[0], draws=5, tune=5, chains=2, seed=seed) for seed in (1, 1, 2))
    values = [r.posterior["posterior"]["centroid_delta"].values for r in (one, two, other)]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    assert other.gradient.estimates.header["SEEDNUTS"][0] == 2


def test_sampling_ends_when_the_gates_are_passed(simple, caplog):
    """The least of R-hat and ESS that suffice, not all draws that are allowed; chains go on over the rounds."""
    caplog.set_level(logging.INFO, "bayesflat")
    result = sample(simple[0], draws=5000, tune=100, chains=4, seed=5)
    assert result.diagnostics.passed
    n = result.posterior["posterior"].sizes["draw"]
    assert 200 <= n < 1500
    rounds = [r.getMessage() for r in caplog.records if r.getMessage().startswith("round ")]
    assert rounds[-1].startswith(f"round {len(rounds)}, {n} draws of each chain")
    assert n == 200 + 100 * (len(rounds) - 1)
    stats = result.posterior["sample_stats"].to_dataset()
    assert stats.sizes["draw"] == n
    # the step size is settled once, before the first draw, and rounds begin where the last one ended
    np.testing.assert_array_equal(stats["step_size"], stats["step_size"].isel(draw=[0]).values.repeat(n, 1))
    jumps = np.abs(np.diff(result.posterior["posterior"]["itl_ratio"].values, axis=1))
    if n > 200:
        assert jumps[:, 199].mean() < 3 * jumps.mean()


def test_draws_do_not_depend_on_the_processes(simple):
    one, two = (sample(simple[0], draws=25, tune=15, chains=2, cores=cores, seed=4) for cores in (1, 2))
    for group in ("posterior", "sample_stats", "log_likelihood"):
        for name, values in one.posterior[group].to_dataset().items():
            if not name.startswith(("perf_", "process_")):
                np.testing.assert_array_equal(values, two.posterior[group][name], err_msg=name)


@pytest.mark.parametrize("sampler", ["pymc", "nutpie"])
def test_any_sampler_walks_the_model_with_its_defaults(simple, sampler):
    """Against the draws of `sample`: means and widths within five Monte Carlo errors, no divergences."""
    result, reference = simple
    with result.model:
        drawn = pm.sample(
            draws=300, tune=300, chains=2, cores=2, random_seed=6, nuts_sampler=sampler, progressbar=False, quiet=True
        )
    assert not drawn["sample_stats"]["diverging"].values.any()
    assert drawn["sample_stats"]["n_steps"].values.mean() < 10  # nothing long and narrow, which would take long trees
    for name in ("itl_ratio", "centroid_delta", "gradient", "radial_spline_values", "log_noise_scale"):
        ours, theirs = (tree["posterior"][name] for tree in (reference.posterior, drawn))
        assert float(az.rhat(theirs).max()) < 1.03, name
        ess = [np.asarray(az.ess(values)) for values in (ours, theirs)]
        errors = np.sqrt(1 / ess[0] + 1 / ess[1])
        sd = ours.std(("chain", "draw")).values
        off = (ours.mean(("chain", "draw")).values - theirs.mean(("chain", "draw")).values) / sd
        assert np.all(np.abs(off) < 5 * errors), name
        np.testing.assert_array_less(np.abs(np.log(theirs.std(("chain", "draw")).values / sd)), 5 * errors, name)


def test_sampling_with_nutpie_by_name(simple, monkeypatch):
    """The same tables and groups as with PyMC's steps; as many draws as are asked for."""
    result, reference = simple
    found = sample(result, draws=200, tune=200, chains=2, cores=2, sampler="nutpie", seed=8)
    ours, theirs = (tree.gradient.estimates for tree in (reference, found))
    assert theirs.method == "nuts"
    for name in ("itl_ratio", "gradient_x"):
        old, new = ours[name], theirs[name]
        errors = np.sqrt(1 / old["ess_bulk"] + 1 / new["ess_bulk"])
        assert abs(old["mean"] - new["mean"]) < 5 * errors * old["sd"], name
        assert abs(np.log(new["sd"] / old["sd"])) < 5 * errors, name
    tree = found.posterior
    assert set(tree.children) == set(reference.posterior.children)
    assert tree["posterior"].sizes["draw"] == 200
    assert {"lp", "energy", "diverging", "n_steps", "step_size", "acceptance_rate", "tree_depth"} <= set(
        tree["sample_stats"].data_vars
    )
    z = tree["unconstrained"]["z"].values[1, 7]
    np.testing.assert_allclose(
        result.objective.to_parameters(z)["gradient"], tree["posterior"]["gradient"].values[1, 7], rtol=1e-12
    )
    with pytest.raises(InputError, match="sampler 'numpyro' is not known: pymc or nutpie"):
        sample(result, sampler="numpyro")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("nutpie is not installed: pip install 'bayesflat[nutpie]'")):
        sample(result, sampler="nutpie")


def test_an_interrupted_nutpie_keeps_nothing(simple, monkeypatch):
    """It hands over what it has when it is interrupted."""
    whole = pm.sample
    monkeypatch.setattr(pm, "sample", lambda *, draws, **options: whole(draws=draws - 1, **options))
    with pytest.raises(KeyboardInterrupt):
        sample(simple[0], draws=5, tune=5, chains=1, cores=1, sampler="nutpie")


def test_interrupted_sampling_leaves_no_process(simple, monkeypatch):
    whole = Chains.advance

    def interrupted(self, *args, **options):
        whole(self, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Chains, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(simple[0], draws=5, tune=5, chains=2, cores=2)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_said(simple, monkeypatch):
    monkeypatch.setattr(draws, "_follow", lambda *_: os._exit(9))
    with pytest.raises(InputError, match="a process that was sampling was killed, perhaps because memory ran out"):
        sample(simple[0], draws=5, tune=5, chains=2, cores=2)


def test_laplace_likelihood_is_not_sampled(small_camera):
    result = fit(noisy_flat(small_camera), config_with("laplace", do_constrain_zero=False))
    with pytest.raises(InputError, match="NUTS needs likelihood normal or student_t"):
        sample(result)
