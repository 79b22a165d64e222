"""Laplace's approximation against finite differences and draws; what the product says of it."""

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator, BSpline

from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import fit
from bayesflat.inference.map import compile_density
from bayesflat.model.build import build_model
from bayesflat.simulation.detectors import SimulatedDetectors, simulate_binned, true_parameters
from bayesflat.simulation.truth import Light
from tests.helpers import CENTROID_AND_PLANE, DETECTOR_NOISE, NODES, VALUES, config_with, noisy_flat, small_config

LIGHT = {"centroid_delta": (0.3, -0.2), "gradient": (1e-4, -5e-5)}


@pytest.fixture(scope="module", params=["hierarchical", "normal", "student_t"])
def fitted(request, small_camera):
    hierarchical = request.param == "hierarchical"
    config = small_config() if hierarchical else config_with(request.param, **CENTROID_AND_PLANE)
    return fit(noisy_flat(small_camera, **LIGHT), config)


def test_curvature_is_that_of_pymcs_density(fitted):
    """Second differences of PyMC's own log-density, along directions of unit width: 1 in each, 0 between."""
    assert fitted.laplace.exact
    density = compile_density(build_model(fitted.data, fitted.config, fitted.objective.noise))
    root, centre = np.linalg.cholesky(fitted.laplace.covariance), fitted.laplace.centre
    n, step = len(root), 1e-3
    bends = [(density(centre + step * d)[1] - density(centre - step * d)[1]) / (2 * step) for d in root.T]
    np.testing.assert_allclose(np.array(bends) @ root, np.eye(n), atol=0.02)


def test_gradient_without_curvature_is_the_same(fitted, rng):
    z = fitted.map.value + 0.1 * rng.normal(size=len(fitted.map.value))
    gradient, product = fitted.objective.gradient(z)
    expected = fitted.objective.derivatives(z)[1]
    np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    for name, value in fitted.objective.product(z).items():
        np.testing.assert_allclose(product[name], value, rtol=1e-12, err_msg=name)


def test_product_covariance_is_that_of_draws(fitted, rng):
    """Draws of the coordinates, and of the throughputs given them, brought to product units."""
    covariance, names = fitted.laplace.product, fitted.laplace.names
    root = 0.1 * np.linalg.cholesky(fitted.laplace.covariance)  # narrow: so that the product is linear
    scatter = []
    for _ in range(400):
        z = fitted.laplace.centre + root @ rng.normal(size=len(root))
        product = fitted.objective.product(z)
        scatter.append([np.ravel(product[name])[k] for name, k in names])
    drawn = 100 * np.cov(np.array(scatter).T)
    if fitted.config.noise == "hierarchical":
        at_map = [fitted.objective.draw(fitted.laplace.centre, rng).product for _ in range(400)]
        drawn += np.cov(np.array([[np.ravel(p[name])[k] for name, k in names] for p in at_map]).T)
    sd = np.sqrt(np.diag(covariance))
    keep = sd > 0
    # 400 draws: 3.5% of an sd, 5% of a correlation; four times that
    np.testing.assert_allclose(np.sqrt(np.diag(drawn))[keep] / sd[keep], 1, atol=0.15)
    correlation, expected = (c[np.ix_(keep, keep)] / np.outer(s, s) for c, s in
                             ((drawn, np.sqrt(np.diag(drawn))[keep]), (covariance, sd[keep])))  # fmt: skip
    np.testing.assert_allclose(correlation, expected, atol=0.22)


def test_product_holds_the_approximation(fitted, tmp_path):
    fitted.gradient.write(tmp_path / "gradient.fits")
    found = FlatGradient.read(tmp_path / "gradient.fits")
    estimates = found.estimates
    assert estimates.method == "laplace"
    row = estimates["gradient_x"]
    assert row["sd"] > 0
    assert row["map"] == found.gradient_x
    assert row["mean"] == fitted.objective.product(fitted.laplace.centre)["gradient"][0]
    assert (row["q95"] - row["mean"]) / row["sd"] == pytest.approx(1.6448536, rel=1e-6)
    assert (row["mean"] - row["q05"]) / row["sd"] == pytest.approx(1.6448536, rel=1e-6)
    assert estimates["outer_gradient_x"]["sd"] == 0
    at = fitted.laplace.names.index(("gradient", 0)), fitted.laplace.names.index(("centroid_delta", 1))
    i, j = (estimates.names.index(name) for name in ("gradient_x", "centroid_delta_y"))
    assert estimates.covariance[i, j] == pytest.approx(fitted.laplace.product[at], rel=1e-12)
    if fitted.config.noise == "hierarchical":
        for name in ("detector", "amplifier", "mean", "sd"):
            np.testing.assert_array_equal(getattr(found.offsets, name), getattr(fitted.gradient.offsets, name))
    else:
        assert found.offsets is None


def test_radial_sd_at_any_radius(fitted, rng):
    """That of the curves, or else of the splines, of draws; beyond the bins too."""
    gradient = fitted.gradient
    n = len(NODES)
    radii = np.array([10.0, 30.0, 48.0, 55.0])
    covariance = gradient.estimates.covariance
    if fitted.config.noise == "hierarchical":
        first = gradient.estimates.names.index("log_radial[0]")
        rows = slice(first, first + fitted.data.radial.spline.size)
        best = gradient.estimates.columns["map"][rows]
        drawn = rng.multivariate_normal(best, 1e-4 * covariance[rows, rows], 4000, method="eigh")
        curves = [np.exp(BSpline(gradient.knots, c, 3)(radii)) for c in drawn]
        # relative to the curve's own level; nodes miss it by a little
        drawn = np.std(curves, axis=0) * 100 / np.exp(BSpline(gradient.knots, best, 3)(radii))
        np.testing.assert_allclose(gradient.compute_radial_sd(radii) / gradient.compute_radial(radii), drawn, rtol=0.05)
        return
    np.testing.assert_allclose(gradient.compute_radial_sd(NODES), gradient.estimates.columns["sd"][:n], rtol=1e-9)
    values = rng.multivariate_normal(gradient.radial_spline_values, 1e-4 * covariance[:n, :n], 4000)
    drawn = np.std([Akima1DInterpolator(NODES, v)(radii) for v in values], axis=0) * 100
    np.testing.assert_allclose(gradient.compute_radial_sd(radii), drawn, rtol=0.05)


def flat_product(objective, z, names):
    """The parameters as the product holds them, in the order of Laplace's rows, and the throughputs."""
    product = objective.product(z)
    values = np.array([np.ravel(product[name])[k] for name, k in names])
    return values, np.ravel(product.get("throughput", []))


def test_all_derivatives_are_those_of_finite_differences(fitted):
    """By all parameters, linear ones and others: covariances from brute-force differences of gradient and product."""
    objective, z, names = fitted.objective, fitted.laplace.centre, fitted.laplace.names
    n = len(z)
    steps = 1e-3 / np.sqrt(np.diag(np.linalg.inv(fitted.laplace.covariance)))
    curvature, slopes, of_throughputs = np.empty((n, n)), [], []
    for k, step in enumerate(steps):
        up, down = z.copy(), z.copy()
        up[k] += step
        down[k] -= step
        curvature[k] = (objective.gradient(up)[0] - objective.gradient(down)[0]) / (2 * step)
        ahead, behind = flat_product(objective, up, names), flat_product(objective, down, names)
        slopes.append((ahead[0] - behind[0]) / (2 * step))
        of_throughputs.append((ahead[1] - behind[1]) / (2 * step))
    root = np.linalg.cholesky(fitted.laplace.covariance)
    whitened = root.T @ (0.5 * (curvature + curvature.T)) @ root
    np.testing.assert_allclose(whitened, np.eye(n), atol=2e-4)
    slopes, of_throughputs = np.array(slopes).T, np.array(of_throughputs).T
    expected = slopes @ fitted.laplace.covariance @ slopes.T
    throughputs = objective.throughputs(z)
    if throughputs is not None:
        # vendors' means scatter at given parameters: level by the last one's, ratio by both
        by_means = np.zeros((len(names), 2))
        for row, (name, _) in enumerate(names):
            if name == "log_radial":
                by_means[row] = 0.0, 1.0
            if name == "itl_ratio":
                ratio = float(objective.product(z)["itl_ratio"])
                by_means[row] = ratio, -ratio
        expected += by_means * throughputs.variance_of_means @ by_means.T
        variance = np.sum((of_throughputs @ root) ** 2, axis=1).reshape(throughputs.variance.shape)
        variance += throughputs.conditional_mean**2 * throughputs.variance
        np.testing.assert_allclose(fitted.laplace.throughput_sd, np.sqrt(variance), rtol=1e-4)
        by_radial = objective.product_by_radial(z)
        scale = objective.parameters[0].transform.scale
        n_radial = objective.parameters[0].size
        for name in ("log_radial", "itl_ratio", "centroid_delta", "throughput"):
            found = by_radial[name].reshape(-1, n_radial) * scale
            rows = [i for i, (other, _) in enumerate(names) if other == name]
            differences = of_throughputs[:, :n_radial] if name == "throughput" else slopes[rows][:, :n_radial]
            np.testing.assert_allclose(found, differences, atol=1e-6 * max(np.abs(found).max(), 1.0), err_msg=name)
    sd = np.sqrt(np.diag(expected))
    sd[sd == 0] = 1.0
    np.testing.assert_allclose(fitted.laplace.product / np.outer(sd, sd), expected / np.outer(sd, sd), atol=1e-4)


def test_centre_is_where_the_restricted_gradient_vanishes(fitted):
    """With hierarchical noise the mean is integrated out, and the scales are larger; else it is the maximum."""
    objective, centre = fitted.objective, fitted.laplace.centre
    if fitted.config.noise != "hierarchical":
        np.testing.assert_array_equal(centre, fitted.map.value)
        return

    def integrated(z):
        """Minus the log of the posterior of the scales, with what is linear in the mean integrated out."""
        _, _, curvature = objective.derivatives(z)
        m = objective.n_mean
        return objective(z) + 0.5 * np.linalg.slogdet(curvature[:m, :m])[1]

    sd = np.sqrt(np.diag(fitted.laplace.covariance))
    for k in range(objective.n_mean, objective.size):
        step = np.zeros(objective.size)
        step[k] = 1e-3 * sd[k]
        slope = (integrated(centre + step) - integrated(centre - step)) / 2e-3
        assert abs(slope) < 0.1, k  # a tenth of an error from the maximum
    white = objective.slices["log_noise_scales"].start
    assert centre[white] > fitted.map.value[white]


def test_offsets_are_the_detectors_throughputs(small_camera):
    """Within four of their own sd; an amplifier's contains its detector's."""
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9)
    binned = simulate_binned(small_camera, light, DETECTOR_NOISE, 8, bin_factor=10, detector_boundary=0)
    result = fit(binned, small_config())
    detectors = SimulatedDetectors(small_camera, DETECTOR_NOISE, 8)
    true = true_parameters(light, detectors)["detector_throughput"]
    offsets = result.gradient.offsets
    whole = offsets.amplifier == -1
    assert list(offsets.detector[whole]) == [d.id for d in small_camera]
    itl = np.array([d.is_itl for d in small_camera])
    expected = np.array([true[d.id] for d in small_camera])
    expected /= np.where(itl, expected[itl].mean(), expected[~itl].mean())
    pull = (offsets.mean[whole] - expected) / offsets.sd[whole]
    assert np.max(np.abs(pull)) < 4
    assert 0.4 < pull.std() < 1.6
    for number in (0, 12):
        gains = detectors.amplifier_gains(number)
        here = (offsets.detector == number) & ~whole
        assert list(offsets.amplifier[here]) == list(range(16))
        found = offsets.mean[here] / offsets.mean[here].mean()
        assert np.max(np.abs(found - gains / gains.mean()) / offsets.sd[here]) < 5
