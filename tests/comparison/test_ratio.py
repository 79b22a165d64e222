"""The ratio of two flats: its formula derived anew, truth within its error, and detectors that cancel."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BSpline

from bayesflat.comparison.ratio import fit_ratio, gauss_newton_step, ratio_posterior, search_maximum
from bayesflat.comparison.ratio_mean import RatioMean, SkyCurve
from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.gradient.curve import LogSpline
from bayesflat.inference.fitting import fit
from bayesflat.inference.rough import rough_fit
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise

RADIUS = np.linspace(0.0, 90.0, 181)
RADIAL = 1.0 - 0.03 * (RADIUS / 50) ** 2 - 0.3 / (1 + np.exp(-(RADIUS - 47) / 4))  # steep towards the rim
SKY = {"centroid_delta": (0.4, -0.2), "gradient": (4e-5, 2e-5), "itl_ratio": 0.9, "level": 5000.0}
DOME = {"centroid_delta": (-0.5, 0.3), "gradient": (3e-4, -1e-4), "itl_ratio": 0.93}
BEND = 0.4  # at 350 mm: 1% at 55 mm
NOISE = Noise(white=0.002, detector_scatter=0.02, amplifier_scatter=0.005, own_field=2e-3, field_scale=8.0)
CONFIG = FitConfig(do_fit_centroid=True, do_fit_gradient=True, centroid_max=5.0)


def data_of(camera, kind, noise=NOISE, bend=0.0, config=CONFIG, seed=3, **light):
    light = Light(radial=(RADIUS, RADIAL), bend=bend, **light)
    return prepare(simulate_binned(camera, light, noise, seed, kind=kind, bin_factor=10, detector_boundary=0), config)


@pytest.fixture(scope="module")
def flats(small_camera):
    return data_of(small_camera, "sky", **SKY), data_of(small_camera, "dome", bend=BEND, **DOME)


@pytest.fixture(scope="module")
def found(flats):
    return fit_ratio(*flats, CONFIG, itl_ratio=0.9)


def truth(name):
    return {
        "centroid_delta_x": -0.9, "centroid_delta_y": 0.5, "gradient_x": 2.6e-4, "gradient_y": -1.2e-4,
        "itl_ratio": 0.9 * (0.93 / 0.9 - 1), "outer_gradient_x": 0.0, "outer_gradient_y": 0.0,
    }[name]  # fmt: skip


def test_truth_comes_back_within_its_error(found):
    """Four sd for the scalars, and for the radial functions at all radii together (all are relative to the centre)."""
    assert found.converged
    for name, (mean, row) in found.posterior.scalars.items():
        assert abs(mean - truth(name)) <= 4 * found.posterior.sd(row[None])[0], name
    radius = np.array([5.0, 15.0, 25.0, 35.0, 45.0, 50.0])
    mean, rows = found.posterior.log_radial(radius)
    off = mean - np.log1p(BEND * (radius / 350) ** 2)
    covariance = rows @ found.posterior.covariance @ rows.T
    assert off @ np.linalg.solve(covariance, off) < 25  # chi-squared of 6: 1 in 3000
    assert np.all(np.sqrt(np.diag(covariance)) < 2e-3)


def test_map_is_the_ratio_of_the_lights(found):
    """Within five sd at every bin, planes, centroids, ratio and bend together."""
    data = found.data.binned
    sky, dome = (Light(radial=(RADIUS, RADIAL), bend=b, **kw) for b, kw in ((0.0, SKY), (BEND, DOME)))
    expected = np.log(dome.evaluate(data.xf, data.yf, data.itl) / sky.evaluate(data.xf, data.yf, data.itl))
    mean, rows = found.posterior.log_ratio(data.xf, data.yf, data.itl)
    sd = found.posterior.sd(rows)
    away = np.hypot(data.xf, data.yf) > 10  # at the centre itself it is zero by definition
    assert np.max(np.abs(mean - expected)[away] / sd[away]) < 5
    assert np.all(sd[away] < 3e-3)


def test_detectors_cancel(small_camera, flats, found):
    """Detectors that scatter ten times as much as white noise, or not at all: ratio and errors are the same.

    What is left is that the sky's radial function is known less well, which enters through the centroid.
    """
    quiet = Noise(white=NOISE.white)
    pair = data_of(small_camera, "sky", quiet, **SKY), data_of(small_camera, "dome", quiet, bend=BEND, **DOME)
    alone = fit_ratio(*pair, CONFIG, itl_ratio=0.9)
    for name in ("centroid_delta_x", "gradient_x", "gradient_y", "itl_ratio"):
        (mean, row), (other, of_other) = found.posterior.scalars[name], alone.posterior.scalars[name]
        sd, sd_alone = found.posterior.sd(row[None])[0], alone.posterior.sd(of_other[None])[0]
        assert sd == pytest.approx(sd_alone, rel=0.2)  # the surface has a scale of its own in each
        of_sky = np.sqrt(max(sd**2 - sd_alone**2, 0.0))  # the white noise is the same
        assert abs(mean - other) < 3 * of_sky + 0.1 * sd, name
    # while the noise of one flat has what cancels: 1% and more in each detector
    assert found.scales["detector rest"] < 1e-3
    assert found.scales["white"] == pytest.approx(np.sqrt(2) * 0.002 * 1.28 / 1.0, rel=0.03)


def test_what_does_not_cancel_is_in_the_errors(small_camera, flats, found, rng):
    """Lamp and sky of another colour: detectors that differ by 0.5% between the flats."""
    sky, dome = flats
    factor = np.exp(0.005 * rng.standard_normal(25))
    worse = fit_ratio(sky, replace(dome, value=dome.value * factor[dome.binned.detector]), CONFIG, itl_ratio=0.9)
    assert np.mean([worse.scales["detector itl"], worse.scales["detector rest"]]) == pytest.approx(0.005, rel=0.35)
    for name in ("gradient_x", "gradient_y"):
        mean, row = worse.posterior.scalars[name]
        sd = worse.posterior.sd(row[None])[0]
        assert sd > 2 * found.posterior.sd(found.posterior.scalars[name][1][None])[0]
        assert abs(mean - truth(name)) < 4 * sd
    # the ratio is that of the detectors that are there, with their offsets
    offset = [np.mean(factor[[d.id for d in small_camera if d.is_itl == itl]]) for itl in (True, False)]
    mean, row = worse.posterior.scalars["itl_ratio"]
    expected = 0.93 * offset[0] / offset[1] - 0.9
    assert abs(mean - expected) < 4 * worse.posterior.sd(row[None])[0]


def test_a_detector_that_is_off_in_one_flat_leaves_the_rest_alone(flats, found):
    """A fifth brighter in the dome: its own offset is found, and neither errors nor differences of the others move."""
    sky, dome = flats
    odd = int(dome.binned.detector[~dome.itl][0])
    one = fit_ratio(
        sky, replace(dome, value=dome.value * np.where(dome.binned.detector == odd, 1.2, 1.0)), CONFIG, itl_ratio=0.9
    )
    assert list(one.data.odd) == [(odd, -1)]
    assert one.scales["detector rest"] < 1e-3
    for name in ("centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y"):
        (mean, row), (other, of_other) = one.posterior.scalars[name], found.posterior.scalars[name]
        sd = found.posterior.sd(of_other[None])[0]
        assert one.posterior.sd(row[None])[0] == pytest.approx(sd, rel=0.1)
        assert abs(mean - other) < sd
    # what is off in the sky as well is not in the ratio
    both = fit_ratio(
        *(replace(flat, value=flat.value * np.where(flat.binned.detector == odd, 0.7, 1.0)) for flat in flats),
        CONFIG, itl_ratio=0.9,
    )  # fmt: skip
    assert not both.data.odd


def test_outlying_bins_weigh_nothing(flats, found, rng):
    sky, dome = flats
    value = dome.value.copy()
    where = rng.choice(np.flatnonzero(dome.radius < 45), 20, replace=False)
    value[where] *= 0.95
    again = fit_ratio(sky, replace(dome, value=value), CONFIG, itl_ratio=0.9)
    outliers = np.flatnonzero(again.data.weight == 0)
    marked = {(round(x, 3), round(y, 3)) for x, y in zip(dome.dx[where], dome.dy[where], strict=True)}
    assert marked <= {(round(again.data.dx[i], 3), round(again.data.dy[i], 3)) for i in outliers}
    mean, row = again.posterior.scalars["gradient_x"]
    assert abs(mean - found.posterior.scalars["gradient_x"][0]) < 0.5 * again.posterior.sd(row[None])[0]


def test_bins_are_matched_by_place(flats, found, rng):
    """In any order, and with some missing in either."""
    sky, dome = flats
    shuffled = dome.select(rng.permutation(len(dome)))
    again = fit_ratio(sky, shuffled, CONFIG, itl_ratio=0.9)
    np.testing.assert_array_equal(again.log_ratio, found.log_ratio)
    fewer = fit_ratio(sky, dome.select(dome.dx < 30), CONFIG, itl_ratio=0.9)
    assert len(fewer.data) < len(found.data)
    assert fewer.data.dx.max() < 30


def test_flats_without_a_common_bin(flats):
    sky, dome = flats
    moved = replace(dome, binned=replace(dome.binned, xf=dome.binned.xf + 0.5))
    with pytest.raises(InputError, match=r"no bin in common \(\d+ bins of sky, \d+ of dome\): bin both with the same"):
        fit_ratio(sky, moved, CONFIG)


# ---- flats that differ by much that the mean cannot follow ----


def half(x, y):
    """A step across the middle."""
    return np.where(x > 0, 1.2, 1.0)


def ghost(x, y):
    return 1 + 0.4 * np.exp(-0.5 * ((np.hypot(x - 6, y + 4) - 25) / 5) ** 2)


def elliptical(x, y):
    r = np.hypot(x, y)
    return np.interp(r * (1 + 0.04 * np.cos(2 * np.arctan2(y, x))), RADIUS, RADIAL) / np.interp(r, RADIUS, RADIAL)


@pytest.mark.parametrize("effect", [half, ghost, elliptical])
def test_the_fit_converges_however_flats_differ(flats, effect):
    sky, dome = flats
    changed = replace(dome, value=dome.value * effect(dome.binned.xf, dome.binned.yf))
    assert fit_ratio(sky, changed, CONFIG).converged


@pytest.mark.parametrize("effect", [half, ghost])
def test_the_search_ends_where_the_log_posterior_is_largest(mean, rng, effect):
    """From where Gauss-Newton steps go to and fro; slopes there are differences, in steps of a tenth of an sd."""
    model, _, data = mean
    data = data.select(np.arange(0, len(data), 4))
    at, noise = (data.binned.xf, data.binned.yf, data.itl), HierarchicalNoise(data)
    numbers = np.zeros(model.size)
    numbers[model.slices["centroid_delta"]] = (-0.9, 0.5)
    value = model.linearised(numbers, *at)[0] + np.log(effect(*at[:2])) + 0.002 * rng.standard_normal(len(data))
    covariance = noise.covariance(np.log(np.full(len(noise.labels), 2e-3)))
    numbers = gauss_newton_step(model, np.zeros(model.size), covariance, at, value)[0]
    _, length, information = gauss_newton_step(model, numbers, covariance, at, value)
    assert length > 1
    found = numbers
    for _ in range(8):  # each with the information where the last one ended
        found, left = search_maximum(model, found, information, covariance, at, value)
        if left < 1e-2:
            break
        information = gauss_newton_step(model, found, covariance, at, value)[2]
    assert left < 1e-2

    def log_posterior(numbers):
        likelihood = covariance.marginal(value - model.linearised(numbers, *at)[0]).log_likelihood
        return likelihood - np.sum((numbers / model.widths) ** 2) / 2

    assert log_posterior(found) > log_posterior(numbers)
    root = np.linalg.inv(np.linalg.cholesky(information)).T
    slopes = [(log_posterior(found + 0.1 * step) - log_posterior(found - 0.1 * step)) / 0.2 for step in root.T]
    assert np.linalg.norm(slopes) < 3e-2


# ---- the formula ----


@pytest.fixture(scope="module")
def mean(flats):
    sky, _ = flats
    rough = rough_fit(sky, CONFIG)
    data = sky.select(rough.inside)
    curve = SkyCurve.of_first_fit(rough)
    return RatioMean(curve, data, CONFIG, True), curve, data


def numbers_of(model, rng):
    numbers = rng.normal(size=model.size)
    for name, size in (("radial", 0.01), ("itl_ratio", 0.02), ("centroid_delta", 0.4), ("gradient", 1e-4),
                       ("outer_gradient", 1e-4)):  # fmt: skip
        numbers[model.slices[name]] *= size
    return numbers


def test_formula_and_its_derivatives(mean, rng):
    """The formula is written out with SciPy's splines; derivatives are central differences."""
    model, curve, data = mean
    some = data.select(rng.choice(len(data), 200, replace=False))
    at = some.binned.xf, some.binned.yf, some.itl
    numbers = numbers_of(model, rng)
    found, design = model.linearised(numbers, *at)
    coefficients = numbers[model.slices["radial"]]
    d = BSpline(model.spline.knots, [coefficients[0], *coefficients], 3)
    first, last = curve.spline.knots[0], curve.spline.knots[-1]
    inner = BSpline(curve.spline.knots, curve.coefficients, 3)

    def sky(radius):
        at = np.clip(radius, first, last)
        return inner(at) + (radius - at) * inner(at, 1)  # linear beyond the outer knots

    cx, cy = curve.centroid
    ex, ey = numbers[model.slices["centroid_delta"]]
    gx, gy = curve.planes["gradient"]
    hx, hy = numbers[model.slices["gradient"]]
    ox, oy = numbers[model.slices["outer_gradient"]]
    x, y = some.dx, some.dy
    r_sky = np.hypot(x - cx, y - cy)
    r_dome = np.hypot(x - cx - ex, y - cy - ey)
    expected = d(r_dome) + sky(r_dome) - sky(r_sky)
    expected += np.where(some.itl, numbers[model.slices["itl_ratio"]], 0.0)
    expected -= np.log((1 + (gx + hx) * x + (gy + hy) * y) / (1 + gx * x + gy * y))
    outer = np.hypot(x, y) >= CONFIG.outer_gradient_radius
    expected -= np.where(outer, np.log(1 + ox * x + oy * y), 0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert d(0.0, 1) == pytest.approx(0.0, abs=1e-12)  # flat at the centre
    for k in range(model.size):
        step = np.zeros(model.size)
        step[k] = 1e-4 if k in range(*model.slices["centroid_delta"].indices(model.size)) else 1e-6
        slope = (model.linearised(numbers + step, *at)[0] - model.linearised(numbers - step, *at)[0]) / (2 * step[k])
        np.testing.assert_allclose(design[:, k], slope, rtol=1e-5, atol=1e-6 * np.abs(slope).max() + 1e-9)


def test_derivatives_by_the_sky(mean, rng):
    """By changes of the sky's radial function, in its standard deviations."""
    model, curve, data = mean
    numbers = numbers_of(model, rng)
    at = data.binned.xf[:300], data.binned.yf[:300], data.itl[:300]
    by_sky = model.by_sky(numbers, *at[:2])
    before = model.linearised(numbers, *at)[0]
    change = rng.normal(size=by_sky.shape[1])
    moved = replace(curve, coefficients=curve.coefficients + model.sky_root @ change)
    after = RatioMean(moved, data, CONFIG, True).linearised(numbers, *at)[0]
    np.testing.assert_allclose(after - before, by_sky @ change, rtol=0, atol=1e-12)
    # and its root is that of the curve's covariance
    np.testing.assert_allclose(
        model.sky_root @ model.sky_root.T, curve.covariance, rtol=0, atol=1e-9 * np.diag(curve.covariance).max()
    )


def test_errors_are_those_of_a_dense_covariance(small_camera, rng):
    """On few bins: weighted least squares written out, with the sky's radial function as a normal prior."""
    config = CONFIG.replace(normalize_center_radius=60.0)
    light = Light(radial=(RADIUS, RADIAL), **SKY)
    binned = simulate_binned(small_camera, light, NOISE, 3, bin_factor=50, detector_boundary=0)
    data = prepare(binned, config)
    spline = LogSpline(np.r_[[0.0] * 3, np.linspace(0, 62, 9), [62.0] * 3])
    coefficients = np.log(np.interp(spline.places, RADIUS, RADIAL))
    root = rng.normal(size=(spline.size, spline.size)) * 1e-3
    planes = {"gradient": np.array([4e-5, 2e-5]), "outer_gradient": np.zeros(2)}
    curve = SkyCurve(spline, coefficients, root @ root.T, np.array([0.4, -0.2]), planes, 0.375)
    model = RatioMean(curve, data, config, False)
    numbers = np.zeros(model.size)
    numbers[model.slices["centroid_delta"]] = (-0.9, 0.5)
    at = data.binned.xf, data.binned.yf, data.itl
    value = model.linearised(numbers, *at)[0] + 0.002 * rng.standard_normal(len(data))
    noise = HierarchicalNoise(data)
    scales = np.log(np.full(len(noise.labels), 2e-3))
    covariance = noise.covariance(scales)
    effects = noise.effects
    u = np.array([effects.design(slice(i, i + 1))[0] for i in range(len(data))])
    vendor = effects.vendor[effects.detector]
    own = covariance.own[vendor]
    o, s = effects.own, effects.shared
    dense = np.where(effects.detector[:, None] == effects.detector, (u[:, o] * own) @ u[:, o].T, 0.0)
    dense += np.where(vendor[:, None] == vendor, (u[:, s] * covariance.shared[vendor]) @ u[:, s].T, 0.0)
    dense += covariance.white * np.eye(len(data))
    _, design = model.linearised(numbers, *at)
    by_sky = model.by_sky(numbers, *at[:2])
    # the sky's radial function as one more source of noise
    inverse = np.linalg.inv(dense + by_sky @ by_sky.T)
    expected = np.linalg.inv(design.T @ inverse @ design + np.diag(model.widths**-2.0))
    found = ratio_posterior(model, numbers, noise, covariance, at, value, 1.0)
    np.testing.assert_allclose(
        found.covariance[: model.size, : model.size], expected, rtol=1e-6, atol=1e-9 * np.max(np.abs(expected))
    )
    # a step of the iteration, which leaves the sky alone
    inverse = np.linalg.inv(dense)
    wanted = np.linalg.solve(
        design.T @ inverse @ design + np.diag(model.widths**-2.0),
        design.T @ inverse @ (value - model.linearised(numbers, *at)[0]) - numbers / model.widths**2,
    )
    np.testing.assert_allclose(
        gauss_newton_step(model, numbers, covariance, at, value)[0] - numbers, wanted, rtol=1e-5, atol=1e-9
    )


# ---- the sky's curve ----


@pytest.fixture(scope="module")
def sky_fit(small_camera):
    """The sky's product."""
    light = Light(radial=(RADIUS, RADIAL), **SKY)
    return fit(simulate_binned(small_camera, light, NOISE, 3, kind="sky", bin_factor=10, detector_boundary=0), CONFIG)


def test_curve_of_a_product_is_what_it_holds(sky_fit):
    gradient = sky_fit.gradient
    curve = SkyCurve.of_product(gradient)
    np.testing.assert_array_equal(curve.spline.knots, gradient.knots)
    rows = [gradient.estimates.names.index(f"log_radial[{k}]") for k in range(curve.spline.size)]
    np.testing.assert_array_equal(curve.coefficients, gradient.estimates.columns["map"][rows])
    np.testing.assert_array_equal(curve.covariance, gradient.estimates.covariance[np.ix_(rows, rows)])
    np.testing.assert_array_equal(curve.centroid, [gradient.centroid_delta_x, gradient.centroid_delta_y])
    np.testing.assert_array_equal(curve.planes["gradient"], [gradient.gradient_x, gradient.gradient_y])
    np.testing.assert_array_equal(curve.planes["outer_gradient"], [0.0, 0.0])
    assert curve.smooth == sky_fit.data.smooth == gradient.estimates.header["SMOOTH"][0]


def test_curves_of_product_and_of_first_fit_agree(sky_fit):
    """Within the errors of the product, which are those of the first fit but for a small change of the noise scales."""
    product, first = SkyCurve.of_product(sky_fit.gradient), SkyCurve.of_first_fit(sky_fit.rough)
    np.testing.assert_array_equal(product.spline.knots, first.spline.knots)
    # the outermost bins are elsewhere about another centroid
    apart = np.hypot(*(product.centroid - first.centroid))
    at = np.linspace(1.0, sky_fit.gradient.reach - 2 * apart, 200)
    rows = product.spline.design(at)
    rows = rows - rows.mean(0)  # without the level, which the detectors present set in the product
    sd, of_first = (np.sqrt(np.einsum("ri,ij,rj->r", rows, c.covariance, rows)) for c in (product, first))
    assert np.max(np.abs(rows @ (product.coefficients - first.coefficients)) / sd) < 1.0
    np.testing.assert_allclose(of_first, sd, rtol=0.2)
    for k, axis in enumerate("xy"):
        sd = sky_fit.gradient.estimates[f"gradient_{axis}"]["sd"]
        assert abs(product.planes["gradient"][k] - first.planes["gradient"][k]) < 1.0 * sd
    assert apart < 0.3  # a part of a bin: a first fit ends before it has converged


def test_ratio_is_the_same_with_either_curve(flats, found, sky_fit):
    """The sky's radial function matters only through the centroid."""
    again = fit_ratio(sky_fit.data, flats[1], CONFIG, curve=SkyCurve.of_product(sky_fit.gradient), itl_ratio=0.9)
    assert again.converged
    for name, (mean, row) in again.posterior.scalars.items():
        other, of_other = found.posterior.scalars[name]
        sd = again.posterior.sd(row[None])[0]
        assert sd == pytest.approx(found.posterior.sd(of_other[None])[0], rel=0.1), name
        assert abs(mean - other) <= 1.0 * sd, name  # by the curves' own error, of which both have most


@pytest.mark.parametrize("without", ["knots", "estimates", "centroid", "covariance"])
def test_a_product_without_a_curve_or_a_centroid_gives_none(sky_fit, without):
    gradient = sky_fit.gradient
    estimates = gradient.estimates
    sd = estimates.columns["sd"].copy()
    sd[estimates.names.index("centroid_delta_y")] = 0.0
    changed = {
        "knots": {"knots": None},
        "estimates": {"estimates": None},
        "centroid": {"estimates": replace(estimates, columns=estimates.columns | {"sd": sd})},
        "covariance": {"estimates": replace(estimates, covariance=np.nan * estimates.covariance)},
    }[without]
    assert SkyCurve.of_product(replace(gradient, **changed)) is None
