"""Products that were cut short, edited, or hold numbers that no flat has: refused, or warned of, never believed."""

import logging

import numpy as np
import pytest
import yaml
from astropy.io import fits

from bayesflat.gradient import files
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import fit
from tests.helpers import NODES, VALUES, message, noisy_flat, small_config

PLAIN = FlatGradient(NODES, VALUES, outer_gradient_x=1e-5, metadata={"INSTRUME": "SmallCam"})
BLOCK = 2880  # bytes; HDUs begin at multiples


@pytest.fixture(scope="module")
def gradient(small_camera):
    return fit(noisy_flat(small_camera), small_config()).gradient


@pytest.fixture
def path(tmp_path, gradient):
    gradient.write(tmp_path / "g.fits")
    return tmp_path / "g.fits"


def logged(caplog, path):
    """What reading a product warns of."""
    with caplog.at_level(logging.WARNING, "bayesflat"):
        FlatGradient.read(path)
    return [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]


# ---- what is written ----


def test_primary_header_lists_the_hdus_and_all_have_checksums(path, caplog):
    with fits.open(path, checksum=True) as hdus:  # astropy warns of a checksum that is wrong
        names = [hdu.name for hdu in hdus[2:]]
        assert hdus[0].header["HDUS"].split() == names
        assert names == ["PARAMETERS", "COVARIANCE", "CONFIG", "OFFSETS", "RADIAL", "AZIMUTH"]
        assert all({"CHECKSUM", "DATASUM"} <= set(hdu.header) for hdu in hdus)
    assert logged(caplog, path) == []


def test_checksums_are_no_part_of_the_gradient(path, gradient):
    read = FlatGradient.read(path)
    assert not {"CHECKSUM", "DATASUM"} & (set(read.metadata) | set(read.estimates.header))
    assert read.estimates.header.keys() == gradient.estimates.header.keys()
    assert not {"CHECKSUM", "DATASUM"} & set(read.metadata)


# ---- cut short ----


def test_a_product_that_is_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for size in (*range(0, len(whole), BLOCK), *range(100, len(whole), 10_007), 11_124, len(whole) - 1):
        path.write_bytes(whole[:size])
        message(FlatGradient.read, path)


def test_lost_hdus_are_named(path):
    with fits.open(path) as hdus:
        end = hdus["PARAMETERS"].fileinfo()["hdrLoc"]
    path.write_bytes(path.read_bytes()[:end])
    text = message(FlatGradient.read, path)
    assert text.startswith(f"{path}: HDU PARAMETERS, COVARIANCE, CONFIG, OFFSETS, RADIAL, AZIMUTH is missing")
    assert "cut short" in text


def test_a_file_without_the_list_is_lsst_s_own(path, caplog):
    with fits.open(path) as hdus:
        alone = fits.HDUList([fits.PrimaryHDU(), hdus[1].copy()])
        for key in ("CHECKSUM", "DATASUM"):
            del alone[1].header[key]
        alone.writeto(path.parent / "lsst.fits")
    assert logged(caplog, path.parent / "lsst.fits") == []
    assert FlatGradient.read(path.parent / "lsst.fits").estimates is None


@pytest.mark.parametrize("ending", [".yaml", ".ecsv"])
def test_text_that_is_cut_anywhere_is_refused(tmp_path, ending):
    """Within the last number it would be another one; at the end of a line the outer plane would be gone."""
    path = tmp_path / f"g{ending}"
    PLAIN.write(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        text = message(FlatGradient.read, path)
        if whole[size - 1 : size] not in (b"\n", b""):
            assert text == f"{path}: its last line has no newline; was it cut short? If it is complete, add one"


def test_half_an_outer_plane_is_refused(tmp_path):
    PLAIN.write(tmp_path / "g.yaml")
    content = yaml.safe_load((tmp_path / "g.yaml").read_text())
    del content["outerGradientY"]
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content))
    assert "outerGradientY missing, of outerGradientX, outerGradientY" in message(
        FlatGradient.read, tmp_path / "g.yaml"
    )


# ---- edited ----


@pytest.mark.parametrize("name", [1, "PARAMETERS", "COVARIANCE", "CONFIG", "OFFSETS", "RADIAL", "AZIMUTH"])
def test_data_that_were_changed_are_refused(path, name):
    with fits.open(path) as hdus:
        number, start = hdus.index_of(name), hdus[name].fileinfo()["datLoc"]
    content = bytearray(path.read_bytes())
    content[start + 7] ^= 1
    path.write_bytes(content)
    shown = f"HDU {number}" if name == 1 else f"HDU {number} ({name})"
    assert message(FlatGradient.read, path) == f"{path}: the data of {shown} are not those that were written (DATASUM)"


def test_headers_that_were_changed_are_warned_of(path, caplog):
    content = path.read_bytes()
    assert content.count(b"CONVERGD=                    T") == 1
    path.write_bytes(content.replace(b"CONVERGD=                    T", b"CONVERGD=                    F"))
    assert logged(caplog, path) == ["the header of HDU 2 (PARAMETERS) was changed after it was written (CHECKSUM)"]


def test_lost_checksums_are_warned_of(path, caplog):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DATASUM = ", b"DATASUN = ", 1))
    assert logged(caplog, path) == ["HDU 0 (PRIMARY) has no DATASUM, by which its data could be checked"]


# ---- numbers that no flat has ----


@pytest.mark.parametrize("ending", [".fits", ".yaml", ".ecsv"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gradient_x", np.nan, "gradient_x must be at most 1000/mm, got nan"),
        ("gradient_y", -np.inf, "gradient_y must be at most 1000/mm, got -inf"),
        ("gradient_x", 1e308, "gradient_x must be at most 1000/mm, got 1e+308"),
        ("outer_gradient_x", np.nan, "outer_gradient_x must be"),
        ("outer_gradient_radius", np.nan, "outer_gradient_radius must be a number of mm, got nan"),
        ("normalization_factor", 5e-324, "normalization_factor must be from 1e-30 to 1e+30, got 5e-324"),
        ("normalization_factor", 0.0, "normalization_factor must be from"),
        ("normalization_factor", -20000.0, "normalization_factor must be from"),
        ("normalization_factor", np.inf, "normalization_factor must be from"),
        ("itl_ratio", -0.9, "itl_ratio must be from 1e-30 to 1e+30, got -0.9"),
        ("itl_ratio", np.nan, "itl_ratio must be from"),
        ("centroid_x", np.nan, "centroid_x must be at most 10000 mm, got nan"),
        ("centroid_y", 1e308, "centroid_y must be at most 10000 mm"),
        ("centroid_delta_x", np.nan, "the centroid must lie within the last node (60 mm), its offset is (nan, 0.0)"),
        ("centroid_delta_y", 61.0, "the centroid must lie within the last node (60 mm), its offset is (0.0, 61.0)"),
        ("radial_spline_values", [1.0, 0.9, np.nan, 0.7, 0.5, 0.3], "spline values must be finite"),
        ("radial_spline_values", [1.0, 0.9, 1e308, 0.7, 0.5, 0.3], "spline values must be positive somewhere, and at"),
        ("radial_spline_values", [-1.0, -0.9, -0.8, -0.7, -0.5, 0.0], "spline values must be positive somewhere"),
        ("radial_spline_nodes", [0.0, 20.0, 35.0, 45.0, 52.0, np.inf], "spline nodes are radii from 0 to 10000 mm"),
        ("radial_spline_nodes", [0.0, 20.0, np.nan, 45.0, 52.0, 60.0], "spline nodes must ascend"),
        ("radial_spline_nodes", [-9.0, 20.0, 35.0, 45.0, 52.0, 60.0], "spline nodes are radii from 0"),
    ],
)
def test_numbers_that_no_flat_has_are_refused(tmp_path, ending, name, value, said):
    path = tmp_path / f"g{ending}"
    files.write(vars(PLAIN) | {name: np.array(value) if isinstance(value, list) else value}, path, overwrite=True)
    text = message(FlatGradient.read, path)
    assert text.startswith(f"{path}: not a flat gradient; ")
    assert said in text
