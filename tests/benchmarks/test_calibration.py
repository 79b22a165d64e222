"""Coverage of the uncertainties: the machinery of benchmarks/calibration.py, and a reduced form of it."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import norm

from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient


@pytest.fixture(scope="module")
def calibration(import_benchmark) -> ModuleType:
    return import_benchmark("calibration")


def gradient_of(scalars, values, sds):
    """A product on nodes at the radii that are judged, every parameter with its own standard deviation."""
    nodes = np.array([0.0, 20.0, 50.0, 100.0, 250.0, 310.0, 330.0, 345.0, 368.0])
    names = [f"radial_spline_values[{k}]" for k in range(len(nodes))] + list(scalars)
    mean, sd = np.r_[values, list(scalars.values())], np.asarray(sds)
    columns = {key: np.full(len(names), np.nan) for key in STATISTICS}
    columns |= {"mean": mean, "sd": sd, "q05": mean - 1.6448536 * sd, "q95": mean + 1.6448536 * sd}
    estimates = Estimates(tuple(names), ("",) * len(names), columns, np.diag(sd**2), "laplace", True, False)
    return FlatGradient(nodes, np.asarray(values), **scalars, normalization_factor=2000.0, estimates=estimates)


def test_judge_gives_the_pulls_computed_by_hand(calibration):
    scalars = {"itl_ratio": 0.95, "gradient_x": 2e-5, "gradient_y": 0.0}
    scalars |= {"centroid_delta_x": 1.0, "centroid_delta_y": -1.0}
    sds = [0.001, 0.001, 0.001, 0.002, 0.002, 0.004, 0.004, 0.003, 0.004, 0.01, 1e-5, 1e-5, 0.5, 0.25]
    gradient = gradient_of(scalars, [1.0, 1.0, 0.995, 0.99, 0.96, 0.9, 0.7, 0.6, 0.0], sds)
    truth = {"itl_ratio": 0.94, "gradient_x": 3e-5, "gradient_y": -2e-5}
    truth |= {"centroid_delta_x": 1.0, "centroid_delta_y": -0.5}
    truth["radial"] = [r * 2000 for r in (0.9985, 0.997, 0.988, 0.966, 0.9, 0.704, 0.606)]
    rows = calibration.judge(gradient, truth)
    pulls = [rows[name]["pull"] for name in calibration.QUANTITIES]
    np.testing.assert_allclose(pulls, [1, -1, 2, 0, -2, 1.5, -2, 1, -3, 0, -1, -2], atol=1e-9)
    inside = [rows[name]["low"] <= rows[name]["truth"] <= rows[name]["high"] for name in calibration.QUANTITIES]
    assert inside == [abs(pull) < 1.6448536 for pull in pulls]


def test_nothing_is_judged_where_there_are_no_bins(calibration):
    gradient = gradient_of(dict.fromkeys(calibration.SCALARS, 0.5), np.linspace(1, 0.5, 9), np.ones(14))
    header = {"RADIUSMX": (337.0, "largest radius of a bin (mm)")}
    gradient = replace(gradient, estimates=replace(gradient.estimates, header=header))
    truth = dict.fromkeys(calibration.SCALARS, 0.5) | {"radial": np.ones(len(calibration.RADII))}
    rows = calibration.judge(gradient, truth)
    unknown = [name for name in calibration.QUANTITIES if np.isnan(rows[name]["pull"])]
    assert unknown == ["radial 345 mm"]
    # such planes do not count for the quantity, and do for the others
    found = rows_of(calibration, np.zeros((4, len(calibration.QUANTITIES))))
    others = [dict(row["quantities"], **{"radial 345 mm": rows["radial 345 mm"]}) for row in found[:3]]
    summary = calibration.summarise([*({"quantities": q} for q in others), found[3]])
    errors = {row.name: row.error for row in summary}
    assert errors["radial 345 mm"] == pytest.approx(0.3)
    assert errors["radial 330 mm"] == pytest.approx(0.15)
    assert {row.coverage for row in summary} == {1.0}


def rows_of(calibration, pulls, sd=1.0):
    """Results with these pulls, of shape (n_planes, n_quantities), with uncertainties that should have been 1."""
    half = norm.ppf(0.95) * sd
    return [
        {
            "quantities": {
                name: {"mean": x, "sd": sd, "low": x - half, "high": x + half, "truth": 0.0, "pull": x / sd}
                for name, x in zip(calibration.QUANTITIES, row, strict=True)
            }
        }
        for row in pulls
    ]


def test_summary_passes_what_is_calibrated_and_fails_what_is_not(calibration):
    # quantiles of the normal distribution: coverage and spread as they should be, without chance
    ideal = norm.ppf((np.arange(200) + 0.5) / 200)[:, None] * np.ones(len(calibration.QUANTITIES))
    good = calibration.summarise(rows_of(calibration, ideal))
    assert all(row.passed and row.bearable for row in good)
    assert calibration.all_pass(good)
    assert good[0].coverage == 0.9
    assert good[0].error == pytest.approx(np.sqrt(0.9 * 0.1 / 200))
    assert good[0].spread == pytest.approx(1.0, abs=0.02)
    # uncertainties too small, too large, and a bias, each in one quantity alone
    for factor, shift in ((1.4, 0.0), (0.7, 0.0), (1.0, 0.3)):
        planted = ideal.copy()
        planted[:, 3] = factor * planted[:, 3] + shift
        passed = [row.passed for row in calibration.summarise(rows_of(calibration, planted))]
        assert passed == [k != 3 for k in range(len(passed))]


def test_one_quantity_may_be_a_little_off(calibration):
    """Coverage of 82%; not two such, and not one of 79%, nor one with a bias or a spread beyond the limits."""
    level = (np.arange(200) + 0.5) / 200
    ideal = norm.ppf(level)

    def passes(*planted):
        pulls = ideal[:, None] * np.ones(len(calibration.QUANTITIES))
        pulls[:, : len(planted)] = np.array(planted).T
        return calibration.all_pass(calibration.summarise(rows_of(calibration, pulls)))

    def covering(inside):
        """Pulls without bias and of a spread below 1.2, of which so many lie inside the central 90% interval."""
        return np.where(np.abs(ideal) <= norm.ppf(0.5 + inside / 2), 0.95, 1.7) * np.sign(ideal)

    assert passes(ideal)
    assert np.mean(np.abs(covering(0.82)) < 1.6448) == pytest.approx(0.82)
    assert passes(covering(0.82))
    assert not passes(covering(0.82), covering(0.82))
    assert not passes(covering(0.79))
    assert passes(covering(0.97))
    assert not passes(covering(0.99))
    assert not passes(ideal + 0.26)
    assert passes(ideal + 0.2)
    assert not passes(1.22 * ideal)


def test_figure_and_table_can_be_drawn(calibration, rng, tmp_path):
    rows = rows_of(calibration, rng.standard_normal((20, len(calibration.QUANTITIES))))
    calibration.save_figure(calibration.plot_calibration(rows), tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    assert calibration.summary_table(calibration.summarise(rows), 20).row_count == len(calibration.QUANTITIES) + 1


def test_planes_differ_and_repeat(calibration):
    (one, truth, drawn), (again, *_), (other, *_) = (calibration.simulate_plane(s, 1024) for s in (2, 2, 3))
    np.testing.assert_array_equal(one.value, again.value)
    assert not np.array_equal(one.value, other.value)
    assert 10 <= drawn["field_scale"] <= 20
    assert (one.physical_filter, other.physical_filter) == ("r_57", "i_39")
    filters = [calibration.draw_light(seed)[2] for seed in range(7)]
    assert filters == ["u_24", "g_6", "r_57", "i_39", "z_20", "y_10", "u_24"]
    assert np.all(np.diff(truth["radial"]) < 0)


@pytest.mark.parametrize("curve", ["pchip", "cubic"])
def test_light_falls_to_nothing(calibration, rng, curve):
    for _ in range(20):
        r, values = calibration.draw_radial(rng, curve)
        assert r[-1] == 368
        assert np.all(values[:-1] > 0)
        assert np.diff(values[200:]).max() < 3e-4  # nearly level between 275 and 300 mm, where the bend may turn it


@pytest.mark.parametrize("seed", [0, 1])
def test_pulls_of_a_few_planes_are_a_few_standard_deviations(calibration, seed):
    """The reduced form: bins of 5 mm; `make calibration` has the full one."""
    row = calibration.calibrate_plane(seed, 512)
    assert row["converged"]
    pulls = np.array([row["quantities"][name]["pull"] for name in calibration.QUANTITIES])
    judged = np.isfinite(pulls)  # bins of 5 mm end before 345 mm
    assert judged[:-1].all()
    assert np.all(np.abs(pulls[judged]) < 4)
