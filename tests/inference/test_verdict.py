"""The verdict on a fit against what was done to the flat; detectors that are off as a whole."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import fit
from bayesflat.inference.odd import _far
from bayesflat.inference.verdict import judge_fit
from bayesflat.model.build import build_model
from bayesflat.model.hierarchical import HierarchicalNoise
from tests.helpers import CENTROID_AND_PLANE, config_with, noisy_flat, small_config

AUTO = small_config().replace(radial_spline_nodes="auto")
ODD = 7


@pytest.fixture(scope="module")
def flat(small_camera):
    """Within the last node of its radial function, where that has a kink."""
    found = noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))
    return found.select(np.hypot(found.xf, found.yf) < 58.0)


@pytest.fixture(scope="module")
def clean(flat):
    return fit(flat, AUTO)


@pytest.fixture(scope="module")
def with_odd(flat):
    """One detector, of those that are not ITL and away from the centre, reads 30% low."""
    return fit(replace(flat, value=np.where(flat.detector == ODD, 0.7, 1.0) * flat.value), AUTO)


def offset_of(result, number, amplifier=-1):
    offsets = result.gradient.offsets
    (row,) = np.flatnonzero((offsets.detector == number) & (offsets.amplifier == amplifier))
    return offsets.mean[row], offsets.sd[row]


def test_a_good_flat_is_good(clean, tmp_path):
    assert clean.judgement.word == "good", clean.judgement.reasons
    assert clean.judgement.reasons == ()
    clean.gradient.write(tmp_path / "a.fits")
    back = FlatGradient.read(tmp_path / "a.fits")
    assert back.estimates.header["VERDICT"][0] == "good"
    assert back.config["verdict_reasons"] == []


def test_a_detector_that_is_off_comes_back_as_it_is(clean, with_odd):
    """Relative to the mean of its vendor, in which it counts; as well known as before; and none of its bins is dust."""
    n = sum(not d.is_itl for d in clean.data.binned.camera)
    (was, _), (now, sd) = offset_of(clean, ODD), offset_of(with_odd, ODD)
    assert now == pytest.approx(0.7 * was / (1 - 0.3 * was / n), abs=4 * sd + 1e-4)
    assert sd < 0.005
    assert list(with_odd.data.odd) == [(ODD, -1)]
    spoilt = with_odd.data.weight[with_odd.data.binned.detector == ODD] == 0
    assert spoilt.mean() < 0.1


def test_a_detector_that_is_off_moves_nothing_else(clean, with_odd):
    """Plane, centroid, scatter, shape of the radial function; ratio and level are of all that are present."""
    before, after = clean.gradient.estimates, with_odd.gradient.estimates
    for name in ("gradient_x", "gradient_y", "centroid_delta_x", "centroid_delta_y"):
        assert abs(after[name]["mean"] - before[name]["mean"]) < 0.5 * before[name]["sd"], name
        assert after[name]["sd"] == pytest.approx(before[name]["sd"], rel=0.2), name
    scatter = "log_noise_scales[detector rest]"
    assert abs(after[scatter]["mean"] - before[scatter]["mean"]) < before[scatter]["sd"]
    radial = [
        result.gradient.normalization_factor * result.gradient.compute_radial(np.array([10.0, 30.0, 50.0]))
        for result in (with_odd, clean)
    ]
    n = sum(not d.is_itl for d in clean.data.binned.camera)
    level = 1 - 0.3 * offset_of(clean, ODD)[0] / n
    np.testing.assert_allclose(radial[0] / radial[1], level, rtol=1.5e-3)
    assert after["itl_ratio"]["mean"] * level == pytest.approx(before["itl_ratio"]["mean"], rel=1.5e-3)


def test_a_detector_that_is_off_is_named(clean, with_odd):
    found = with_odd.judgement
    assert found.word == "look"
    (reason,) = found.reasons
    name = with_odd.data.binned.camera[ODD].name
    pattern = rf"off as a whole: {name} \((\S+) ± (\S+)\); without them the ratio is (\S+), and the radial .* is (\S+)%"
    mean, sd, ratio, level = (float(number) for number in re.fullmatch(pattern, reason).groups())
    assert (mean, sd) == pytest.approx(offset_of(with_odd, ODD), abs=6e-5)
    assert ratio == pytest.approx(clean.gradient.itl_ratio, rel=2e-3)
    n = sum(not d.is_itl for d in clean.data.binned.camera)
    assert level == pytest.approx(100 * 0.3 / n, rel=0.1)


def test_what_only_a_first_fit_found_off_is_not_named(clean, with_odd):
    """As amplifiers at a steep rim, which are like the others in the end; what is off indeed is named beside them."""
    wrong = {(ODD, 3): 7.0, (ODD + 1, -1): 7.0}
    assert judge_fit(replace(clean.data, odd=wrong), clean.gradient, None, ()).reasons == ()
    found = judge_fit(replace(with_odd.data, odd=with_odd.data.odd | wrong), with_odd.gradient, None, ())
    assert found.reasons == with_odd.judgement.reasons


def test_the_odd_detectors_variance_is_in_the_covariance(with_odd):
    """Against the dense covariance: a constant of the odd detector more, and nothing else."""
    data, objective = with_odd.data, with_odd.objective
    noise, scales = objective.noise, objective.to_parameters(with_odd.map.value)["log_noise_scales"]
    plain = HierarchicalNoise(replace(data, odd={}))
    assert noise.labels == plain.labels
    dense = []
    for one in (noise, plain):
        own, shared, white = one.variances(scales)
        u, vendor, detector = one.effects.design(), one.effects.vendor[one.effects.detector], one.effects.detector
        times = one.effects.times[detector]
        same, alike = detector[:, None] == detector, vendor[:, None] == vendor
        o, s = one.effects.own, one.effects.shared
        found = np.where(same, (u[:, o] * own[vendor] * times**2) @ u[:, o].T, 0.0)
        dense.append(found + np.where(alike, (u[:, s] * shared[vendor]) @ u[:, s].T, 0.0) + white * np.eye(len(data)))
    odd = (data.binned.detector == ODD).astype(float)
    variance = np.exp(2 * scales[noise.labels.index("detector rest")])
    np.testing.assert_allclose(
        dense[0] - dense[1], (data.odd[ODD, -1] ** 2 - 1) * variance * np.outer(odd, odd), atol=1e-12
    )
    slices = objective.slices
    density = build_model(data, with_odd.config, noise).compile_logp(jacobian=False)
    points = [
        {p.value_name: (with_odd.map.value + step)[slices[p.name]].reshape(p.mu.shape) for p in objective.parameters}
        for step in (0.0, 0.01)
    ]
    ours = objective(with_odd.map.value + 0.01) - objective(with_odd.map.value)
    assert float(density(points[0])) - float(density(points[1])) == pytest.approx(ours, rel=1e-6)


def test_an_amplifier_that_is_off_comes_back_as_it_is(flat, clean):
    """10% low, relative to its detector, which loses its share of that; named; nothing else moves, no bin is dust."""
    here = (flat.detector == ODD) & (flat.amplifier == 3)
    result = fit(replace(flat, value=np.where(here, 0.9, 1.0) * flat.value), AUTO)
    assert list(result.data.odd) == [(ODD, 3)]
    rows = (result.data.binned.detector == ODD) & (result.data.binned.amplifier == 3)
    assert np.mean(result.data.weight[rows] == 0) < 0.1
    (was, _), (now, sd) = offset_of(clean, ODD, 3), offset_of(result, ODD, 3)
    assert now == pytest.approx(0.9 * was, abs=4 * sd + 1e-3)  # and 0.1 / 16 less in a mean of sixteen
    assert sd < 0.01
    before, after = clean.gradient.estimates, result.gradient.estimates
    for name in ("gradient_x", "gradient_y", "centroid_delta_x", "log_noise_scales[amplifier]"):
        assert abs(after[name]["mean"] - before[name]["mean"]) < before[name]["sd"], name
    assert result.judgement.word == "look"
    name = result.data.binned.camera[ODD].name
    assert result.judgement.reasons == (f"off as a whole: {name} amplifier 3 ({now:.4f} ± {sd:.4f})",)


def test_flats_that_were_normalized_one_by_one_are_named(flat):
    medians = np.array([np.median(flat.value[flat.detector == number]) for number in range(25)])
    result = fit(replace(flat, value=flat.value / medians[flat.detector]), AUTO)
    assert any(text.startswith("all detectors have the same median") for text in result.judgement.reasons)
    assert result.judgement.word in ("look", "unusable")


def test_other_reasons(clean, flat):
    gradient, data = clean.gradient, clean.data
    misfit = clean.projection.misfit.copy()
    misfit[5] = 7.0
    projection = replace(clean.projection, misfit=misfit)
    (reason,) = judge_fit(data, gradient, projection, ()).reasons
    where = projection.radius[5]
    assert reason == f"the spline through the nodes misses the fitted curve by 7 mmag at {where:.0f} mm"
    dust = (data.binned.detector == 12) & (np.arange(len(data)) % 4 > 0)
    dusty = replace(data, weight=np.where(dust, 0.0, data.weight))
    (reason,) = judge_fit(dusty, gradient, None, ()).reasons
    assert re.fullmatch(r"most bins are outliers in R22_S00 \(7\d%\)", reason)
    failed = judge_fit(data, gradient, projection, ("not converged",))
    assert (failed.word, failed.reasons) == ("unusable", ("not converged",))
    independent = fit(flat, config_with("student_t", **CENTROID_AND_PLANE))
    assert independent.judgement.word == "look"
    assert independent.judgement.reasons[0].endswith("fit with noise = hierarchical")


@pytest.mark.parametrize(("n", "scatter"), [(117, 0.08), (72, 0.06), (9, 0.08), (3, 0.01)])
@pytest.mark.parametrize("reads", [0.7, 1.4])
def test_a_detector_far_from_its_vendors_others_is_odd_however_these_scatter(n, scatter, reads):
    """Where detectors scatter by 8%, 0.7 is within five standard deviations."""
    others = scatter * norm.ppf((np.arange(n) + 0.5) / n)
    values, itl = np.concatenate([others, [np.log(reads)], others]), np.arange(2 * n + 1) <= n
    assert list(_far(values, itl)) == [n]
    values[n] = 0.0
    assert _far(values, itl) == {}
