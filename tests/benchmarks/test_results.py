"""Results of a benchmark outlast an interruption."""

from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def results(import_benchmark) -> ModuleType:
    return import_benchmark("results")


def test_results_go_on_after_an_interruption(results, tmp_path):
    path, wanted = tmp_path / "results.jsonl", {"version": "1", "config": {"a": (1, 2)}}
    row = {"setup": wanted, "code": results.CODE, "seconds": 1.0, "converged": True}
    results.append_result(path, row | {"seed": 1})
    results.append_result(path, row | {"seed": 2, "setup": {"version": "0"}})
    with path.open("a") as file:
        file.write('{"seed": 3, "set')  # cut short
    results.append_result(path, row | {"seed": 4})
    assert sorted(results.read_results(path, wanted)) == [1, 4]

    done = []

    def work(seed):
        done.append(seed)
        if seed == 5:
            raise ValueError("no luck")
        return row | {"seed": seed}

    rows, failed = results.run(work, range(1, 6), (), path, wanted, 1)
    assert done == [2, 3, 5]
    assert [r["seed"] for r in rows] == [1, 2, 3, 4]
    assert failed == 1
    assert sorted(results.read_results(path, wanted)) == [1, 2, 3, 4]
