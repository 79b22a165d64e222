"""Simulation-based calibration: the machinery of benchmarks/sbc.py, whose full form is `make calibration`."""

from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def sbc(import_benchmark) -> ModuleType:
    return import_benchmark("sbc")


def test_rank_counts_draws_below(sbc):
    assert sbc.rank(0.35, np.arange(10) / 10) == 4
    assert sbc.rank([0.35, -1.0, 2.0], np.arange(10)[:, None] / 10 + np.zeros(3)).tolist() == [4, 0, 10]


def test_thinned_draws_are_spread_over_all_chains(sbc):
    z = np.arange(2 * 300 * 3).reshape(2, 300, 3)
    kept = sbc.thinned(z, 99)
    assert kept.shape == (99, 3)
    steps = np.diff(kept[:, 0]) / 3
    assert set(steps) <= {6.0, 7.0}
    assert (kept[0, 0], kept[-1, 2]) == (z[0, 0, 0], z[-1, -1, 2])


def test_ecdf_counts(sbc):
    assert sbc.ecdf_counts([0, 3, 3, 1], 4).tolist() == [1, 2, 2]


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_uniform_ranks_stay_inside_as_often_as_they_should(sbc, rng, level):
    inside = [not sbc.outside(rng.integers(0, 100, 200), 100, level) for _ in range(3000)]
    # counts are whole numbers: never less often than asked, and hardly more
    assert level - 0.015 < np.mean(inside) < min(1.0, level + 0.02) + 1e-9


@pytest.mark.parametrize("n", [50, 200])
def test_band_encloses_uniform_ranks_and_is_symmetric(sbc, n):
    low, high = sbc.ecdf_band(n, 100, 0.99)
    expected = n * np.arange(1, 100) / 100
    assert np.all((low <= expected) & (expected <= high))
    np.testing.assert_array_equal(low, n - high[::-1])
    wider = sbc.ecdf_band(n, 100, 0.999)
    assert np.all((wider[0] <= low) & (wider[1] >= high))


@pytest.mark.parametrize(
    ("shift", "width"), [(0.5, 1.0), (0.0, 0.5), (0.0, 2.0)], ids=["biased", "too narrow", "too wide"]
)
def test_wrong_posteriors_leave_the_band(sbc, rng, shift, width):
    """The posterior of a normal truth measured with unit noise, right at first, then shifted or scaled."""
    ranks = {"right": [], "wrong": []}
    for _ in range(200):
        truth = rng.standard_normal()
        centre, sd = 0.5 * (truth + rng.standard_normal()), np.sqrt(0.5)
        draws = rng.standard_normal(99)
        ranks["right"].append(sbc.rank(truth, centre + sd * draws))
        ranks["wrong"].append(sbc.rank(truth, centre + sd * (shift + width * draws)))
    level = sbc.each_level(40)
    assert not sbc.outside(ranks["right"], 100, level)
    assert sbc.outside(ranks["wrong"], 100, level)
    _, good = sbc.summary_table({name: np.array(r) for name, r in ranks.items()})
    assert not good


def test_a_replicate_is_drawn_from_the_model_that_is_fitted(sbc):
    """Bins are those of the priors and the noise model: whitened, the log-residuals of the truth have unit variance."""
    squares, n_bins, parameters = [], 0, []
    for seed in range(30):
        objective, truth = sbc.draw_data(seed)
        covariance = objective.noise.covariance(truth["log_noise_scales"])
        residual = np.log(objective.data.value) - objective.mean(truth)
        squares.append(-residual @ covariance.marginal(residual).by_residual)
        n_bins += len(residual)
        roots = [np.linalg.cholesky(p.covariance) for p in objective.parameters]
        away = [np.ravel(truth[p.name] - p.mu) for p in objective.parameters]
        parameters.append([np.linalg.solve(root, a) for root, a in zip(roots, away, strict=True)])
        assert np.hypot(*truth["centroid_delta"]) < objective.config.centroid_max
    # chi-squared, with a standard deviation of sqrt(2 n)
    assert abs(sum(squares) - n_bins) < 4 * np.sqrt(2 * n_bins)
    z = np.concatenate([np.concatenate(p) for p in parameters])
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * z.size)


def test_priors_do_not_depend_on_the_data(sbc):
    (one, _), (other, _) = sbc.draw_data(0), sbc.draw_data(1)
    assert not np.array_equal(one.data.value, other.data.value)
    assert np.all(one.data.weight == 1)
    for p, q in zip(one.parameters, other.parameters, strict=True):
        np.testing.assert_array_equal(p.mu, q.mu)
        np.testing.assert_array_equal(p.covariance, q.covariance)


def test_figure_can_be_drawn(sbc, rng, tmp_path):
    _, truth = sbc.draw_data(0)
    names = [f"{name}[{k}]" for name, value in truth.items() for k in range(np.size(value))]
    ranks = {name: rng.integers(0, sbc.KEPT + 1, 30) for name in names}
    figure = sbc.plot_sbc(ranks)
    sbc.save_figure(figure, tmp_path / "sbc.png")
    assert (tmp_path / "sbc.png").stat().st_size > 10_000
    assert sum(len(panel.lines) - 1 for panel in figure.axes) == len(names)  # every quantity in some panel
