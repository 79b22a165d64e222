"""Sums over bins against the matrix of all effects: on whole grids, grids with gaps, and bins in any order."""

from dataclasses import replace

import numpy as np
import pytest

from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, hierarchical_config


@pytest.fixture(scope="module")
def grid(small_camera):
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9)
    binned = simulate_binned(small_camera, light, Noise(white=0.01), 1, bin_factor=20, detector_boundary=0)
    data = prepare(binned, hierarchical_config(do_constrain_zero=False))
    return replace(HierarchicalNoise(data).effects, weight=data.weight)


def picked(effects, bins):
    """The effects on some of the bins, in that order."""
    arrays = {name: getattr(effects, name)[bins] for name in ("detector", "column", "row", "weight")}
    return replace(effects, **arrays)


@pytest.mark.parametrize("order", ["whole", "gaps", "shuffled"])
def test_sums_are_those_of_the_matrix(grid, order, rng):
    n = len(grid.detector)
    bins = {"whole": np.arange(n), "gaps": np.flatnonzero(rng.random(n) < 0.8), "shuffled": rng.permutation(n)}[order]
    effects = picked(grid, bins)
    effects = replace(effects, weight=np.where(rng.random(len(bins)) < 0.1, 0.0, rng.uniform(0.5, 2, len(bins))))
    r = rng.normal(size=len(bins))
    matrix = np.zeros((len(bins), effects.n_detectors, effects.size))  # each detector has its own effects
    matrix[np.arange(len(bins)), effects.detector] = effects.design()
    project = np.einsum("bdk,b->dk", matrix, effects.weight * r)
    np.testing.assert_allclose(effects.project(r), project, rtol=1e-10, atol=1e-10)
    both = effects.project_columns(np.column_stack([r, r**2]))
    np.testing.assert_allclose(both[:, :, 0], project, rtol=1e-10, atol=1e-10)
    x = rng.normal(size=project.shape)
    sums = np.einsum("bdk,dk->b", matrix, x)
    np.testing.assert_allclose(effects.expand(x), sums, rtol=1e-10, atol=1e-10)
    rest, square = effects.weighted_rest(r, x)
    np.testing.assert_allclose(rest, effects.weight * (r - sums), rtol=1e-10, atol=1e-10)
    assert square == pytest.approx(effects.weight @ (r - sums) ** 2, rel=1e-12)
    np.testing.assert_allclose(effects.gram, np.einsum("bdk,b,bdl->dkl", matrix, effects.weight, matrix), atol=1e-10)
