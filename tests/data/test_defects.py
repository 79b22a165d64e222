"""Tables of defects: every rule about boxes, on figures worked out by hand."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.defects import Box, apply_defects, find_defects, read_defects
from tests.helpers import message

SHAPE = {"nx": 64, "ny": 50, "pixel_size": 0.5, "refpos_x": 31.5, "refpos_y": 24.5}
CAMERA = Camera(
    "Toy",
    [
        Detector(4, "R22_S11", "E2V", "science", 0.0, 0.0, 0.0, **SHAPE),
        Detector(5, "R22_S12", "ITL", "science", 40.0, 0.0, 90.0, **SHAPE),
    ],
)


def write(path, columns, **meta):
    Table(columns, meta=meta).write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "fits")
    return path


def region(path, rows, names=("X", "Y", "SHAPE", "R", "ROTANG"), **meta):
    return write(path, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), **meta)


def boxes_of(path):
    return [(b.x0, b.y0, b.width, b.height) for b in read_defects(path, CAMERA)[1]]


@pytest.fixture(params=[".fits", ".ecsv"])
def ending(request):
    return request.param


# ---- boxes ----


def test_plain_boxes(tmp_path, ending):
    columns = {"x0": [3, -2, 60], "y0": [4, 0, 48], "width": [1, 5, 10], "height": [2, 1, 7]}
    path = write(tmp_path / f"x{ending}", columns, DETECTOR=5, DET_NAME="R22_S12")
    detector, boxes = read_defects(path, CAMERA)
    assert detector.id == 5
    assert boxes == [Box(3, 4, 1, 2), Box(-2, 0, 5, 1), Box(60, 48, 10, 7)]


def test_column_names_in_any_case_and_whole_floats(tmp_path, ending):
    columns = {"X0": [3.0], "Y0": [4.0], "Width": [1.0], "HEIGHT": [2.0]}
    assert boxes_of(write(tmp_path / f"x{ending}", columns, DETECTOR=4)) == [(3, 4, 1, 2)]


@pytest.mark.parametrize(
    ("centre", "size", "first"),
    # pixel 10 has its centre at X = 11: three pixels about it are 9, 10, 11
    [(11, 3, 9), (11, 4, 9), (11.5, 4, 9), (11.5, 3, 10), (1, 1, 0), (1, 3, -1), (1.5, 2, 0), (0.5, 4, -2)],
)
@pytest.mark.parametrize("shape", ["BOX", "ROTBOX"])
def test_first_pixel_of_a_region(tmp_path, ending, shape, centre, size, first):
    rows = [(centre, 20.0, shape, [size, 1], 0.0), (20.0, centre, shape, [1, size], 0.0)]
    path = region(tmp_path / f"x{ending}", rows, DETECTOR=4)
    assert boxes_of(path) == [(first, 19, size, 1), (19, first, 1, size)]


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        (0.0, (9, 18, 4, 5)),
        (180.0, (9, 18, 4, 5)),
        (-180.0, (9, 18, 4, 5)),
        (360.0, (9, 18, 4, 5)),
        (90.0, (9, 19, 5, 4)),
        (270.0, (9, 19, 5, 4)),
        (-90.0, (9, 19, 5, 4)),
        (89.999999999, (9, 19, 5, 4)),
    ],
)
def test_rotated_boxes(tmp_path, ending, angle, expected):
    # 4 wide about X = 11.5 is 9 to 12, 5 high about Y = 21 is 18 to 22; turned: 5 wide floor(9.0) = 9, 4 high from 19
    path = region(tmp_path / f"x{ending}", [(11.5, 21.0, "ROTBOX", [4, 5], angle)], DETECTOR=4)
    assert boxes_of(path) == [expected]


def test_box_has_no_angle(tmp_path, ending):
    path = region(tmp_path / f"x{ending}", [(11.5, 21.0, "BOX", [4, 5], 90.0)], DETECTOR=4)
    assert boxes_of(path) == [(9, 18, 4, 5)]


def test_points_are_one_pixel_and_ignore_r(tmp_path, ending):
    rows = [(11.0, 21.0, "POINT", [8.0, 9.0], 45.0), (11.9, 0.5, "POINT", [np.nan, -1.0], 0.0)]
    path = region(tmp_path / f"x{ending}", rows, DETECTOR=4)
    assert boxes_of(path) == [(10, 20, 1, 1), (10, 0, 1, 1)]


def test_shape_in_any_case_with_blanks_and_no_rotang(tmp_path, ending):
    rows = [(11.0, 21.0, "point ", [8.0, 9.0]), (11.0, 21.0, " Box", [3.0, 3.0])]
    path = region(tmp_path / f"x{ending}", rows, names=("x", "y", "Shape", "r"), DETECTOR=4)
    assert boxes_of(path) == [(10, 20, 1, 1), (9, 19, 3, 3)]


def test_vectors_give_their_first_values(tmp_path, ending):
    rows = [([11.0, 50.0], [21.0, 51.0], "BOX", [3.0, 4.0, 30.0, 31.0], [0.0, 45.0])]
    assert boxes_of(region(tmp_path / f"x{ending}", rows, DETECTOR=4)) == [(9, 19, 3, 4)]
    rows = [([11.0, 50.0], [21.0, 51.0], "ROTBOX", [3.0, 5.0, 30.0, 31.0], [90.0, 45.0])]
    assert boxes_of(region(tmp_path / f"y{ending}", rows, DETECTOR=4)) == [(8, 19, 5, 3)]


def test_vectors_of_variable_length(tmp_path):
    r = np.empty(2, dtype=object)
    r[:] = [np.array([3.0, 4.0]), np.array([1.0])]
    columns = [
        fits.Column("X", "1D", array=[11.0, 31.0]),
        fits.Column("Y", "1D", array=[21.0, 31.0]),
        fits.Column("SHAPE", "10A", array=["BOX", "POINT"]),
        fits.Column("R", "PD()", array=r),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, header=fits.Header({"DETECTOR": 4}))
    hdu.writeto(tmp_path / "x.fits")
    assert boxes_of(tmp_path / "x.fits") == [(9, 19, 3, 4), (30, 30, 1, 1)]


def test_unsupported_shapes_and_angles_are_skipped_with_a_warning(tmp_path, ending, caplog):
    rows = [
        (11.0, 21.0, "CIRCLE", [3.0, 3.0], 0.0),
        (11.0, 21.0, "ROTBOX", [3.0, 3.0], 45.0),
        (11.0, 21.0, "!BOX", [3.0, 3.0], 0.0),
        (11.0, 21.0, "BOX", [3.0, 3.0], 0.0),
    ]
    path = region(tmp_path / f"x{ending}", rows, DETECTOR=4)
    with caplog.at_level(logging.WARNING):
        assert boxes_of(path) == [(9, 20 - 1, 3, 3)]
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert "row 0" in texts[0]
    assert "CIRCLE" in texts[0]
    assert "45 degrees" in texts[1]
    assert "!BOX" in texts[2]


def test_table_without_rows_is_a_detector_without_defects(tmp_path, ending):
    columns = {name: np.array([], dtype=int) for name in ("x0", "y0", "width", "height")}
    path = write(tmp_path / f"x{ending}", columns, DETECTOR=4)
    assert find_defects(path, CAMERA) == {4: []}


def test_apply_defects_marks_just_these_pixels():
    boxes = [Box(3, 4, 2, 1), Box(-2, -1, 3, 3), Box(62, 49, 9, 9), Box(-9, 10, 4, 4), Box(70, 10, 4, 4)]
    expected = np.zeros((50, 64), dtype=bool)
    for y in range(50):
        for x in range(64):
            expected[y, x] = any(b.x0 <= x < b.x0 + b.width and b.y0 <= y < b.y0 + b.height for b in boxes)
    bad = np.zeros((50, 64), dtype=bool)
    bad[30, 30] = expected[30, 30] = True  # what is bad already stays so
    apply_defects(bad, boxes)
    np.testing.assert_array_equal(bad, expected)
    assert bad.sum() == 2 + 2 + 2 + 1  # two pixels of each of the first three boxes: 2, 1 x 2, 2 x 1


# ---- which detector ----

BOXES = {"x0": [3], "y0": [4], "width": [1], "height": [2]}


@pytest.mark.parametrize(
    ("name", "meta", "expected"),
    [
        ("x", {"DETECTOR": 5}, 5),
        ("x", {"DETECTOR": "5"}, 5),
        ("x", {"DET_NAME": "R22_S12"}, 5),
        ("x_R22_S11_y", {"DETECTOR": 5, "DET_NAME": "R22_S12"}, 5),
        ("x_R22_S12_y", {}, 5),
        ("x_R22_S12", {"DETECTOR": ""}, 5),
        ("x", {}, None),
    ],
)
def test_detector_of_a_table(tmp_path, ending, name, meta, expected):
    detector, _ = read_defects(write(tmp_path / f"{name}{ending}", BOXES, **meta), CAMERA)
    assert (detector and detector.id) == expected


def test_detector_in_the_primary_header(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["DETECTOR"] = 5
    image = fits.ImageHDU(np.zeros((3, 3), np.int16))
    fits.HDUList([primary, image, fits.BinTableHDU(Table(BOXES))]).writeto(tmp_path / "x.fits")
    detector, boxes = read_defects(tmp_path / "x.fits", CAMERA)
    assert detector.id == 5
    assert boxes == [Box(3, 4, 1, 2)]


def test_detector_unknown_or_not_of_the_camera(tmp_path, ending):
    text = message(find_defects, write(tmp_path / f"x{ending}", BOXES), CAMERA)
    assert "DETECTOR" in text
    assert "DET_NAME" in text
    assert "file name" in text
    assert "no such detector" in message(read_defects, write(tmp_path / f"y{ending}", BOXES, DETECTOR=94), CAMERA)
    other = write(tmp_path / f"z{ending}", BOXES, DETECTOR=5, DET_NAME="R01_S00")
    assert "R01_S00" in message(read_defects, other, CAMERA)
    both = write(tmp_path / f"w{ending}", BOXES, DETECTOR=5, DET_NAME="R22_S11")
    assert "different detectors" in message(read_defects, both, CAMERA)


# ---- folders and globs ----


def test_folder_and_glob(tmp_path):
    write(tmp_path / "a.fits", BOXES, DETECTOR=5)
    write(tmp_path / "b.ecsv", {**BOXES, "x0": [7]}, DETECTOR=4)
    (tmp_path / "readme.txt").touch()
    both = {5: [Box(3, 4, 1, 2)], 4: [Box(7, 4, 1, 2)]}
    assert find_defects(tmp_path, CAMERA) == both
    assert find_defects(f"{tmp_path}/[ab].*", CAMERA) == both
    assert find_defects(tmp_path / "b.ecsv", CAMERA) == {4: both[4]}


def test_two_tables_of_one_detector(tmp_path):
    write(tmp_path / "a.fits", BOXES, DETECTOR=5)
    write(tmp_path / "b_R22_S12_.ecsv", BOXES)
    text = message(find_defects, tmp_path, CAMERA)
    assert "a.fits" in text
    assert "b_R22_S12_.ecsv" in text


def test_nothing_there(tmp_path):
    assert "no such file" in message(find_defects, tmp_path / "x", CAMERA)
    assert "*.ecsv" in message(find_defects, tmp_path, CAMERA)


# ---- tables that are none ----


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({**BOXES, "x0": [np.nan]}, "column x0 holds no finite number"),
        ({**BOXES, "y0": [np.inf]}, "column y0 holds no finite number"),
        ({**BOXES, "width": ["wide"]}, "column width holds text"),
        ({**BOXES, "height": [0]}, "column height is 0"),
        ({**BOXES, "x0": [3.5]}, "whole number"),
        ({"x0": [3], "y0": [4], "width": [1]}, "columns must be x0, y0, width, height"),
        ({"X": [np.nan], "Y": [2.0], "SHAPE": ["POINT"], "R": [1.0]}, "column x holds no finite number"),
        ({"X": ["2"], "Y": [2.0], "SHAPE": ["POINT"], "R": [1.0]}, "column x holds text"),
        ({"X": [2.0], "Y": [2.0], "SHAPE": ["BOX"], "R": [[1.0, np.nan]]}, "column r holds no finite number"),
        ({"X": [2.0], "Y": [2.0], "SHAPE": ["BOX"], "R": [1.0]}, "2 are needed"),
        ({"X": [2.0], "Y": [2.0], "SHAPE": ["ROTBOX"], "R": [[1.0, 2.0]]}, "column rotang missing"),
        ({"X": [2.0], "Y": [2.0], "SHAPE": ["ROTBOX"], "R": [[1.0, 2.0]], "ROTANG": [np.nan]}, "column rotang"),
    ],
)
def test_bad_columns(tmp_path, ending, columns, part):
    path = write(tmp_path / f"bad{ending}", columns, DETECTOR=4)
    text = message(read_defects, path, CAMERA)
    assert f"bad{ending}" in text
    assert part in text


def test_missing_values(tmp_path, ending):
    columns = {**BOXES, "x0": MaskedColumn([3], mask=[True])}
    path = write(tmp_path / f"x{ending}", columns, DETECTOR=4)
    assert "column x0 holds no finite number" in message(read_defects, path, CAMERA)


def test_files_that_hold_no_table(tmp_path):
    for name in ("x.fits", "x.ecsv"):
        assert "no such file" in message(read_defects, tmp_path / name, CAMERA)
        (tmp_path / name).write_text("hello\nthere\n")
        assert "cannot be read" in message(read_defects, tmp_path / name, CAMERA)
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    assert "no table" in message(read_defects, tmp_path / "image.fits", CAMERA)
    whole = write(tmp_path / "y.fits", {name: values * 500 for name, values in BOXES.items()}, DETECTOR=4)
    whole.write_bytes(whole.read_bytes()[:8000])
    assert "y.fits" in message(read_defects, whole, CAMERA)


def test_text_that_is_cut_within_its_last_number_is_refused(tmp_path):
    """A height of 12 would be 1."""
    path = tmp_path / "defects_4.ecsv"
    Table({"x0": [1], "y0": [2], "width": [3], "height": [12]}, meta={"DETECTOR": 4}).write(path, format="ascii.ecsv")
    assert read_defects(path, CAMERA)[1] == [Box(1, 2, 3, 12)]
    path.write_text(path.read_text()[:-2])
    assert message(read_defects, path, CAMERA).startswith(f"{path}: its last line has no newline")
