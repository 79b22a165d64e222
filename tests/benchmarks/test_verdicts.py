"""The effects of the benchmark of verdicts: as strong as their names say, and in the dome alone."""

import numpy as np
import pytest

from bayesflat.data.camera import lsstcam
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Noise, default_light


@pytest.fixture(scope="module")
def verdicts(import_benchmark):
    return import_benchmark("verdicts")


@pytest.fixture(scope="module")
def flat():
    return simulate_binned(lsstcam(), default_light("dome", "i_39"), Noise(), 1, kind="dome", bin_factor=1024)


def test_effects_are_as_strong_as_their_names_say(verdicts, flat):
    light = default_light("dome", "i_39")
    radius, theta = np.hypot(flat.xf, flat.yf), np.arctan2(flat.yf, flat.xf)
    found = {effect: verdicts.factor(effect, flat, light) for effect in verdicts.RIGHT}
    assert np.all(found["none"] == 1)
    quadrupole = (found["quadrupole 1%"] - 1) / (radius / verdicts.RIM) ** 2
    assert np.abs(quadrupole).max() == pytest.approx(0.01, rel=0.01)
    assert np.corrcoef(quadrupole, np.cos(2 * (theta - 0.5)))[0, 1] > 0.999
    np.testing.assert_allclose(found["quadrupole 0.3%"] - 1, 0.3 * (found["quadrupole 1%"] - 1), rtol=1e-9)
    for effect, size in (("ghost off centre 2%", 0.02), ("ghost concentric 2%", 0.02), ("smooth field 0.3%", 0.003)):
        assert 0.85 * size < np.abs(found[effect] - 1).max() <= size * 1.001, effect
    assert np.all(found["detector -30%"] == np.where(flat.detector == 100, 0.7, 1.0))
    shadow = found["rim shadow 5%"] != 1
    assert 0.001 < shadow.mean() < 0.05
    assert radius[shadow].min() > 330
    # an ellipse whose axes differ from the circle by 1 mm at the rim: the slope of the vignetting times that
    there = (radius > 335) & (radius < 345)
    slope = (light.radial_function(radius + 0.1) - light.radial_function(radius - 0.1)) / 0.2
    expected = slope / light.radial_function(radius) * np.cos(2 * theta) * radius / verdicts.RIM
    np.testing.assert_allclose((found["elliptical by 1 mm"] - 1)[there], expected[there], atol=2e-3)
    one_by_one = flat.value * found["normalized one by one"]
    assert np.median(one_by_one[flat.detector == 30]) == pytest.approx(1.0, rel=1e-12)


def test_words_are_those_that_verdicts_have(verdicts):
    for effect, (of_fit, of_comparison) in verdicts.RIGHT.items():
        assert of_fit in ("good", "look", "unusable", "-"), effect
        assert of_comparison in ("agree", "differ", "undecided", "unusable", "-"), effect
