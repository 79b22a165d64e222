"""Functions that describe smooth fields, against the field's covariance."""

import numpy as np
import pytest

from bayesflat.model.smooth import DEGREE, LEAST, MOST, TYPICAL, modes, scale_of


@pytest.fixture(scope="module")
def grid():
    return np.linspace(-1 + 1 / 400, 1 - 1 / 400, 400)


@pytest.mark.parametrize("scale", [LEAST, TYPICAL, 0.75])
def test_modes_make_a_fields_covariance(grid, scale):
    """Mercer: orthonormal functions, each an eigenfunction of the covariance, which their squares sum up to."""
    found = modes(grid, scale)
    np.testing.assert_allclose(found @ found.T / 400, np.eye(DEGREE + 1), atol=1e-3)
    field = np.exp(-((grid[:, None] - grid) ** 2) / (8 * scale**2))  # half the distance is the part of the length
    variances = np.einsum("kx,xy,ky->k", found, field, found) / 400**2
    assert np.all(np.diff(variances) < 0)
    np.testing.assert_allclose(found @ field / 400, variances[:, None] * found, atol=1e-3)
    left = field - (variances[:, None] * found).T @ found
    # all but the modes that are left out, which are strongest at the edges
    assert variances.sum() > 0.9995
    assert np.abs(left).max() < 1e-3 + 20 * (1 - variances.sum())


def test_modes_are_even_and_odd_in_turn(grid):
    found = modes(grid, TYPICAL)
    signs = (-1.0) ** np.arange(DEGREE + 1)
    np.testing.assert_allclose(found[:, ::-1], signs[:, None] * found, atol=1e-9)
    assert np.all(modes(np.ones(1), TYPICAL) > 0)


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.6])
@pytest.mark.parametrize("assumed", [0.3, TYPICAL, 0.5])
def test_scale_of_a_drawn_field(scale, assumed):
    """From coefficients of many fields, drawn from the covariance itself and projected by least squares."""
    rng = np.random.default_rng(3)
    at, weight = np.polynomial.legendre.leggauss(24)
    values, vectors = np.linalg.eigh(np.exp(-((at[:, None] - at) ** 2) / (8 * scale**2)))
    root = vectors * np.sqrt(np.maximum(values, 0))
    fields = 1e-3 * np.einsum("xi,nij,yj->nxy", root, rng.normal(size=(400, 24, 24)), root)
    along = modes(at, assumed) * weight / 2
    coefficients = np.einsum("ax,nxy,by->nab", along, fields, along)
    variances = [np.mean([coefficients[:, i, n - i] ** 2 for i in range(n + 1)]) for n in range(DEGREE + 1)]
    # 400 fields with 2 to 5 coefficients a degree: their log-variances are known to 0.05 or better
    assert scale_of(np.array(variances), assumed) == pytest.approx(scale, rel=0.08)


def test_scale_stays_within_what_the_degree_can_tell():
    assert scale_of(0.9 ** np.arange(7), TYPICAL) == pytest.approx(LEAST)
    assert scale_of(0.012 ** np.arange(7), TYPICAL) == pytest.approx(MOST)
