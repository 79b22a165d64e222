"""LSSTCam's science detectors, and a few of them."""

import pytest

from bayesflat.data.camera import lsstcam


@pytest.fixture(scope="package")
def science():
    return lsstcam().science()


@pytest.fixture(scope="package")
def few():
    # both vendors, odd and even ids, across 350 mm and well inside
    return lsstcam().subset(["R22_S11", "R22_S12", "R01_S00", "R01_S01", "R02_S11"])
