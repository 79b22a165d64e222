"""The simulator: formulas of the tests' own, statistics against the options, and files against the truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.interpolate import Akima1DInterpolator

from bayesflat.data.camera import Camera, Detector, lsstcam
from bayesflat.errors import InputError
from bayesflat.simulation.detectors import SimulatedDetectors, simulate_binned, true_parameters
from bayesflat.simulation.flats import detector_image, simulate_focal_plane, write_simulation
from bayesflat.simulation.truth import Light, Noise, band_itl_ratio, band_of, default_light
from bayesflat.stages import watched_by
from tests.helpers import Watching

NODES = (0.0, 200.0, 250.0, 300.0, 310.0, 320.0, 330.0, 340.0, 350.0, 360.0, 368.0)
VALUES = (1.0, 0.99, 0.97, 0.94, 0.91, 0.85, 0.74, 0.61, 0.5, 0.3, 0.1)
FULL = Noise.for_band("i")


@pytest.fixture(scope="module")
def science():
    return lsstcam().science()


@pytest.fixture(scope="module")
def few():
    # both vendors, odd and even ids, across 350 mm and well inside
    return lsstcam().subset(["R22_S11", "R22_S12", "R01_S00", "R01_S01", "R02_S11"])


def means(image, factor):
    ny, nx = (n // factor for n in image.shape)
    return image[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor).mean(axis=(1, 3))


# ---- the light ----


def test_light_is_radial_times_ratio_over_planes():
    light = Light(
        radial=(NODES, VALUES),
        bend=-0.01,
        centroid=(1.0, -2.0),
        centroid_delta=(0.8, -0.5),
        gradient=(3e-4, -2e-4),
        outer_gradient=(-1e-4, 4e-4),
        outer_gradient_radius=300.0,
        itl_ratio=0.95,
    )
    rng = np.random.default_rng(0)
    for x, y, itl in zip(rng.uniform(-250, 250, 50), rng.uniform(-250, 250, 50), rng.random(50) < 0.5, strict=True):
        r = np.sqrt((x - 1.0 - 0.8) ** 2 + (y + 2.0 + 0.5) ** 2)
        expected = float(Akima1DInterpolator(NODES, VALUES)(r)) * (1 - 0.01 * r**2 / 350**2) * (0.95 if itl else 1)
        expected /= 1 + 3e-4 * (x - 1.0) - 2e-4 * (y + 2.0)
        if np.sqrt((x - 1.0) ** 2 + (y + 2.0) ** 2) >= 300:
            expected /= 1 - 1e-4 * (x - 1.0) + 4e-4 * (y + 2.0)
        assert light.evaluate(x, y, itl) == pytest.approx(expected, rel=1e-13)


def test_plane_divides_and_centroid_moves_the_radial_function_only():
    flat = Light(radial=((0.0, 500.0), (1.0, 1.0)), gradient=(1e-3, 0.0))
    assert flat.evaluate(100.0, 0.0, False) == pytest.approx(1 / 1.1, rel=1e-14)
    # with a constant radial function the centroid cannot matter: the planes keep their pivot
    moved = replace(flat, centroid_delta=(5.0, 5.0), outer_gradient=(1e-3, 0.0), outer_gradient_radius=100.0)
    assert moved.evaluate([100.0, 99.0], 0.0, False) == pytest.approx([1 / 1.1**2, 1 / 1.099], rel=1e-14)
    # and the radial function moves towards the offset
    steep = Light(radial=(NODES, VALUES), centroid_delta=(2.0, 0.0))
    assert steep.evaluate(332.0, 0.0, False) == pytest.approx(0.74, rel=1e-14)
    assert steep.evaluate(-328.0, 0.0, False) == pytest.approx(0.74, rel=1e-14)


def test_outer_plane_starts_at_the_radius_from_the_fixed_pivot():
    light = Light(
        centroid=(3.0, 0.0), centroid_delta=(9.0, 0.0), outer_gradient=(0.0, 1e-3), outer_gradient_radius=50.0
    )
    plain = replace(light, outer_gradient=(0.0, 0.0))
    ratio = light.evaluate([3.0, 3.0], [50.0, 49.999], False) / plain.evaluate([3.0, 3.0], [50.0, 49.999], False)
    assert ratio == pytest.approx([1 / 1.05, 1.0], rel=1e-14)


def test_lsstcam_vignetting_goes_through_the_table_and_falls_to_zero():
    light = Light()
    table = {0: 0.999, 200: 0.986, 250: 0.969, 275: 0.949, 300: 0.937, 310: 0.910, 317: 0.869, 325: 0.796, 350: 0.499}
    assert light.radial_function(list(table)) == pytest.approx(list(table.values()), abs=1e-12)
    r = np.linspace(0, 380, 3801)
    value = light.radial_function(r)
    assert np.all(np.diff(value) <= 0)
    assert np.all(np.abs(value[r >= 368]) < 1e-15)
    slope = np.diff(value[(r >= 345) & (r < 356)]) / 0.1
    assert np.abs(np.diff(slope)).max() < 1e-3  # no kink where the table ends


def test_nodes_clip_the_radius():
    light = Light(radial=(NODES, VALUES))
    assert light.radial_function([368.0, 400.0]) == pytest.approx([0.1, 0.1], rel=1e-14)


def test_defaults_of_sky_and_dome():
    sky, dome = default_light("sky", "u_24"), default_light("dome", "u_24")
    assert sky.itl_ratio == dome.itl_ratio == band_itl_ratio("u") == 0.905
    assert (sky.gradient, sky.centroid_delta, sky.level) == ((0, 0), (0, 0), 5000)
    assert (dome.gradient, dome.centroid_delta, dome.bend, dome.level) == ((3e-5, -2e-5), (0.8, -0.5), -0.005, 20000)


# ---- the detectors ----


def test_response_is_the_same_for_any_subset_and_order(science):
    keys = ["R22_S11", "R01_S00"]
    whole, part = SimulatedDetectors(science, FULL, 7), SimulatedDetectors(science.subset(keys[::-1]), FULL, 7)
    for key in keys:
        assert np.array_equal(whole.response(key, 64), part.response(key, 64))
        assert whole.throughput(key) == part.throughput(key)
    other = SimulatedDetectors(science, FULL, 8)
    assert np.abs(other.response(keys[0], 64) - whole.response(keys[0], 64)).max() > 1e-3


def test_dust_is_no_part_of_the_throughput(few):
    """It dims the pixels under it, which a fit leaves out, like those of dead columns."""
    clean, dusty = (SimulatedDetectors(few, replace(FULL, dust=dust), 4) for dust in (0.0, 0.05))
    assert dusty.throughput("R22_S11") == clean.throughput("R22_S11")
    pixels = [d.response("R22_S11", 32).mean() for d in (clean, dusty)]
    assert 2e-4 < 1 - pixels[1] / pixels[0] < 3e-3  # 5% of the area's bins, by 2.75% in the middle of a spot
    assert clean.throughput("R22_S11") == pytest.approx(pixels[0], rel=1e-4)


def test_no_noise_means_a_response_of_one(few):
    assert np.all(SimulatedDetectors(few, Noise.none(), 0).response("R01_S00", 8) == 1.0)


@pytest.mark.parametrize("name", ["detector_scatter", "own_field", "rim", "dust", "shared_smooth"])
def test_options_do_not_change_what_else_is_drawn(few, name):
    # without one term, the others are as they were: the ratio is that term's alone
    plain = Noise(amplifier_scatter=0.003, shared_amplifier=0.002, rim=0.0 if name == "rim" else 0.002)
    with_term = replace(plain, **{name: 0.004})
    key, grid = "R22_S11", (np.arange(100, 4000, 150), np.arange(100, 3900, 150), 20)
    noises = with_term, plain, Noise(**{name: 0.004})
    both, others, alone = (SimulatedDetectors(few, noise, 3).response_at(key, *grid) for noise in noises)
    assert both / others == pytest.approx(alone, abs=2e-7 if name == "dust" else 5e-5)


def test_coarse_response_is_the_mean_of_the_fine_one(few):
    detectors = SimulatedDetectors(few, replace(FULL, dust=0.02), 5)
    for key in ("R22_S11", "R01_S01"):
        fine, coarse = detectors.response(key, 4), detectors.response(key, 32)
        # the mean of a product against the product of the means: an amplifier's 0.5% times a spot's 5%
        assert means(fine, 8) == pytest.approx(coarse[: fine.shape[0] // 8, : fine.shape[1] // 8], abs=3e-5)


def test_bins_straddling_amplifiers_get_the_mean_by_area(few):
    detectors = SimulatedDetectors(few, Noise(amplifier_scatter=0.01), 2)
    gains = detectors.amplifier_gains("R01_S00").reshape(2, 8)
    bins = detectors.response_at("R01_S00", [508.5, 508.5 - 32], [1000.0, 1999.5], size=128)
    inner = 0.5 * (gains[0, 0] + gains[0, 1]), 0.75 * gains[0, 0] + 0.25 * gains[0, 1]
    upper = 0.5 * (gains[1, 0] + gains[1, 1]), 0.75 * gains[1, 0] + 0.25 * gains[1, 1]
    assert bins[0] == pytest.approx(inner, rel=1e-12)
    assert bins[1] == pytest.approx(np.mean([inner, upper], axis=0), rel=1e-12)


# ---- statistics: bounds are four standard errors of what is estimated ----


def within(sample, expected, n):
    """Whether the standard deviation of n independent normal numbers lies within four of its standard errors."""
    return abs(sample / expected - 1) < 4 / np.sqrt(2 * n)


def test_detector_scatter_per_vendor(science):
    detectors = SimulatedDetectors(science, Noise(detector_scatter=(0.02, 0.01)), 1)
    itl = np.array([detectors.throughput(d.id) for d in science if d.is_itl])
    rest = np.array([detectors.throughput(d.id) for d in science if not d.is_itl])
    assert (len(itl), len(rest)) == (72, 117)
    assert within(np.std(itl, ddof=1), 0.02, 72)
    assert within(np.std(rest, ddof=1), 0.01, 117)
    assert abs(itl.mean() - 1) < 4 * 0.02 / np.sqrt(72)


def test_amplifier_scatter_is_each_detectors_own(science):
    detectors = SimulatedDetectors(science, Noise(amplifier_scatter=(0.005, 0.003)), 1)
    for itl, sigma in ((True, 0.005), (False, 0.003)):
        gains = np.array([detectors.amplifier_gains(d.id) for d in science if d.is_itl == itl])
        assert within(np.std(gains - 1), sigma, gains.size)
        assert within(np.std(gains.mean(axis=0)), sigma / np.sqrt(len(gains)), 16)


def test_shared_pattern_is_one_per_vendor(science):
    keys = ["R22_S11", "R33_S02", "R01_S00", "R43_S22"]
    noise = Noise(shared_amplifier=(0.004, 0.002), shared_smooth=(0.003, 0.001))
    detectors = SimulatedDetectors(science, noise, 1)
    x = np.arange(200, 3900, 100)
    e2v, other_e2v, itl, other_itl = (detectors.response_at(key, x, x) for key in keys)
    assert np.array_equal(e2v, other_e2v)
    assert np.array_equal(itl, other_itl)
    assert np.abs(e2v - itl).max() > 1e-3
    gains = [SimulatedDetectors(science, noise, seed).amplifier_gains("R01_S00") for seed in range(40)]
    assert within(np.std(np.array(gains) - 1), 0.004, 640)
    smooth = Noise(shared_smooth=(0.003, 0.001))
    field = [
        SimulatedDetectors(science, smooth, seed).response_at("R22_S11", [2000], [2000])[0, 0] - 1
        for seed in range(200)
    ]
    assert within(np.std(field), 0.001, 200)


def test_shared_slope_goes_from_the_left_to_the_right_edge(few):
    detectors = SimulatedDetectors(few, Noise(shared_slope=(-0.028, 0.03)), 1)
    for key, slope in (("R22_S11", 0.03), ("R01_S00", -0.028)):
        nx = few[key].nx
        row = detectors.response_at(key, [-0.5, nx / 2 - 0.5, nx - 0.5], [7.0])[0]
        assert row == pytest.approx([1 - slope / 2, 1.0, 1 + slope / 2], abs=1e-12)


def test_own_field_has_its_rms_and_scale(science):
    detectors = SimulatedDetectors(science, Noise(own_field=0.002, field_scale=10.0), 1)
    n = len(science)
    # 5, 10 and 30 mm apart, along x and along y, in 189 independent fields
    px = np.array([500.0, 1000.0, 1500.0, 3500.0])
    fields = np.array([detectors.response_at(d.id, px, px) - 1 for d in science])
    assert within(np.sqrt(np.mean(fields[:, 0, 0] ** 2)), 0.002, n)
    for other, distance in ((1, 5.0), (2, 10.0), (3, 30.0)):
        expected = np.exp(-0.5 * (distance / 10.0) ** 2)
        for far in (fields[:, other, 0], fields[:, 0, other]):
            correlation = np.mean(fields[:, 0, 0] * far) / 0.002**2
            assert abs(correlation - expected) < 4 * np.sqrt((1 + expected**2) / n)


def test_rims_are_dimmer_at_the_edges_only(few):
    detectors = SimulatedDetectors(few, Noise(rim=0.002), 1)
    nx, ny = few["R22_S11"].nx, few["R22_S11"].ny
    px = np.array([0.0, 99.5, 2000.0, nx - 1.0])
    row = detectors.response_at("R22_S11", px, [ny / 2])[0]
    expected = [1 - 0.002 * np.exp(-0.005), 1 - 0.002 / np.e, 1.0, 1 - 0.002 * np.exp(-0.005)]
    assert row == pytest.approx(expected, abs=1e-7)
    column = detectors.response_at("R22_S11", [nx / 2], [0.0, ny - 1.0])[:, 0]
    assert column == pytest.approx([expected[0]] * 2, abs=1e-7)


def test_dust_has_its_number_depth_and_shape(science):
    dust = Noise(dust=0.003)
    detectors = SimulatedDetectors(science, dust, 1)
    spots = [detectors.dust(d.id) for d in science]
    cells = sum(d.nx * d.ny * d.pixel_size**2 for d in science) / 1.28**2
    count = sum(s.shape[1] for s in spots)
    assert abs(count - 0.003 * cells) < 4 * np.sqrt(0.003 * cells)
    depth = np.concatenate([s[3] for s in spots])
    assert abs(depth.mean() - 0.0275) < 4 * 0.045 / np.sqrt(12 * count)
    # one spot as the pixels show it: round, with its depth in the middle
    number = next(i for i, s in enumerate(spots) if s.shape[1] == 1 and np.all((s[:2] > 5) & (s[:2] < 35)))
    x, y, sigma, depth = spots[number][:, 0]
    px, py = 100 * x - 0.5, 100 * y - 0.5
    away = 100 * sigma
    loss = 1 - detectors.response_at(list(science)[number].id, [px - away, px, px + away], [py - away, py, py + away])
    side, corner = np.exp(-0.5), np.exp(-1.0)
    shape = [[corner, side, corner], [side, 1, side], [corner, side, corner]]
    assert loss == pytest.approx(depth * np.array(shape), rel=1e-3)


@pytest.mark.parametrize("bin_factor", [128, 64])
def test_white_noise_of_bins(science, bin_factor):
    flat = Light(radial=((0.0, 500.0), (1.0, 1.0)), level=1000.0)
    options = {"bin_factor": bin_factor, "detector_boundary": 10}
    sky = simulate_binned(science.subset(range(20)), flat, Noise(white=0.0005), 1, **options)
    dome = simulate_binned(science.subset(range(20)), flat, Noise(white=0.0005), 1, kind="dome", **options)
    sigma = 0.0005 * 128 / bin_factor
    assert within(np.std(sky.value / 1000 - 1), sigma, len(sky))
    assert abs(np.corrcoef(sky.value, dome.value)[0, 1]) < 4 / np.sqrt(len(sky))


@pytest.mark.parametrize("coarse", [8, 16])
def test_white_noise_of_pixels_averages_to_that_of_bins(few, coarse):
    flat = Light(radial=((0.0, 500.0), (1.0, 1.0)), level=1000.0)
    detectors = SimulatedDetectors(few, Noise(white=0.0005), 1)
    sky, dome = (detector_image(detectors, flat, "R22_S11", kind=kind, coarse=coarse) for kind in ("sky", "dome"))
    bins = means(sky.image.astype(float), 128 // coarse) / 1000 - 1
    assert within(np.std(bins), 0.0005, bins.size)
    assert np.sqrt(sky.variance.mean()) == pytest.approx(0.0005 * 1000 * 128 / coarse, rel=1e-5)
    assert abs(np.corrcoef(sky.image.ravel(), dome.image.ravel())[0, 1]) < 4 / np.sqrt(sky.image.size)


def test_noise_of_a_band_adds_up_to_the_table():
    noise = Noise.for_band("u_24")
    assert noise.detector_scatter == pytest.approx((0.082, 0.051))
    assert noise.shared_slope == pytest.approx((-0.028, 0.03))
    parts = np.array([noise.shared_amplifier, noise.shared_smooth, np.array(noise.shared_slope) / np.sqrt(12)])
    shared = np.sqrt((parts**2).sum(axis=0))
    assert shared == pytest.approx([0.009, 0.014], rel=1e-12)
    assert np.hypot(shared, noise.amplifier_scatter) == pytest.approx([0.015, 0.015], rel=1e-12)
    assert noise.white == 0.0005


# ---- the truth ----


def test_true_parameters_hold_the_detectors_that_were_drawn(few):
    light = Light(radial=(NODES, VALUES), itl_ratio=0.95, gradient=(3e-5, -2e-5), centroid_delta=(0.8, -0.5))
    detectors = SimulatedDetectors(few, replace(FULL, detector_scatter=(0.05, 0.03), dust=0.0), 4)
    truth = true_parameters(light, detectors)
    area = {d.id: detectors.response(d.id, 4).mean() for d in few}  # the mean response, from the pixels
    itl = np.mean([area[d.id] for d in few if d.is_itl])
    rest = np.mean([area[d.id] for d in few if not d.is_itl])
    assert truth["itl_ratio"] == pytest.approx(0.95 * itl / rest, abs=2e-6)
    assert truth["group_throughput"] == pytest.approx(rest, abs=2e-6)
    assert truth["detector_throughput"] == pytest.approx(area, abs=2e-6)
    assert truth["radial_spline_values[5]"] == 0.85 * truth["group_throughput"]
    assert (truth["gradient_x"], truth["gradient_y"], truth["outer_gradient_x"]) == (3e-5, -2e-5, 0.0)
    assert (truth["centroid_delta_x"], truth["centroid_delta_y"]) == (0.8, -0.5)
    assert "radial_spline_values[0]" not in true_parameters(replace(light, bend=0.01), detectors)


def test_one_vendor_has_no_ratio_and_its_level(few):
    light = Light(itl_ratio=0.9)
    for keys, factor in ((["R22_S11", "R22_S12"], 1.0), (["R01_S00", "R01_S01"], 0.9)):
        detectors = SimulatedDetectors(few.subset(keys), FULL, 4)
        truth = true_parameters(light, detectors)
        assert truth["itl_ratio"] == 1.0
        assert truth["group_throughput"] == pytest.approx(factor * np.mean([detectors.throughput(k) for k in keys]))


# ---- binned focal planes ----


def test_bins_without_noise_are_the_light_at_their_centres(science):
    light = replace(default_light("dome"), outer_gradient=(1e-5, 2e-5))
    binned = simulate_binned(science, light, Noise.none(), 0, kind="dome")
    assert np.array_equal(binned.value, light.evaluate(binned.xf, binned.yf, binned.itl) * light.level)
    assert np.hypot(binned.xf, binned.yf).max() <= 350.0
    centre = science[94]
    px, py = centre.focal_plane_to_pixel(*(v[binned.detector == 94] for v in (binned.xf, binned.yf)))
    starts = np.unique(np.round(px - 63.5, 6)), np.unique(np.round(py - 63.5, 6))
    assert all(np.array_equal(s, 10 + 128 * np.arange(31)) for s in starts)
    assert np.array_equal(binned.amplifier[binned.detector == 94], centre.amplifier(px, py))
    # inside the radius no bin is lost: 31 x 31 of each detector
    everything = simulate_binned(science, light, Noise.none(), 0, vignetted_radius=1e3)
    assert len(everything) == 189 * 961
    assert len(binned) == np.sum(np.hypot(everything.xf, everything.yf) <= 350.0)


def test_sky_and_dome_bins_share_their_detectors(few):
    # the light and the white noise taken out, what is left is the same response
    noise = replace(FULL, white=0.0)
    sky, dome = (simulate_binned(few, default_light(kind), noise, 11, kind=kind) for kind in ("sky", "dome"))
    relative = [
        b.value / (light.evaluate(b.xf, b.yf, b.itl) * light.level)
        for b, light in ((sky, default_light("sky")), (dome, default_light("dome")))
    ]
    assert relative[0] == pytest.approx(relative[1], rel=1e-13)
    assert np.std(relative[0]) > 1e-3


def test_binned_subset_is_the_same_as_the_whole(science, few):
    whole = simulate_binned(science, default_light("sky"), FULL, 3)
    part = simulate_binned(few, default_light("sky"), FULL, 3)
    for detector in few:
        assert np.array_equal(whole.value[whole.detector == detector.id], part.value[part.detector == detector.id])


@pytest.mark.parametrize("key", ["R22_S12", "R02_S11"])
def test_means_of_pixels_are_the_bins(few, key):
    light, noise = default_light("dome"), replace(FULL, white=0.0, dead_columns=0)
    camera = few.subset([key])
    image = detector_image(SimulatedDetectors(camera, noise, 6), light, key, kind="dome", coarse=2).image.astype(float)
    pixels = means(image[5:, 5:], 64)[:31, :31]
    bins = simulate_binned(camera, light, noise, 6, kind="dome").value.reshape(31, 31)
    # a mean differs from the value at the centre by curvature * (bin**2) / 24, 2e-3/mm**2 at the most
    assert pixels / bins == pytest.approx(np.ones((31, 31)), abs=2e-3 * 1.28**2 / 24)
    assert np.median(np.abs(pixels / bins - 1)) < 5e-6


def test_small_camera_of_any_shape():
    detector = Detector(5, "only", "CCD", "science", 1.0, 2.0, 30.0, 200, 100, 0.1, 99.5, 49.5, amp_nx=2, amp_ny=1)
    camera = Camera("toy", [detector])
    binned = simulate_binned(camera, Light(level=10.0), Noise.none(), 0, bin_factor=50, detector_boundary=0)
    assert binned.xf[0] == pytest.approx(1.0 + (-7.5 * np.cos(np.pi / 6) + 2.5 * np.sin(np.pi / 6)))
    assert list(binned.amplifier) == [0, 0, 1, 1] * 2
    with pytest.raises(InputError, match="no bin of 128 pixels"):
        simulate_binned(camera, Light(), Noise.none(), 0)


# ---- pixel images ----


def test_pixels_beyond_the_vignetting_are_zero_and_flagged(few):
    image = detector_image(SimulatedDetectors(few, FULL, 1), default_light("sky"), "R01_S00", coarse=16)
    ny, nx = image.image.shape
    xf, yf = image.detector.pixel_to_focal_plane(np.arange(nx), np.arange(ny)[:, None])
    radius = np.hypot(xf, yf)
    assert 0 < np.sum(radius > 350) < radius.size
    assert np.array_equal(image.mask & (1 << 8) != 0, radius > 350)
    assert np.array_equal(image.mask & (1 << 9) != 0, radius > 350)
    assert np.array_equal(image.mask & (1 << 10) != 0, radius > 317)
    assert np.all(image.image[radius > 350] == 0.0)
    assert np.all(image.mask & ~(7 << 8) == 0)


def test_coarse_pixels_are_means_of_fine_ones(few):
    noise = replace(FULL, white=0.0, dead_columns=0)
    detectors = SimulatedDetectors(few, noise, 1)
    fine, coarse = (detector_image(detectors, default_light("sky"), "R22_S11", coarse=f).image for f in (4, 16))
    # curvature of the light within 0.16 mm and products within a pixel: below the float32 of a few thousand counts
    assert means(fine.astype(float), 4)[: coarse.shape[0]] == pytest.approx(coarse, rel=5e-6)


def test_dead_columns_are_the_same_whatever_the_factor(few):
    detectors = SimulatedDetectors(few, replace(FULL, dead_columns=6), 1)
    for key in ("R22_S11", "R01_S01"):
        fine, coarse = detectors.defects(key), detectors.defects(key, 16)
        assert len(fine) == 6
        assert np.array_equal(fine[:, 0] // 16, np.minimum(coarse[:, 0], few[key].nx // 16))
        assert np.all(fine[:, 3] == few[key].ny // 2)
        image = detector_image(detectors, default_light("sky"), key, coarse=16)
        spoiled = np.zeros(image.image.shape, dtype=bool)
        for x0, y0, width, height in coarse:
            spoiled[y0 : y0 + height, x0 : x0 + width] = True
        clean = detector_image(
            SimulatedDetectors(few, replace(FULL, dead_columns=0), 1), default_light("sky"), key, coarse=16
        )
        assert np.array_equal(image.image[~spoiled], clean.image[~spoiled])
        assert not np.any(image.image[spoiled] == clean.image[spoiled])


# ---- files ----


@pytest.fixture(scope="module")
def written(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("simulation") / "dome"
    truth = write_simulation(folder, kind="dome", coarse=16, seed=9, camera=few, physical_filter="r_57")
    return folder, truth


def test_flats_are_laid_out_as_lsst_does(written, few):
    folder, _ = written
    names = sorted(path.name for path in (folder / "flats").iterdir())
    assert names == sorted(f"LSSTCam_r_57_{d.name}_dome.fits" for d in few)
    images = simulate_focal_plane(few, default_light("dome", "r_57"), Noise.for_band("r"), 9, kind="dome", coarse=16)
    for image in images:
        with fits.open(folder / "flats" / f"LSSTCam_r_57_{image.detector.name}_dome.fits") as hdus:
            header = hdus[0].header
            assert hdus[0].data is None
            assert header["LSST BUTLER DATAID DETECTOR"] == image.detector.id
            assert header["LSST BUTLER DATAID PHYSICAL_FILTER"] == header["FILTER"] == "r_57"
            assert header["LSST BUTLER DATAID INSTRUMENT"] == header["INSTRUME"] == "LSSTCam"
            assert [hdu.name for hdu in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
            assert np.array_equal(hdus["IMAGE"].data, image.image, equal_nan=True)
            assert np.array_equal(hdus["VARIANCE"].data, image.variance)
            assert np.array_equal(hdus["MASK"].data, image.mask)
            assert (hdus["IMAGE"].header["BITPIX"], hdus["MASK"].header["BITPIX"]) == (-32, 32)
            bits = {key[3:]: value for key, value in hdus["MASK"].header.items() if key.startswith("MP_")}
            assert (bits["BAD"], bits["NO_DATA"], bits["DETECTED_NEGATIVE"], bits["PARTLY_VIGNETTED"]) == (0, 8, 6, 10)
            assert len(bits) == 11


def test_defect_tables_cover_the_dead_columns(written, few):
    folder, _ = written
    detectors = SimulatedDetectors(few, Noise.for_band("r"), 9)
    for detector in few:
        ending = "ecsv" if detector.id % 2 else "fits"
        table = Table.read(folder / "defects" / f"{detector.name}.{ending}")
        assert (table.meta["DETECTOR"], table.meta["DET_NAME"]) == (detector.id, detector.name)
        if ending == "ecsv":
            boxes = [tuple(row) for row in table["x0", "y0", "width", "height"]]
        else:
            assert {str(shape).strip() for shape in table["SHAPE"]} == {"BOX"}
            low = [np.floor(table[c] - 1 - table["R"][:, i] / 2 + 1).astype(int) for i, c in enumerate("XY")]
            boxes = list(zip(*low, *table["R"].T.astype(int), strict=True))
        assert boxes == [tuple(box) for box in detectors.defects(detector.id, 16)]
        with fits.open(folder / "flats" / f"LSSTCam_r_57_{detector.name}_dome.fits") as hdus:
            for number, (x0, y0, width, height) in enumerate(boxes):
                pixels = hdus["IMAGE"].data[y0 : y0 + height, x0 : x0 + width]
                alive = hdus["MASK"].data[y0 : y0 + height, x0 : x0 + width] & (1 << 8) == 0
                assert np.all(np.isnan(pixels[alive]) if number % 3 else pixels[alive] == 0)


def test_truth_is_what_the_response_gives(written, few):
    folder, returned = written
    truth = json.loads((folder / "truth.json").read_text())
    assert truth == json.loads(json.dumps(returned))
    detectors = SimulatedDetectors(few, Noise.for_band("r"), 9)
    itl, rest = ([detectors.throughput(d.id) for d in few if d.is_itl == group] for group in (True, False))
    assert truth["itl_ratio"] == pytest.approx(0.937 * np.mean(itl) / np.mean(rest), rel=1e-12)
    assert truth["detector_throughput"]["94"] == detectors.throughput(94)
    assert (truth["centroid_delta_x"], truth["gradient_y"]) == (0.8, -2e-5)
    assert (truth["kind"], truth["seed"], truth["level"]) == ("dome", 9, 20000.0)
    radius, value = (np.array(truth["radial_function"][key]) for key in ("radius", "value"))
    assert np.array_equal(radius, np.arange(0, 351, 5))
    assert value[60] == pytest.approx(0.937 * (1 - 0.005 * (300 / 350) ** 2) * np.mean(rest), rel=1e-12)
    # the same in the pixels: a detector's mean over the light is its throughput
    with fits.open(folder / "flats" / "LSSTCam_r_57_R22_S11_dome.fits") as hdus:
        image = hdus["IMAGE"].data.astype(float)
    small = Camera.read(folder / "camera.ecsv")["R22_S11"]
    xf, yf = small.pixel_to_focal_plane(np.arange(small.nx), np.arange(small.ny)[:, None])
    ratio = image / default_light("dome", "r_57").evaluate(xf, yf, False) / 20000.0
    alive = np.isfinite(ratio) & (ratio > 0.5)
    assert ratio[alive].mean() == pytest.approx(truth["detector_throughput"]["94"], abs=1e-4)


def test_camera_table_fits_the_images(written, few):
    camera = Camera.read(written[0] / "camera.ecsv")
    assert list(camera) == list(few.coarsened(16))


def test_sky_and_dome_files_share_their_detectors(written, few, tmp_path):
    truth = write_simulation(tmp_path / "sky", kind="sky", coarse=16, seed=9, camera=few, physical_filter="r_57")
    assert truth["detector_throughput"] == written[1]["detector_throughput"]
    assert truth["gradient_x"] == 0.0
    for name in ("R22_S11.fits", "R22_S12.ecsv"):
        assert (tmp_path / "sky/defects" / name).read_bytes() == (written[0] / "defects" / name).read_bytes()


def test_compression_and_processes_change_no_pixel(written, few, tmp_path):
    watching = Watching()
    with watched_by(watching):
        write_simulation(
            tmp_path / "new",
            kind="dome",
            coarse=16,
            seed=9,
            camera=few.subset(["R22_S11", "R01_S00"]),
            physical_filter="r_57",
            compress=True,
            processes=2,
        )
    assert (watching.stages, watching.done) == ([("writing flats", 2)], [2])
    for name in ("R22_S11", "R01_S00"):
        file = f"flats/LSSTCam_r_57_{name}_dome.fits"
        with fits.open(written[0] / file) as plain, fits.open(tmp_path / "new" / file) as compressed:
            assert compressed["IMAGE"].compression_type == "GZIP_2"
            for plane in ("IMAGE", "MASK", "VARIANCE"):
                assert np.array_equal(plain[plane].data, compressed[plane].data, equal_nan=True)
                assert plain[plane].header["BITPIX"] == compressed[plane].header["BITPIX"]
            assert compressed["MASK"].header["MP_NO_DATA"] == 8


def test_full_pixel_scale(tmp_path):
    camera = Camera("toy", [replace(lsstcam()["R22_S11"], nx=512, ny=300, refpos_x=255.5, refpos_y=149.5)])
    write_simulation(tmp_path / "full", camera=camera, coarse=1)
    with fits.open(tmp_path / "full/flats/toy_i_39_R22_S11_sky.fits") as hdus:
        assert hdus["IMAGE"].data.shape == (300, 512)
        # 6.4% a pixel is 0.05% a bin of 128 x 128
        assert np.sqrt(hdus["VARIANCE"].data.mean()) / 5000 == pytest.approx(0.064, rel=0.05)


def test_existing_simulation_is_kept_unless_told(few, tmp_path):
    out, camera = tmp_path / "out", few.subset(["R22_S11"])
    options = {"camera": camera, "coarse": 64}
    write_simulation(out, seed=1, **options)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already"):
        write_simulation(out, seed=2, **options)
    assert json.loads((out / "truth.json").read_text())["seed"] == 1
    write_simulation(out, seed=2, overwrite=True, physical_filter="z_20", **options)
    assert json.loads((out / "truth.json").read_text())["seed"] == 2
    assert [path.name for path in (out / "flats").iterdir()] == ["LSSTCam_z_20_R22_S11_sky.fits"]
    assert (out / "notes.txt").read_text() == "mine"
    # flats that no simulation wrote are not ours to replace
    (tmp_path / "real/flats").mkdir(parents=True)
    with pytest.raises(InputError, match="no simulation"):
        write_simulation(tmp_path / "real", overwrite=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]


def test_nothing_is_left_of_an_interrupted_run(few, tmp_path):
    with pytest.raises(KeyboardInterrupt), watched_by(Watching(interrupt_at=("writing flats", 1))):
        write_simulation(tmp_path / "out", camera=few, coarse=64)
    assert list(tmp_path.iterdir()) == []


# ---- what is not accepted ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse": 0}, "coarse is 0"),
        ({"coarse": 2.5}, "coarse is 2.5"),
        ({"coarse": 5000}, "coarsening factor 5000"),
        ({"kind": "moon"}, "accepted are sky and dome"),
        ({"physical_filter": "empty"}, "one of u, g, r, i, z, y"),
        ({"seed": -1}, "seed is -1"),
        ({"processes": 0}, "processes is 0"),
        ({"light": Light(gradient=(-0.1, 0.0))}, "gradient is too large"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(few, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write_simulation(tmp_path / "out", camera=few, **({"coarse": 64} | options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(own_field=-1e-3), "own_field is -0.001"),
        (lambda: Noise(detector_scatter=(0.01, -0.01)), "detector_scatter"),
        (lambda: Noise(white=float("nan")), "white is nan"),
        (lambda: Noise(rim=0.5), "below 0.2"),
        (lambda: Noise(detector_scatter=(1e-3, 1e-3, 1e-3)), "one number or two"),
        (lambda: Noise(field_scale=0.0), "field_scale"),
        (lambda: Noise(dead_columns=-1), "dead_columns"),
        (lambda: Light(radial="decam"), "'decam'"),
        (lambda: Light(radial=((0, 1, 1), (1, 1, 1))), "increase"),
        (lambda: Light(radial=((0, 1), (1, 1, 1))), "2 nodes and 3 values"),
        (lambda: Light(gradient=(0.0, float("inf"))), "gradient must be two finite"),
        (lambda: Light(itl_ratio=0.0), "above 0"),
        (lambda: band_of(""), "first letter"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
