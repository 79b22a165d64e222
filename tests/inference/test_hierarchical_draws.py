"""NUTS with hierarchical noise: what is computed from a few draws, and what becomes of divergent ones."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from pymc.step_methods.step_sizes import DualAverageAdaptation
from scipy.stats import multivariate_normal, norm

from bayesflat.inference import nuts
from bayesflat.inference.fitting import fit, sample
from bayesflat.inference.projection import Curve, fit_nodes
from bayesflat.model.likelihood import LogLikelihood
from tests.helpers import NODES, noisy_flat, small_config


@pytest.fixture(scope="module")
def fitted(small_camera):
    return fit(noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5)), small_config(seed=3))


@pytest.fixture(scope="module")
def sampled(fitted):
    """A few draws only: enough to test what is computed from them, too few to cover the posterior."""
    return sample(fitted, draws=15, tune=15, chains=2, cores=2)


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


def test_posterior_is_a_datatree_for_arviz(sampled, tmp_path):
    tree = sampled.posterior
    tree.to_netcdf(tmp_path / "posterior.nc", engine="h5netcdf")
    back = xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf")
    xr.testing.assert_equal(back["posterior"].to_dataset(), tree["posterior"].to_dataset())
    assert list(back["posterior"]["node"].values) == NODES
    assert tree["log_likelihood"]["value"].dims == ("chain", "draw", "detector")


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
