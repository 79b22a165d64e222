"""Hierarchical noise: PyMC's density against a dense covariance, and a focal plane whose detectors scatter."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import make_interp_spline
from scipy.stats import multivariate_normal, norm

from bayesflat.config import FitConfig
from bayesflat.data.camera import lsstcam
from bayesflat.errors import InputError
from bayesflat.inference.fitting import fit
from bayesflat.inference.hierarchical import HierarchicalObjective
from bayesflat.inference.linalg import curvature_root
from bayesflat.inference.map import compile_density
from bayesflat.inference.rough import rough_fit
from bayesflat.model.build import build_model
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.log_mean import LogMean
from bayesflat.model.noise import FLOOR
from bayesflat.model.parameters import mean_parameters
from bayesflat.model.prepare import prepare
from bayesflat.model.start import estimate
from bayesflat.simulation.detectors import SimulatedDetectors, simulate_binned, true_parameters
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import (
    LSST_NODES,
    LSST_VALUES,
    NODES,
    VALUES,
    every_switch,
    hierarchical_config,
    small_config,
    small_flat,
    with_radial,
)


@pytest.fixture(params=["both", "itl"])
def case(request, small_camera, rng):
    config = hierarchical_config(**every_switch()[-1])
    data = with_radial(prepare(small_flat(small_camera, rng, n=150, vendors=request.param), config))
    data.weight[rng.choice(len(data), 10, replace=False)] = 0.0
    return data, config


def objective_of(data, config):
    noise, start = HierarchicalNoise(data), estimate(data, config)
    parameters = mean_parameters(data, config, start) + noise.parameters(data, config, start)
    return HierarchicalObjective(data, config, noise, parameters)


def a_point(objective, rng, scale=0.2):
    """Values about those of the prior; the curve is moved by a few per cent, coefficient by coefficient."""
    z = rng.normal(0, scale, objective.size)
    z[objective.slices["log_radial"]] *= 5
    return z


def mean_by_hand(data, config, p):
    """What the bins should read: SciPy's spline and the terms, written out; no bin lies beyond the last knot."""
    cx, cy = p["centroid_delta"]
    radius = np.hypot(data.dx - cx, data.dy - cy)
    log_radial = make_interp_spline(
        data.radial.spline.places, data.radial.spline.evaluate(p["log_radial"], data.radial.spline.places),
        t=data.radial.spline.knots,
    )  # fmt: skip
    assert radius.max() < data.radial.spline.knots[-1]
    mean = np.exp(log_radial(radius)) * np.where(data.itl, p.get("itl_ratio", 1.0), 1.0)
    mean /= 1 + p["gradient"][0] * data.dx + p["gradient"][1] * data.dy
    beyond = np.hypot(data.dx, data.dy) >= config.outer_gradient_radius
    return mean / np.where(beyond, 1 + p["outer_gradient"][0] * data.dx + p["outer_gradient"][1] * data.dy, 1.0)


def share(edge, length, amplifiers, size):
    """Part of a bin, as far as it lies on the detector, that lies in each amplifier, in one direction."""
    first, last = max(edge - size / 2, 0.0), min(edge + size / 2, length)
    ends = np.clip([length * k / amplifiers for k in range(amplifiers + 1)], first, last)
    return np.diff(ends) / (last - first)


def smooth_functions(x):
    """Eigenfunctions of a field of scale 0.375 over 0 .. 1, of rms 1, by Nyström's method: (n, 7)."""
    at, weight = np.polynomial.legendre.leggauss(60)
    at, weight = (at + 1) / 2, weight / 2
    field = np.exp(-((at[:, None] - at) ** 2) / (2 * 0.375**2))
    values, vectors = np.linalg.eigh(np.sqrt(weight)[:, None] * field * np.sqrt(weight))
    beside = np.exp(-((np.asarray(x)[:, None] - at) ** 2) / (2 * 0.375**2))
    return (beside * np.sqrt(weight) @ vectors / values)[:, :-8:-1]


def dense_log_likelihood(data, mean, scales):
    """Written out bin by bin from the labels of the scales; the density of the values, not of their logs."""
    camera, n = data.binned.camera, len(data)
    vendor = np.where(data.itl, "itl", "rest")
    px, py = np.empty(n), np.empty(n)
    for i in range(n):
        px[i], py[i] = camera[int(data.binned.detector[i])].focal_plane_to_pixel(data.binned.xf[i], data.binned.yf[i])
    x, y = px + 0.5, py + 0.5  # from the edge, detectors of 200 x 200 pixels of 0.1 mm
    columns = {}
    amplifiers = [np.outer(share(b, 200, 2, data.bin_size), share(a, 200, 8, data.bin_size)).ravel()
                  for a, b in zip(x, y, strict=True)]  # fmt: skip
    columns["amplifier"] = np.array(amplifiers)
    along_x, along_y = smooth_functions(x / 200), smooth_functions(y / 200)
    for total in range(7):
        columns[f"surface {total}"] = np.stack(
            [along_x[:, a] * along_y[:, total - a] for a in range(total + 1)], axis=1
        )
    slope = np.sqrt(3) * np.stack([x / 100 - 1, y / 100 - 1], axis=1)
    rim = np.stack([np.exp(-d * 0.1) - 1 / 20 for d in (x, 200 - x, y, 200 - y)], axis=1)  # fades within 1 mm of 20
    smaller = {f"surface {k}": 0.5**k for k in range(7)}
    covariance = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if vendor[i] != vendor[j]:
                continue
            v = vendor[i]
            both = {name: u[i] @ u[j] for name, u in columns.items()}
            covariance[i, j] += scales[f"shared amplifier {v}"] ** 2 * both["amplifier"]
            covariance[i, j] += 0.01**2 * (slope[i] @ slope[j])
            covariance[i, j] += sum((scales[f"shared surface {v}"] * f) ** 2 * both[k] for k, f in smaller.items())
            covariance[i, j] += scales["shared rim"] ** 2 * (rim[i] @ rim[j])
            if data.binned.detector[i] == data.binned.detector[j]:
                covariance[i, j] += scales[f"detector {v}"] ** 2
                covariance[i, j] += sum(scales[name] ** 2 * product for name, product in both.items())
    covariance += np.eye(n) * (FLOOR + scales["white"]) ** 2
    good = data.weight > 0
    logs = np.log(data.value[good])
    return multivariate_normal(np.log(mean[good]), covariance[np.ix_(good, good)]).logpdf(logs) - logs.sum()


def test_pymcs_density_equals_the_dense_one(case, rng):
    data, config = case
    model = build_model(data, config)
    density, objective, prior = compile_density(model), objective_of(data, config), data.radial
    assert [p.value_name for p in objective.parameters] == [v.name for v in model.value_vars]
    offsets = []
    for _ in range(3):
        z = a_point(objective, rng)
        p = objective.to_parameters(z)
        scales = dict(zip(objective.noise.labels, np.exp(p["log_noise_scales"]), strict=True))
        expected = dense_log_likelihood(data, mean_by_hand(data, config, p), scales)
        expected += multivariate_normal(prior.centre, np.linalg.inv(prior.precision)).logpdf(p["log_radial"])
        expected += sum(norm(q.mu, q.sigma).logpdf(p[q.name]).sum() for q in objective.parameters[1:])
        value, gradient = density(z)
        assert -value == pytest.approx(expected, rel=1e-8)
        cost, ours, _ = objective.derivatives(z)
        radial = objective.slices["log_radial"]
        np.testing.assert_allclose(
            ours[radial], gradient[radial], rtol=1e-7, atol=1e-7 * np.abs(gradient[radial]).max()
        )
        np.testing.assert_allclose(ours, gradient, rtol=1e-7, atol=1e-7 * np.abs(gradient).max())
        assert objective(z) == pytest.approx(cost, rel=1e-12)
        offsets.append(cost - value)
    assert np.ptp(offsets) < 1e-6  # they differ by a constant


def test_evaluations_do_not_copy_the_noise_model(case, rng, monkeypatch):
    """At each call Numba unpickles the closure of the Python code that it calls: the bins must not be in it."""
    copied = []
    monkeypatch.setattr(
        HierarchicalNoise, "__setstate__", lambda self, state: copied.append(self.__dict__.update(state)), raising=False
    )
    model = build_model(*case)
    with model:
        density = model.logp_dlogp_function(ravel_inputs=True)
    density.set_extra_values({})
    values = [density(rng.normal(0, 0.1, sum(np.size(v) for v in model.initial_point().values())))[0] for _ in range(3)]
    assert np.all(np.isfinite(values))
    assert not copied


def test_gradient_agrees_with_finite_differences(case, rng):
    objective = objective_of(*case)
    z = a_point(objective, rng)
    expected = [(objective(z + 1e-5 * e) - objective(z - 1e-5 * e)) / 2e-5 for e in np.eye(objective.size)]
    gradient = objective.derivatives(z)[1]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6 * np.abs(gradient).max())


def test_generalised_least_squares_is_the_curvature_where_the_data_are_met(case, rng):
    data, config = case
    objective = objective_of(data, config)
    z = a_point(objective, rng, 0.1)
    value = np.exp(LogMean(data, config, data.radial.spline)(objective.to_parameters(z)))
    objective = HierarchicalObjective(replace(data, value=value), config, objective.noise, objective.parameters)
    n = objective.n_mean
    rows = [
        (objective.derivatives(z + 1e-6 * e)[1] - objective.derivatives(z - 1e-6 * e)[1])[:n] / 2e-6
        for e in np.eye(objective.size)[:n]
    ]
    curvature = objective.derivatives(z)[2][:n, :n]
    np.testing.assert_allclose(curvature, rows, atol=1e-4 * np.abs(curvature).max())


def test_restricted_likelihood_integrates_the_mean_out(case, rng):
    """What is added is half the log-determinant of the mean's curvature: its gradient by the noise scales."""
    objective = objective_of(*case)
    z, n = a_point(objective, rng), objective.n_mean
    found = objective.restricted(z)

    def added(at):
        return 0.5 * np.linalg.slogdet(objective.derivatives(at)[2][:n, :n])[1]

    expected = [(added(z + 1e-4 * e) - added(z - 1e-4 * e)) / 2e-4 for e in np.eye(objective.size)[n:]]
    np.testing.assert_allclose(found[n:], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert not found[:n].any()


@pytest.fixture(scope="module")
def lsst():
    """All of LSSTCam in the i band, with bins of 256 pixels."""
    truth = {"centroid_delta": (0.8, -0.5), "gradient": (3e-5, -2e-5)}
    light, noise, seed = Light(radial=(LSST_NODES, LSST_VALUES), itl_ratio=1.02, **truth), Noise.for_band("i"), 2
    binned = simulate_binned(lsstcam(), light, noise, seed, kind="dome", bin_factor=256)
    config = FitConfig(radial_spline_nodes=LSST_NODES, do_fit_centroid=True, do_fit_gradient=True, noise="hierarchical")
    return true_parameters(light, SimulatedDetectors(lsstcam().science(), noise, seed)), fit(binned, config)


def test_truth_of_the_detectors_present(lsst):
    """True errors of such data: ratio 0.3%, plane 4e-6/mm, centroid 0.01 to 0.02 mm; bounds of three times these."""
    truth, result = lsst
    found = result.gradient
    assert result.converged
    for axis in "xy":
        name = f"centroid_delta_{axis}"
        assert getattr(found, name) == pytest.approx(truth[name], abs=0.06)
        assert getattr(found, f"gradient_{axis}") == pytest.approx(truth[f"gradient_{axis}"], abs=1.2e-5)
    assert found.itl_ratio == pytest.approx(truth["itl_ratio"], abs=0.003)
    radii = np.array([100.0, 250.0, 310.0, 330.0])
    light = Light(radial=(LSST_NODES, LSST_VALUES))
    expected = light.radial_function(radii) * truth["group_throughput"] * 20000
    np.testing.assert_allclose(found.compute_radial(radii) * found.normalization_factor, expected, rtol=0.003)


def test_slopes_that_all_detectors_share_are_no_plane():
    """Response that rises by 1% across every detector, and the same flat without: all estimates stay.

    A scale of the slopes that is fitted moves the plane by a third of its error (LSSTCam's z, where both vendors'
    detectors have such slopes), and ratio and level with it.
    """
    camera, noise = lsstcam(), Noise.for_band("z")
    light = Light(radial=(LSST_NODES, LSST_VALUES), itl_ratio=1.06)
    config = FitConfig(do_fit_centroid=True, do_fit_gradient=True)
    found = []
    for slope in (0.0, 0.01):
        binned = simulate_binned(camera, light, replace(noise, shared_slope=(slope, slope)), 4, bin_factor=256)
        result = fit(binned, config)
        assert result.converged
        found.append(result.gradient)
    flat, sloped = (g.estimates for g in found)
    for name in ("itl_ratio", "gradient_x", "gradient_y", "centroid_delta_x", "centroid_delta_y"):
        sd = flat[name]["sd"]
        assert sloped[name]["sd"] == pytest.approx(sd, rel=0.02), name
        assert sloped[name]["map"] == pytest.approx(flat[name]["map"], abs=0.1 * sd), name
    radii = np.array([20.0, 100.0, 250.0, 330.0])
    counts = [g.compute_radial(radii) * g.normalization_factor for g in found]
    np.testing.assert_array_less(np.abs(counts[1] / counts[0] - 1), 0.1 * found[0].compute_radial_sd(radii))


def test_the_level_is_the_mean_response_where_amplifiers_differ(small_camera):
    """Amplifiers that scatter by 3%: the mean of their logs is off the log of their mean by 0.045%, 9 sd."""
    light = Light(radial=(LSST_NODES, LSST_VALUES), itl_ratio=0.95)
    noise = Noise(white=5e-4, amplifier_scatter=0.03, detector_scatter=0.01)
    binned = simulate_binned(small_camera, light, noise, 3, bin_factor=10, detector_boundary=0)
    result = fit(binned, FitConfig())
    truth = true_parameters(light, SimulatedDetectors(small_camera, noise, 3))
    found = result.gradient
    counts = float(found.compute_radial(30.0)) * found.normalization_factor
    expected = float(light.radial_function(30.0)) * truth["group_throughput"] * light.level
    sd = float(found.compute_radial_sd(30.0) / found.compute_radial(30.0))
    assert abs(counts / expected - 1) < 3 * sd
    assert sd < 1e-4
    each = result.gradient.offsets
    whole = each.amplifier == -1
    throughput = np.array([truth["detector_throughput"][d] for d in each.detector[whole]])
    itl = np.array([small_camera[int(d)].is_itl for d in each.detector[whole]])
    for vendor in (itl, ~itl):
        relative = throughput[vendor] / throughput[vendor].mean()
        np.testing.assert_array_less(np.abs(each.mean[whole][vendor] - relative), 4 * each.sd[whole][vendor])


def test_scales_are_those_of_the_simulation(lsst):
    estimates = lsst[1].gradient.estimates
    scale = {name: np.exp(estimates[f"log_noise_scales[{name}]"]["map"]) for name in ("detector itl", "detector rest")}
    # 0.9% and 1.0%, from 72 and 117 detectors: four standard errors
    assert scale["detector itl"] == pytest.approx(0.009, rel=4 / (2 * 72) ** 0.5)
    assert scale["detector rest"] == pytest.approx(0.010, rel=4 / (2 * 117) ** 0.5)
    assert estimates.header["NSPOILT"][0] == np.sum(lsst[1].data.weight == 0)


def test_outlying_bins_are_found(small_camera):
    light = Light(radial=(LSST_NODES, LSST_VALUES))
    noise = Noise(white=0.0005, detector_scatter=0.01, amplifier_scatter=0.003)
    binned = simulate_binned(small_camera, light, noise, 1, bin_factor=10, detector_boundary=0)
    rng = np.random.default_rng(7)
    outliers = rng.random(len(binned)) < 0.01
    binned.value[outliers] *= 0.97
    config = FitConfig(noise="hierarchical", radial_spline_nodes=[0, 30, 80], do_constrain_zero=False)
    rough = rough_fit(prepare(binned, config), config)
    found, outliers = rough.outlier, outliers[rough.inside]
    assert found[outliers].all()
    # of 10,000 normal ones, hardly one beyond five sigma;
    assert found[~outliers].mean() < 0.002


def test_hierarchical_noise_is_normal():
    with pytest.raises(InputError, match="likelihood must be normal with noise = hierarchical, got 'laplace'"):
        FitConfig.make({"noise": "hierarchical", "likelihood": "laplace"})
    assert FitConfig().noise == "hierarchical"
    assert FitConfig().likelihood == "normal"
    assert FitConfig(noise="independent").likelihood == "student_t"


def test_gradient_is_smooth_to_rounding(small_camera, rng):
    """Where detectors scatter by 150 times the white noise: differences of gradients are taken over 3e-5 sd."""
    noise = Noise(white=3e-4, detector_scatter=0.05, amplifier_scatter=0.01, own_field=0.005, field_scale=6.0)
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9)
    binned = simulate_binned(small_camera, light, noise, 8, bin_factor=4, detector_boundary=0)
    result = fit(binned, small_config())
    objective, z = result.objective, result.map.value
    unwhiten = np.linalg.inv(curvature_root(objective.derivatives(z)[2]))
    gradient = objective.gradient(z)[0]
    moved = [objective.gradient(z + 1e-12 * unwhiten.T @ rng.normal(size=len(z)))[0] for _ in range(3)]
    assert max(np.linalg.norm(unwhiten @ (other - gradient)) for other in moved) < 3e-8
    assert result.map.gradient_norm < 1e-6
