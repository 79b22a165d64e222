"""Reading one detector's flat: what is in the file must come out, and what is wrong must be said."""

import logging
import warnings

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.camera import Camera, Detector, lsstcam, lsstcomcam
from bayesflat.data.flats import Flat, find_flats, read_flat, read_flat_header
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from tests.helpers import message

NX, NY = 64, 50
SHAPE = {"nx": NX, "ny": NY, "pixel_size": 0.5, "refpos_x": 31.5, "refpos_y": 24.5}
CAMERA = Camera(
    "Toy",
    [
        Detector(4, "R22_S11", "E2V", "science", 0.0, 0.0, 0.0, **SHAPE),
        Detector(5, "R22_S12", "ITL", "science", 40.0, 0.0, 90.0, **SHAPE),
        Detector(6, "S11", "ITL", "science", 80.0, 0.0, 90.0, **SHAPE),
    ],
)
IMAGE = np.random.default_rng(3).normal(1000.0, 5.0, (NY, NX)).astype(np.float32)
MASK = np.zeros((NY, NX), dtype=np.int32)
MASK[0, 0:8] = 1 << np.arange(8)  # pixel (i, 0) has bit i and no other


def card(header, **values):
    for key, value in values.items():
        name = key.replace("__", " ").replace("DET_ID", "DET-ID")
        header[f"HIERARCH {name}" if len(name) > 8 or " " in name else name] = value


def lsst_file(path, *, planes=None, mask=MASK, compressed=False, primary=None, image=None, data=IMAGE, archive=True):
    """A file as the LSST pipelines leave it, with archive HDUs at its end, which are no part of the image."""

    def hdu(array, name):
        if compressed:
            return fits.CompImageHDU(array, name=name, compression_type="GZIP_2", quantize_level=0.0)
        return fits.ImageHDU(array, name=name)

    first = fits.PrimaryHDU()
    defaults = {"LSST__BUTLER__DATAID__DETECTOR": 4, "FILTER": "g_6", "INSTRUME": "Toy"} if primary is None else primary
    card(first.header, DETECTOR_ID=77, FILTER_ID=3, ARCHIVE_ID_DETECTOR=78, **defaults)
    hdus = [first, hdu(data, "IMAGE")]
    card(hdus[1].header, ARCHIVE_ID_DETECTOR=79, **(image or {}))
    if mask is not None:
        hdus.append(hdu(mask, "MASK"))
        card(hdus[-1].header, **{f"MP_{name}": bit for name, bit in (planes or {"NO_DATA": 3, "SAT": 1}).items()})
    hdus.append(hdu(np.full((NY, NX), 7.0, np.float32), "VARIANCE"))
    if archive:
        table = fits.BinTableHDU.from_columns([fits.Column("id", "J", array=np.arange(3))], name="ARCHIVE_INDEX")
        card(table.header, DETECTOR=99, FILTER="junk", MP_NO_DATA=0)
        hdus += [table, fits.ImageHDU(np.full((NY, NX), -1.0, np.float32), name="IMAGE")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(hdus).writeto(path)
    return path


def plain_file(path, data=IMAGE, extension=False, **cards):
    hdu = fits.ImageHDU(data) if extension else fits.PrimaryHDU(data)
    card(hdu.header, **cards)
    fits.HDUList([fits.PrimaryHDU(), hdu] if extension else [hdu]).writeto(path)
    return path


# ---- pixels and mask ----


@pytest.mark.parametrize("compressed", [False, True])
def test_lsst_file_gives_its_own_image_mask_and_identity(tmp_path, compressed):
    flat = read_flat(lsst_file(tmp_path / "a.fits", compressed=compressed), CAMERA)
    np.testing.assert_array_equal(flat.image, IMAGE)
    assert flat.image.dtype == np.float32
    assert flat.image.dtype.isnative
    assert np.argwhere(flat.bad).tolist() == [[0, 3]]  # NO_DATA is bit 3 in this file
    assert (flat.detector.id, flat.physical_filter, flat.instrument) == (4, "g_6", "Toy")
    assert flat.path == str(tmp_path / "a.fits")


def test_gzipped_file_reads_the_same(tmp_path):
    flat = read_flat(lsst_file(tmp_path / "a.fits.gz"), CAMERA)
    np.testing.assert_array_equal(flat.image, IMAGE)
    assert np.argwhere(flat.bad).tolist() == [[0, 3]]


def test_mask_bits_come_from_each_file(tmp_path):
    one = lsst_file(tmp_path / "1.fits", planes={"NO_DATA": 6, "SAT": 2})
    other = lsst_file(tmp_path / "2.fits", planes={"SAT": 6, "NO_DATA": 0})
    assert np.argwhere(read_flat(one, CAMERA).bad)[:, 1].tolist() == [6]
    assert np.argwhere(read_flat(other, CAMERA).bad)[:, 1].tolist() == [0]
    assert np.argwhere(read_flat(one, CAMERA, ("SAT", "NO_DATA")).bad)[:, 1].tolist() == [2, 6]
    assert np.argwhere(read_flat(other, CAMERA, ("SAT",)).bad)[:, 1].tolist() == [6]


def test_topmost_bit_of_a_signed_mask(tmp_path):
    mask = np.zeros((NY, NX), dtype=np.int32)
    mask[1, 2] = np.int32(-(2**31))
    mask[1, 3] = 1 << 30
    mask[1, 4] = 4
    path = lsst_file(tmp_path / "a.fits", mask=mask, planes={"NO_DATA": 31, "SAT": 2})
    assert np.argwhere(read_flat(path, CAMERA).bad).tolist() == [[1, 2]]
    assert np.argwhere(read_flat(path, CAMERA, ("NO_DATA", "SAT")).bad).tolist() == [[1, 2], [1, 4]]


def test_no_mask_planes_no_mask_or_no_no_data_flags_nothing(tmp_path):
    with_mask = lsst_file(tmp_path / "1.fits", planes={"SAT": 3})
    assert read_flat(with_mask, CAMERA).bad is None
    assert read_flat(with_mask, CAMERA, ()).bad is None
    without = lsst_file(tmp_path / "2.fits", mask=None)
    np.testing.assert_array_equal(read_flat(without, CAMERA).image, IMAGE)
    assert read_flat(without, CAMERA).bad is None


def test_unknown_mask_plane_lists_what_there_is(tmp_path):
    path = lsst_file(tmp_path / "a.fits", planes={"NO_DATA": 3, "SAT": 1})
    text = message(read_flat, path, CAMERA, ("NO_DATA", "SATURATED"))
    assert "a.fits" in text
    assert "SATURATED" in text
    assert "NO_DATA, SAT" in text
    assert "no mask planes" in message(read_flat, lsst_file(tmp_path / "b.fits", mask=None), CAMERA, ("SAT",))


def test_mask_that_does_not_fit_is_refused(tmp_path):
    small = lsst_file(tmp_path / "a.fits", mask=np.zeros((NY, NX - 1), np.int32))
    assert "(50, 63)" in message(read_flat, small, CAMERA)
    floats = lsst_file(tmp_path / "b.fits", mask=np.zeros((NY, NX), np.float32))
    assert "must hold integers" in message(read_flat, floats, CAMERA)
    bit = lsst_file(tmp_path / "c.fits", planes={"NO_DATA": 32})
    assert "0 to 31" in message(read_flat, bit, CAMERA)


@pytest.mark.parametrize("dtype", [">i2", ">u2", ">i4", ">f4", ">f8"])
@pytest.mark.parametrize("extension", [False, True])
def test_plain_images_of_any_type(tmp_path, dtype, extension):
    data = np.round(IMAGE).astype(dtype)
    flat = read_flat(plain_file(tmp_path / "x_R22_S12_.fits", data, extension, FILTER="r"), CAMERA)
    np.testing.assert_array_equal(flat.image, np.round(IMAGE))
    assert flat.image.dtype == np.float32
    assert flat.detector.id == 5
    assert flat.bad is None
    assert flat.instrument == ""


def test_non_finite_pixels_stay(tmp_path):
    data = IMAGE.astype(float)
    data[1, 1], data[2, 2], data[3, 3] = np.nan, -np.inf, 1e300
    image = read_flat(plain_file(tmp_path / "x.fits", data, FILTER="r", DETECTOR=4), CAMERA).image
    assert np.argwhere(~np.isfinite(image)).tolist() == [[1, 1], [2, 2], [3, 3]]


def test_blank_integers_become_nan(tmp_path):
    data = np.full((NY, NX), 12, dtype=np.int16)
    data[7, 9] = -1
    image = read_flat(plain_file(tmp_path / "x.fits", data, FILTER="r", DETECTOR=4, BLANK=-1), CAMERA).image
    assert np.argwhere(np.isnan(image)).tolist() == [[7, 9]]
    assert image[0, 0] == 12


# ---- detector, filter, instrument ----


@pytest.mark.parametrize(
    ("name", "cards", "expected"),
    [
        ("x.fits", {"DETNAME": "R22_S12"}, 5),
        ("x.fits", {"DETECTOR": 5}, 5),
        ("x.fits", {"DETECTOR": "5"}, 5),
        ("x.fits", {"DETECTOR": 5.0}, 5),
        ("x.fits", {"DETECTOR": "R22_S12"}, 5),
        ("x.fits", {"DET_ID": 5}, 5),
        ("x.fits", {"CCDNUM": 5}, 5),
        ("x.fits", {"DETECTOR": "S3-06_123195-15-3", "CCDNUM": 5}, 5),  # a serial number
        ("x.fits", {"DETECTOR": 4, "CCDNUM": 5}, 4),
        ("x.fits", {"LSST__BUTLER__DATAID__DETECTOR": 5, "DETECTOR": 4, "DETECTOR_ID": 6}, 5),
        ("flat_R22_S12_g.fits", {"DETECTOR": " "}, 5),
        ("flat_g_R22_S12.fits", {"DETECTOR_ID": 4, "FILTER_ID": 4}, 5),
        ("R22_S12.fits", {}, 5),
        ("flat_R22_S11_g.fits", {}, 4),  # not detector S11
        ("flat_S11_g.fits", {}, 6),
    ],
)
def test_detector_is_found(tmp_path, name, cards, expected):
    path = plain_file(tmp_path / name, FILTER="g", **cards)
    assert read_flat_header(path, CAMERA)[0].id == expected
    assert read_flat(path, CAMERA).detector.id == expected


def test_image_header_is_looked_at_and_the_butlers_goes_first(tmp_path):
    image = {"DETNAME": "R22_S12", "LSST__BUTLER__DATAID__PHYSICAL_FILTER": "i_39", "INSTRUME": "InImage"}
    path = lsst_file(tmp_path / "1.fits", primary={}, image=image)
    assert read_flat_header(path, CAMERA) == (CAMERA[5], "i_39", "InImage")
    primary = {"LSST__BUTLER__DATAID__INSTRUMENT": "Butler", "INSTRUME": "No", "FILTER": "no", "DETECTOR": 5}
    path = lsst_file(tmp_path / "2.fits", primary=primary, image=image)
    assert read_flat_header(path, CAMERA) == (CAMERA[5], "i_39", "Butler")


@pytest.mark.parametrize("name", ["x.fits", "flat_R22_S113_g.fits", "flatR22_S12_g.fits", "R22_S12_R22_S11_.fits"])
def test_detector_not_found_says_what_was_looked_for(tmp_path, name):
    text = message(read_flat_header, plain_file(tmp_path / name, FILTER="g", DETECTOR_ID=4), CAMERA)
    for part in (name, "LSST BUTLER DATAID DETECTOR", "DETNAME", "DET-ID", "CCDNUM", "file name", "_R22_S11_"):
        assert part in text


def test_detector_that_the_camera_lacks(tmp_path):
    text = message(read_flat_header, plain_file(tmp_path / "x_R22_S11_.fits", FILTER="g", DETECTOR=300), CAMERA)
    assert "DETECTOR is 300" in text
    assert "4 to 6" in text
    text = message(read_flat_header, plain_file(tmp_path / "y.fits", FILTER="g", DETNAME="R99_S00"), CAMERA)
    assert "DETNAME is R99_S00" in text


def test_id_and_name_of_different_detectors(tmp_path):
    path = plain_file(tmp_path / "x.fits", FILTER="g", DETNAME="R22_S11", DETECTOR=5)
    text = message(read_flat_header, path, CAMERA)
    assert "DETECTOR 5" in text
    assert "DETNAME R22_S11" in text


def test_flat_of_the_other_lsst_camera(tmp_path):
    path = plain_file(tmp_path / "x.fits", FILTER="g", DETECTOR=3, INSTRUME="LSSTComCam")
    assert "--camera lsstcomcam" in message(read_flat_header, path, lsstcam())
    # the camera is right, only the size is not
    assert "4072 x 4000" in message(read_flat_header, path, lsstcomcam())


def test_filter_rules(tmp_path):
    without = plain_file(tmp_path / "1.fits", DETECTOR=4, FILTER_ID=3)
    assert "--physical-filter" in message(read_flat_header, without, CAMERA)
    assert read_flat(without, CAMERA, physical_filter="z").physical_filter == "z"
    with_one = plain_file(tmp_path / "2.fits", DETECTOR=4, FILTER="r_57 ")
    assert read_flat_header(with_one, CAMERA)[1] == "r_57"
    assert read_flat_header(with_one, CAMERA, "r_57")[1] == "r_57"
    text = message(read_flat, with_one, CAMERA, physical_filter="z")
    assert "FILTER is r_57" in text
    assert "--physical-filter is z" in text


# ---- files that are no flats ----


def test_wrong_size_gives_both_sizes(tmp_path):
    path = plain_file(tmp_path / "x.fits", IMAGE[:, :-4], DETECTOR=4, FILTER="g")
    for read in (read_flat_header, read_flat):
        text = message(read, path, CAMERA)
        assert "60 x 50" in text
        assert "64 x 50" in text
        assert "--camera" in text
    cube = plain_file(tmp_path / "y.fits", IMAGE[None], DETECTOR=4, FILTER="g")
    assert "64 x 50 x 1" in message(read_flat, cube, CAMERA)


@pytest.mark.parametrize("content", [b"", b"not FITS at all\n" * 400])
def test_not_fits(tmp_path, content):
    (tmp_path / "x.fits").write_bytes(content)
    text = message(read_flat, tmp_path / "x.fits", CAMERA)
    assert "x.fits: cannot be read as FITS" in text


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in message(read_flat, tmp_path / "x.fits", CAMERA)
    assert "is a folder" in message(read_flat_header, tmp_path, CAMERA)


def test_a_product_is_no_flat(tmp_path):
    path = tmp_path / "flat_gradient.fits"
    FlatGradient([0.0, 100.0, 200.0], [1.0, 0.9, 0.5]).write(path)
    with pytest.raises(InputError, match="is a flat gradient, the product of a fit; a flat is needed"):
        read_flat(path, CAMERA)


def test_no_image(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("id", "J", array=np.arange(3))], name="IMAGE")
    only_mask = fits.ImageHDU(MASK, name="MASK")
    fits.HDUList([fits.PrimaryHDU(), table, only_mask]).writeto(tmp_path / "x.fits")
    assert "x.fits: there is no image" in message(read_flat, tmp_path / "x.fits", CAMERA)


@pytest.mark.parametrize("compressed", [False, True])
def test_file_truncated_anywhere(tmp_path, compressed):
    whole = lsst_file(tmp_path / "whole.fits", compressed=compressed, archive=False).read_bytes()
    with fits.open(tmp_path / "whole.fits") as hdus:
        end_of_mask = (
            hdus[2]._data_offset + hdus[2]._data_size if not compressed else hdus[2].fileinfo()["datLoc"] + 100
        )
    cut = tmp_path / "cut.fits"
    for length in (1000, 2880, 4000, 2880 * 3, 2880 * 4 + 100, end_of_mask - 10):
        cut.write_bytes(whole[:length])
        text = message(read_flat, cut, CAMERA)
        assert "cut.fits" in text


def test_truncation_is_called_so(tmp_path):
    path = plain_file(tmp_path / "x.fits", DETECTOR=4, FILTER="g")
    path.write_bytes(path.read_bytes()[:9000])
    assert "truncated" in message(read_flat, path, CAMERA)


def test_truncated_gzip(tmp_path):
    path = lsst_file(tmp_path / "x.fits.gz")
    path.write_bytes(path.read_bytes()[:6000])
    assert "x.fits.gz" in message(read_flat, path, CAMERA)


def test_damaged_mask_header_does_not_lose_the_mask(tmp_path):
    path = lsst_file(tmp_path / "x.fits", archive=False)
    content = path.read_bytes()
    assert content.count(b"XTENSION= 'IMAGE   '") == 3
    second = content.index(b"XTENSION", content.index(b"XTENSION") + 1)
    path.write_bytes(content[:second] + b"\0\xffRUBBISH" * 400 + content[second + 3600 :])
    assert "corrupted" in message(read_flat, path, CAMERA)
    path.write_bytes(content[:second] + content[second:].replace(b"BITPIX", b"BATPIX", 1))
    assert "HDU 2 has no BITPIX" in message(read_flat, path, CAMERA)


def test_rubbish_behind_the_last_hdu(tmp_path):
    path = plain_file(tmp_path / "x.fits", DETECTOR=4, FILTER="g")
    path.write_bytes(path.read_bytes() + b"XTENSION= 'IMAGE   '" + b"what is this" * 300)
    assert "x.fits" in message(read_flat, path, CAMERA)


def test_odd_cards_neither_warn_nor_fail(tmp_path, caplog):
    path = plain_file(tmp_path / "x.fits", DETECTOR=4, FILTER="g")
    content = path.read_bytes()
    assert b"FILTER  = 'g       '" in content
    path.write_bytes(content.replace(b"EXTEND  =                    T", b"ODD CARD WITHOUT VALUE        "))
    with caplog.at_level(logging.WARNING):
        flat = read_flat(path, CAMERA)
    np.testing.assert_array_equal(flat.image, IMAGE)
    assert not caplog.records


def test_flat_made_in_memory_is_checked():
    with pytest.raises(InputError, match="64 x 50"):
        Flat(IMAGE.T, None, CAMERA[4])
    with pytest.raises(InputError, match="boolean"):
        Flat(IMAGE, MASK, CAMERA[4])


# ---- finding files ----


def test_find_flats(tmp_path):
    names = ["b.fits", "a.fits.gz", "c.fits.fz", "d.fit", "e.FITS", "truth.json", "fits", ".f.fits", "g.fits.txt"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "z.fits").touch()
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "folder.fits" / "y.fits").touch()

    def found(*inputs):
        return [str(p.relative_to(tmp_path)) for p in find_flats(inputs)]

    folder = ["a.fits.gz", "b.fits", "c.fits.fz", "d.fit", "e.FITS"]
    assert found(tmp_path) == folder
    assert [p.name for p in find_flats(str(tmp_path))] == folder
    assert found(tmp_path / "b.fits", tmp_path, f"{tmp_path}/*.fits.?z", tmp_path / "below" / ".." / "b.fits") == folder
    assert found(f"{tmp_path}/[ab].fits*", f"{tmp_path}/belo?") == ["a.fits.gz", "b.fits", "below/z.fits"]
    assert found(tmp_path / "truth.json") == ["truth.json"]


def test_find_flats_takes_a_real_name_with_brackets(tmp_path):
    (tmp_path / "a[1].fits").touch()
    assert [p.name for p in find_flats([tmp_path / "a[1].fits"])] == ["a[1].fits"]


def test_find_flats_says_what_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").touch()
    assert "nothing.fits: no such file" in message(find_flats, [tmp_path / "nothing.fits"])
    assert "*.fit: the glob matches nothing" in message(find_flats, [f"{tmp_path}/*.fit"])
    assert "*.fits.fz" in message(find_flats, [tmp_path / "empty"])
    assert "no flats given" in message(find_flats, [])
