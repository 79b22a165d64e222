"""PyMC's log-density against one written out in NumPy and SciPy, and the optimiser's objective against PyMC."""

import numpy as np
import pymc as pm
import pytest
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from bayesflat.config import NormalPrior
from bayesflat.errors import InputError
from bayesflat.inference.fitting import build_model
from bayesflat.inference.independent import IndependentObjective
from bayesflat.inference.map import PLAIN, compile_density
from bayesflat.model.build import noise_model
from bayesflat.model.coordinates import Whitened
from bayesflat.model.disc import Disc
from bayesflat.model.mean import Mean
from bayesflat.model.noise import FLOOR
from bayesflat.model.parameters import mean_parameters
from bayesflat.model.prepare import prepare
from bayesflat.model.start import estimate
from tests.helpers import NODES, config_with, every_switch, small_flat


def a_point(model, rng):
    """Values of order one for everything, as the sampler would see them."""
    return {name: rng.normal(0, 0.3, np.shape(value)) for name, value in model.initial_point().items()}


def flattened(model, point):
    return np.concatenate([np.ravel(point[v.name]) for v in model.value_vars])


def in_product_units(model, point):
    """Untransformed parameters of a point by PyMC itself: the random variables, and with the deterministic ones."""
    function = model.compile_fn(model.unobserved_value_vars, inputs=model.value_vars, mode=PLAIN)
    found = dict(zip([v.name for v in model.unobserved_value_vars], function(point), strict=True))
    return {v.name: found[v.name] for v in model.free_RVs}, found


def log_density_by_hand(data, config, p):
    """The whole log-density without Jacobians: documented priors, the mean written out, SciPy's densities."""
    values = np.append(p["radial_spline_free"], 0.0) if config.do_constrain_zero else p["radial_spline_values"]
    cx, cy = p.get("centroid_delta", (0.0, 0.0))
    x = data.binned.xf - config.fp_centroid_x
    y = data.binned.yf - config.fp_centroid_y
    mean = Akima1DInterpolator(NODES, values)(np.clip(np.hypot(x - cx, y - cy), NODES[0], NODES[-1]))
    mean = mean * np.where(data.binned.itl, p.get("itl_ratio", 1.0), 1.0)
    gx, gy = p.get("gradient", (0.0, 0.0))
    mean = mean / (1 + gx * x + gy * y)
    ox, oy = p.get("outer_gradient", (0.0, 0.0))
    mean = mean / np.where(np.hypot(x, y) >= config.outer_gradient_radius, 1 + ox * x + oy * y, 1.0)
    scale = (FLOOR + np.exp(p["log_noise_scale"])) * data.level
    density = {
        "normal": stats.norm(mean, scale),
        "student_t": stats.t(4.0, mean, scale),
        "laplace": stats.laplace(mean, scale),
    }[config.likelihood]
    total = density.logpdf(data.value).sum()
    start = estimate(data, config)
    free = start.radial_spline_values[: len(values) - config.do_constrain_zero]
    total += stats.norm(free, 0.3 * data.level).logpdf(values[: len(free)]).sum()
    if "itl_ratio" in p:
        total += stats.norm(start.itl_ratio, 0.2).logpdf(p["itl_ratio"])
    for name, sigma in (("centroid_delta", 2.0 / 3), ("gradient", 0.1 / 60), ("outer_gradient", 0.03 / 60)):
        if name in p:
            total += stats.norm(0, sigma).logpdf(p[name]).sum()
    return total + stats.norm(np.log(start.scatter), 2.0).logpdf(p["log_noise_scale"])


@pytest.mark.parametrize("likelihood", ["normal", "student_t", "laplace"])
@pytest.mark.parametrize("normalize", [True, False])
def test_log_density_equals_the_one_by_hand(small_camera, rng, likelihood, normalize):
    config = config_with(likelihood, do_normalize_center=normalize, fp_centroid_x=0.4, **every_switch()[-1])
    data = prepare(small_flat(small_camera, rng), config)
    model = build_model(data, config)
    density = compile_density(model)
    for _ in range(3):
        point = a_point(model, rng)
        by_hand = log_density_by_hand(data, config, in_product_units(model, point)[0])
        assert -density(flattened(model, point))[0] == pytest.approx(
            by_hand, abs=1e-9 * len(data)
        )  # 400 terms of order one


def test_pymcs_default_mode_gives_the_same(small_camera, rng):
    """The mode that samplers compile with; its sums are reordered, so the last digits differ."""
    config = config_with(**every_switch()[-1])
    data = prepare(small_flat(small_camera, rng), config)
    model = build_model(data, config)
    point = a_point(model, rng)
    by_hand = log_density_by_hand(data, config, in_product_units(model, point)[0])
    assert float(model.compile_logp(jacobian=False)(point)) == pytest.approx(by_hand, rel=1e-8)


@pytest.mark.parametrize("vendors", ["both", "itl", "rest"])
def test_every_combination_of_terms(small_camera, rng, vendors):
    binned = small_flat(small_camera, rng, vendors=vendors)
    for switches in every_switch() if vendors == "both" else every_switch()[::15]:
        config = config_with(**switches)
        data = prepare(binned, config)
        model = build_model(data, config)
        density = compile_density(model)
        point = a_point(model, rng)
        parameters, everything = in_product_units(model, point)
        assert ("itl_ratio" in parameters) == (vendors == "both")
        assert {"centroid_delta", "gradient", "outer_gradient"} & set(parameters) == {
            name.removeprefix("do_fit_") for name, on in switches.items() if on and name.startswith("do_fit")
        } - {"centroid"} | ({"centroid_delta"} if switches["do_fit_centroid"] else set())
        if switches["do_constrain_zero"]:
            assert everything["radial_spline_values"][-1] == 0.0
        by_hand = log_density_by_hand(data, config, parameters)
        assert -density(flattened(model, point))[0] == pytest.approx(
            by_hand, abs=1e-9 * len(data)
        )  # 400 terms of order one


@pytest.mark.parametrize("likelihood", ["normal", "student_t", "laplace"])
@pytest.mark.parametrize("flat", [False, True])
def test_optimisers_objective_is_pymcs_density(small_camera, rng, likelihood, flat):
    """Same differences between points, same gradient; the curvature is that of finite differences where it can be."""
    priors = {"gradient": "flat", "centroid_delta": "flat"} if flat else {"itl_ratio": NormalPrior(mu=1.1, sigma=0.05)}
    config = config_with(likelihood, priors=priors, **every_switch()[-1])
    data = prepare(small_flat(small_camera, rng), config)
    model = build_model(data, config)
    density = compile_density(model)
    noise, start = noise_model(data, config), estimate(data, config)
    parameters = mean_parameters(data, config, start) + noise.parameters(data, config, start)
    assert [p.value_name for p in parameters] == [v.name for v in model.value_vars]
    objective = IndependentObjective(data, config, noise, parameters, smoothing=1e-12)
    points = rng.normal(0, 0.3, (3, objective.size))
    theirs = [density(z) for z in points]
    ours = [objective.derivatives(z) for z in points]
    for i in range(3):
        assert objective(points[i]) == pytest.approx(ours[i][0], rel=1e-12)
        assert ours[i][0] - ours[0][0] == pytest.approx(theirs[i][0] - theirs[0][0], rel=1e-9, abs=1e-6)
        np.testing.assert_allclose(ours[i][1], theirs[i][1], rtol=1e-8, atol=1e-8 * np.abs(theirs[i][1]).max())


def test_gauss_newton_curvature_is_exact_for_normal_noise_met_exactly(small_camera, rng):
    """With no residuals the terms that Gauss and Newton leave out vanish."""
    config = config_with("normal", **every_switch()[-1])
    data = prepare(small_flat(small_camera, rng), config)
    noise, start = noise_model(data, config), estimate(data, config)
    parameters = mean_parameters(data, config, start) + noise.parameters(data, config, start)
    objective = IndependentObjective(data, config, noise, parameters)
    z = rng.normal(0, 0.1, objective.size)
    data.value[:] = Mean(data, config)(objective.to_parameters(z))
    n = objective.size - 1  # the noise's scale has no optimum here
    curvature = objective.derivatives(z)[2][:n, :n]
    step = 1e-5
    by_differences = np.array(
        [(objective.derivatives(z + step * e)[1] - objective.derivatives(z - step * e)[1])[:n] / (2 * step)
         for e in np.eye(objective.size)[:n]]
    )  # fmt: skip
    # but for the bend of the disc in the centroid's prior, of order one beside data of order 1e4
    np.testing.assert_allclose(curvature, by_differences, rtol=1e-4, atol=1e-4 * np.abs(curvature).max())


def test_disc_is_a_truncated_plane(rng):
    """Its transform and inverse agree, all lies within the radius, and the Jacobian is that of finite differences."""
    disc = Disc(3.0, 10.0)
    for value in rng.normal(0, 3, (20, 2)):
        position = disc.backward(value)
        assert np.hypot(*position) < 10
        np.testing.assert_allclose(disc.forward(position), value, rtol=1e-9)
        by_differences = np.array(
            [(disc.backward(value + 1e-6 * e) - disc.backward(value - 1e-6 * e)) / 2e-6 for e in np.eye(2)]
        ).T
        np.testing.assert_allclose(disc.jacobian(value), by_differences, rtol=1e-6, atol=1e-8)
        assert disc.log_jac_det(value).eval() == pytest.approx(np.log(np.linalg.det(by_differences)), abs=1e-6)
    assert np.hypot(*disc.backward(np.array([1e6, 0.0]))) == pytest.approx(10.0)


@pytest.mark.parametrize("of_a_fit", [False, True])
def test_prior_draws_of_the_centroid_stay_in_the_disc(small_camera, rng, of_a_fit):
    """PyMC's draws are of the prior of the density: a wide one is uniform in the disc; a narrow one stays normal."""
    for prior, variance in ((NormalPrior(sigma=1000.0), 2.0**2 / 4), (NormalPrior(mu=[0.5, 0], sigma=0.1), 0.1**2)):
        config = config_with(do_fit_centroid=True, priors={"centroid_delta": prior})
        data = prepare(small_flat(small_camera, rng), config)
        whitened = None
        if of_a_fit:
            of = {p.name: p for p in mean_parameters(data, config, estimate(data, config))}["centroid_delta"]
            whitened = Whitened(of.transform, of.to_value([0.3, 0.2]), 0.1 * np.eye(2))
        with pm.Model(coords={"axis": ["x", "y"]}) as model:
            mean_parameters(data, config, estimate(data, config))[-1].add(whitened)
        drawn = pm.draw(model["centroid_delta"], 1000, random_seed=3)
        assert np.hypot(*drawn.T).max() < 2.0
        centre = 0.0 if prior.mu is None else np.array(prior.mu)
        assert np.all(np.abs(drawn.mean(0) - centre) < 4.5 * np.sqrt(variance / 1000))
        np.testing.assert_allclose(drawn.var(0), variance, rtol=4.5 * np.sqrt(2 / 1000))


def test_prior_of_the_wrong_size_is_named(small_camera, rng):
    config = config_with(do_fit_gradient=True, priors={"gradient": NormalPrior(mu=[0, 0, 0], sigma=1e-4)})
    with pytest.raises(InputError, match=r"priors\.gradient\.mu: 3 numbers for 2 components; give one or 2"):
        build_model(small_flat(small_camera, rng), config)


def test_prior_beyond_the_disc_is_refused(small_camera, rng):
    config = config_with(do_fit_centroid=True, priors={"centroid_delta": NormalPrior(mu=[20, 0], sigma=1)})
    with pytest.raises(
        InputError, match=r"priors\.centroid_delta\.mu: \[20\.0, 0\.0\] lies beyond centroid_max = 2 mm"
    ):
        build_model(small_flat(small_camera, rng), config)


def test_prior_without_mu_keeps_the_default_centre(small_camera, rng):
    config = config_with(priors={"itl_ratio": NormalPrior(sigma=0.01)})
    data = prepare(small_flat(small_camera, rng), config)
    ratio = mean_parameters(data, config, estimate(data, config))[1]
    assert (float(ratio.mu), float(ratio.sigma)) == (estimate(data, config).itl_ratio, 0.01)


def test_gradient_is_finite_where_a_bin_lies_on_the_centroid(small_camera, rng):
    config = config_with(do_fit_centroid=True)
    data = prepare(small_flat(small_camera, rng), config)
    data.dx[0] = data.dy[0] = 0.0
    model = build_model(data, config)
    z = flattened(model, model.initial_point())
    value, gradient = compile_density(model)(z)
    step = np.zeros(len(z))
    step[7] = 1e-6  # a component of the centroid
    density = compile_density(model)
    assert gradient[7] == pytest.approx((density(z + step)[0] - density(z - step)[0]) / 2e-6, rel=1e-4, abs=1e-2)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("likelihood", ["normal", "student_t", "laplace"])
def test_pymc_draws_from_the_model(small_camera, rng, likelihood):
    """Prior and posterior draws and log-likelihood, with dims; nothing is stored for each bin and draw but the data."""
    config = config_with(likelihood, do_fit_centroid=True, do_constrain_zero=False)
    model = build_model(small_flat(small_camera, rng, n=60), config)
    with model:
        prior = pm.sample_prior_predictive(200, random_seed=1)
    assert set(prior["prior"].data_vars) == {
        "radial_spline_values", "itl_ratio", "centroid_delta", "log_noise_scale", "noise_scale"
    }  # fmt: skip
    assert prior["prior_predictive"]["flat"].dims == ("chain", "draw", "bin")
    assert prior["constant_data"]["dx"].dims == ("bin",)
    ratio = prior["prior"]["itl_ratio"]
    assert float(ratio.std()) == pytest.approx(0.2, rel=5 / 400**0.5)


def test_prior_in_the_config_is_the_models(small_camera, rng):
    prior = NormalPrior(mu=[1e-4, -1e-4], sigma=[1e-5, 2e-5])
    binned = small_flat(small_camera, rng)
    config = config_with(do_fit_gradient=True, priors={"gradient": prior})
    model = build_model(binned, config)
    draws = pm.draw(model["gradient"], 4000, random_seed=1)
    # 5 standard errors of a mean and of a standard deviation of 4000 draws
    np.testing.assert_allclose(draws.mean(0), prior.mu, atol=5 * 2e-5 / 4000**0.5)
    np.testing.assert_allclose(draws.std(0), prior.sigma, rtol=5 / 8000**0.5)
