"""NUTS on a small camera: draws against Laplace and identities, and the diagnostics of chains."""

import logging
import multiprocessing
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from pymc.step_methods.step_sizes import DualAverageAdaptation
from scipy.stats import multivariate_normal, norm

from bayesflat.errors import InputError
from bayesflat.inference import coordinates, diagnostics, draws, nuts
from bayesflat.inference.chains import Chains
from bayesflat.inference.diagnostics import compare_with_laplace, diagnose
from bayesflat.inference.fitting import fit, sample
from bayesflat.inference.projection import Curve, fit_nodes
from bayesflat.model.build import build_model
from bayesflat.model.coordinates import Shape
from bayesflat.model.likelihood import LogLikelihood
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import CENTROID_AND_PLANE, NODES, VALUES, config_with, noisy_flat, small_config


@pytest.fixture(scope="module")
def fitted(small_camera):
    return fit(noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5)), small_config(seed=3))


@pytest.fixture(scope="module")
def sampled(fitted):
    """A few draws only: enough to test what is computed from them, too few to cover the posterior."""
    return sample(fitted, draws=15, tune=15, chains=2, cores=2)


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


def test_values_at_nodes_are_those_of_the_drawn_curves(sampled):
    """Against nodes that are fitted anew to each curve: linear to a part of the draws' scatter."""
    group, nodes = sampled.posterior["posterior"], sampled.projection.nodes
    drawn = group["radial_spline_values"].values.reshape(-1, len(nodes))
    spline, data = sampled.data.radial.spline, sampled.data
    cx, cy = sampled.map.parameters["centroid_delta"]
    radius = np.hypot(data.dx - cx, data.dy - cy)
    fitted_anew = []
    for coefficients in group["log_radial"].values.reshape(-1, spline.size):
        fitted_anew.append(fit_nodes(Curve.of_bins(spline, coefficients, radius, data.weight), nodes).values)
    off = (drawn - fitted_anew) / drawn.std(0)
    assert np.abs(off).max() < 0.15
    assert np.all(drawn.std(0) > 1e-4)
    row = sampled.gradient.estimates["radial_spline_values[2]"]
    assert row["mean"] == pytest.approx(drawn[:, 2].mean(), rel=1e-12)
    assert row["sd"] == pytest.approx(drawn[:, 2].std(ddof=1), rel=1e-12)


def test_log_prior_of_the_draws_is_pymcs(sampled):
    """Of each parameter, in product units; the radial function's has correlated components."""
    z = sampled.posterior["unconstrained"]["z"].values[1, 3]
    objective = sampled.objective
    p = objective.to_parameters(z)
    radial = sampled.data.radial
    found = {name: float(values.values[1, 3]) for name, values in sampled.posterior["log_prior"].data_vars.items()}
    centre, covariance = radial.centre, np.linalg.inv(radial.precision)
    assert found["log_radial"] == pytest.approx(
        multivariate_normal(centre, covariance, allow_singular=True).logpdf(p["log_radial"]), rel=1e-6
    )
    for one in objective.parameters[1:]:
        assert found[one.name] == pytest.approx(norm.logpdf(p[one.name], one.mu, one.sigma).sum(), rel=1e-9)


def test_ratio_of_the_draws_is_that_of_the_detectors_present(sampled):
    """Throughputs of the detectors average to 1 in each vendor."""
    throughput = sampled.posterior["posterior"]["throughput"]
    itl = [d.is_itl for d in sampled.data.binned.camera]
    np.testing.assert_allclose(throughput.values[..., np.array(itl)].mean(-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(throughput.values[..., ~np.array(itl)].mean(-1), 1.0, rtol=1e-12)


def test_log_likelihood_given_the_shared_pattern(fitted, rng):
    """Bayes' theorem for any pattern c: p(y) = p(y | c) p(c) / p(c | y)."""
    objective, z = fitted.objective, fitted.map.value
    drawn = objective.draw(z, rng)
    _, covariance, found = objective.effects(z)
    marginal = found.log_likelihood - np.log(fitted.data.value[fitted.data.weight > 0]).sum()
    bayes = drawn.log_likelihood.sum()
    for v, c in enumerate(drawn.shared):
        bayes += norm.logpdf(c, 0, np.sqrt(covariance.shared[v])).sum()
        bayes -= multivariate_normal(found.shared[v], covariance.shared_conditional[v], allow_singular=True).logpdf(c)
    assert bayes == pytest.approx(marginal, rel=1e-8)
    np.testing.assert_allclose(objective.log_likelihood_given(z, drawn.shared), drawn.log_likelihood, rtol=1e-10)


def test_independent_log_likelihood_by_detector_sums_to_pymcs(small_camera):
    for likelihood in ("normal", "student_t", "laplace"):
        result = fit(noisy_flat(small_camera), config_with(likelihood, do_constrain_zero=False))
        model = build_model(result.data, result.config)
        point = {p.value_name: result.map.value[result.objective.slices[p.name]].reshape(np.shape(p.mu))
                 for p in result.objective.parameters}  # fmt: skip
        by_bin = model.compile_logp(vars=model.observed_RVs, sum=False)(point)[0]
        total = result.objective.log_likelihood_by_detector(result.map.value).sum()
        assert total == pytest.approx(by_bin.sum(), rel=1e-9), likelihood


def test_posterior_is_a_datatree_for_arviz(sampled, tmp_path):
    tree = sampled.posterior
    tree.to_netcdf(tmp_path / "posterior.nc", engine="h5netcdf")
    back = xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf")
    xr.testing.assert_equal(back["posterior"].to_dataset(), tree["posterior"].to_dataset())
    assert list(back["posterior"]["node"].values) == NODES
    assert tree["log_likelihood"]["value"].dims == ("chain", "draw", "detector")


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


def test_divergent_draws_are_made_anew_with_shorter_steps(fitted, monkeypatch, caplog):
    """Steps so long that most diverge, then half of them: nothing of the first attempt is left."""
    caplog.set_level(logging.INFO, "bayesflat")
    monkeypatch.setattr(nuts, "LEVELS", ((1, 40.0), (1, 1.0)))
    monkeypatch.setattr(nuts, "_AtMost", _Always)
    result = sample(fitted, draws=30, tune=5, chains=2, cores=2)
    stats = result.posterior["sample_stats"].to_dataset()
    assert np.all(stats["step_size"] == 1.0)
    assert stats.sizes["draw"] == 30
    assert result.diagnostics.divergences == int(stats["diverging"].sum()) < 5
    assert [r for r in caplog.records if r.getMessage().startswith("divergent transitions: begun anew")]


class _Always(DualAverageAdaptation):
    """Steps of one length."""

    def current(self, tune):
        return self._initial_step

    def stats(self):
        return {"step_size": self._initial_step, "step_size_bar": self._initial_step}


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


def test_chains_in_threads_do_not_disturb_each_other(fitted):
    """The closed form at two places at once, many times: each as it is alone."""
    op = LogLikelihood(fitted.objective.noise)
    residual = np.log(fitted.data.value) - fitted.objective.log_mean(fitted.map.value)
    scales = fitted.objective.to_parameters(fitted.map.value)["log_noise_scales"]
    places = [(residual, scales), (1.3 * residual, scales + 0.4)]

    def at(place):
        outputs = [[None], [None], [None]]
        op.perform(None, place, outputs)
        return [output for (output,) in outputs]

    alone = [at(place) for place in places]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(at, places * 100))
    for k, found in enumerate(together):
        for one, other in zip(found, alone[k % 2], strict=True):
            np.testing.assert_array_equal(one, other)


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


# ---- diagnostics ----


def judged(rng, *, energy=None, divergences=0, knots=None, **draws):
    """`diagnose` of a model with the scalars a and b, or with coefficients whose mean is the radial function."""
    values = {name: rng.normal(size=(2, 500)) for name in "ab"} | draws
    names, radial = list(values), None
    if knots is not None:
        values["log_radial"], radial = (
            knots,
            SimpleNamespace(
                spline=SimpleNamespace(design=lambda radii: np.full((len(radii), knots.shape[-1]), 1 / knots.shape[-1]))
            ),
        )
        names = [*names, "log_radial"]
    energy = rng.normal(size=(2, 500)) if energy is None else energy
    diverging = np.arange(1000).reshape(2, 500) < divergences
    tree = az.from_dict({"posterior": values, "sample_stats": {"energy": energy, "diverging": diverging}})
    data = SimpleNamespace(radial=radial, radius=np.array([0.0, 50.0]))
    objective = SimpleNamespace(data=data, parameters=[SimpleNamespace(name=name) for name in names])
    return diagnose(tree, objective)


def wandering(rng, memory):
    """Two chains that forget slowly, with unit variance."""
    out = rng.normal(size=(2, 500))
    for k in range(1, 500):
        out[:, k] = memory * out[:, k - 1] + np.sqrt(1 - memory**2) * out[:, k]
    return out


def test_good_chains_pass(rng):
    a, b = rng.normal(size=(2, 2, 500))
    found = judged(rng, a=a, b=b)
    assert found.passed
    assert found.r_hat == max(float(az.rhat(x)) for x in (a, b))
    assert found.ess_bulk == min(float(az.ess(x)) for x in (a, b))
    assert found.ess_tail == min(float(az.ess(xr.DataArray(x, dims=("chain", "draw")), method="tail")) for x in (a, b))
    assert found.bfmi == pytest.approx(2.0, rel=0.2)  # independent draws


def test_bad_chains_fail_and_say_what_to_try(rng):
    apart = rng.normal(size=(2, 500)) + np.array([[0.0], [0.4]])
    # bold in some stretches and timid in others: the middle is met often, the tails seldom
    bursts = rng.normal(size=(2, 500)) * np.exp(2 * wandering(rng, 0.98))
    for given, message in (
        ({"b": apart}, "R-hat of b is 1.0"),
        ({"a": wandering(rng, 0.8)}, "bulk ESS of a is "),
        ({"a": bursts}, "tail ESS of a is "),
        ({"divergences": 3}, "3 divergent transitions"),
        # a random walk hardly moves from draw to draw
        ({"energy": np.cumsum(rng.normal(size=(2, 500)), axis=1)}, "E-BFMI is 0.0"),
    ):
        found = judged(rng, **given)
        assert not found.passed
        assert any(message in text for text in found.failures), message
        assert all("try" in text for text in found.failures)


def test_coefficients_are_judged_by_r_hat_alone(rng):
    """Two that differ from chain to chain, one up and one down: their mean, the radial function, is well known."""
    knots = rng.normal(size=(2, 500, 3))
    assert judged(rng, knots=knots).passed
    knots[1] += [0.5, -0.5, 0.0]
    found = judged(rng, knots=knots)
    (text,) = found.failures
    assert re.match(r"R-hat of log_radial\[[01]\] is 1\.0\d\d, above 1.02", text)
    assert found.r_hat < 1.01
    slow = np.stack([wandering(rng, 0.9), np.zeros((2, 500))], axis=-1)
    slow[..., 1] = rng.normal(size=(2, 500)) * 20 - slow[..., 0]
    found = judged(rng, knots=slow)
    assert not any("ESS" in text for text in found.failures)


def test_laplace_and_draws_are_compared():
    names = ["fine", "shifted", "wide", "held"]
    zeros, ones = np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0])
    found = compare_with_laplace(names, zeros, ones, np.array([0.4, 0.6, 0.0, 0.0]), np.array([1.0, 1.0, 1.5, 0.0]))
    assert found == [
        "shifted: the MAP is 0.6 sd from the median of the draws",
        "wide: the sd of the draws is 1.50 times Laplace's",
    ]
    assert diagnostics.SD_RATIO == (0.7, 1.4)
