"""The effects of the benchmark of verdicts: as strong as their names say, and in the dome alone."""

import re

import numpy as np
import pytest

from bayesflat.data.camera import lsstcam
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Noise, default_light


@pytest.fixture(scope="module")
def effects(import_benchmark):
    return import_benchmark("effects")


@pytest.fixture(scope="module")
def light():
    return default_light("dome", "i_39")


@pytest.fixture(scope="module")
def flat(light):
    return simulate_binned(lsstcam(), light, Noise(), 1, kind="dome", bin_factor=1024)


@pytest.fixture(scope="module")
def found(effects, flat, light):
    return {name: effects.factor(case, flat, light) for name, case in effects.CASES.items()}


def test_effects_are_as_strong_as_their_names_say(effects, flat, found):
    """The largest change of the flat; a sharp or sparse effect reaches it, a smooth one nearly."""
    for name, case in effects.CASES.items():
        percent = re.search(r"(-?[\d.]+)%$", name)
        if not percent:
            continue
        assert case.strength == pytest.approx(float(percent[1]) / 100), name
        if case.kind in ("pedestal", "stray light", "rafts"):  # of the light at the centre; of the scatter
            continue
        most = np.abs(found[name] - 1).max()
        assert 0.85 * abs(case.strength) < most <= 1.05 * abs(case.strength), name
    assert np.all(found["none"] == 1)


def test_effects_are_where_they_should_be(effects, flat, light, found):
    radius, theta = np.hypot(flat.xf, flat.yf), np.arctan2(flat.yf, flat.xf)
    quadrupole = (found["quadrupole 1%"] - 1) / (radius / effects.RIM) ** 2
    assert np.corrcoef(quadrupole, np.cos(2 * (theta - 0.5)))[0, 1] > 0.999
    assert np.all(found["detector -30%"] == np.where(flat.detector == 100, 0.7, 1.0))
    assert np.all(found["amplifier -10%"] == np.where((flat.detector == 100) & (flat.amplifier == 5), 0.9, 1.0))
    shadow = found["rim shadow 5%"] != 1
    assert 0.001 < shadow.mean() < 0.05
    assert radius[shadow].min() > 330
    assert np.all(found["outer plane 1%"][radius < 325] == 1)
    # an ellipse whose axes differ from the circle by 1 mm at the rim: the slope of the vignetting times that
    there = (radius > 335) & (radius < 345)
    slope = (light.radial_function(radius + 0.1) - light.radial_function(radius - 0.1)) / 0.2
    expected = slope / light.radial_function(radius) * np.cos(2 * theta) * radius / effects.RIM
    np.testing.assert_allclose((found["elliptical by 1 mm"] - 1)[there], expected[there], atol=2e-3)
    one_by_one = flat.value * found["normalized one by one"]
    assert np.median(one_by_one[flat.detector == 30]) == pytest.approx(1.0, rel=1e-12)
    # light that is added, over light that was there
    there = (radius > 300) & (radius < 340)
    added = (found["pedestal 1%"] - 1) * light.radial_function(radius)
    np.testing.assert_allclose(added[there], 0.01, rtol=1e-9)
    dead = np.unique(flat.detector[np.isnan(found["dead raft"])])
    names = {lsstcam()[int(number)].name[:3] for number in dead}
    assert len(dead) == 9
    assert len(names) == 1
    rafts = found["rafts 0.5%"]
    of_detectors = [np.unique(rafts[flat.detector == number]) for number in (90, 94, 98)]
    assert all(len(values) == 1 for values in of_detectors)
    assert len({float(values[0]) for values in of_detectors}) == 1
    several = [float(rafts[flat.detector == 9 * k].mean()) for k in range(21) if np.any(flat.detector == 9 * k)]
    assert 0.003 < np.std(several) < 0.008


def test_words_are_those_that_verdicts_have(effects):
    for name, case in (effects.CASES | effects.curve_cases()).items():
        assert case.fit in ("good", "look", "unusable", "-"), name
        assert case.compare in ("agree", "differ", "undecided", "unusable", "-"), name
        assert case.kind in effects.KINDS
