"""Correcting files of several detectors: every science image, and nothing else in the file."""

import gzip
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

from bayesflat.cli import run
from bayesflat.commands.apply import run_apply
from bayesflat.data.camera import Camera, Detector
from bayesflat.gradient.correction import compute_correction
from bayesflat.gradient.product import FlatGradient
from tests.helpers import complaint
from tests.mosaics import FILTER, NX, NY, decam_file, guide_hdu, image_hdu, pixels, primary_hdu, small_decam

CAMERA = small_decam()
SCIENCE = [d for d in CAMERA if d.is_science]
NODES = [0.0, 20.0, 35.0, 50.0]
META = {"FILTER": FILTER, "INSTRUME": "DECam"}
DOME = FlatGradient(NODES, [1.0, 0.95, 0.85, 0.7], gradient_x=2e-3, gradient_y=-1e-3, centroid_delta_x=0.7,
                    normalization_factor=15000.0, metadata=META)  # fmt: skip
SKY = FlatGradient(NODES, [1.0, 0.96, 0.83, 0.72], centroid_delta_y=-0.4, metadata=META)
CARDS = {"CPPGRAD", "CPPGRSUM", "CPPREF", "CPPRFSUM", "CPPBY"}
RICE = {"compression_type": "RICE_1", "quantize_level": 16.0, "dither_seed": 7}
COMPRESSIONS = {
    "none": None,
    "GZIP_1": {"compression_type": "GZIP_1", "quantize_level": 0.0, "tile_shape": (10, NX)},
    "RICE, dither 1": {**RICE, "quantize_method": 1},
    "RICE, dither 2": {**RICE, "quantize_method": 2},
    "HCOMPRESS": {"compression_type": "HCOMPRESS_1", "quantize_level": 16.0, "tile_shape": (NY, NX)},
}
# what says how an image is compressed, beside all that begins with Z
TABLE = ("NAXIS1", "PCOUNT", "TFIELDS", "TTYPE", "TFORM", "THEAP")


@pytest.fixture
def products(tmp_path):
    DOME.write(tmp_path / "dome_gradient.fits")
    SKY.write(tmp_path / "sky_gradient.fits")
    CAMERA.write(tmp_path / "camera.ecsv")
    return ["--gradient", tmp_path / "dome_gradient.fits", "--reference", tmp_path / "sky_gradient.fits",
            "--camera", tmp_path / "camera.ecsv"]  # fmt: skip


def apply(path, products, *options):
    """Correct a file into a folder of its own; its path there."""
    out = path.parent / "out"
    assert run([str(a) for a in ("apply", path, "-o", out, *products, *options, "-q")]) == 0
    return out / path.name


def raw_cards(header):
    """The cards as they lie in the file, without those that a correction may change."""
    new = (*CARDS, "BITPIX", "BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM")
    return [str(c) for c in header.cards if c.keyword not in new and not c.keyword.startswith((*TABLE, "Z"))]


def whole_hdus(path):
    """All HDUs with tables in place of compressed images, from a file that may be gzipped."""
    return fits.open(path, disable_image_compression=True)


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_science_image_is_corrected_and_nothing_else(tmp_path, products, compression, ending):
    path = decam_file(tmp_path / f"dome{ending}", compress=COMPRESSIONS[compression])
    target = apply(path, products)
    assert (target.read_bytes()[:2] == b"\x1f\x8b") == (ending == ".fits.gz")
    with fits.open(path) as before, fits.open(target) as after:
        assert (
            [h.name for h in before] == [h.name for h in after] == ["PRIMARY", "S29", "GN1", "S30", "N30", "N31", "FS3"]
        )
        for detector in SCIENCE:
            correction = compute_correction(detector, DOME, SKY)
            good = ~correction.nowhere
            assert good.mean() > 0.6
            ratio = after[detector.name].data / before[detector.name].data
            np.testing.assert_allclose(ratio[good], correction.factor[good], rtol=1e-6)
            assert np.all(np.isnan(ratio) == ~good)
    with whole_hdus(path) as before, whole_hdus(target) as after:
        for left, right in zip(before, after, strict=True):
            assert raw_cards(left.header) == raw_cards(right.header)
            assert type(left) is type(right)
            corrected = left.name in [d.name for d in SCIENCE]
            marked = CARDS & set(right.header)
            assert marked == (CARDS if corrected or left.name == "PRIMARY" else set())
    content, corrected = (p.read_bytes() for p in (path, target))
    if ending == ".fits.gz":
        content, corrected = gzip.decompress(content), gzip.decompress(corrected)
    with whole_hdus(path) as before, whole_hdus(target) as after:
        for name in ("GN1", "FS3"):  # byte by byte
            parts = [
                raw[h.fileinfo()["hdrLoc"] : h.fileinfo()["datLoc"] + h.fileinfo()["datSpan"]]
                for raw, h in ((content, before[name]), (corrected, after[name]))
            ]
            assert parts[0] == parts[1]


def test_the_number_of_corrected_flats_is_that_of_detectors(tmp_path, products, capsys):
    path = decam_file(tmp_path / "dome.fits")
    assert run([str(a) for a in ("apply", path, "-o", tmp_path / "out", *products)]) == 0
    assert "4 corrected flats" in capsys.readouterr().out
    found = run_apply([path], tmp_path / "more", products[1], products[3], camera=str(products[5]))
    assert found == {tmp_path / "more" / "dome.fits": 4}


def test_a_file_that_was_corrected_in_part_is_refused(tmp_path, products, capsys):
    target = apply(decam_file(tmp_path / "dome.fits"), products)
    again = ["apply", target, "-o", tmp_path / "again", *products]
    assert "dome.fits: was corrected before (card CPPGRSUM)" in complaint(again, capsys)
    with fits.open(target, mode="update") as hdus:
        for hdu in hdus[:-2]:
            hdu.header.remove("CPPGRSUM", ignore_missing=True)
    assert "was corrected before (card CPPGRSUM of HDU 5)" in complaint(again, capsys)
    assert not (tmp_path / "again").exists()


def test_an_image_that_cannot_be_told_is_refused_and_nothing_is_written(tmp_path, products, capsys):
    hdus = [primary_hdu(), *(image_hdu(d) for d in SCIENCE), fits.ImageHDU(pixels(9), name="LAMP")]
    path = decam_file(tmp_path / "dome.fits", hdus=hdus)
    command = ["apply", path, "-o", tmp_path / "out", *products]
    assert "dome.fits[LAMP]: the image names no detector of camera DECam" in complaint(command, capsys)
    hdus = [primary_hdu(), guide_hdu(), image_hdu(CAMERA[63])]
    path = decam_file(tmp_path / "focus.fits", hdus=hdus)
    command = ["apply", path, "-o", tmp_path / "out", *products]
    assert "focus.fits: none of its 1 detectors is a science detector of DECam" in complaint(command, capsys)
    assert not (tmp_path / "out").exists()


def test_masks_and_variances_of_each_detector(tmp_path, products):
    hdus, bits = [primary_hdu()], np.arange(NX * NY, dtype=np.int32).reshape(NY, NX) % 4
    for detector in SCIENCE:
        planes = fits.Header([("HIERARCH MP_BAD", 0), ("HIERARCH MP_NO_DATA", 5)])
        hdus += [image_hdu(detector), fits.ImageHDU(bits, planes, name="MASK"),
                 fits.ImageHDU(pixels(9), name="VARIANCE")]  # fmt: skip
    target = apply(decam_file(tmp_path / "dome.fits", hdus=hdus), products)
    with fits.open(target) as after:
        for number, detector in enumerate(SCIENCE):
            correction = compute_correction(detector, DOME, SKY)
            good = ~correction.nowhere
            image, mask, variance = (after[1 + 3 * number + k].data for k in range(3))
            np.testing.assert_allclose(image[good], (pixels(detector.id) * correction.factor)[good], rtol=1e-6)
            np.testing.assert_allclose(variance[good], (pixels(9) * correction.factor**2)[good], rtol=1e-6)
            np.testing.assert_array_equal(mask, bits | np.where(good, 0, 32))
            assert np.all(image[~good] == 0)
            assert np.all(variance[~good] == 0)


def test_ccddata_with_standard_deviation_and_plain_mask(tmp_path, products):
    detector = SCIENCE[3]
    mask = np.zeros((NY, NX), bool)
    mask[3, 4] = True
    header = dict(primary_hdu(cards=[("CCDNUM", 62)]).header[4:])
    ccd = CCDData(pixels(62), uncertainty=StdDevUncertainty(pixels(9)), mask=mask, unit="adu", meta=header)
    ccd.write(tmp_path / "ccd.fits")
    target = apply(tmp_path / "ccd.fits", products)
    found = CCDData.read(target)
    correction = compute_correction(detector, DOME, SKY)
    good = ~correction.nowhere
    np.testing.assert_allclose(found.data[good], (pixels(62) * correction.factor)[good], rtol=1e-6)
    np.testing.assert_allclose(found.uncertainty.array[good], (pixels(9) * correction.factor)[good], rtol=1e-6)
    np.testing.assert_array_equal(found.mask, mask | ~good)
    assert np.all(np.isnan(found.data[~good]))


@pytest.mark.parametrize("compression", [None, {"compression_type": "RICE_1"}])
def test_integers_become_floats_without_loss(tmp_path, products, compression):
    """BITPIX and BZERO change, blank pixels stay blank."""
    detector = SCIENCE[0]
    data = np.round(pixels(1)).astype(np.uint16)
    data[7, 9] = 0
    hdu = image_hdu(detector, data=data, compress=compression)
    hdu.header["BLANK"] = -32768  # as stored: 0 - BZERO
    path = decam_file(tmp_path / "dome.fits", hdus=[primary_hdu(), hdu, image_hdu(CAMERA[2])])
    correction = compute_correction(detector, DOME, SKY)
    good = ~correction.nowhere
    assert good[7, 9]
    with fits.open(apply(path, products)) as after:
        found = after["S29"]
        assert found.data.dtype.newbyteorder("=") == np.float32
        assert not {"BLANK", "BZERO", "BSCALE"} & set(found.header)
        assert np.argwhere(np.isnan(found.data) & good).tolist() == [[7, 9]]
        good[7, 9] = False
        np.testing.assert_allclose(found.data[good], (data * correction.factor)[good], rtol=1e-6)


def test_only_the_trimmed_part_of_an_untrimmed_image_is_corrected(tmp_path, products):
    detector = SCIENCE[1]
    data = np.full((NY + 9, NX + 12), 7.0, np.float32)
    data[3 : 3 + NY, 5 : 5 + NX] = pixels(2)
    hdu = image_hdu(detector, data=data, cards=[("DATASEC", f"[6:{5 + NX},4:{3 + NY}]")])
    path = decam_file(tmp_path / "dome.fits", hdus=[primary_hdu(), hdu])
    correction = compute_correction(detector, DOME, SKY)
    good = ~correction.nowhere
    with fits.open(apply(path, products)) as after:
        found = after["S30"].data
        part = found[3 : 3 + NY, 5 : 5 + NX]
        np.testing.assert_allclose(part[good], (pixels(2) * correction.factor)[good], rtol=1e-6)
        assert found.sum(where=np.isfinite(found)) - part[good].sum() == pytest.approx(7.0 * (data.size - NX * NY))


def test_products_of_another_instrument(tmp_path, products, capsys):
    primary = primary_hdu()
    primary.header["INSTRUME"] = "Hyper Suprime-Cam"
    path = decam_file(tmp_path / "dome.fits", hdus=[primary, image_hdu(SCIENCE[0])])
    CAMERA.write(tmp_path / "camera.ecsv")
    table = (tmp_path / "camera.ecsv").read_text()
    (tmp_path / "camera.ecsv").write_text(table.replace("INSTRUME: DECam", "INSTRUME: HSC"))
    text = complaint(["apply", path, "-o", tmp_path / "out", *products], capsys)
    assert "the instruments differ: DECam and HSC" in text
    (tmp_path / "camera.ecsv").write_text(table)
    text = complaint(["apply", path, "-o", tmp_path / "out", *products], capsys)
    assert "is of Hyper Suprime-Cam, the camera is DECam; --camera hsc takes it" in text


ODD_CARDS = [
    "EXPTIME =            1.50000E+01 / [s] another format",
    "HIERARCH ESO DET CHIP LONG = 'a value that goes on and on and on and so&'",
    "CONTINUE  'on, and ends here' / with a comment",
    "HIERARCH ESO INS FILT1 ID = 'ESO#844 '    / a short one",
    "LONGSTR = 'more than sixty-eight characters, which is what one card can hold o&'",
    "CONTINUE  'f a text'",
    "TRAIL   = 'x       '           / blanks",
    "SPEC    = 'it''s'",
    "NOVALUE =",
    "COMMENT one",
    "HISTORY two",
    "COMMENT three",
]


@pytest.mark.parametrize("compression", ["none", "GZIP_1"])
def test_cards_of_any_kind_stay_as_they_are(tmp_path, products, compression):
    path = decam_file(tmp_path / "dome.fits", compress=COMPRESSIONS[compression])
    content = path.read_bytes()
    with whole_hdus(path) as hdus:
        places = [(hdu.fileinfo()["hdrLoc"], hdu.fileinfo()["datLoc"]) for hdu in hdus[:2]]
    for start, end in reversed(places):
        cards = [content[k : k + 80] for k in range(start, end, 80)]
        cards = cards[: cards.index(b"END".ljust(80))] + [card.ljust(80).encode() for card in (*ODD_CARDS, "END")]
        header = b"".join(cards)
        content = content[:start] + header.ljust(-(-len(header) // 2880) * 2880) + content[end:]
    path.write_bytes(content)
    after = apply(path, products).read_bytes()
    for start in (0, after.index(b"XTENSION")):
        cards = [after[k : k + 80].decode("latin-1").rstrip() for k in range(start, start + 80 * 80, 80)]
        cards = cards[: cards.index("END")]
        # our own cards come before the comments at the end
        assert [card for card in cards if card in ODD_CARDS or not card[:3].strip()] == ODD_CARDS


def test_checksums_are_right_again(tmp_path, products):
    hdus = [primary_hdu(), *(image_hdu(d) for d in SCIENCE[:2]), image_hdu(SCIENCE[2], compress=COMPRESSIONS["GZIP_1"])]
    path = tmp_path / "dome.fits"
    fits.HDUList(hdus).writeto(path, checksum=True)
    with fits.open(apply(path, products), disable_image_compression=True) as after:
        assert [(hdu.verify_checksum(), hdu.verify_datasum()) for hdu in after] == [(1, 1)] * 4


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
def test_one_detector_in_memory_at_a_time(tmp_path, products, ending):
    side = 700
    shape = {"nx": side, "ny": side, "pixel_size": 0.01, "refpos_x": 0.0, "refpos_y": 0.0}
    camera = Camera("DECam", [Detector(k, f"C{k}", "X", "science", 4.0 * k, 0.0, 0.0, **shape) for k in range(12)])
    camera.write(tmp_path / "camera.ecsv")
    hdus = [primary_hdu(), *(image_hdu(d, np.ones((side, side), np.float32)) for d in camera)]
    path = decam_file(tmp_path / f"dome{ending}", hdus=hdus)
    del hdus
    tracemalloc.start()
    target = apply(path, products)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with fits.open(target) as after:
        assert len(after) == 13
    assert peak < 6 * 4 * side**2 + 2**23  # of 12 images; and what is copied at a time, in and out


def test_an_image_that_was_compressed_as_a_primary_hdu(tmp_path, products, capsys):
    """As fpack does it; funpack drops HDU 0, so that the image must have the cards too."""
    primary = primary_hdu(pixels(1), [("CCDNUM", 1)])
    packed = fits.CompImageHDU(primary.data, primary.header, **COMPRESSIONS["RICE, dither 1"])
    assert "SIMPLE" in packed.header
    path = decam_file(tmp_path / "dome.fits.fz", hdus=[fits.PrimaryHDU(), packed])
    correction = compute_correction(SCIENCE[0], DOME, SKY)
    good = ~correction.nowhere
    target = apply(path, products)
    with fits.open(path) as before, fits.open(target) as after:
        np.testing.assert_allclose(after[1].data[good] / before[1].data[good], correction.factor[good], rtol=1e-6)
        fits.PrimaryHDU(after[1].data, after[1].header).writeto(tmp_path / "unpacked.fits")
    with whole_hdus(target) as after:
        assert not {"ZQUANTIZ", "ZDITHER0"} & set(after[1].header)  # nothing is quantised any more
    again = ["apply", tmp_path / "unpacked.fits", "-o", tmp_path / "again", *products]
    assert "was corrected before" in complaint(again, capsys)
