"""The light that is simulated, against formulas of the tests' own."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from bayesflat.errors import InputError
from bayesflat.simulation.truth import Light, Noise, band_itl_ratio, band_of, default_light
from tests.simulation.expected import NODES, VALUES


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
