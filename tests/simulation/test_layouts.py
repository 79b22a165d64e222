"""Simulated flats of any camera: the light scales with it, and the files are as that camera's are."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.binning import bin_files
from bayesflat.data.camera import Camera, decam, hsc, lsstcam, lsstcomcam
from bayesflat.data.flats import find_flats
from bayesflat.simulation.detectors import SimulatedDetectors
from bayesflat.simulation.flats import detector_image, write_simulation
from bayesflat.simulation.truth import Light, Noise, band_of, default_filter, default_light, light_scale
from tests.helpers import message

NOISE = Noise(white=5e-4, detector_scatter=0.01, dead_columns=1)

# ---- the light ----


@pytest.mark.parametrize("kind", ["sky", "dome"])
def test_light_of_a_smaller_camera_is_a_smaller_copy(kind):
    whole, half = default_light(kind, "r"), default_light(kind, "r", 0.5)
    x, y = np.random.default_rng(1).uniform(-250, 250, (2, 500))
    np.testing.assert_allclose(half.evaluate(x / 2, y / 2, True), whole.evaluate(x, y, True), rtol=1e-13)
    assert half.outer_gradient_radius == 162.5
    assert half.radial_function(184.1) == pytest.approx(0, abs=1e-15)  # dark beyond 368 mm


def test_given_nodes_are_in_mm_whatever_the_scale():
    light = Light(radial=([0.0, 10.0, 20.0], [1.0, 0.8, 0.5]), bend=-0.1, scale=0.1)
    np.testing.assert_allclose(light.radial_function([10.0, 20.0, 30.0]),
                               [0.8 * (1 - 0.1 * (10 / 35) ** 2)] + [0.5 * (1 - 0.1 * (20 / 35) ** 2)] * 2)  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scale_must_be_positive(scale):
    assert message(Light, scale=scale).endswith(f"must be above 0; they are 1, 20000, {scale:g}")


def test_scales_and_filters():
    # LSSTComCam sat on the telescope that LSSTCam sits on
    assert light_scale(lsstcam()) == light_scale(lsstcomcam()) == 1.0
    assert light_scale(decam()) == decam().scale < 0.65
    filters = [default_filter(camera()) for camera in (lsstcam, lsstcomcam, decam, hsc)]
    assert filters == ["i_39", "i_06", "i DECam SDSS c0003 7835.0 1470.0", "HSC-I"]
    assert [band_of(name) for name in (*filters, "Y DECam c0005 10095.0 1130.0", "HSC-R2")] == [*"iiiiyr"]


def test_decam_is_lit_to_its_corners():
    detectors = SimulatedDetectors(decam(), Noise.none(), 1)
    image = detector_image(detectors, default_light("sky", "i", decam().scale), "S7", coarse=16)
    assert not np.any(image.mask & (1 << 8))
    # half of the light at the outermost corner, as at LSSTCam's 350 mm
    assert image.image.min() / 5000 == pytest.approx(0.5, abs=0.01)
    radius = np.hypot(*image.detector.pixel_to_focal_plane(np.arange(128), np.arange(256)[:, None]))
    assert np.array_equal(image.mask & (1 << 10) != 0, radius > 317 * decam().scale)


# ---- files ----


def simulated(folder, camera, **options):
    write_simulation(folder, camera=camera, kind="dome", coarse=16, seed=2, noise=NOISE, **options)
    return sorted((folder / "flats").iterdir())


@pytest.mark.parametrize("compress", [False, True])
def test_decam_files(tmp_path, compress):
    camera = decam().subset(["N4", "S29", "N31"])
    singles = simulated(tmp_path / "one", camera, compress=compress)
    (whole,) = simulated(tmp_path / "mef", camera, compress=compress, mef=True, processes=2)
    assert whole.name == "DECam_i_DECam_SDSS_c0003_7835.0_1470.0_dome.fits"
    with fits.open(whole) as hdus:
        hdus.verify("exception")
        assert hdus[0].header["INSTRUME"] == "DECam"
        assert hdus[0].header["FILTER"] == "i DECam SDSS c0003 7835.0 1470.0"
        assert [(h.name, h.header["CCDNUM"], h.header["DETPOS"]) for h in hdus[1:]] == [
            ("N4", 35, "N4"), ("S29", 1, "S29"), ("N31", 62, "N31"),
        ]  # fmt: skip
        detectors = SimulatedDetectors(camera, NOISE, 2)
        light = default_light("dome", "i", decam().scale)
        for hdu in hdus[1:]:
            image = detector_image(detectors, light, hdu.name, kind="dome", coarse=16)
            assert np.array_equal(hdu.data, image.image, equal_nan=True)
            (single,) = (path for path in singles if f"_{hdu.name}_" in path.name)
            with fits.open(single) as alone:
                assert len(alone) == 2
                assert alone[0].header == hdus[0].header
                assert alone[1].header == hdu.header
                assert np.array_equal(alone[1].data, hdu.data, equal_nan=True)


def test_hsc_files(tmp_path):
    camera = hsc().subset([49, 102])
    paths = simulated(tmp_path / "one", camera)
    assert [path.name for path in paths] == ["HSC_HSC-I_0_12_dome.fits", "HSC_HSC-I_0_35_dome.fits"]
    for path, number in zip(paths, (49, 102), strict=True):
        with fits.open(path) as hdus:
            (hdu,) = hdus
            assert (hdu.header["INSTRUME"], hdu.header["FILTER01"]) == ("Hyper Suprime-Cam", "HSC-I")
            assert (hdu.header["DET-ID"], hdu.data.shape) == (number, (261, 128))


CAMERAS = {
    # across 350 mm, where pixels are dark
    "lsstcam": lsstcam().subset(["R01_S00", "R43_S22", "R22_S11"]),
    "lsstcomcam": lsstcomcam().subset([4]),
    "decam": decam().subset(["N4", "S29"]),
    "hsc": hsc().subset([49, 102]),
    "table": Camera("Own", [replace(d, id=d.id + 7, name=f"D{d.id}") for d in decam().subset(["N4", "S29"])]),
}


@pytest.mark.parametrize("camera", CAMERAS)
def test_one_file_and_many_are_the_same_flat(tmp_path, camera):
    camera = CAMERAS[camera]
    binned = []
    for name, options in (("one", {}), ("mef", {"mef": True}), ("packed", {"mef": True, "compress": True})):
        paths = simulated(tmp_path / name, camera, **options)
        assert len(paths) == (len(camera) if name == "one" else 1)
        small = Camera.read(tmp_path / name / "camera.ecsv")
        binned.append(bin_files(find_flats(paths), small, bin_factor=8, detector_boundary=1))
        # in any order of detectors
        order = np.lexsort((binned[-1].yf, binned[-1].xf, binned[-1].detector))
        binned[-1] = binned[-1].select(order)
    one, *others = binned
    assert set(one.detector) == {d.id for d in camera}
    for other in others:
        for column in ("detector", "xf", "yf", "n_pixels"):
            np.testing.assert_array_equal(getattr(other, column), getattr(one, column))
        np.testing.assert_allclose(other.value, one.value, rtol=1e-12)
        assert (other.physical_filter, other.instrument) == (one.physical_filter, one.instrument)
