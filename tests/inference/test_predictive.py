"""Predictive checks: the spread of replicates by hand, flats drawn from the model, and misfits that must show."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstest

from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.fitting import fit
from bayesflat.inference.groups import draw_prior
from bayesflat.inference.map import make_objective
from bayesflat.inference.predictive import posterior_predictive, prior_predictive
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import with_radial

NODES = [0.0, 20.0, 40.0, 55.0, 65.0, 80.0]
VALUES = [1.0, 0.98, 0.9, 0.75, 0.6, 0.4]
NOTHING = np.log(1e-7)


LIGHT = Light(radial=(NODES, VALUES), itl_ratio=0.9)


def log_curve(radius):
    """Log of the radial function of hierarchical noise: a parabola, which a cubic B-spline follows exactly."""
    return -0.5 * (radius / 60) ** 2


def made(camera, *, bin_factor=20, normalize=True, **options):
    """A flat that is exactly the mean of `fitted`, and the configuration to fit it."""
    binned = simulate_binned(camera, LIGHT, Noise.none(), 1, bin_factor=bin_factor, detector_boundary=0)
    options = {"noise": "hierarchical", "radial_spline_nodes": NODES, "do_constrain_zero": False} | options
    config = FitConfig(do_normalize_center=normalize, centroid_max=2.0, **options)
    data = prepare(binned, config)
    if config.noise == "hierarchical":
        data = with_radial(data, curve=lambda radius: log_curve(radius) + np.log(data.level))
    return replace(data, value=true_mean(data)), config


def fitted(data, config, *, covariance=None, **scales):
    """A stand-in for a fit that has found the truth and these scales; with independent noise, ``white`` alone."""
    objective = make_objective(data, config)
    truth = {"itl_ratio": 0.9}
    if config.noise == "hierarchical":
        truth["log_radial"] = data.radial.mean
        labels = objective.noise.labels
        truth["log_noise_scales"] = np.full(len(labels), NOTHING)
        for label, scale in scales.items():
            truth["log_noise_scales"][labels.index(label.replace("_", " "))] = np.log(scale)
    else:
        truth["radial_spline_values"] = np.array(VALUES) * data.level / VALUES[0]
        truth["log_noise_scale"] = np.log(scales["white"])
    z = np.concatenate([p.to_value(truth.get(p.name, np.zeros(p.mu.shape))) for p in objective.parameters])
    cov = np.zeros((len(z), len(z)))
    for name, sd in (covariance or {}).items():
        here = objective.slices[name]
        cov[here, here] = sd**2
    return SimpleNamespace(
        objective=objective,
        config=config,
        map=SimpleNamespace(value=z),
        laplace=SimpleNamespace(centre=z, covariance=cov),
    )


def spread(groups):
    """Standard deviation of the replicates, from their 90% interval."""
    return (groups.high - groups.low) / (2 * 1.645)


def is_itl(camera, groups):
    return np.array([camera[int(number)].is_itl for number in groups.at])


def true_mean(data):
    """The mean of the fit's stand-in, written out."""
    if data.radial is not None:
        return np.exp(log_curve(data.radius)) * np.where(data.itl, 0.9, 1.0) * data.level
    return LIGHT.evaluate(data.binned.xf, data.binned.yf, data.itl) * data.level


# ---- replicates ----


def test_own_detectors_scatter_alone(small_camera):
    result = fitted(*made(small_camera), detector_itl=0.02, detector_rest=0.005)
    check = posterior_predictive(result, 800, seed=1)
    itl = is_itl(small_camera, check.detector)
    # 2.5% for the spread of 800 draws, the mean of ten detectors and more
    assert spread(check.detector)[itl].mean() == pytest.approx(0.02, rel=0.05)
    assert spread(check.detector)[~itl].mean() == pytest.approx(0.005, rel=0.05)
    # the replicates' medians are about the mean, where the data lie exactly
    assert np.abs(check.detector.median / spread(check.detector)).max() < 0.2
    assert np.abs(check.detector.observed).max() < 1e-9
    assert check.outside == 0


@pytest.mark.parametrize("shared", [False, True])
def test_amplifiers_of_their_own_and_shared_ones(small_camera, shared):
    """A shared pattern averages out over a detector, but not over many; bins here lie in one amplifier each."""
    data, config = made(small_camera, bin_factor=25)
    scales = {"shared_amplifier_itl": 0.004, "shared_amplifier_rest": 0.004} if shared else {"amplifier": 0.004}
    check = posterior_predictive(fitted(data, config, **scales), 400, seed=1)
    binned = data.binned
    pattern = binned.amplifier + 16 * (data.itl if shared else binned.detector)
    azimuth = np.degrees(np.arctan2(binned.yf, binned.xf)) % 360
    members = {
        "detector": [binned.detector == n for n in check.detector.at],
        "azimuth": [np.abs(azimuth - at) < 7.5 for at in check.azimuth.at],
    }
    for name, groups in members.items():
        for here, found in zip(groups, spread(getattr(check, name)), strict=True):
            counts = np.unique_counts(pattern[here]).counts
            expected = 0.004 * np.sqrt(np.sum(counts**2)) / here.sum()
            assert found == pytest.approx(expected, rel=0.2)


def test_white_noise_averages(small_camera):
    data, config = made(small_camera)
    data.weight[::7] = 0.0
    data.value[::7] = 1e-3  # outliers, and of no weight
    check = posterior_predictive(fitted(data, config, white=0.004), 400, seed=2)
    for groups in (check.detector, check.radius, check.azimuth):
        assert groups.n_bins.sum() == np.sum(data.weight > 0)
        ratio = spread(groups) / ((0.004 + 5e-5) / np.sqrt(groups.n_bins))
        assert ratio.mean() == pytest.approx(1.0, rel=0.05)
        assert np.abs(groups.observed).max() < 1e-9


@pytest.mark.parametrize(("likelihood", "variance"), [("normal", 1.0), ("student_t", 2.0), ("laplace", 2.0)])
@pytest.mark.parametrize("normalize", [True, False])
def test_independent_noise(small_camera, likelihood, variance, normalize):
    data, config = made(small_camera, noise="independent", likelihood=likelihood, normalize=normalize)
    check = posterior_predictive(fitted(data, config, white=0.003), 300, seed=3)
    # the scale is a fraction of the level, not of the bin
    relative = data.level * (0.003 + 5e-5) / true_mean(data)
    for number, found in zip(check.detector.at, spread(check.detector), strict=True):
        here = data.binned.detector == number
        expected = np.sqrt(variance * np.sum(relative[here] ** 2)) / here.sum()
        assert found == pytest.approx(expected, rel=0.25)


def test_uncertainty_of_the_parameters_counts(small_camera):
    data, config = made(small_camera)
    result = fitted(data, config, covariance={"itl_ratio": 0.05})
    ratio = result.objective.parameters[1]
    check = posterior_predictive(result, 400, seed=4)
    itl = is_itl(small_camera, check.detector)
    expected = 0.05 * float(ratio.transform.scale) / 0.9
    assert spread(check.detector)[itl] == pytest.approx(expected, rel=0.12)
    assert spread(check.detector)[~itl].max() < 1e-4
    # the same from draws that are given, of which as many as wanted are used
    draws = np.random.default_rng(1).multivariate_normal(result.map.value, result.laplace.covariance, 3000)
    given = posterior_predictive(result, 400, seed=5, z=draws)
    assert given.n_draws == 400
    assert spread(given.detector)[itl] == pytest.approx(expected, rel=0.12)
    assert posterior_predictive(result, 400, z=draws[:50]).n_draws == 50


def test_replicates_are_of_the_centre_of_the_posterior(small_camera):
    """Where noise scales of the restricted likelihood are larger, they scatter by these."""
    result = fitted(*made(small_camera), white=0.003)
    here = result.objective.slices["log_noise_scales"]
    larger = result.objective.to_parameters(result.map.value)["log_noise_scales"]
    larger[0] = np.log(0.006)
    result.laplace.centre = result.map.value.copy()
    result.laplace.centre[here] = result.objective.parameters[-1].to_value(larger)
    check = posterior_predictive(result, 400, seed=2)
    ratio = spread(check.detector) / ((0.006 + 5e-5) / np.sqrt(check.detector.n_bins))
    assert ratio.mean() == pytest.approx(1.0, rel=0.05)


def test_the_seed_decides(small_camera):
    result = fitted(*made(small_camera), white=0.004)
    first, again, other = (posterior_predictive(result, 20, seed=seed) for seed in (0, None, 1))
    assert np.array_equal(first.detector.low, again.detector.low)  # the fit's own seed is 0
    assert not np.array_equal(first.detector.low, other.detector.low)


# ---- the data against them ----


def test_flats_of_the_model_itself_pass(small_camera):
    """Flats with detectors and white noise drawn here: p-values are uniform, and 90% of the groups lie within."""
    data, config = made(small_camera)
    mean, rng = true_mean(data), np.random.default_rng(6)
    inside, p_values = {"detector": [], "radius": [], "azimuth": []}, []
    for _ in range(20):
        offset = dict(zip([d.id for d in small_camera], rng.normal(0, 0.01, 25), strict=True))
        log = np.array([offset[n] for n in data.binned.detector.tolist()]) + rng.normal(0, 0.00305, len(data))
        flat = replace(data, value=mean * np.exp(log))
        check = posterior_predictive(
            fitted(flat, config, white=0.003, detector_itl=0.01, detector_rest=0.01), 100, int(rng.integers(1e6))
        )
        p_values.append(check.detector.p_value)
        for name, values in inside.items():
            values.append(1 - getattr(check, name).outside.mean())
    p_values = np.concatenate(p_values)
    assert kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(inside["detector"]) == pytest.approx(0.9, abs=0.05)
    for name in ("radius", "azimuth"):  # neighbours share detectors
        assert np.mean(inside[name]) == pytest.approx(0.9, abs=0.07)
    assert p_values.min() > 0


def test_scatter_that_the_model_does_not_know_fails(small_camera):
    data, config = made(small_camera)
    offset = np.random.default_rng(7).normal(0, 0.02, 25)[data.binned.detector]
    flat = replace(data, value=true_mean(data) * np.exp(offset))
    check = posterior_predictive(fitted(flat, config, white=0.003, detector_itl=0.005, detector_rest=0.005), seed=1)
    assert check.detector.outside.mean() > 0.4
    assert check.outside > 0.2


@pytest.mark.parametrize("noise", ["hierarchical", "independent"])
def test_a_ring_is_flagged_where_it_is(small_camera, noise):
    data, config = made(small_camera, noise=noise, bin_factor=10)
    rng = np.random.default_rng(8)
    ring = (data.radius > 30) & (data.radius < 37)
    value = true_mean(data) * np.exp(rng.normal(0, 0.003, len(data)))
    flat = replace(data, value=value * np.where(ring, 0.98, 1.0))
    check = posterior_predictive(fitted(flat, config, white=0.003), seed=1)
    half = 0.5 * data.radius.max() / 30
    within = (check.radius.at - half > 30) & (check.radius.at + half < 37)
    apart = (check.radius.at + half < 30) | (check.radius.at - half > 37)
    assert within.sum() >= 2
    assert check.radius.outside[within].all()
    assert check.radius.observed[within] == pytest.approx(np.log(0.98), abs=0.002)
    assert check.radius.p_value[within].max() == pytest.approx(2 / 101)
    assert check.radius.outside[apart].mean() < 0.35
    assert np.abs(check.radius.observed[apart]).max() < 0.005


def test_a_sector_is_flagged_where_it_is(small_camera):
    data, config = made(small_camera)
    azimuth = np.degrees(np.arctan2(data.binned.yf, data.binned.xf)) % 360
    rng = np.random.default_rng(8)
    value = true_mean(data) * np.exp(rng.normal(0, 0.001, len(data)))
    flat = replace(data, value=value * np.where((azimuth >= 105) & (azimuth < 135), 1.01, 1.0))
    check = posterior_predictive(fitted(flat, config, white=0.001), seed=1)
    high = check.azimuth.observed > 0.005
    assert check.azimuth.at[high] == pytest.approx([112.5, 127.5])
    assert check.azimuth.outside[high].all()


def test_posterior_errors(small_camera):
    result = fitted(*made(small_camera, do_fit_gradient=True), white=0.004)
    with pytest.raises(ValueError, match=r"z has the shape \(3, 2\); the model has \d+ parameters"):
        posterior_predictive(result, z=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="quantiles need 2"):
        posterior_predictive(result, 1)
    result.laplace = None
    with pytest.raises(ValueError, match="no normal approximation"):
        posterior_predictive(result)
    # a plane that falls below zero
    bad = result.map.value.copy()
    bad[result.objective.slices["gradient"]] = -50.0
    with pytest.raises(InputError, match="not positive everywhere in 4 draws from the posterior"):
        posterior_predictive(result, z=np.tile(bad, (4, 1)))
    some = posterior_predictive(result, z=np.vstack([np.tile(result.map.value, (5, 1)), bad]))
    assert (some.n_draws, some.n_skipped) == (5, 1)


# ---- the prior ----


@pytest.mark.parametrize(("mu", "sigma"), [([0.0, 0.0], 0.5), ([1.2, -0.9], 1.0), ([1.0, 0.5], 1e7)])
def test_centroids_of_the_prior_lie_in_the_disc(small_camera, mu, sigma):
    """Against draws of the normal, less those beyond the disc; a very wide one is uniform over the disc."""
    priors = {"centroid_delta": {"dist": "normal", "mu": mu, "sigma": sigma}}
    data, config = made(small_camera, do_fit_centroid=True, priors=priors)
    objective = make_objective(data, config)
    rng = np.random.default_rng(1)
    drawn = [objective.to_parameters(draw_prior(objective.parameters, rng)) for _ in range(1500)]
    places = np.array([d["centroid_delta"] for d in drawn])
    assert np.hypot(*places.T).max() < config.centroid_max
    if sigma > 10:
        others = 2 * config.centroid_max * (rng.random((20_000, 2)) - 0.5)
    else:
        others = rng.normal(mu, sigma, (20_000, 2))
    others = others[np.hypot(*others.T) < config.centroid_max]
    for axis in (0, 1):
        assert kstest(places[:, axis], others[:, axis]).pvalue > 1e-3
    assert kstest(np.hypot(*places.T), np.hypot(*others.T)).pvalue > 1e-3


def test_all_others_are_drawn_from_their_priors(small_camera):
    priors = {"itl_ratio": {"dist": "normal", "mu": 0.95, "sigma": 0.01}}
    data, config = made(small_camera, do_fit_gradient=True, priors=priors)
    objective = make_objective(data, config)
    rng = np.random.default_rng(1)
    drawn = [objective.to_parameters(draw_prior(objective.parameters, rng)) for _ in range(1500)]
    rim = np.hypot(data.dx, data.dy).max()
    expected = {"itl_ratio": (0.95, 0.01), "gradient": (0.0, 0.1 / rim)}
    expected["log_radial"] = data.radial.centre, np.sqrt(np.diag(np.linalg.inv(data.radial.precision)))
    expected |= {p.name: (p.mu, p.sigma) for p in objective.parameters if p.name not in expected}
    for name, (mu, sigma) in expected.items():
        values = np.array([np.ravel(d[name]) for d in drawn])
        assert np.all(np.abs(values.mean(0) - mu) < 5 * sigma / 1500**0.5)
        np.testing.assert_allclose(values.std(0), np.broadcast_to(sigma, values.shape[1:]), rtol=0.1)


def test_prior_check(small_camera):
    """The spread of the replicates is the prior's; the statistic is the log of the value itself."""
    priors = {
        "radial_spline_values": {"dist": "normal", "sigma": 1e-6},
        "itl_ratio": {"dist": "normal", "mu": 0.9, "sigma": 0.03},
        "log_noise_scale": {"dist": "normal", "mu": -7.0, "sigma": 0.01},
    }
    data, config = made(small_camera, noise="independent", likelihood="normal", priors=priors)
    check = prior_predictive(data, config, 300)
    assert (check.kind, check.n_draws, check.n_skipped) == ("prior", 300, 0)
    itl = is_itl(small_camera, check.detector)
    assert spread(check.detector)[itl] == pytest.approx(0.03 / 0.9, rel=0.15)
    assert spread(check.detector)[~itl].max() < 0.001
    for number, observed in zip(check.detector.at, check.detector.observed, strict=True):
        assert observed == pytest.approx(np.log(data.value[data.binned.detector == number]).mean())
    # the same of the flat as it comes
    prepared = prior_predictive(prepare(data.binned, config), config, 20)
    assert np.array_equal(prior_predictive(data.binned, config, 20).detector.low, prepared.detector.low)


def test_prior_check_of_the_radial_function(small_camera):
    """Of a flat as it comes, with the knots of a first fit: the same as of the bins that a fit has left."""
    data, config = made(small_camera)
    found = fit(data.binned, config)
    check = prior_predictive(data.binned, config, 20)
    assert np.array_equal(check.radius.low, prior_predictive(found.data, found.config, 20).radius.low)
    # an unknown level alone scatters the replicates by its prior
    assert check.radius.high[0] - check.radius.low[0] > 0.1


def test_prior_draws_that_are_not_positive_are_replaced(small_camera):
    priors = {"radial_spline_values": {"dist": "normal", "sigma": 0.6}}
    data, config = made(small_camera, noise="independent", priors=priors)
    check = prior_predictive(data, config, 40)
    assert check.n_draws == 40
    assert check.n_skipped > 10
    hopeless = {"radial_spline_values": {"dist": "normal", "mu": -5.0, "sigma": 0.1}}
    with pytest.raises(InputError, match="not positive everywhere in 100 draws from the prior"):
        prior_predictive(data, FitConfig(**config.model_dump() | {"priors": hopeless}), 2)


def test_a_flat_prior_has_no_draws(small_camera):
    data, config = made(small_camera, priors={"itl_ratio": "flat"})
    with pytest.raises(InputError, match=r"priors\.itl_ratio: a flat prior has no draws"):
        prior_predictive(data, config)


def test_slopes_that_detectors_share_stay_as_they_are(small_camera):
    """Of a flat whose detectors all rise by 2% along x: replicates have that, and scatter no more than without it."""
    spreads = []
    for slope in (0.0, 0.02):
        noise = Noise(white=0.002, detector_scatter=0.002, shared_slope=(slope, slope))
        binned = simulate_binned(small_camera, LIGHT, noise, 3, bin_factor=20, detector_boundary=0)
        check = posterior_predictive(fit(binned, FitConfig()), 200, seed=1)
        assert check.outside < 0.2  # a tenth, of 25 detectors and as many rings and sectors
        spreads.append(np.median(spread(check.azimuth)))
    assert spreads[1] == pytest.approx(spreads[0], rel=0.1)
