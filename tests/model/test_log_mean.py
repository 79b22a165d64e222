"""The log of the mean by hand, its derivatives by finite differences, and PyMC's own."""

from dataclasses import replace

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy.interpolate import BSpline

from bayesflat.gradient.curve import LogSpline
from bayesflat.inference.map import PLAIN
from bayesflat.model.build import expected_values
from bayesflat.model.log_mean import LogMean
from bayesflat.model.prepare import prepare
from tests.helpers import every_switch, hierarchical_config, small_flat, with_radial

# in the order of the design's columns
TERMS = {"itl_ratio": 0.87, "centroid_delta": (0.8, -1.1), "gradient": (2e-3, -1e-3), "outer_gradient": (-1e-3, 4e-4)}


@pytest.fixture
def case(small_camera, rng):
    """Bins of which some lie beyond the last knot, and one on the pivot, with every term."""
    config = hierarchical_config(fp_centroid_x=0.4, **every_switch()[-1])
    data = prepare(small_flat(small_camera, rng), config)
    data.dx[0] = data.dy[0] = 0.0
    radial = with_radial(data.select(data.radius < 45)).radial
    data = replace(data, radial=radial)
    assert np.sum(data.radius > radial.spline.knots[-1]) > 30
    parameters = {"log_radial": radial.mean + rng.normal(0, 0.05, radial.spline.size)}
    parameters |= {name: np.array(value) for name, value in TERMS.items()}
    return data, config, radial.spline, parameters


def by_hand(data, config, spline, p):
    """Product of its terms, each written out; the spline is SciPy's, and goes on linearly."""
    curve = BSpline(spline.knots, p["log_radial"], 3)
    cx, cy = p.get("centroid_delta", (0.0, 0.0))
    radius = np.sqrt((data.dx - cx) ** 2 + (data.dy - cy) ** 2)
    last = spline.knots[-1]
    log_radial = np.where(
        radius <= last, curve(np.minimum(radius, last)), curve(last) + curve.derivative()(last) * (radius - last)
    )
    out = np.exp(log_radial)
    out[data.binned.itl] *= p.get("itl_ratio", 1.0)
    gx, gy = p.get("gradient", (0.0, 0.0))
    out /= 1 + gx * data.dx + gy * data.dy
    ox, oy = p.get("outer_gradient", (0.0, 0.0))
    beyond = np.sqrt(data.dx**2 + data.dy**2) >= config.outer_gradient_radius
    out[beyond] /= 1 + ox * data.dx[beyond] + oy * data.dy[beyond]
    return np.log(out)


SUBSETS = [(), ("itl_ratio",), ("centroid_delta", "gradient"), ("outer_gradient",), tuple(TERMS)]


@pytest.mark.parametrize("terms", SUBSETS, ids="+".join)
def test_value_is_the_one_by_hand_and_pymcs(case, terms):
    data, config, spline, parameters = case
    parameters = {name: value for name, value in parameters.items() if name in ("log_radial", *terms)}
    expected = by_hand(data, config, spline, parameters)
    mean = LogMean(data, config, spline)
    np.testing.assert_allclose(mean(parameters), expected, atol=1e-12)
    np.testing.assert_allclose(mean.with_design(parameters)[0], expected, atol=1e-12)
    with pm.Model(coords={"bin": np.arange(len(data))}):
        symbols = {name: pt.dvector(name) if np.ndim(value) else pt.dscalar(name) for name, value in parameters.items()}
        theirs = expected_values(symbols, data, config)
    function = pytensor.function(list(symbols.values()), theirs, mode=PLAIN)
    np.testing.assert_allclose(np.log(function(*parameters.values())), expected, atol=1e-12)


@pytest.mark.parametrize("terms", SUBSETS, ids="+".join)
def test_derivatives_are_those_of_finite_differences(case, terms, rng):
    """By every parameter and at every bin, beyond the last knot too; not at the centroid itself."""
    data, config, spline, parameters = case
    parameters = {name: value for name, value in parameters.items() if name in ("log_radial", *terms)}
    mean = LogMean(data, config, spline)
    _, design = mean.with_design(parameters)
    steps = {"log_radial": 1e-4, "itl_ratio": 1e-5, "centroid_delta": 1e-5, "gradient": 1e-7, "outer_gradient": 1e-7}
    columns = []
    for name, value in parameters.items():
        for k in range(value.size):
            change = np.zeros(value.size)
            change[k] = steps[name]
            up, down = (mean(parameters | {name: value + s * change.reshape(value.shape)}) for s in (1, -1))
            columns.append((up - down) / (2 * steps[name]))
    expected = np.stack(columns, axis=1)
    assert design.size == expected.shape[1]
    matrix = np.zeros(expected.shape)
    for row in range(len(data)):
        matrix[row, design.first[row] : design.first[row] + 4] = design.banded[row]
    matrix[:, design.n_banded :] = design.dense
    np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-7)
    weight = rng.normal(size=len(data))
    np.testing.assert_allclose(design.transposed(weight), weight @ expected, rtol=1e-6, atol=1e-4)


def test_before_the_first_knot_the_log_is_linear(small_camera, rng):
    """A flat with a hole: bins within it continue the curve."""
    config = hierarchical_config()
    data = prepare(small_flat(small_camera, rng), config)
    spline = LogSpline(np.concatenate([np.full(3, 15.0), np.linspace(15.0, 70.0, 9), np.full(3, 70.0)]))
    coefficients = rng.normal(size=spline.size)
    found = LogMean(data, config, spline)({"log_radial": coefficients})
    curve = BSpline(spline.knots, coefficients, 3)
    within = data.radius < 15.0
    assert within.sum() > 20
    expected = curve(15.0) + curve.derivative()(15.0) * (data.radius[within] - 15.0)
    np.testing.assert_allclose(found[within], expected, atol=1e-12)


def test_no_value_where_a_plane_is_not_positive(case):
    data, config, spline, parameters = case
    steep = parameters | {"gradient": np.array([0.05, 0.0])}
    with np.errstate(invalid="ignore"):
        found = LogMean(data, config, spline)(steep)
    np.testing.assert_array_equal(np.isnan(found), 1 + 0.05 * data.dx <= 0)
    assert np.isnan(found).any()
