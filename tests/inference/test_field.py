"""A smooth field that is neither radial nor planar: against a dense computation, its distribution, fields put in."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import factorial
from scipy.stats import chi2, kstest

from bayesflat.inference.field import smooth_field
from bayesflat.inference.fitting import fit
from bayesflat.inference.map import make_objective
from bayesflat.model.zernike import n_terms, zernike
from tests.helpers import CENTROID_AND_PLANE, config_with, noisy_flat, small_config
from tests.inference.test_azimuth import dense_fit

AUTO = small_config().replace(radial_spline_nodes="auto")
DEGREE = 4  # ten terms: 25 detectors bear twelve


@pytest.fixture(scope="module")
def flat(small_camera):
    """Within the last node of its radial function, where that has a kink."""
    found = noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))
    return found.select(np.hypot(found.xf, found.yf) < 58.0)


@pytest.fixture(scope="module")
def fitted(flat):
    return fit(flat, AUTO)


def terms_of(data, centroid):
    x, y = data.dx - centroid[0], data.dy - centroid[1]
    return zernike(x, y, np.hypot(x, y).max(), DEGREE)


def test_polynomials_are_zernikes():
    """Against the sum over factorials (Born & Wolf 9.2.1), and of rms 1 over the disc, orthogonal to each other."""
    radius, angle = (axis.ravel() for axis in np.meshgrid((np.arange(400) + 0.5) / 400, 2 * np.pi * np.arange(80) / 80))
    columns = zernike(3 * radius * np.cos(angle), 3 * radius * np.sin(angle), 3.0, 6)
    expected = []
    for n in range(2, 7):
        for m in range(n, 0, -2):
            k = np.arange((n - m) // 2 + 1)
            sizes = (-1.0) ** k * factorial(n - k)
            sizes /= factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k)
            radial = np.sqrt(2 * (n + 1)) * np.sum(sizes * radius[:, None] ** (n - 2 * k), axis=1)
            expected += [radial * np.cos(m * angle), radial * np.sin(m * angle)]
    np.testing.assert_allclose(columns, np.column_stack(expected), atol=1e-9)
    assert columns.shape[1] == n_terms(6)
    gram = columns.T @ (radius[:, None] * columns) / radius.sum()
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-3)


def test_it_is_that_of_a_dense_fit(fitted):
    columns = terms_of(fitted.data, fitted.laplace.mean["centroid_delta"])
    expected, covariance = dense_fit(fitted, columns)
    found = smooth_field(fitted.objective, fitted.laplace)
    assert found.dof == columns.shape[1] == n_terms(DEGREE)
    assert found.chi2 == pytest.approx(expected @ np.linalg.solve(covariance, expected), rel=1e-3)
    assert found.p_value == pytest.approx(chi2.sf(found.chi2, found.dof))
    noise = np.mean(np.einsum("ij,jk,ik->i", columns, covariance, columns))
    rms = np.sqrt(max(np.mean((columns @ expected) ** 2) - noise, 0.0)) * 2.5e3 / np.log(10)
    assert found.rms_mmag == pytest.approx(rms, rel=1e-2, abs=1e-3)


def test_chance_is_chance(fitted, rng):
    """Flats drawn from the fitted model: the chi-squared has its distribution; noise is taken from the rms."""
    z, found = fitted.laplace.centre, []
    for _ in range(100):
        drawn = np.exp(fitted.objective.log_replicate(z, rng))
        objective = make_objective(replace(fitted.data, value=drawn), fitted.config)
        found.append(smooth_field(objective, fitted.laplace))
    assert kstest([one.p_value for one in found], "uniform").pvalue > 0.01
    assert np.mean([one.rms_mmag == 0.0 for one in found]) > 0.3  # half of chi2's, if it were that of a single term


def test_a_field_is_named(flat, fitted):
    """Of terms that no azimuth test has: secondary astigmatism; as large as it is, less what the fit can do without."""
    assert fitted.judgement.word == "good", fitted.judgement.reasons
    edge = np.hypot(flat.xf, flat.yf).max()
    field = zernike(flat.xf, flat.yf, edge, DEGREE)[:, 8]
    result = fit(replace(flat, value=flat.value * np.exp(0.02 * field)), AUTO)
    header = result.gradient.estimates.header
    assert header["FLDPVAL"][0] < 1e-6
    here = zernike(result.data.dx, result.data.dy, edge, DEGREE)[:, 8]
    assert header["FLDRMS"][0] == pytest.approx(0.02 * np.std(here) * 2.5e3 / np.log(10), rel=0.35)
    assert result.judgement.word == "look"
    tolerant = fit(result.data.binned, AUTO.replace(tolerance_mmag=50.0))
    assert tolerant.judgement.word == "good", tolerant.judgement.reasons


def test_independent_noise_has_no_test(flat, small_camera):
    """Nor have detectors that are too few to know their own scatter from."""
    header = fit(flat, config_with("normal", **CENTROID_AND_PLANE)).gradient.estimates.header
    assert header["FLDDOF"][0] == 0
    assert np.isnan([header["FLDCHI2"][0], header["FLDPVAL"][0], header["FLDRMS"][0]]).all()
    few = flat.select(np.isin(flat.detector, (12, 13)))
    assert fit(few, small_config(do_fit_outer_gradient=False)).gradient.estimates.header["FLDDOF"][0] == 0
