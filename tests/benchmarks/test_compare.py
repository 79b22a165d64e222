"""Calibration and power of the comparison: the machinery of benchmarks/compare.py, and a reduced form of it."""

import json
from types import ModuleType

import numpy as np
import pytest

from bayesflat.data.camera import Camera, lsstcam
from bayesflat.simulation.truth import Light


@pytest.fixture(scope="module")
def benchmark(import_benchmark) -> ModuleType:
    return import_benchmark("compare")


@pytest.mark.parametrize(("kind", "at"), [("bend", (0.0, 310.0)), ("plane", (310.0, 0.0))])
def test_changes_are_of_the_size_that_they_should_be(benchmark, kind, at):
    light = Light(radial=([0.0, 200.0, 400.0], [1.0, 0.9, 0.5]), gradient=(1e-5, 2e-5), bend=0.01)
    changed = benchmark.changed(light, kind, 2.0)
    x, y = np.array([0.0, at[0]]), np.array([0.0, at[1]])
    mmag = -2500 * np.log10(changed.evaluate(x, y, False) / light.evaluate(x, y, False))
    assert mmag == pytest.approx([0.0, 2.0], abs=0.02)


def rows_of(benchmark, pulls):
    d = {name: [{"mean": p, "sd": 1.0, "q05": p - 1.645, "q95": p + 1.645} for p in pulls] for name in benchmark.NAMES}
    return [{"null": {name: d[name][k] for name in benchmark.NAMES}, "power": {}} for k in range(len(pulls))]


def test_intervals_that_leave_out_zero_are_counted(benchmark):
    rows = rows_of(benchmark, [0.0, 1.6, -1.6, 1.7, -1.7, 0.5, 0.1, -0.2, 1.0, -1.0])
    assert benchmark.left_out(rows, "itl_ratio") == 0.2
    assert benchmark.summary_table(rows)[1] is False  # 20%: the errors are too small
    good = rows_of(benchmark, [0.0, 1.6, -1.6, 1.7, -1.2, 0.5, 0.1, -0.2, 1.0, -1.0])
    assert benchmark.summary_table(good)[1] is True


def test_reduced_calibration(benchmark):
    """Three pairs on the middle of LSSTCam, bins four times as large: nothing beyond four sd, and 5 mmag are seen."""
    camera = Camera("LSSTCam", [d for d in lsstcam().science() if np.hypot(d.x, d.y) < 330])
    rows = [benchmark.compare_pair(seed, 512, 1, camera) for seed in range(3)]
    json.dumps(rows)
    pulls = np.array(
        [[row["null"][name]["mean"] / row["null"][name]["sd"] for name in benchmark.NAMES] for row in rows]
    )
    assert np.all(np.abs(pulls) < 4)
    assert np.sum(pulls**2) < 3 * len(benchmark.NAMES) * 2.5
    assert all(row["converged"] for row in rows)
    assert list(rows[1]["power"]) == []
    power = benchmark.power_of(rows, "plane")
    assert power["seen"][-1] == power["beyond"][-1] == 1.0
    assert power["beyond"][0] == 0.0
