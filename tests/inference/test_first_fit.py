"""The first fit: near the truth, with dead bins, lopsided rims and strips that are spoilt."""

from dataclasses import replace

import numpy as np
import pytest

from bayesflat.errors import InputError
from bayesflat.inference.rough import rough_fit
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, hierarchical_config, small_config

NOISE = Noise(white=0.002, detector_scatter=0.005, amplifier_scatter=0.002)
TRUTH = {"centroid_delta": (0.5, -0.3), "gradient": (1e-4, -5e-5)}
# a light with a sudden fall
RADIUS = np.linspace(0, 75, 76)
FALL = 1.0 - 0.05 * (RADIUS / 60) ** 2 - 0.3 / (1 + np.exp(-(RADIUS - 45) / 1.5))


def flat(camera, radial=(RADIUS, FALL), bin_factor=10, **more):
    light = Light(radial=radial, itl_ratio=0.9, outer_gradient_radius=40.0, **(TRUTH | more))
    return simulate_binned(camera, light, NOISE, 5, bin_factor=bin_factor, detector_boundary=0)


def first_fit(binned, config=None):
    """The bins that are used, and the first fit."""
    config = config or small_config()
    data = prepare(binned, config)
    return data, rough_fit(data, config)


@pytest.fixture(scope="module")
def whole(small_camera):
    """All bins of the flat."""
    return first_fit(flat(small_camera))


def level(found, radius):
    """Log of the radial function."""
    return found.radial.spline.evaluate(found.parameters["log_radial"], radius)


def test_parameters_are_near_the_truth(whole):
    """The curve is right within its own errors, the centroid to a fraction of a bin of 1 mm."""
    _, found = whole
    np.testing.assert_allclose(found.parameters["centroid_delta"], TRUTH["centroid_delta"], atol=0.15)
    np.testing.assert_allclose(found.parameters["gradient"], TRUTH["gradient"], atol=5e-5)
    spline = found.radial.spline
    at = np.linspace(1.0, 55.0, 60)
    off = level(found, at) - np.log(Light(radial=(RADIUS, FALL)).radial_function(at))
    # the overall level is free
    centre = np.eye(len(at)) - 1 / len(at)
    rows = centre @ spline.design(at)
    sd = np.sqrt(np.diag(rows @ np.linalg.inv(found.information) @ rows.T))
    assert np.mean(np.abs(centre @ off) < 3 * sd) > 0.95


def test_prior_is_as_smooth_as_the_light(whole):
    """Bending within the fall is that of the truth to a factor of a few, and far smaller before it."""
    _, found = whole
    places = found.radial.spline.places[1:-1]
    step = 0.5
    light = Light(radial=(RADIUS, FALL)).radial_function
    bend = np.diff(np.log(light(np.arange(38, 52, step))), 2) / step**2
    falling, before = (places > 42) & (places < 48), places < 25
    sd = np.sqrt(found.radial.bending)
    assert 0.3 < np.sqrt(np.mean(sd[falling] ** 2)) / np.sqrt(np.mean(bend**2)) < 3
    assert sd[before].max() < 0.2 * np.sqrt(np.mean(bend**2))


ALL = ("do_fit_centroid", "do_fit_gradient", "do_fit_outer_gradient")
VARIANTS = [(), ALL[:1], ALL[1:2], ALL]


@pytest.mark.parametrize("switches", VARIANTS, ids="+".join)
def test_terms_that_are_fitted_are_found(small_camera, switches):
    """And no others: those that are off are 0 in the truth here.  Errors are from the first fit's own curvature."""
    names = [switch.removeprefix("do_fit_") for switch in switches]
    names = ["centroid_delta" if name == "centroid" else name for name in names]
    truth = {"centroid_delta": (0.5, -0.3), "gradient": (1e-4, -5e-5), "outer_gradient": (-2e-4, 1e-4)}
    truth = {name: value if name in names else (0.0, 0.0) for name, value in truth.items()}
    _, found = first_fit(
        flat(small_camera, (NODES, VALUES), **truth), hierarchical_config(**dict.fromkeys(switches, True))
    )
    assert set(found.parameters) == {"log_radial", "itl_ratio", "log_noise_scales", *names}
    bounds = {"centroid_delta": 0.1, "gradient": 5e-5, "outer_gradient": 1e-4}
    for name in names:
        np.testing.assert_allclose(found.parameters[name], truth[name], atol=bounds[name], err_msg=name)
    # ten and fifteen detectors that scatter by 0.5%: four standard errors
    assert float(found.parameters["itl_ratio"]) == pytest.approx(0.9, abs=4 * 0.9 * 0.005 * (1 / 10 + 1 / 15) ** 0.5)


def test_lopsided_rings_are_left_out(whole):
    """Bins that are kept fill a circle about the centroid, which ends half a bin's diagonal within that of all bins."""
    data, found = whole
    cx, cy = found.parameters["centroid_delta"]
    kept = np.hypot(data.dx - cx, data.dy - cy)[found.inside].max()
    edge = data.radius.max() - np.hypot(cx, cy) - 0.5**0.5
    assert edge - 1.5 < kept <= edge + 0.02


DEAD = {"every 4th": 4, "every 6th": 6, "every 9th": 9, "a fifth": None}


@pytest.mark.parametrize("every", DEAD.values(), ids=DEAD)
def test_dead_bins_do_not_cost_live_ones(small_camera, whole, every):
    """At least 95% of the live bins are kept; ratio and curve are those of the whole flat."""
    reference, expected = whole
    binned = flat(small_camera)
    n = len(binned)
    dead = np.random.default_rng(3).random(n) < 0.2 if every is None else np.arange(n) % every == 0
    binned.value[dead] = 0.0
    data, found = first_fit(binned)
    assert len(data) == n - dead.sum()
    would_be = expected.inside[~dead]
    assert len(reference) == n
    assert np.sum(found.inside & would_be) > 0.95 * would_be.sum()
    assert found.outlier.mean() < 0.01
    assert float(found.parameters["itl_ratio"]) == pytest.approx(float(expected.parameters["itl_ratio"]), abs=1e-3)
    at = np.linspace(2.0, 52.0, 51)
    normalization = np.log(data.normalization / reference.normalization)
    np.testing.assert_allclose(level(found, at) + normalization, level(expected, at), atol=2e-3)


@pytest.mark.parametrize("elsewhere", [0.0, 0.05])
def test_a_lopsided_rim_is_cut(small_camera, elsewhere):
    """Bins that are missing on one side, beyond 40 mm, and here and there besides: no ring of it is kept."""
    binned = flat(small_camera)
    away = np.hypot(binned.xf, binned.yf)  # a round field, as vignetting leaves it
    missing = (away > 50) | ((binned.xf > 0) & (away > 40))
    missing |= np.random.default_rng(3).random(len(binned)) < elsewhere
    data, found = first_fit(binned.select(~missing))
    kept = np.hypot(data.dx - 0.5, data.dy + 0.3)[found.inside]
    # the hole begins 40 mm from the pivot, 40.6 at most from the centroid
    assert 36 < kept.max() < 41


def test_a_lopsided_corner_is_cut(small_camera):
    """A field as square as the detectors, one side of it missing beyond 50 mm: its other corners are no rings."""
    binned = flat(small_camera)
    missing = (binned.xf > 0) & (np.hypot(binned.xf, binned.yf) > 50)
    data, found = first_fit(binned.select(~missing))
    kept = np.hypot(data.dx - 0.5, data.dy + 0.3)[found.inside]
    assert 46 < kept.max() < 51


def test_strips_of_all_detectors_are_outliers(small_camera, whole):
    """A fifth of each detector's rows reads 30% low: level and ratio are those of the rest."""
    reference, expected = whole
    binned = flat(small_camera)
    spoilt = np.zeros(len(binned), dtype=bool)
    for detector in small_camera:
        here = binned.detector == detector.id
        _, y = detector.focal_plane_to_pixel(binned.xf[here], binned.yf[here])
        spoilt[here] = y < 40
    assert spoilt.mean() == pytest.approx(0.2, abs=0.01)
    binned.value[spoilt] *= 0.7
    data, found = first_fit(binned)
    of_strips = spoilt[found.inside]
    assert found.outlier[of_strips].mean() > 0.98
    assert found.outlier[~of_strips].mean() < 0.02
    assert float(found.parameters["itl_ratio"]) == pytest.approx(float(expected.parameters["itl_ratio"]), abs=2e-3)
    at = np.linspace(2.0, 52.0, 51)
    normalization = np.log(data.normalization / reference.normalization)
    np.testing.assert_allclose(level(found, at) + normalization, level(expected, at), atol=3e-3)


@pytest.mark.parametrize(("bin_factor", "said"), [(100, "4 of 4"), (66, "9 of 9"), (40, "13 of 25")])
def test_too_few_bins_are_refused(small_camera, bin_factor, said):
    """One detector of 2 x 2, 3 x 3 and 5 x 5 bins, whose corners are in no full ring."""
    binned = simulate_binned(
        small_camera.subset(["R22_S00"]), Light(radial=(RADIUS, FALL)), Noise(white=1e-3), 1, bin_factor=bin_factor,
        detector_boundary=0,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"^{said} bins are good and in full rings"):
        first_fit(binned)


def test_full_rings_where_the_bins_fill_a_circle_about_another_place(small_camera):
    """No ring that is kept lacks bins; a flat that was corrected about another centroid ends in such a circle."""
    centre, radius = np.array([3.0, -2.0]), 45.0
    binned = flat(small_camera, (NODES, VALUES))
    binned = binned.select(np.hypot(binned.xf - centre[0], binned.yf - centre[1]) <= radius)
    config = small_config()
    data = prepare(binned, config)
    away = np.hypot(data.dx - TRUTH["centroid_delta"][0], data.dy - TRUTH["centroid_delta"][1])
    # the circle about the centroid that touches the bins' own from within, less half a bin's diagonal (bins of 1 mm)
    edge = radius - np.hypot(*(centre - TRUTH["centroid_delta"])) - 0.5**0.5
    dead = (data.dx > 0) & (data.dx < 5) & (data.dy > 10) & (data.dy < 12)  # nor do defects inside matter
    data = data.select(~dead)
    kept = away[~dead][rough_fit(data, config).inside].max()
    assert edge - 1.5 < kept < edge + 1.0  # to a bin


def test_bins_that_the_mask_cuts_are_left_out(small_camera):
    """The flat ends at 45 mm, and bins across that edge have part of their pixels only: none of them is kept."""
    radius = 45.0
    binned = flat(small_camera, (NODES, VALUES))
    away = np.hypot(binned.xf, binned.yf)
    share = np.clip(radius + 0.5 - away, 0.0, 1.0)  # about what lies inside, of a bin of 1 mm
    binned = replace(binned, n_pixels=np.round(100 * share).astype(int)).select(share > 0)
    assert np.hypot(binned.xf, binned.yf).max() > radius + 0.4
    data, found = first_fit(binned)
    kept = data.select(found.inside)
    assert np.all(kept.binned.n_pixels[kept.radius > 40] == 100)
    edge = radius - np.hypot(*TRUTH["centroid_delta"]) - 0.5**0.5
    assert np.hypot(kept.dx - 0.5, kept.dy + 0.3).max() > edge - 2.0
