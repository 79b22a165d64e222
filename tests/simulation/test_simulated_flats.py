"""Simulated flats, in bins and in pixels, are the light times the response and the white noise."""

from dataclasses import replace

import numpy as np
import pytest

from bayesflat.data.camera import Camera, Detector
from bayesflat.errors import InputError
from bayesflat.simulation.detectors import SimulatedDetectors, simulate_binned
from bayesflat.simulation.flats import detector_image
from bayesflat.simulation.truth import Light, Noise, default_light
from tests.simulation.expected import FULL, means, within

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


# ---- white noise: bounds are four standard errors of what is estimated ----


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
