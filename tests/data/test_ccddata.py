"""astropy's CCDData in place of flats: bins are those of the same flat."""

import numpy as np
import pytest
from astropy.nddata import CCDData

from bayesflat.data.binning import bin_focal_plane
from bayesflat.data.camera import Camera
from bayesflat.data.flats import Flat
from tests.helpers import message
from tests.mosaics import FILTER, NX, NY, pixels, small_decam

CAMERA = small_decam()
OPTIONS = {"bin_factor": 10, "detector_boundary": 0}


def ccd(number, mask=None, data=None, **cards):
    header = {"INSTRUME": "DECam", "FILTER": FILTER, "CCDNUM": number} | cards
    return CCDData(pixels(number) if data is None else data, mask=mask, unit="electron", meta=header)


@pytest.fixture
def mask():
    mask = np.zeros((NY, NX), bool)
    mask[:3, 5] = True
    return mask


def test_bins_are_those_of_the_same_flats(mask):
    found = bin_focal_plane((ccd(number, mask if number == 2 else None) for number in (1, 2)), CAMERA, **OPTIONS)
    flats = [Flat(pixels(1), None, CAMERA[1], FILTER, "DECam"), Flat(pixels(2), mask, CAMERA[2], FILTER, "DECam")]
    expected = bin_focal_plane(flats, CAMERA, **OPTIONS)
    for name in ("xf", "yf", "value", "detector", "n_pixels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.n_pixels.min() == 97
    assert (found.physical_filter, found.instrument) == (FILTER, "DECam")


def test_flats_and_ccddata_together_and_without_a_filter():
    one = ccd(1)
    del one.header["FILTER"]
    binned = bin_focal_plane([one, Flat(pixels(2), None, CAMERA[2])], CAMERA, **OPTIONS)
    assert set(binned.detector) == {1, 2}
    assert binned.physical_filter == ""


def test_untrimmed(mask):
    data = np.full((NY + 4, NX + 6), -1.0)
    data[2 : 2 + NY, 3 : 3 + NX] = pixels(61)
    whole = np.zeros(data.shape, bool)
    whole[2 : 2 + NY, 3 : 3 + NX] = mask
    found = bin_focal_plane([ccd(61, whole, data, TRIMSEC=f"[4:{3 + NX},3:{2 + NY}]")], CAMERA, **OPTIONS)
    expected = bin_focal_plane([Flat(pixels(61).astype(float), mask, CAMERA[61])], CAMERA, **OPTIONS)
    np.testing.assert_array_equal(found.value, expected.value)


def test_what_cannot_be_told_is_refused():
    def binning(*flats, camera=CAMERA):
        return bin_focal_plane(flats, camera, **OPTIONS)

    assert "flat 1: no detector is named" in message(binning, ccd(1), ccd(2, CCDNUM=""))
    assert "flat 0: is of HSC, the camera is DECam" in message(binning, ccd(1, INSTRUME="HSC"))
    assert "flat 1: detector 1 (S29) is also in flat 0" in message(binning, ccd(1), ccd(1))
    assert "its filter is r" in message(binning, ccd(1), ccd(2, FILTER="r"))
    assert "the image has 64 x 49 pixels" in message(binning, ccd(1, data=np.ones((NY - 1, NX))))
    only = Camera("Own", [CAMERA[2]])
    assert set(binning(CCDData(pixels(2), unit="adu"), camera=only).detector) == {2}
