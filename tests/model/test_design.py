"""Sums over a banded design against those over the whole matrix."""

from dataclasses import replace

import numpy as np
import pytest

from bayesflat.model.design import Design
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.prepare import prepare
from tests.helpers import hierarchical_config, noisy_flat

N_BANDED = 15


@pytest.fixture(params=["whole", "gaps", "shuffled"])
def case(request, small_camera, rng):
    """The noise model of bins in several orders, some of them outliers, and a design."""
    data = prepare(noisy_flat(small_camera), hierarchical_config())
    n = len(data)
    rows = {"whole": np.arange(n), "gaps": np.flatnonzero(rng.random(n) < 0.7), "shuffled": rng.permutation(n)}
    data = data.select(rows[request.param])
    data = replace(data, weight=rng.choice([0.0, 1.0, 0.6], len(data), p=[0.1, 0.7, 0.2]))
    first = np.clip((data.radius / 5).astype(np.int64), 0, N_BANDED - 4)
    design = Design(first, rng.normal(size=(len(data), 4)), N_BANDED, rng.normal(size=(len(data), 3)))
    noise = HierarchicalNoise(data)
    scales = noise.typical_scales()[0] + rng.normal(0, 0.3, len(noise.labels))
    return noise, scales, design


def whole(design):
    """The matrix, written out bin by bin."""
    out = np.zeros((len(design.first), design.n_banded + design.dense.shape[1]))
    for row, (first, banded, dense) in enumerate(zip(design.first, design.banded, design.dense, strict=True)):
        for k in range(4):
            out[row, first + k] = banded[k]
        out[row, design.n_banded :] = dense
    return out


def test_products_are_those_of_the_matrix(case, rng):
    _, _, design = case
    matrix, weight = whole(design), rng.normal(size=len(design.first))
    assert design.size == matrix.shape[1]
    np.testing.assert_allclose(design.transposed(weight), matrix.T @ weight, atol=1e-10)
    np.testing.assert_allclose(design.gram(weight), matrix.T @ (matrix * weight[:, None]), atol=1e-9)
    weight[::3] = 0.0
    np.testing.assert_allclose(design.gram(weight), matrix.T @ (matrix * weight[:, None]), atol=1e-9)


def test_projection_on_effects_is_that_of_the_matrix(case):
    """Bin by bin: the sum over a detector's bins of effect, weight and column."""
    noise, _, design = case
    effects, matrix = noise.effects, whole(design)
    expected = np.zeros((effects.n_detectors, effects.size, design.size))
    of_bins = effects.design()
    for d in range(effects.n_detectors):
        here = effects.detector == d
        expected[d] = of_bins[here].T @ (matrix[here] * effects.weight[here, None])
    scale = np.abs(expected).max()
    found = effects.projected(design)
    np.testing.assert_allclose(found.whole, expected, atol=1e-12 * scale)
    assert found.columns.shape[1] <= design.size
    np.testing.assert_allclose(found.gram, matrix.T @ (matrix * effects.weight[:, None]), atol=1e-9)
    for known in (slice(2, 7), slice(0, 0), slice(design.size - 3, None)):
        beside = effects.projected_beside(matrix, known, effects.projected(matrix[:, known]))
        np.testing.assert_allclose(beside.whole, expected, atol=1e-12 * scale)
        np.testing.assert_allclose(beside.gram, found.gram, atol=1e-9)


def test_information_and_conditional_means_are_those_of_the_matrix(case):
    noise, scales, design = case
    covariance, matrix = noise.covariance(scales), whole(design)
    expected = covariance.information(matrix)
    sd = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        covariance.information(design) / np.outer(sd, sd), expected / np.outer(sd, sd), atol=1e-9
    )
    means = covariance.conditional_means(matrix)
    np.testing.assert_allclose(covariance.conditional_means(design), means, atol=1e-10 * np.abs(means).max())


def test_information_is_that_of_the_dense_covariance(case):
    """Bins of one small part of the flat, their covariance pair by pair."""
    noise, scales, design = case
    covariance = noise.covariance(scales)
    effects, vendor = noise.effects, noise.effects.vendor[noise.effects.detector]
    u, good = effects.design(), effects.weight > 0
    shared, own = u[:, effects.shared], u[:, effects.own]
    total = np.where(vendor[:, None] == vendor, (shared * covariance.shared[vendor]) @ shared.T, 0.0)
    same = effects.detector[:, None] == effects.detector
    total += np.where(same, (own * covariance.own[vendor]) @ own.T, 0.0)
    total += np.diag(covariance.white / np.where(good, effects.weight, 1.0))
    matrix = whole(design)[good]
    expected = matrix.T @ np.linalg.solve(total[np.ix_(good, good)], matrix)
    sd = np.sqrt(np.diag(expected))
    off = (covariance.information(design) - expected) / np.outer(sd, sd)
    assert np.abs(off).max() < 1e-7
