"""Errors of importance draws against those of NUTS: benchmarks/importance.py, whose full form is `make calibration`."""

from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def importance(import_benchmark) -> ModuleType:
    return import_benchmark("importance")


@pytest.mark.parametrize("dof", [None, 8])
def test_error_of_a_width_is_that_of_repeated_draws(importance, rng, dof):
    """Also where tails are wide, whose widths are known less well."""
    draws = rng.standard_normal((2000, 400)) if dof is None else rng.standard_t(dof, (2000, 400))
    scatter = np.std(np.log(draws.std(1)))
    expected = np.sqrt(0.5 / 400) if dof is None else np.sqrt((3 + 6 / (dof - 4) - 1) / (4 * 400))
    assert importance.error_of_width(draws.ravel(), 400) == pytest.approx(expected, rel=0.1)
    assert scatter == pytest.approx(expected, rel=0.1)


def test_a_wrong_width_counts_where_weights_settle(importance):
    widths = [importance.Width("itl_ratio", 0.6, 1.06, 0.02), importance.Width("gradient_x", 0.6, 0.86, 0.02)]
    assert [width.right for width in widths] == [True, False]
    assert not importance.Compared(0.5, 900.0, 1.0, 1.0, True, widths).right
    assert importance.Compared(0.8, 900.0, 1.0, 1.0, True, widths).right  # refused
    assert importance.Compared(0.5, 900.0, 1.0, 1.0, True, widths[:1]).right
    assert not importance.Compared(0.5, 900.0, 1.0, 1.0, False, widths[:1]).right  # nothing to be judged by


@pytest.mark.slow
def test_errors_are_those_of_nuts(importance):
    """Nine detectors, where Laplace's own are a third off."""
    found = importance.compare(importance.fitted(9, 4), 6000, [100, 101])
    assert found.passed
    assert found.k < 0.7
    assert [width for width in found.widths if not width.right] == []
    assert max(abs(np.log(width.laplace)) for width in found.widths) > 0.2
