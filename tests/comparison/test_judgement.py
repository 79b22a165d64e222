"""The verdict against differences that were put in, its rules, and the surface."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from bayesflat.commands.tables import comparison_lines
from bayesflat.comparison.comparison import compare
from bayesflat.comparison.judgement import areas_beyond, judge
from bayesflat.comparison.surface import Surface
from bayesflat.inference.fitting import fit
from bayesflat.quantities import MMAG
from bayesflat.report.summaries import comparison_summary
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, small_config

RIM = 60.0
NOISE = Noise(white=0.0005, detector_scatter=0.01, amplifier_scatter=0.003, own_field=0.001, field_scale=8.0)


def nothing(x, y):
    return np.ones_like(x)


def quadrupole(x, y):
    return 1 + 0.01 * (x**2 - y**2) / RIM**2


def field(x, y):
    return 1 + 0.006 * np.sin(x / 15 + 0.3) * np.cos(y / 19)


def ghost(x, y):
    """An off-centre ring."""
    return 1 + 0.02 * np.exp(-0.5 * ((np.hypot(x - 6, y + 4) - 25) / 5) ** 2)


@pytest.fixture(scope="module")
def flats(small_camera):
    """A sky and a dome of the same light; white noise of their own."""
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))

    def flat(kind):
        return simulate_binned(small_camera, light, NOISE, 5, kind=kind, bin_factor=20, detector_boundary=0)

    config = small_config()
    return fit(flat("sky"), config), flat("dome"), config


@pytest.fixture(scope="module")
def compared(flats):
    sky, dome, config = flats
    return {
        effect.__name__: compare(sky, fit(replace(dome, value=dome.value * effect(dome.xf, dome.yf)), config))
        for effect in (nothing, quadrupole, field, ghost)
    }


@pytest.mark.parametrize(
    ("effect", "word"), [(nothing, "agree"), (quadrupole, "differ"), (field, "differ"), (ghost, "differ")]
)
def test_the_word_is_that_of_what_was_put_in(compared, effect, word):
    c = compared[effect.__name__]
    assert c.verdict.word == word
    p = c.positions
    true = -MMAG * np.log(effect(p.xf, p.yf))
    true -= np.median(true - c.map_mmag)  # both are relative to a centre
    area = np.mean(np.abs(true) > c.rope_mmag)
    if effect is ghost:  # sharper than the surface: the detectors' means have to stand for it
        return
    assert c.verdict.area_beyond["q05"] - 0.1 <= area <= c.verdict.area_beyond["q95"] + 0.1


@pytest.mark.parametrize("effect", [quadrupole, field])
def test_the_surface_follows_what_is_smooth(compared, effect):
    """The map is right to a quarter of the tolerance, and the vendors' ratio is not blamed."""
    c = compared[effect.__name__]
    left = -MMAG * np.log(effect(c.positions.xf, c.positions.yf)) - c.map_mmag
    assert np.percentile(np.abs(left - np.median(left)), 95) < 0.5
    ratio = c.differences["itl_ratio"]
    assert abs(ratio.mean) < 4 * ratio.sd
    assert c.parts_mmag["surface"] > 0.5


def test_no_line_contradicts_the_verdict(compared):
    """The lines are read as a user reads them: areas, radii and detectors against the last line."""
    for name, c in compared.items():
        *lines, verdict = comparison_lines(c)
        largest = next(line for line in lines if line.strip().startswith("largest"))
        mean, sd = (float(part) for part in re.search(r"largest: (\S+) ± (\S+) mmag", largest).groups())
        detectors = sum(int(re.search(r": (\d+) of", line)[1]) for line in lines if line.startswith("detectors"))
        if "agree" in verdict:
            assert abs(mean) - 1.645 * sd < c.rope_mmag, name
            assert detectors == 0, name
        else:
            assert "differ" in verdict, name
            assert re.search(r"over \S+% of the area|radial functions differ by", verdict), name
        assert not any(word in line for line in lines for word in ("agree", "undecided", "beyond the tolerance (")), (
            name
        )


def test_an_unusable_comparison_claims_nothing_else(flats):
    sky, dome, config = flats
    failed = fit(dome, config)
    gradient = replace(failed.gradient, estimates=replace(failed.gradient.estimates, converged=False))
    c = compare(sky, replace(failed, gradient=gradient))
    assert c.verdict.word == "unusable"
    assert comparison_lines(c)[1:] == ["verdict: unusable: a fit did not converge"]
    found = json.loads(json.dumps(comparison_summary(c), allow_nan=False))
    assert (found["verdict"], found["reasons"]) == ("unusable", ["a fit did not converge"])


def test_rules():
    """Areas and radii on either side of their limits."""
    grid, zero = np.array([0.0, 10.0, 20.0]), np.zeros(3)
    sd = np.array([0.0, 0.1, 0.1])

    def word(areas, mean=zero, converged=True, sure=True):
        return judge(grid, mean, sd, np.asarray(areas), sure, 2.0, converged)

    small, large = np.full(100, 0.002), np.full(100, 0.2)
    assert word(small).word == "agree"
    assert word(large).word == "differ"
    assert word(large).reasons == ("more than 2 mmag over 20% of the area (20% to 20%)",)
    assert word(np.r_[small[:4], large[:96]]).word == "differ"
    assert word(np.r_[small[:90], large[:10]]).word == "undecided"
    assert word(np.r_[small[:96], large[:4]]).word == "agree"
    at_one = word(small, np.array([0.0, 0.0, -3.0]))
    assert (at_one.word, at_one.reasons) == ("differ", ("the radial functions differ by -3.0 ± 0.1 mmag at 20 mm",))
    near = word(small, np.array([0.0, 2.0, 0.0]))
    assert near.word == "undecided"
    assert near.reasons[0].endswith("at 10 mm: beyond 2 mmag with a probability of 0.50")
    # errors so large that any map exceeds the tolerance somewhere
    assert word(large, sure=False).word == "undecided"
    assert word(large, sure=False).reasons == word(large).reasons
    assert word(small, sure=False).word == "agree"
    assert word(large, converged=False).word == "unusable"
    assert word(np.full(3, np.nan)).reasons == ("uncertainties are missing; fit both flats with bayesflat",)


def test_areas_are_those_of_the_posterior():
    """Of one position whose difference is normal: A is 1 as often as the difference is beyond the tolerance."""
    one = np.array([-1.0 / MMAG]), np.array([[1.0 / MMAG]])

    class Narrow:
        covariance = np.array([[1.0]])

        @staticmethod
        def sd(rows):
            return np.abs(rows[:, 0])

    areas, sure = areas_beyond(Narrow, one, np.zeros(1), 2.0)
    assert areas.mean() == pytest.approx(0.1587 + 0.0013, abs=4 * np.sqrt(0.16 * 0.84 / len(areas)))
    assert not sure
    # of one position the band is 1.96 sd to either side
    for mean, expected in ((3.96 - 0.3, False), (3.96 + 0.3, True), (-3.96 - 0.3, True)):
        assert areas_beyond(Narrow, one, np.array([mean - 1.0]), 2.0)[1] is expected


def test_equal_flats_with_large_errors_do_not_differ(small_camera, flats):
    """Unpaired, with detectors that scatter by 12%: all of the map is uncertain by more than the tolerance."""
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9)
    noise = replace(NOISE, detector_scatter=0.12)
    words = []
    for tilt in (0.0, 4e-3):
        two = [
            fit(
                simulate_binned(
                    small_camera, replace(light, gradient=(tilt if kind == "dome" else 0.0, 0.0)), noise, 5, kind=kind,
                    bin_factor=20, detector_boundary=0,
                ),
                flats[2],
            ).gradient
            for kind in ("sky", "dome")
        ]  # fmt: skip
        c = compare(*two)
        assert c.method == "unpaired"
        assert np.median(c.map_sd) > 2 * c.rope_mmag
        assert c.verdict.area_beyond["q05"] > 0.01  # of any map
        words.append(c.verdict.word)
    assert words == ["undecided", "differ"]


def test_the_surface_is_orthogonal_to_what_it_is_told(rng):
    """On the bins, whatever their weights; and elsewhere it is the same function."""
    x, y = rng.uniform(-50, 50, (2, 3000))
    weight = (rng.random(3000) > 0.1).astype(float)

    def others(x, y):
        return np.column_stack([np.ones_like(x), x, y, x**2 + y**2, np.hypot(x, y) ** 3 / 50])

    surface = Surface(others, x, y, weight, (1.0, -2.0))
    columns = surface(x, y)
    assert columns.shape == (3000, surface.size)
    scale = np.sqrt(np.mean(others(x, y) ** 2, axis=0))
    products = (others(x, y) / scale).T @ (weight[:, None] * columns) / weight.sum()
    np.testing.assert_allclose(products, 0.0, atol=1e-6)
    np.testing.assert_allclose(surface(x[:5], y[:5]), columns[:5], rtol=1e-9, atol=1e-12)
    # Zernike's polynomials: those of a disc have a mean square of 1 there
    inside = np.hypot(x - 1.0, y + 2.0) < 48
    polynomials = surface._polynomials(x, y)
    disc = np.hypot(x - 1.0, y + 2.0) < surface.edge
    assert disc.sum() > inside.sum()
    r, t = np.sqrt((np.arange(200) + 0.5) / 200), np.linspace(0, 2 * np.pi, 64, endpoint=False)
    at = np.outer(r, np.cos(t)).ravel() * surface.edge + 1.0, np.outer(r, np.sin(t)).ravel() * surface.edge - 2.0
    gram = surface._polynomials(*at).T @ surface._polynomials(*at) / len(at[0])
    np.testing.assert_allclose(gram, np.eye(surface.size), atol=2e-3)
    assert polynomials.shape == columns.shape
