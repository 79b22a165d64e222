"""Functions that describe smooth fields, against the field's covariance."""

import numpy as np
import pytest

from bayesflat.model.smooth import DEGREE, LEAST, MOST, TYPICAL, modes, scale_of, surface_terms, times_of


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


@pytest.mark.parametrize("times", [(1, 1), (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("scale", [0.25, 0.4, 0.6])
@pytest.mark.parametrize("assumed", [0.3, TYPICAL, 0.5])
def test_scale_of_a_drawn_field(scale, assumed, times):
    """From coefficients of many fields, drawn from the covariance itself and projected by least squares."""
    rng = np.random.default_rng(3)
    roots, along = [], []
    for long in times:
        at, weight = np.polynomial.legendre.leggauss(24 * long)
        values, vectors = np.linalg.eigh(np.exp(-((at[:, None] - at) ** 2) / (8 * (scale / long) ** 2)))
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
        along.append(modes(at, assumed / long, long) * weight / 2)
    normal = rng.normal(size=(400, roots[0].shape[1], roots[1].shape[1]))
    fields = 1e-3 * np.einsum("xi,nij,yj->nxy", roots[0], normal, roots[1], optimize=True)
    squares = (np.einsum("ax,nxy,by->nab", along[0], fields, along[1], optimize=True) ** 2).mean(0)
    i, j, degree = np.transpose(surface_terms(times))
    variances = np.bincount(degree, squares[i, j]) / np.bincount(degree)
    # 400 fields with 2 to 5 coefficients a degree: their log-variances are known to 0.05 or better.  Large fields have
    # next to nothing of the many functions along a long side
    within = 0.2 if scale == 0.6 and times != (1, 1) else 0.08
    assert scale_of(variances, assumed, times) == pytest.approx(scale, rel=within)


def test_terms_of_a_square_are_those_of_all_degrees():
    assert surface_terms((1, 1)) == tuple((i, n - i, n) for n in range(DEGREE + 1) for i in range(n + 1))
    wide = surface_terms((2, 1))
    assert sorted((j, i, n) for i, j, n in wide) == sorted(surface_terms((1, 2)))
    assert wide[-1] == (2 * DEGREE, 0, 2 * DEGREE)
    assert all(n == i + 2 * j for i, j, n in wide)


@pytest.mark.parametrize("times", [(1, 1), (1, 2), (3, 1)], ids=str)
def test_terms_hold_a_field_and_those_of_a_degree_have_like_variances(times):
    """Of a field of a third of the shorter side no more is left on a long detector than on a square one."""
    scale = 1 / 3
    along = []
    for long in times:
        at, weight = np.polynomial.legendre.leggauss(24 * long)
        field = np.exp(-((at[:, None] - at) ** 2) / (8 * (scale / long) ** 2))
        functions = modes(at, scale / long, long) * weight / 2
        along.append(np.einsum("ax,xy,ay->a", functions, field, functions))
    i, j, degree = np.transpose(surface_terms(times))
    variances = along[0][i] * along[1][j]
    assert 0 < 1 - variances.sum() < 2e-4  # of 1, the field's
    of_degrees = [variances[degree == n] for n in range(degree.max() + 1)]
    ratios = [here.max() / here.min() for here in of_degrees if here.mean() > 2e-3]
    assert len(ratios) > 3 * max(times)
    assert max(ratios) < 16  # a square: 15 in degree 6


def test_how_many_times_detectors_are_long():
    """LSSTCam's are nearly square, DECam's and HSC's twice as long as wide; most of them decide."""
    assert times_of([4072, 4096], [4000, 4004]) == (1, 1)
    assert times_of([2048] * 62, [4096] * 62) == (1, 2)
    assert times_of([4176], [2048]) == (2, 1)
    assert times_of([200] * 3 + [200] * 2, [200] * 3 + [100] * 2) == (1, 1)
    assert times_of([100], [1000]) == (1, 3)


def test_scale_stays_within_what_the_degree_can_tell():
    assert scale_of(0.9 ** np.arange(7), TYPICAL) == pytest.approx(LEAST)
    assert scale_of(0.012 ** np.arange(7), TYPICAL) == pytest.approx(MOST)
