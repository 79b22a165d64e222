"""Importance draws about the maximum: weights against known densities; `tests/benchmarks` has errors against NUTS."""

import logging
import re

import arviz as az
import numpy as np
import pytest
from scipy.special import logsumexp

from bayesflat.data.camera import Camera
from bayesflat.inference import importance
from bayesflat.inference.fitting import fit, fit_data
from bayesflat.inference.importance import laplace_draws, laplace_note, weighted_draws
from bayesflat.inference.laplace import loosely_known
from bayesflat.inference.loo import leave_one_out
from bayesflat.report.fit_page import fit_report
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import CENTROID_AND_PLANE, NODES, VALUES, config_with, message, noisy_flat, small_config

NAMES = ("itl_ratio", "centroid_delta", "gradient")


def corner(camera, n):
    """The n by n detectors in the middle of the small camera's lower left."""
    return Camera(f"{n}x{n}", [camera[5 * j + i] for j in range(n) for i in range(n)])


@pytest.fixture(scope="module")
def nine(small_camera):
    """Nine detectors, of which a centroid is hardly known: its posterior is far from normal."""
    return fit(noisy_flat(corner(small_camera, 3), centroid_delta=(0.3, -0.2)), small_config(seed=1))


def test_a_normal_posterior_stays_as_it_is(small_camera):
    """Thousands of independent bins: means and widths are Laplace's, to the error of the draws, with a small k."""
    white = Light(radial=(NODES, VALUES), itl_ratio=0.9, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))
    binned = simulate_binned(small_camera, white, Noise(white=0.005), 4, bin_factor=20, detector_boundary=0)
    result = fit(binned, config_with("normal", **CENTROID_AND_PLANE))
    tree = laplace_draws(result, 800, seed=3)
    attrs = tree["posterior"].attrs
    assert attrs["pareto_k"] < 0.5
    assert attrs["corrected"] == 1
    n = attrs["importance_ess"]
    assert n > 300
    for name in NAMES:
        drawn = np.atleast_2d(tree["posterior"][name].values.reshape(800, -1).T)
        for k, axis in enumerate(["_x", "_y"] if len(drawn) > 1 else [""]):
            row = result.gradient.estimates[f"{name}{axis}"]
            assert abs(drawn[k].mean() - row["mean"]) < 4.5 * row["sd"] / n**0.5, name
            assert abs(np.log(drawn[k].std() / row["sd"])) < 4.5 / (2 * n) ** 0.5, name


def test_weights_are_those_of_the_posterior(nine):
    """Any two proposals have the same weighted moments; here one whose centroids lie elsewhere."""
    result, objective = nine, nine.objective
    here = objective.slices["centroid_delta"]
    found = []
    for shift in (0.0, 0.3):
        rngs = np.random.default_rng(5).spawn(250)
        centre, spread = result.map.value[here] + shift, 2.0 * result.laplace.covariance[here, here]
        one = importance._drawn(objective, result.map.value, result.coordinates, centre, spread, rngs)
        weight = np.exp(one.log_weight)
        assert weight.sum() == pytest.approx(1.0)
        mean = weight @ one.z[:, here]
        found.append((mean, np.sqrt(weight @ (one.z[:, here] - mean) ** 2), one.ess))
    (mean, sd, ess), (other, other_sd, other_ess) = found
    errors = np.sqrt(1 / ess + 1 / other_ess)
    assert np.all(np.abs(mean - other) < 4.5 * sd * errors)
    assert np.all(np.abs(np.log(sd / other_sd)) < 4.5 * errors)


def test_the_linear_part_is_exact(nine, rng):
    """Whatever the coefficients of the curve, the density of all others is the same; and draws have their curvature."""
    objective = nine.objective
    linear = np.arange(objective.n_mean)[objective.linear]
    z = nine.map.value.copy()
    z[objective.slices["centroid_delta"]] += 0.4
    _, gradient, curvature = objective.derivatives(z)
    block = curvature[np.ix_(linear, linear)]
    expected = importance._draw_linear(objective, z.copy(), block, rng)
    points = []
    for _ in range(60):
        moved = z.copy()
        moved[linear] += 0.5 * rng.standard_normal(len(linear))
        assert importance._draw_linear(objective, moved, block, rng) == pytest.approx(expected, abs=1e-7)
        points.append(moved[linear])
    for name in ("itl_ratio", "gradient"):  # of which this block knows nothing
        moved[objective.slices[name]] += 0.2
    elsewhere = objective.derivatives(moved)[2][np.ix_(linear, linear)]
    np.testing.assert_allclose(elsewhere, block, atol=1e-9 * np.abs(block).max())
    away = np.array(points) - (z[linear] - np.linalg.solve(block, gradient[linear]))
    chi2 = np.einsum("ij,jk,ik->i", away, block, away)
    assert chi2.mean() == pytest.approx(len(linear), abs=4.5 * np.sqrt(2 * len(linear) / 60))


def test_processes_change_no_draw(nine):
    """Each draw has a seed of its own, whoever makes it."""
    fitted = nine.objective, nine.map.value, nine.coordinates, nine.laplace.covariance
    one, two = (weighted_draws(*fitted, 104, np.random.default_rng(7), cores) for cores in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.log_weight, two.log_weight)
    assert len(np.unique(one.z, axis=0)) == 104


def test_what_the_mean_alone_tells_is_part_of_the_whole(nine):
    """Cost, gradient and curvature without the scales' are the same numbers, and the curve's exact."""
    objective = nine.objective
    z = nine.map.value + 0.1
    cost, gradient, curvature = objective.derivatives(z)
    n = objective.n_mean
    found = objective.by_mean(z.copy())
    assert found[0] == cost == objective.slope_by_mean(z)[0]
    np.testing.assert_array_equal(found[1], gradient[:n])
    np.testing.assert_array_equal(objective.slope_by_mean(z)[1], gradient[:n])
    np.testing.assert_allclose(found[2], curvature[:n, :n], rtol=1e-12, atol=1e-12 * np.abs(curvature).max())


def test_resampled_draws_are_as_often_as_their_weights(rng):
    weight = np.array([0.5, 0.3, 0.15, 0.05])
    found = importance.Weighted(np.arange(4.0)[:, None], np.log(weight), 0.1)
    assert found.ess == pytest.approx(1 / np.sum(weight**2))
    counts = sum(np.bincount(found.resampled(rng)[:, 0].astype(int), minlength=4) for _ in range(2000))
    np.testing.assert_allclose(counts / 8000, weight, atol=0.015)


def test_weights_that_do_not_settle_are_refused(nine, monkeypatch, caplog):
    """Centroids from a density far too narrow: its tails are never seen, and Pareto's k tells."""
    whole = weighted_draws

    def narrow(objective, best, coordinates, covariance, draws, rng, cores):
        here = objective.slices["centroid_delta"]
        monkeypatch.setattr(importance, "_SOME", 1e-9)
        spread = 0.02 * covariance[here, here]
        return importance._drawn(objective, best, coordinates, best[here], spread, rng.spawn(draws))

    monkeypatch.setattr(importance, "weighted_draws", narrow)
    caplog.set_level(logging.WARNING, "bayesflat")
    tree = laplace_draws(nine, 200)
    attrs = tree["posterior"].attrs
    assert attrs["pareto_k"] > 0.7
    assert attrs["corrected"] == 0
    assert np.ptp(tree["sample_stats"]["log_weight"].values) > 1
    assert "its errors stay as they are; sample the posterior instead (--sample)" in caplog.text
    monkeypatch.setattr(importance, "weighted_draws", whole)


def test_what_cannot_be_drawn_is_said(small_camera, nine):
    kinked = fit(noisy_flat(small_camera), config_with("laplace", do_constrain_zero=False))
    assert message(laplace_draws, kinked) == (
        "draws about the maximum need likelihood normal or student_t: laplace has no curvature there"
    )
    with pytest.raises(ValueError, match="draws is 50; weights need 100 at least"):
        laplace_draws(nine, 50)


def test_log_and_report_say_where_laplace_is_loose(small_camera, nine, caplog):
    """By how much, from the draws that anyone has who asks for as many; 25 detectors are enough."""
    caplog.set_level(logging.INFO, "bayesflat")
    page = fit_report(nine)
    (note,) = re.findall(r"With few detectors their scatter is loosely known \(([^)]*)\)[^<]*centroid ([\d.]+), ", page)
    assert re.fullmatch(r"(detector (itl|rest) to a factor of [\d.]+(, )?)+", note[0])
    drawn = laplace_draws(nine, 200)["posterior"]["centroid_delta"].sel(axis="x").values.std()
    assert note[1] == f"{drawn / nine.gradient.estimates['centroid_delta_x']['sd']:.1f}"
    assert "so many times Laplace&#x27;s" in page or "so many times Laplace's" in page
    caplog.clear()
    many = fit(noisy_flat(small_camera, centroid_delta=(0.3, -0.2)), small_config(seed=1))
    assert loosely_known(many.objective, many.laplace) == {}
    assert laplace_note(many) == ""
    assert "few detectors tell of their scatter" not in caplog.text
    fit(noisy_flat(corner(small_camera, 2)), small_config())
    assert "few detectors tell of their scatter (detector itl to a factor of" in caplog.text


# of few draws, which Pareto's k of single detectors is near the limit for
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.parametrize(
    "left_out", [12, pytest.param(6, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_leave_one_out_is_that_of_refits(nine, left_out):
    """The same bins, weights and knots without a detector: what the draws of that fit make of its values."""
    objective, data = nine.objective, nine.data
    index = int(np.flatnonzero(objective.noise.detectors == left_out)[0])
    refit = fit_data(data.select(data.binned.detector != left_out), nine.config)
    tree = laplace_draws(refit, 600)
    assert tree["posterior"].attrs["corrected"] == 1
    z = tree["unconstrained"]["z"].values.reshape(-1, objective.size)
    patterns = tree["posterior"]["shared_pattern"].values.reshape(len(z), *objective.noise.shared_scale.shape)
    found = []
    for point, pattern in zip(z, patterns, strict=True):
        parameters = refit.objective.to_parameters(point)
        here = np.concatenate([p.to_value(parameters[p.name]) for p in objective.parameters])
        found.append(objective.log_likelihood_given(here, pattern)[index])
    refitted = float(logsumexp(found)) - np.log(len(found))
    exact = leave_one_out(nine).elpd[index]  # at the noise scales of the fit
    assert refitted == pytest.approx(exact, abs=0.02 * abs(exact))
    loo = az.loo(laplace_draws(nine, 600), pointwise=True)
    if loo.pareto_k.values[index] < 0.7:
        assert loo.elpd_i.values[index] == pytest.approx(refitted, abs=0.02 * abs(exact))
