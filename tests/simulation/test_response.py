"""The response of simulated detectors: statistics against the options, and the truth against what was drawn."""

from dataclasses import replace

import numpy as np
import pytest

from bayesflat.simulation.detectors import SimulatedDetectors, true_parameters
from bayesflat.simulation.truth import Light, Noise
from tests.simulation.expected import FULL, NODES, VALUES, means, within


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
