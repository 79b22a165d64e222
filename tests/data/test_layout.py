"""Files of several detectors: every image is read as the detector that its header names, or refused by name."""

import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.binning import bin_files, bin_flat
from bayesflat.data.camera import Camera, Detector, lsstcam
from bayesflat.data.flats import Flat, read_flat, read_flat_header, read_flats
from bayesflat.stages import watched_by
from tests.helpers import Watching, message
from tests.mosaics import FILTER, NX, NY, SHAPE, decam_file, guide_hdu, image_hdu, pixels, primary_hdu, small_decam

CAMERA = small_decam()
SCIENCE = [1, 2, 61, 62]
RICE = {"compression_type": "RICE_1", "quantize_level": 16.0, "dither_seed": 7}
COMPRESSIONS = {
    "none": None,
    "GZIP_2": {"compression_type": "GZIP_2", "quantize_level": 0.0},
    "RICE, dither 1": {**RICE, "quantize_method": 1},
    "RICE, dither 2": {**RICE, "quantize_method": 2},
}


def flats_in(path, camera=CAMERA, **options):
    return {flat.detector.id: flat for flat in read_flats(path, camera, **options)}


# ---- which image is which detector's ----


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_detector_of_a_file_is_read(tmp_path, compression, ending):
    path = decam_file(tmp_path / f"dome{ending}", compress=COMPRESSIONS[compression])
    flats = flats_in(path, Camera("DECam", [d for d in CAMERA if d.is_science]))
    assert list(flats) == SCIENCE
    loss = 15.0 if compression.startswith("RICE") else 0.0  # a scaled integer is a sixteenth of the scatter, 200 here
    for number, flat in flats.items():
        assert np.abs(flat.image - pixels(number)).max() <= 200 * loss / 15
        assert (flat.physical_filter, flat.instrument, flat.bad) == (FILTER, "DECam", None)
        assert flat.path == f"{path}[{CAMERA[number].name}]"


def test_bins_of_a_file_are_those_of_its_detectors_one_by_one(tmp_path):
    path = decam_file(tmp_path / "dome.fits", compress=COMPRESSIONS["GZIP_2"])
    alone = []
    for number in SCIENCE:
        alone.append(tmp_path / f"{number}.fits")
        fits.HDUList([primary_hdu(), image_hdu(CAMERA[number])]).writeto(alone[-1])
    expected = [bin_flat(Flat(pixels(number), None, CAMERA[number]), (), 8, 1) for number in SCIENCE]
    for paths, processes in (([path], 1), ([path], 2), (alone, 1)):
        binned = bin_files(paths, CAMERA, bin_factor=8, detector_boundary=1, processes=processes)
        np.testing.assert_array_equal(np.unique(binned.detector), SCIENCE)
        np.testing.assert_array_equal(binned.value, np.concatenate([part["value"] for part in expected]))
        np.testing.assert_array_equal(binned.xf, np.concatenate([part["xf"] for part in expected]))
        assert (binned.physical_filter, binned.instrument) == (FILTER, "DECam")


def test_progress_counts_detectors(tmp_path):
    path, watching = decam_file(tmp_path / "dome.fits"), Watching()
    with watched_by(watching):
        bin_files([path], CAMERA, bin_factor=8)
    assert watching.stages == [("binning", 5)]  # with the focus CCD, which is skipped
    assert watching.done == [5]


def test_the_primary_may_hold_a_detector_too(tmp_path):
    first = primary_hdu(pixels(1), [("CCDNUM", 1)])
    path = decam_file(tmp_path / "dome.fits", hdus=[first, image_hdu(CAMERA[62]), image_hdu(CAMERA[2])])
    flats = flats_in(path)
    assert list(flats) == [1, 62, 2]
    for number, flat in flats.items():
        np.testing.assert_array_equal(flat.image, pixels(number))
    # one that names no detector is not passed over
    plain = decam_file(tmp_path / "plain.fits", hdus=[primary_hdu(pixels(1)), *map(image_hdu, list(CAMERA)[:2])])
    assert "plain.fits[0]: the image names no detector of camera DECam" in message(flats_in, plain)


def test_cards_of_the_primary_and_the_file_name_say_nothing_of_each_image(tmp_path):
    hdus = [primary_hdu(cards=[("CCDNUM", 1)]), image_hdu(CAMERA[61]), fits.ImageHDU(pixels(5), name="EXTRA")]
    path = decam_file(tmp_path / "dome_S29_g.fits", hdus=hdus)
    text = message(flats_in, path)
    assert "dome_S29_g.fits[EXTRA]: the image names no detector" in text
    assert "CCDNUM, DETPOS" in text
    assert "--detector-key" in text


def test_a_single_image_of_a_file_is_what_its_own_header_says(tmp_path):
    """As when it was cut out of a larger file, whose primary header it has kept."""
    path = decam_file(tmp_path / "dome.fits", hdus=[primary_hdu(cards=[("CCDNUM", 1)]), image_hdu(CAMERA[61])])
    assert read_flat_header(path, CAMERA)[0].id == 61
    np.testing.assert_array_equal(read_flat(path, CAMERA).image, pixels(61))


def test_contradictions_are_refused(tmp_path):
    hdus = [primary_hdu(), image_hdu(CAMERA[1]), image_hdu(CAMERA[2], cards=[("CCDNUM", 61)])]
    text = message(flats_in, decam_file(tmp_path / "a.fits", hdus=hdus))
    assert "a.fits[S30]: CCDNUM 61 and DETPOS S30 are different detectors" in text
    hdus = [primary_hdu(), image_hdu(CAMERA[1]), image_hdu(CAMERA[1], name="again")]
    text = message(flats_in, decam_file(tmp_path / "b.fits", hdus=hdus))
    assert "b.fits[AGAIN]: detector 1 (S29) is also in" in text
    hdus = [primary_hdu(), image_hdu(CAMERA[1]), image_hdu(CAMERA[2], cards=[("CCDNUM", 99), ("DETPOS", "X1")])]
    assert "c.fits[S30]: CCDNUM is 99" in message(flats_in, decam_file(tmp_path / "c.fits", hdus=hdus))
    hdus = [primary_hdu(), image_hdu(CAMERA[1]), image_hdu(CAMERA[2], cards=[("FILTER", "r")])]
    mixed = decam_file(tmp_path / "d.fits", hdus=hdus)
    assert "its filter is r" in message(bin_files, [mixed], CAMERA, bin_factor=8)


def test_one_flat_is_not_any_of_several(tmp_path):
    path = decam_file(tmp_path / "dome.fits")
    for read in (read_flat, read_flat_header):
        assert "holds 5 detectors; read_flats reads them one by one" in message(read, path, CAMERA)


def test_size_of_each_science_detector_is_checked(tmp_path):
    hdus = [primary_hdu(), image_hdu(CAMERA[1]), image_hdu(CAMERA[2], data=np.ones((NY, NX - 4), np.float32))]
    hdus[2].header.remove("TRIMSEC")
    hdus[2].header.remove("DATASEC")
    text = message(flats_in, decam_file(tmp_path / "dome.fits", hdus=hdus))
    assert "dome.fits[S30]: the image has 60 x 50 pixels, detector S30 of the camera 64 x 50" in text


def test_wavefront_detectors_of_half_the_size(tmp_path):
    """LSSTCam's, four times coarser and more: read as what they are, and fitted only where asked for."""
    keys = ("R22_S11", "R00_SW0", "R00_SG0")
    camera = Camera("LSSTCam", [lsstcam()[key].coarsened(100) for key in keys])
    hdus = [fits.PrimaryHDU(header=fits.Header([("INSTRUME", "LSSTCam"), ("FILTER", "i_39")]))]
    for number, detector in enumerate(camera):
        data = np.full((detector.ny, detector.nx), 10.0 + number, np.float32)
        cards = [("RAFTBAY", detector.name[:3]), ("CCDSLOT", detector.name[4:])]
        hdus.append(fits.ImageHDU(data, fits.Header(cards)))
    path = decam_file(tmp_path / "raft.fits", hdus=hdus)
    binned = bin_files([path], camera, bin_factor=5, detector_boundary=0)
    assert set(binned.detector) == {94}
    binned = bin_files([path], camera, bin_factor=5, detector_boundary=0, use_non_science=True)
    counts = dict(zip(*np.unique(binned.detector, return_counts=True), strict=True))
    assert counts == {94: 64, 189: 64, 191: 32}
    assert set(binned.value[binned.detector == 191]) == {11.0}


def test_one_detector_in_memory_at_a_time(tmp_path):
    side = 500
    shape = {"nx": side, "ny": side, "pixel_size": 0.01, "refpos_x": 0.0, "refpos_y": 0.0}
    camera = Camera("Mosaic", [Detector(k, f"C{k}", "X", "science", 10.0 * k, 0.0, 0.0, **shape) for k in range(12)])
    hdus = [fits.PrimaryHDU(header=fits.Header([("FILTER", "g")]))]
    hdus += [fits.ImageHDU(np.full((side, side), 1.0 + k, np.float32), name=f"C{k}") for k in range(12)]
    path = decam_file(tmp_path / "many.fits", hdus=hdus)
    del hdus
    bin_files([path], camera, bin_factor=100)  # what is imported on the way
    tracemalloc.start()
    binned = bin_files([path], camera, bin_factor=100, detector_boundary=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(binned.value) == set(range(1, 13))
    assert peak < 4 * 4 * side**2  # of 12 images


# ---- masks ----


def planes(number, bit=3):
    mask = np.zeros((NY, NX), np.int16)
    mask[number % 10, 1] = 1 << bit
    mask[number % 10, 2] = 1 << bit + 1
    return mask


def mask_hdu(number, name="MASK", version=None, cards=(("HIERARCH MP_NO_DATA", 3), ("MP_SAT", 4))):
    return fits.ImageHDU(planes(number), fits.Header(cards), name=name, ver=version)


def test_masks_follow_their_images(tmp_path):
    hdus = [primary_hdu()]
    for number in SCIENCE:
        hdus += [image_hdu(CAMERA[number]), mask_hdu(number), fits.ImageHDU(pixels(9), name="VARIANCE")]
    hdus += [guide_hdu()]
    flats = flats_in(decam_file(tmp_path / "dome.fits", hdus=hdus))
    assert list(flats) == SCIENCE
    for number, flat in flats.items():
        assert np.argwhere(flat.bad).tolist() == [[number % 10, 1]]


def test_masks_by_version_and_by_detector(tmp_path):
    order = [2, 62, 1, 61]
    images = [image_hdu(CAMERA[number], name="SCI") for number in SCIENCE]
    for version, image in enumerate(images, start=1):
        image.ver = version
    masks = [mask_hdu(number, "DQ", 1 + SCIENCE.index(number)) for number in order]
    flats = flats_in(decam_file(tmp_path / "version.fits", hdus=[primary_hdu(), *images, *masks]))
    assert {k: np.argwhere(flat.bad).tolist() for k, flat in flats.items()} == {k: [[k % 10, 1]] for k in SCIENCE}
    masks = [mask_hdu(k, f"{CAMERA[k].name}_MASK", cards=[("CCDNUM", k), ("HIERARCH MP_NO_DATA", 4)]) for k in order]
    flats = flats_in(decam_file(tmp_path / "own.fits", hdus=[primary_hdu(), *map(image_hdu, list(CAMERA)[:4]), *masks]))
    assert {k: np.argwhere(flat.bad).tolist() for k, flat in flats.items()} == {k: [[k % 10, 2]] for k in SCIENCE}


def test_a_mask_that_may_be_any_detectors_is_refused(tmp_path):
    hdus = [primary_hdu(), image_hdu(CAMERA[1]), image_hdu(CAMERA[2]), mask_hdu(1)]
    assert "[MASK]: it cannot be told which detector's it is" in message(
        flats_in, decam_file(tmp_path / "a.fits", hdus=hdus)
    )
    assert "[MASK]: it cannot be told" in message(flats_in, decam_file(tmp_path / "b.fits", hdus=[*hdus, mask_hdu(2)]))


# ---- cameras that are not in the table ----


def test_a_camera_of_a_table_by_extname_and_by_a_key_that_is_named(tmp_path):
    camera = Camera("KMT", [Detector(k, name, "e2v", "science", 40.0 * k, 0.0, 0.0, **SHAPE) for k, name in
                            enumerate("KMTN")])  # fmt: skip
    primary = fits.PrimaryHDU(header=fits.Header([("INSTRUME", "KMTS"), ("FILTER", "I")]))
    named = [fits.ImageHDU(pixels(k), name=name) for k, name in enumerate("KMTN")]
    flats = flats_in(decam_file(tmp_path / "name.fits", hdus=[primary, *named]), camera)
    assert list(flats) == [0, 1, 2, 3]
    np.testing.assert_array_equal(flats[2].image, pixels(2))
    chips = [fits.ImageHDU(pixels(k), fits.Header([("CHIP", k), ("DETECTOR", 0)])) for k in (3, 1)]
    path = decam_file(tmp_path / "key.fits", hdus=[primary, *chips])
    assert list(flats_in(path, camera, detector_key="CHIP")) == [3, 1]
    assert "looked for CHIPS in its header" in message(flats_in, path, camera, detector_key="CHIPS")
    pairs = [fits.ImageHDU(pixels(k), fits.Header([("ROW", "A"), ("COL", k)])) for k in (1, 2)]
    path = decam_file(tmp_path / "pair.fits", hdus=[primary, *pairs])
    camera = Camera("KMT", [Detector(k, f"A_{k}", "e2v", "science", 0.0, 40.0 * k, 0.0, **SHAPE) for k in (2, 1)])
    assert list(flats_in(path, camera, detector_key="ROW+COL")) == [1, 2]
