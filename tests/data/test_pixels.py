"""Pixels as they are stored: blanks, masks of any kind, untrimmed images, files that are compressed as a whole."""

import bz2
import gzip
import logging
import lzma

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData

from bayesflat.data.binning import bin_files
from bayesflat.data.camera import Camera, Detector
from bayesflat.data.flats import read_flat, read_flat_header
from tests.helpers import message

NX, NY = 64, 50
SHAPE = {"nx": NX, "ny": NY, "pixel_size": 0.5, "refpos_x": 31.5, "refpos_y": 24.5}
CAMERA = Camera("Toy", [Detector(k, f"C{k}", "X", "science", 40.0 * k, 0.0, 0.0, **SHAPE) for k in (4, 5)])
IMAGE = np.random.default_rng(3).normal(1000.0, 5.0, (NY, NX)).astype(np.float32)
CARDS = [("DETECTOR", 4), ("FILTER", "g")]


def file_of(path, data=IMAGE, more=(), cards=(), compress=None):
    header = fits.Header([*CARDS, *cards])
    if compress:
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(data, header, **compress)]
    else:
        hdus = [fits.PrimaryHDU(data, header)]
    fits.HDUList([*hdus, *more]).writeto(path)
    return path


# ---- blank pixels ----


@pytest.mark.parametrize("blank", [0, 17, 60000])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
@pytest.mark.parametrize("compress", [None, {"compression_type": "RICE_1"}, {"compression_type": "GZIP_1"}])
def test_blank_integers_are_nan(tmp_path, dtype, blank, compress):
    """Unsigned ones are stored as signed ones with BZERO, and BLANK is the stored value."""
    blank = blank % 200 if dtype is np.uint8 else blank % 30000 if dtype is np.int16 else blank
    data = np.full((NY, NX), blank + 5, dtype)
    data[7, 9] = data[49, 63] = blank
    stored = blank - {np.uint16: 2**15, np.uint32: 2**31}.get(dtype, 0)
    path = file_of(tmp_path / "x.fits", data, cards=[("BLANK", stored)], compress=compress)
    image = read_flat(path, CAMERA).image
    assert np.argwhere(np.isnan(image)).tolist() == [[7, 9], [49, 63]]
    assert image[0, 0] == np.float32(blank + 5)


def test_blank_pixels_are_left_out_of_the_bins(tmp_path):
    data = np.full((NY, NX), 40000, np.uint16)
    data[:5, :10] = 0
    path = file_of(tmp_path / "x.fits", data, cards=[("BLANK", -32768)])
    binned = bin_files([path], CAMERA, bin_factor=10, detector_boundary=0)
    assert set(binned.value) == {40000.0}
    assert sorted(set(binned.n_pixels)) == [50, 100]


def test_blank_with_a_scale(tmp_path):
    data = np.full((NY, NX), 300, np.int16)
    data[2, 3] = 0
    hdu = fits.PrimaryHDU(data, fits.Header(CARDS))
    hdu.writeto(tmp_path / "x.fits")
    content = (tmp_path / "x.fits").read_bytes()
    scale = b"".join(card.ljust(80) for card in (b"BSCALE  = 0.5", b"BZERO   = 100.0", b"BLANK   = 0", b"END"))
    (tmp_path / "x.fits").write_bytes(content.replace(b"END".ljust(80 * 4), scale, 1))
    image = read_flat(tmp_path / "x.fits", CAMERA).image
    assert np.argwhere(np.isnan(image)).tolist() == [[2, 3]]
    assert image[0, 0] == 250.0


@pytest.mark.parametrize("method", [-1, 1, 2])
def test_floats_compressed_with_zblank_alone(tmp_path, method):
    """Quantised: NaN is the integer of ZBLANK, a card here, since the file has no column of that name."""
    data = IMAGE.copy()
    data[5, 6], data[8, 9] = np.nan, 0.0
    compress = {"compression_type": "RICE_1", "quantize_level": 16.0, "quantize_method": method, "dither_seed": 9}
    path = file_of(tmp_path / "x.fits", data, compress=compress)
    with fits.open(path, disable_image_compression=True) as hdus:
        assert "ZBLANK" in hdus[1].header
        assert "ZBLANK" not in hdus[1].columns.names
    image = read_flat(path, CAMERA).image
    assert np.argwhere(np.isnan(image)).tolist() == [[5, 6]]
    assert np.nanmax(np.abs(image - data)) < 1.0  # a sixteenth of 5 and some
    assert method != 2 or image[8, 9] == 0.0


def test_integers_compressed_with_zblank_alone(tmp_path):
    data = np.full((NY, NX), 40000, np.uint16)
    data[4, 5] = 7
    path = file_of(tmp_path / "x.fits", data, cards=[("BLANK", 7 - 32768)], compress={"compression_type": "RICE_1"})
    content = path.read_bytes()
    assert content.count(b"BLANK   =") == 1
    path.write_bytes(content.replace(b"BLANK   =", b"ZBLANK  ="))
    assert np.argwhere(np.isnan(read_flat(path, CAMERA).image)).tolist() == [[4, 5]]


# ---- masks ----


def mask_with(*values, dtype=np.uint8):
    mask = np.zeros((NY, NX), dtype)
    mask[1, : len(values)] = values
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_in_a_mask_without_planes_all_but_0_is_bad(tmp_path, dtype, caplog):
    mask = fits.ImageHDU(mask_with(0, 1, 2, 100, dtype=dtype), name="MASK")
    path = file_of(tmp_path / "x.fits", more=[mask])
    assert np.argwhere(read_flat(path, CAMERA).bad).tolist() == [[1, 1], [1, 2], [1, 3]]
    with caplog.at_level(logging.INFO):
        binned = bin_files([path], CAMERA, bin_factor=10, detector_boundary=0)
    assert "mask of 1 of 1 flats: has no planes (MP_ cards): whatever is not 0 is bad" in caplog.text
    assert binned.n_pixels.min() == 97
    assert read_flat(path, CAMERA, ()).bad is None
    assert "mask plane SAT is not in it; it has no mask planes" in message(read_flat, path, CAMERA, ("SAT",))


def test_mask_of_ccddata(tmp_path):
    mask = mask_with(True, False, True, dtype=bool)
    ccd = CCDData(IMAGE, mask=mask, unit="adu", meta={"DETECTOR": 4, "FILTER": "g"})
    ccd.write(tmp_path / "x.fits")
    flat = read_flat(tmp_path / "x.fits", CAMERA)
    np.testing.assert_array_equal(flat.bad, mask)
    np.testing.assert_array_equal(flat.image, IMAGE)


def test_the_log_says_how_masks_were_read(tmp_path, caplog):
    planes = fits.Header([("HIERARCH MP_NO_DATA", 3), ("MP_SAT", 1)])
    mask = fits.ImageHDU(mask_with(8, 2), planes, name="MASK")
    file_of(tmp_path / "a.fits", more=[mask])
    file_of(tmp_path / "b_C5_.fits", cards=[("DETECTOR", 5)])
    with fits.open(tmp_path / "b_C5_.fits", mode="update") as hdus:
        hdus[0].header["DETECTOR"] = 5
    with caplog.at_level(logging.INFO):
        bin_files([tmp_path / "a.fits", tmp_path / "b_C5_.fits"], CAMERA, bin_factor=10)
    assert "mask of 1 of 2 flats: plane NO_DATA is bad" in caplog.text
    assert "mask of 1 of 2 flats: there is none, or no plane of it is used" in caplog.text


# ---- untrimmed images ----


def untrimmed(path, cards, mask=None):
    data = np.full((NY + 9, NX + 12), -1.0, np.float32)
    data[3 : 3 + NY, 5 : 5 + NX] = IMAGE
    more = [] if mask is None else [fits.ImageHDU(mask, name="MASK")]
    return file_of(path, data, more, cards)


@pytest.mark.parametrize(
    "cards",
    [
        [("TRIMSEC", "[6:69,4:53]")],
        [("DATASEC", " [ 6 : 69 , 4 : 53 ] ")],
        [("TRIMSEC", "[6:69,4:53]"), ("DATASEC", "[1:76,1:59]")],
        [("TRIMSEC", "[1:76,1:59]"), ("DATASEC", "[6:69,4:53]")],
    ],
)
def test_an_untrimmed_image_is_trimmed_where_that_gives_the_detectors_size(tmp_path, cards):
    mask = np.zeros((NY + 9, NX + 12), np.int16)
    mask[4, 7] = 1
    path = untrimmed(tmp_path / "x.fits", cards, mask)
    assert read_flat_header(path, CAMERA)[0].id == 4
    flat = read_flat(path, CAMERA)
    np.testing.assert_array_equal(flat.image, IMAGE)
    assert np.argwhere(flat.bad).tolist() == [[1, 2]]
    trimmed = read_flat(untrimmed(tmp_path / "y.fits", cards, mask_with(0, 0, 1)), CAMERA)
    assert np.argwhere(trimmed.bad).tolist() == [[1, 2]]


@pytest.mark.parametrize("section", ["[6:69,4:52]", "[69:6,4:53]", "[20:83,4:53]", "[0:63,4:53]", "6:69,4:53", "none"])
def test_sections_that_do_not_give_the_size_are_named(tmp_path, section):
    text = message(read_flat, untrimmed(tmp_path / "x.fits", [("TRIMSEC", section)]), CAMERA)
    assert "x.fits: the image has 76 x 59 pixels, detector C4 of the camera 64 x 50" in text
    assert f"which TRIMSEC {section} do not give either" in text


def test_sections_that_stayed_behind_when_an_image_was_trimmed_do_nothing(tmp_path):
    path = file_of(tmp_path / "x.fits", cards=[("TRIMSEC", "[6:69,4:53]"), ("DATASEC", "[57:2104,51:4146]")])
    np.testing.assert_array_equal(read_flat(path, CAMERA).image, IMAGE)


# ---- compressed as a whole ----

PACKERS = {".gz": gzip, ".bz2": bz2, ".xz": lzma}


def masked_file(path):
    """Image and mask: an end between the two must not pass for a file without a mask."""
    return file_of(path, more=[fits.ImageHDU(mask_with(1, 1), name="MASK")])


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_read_the_same(tmp_path, ending):
    plain = masked_file(tmp_path / "x.fits")
    packed = tmp_path / f"x.fits{ending}"
    packed.write_bytes(PACKERS[ending].compress(plain.read_bytes()))
    flat = read_flat(packed, CAMERA)
    np.testing.assert_array_equal(flat.image, IMAGE)
    assert np.argwhere(flat.bad).tolist() == [[1, 0], [1, 1]]


def test_a_gzipped_file_that_ends_early_anywhere_is_truncated(tmp_path):
    plain = masked_file(tmp_path / "x.fits").read_bytes()
    # not compressed, so that any byte of the file may be the last
    whole = gzip.compress(plain, compresslevel=0)
    cut = tmp_path / "cut.fits.gz"
    for length in [0, 1, 2, 5, 10, 11, *range(100, len(whole), 1440), len(whole) - 8, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        for read in (read_flat, read_flat_header):
            assert "cut.fits.gz: the file is truncated" in message(read, cut, CAMERA)
    cut.write_bytes(whole)
    assert np.argwhere(read_flat(cut, CAMERA).bad).tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("ending", [".bz2", ".xz"])
def test_other_packed_files_that_end_early_are_truncated(tmp_path, ending):
    whole = PACKERS[ending].compress(masked_file(tmp_path / "x.fits").read_bytes())
    (tmp_path / "cut.fits").write_bytes(whole[: len(whole) // 2])
    assert "cut.fits: the file is truncated" in message(read_flat, tmp_path / "cut.fits", CAMERA)


def test_damaged_gzip_and_other_archives(tmp_path):
    whole = bytearray(gzip.compress(masked_file(tmp_path / "x.fits").read_bytes()))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "bad.fits.gz").write_bytes(whole)
    assert "bad.fits.gz: the file is corrupted" in message(read_flat, tmp_path / "bad.fits.gz", CAMERA)
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and so on")
    assert "x.zip: is packed by zip; accepted are" in message(read_flat, tmp_path / "x.zip", CAMERA)
