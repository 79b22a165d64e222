"""Numbers in headers that would have a reader go on for ever, or ask for all memory there is."""

import time

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.binned import BinnedFlat, is_binned_table
from bayesflat.data.camera import Camera, lsstcam
from bayesflat.data.defects import read_boxes
from bayesflat.data.fitsfile import opened_fits
from bayesflat.data.flats import read_flat
from bayesflat.gradient.product import FlatGradient
from tests.helpers import message


@pytest.fixture
def flat(tmp_path):
    """A file with an image, a compressed mask and a table."""
    path = tmp_path / "flat.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("a", "D", array=np.arange(3.0))], name="T")
    mask = fits.CompImageHDU(np.zeros((20, 30), dtype=np.int32), name="MASK", compression_type="GZIP_2")
    image = fits.ImageHDU(np.ones((20, 30), dtype=np.float32), name="IMAGE")
    fits.HDUList([fits.PrimaryHDU(), image, mask, table]).writeto(path)
    return path


def changed(path, hdu, key, value):
    """Write a card anew in an HDU's header as it lies in the file, a compressed image's table included."""
    content = bytearray(path.read_bytes())
    starts = [k for k in range(0, len(content), 2880) if content[k : k + 9] in (b"SIMPLE  =", b"XTENSION=")]
    at = content.index(f"{key:8s}=".encode(), starts[hdu])
    content[at : at + 80] = f"{key:8s}= {value:>20}".ljust(80).encode()
    path.write_bytes(content)
    return path


def opened(path):
    with opened_fits(path) as hdus:
        return [hdu.data for hdu in hdus]


def test_sound_files_are_read_as_they_are(flat):
    primary, image, mask, table = opened(flat)
    assert primary is None
    np.testing.assert_array_equal(image, np.ones((20, 30)))
    np.testing.assert_array_equal(mask, np.zeros((20, 30)))
    np.testing.assert_array_equal(table["a"], [0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("hdu", "key", "value", "said"),
    [
        (3, "GCOUNT", -1, "GCOUNT of HDU 3 is -1, it must be 1"),
        (1, "GCOUNT", 0, "GCOUNT of HDU 1 is 0, it must be 1"),
        (3, "PCOUNT", -5000, "PCOUNT of HDU 3 is -5000, it must be at least 0"),
        (3, "PCOUNT", 10**15, "truncated (HDU 3 should have 1000000000000024 bytes of data"),
        (0, "NAXIS", 10**9, "NAXIS of HDU 0 is 1000000000, it must be 0 to 999"),
        (1, "NAXIS", 3, "HDU 1 has no NAXIS3"),
        (1, "NAXIS1", -30, "NAXIS1 of HDU 1 is -30, it must be at least 0"),
        (1, "NAXIS2", 10**12, "truncated (HDU 1 should have 120000000000000 bytes"),
        (1, "NAXIS2", "2.5", "NAXIS2 of HDU 1 is 2.5, a whole number is needed"),
        (1, "BITPIX", 7, "BITPIX of HDU 1 is 7, it must be one of 8, 16, 32, 64, -32, -64"),
        (3, "NAXIS2", 10**12, "truncated (HDU 3"),
        (3, "NAXIS1", 0, "NAXIS1 of HDU 3 is 0, rows of a table have bytes"),
        (3, "TFIELDS", 10**9, "TFIELDS of HDU 3 is 1000000000, it must be 0 to 999"),
        (3, "TFORM1", "'9999999D'", "NAXIS1 of HDU 3 is 8, its columns (TFORM) need 79999992 bytes a row"),
        (2, "ZNAXIS2", 10**9, "an image of 30 x 1000000000 has 1000000000 tiles, the file has 20"),
        (2, "ZTILE1", 0, "ZTILE1 of HDU 2 is 0, it must be at least 1"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused_at_once(flat, hdu, key, value, said):
    start = time.monotonic()
    assert said in message(opened, changed(flat, hdu, key, value))
    assert time.monotonic() - start < 5


def test_masks_of_another_size_are_not_unpacked(tmp_path):
    """One tile may be said to be of any size."""
    detector = next(iter(lsstcam())).coarsened(100)
    camera = Camera("LSSTCam", [detector])
    path = tmp_path / "flat.fits"
    shape = (detector.ny, detector.nx)
    image = fits.ImageHDU(np.ones(shape, dtype=np.float32), name="IMAGE")
    image.header["DETECTOR"], image.header["FILTER"] = detector.id, "i"
    mask = fits.CompImageHDU(np.zeros(shape, dtype=np.int32), name="MASK", compression_type="GZIP_2", tile_shape=shape)
    mask.header["HIERARCH MP_NO_DATA"] = 0
    fits.HDUList([fits.PrimaryHDU(), image, mask]).writeto(path)
    assert not read_flat(path, camera).bad.any()
    for key in ("ZNAXIS2", "ZTILE2"):
        changed(path, 2, key, 10**9)
    assert "must hold integers in the image's shape (40, 40)" in message(read_flat, path, camera)


def test_products_tables_and_defects_are_held_against_their_files_too(tmp_path):
    product = tmp_path / "product.fits"
    FlatGradient([0.0, 100.0, 200.0], [1.0, 0.9, 0.5]).write(product)
    assert "GCOUNT of HDU 1 is -1" in message(FlatGradient.read, changed(product, 1, "GCOUNT", -1))
    table = tmp_path / "binned.fits"
    fits.BinTableHDU.from_columns([fits.Column("xf", "D", array=np.zeros(3))]).writeto(table)
    assert is_binned_table(table)
    changed(table, 1, "GCOUNT", -1)
    assert not is_binned_table(table)
    assert "GCOUNT of HDU 1 is -1" in message(BinnedFlat.read, table, lsstcam())
    assert "GCOUNT of HDU 1 is -1" in message(read_boxes, table)
