"""Files of a simulation, against the truth and the images that they are made of."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayesflat.data.camera import Camera, lsstcam
from bayesflat.errors import InputError
from bayesflat.simulation.detectors import SimulatedDetectors
from bayesflat.simulation.flats import simulate_focal_plane, write_simulation
from bayesflat.simulation.truth import Light, Noise, default_light
from bayesflat.stages import watched_by
from tests.helpers import Watching


@pytest.fixture(scope="module")
def written(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("simulation") / "dome"
    truth = write_simulation(folder, kind="dome", coarse=16, seed=9, camera=few, physical_filter="r_57")
    return folder, truth


def test_flats_are_laid_out_as_lsst_does(written, few):
    folder, _ = written
    names = sorted(path.name for path in (folder / "flats").iterdir())
    assert names == sorted(f"LSSTCam_r_57_{d.name}_dome.fits" for d in few)
    images = simulate_focal_plane(few, default_light("dome", "r_57"), Noise.for_band("r"), 9, kind="dome", coarse=16)
    for image in images:
        with fits.open(folder / "flats" / f"LSSTCam_r_57_{image.detector.name}_dome.fits") as hdus:
            header = hdus[0].header
            assert hdus[0].data is None
            assert header["LSST BUTLER DATAID DETECTOR"] == image.detector.id
            assert header["LSST BUTLER DATAID PHYSICAL_FILTER"] == header["FILTER"] == "r_57"
            assert header["LSST BUTLER DATAID INSTRUMENT"] == header["INSTRUME"] == "LSSTCam"
            assert [hdu.name for hdu in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
            assert np.array_equal(hdus["IMAGE"].data, image.image, equal_nan=True)
            assert np.array_equal(hdus["VARIANCE"].data, image.variance)
            assert np.array_equal(hdus["MASK"].data, image.mask)
            assert (hdus["IMAGE"].header["BITPIX"], hdus["MASK"].header["BITPIX"]) == (-32, 32)
            bits = {key[3:]: value for key, value in hdus["MASK"].header.items() if key.startswith("MP_")}
            assert (bits["BAD"], bits["NO_DATA"], bits["DETECTED_NEGATIVE"], bits["PARTLY_VIGNETTED"]) == (0, 8, 6, 10)
            assert len(bits) == 11


def test_defect_tables_cover_the_dead_columns(written, few):
    folder, _ = written
    detectors = SimulatedDetectors(few, Noise.for_band("r"), 9)
    for detector in few:
        ending = "ecsv" if detector.id % 2 else "fits"
        table = Table.read(folder / "defects" / f"{detector.name}.{ending}")
        assert (table.meta["DETECTOR"], table.meta["DET_NAME"]) == (detector.id, detector.name)
        if ending == "ecsv":
            boxes = [tuple(row) for row in table["x0", "y0", "width", "height"]]
        else:
            assert {str(shape).strip() for shape in table["SHAPE"]} == {"BOX"}
            low = [np.floor(table[c] - 1 - table["R"][:, i] / 2 + 1).astype(int) for i, c in enumerate("XY")]
            boxes = list(zip(*low, *table["R"].T.astype(int), strict=True))
        assert boxes == [tuple(box) for box in detectors.defects(detector.id, 16)]
        with fits.open(folder / "flats" / f"LSSTCam_r_57_{detector.name}_dome.fits") as hdus:
            for number, (x0, y0, width, height) in enumerate(boxes):
                pixels = hdus["IMAGE"].data[y0 : y0 + height, x0 : x0 + width]
                alive = hdus["MASK"].data[y0 : y0 + height, x0 : x0 + width] & (1 << 8) == 0
                assert np.all(np.isnan(pixels[alive]) if number % 3 else pixels[alive] == 0)


def test_truth_is_what_the_response_gives(written, few):
    folder, returned = written
    truth = json.loads((folder / "truth.json").read_text())
    assert truth == json.loads(json.dumps(returned))
    detectors = SimulatedDetectors(few, Noise.for_band("r"), 9)
    itl, rest = ([detectors.throughput(d.id) for d in few if d.is_itl == group] for group in (True, False))
    assert truth["itl_ratio"] == pytest.approx(0.937 * np.mean(itl) / np.mean(rest), rel=1e-12)
    assert truth["detector_throughput"]["94"] == detectors.throughput(94)
    assert (truth["centroid_delta_x"], truth["gradient_y"]) == (0.8, -2e-5)
    assert (truth["kind"], truth["seed"], truth["level"]) == ("dome", 9, 20000.0)
    radius, value = (np.array(truth["radial_function"][key]) for key in ("radius", "value"))
    assert np.array_equal(radius, np.arange(0, 351, 5))
    assert value[60] == pytest.approx(0.937 * (1 - 0.005 * (300 / 350) ** 2) * np.mean(rest), rel=1e-12)
    # the same in the pixels: a detector's mean over the light is its throughput
    with fits.open(folder / "flats" / "LSSTCam_r_57_R22_S11_dome.fits") as hdus:
        image = hdus["IMAGE"].data.astype(float)
    small = Camera.read(folder / "camera.ecsv")["R22_S11"]
    xf, yf = small.pixel_to_focal_plane(np.arange(small.nx), np.arange(small.ny)[:, None])
    ratio = image / default_light("dome", "r_57").evaluate(xf, yf, False) / 20000.0
    alive = np.isfinite(ratio) & (ratio > 0.5)
    assert ratio[alive].mean() == pytest.approx(truth["detector_throughput"]["94"], abs=1e-4)


def test_camera_table_fits_the_images(written, few):
    camera = Camera.read(written[0] / "camera.ecsv")
    assert list(camera) == list(few.coarsened(16))


def test_sky_and_dome_files_share_their_detectors(written, few, tmp_path):
    truth = write_simulation(tmp_path / "sky", kind="sky", coarse=16, seed=9, camera=few, physical_filter="r_57")
    assert truth["detector_throughput"] == written[1]["detector_throughput"]
    assert truth["gradient_x"] == 0.0
    for name in ("R22_S11.fits", "R22_S12.ecsv"):
        assert (tmp_path / "sky/defects" / name).read_bytes() == (written[0] / "defects" / name).read_bytes()


def test_compression_and_processes_change_no_pixel(written, few, tmp_path):
    watching = Watching()
    with watched_by(watching):
        write_simulation(
            tmp_path / "new",
            kind="dome",
            coarse=16,
            seed=9,
            camera=few.subset(["R22_S11", "R01_S00"]),
            physical_filter="r_57",
            compress=True,
            processes=2,
        )
    assert (watching.stages, watching.done) == ([("writing flats", 2)], [2])
    for name in ("R22_S11", "R01_S00"):
        file = f"flats/LSSTCam_r_57_{name}_dome.fits"
        with fits.open(written[0] / file) as plain, fits.open(tmp_path / "new" / file) as compressed:
            assert compressed["IMAGE"].compression_type == "GZIP_2"
            for plane in ("IMAGE", "MASK", "VARIANCE"):
                assert np.array_equal(plain[plane].data, compressed[plane].data, equal_nan=True)
                assert plain[plane].header["BITPIX"] == compressed[plane].header["BITPIX"]
            assert compressed["MASK"].header["MP_NO_DATA"] == 8


def test_full_pixel_scale(tmp_path):
    camera = Camera("toy", [replace(lsstcam()["R22_S11"], nx=512, ny=300, refpos_x=255.5, refpos_y=149.5)])
    write_simulation(tmp_path / "full", camera=camera, coarse=1)
    with fits.open(tmp_path / "full/flats/toy_i_39_R22_S11_sky.fits") as hdus:
        assert hdus["IMAGE"].data.shape == (300, 512)
        # 6.4% a pixel is 0.05% a bin of 128 x 128
        assert np.sqrt(hdus["VARIANCE"].data.mean()) / 5000 == pytest.approx(0.064, rel=0.05)


def test_existing_simulation_is_kept_unless_told(few, tmp_path):
    out, camera = tmp_path / "out", few.subset(["R22_S11"])
    options = {"camera": camera, "coarse": 64}
    write_simulation(out, seed=1, **options)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already"):
        write_simulation(out, seed=2, **options)
    assert json.loads((out / "truth.json").read_text())["seed"] == 1
    write_simulation(out, seed=2, overwrite=True, physical_filter="z_20", **options)
    assert json.loads((out / "truth.json").read_text())["seed"] == 2
    assert [path.name for path in (out / "flats").iterdir()] == ["LSSTCam_z_20_R22_S11_sky.fits"]
    assert (out / "notes.txt").read_text() == "mine"
    # flats that no simulation wrote are not ours to replace
    (tmp_path / "real/flats").mkdir(parents=True)
    with pytest.raises(InputError, match="no simulation"):
        write_simulation(tmp_path / "real", overwrite=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]


def test_nothing_is_left_of_an_interrupted_run(few, tmp_path):
    with pytest.raises(KeyboardInterrupt), watched_by(Watching(interrupt_at=("writing flats", 1))):
        write_simulation(tmp_path / "out", camera=few, coarse=64)
    assert list(tmp_path.iterdir()) == []


# ---- what is not accepted ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse": 0}, "coarse is 0"),
        ({"coarse": 2.5}, "coarse is 2.5"),
        ({"coarse": 5000}, "coarsening factor 5000"),
        ({"kind": "moon"}, "accepted are sky and dome"),
        ({"physical_filter": "empty"}, "one of u, g, r, i, z, y"),
        ({"seed": -1}, "seed is -1"),
        ({"processes": 0}, "processes is 0"),
        ({"light": Light(gradient=(-0.1, 0.0))}, "gradient is too large"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(few, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write_simulation(tmp_path / "out", camera=few, **({"coarse": 64} | options))
    assert list(tmp_path.iterdir()) == []
