"""Bins that several plots show."""

import pytest

from tests.report.bins import make_data


@pytest.fixture(scope="package")
def data():
    """Bins of random values on all detectors that have any."""
    return make_data()
