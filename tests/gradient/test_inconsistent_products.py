"""Products whose HDUs do not belong together, and the camera that travels in them."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.camera import Camera, is_built_in, lsstcam
from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import SCALARS
from tests.helpers import complaint, message

NODES = [0.0, 100.0, 200.0, 300.0]
NAMES = (*(f"radial_spline_values[{k}]" for k in range(4)), *SCALARS)
N = len(NAMES)
ESTIMATES = Estimates(NAMES, ("",) * N, {key: np.zeros(N) for key in STATISTICS}, np.eye(N), "laplace", True, True)
GRADIENT = FlatGradient(NODES, [1.0, 0.9, 0.8, 0.7], estimates=ESTIMATES, metadata={"FILTER": "i_39"})


@pytest.fixture
def path(tmp_path):
    GRADIENT.write(tmp_path / "g.fits")
    return tmp_path / "g.fits"


def change(path, how):
    with fits.open(path) as hdus:
        new = [hdu.copy() for hdu in hdus]
    how(new)
    fits.HDUList(new).writeto(path, overwrite=True, checksum=True)


def put(k, hdu):
    def how(hdus):
        hdus[k] = hdu

    return how


@pytest.mark.parametrize(
    ("hdu", "has"),
    [(fits.ImageHDU(name="COVARIANCE"), "no"), (fits.ImageHDU(np.eye(3), name="COVARIANCE"), "3 x 3")],
)
def test_a_covariance_of_another_size(path, tmp_path, hdu, has, capsys):
    change(path, put(3, hdu))
    expected = (
        f"{path}: cannot be read as a flat gradient (COVARIANCE has {has} values, "
        f"{N} x {N} are needed for the rows of PARAMETERS)"
    )
    assert message(FlatGradient.read, path) == expected
    assert complaint(["compare", path, path, "-o", tmp_path / "out"], capsys) == f"bayesflat: {expected}"
    assert not (tmp_path / "out").exists()


def test_rows_that_are_missing_or_there_twice(path):
    def rename(name):
        def how(hdus):
            hdus[2].data["name"][1] = name

        return how

    change(path, rename("something"))
    assert "row radial_spline_values[1] missing in PARAMETERS" in message(FlatGradient.read, path)
    change(path, rename("radial_spline_values[0]"))
    assert "a name stands twice in PARAMETERS" in message(FlatGradient.read, path)


def test_knots_without_their_coefficients(path):
    replace(GRADIENT, knots=np.arange(12.0)).write(path)
    assert "RADIUSMX (how far bins reach) missing" in message(FlatGradient.read, path)
    reaching = replace(ESTIMATES, header={"RADIUSMX": (300.0, "")})
    replace(GRADIENT, knots=np.arange(12.0), estimates=reaching).write(path)
    assert "row log_radial[0] missing in PARAMETERS" in message(FlatGradient.read, path)


# ---- the camera ----


def test_the_table_of_the_camera_travels(path, small_camera):
    table = small_camera.to_lines()
    replace(GRADIENT, config={"camera": "gone.ecsv", "camera_table": table, "inputs": [{"name": "a"}]}).write(path)
    read = FlatGradient.read(path)
    assert list(read.camera) == list(small_camera)
    assert read.camera.name == "SmallCam"
    assert read.config["inputs"] == [{"name": "a"}]
    assert read.config["camera_table"] == table


def test_cameras_that_are_named(path):
    assert FlatGradient.read(path).camera.name == "LSSTCam"
    replace(GRADIENT, config={"camera": "lsstcomcam"}).write(path)
    assert FlatGradient.read(path).camera.name == "LSSTComCam"
    replace(GRADIENT, config={"camera": "gone.ecsv"}).write(path)  # of an earlier version
    assert message(lambda: FlatGradient.read(path).camera).startswith("camera gone.ecsv: no such file")


def test_built_in_cameras_need_no_table(small_camera):
    assert is_built_in(lsstcam())
    assert not is_built_in(lsstcam().coarsened(16))
    assert not is_built_in(lsstcam().science())
    assert not is_built_in(small_camera)
    assert list(Camera.from_lines(lsstcam().to_lines(), "x")) == list(lsstcam())
