"""Values and rows by the group that they belong to, against loops over the groups."""

import numpy as np

from bayesflat.data.grouped import medians_of, rows_of


def test_medians_of_groups(rng):
    index = rng.integers(7, size=100)
    values = np.where(rng.random(100) < 0.2, np.nan, rng.normal(size=100))
    values[index == 4] = np.nan
    expected = [np.nanmedian(values[index == k]) if k != 4 else np.nan for k in range(7)]
    np.testing.assert_array_equal(medians_of(index, values), expected)
    np.testing.assert_array_equal(medians_of(index, values, 9), [*expected, np.nan, np.nan])


def test_rows_of_groups(rng):
    group = rng.choice([5, 2, 40, 11], 60)
    found = rows_of(group)
    assert list(found) == [2, 5, 11, 40]
    for number, rows in found.items():
        np.testing.assert_array_equal(rows, np.flatnonzero(group == number))
