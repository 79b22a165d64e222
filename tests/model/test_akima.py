"""The radial function in PyTensor and NumPy against SciPy's Akima spline and finite differences."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import hessian
from scipy.interpolate import Akima1DInterpolator

from bayesflat.config import LSST_NODES
from bayesflat.inference.map import PLAIN
from bayesflat.model.akima import akima
from bayesflat.model.mean import akima_with_jacobian

NODES = np.array(LSST_NODES)
VALUES = np.array([1.0, 0.986, 0.969, 0.937, 0.91, 0.85, 0.74, 0.609, 0.499, 0.3, 0.0])


@pytest.fixture(scope="module", params=["NUMBA", "python"])
def spline(request):
    """Value, gradient of a weighted sum by values and by radius, and its Hessian, in both modes that are used."""
    values, radius, weight = pt.vector("values"), pt.vector("radius"), pt.vector("weight")
    out = akima(NODES, values, radius)
    total = (weight * out**2).sum()
    outputs = [out, pytensor.grad(total, values), pytensor.grad(total, radius), hessian(total, values)]
    mode = "NUMBA" if request.param == "NUMBA" else PLAIN
    return pytensor.function([values, radius, weight], outputs, mode=mode, on_unused_input="ignore")


def scipy_total(values, radius, weight):
    inside = np.clip(radius, NODES[0], NODES[-1])
    return np.sum(weight * Akima1DInterpolator(NODES, values, method="akima")(inside) ** 2)


def differences(f, x, step=1e-6):
    return np.array([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x))])


def test_equals_scipy_between_at_and_beyond_nodes(spline, rng):
    radius = np.concatenate([rng.uniform(0, 368, 500), NODES, [0.0, 368.0, 370.0, 500.0]])
    values = rng.normal(1, 0.3, len(NODES))
    expected = Akima1DInterpolator(NODES, values, method="akima")(np.clip(radius, 0, 368))
    np.testing.assert_allclose(spline(values, radius, radius)[0], expected, rtol=0, atol=1e-12)


def test_gradients_agree_with_finite_differences(spline, rng):
    radius, weight = rng.uniform(0, 367, 300), rng.normal(size=300)
    values = VALUES + rng.normal(0, 0.01, len(VALUES))
    _, by_values, by_radius, _ = spline(values, radius, weight)
    np.testing.assert_allclose(
        by_values, differences(lambda v: scipy_total(v, radius, weight), values), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(
        by_radius, differences(lambda r: scipy_total(values, r, weight), radius), rtol=1e-5, atol=1e-7
    )


def test_hessian_agrees_with_finite_differences_of_the_gradient(spline, rng):
    radius, weight = rng.uniform(0, 367, 300), rng.normal(size=300)
    values = VALUES + rng.normal(0, 0.01, len(VALUES))
    expected = differences(lambda v: spline(v, radius, weight)[1], values, step=1e-6)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(spline(values, radius, weight)[3], expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "values",
    [np.ones(11), 1 - NODES / 400, np.r_[np.ones(6), VALUES[6:]], np.r_[1 - NODES[:6] / 400, VALUES[6:]]],
    ids=["flat", "straight", "flat inside", "straight inside"],
)
def test_tied_slopes_give_scipys_value_and_a_finite_gradient(spline, values, rng):
    radius = rng.uniform(0, 368, 200)
    out, by_values, by_radius, bend = spline(values, radius, np.ones(200))
    np.testing.assert_allclose(out, Akima1DInterpolator(NODES, values)(radius), atol=1e-12)
    for derivative in (by_values, by_radius, bend):
        assert np.all(np.isfinite(derivative))
    # raising all values alike moves the spline alike, ties or not
    assert by_values.sum() == pytest.approx(2 * out.sum(), rel=1e-10)


def test_radii_beyond_the_nodes_do_not_pull(spline):
    radius = np.array([-1.0, 400.0])
    assert spline(VALUES, radius, np.ones(2))[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("nodes", [NODES, np.array([0.0, 1.0, 3.0]), np.array([2.0, 5.0, 6.0, 10.0])])
def test_numpy_coefficients_and_jacobian(nodes, rng):
    values = rng.normal(1, 0.2, len(nodes))
    coefficients, jacobian = akima_with_jacobian(nodes, values)
    scipys = Akima1DInterpolator(nodes, values, method="akima").c[::-1].T  # SciPy puts the highest power first
    np.testing.assert_allclose(coefficients, scipys, rtol=1e-9, atol=1e-12)
    for column, e in enumerate(np.eye(len(nodes))):
        up, down = (akima_with_jacobian(nodes, values + s * 1e-6 * e)[0] for s in (1, -1))
        np.testing.assert_allclose(jacobian[..., column], (up - down) / 2e-6, rtol=1e-6, atol=1e-7)
