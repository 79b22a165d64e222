"""Bins that several plots show, and a fit with its page."""

from dataclasses import replace

import pytest

from bayesflat.inference.fitting import fit
from bayesflat.report.fit_page import fit_report
from tests.helpers import noisy_flat, small_config
from tests.report.bins import make_data
from tests.report.pages import INPUTS


@pytest.fixture(scope="package")
def data():
    """Bins of random values on all detectors that have any."""
    return make_data()


@pytest.fixture(scope="package")
def result(small_camera):
    """Both vendors, all terms but the outer plane; detector 13 has no bins."""
    binned = noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(3e-4, -2e-4))
    binned = binned.select(binned.detector != 13)
    binned = replace(binned, instrument="<i>Cam</i> & co", physical_filter="r<57>")
    return fit(binned, small_config(seed=3), inputs=INPUTS)


@pytest.fixture(scope="package")
def html(result):
    return fit_report(result, warnings=["mind <b>this</b>"])
