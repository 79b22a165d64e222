"""The binned focal plane: tables in and out, and what is refused."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, Detector, lsstcam
from tests.helpers import message

# detector 4 covers -32..32 by -25..25 mm, detector 5 the same turned by 90 degrees about (100, 10)
SHAPE = {"nx": 64, "ny": 50, "pixel_size": 1.0, "refpos_x": 31.5, "refpos_y": 24.5, "amp_nx": 4, "amp_ny": 2}
CAMERA = Camera(
    "Toy",
    [
        Detector(4, "D4", "E2V", "science", 0.0, 0.0, 0.0, **SHAPE),
        Detector(5, "D5", "ITL", "science", 100.0, 10.0, 90.0, **SHAPE),
    ],
)
COLUMNS = {
    "xf": [-31.5, 0.25, 31.0, 100.0, 80.0],
    "yf": [-24.5, 0.5, -10.0, 10.0, -20.0],
    "value": [1.0, 2.5, np.nan, 1 / 3, 20000.123456789],
    "detector": [4, 4, 4, 5, 5],
    "itl": [False, False, False, True, True],
}
FIELDS = ("xf", "yf", "value", "detector", "itl", "amplifier", "n_pixels")


def columns(**changes):
    """The columns above with some replaced, or left out where None."""
    result = {name: np.array(values) for name, values in COLUMNS.items()} | changes
    return {name: values for name, values in result.items() if values is not None}


def change(name, row, value):
    """One value of a column replaced."""
    values = list(COLUMNS[name])
    values[row] = value
    return {name: np.array(values)}


def save(path, content, **meta):
    Table(content, meta=meta).write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "fits")
    return path


@pytest.fixture(params=[".fits", ".ecsv"])
def ending(request):
    return request.param


# ---- files ----


@pytest.mark.parametrize("n_pixels", [None, [16384, 16000, 0, 1, 7]])
def test_round_trip(tmp_path, ending, n_pixels):
    binned = BinnedFlat.from_columns(columns(n_pixels=n_pixels), CAMERA, instrument="LSSTCam", physical_filter="i_39")
    binned.write(tmp_path / f"b{ending}")
    back = BinnedFlat.read(tmp_path / f"b{ending}", CAMERA)
    assert (back.instrument, back.physical_filter) == ("LSSTCam", "i_39")
    assert back.camera is CAMERA
    for name in FIELDS:
        before, after = getattr(binned, name), getattr(back, name)
        if name == "n_pixels" and n_pixels is None:
            assert after is None
            continue
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
    assert [a.name for a in tmp_path.iterdir()] == [f"b{ending}"]


def test_what_the_file_holds(tmp_path):
    BinnedFlat.from_columns(columns(), CAMERA, instrument="Toy", physical_filter="r_57").write(tmp_path / "b.fits")
    with fits.open(tmp_path / "b.fits") as hdus:
        table, header = hdus[1].data, hdus[1].header
        assert table.names == ["xf", "yf", "value", "detector", "itl", "amplifier"]
        assert [header[f"TFORM{i}"] for i in range(1, 7)] == ["D", "D", "D", "K", "L", "K"]
        assert (header["TUNIT1"], header["TUNIT2"]) == ("mm", "mm")
        assert (header["INSTRUME"], header["FILTER"]) == ("Toy", "r_57")
        np.testing.assert_array_equal(table["xf"], COLUMNS["xf"])
        np.testing.assert_array_equal(table["itl"], COLUMNS["itl"])


def test_unknown_header(tmp_path, ending):
    binned = BinnedFlat.read(save(tmp_path / f"b{ending}", columns()), CAMERA)
    assert (binned.instrument, binned.physical_filter) == ("", "")
    binned.write(tmp_path / f"c{ending}")
    assert BinnedFlat.read(tmp_path / f"c{ending}", CAMERA).physical_filter == ""


def test_columns_of_other_types(tmp_path, ending):
    # single precision, 0 and 1, small integers: numbers are numbers
    content = columns(value=np.array([1, 2, 3, 4, 5], "f4"), itl=np.array([0, 0, 0, 1, 1]))
    content["detector"] = content["detector"].astype(np.int16)
    binned = BinnedFlat.read(save(tmp_path / f"b{ending}", content), CAMERA)
    np.testing.assert_array_equal(binned.value, [1.0, 2, 3, 4, 5])
    assert binned.value.dtype == np.float64
    assert binned.itl.dtype == bool
    np.testing.assert_array_equal(binned.itl, COLUMNS["itl"])


# ---- amplifiers ----


def test_amplifier_from_the_camera():
    # amplifiers of 16 x 25 pixels.  Detector 4: pixels are (xf + 31.5, yf + 24.5) = (0, 0), (31.75, 25), (62.5, 14.5):
    # columns 0, 2 (32.25/16) and 3, rows 0, 1 and 0.  Detector 5, turned: pixel = (yf - 10 + 31.5, 100 - xf + 24.5) =
    # (31.5, 24.5), whose corner counts are (32, 25): column 2, row 1; and (1.5, 44.5): column 0, row 1
    binned = BinnedFlat.from_columns(columns(), CAMERA)
    np.testing.assert_array_equal(binned.amplifier, [0, 4 + 2, 3, 4 + 2, 4])


def test_amplifier_of_lsstcam():
    camera = lsstcam()
    # R22_S11 (94): pixel (600, 3000) is column 1 of 512 pixels, row 1; R01_S00 (0): pixel (510, 100) is column 1 of 509
    positions = [camera[94].pixel_to_focal_plane(600, 3000), camera[0].pixel_to_focal_plane(510, 100)]
    xf, yf = np.transpose(positions)
    binned = BinnedFlat.from_columns(
        {"xf": xf, "yf": yf, "value": [1, 1], "detector": [94, 0], "itl": [False, True]}, camera
    )
    np.testing.assert_array_equal(binned.amplifier, [9, 1])


def test_a_column_of_amplifiers_is_kept(tmp_path, ending):
    given = [0, 2, 3, 6, 4]  # the second bin's centre lies on the border of amplifiers 2 and 6
    binned = BinnedFlat.read(save(tmp_path / f"b{ending}", columns(amplifier=given)), CAMERA)
    np.testing.assert_array_equal(binned.amplifier, given)


def test_amplifiers_in_which_the_bins_do_not_lie_are_refused(tmp_path, ending):
    """As of a camera that counts them from another corner."""
    path = save(tmp_path / f"b{ending}", columns(amplifier=[0, 6, 0, 6, 4]))
    assert message(BinnedFlat.read, path, CAMERA) == (
        f"{path}: column amplifier is 0 in row 2, but the bin lies in amplifier 3 of detector {CAMERA[4].name}; "
        "amplifiers count as column + 4 * row from the corner of pixel (0, 0), or leave the column out"
    )


# ---- bins that are there twice, and units ----


def test_a_bin_that_is_there_twice_is_refused(tmp_path, ending):
    """In any order of the rows, and to a micron; the other detector may have a bin at the same place."""
    rows = [3, 0, 1, 2, 4, 1]
    twice = {name: np.array(values)[rows] for name, values in COLUMNS.items()}
    twice["xf"] = twice["xf"] + np.array([0, 0, 0, 0, 0, 1e-4])
    path = save(tmp_path / f"b{ending}", twice)
    x, y = COLUMNS["xf"][1], COLUMNS["yf"][1]
    assert message(BinnedFlat.read, path, CAMERA) == (
        f"{path}: rows 2 and 5 are the same bin of detector {CAMERA[4].name}, at ({x:.2f}, {y:.2f}) mm "
        "(1 in all are there twice)"
    )


@pytest.mark.parametrize(("unit", "shown"), [("cm", "cm"), ("um", "um"), ("arcsec", "arcsec"), ("Mm", "Mm")])
@pytest.mark.parametrize("name", ["xf", "yf"])
def test_positions_in_other_units_are_refused(tmp_path, ending, name, unit, shown):
    table = Table(columns())
    table["xf"].unit = table["yf"].unit = "mm"
    table[name].unit = unit
    path = save(tmp_path / f"b{ending}", table)
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: column {name} is in {shown}; positions must be in mm"


# ---- files that were cut short ----


@pytest.mark.parametrize("end", [-1, -2000, 2880, 5000, 100])
def test_a_fits_table_that_is_cut_short_is_refused(tmp_path, end):
    path = save(tmp_path / "b.fits", columns())
    path.write_bytes(path.read_bytes()[:end])
    assert message(BinnedFlat.read, path, CAMERA).startswith(f"{path}: ")


def test_text_that_is_cut_within_its_last_number_is_refused(tmp_path):
    path = save(tmp_path / "b.ecsv", columns(n_pixels=[1, 2, 3, 4, 512]))
    path.write_text(path.read_text()[:-2])
    assert message(BinnedFlat.read, path, CAMERA).startswith(f"{path}: its last line has no newline")


def test_select():
    binned = BinnedFlat.from_columns(columns(n_pixels=[1, 2, 3, 4, 5]), CAMERA, physical_filter="g_6")
    part = binned.select(np.array([False, True, False, True, True]))
    assert (len(part), part.physical_filter) == (3, "g_6")
    np.testing.assert_array_equal(part.n_pixels, [2, 4, 5])
    np.testing.assert_array_equal(part.value, [2.5, 1 / 3, 20000.123456789])
    np.testing.assert_array_equal(binned.select(slice(3, None)).amplifier, binned.amplifier[3:])


# ---- what is refused ----


@pytest.mark.parametrize("name", ["xf", "yf", "value", "detector", "itl"])
def test_missing_column(tmp_path, ending, name):
    content = columns(**{name: None})
    path = save(tmp_path / f"b{ending}", content)
    expected = f"{path}: column {name} missing; it needs xf, yf, value, detector, itl, found {', '.join(content)}"
    assert message(BinnedFlat.read, path, CAMERA) == expected


def test_missing_columns_are_all_named():
    assert message(BinnedFlat.from_columns, columns(xf=None, itl=None), CAMERA).startswith(
        "binned table: column xf, itl missing"
    )


@pytest.mark.parametrize("name", [*COLUMNS, "amplifier", "n_pixels"])
def test_text(tmp_path, ending, name):
    path = save(tmp_path / f"b{ending}", columns(**{name: list("abcde")}))
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: column {name} holds text, numbers are needed"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["xf", "yf", "detector", "amplifier"])
def test_not_finite(name, bad):
    changed = {"amplifier": np.array([1, 1, 1, bad, 1])} if name == "amplifier" else change(name, 3, bad)
    expected = f"binned table: column {name} holds NaN or infinity in row 3"
    assert message(BinnedFlat.from_columns, columns(**changed), CAMERA) == expected


@pytest.mark.parametrize(
    ("name", "ending"),
    # FITS knows no missing booleans, and has NaN for missing numbers with a point
    [("detector", ".fits"), ("xf", ".ecsv"), ("detector", ".ecsv"), ("itl", ".ecsv")],
)
def test_missing_values(tmp_path, ending, name):
    path = save(tmp_path / f"b{ending}", columns(**{name: MaskedColumn(COLUMNS[name], mask=np.arange(5) == 2)}))
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: column {name} has missing values"


def test_nan_in_a_file(tmp_path, ending):
    path = save(tmp_path / f"b{ending}", columns(**change("xf", 2, np.nan)))
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: column xf holds NaN or infinity in row 2"


def test_missing_value_is_a_bin_without_one(tmp_path, ending):
    content = columns(value=MaskedColumn([1.0, 2.0, 3.0, 4.0, 5.0], mask=np.arange(5) == 1))
    binned = BinnedFlat.read(save(tmp_path / f"b{ending}", content), CAMERA)
    np.testing.assert_array_equal(binned.value, [1, np.nan, 3, 4, 5])


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("detector", 4.5, "whole numbers"),
        ("itl", 2, "true or false"),
        ("itl", 0.5, "true or false"),
        ("n_pixels", 2.5, "whole numbers"),
        ("amplifier", 0.1, "whole numbers"),
    ],
)
def test_wrong_kind(tmp_path, ending, name, value, accepted):
    start = np.array(COLUMNS.get(name, [1] * 5), dtype=float)
    start[1] = value
    path = save(tmp_path / f"b{ending}", columns(**{name: start}))
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: column {name} must hold {accepted}"


def test_vectors(tmp_path, ending):
    path = save(tmp_path / f"b{ending}", columns(value=np.ones((5, 2))))
    expected = f"{path}: column value must hold one number a row; its shape is (5, 2)"
    assert message(BinnedFlat.read, path, CAMERA) == expected


def test_unknown_detector(tmp_path, ending):
    path = save(tmp_path / f"b{ending}", columns(**change("detector", 2, 17)))
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: detector 17 is not in camera Toy of 2 detectors"


@pytest.mark.parametrize(
    ("name", "row", "value", "position"),
    [
        # a pixel of slack beyond the edge: x = -32 is the edge of detector 4, y = 25 the other one
        ("xf", 0, -33.1, "(-33.10, -24.50)"),
        ("yf", 1, 26.2, "(0.25, 26.20)"),
        # detector 5 is turned: 50 mm wide in x (75 .. 125), 64 mm in y (-22 .. 42)
        ("xf", 3, 126.5, "(126.50, 10.00)"),
        ("yf", 4, -23.5, "(80.00, -23.50)"),
    ],
)
def test_outside_its_detector(name, row, value, position):
    detector = CAMERA[COLUMNS["detector"][row]].name
    expected = f"binned table: row {row} at {position} mm lies outside its detector {detector}; is it the right camera?"
    assert message(BinnedFlat.from_columns, columns(**change(name, row, value)), CAMERA) == expected


@pytest.mark.parametrize(
    ("name", "row", "value"), [("xf", 0, -32.9), ("yf", 1, 25.9), ("xf", 3, 125.9), ("yf", 4, -22.9)]
)
def test_a_pixel_of_slack(name, row, value):
    binned = BinnedFlat.from_columns(columns(**change(name, row, value)), CAMERA)
    assert getattr(binned, name)[row] == value


def test_no_rows(tmp_path, ending):
    path = save(tmp_path / f"b{ending}", {name: values[:0] for name, values in columns().items()})
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: no rows"


def test_lengths():
    assert message(BinnedFlat.from_columns, columns(xf=[0.0]), CAMERA) == "binned table: columns differ in length"


def test_no_such_file(tmp_path, ending):
    path = tmp_path / f"no{ending}"
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: no such file"


@pytest.mark.parametrize("hdus", [[fits.PrimaryHDU()], [fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 3)))]])
def test_no_table(tmp_path, hdus):
    path = tmp_path / "flat.fits"
    fits.HDUList(hdus).writeto(path)
    assert message(BinnedFlat.read, path, CAMERA) == f"{path}: no binned table; its first extension must be a table"


def test_not_a_table_at_all(tmp_path, ending):
    path = tmp_path / f"b{ending}"
    path.write_text("xf,yf\n1,2\n")
    said = message(BinnedFlat.read, path, CAMERA)
    assert said.startswith(f"{path}: cannot be read as a binned table in FITS or ECSV (")


# ---- the vendor ----


def test_itl_of_the_table_wins(tmp_path, ending, caplog):
    path = save(tmp_path / f"b{ending}", columns(itl=np.array([False, False, False, False, True])))
    with caplog.at_level(logging.WARNING, logger="bayesflat"):
        binned = BinnedFlat.read(path, CAMERA)
    np.testing.assert_array_equal(binned.itl, [False, False, False, False, True])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    expected = f"{path}: column itl differs from camera Toy for detector D5; the table's is used"
    assert record.getMessage() == expected


def test_itl_that_agrees_is_not_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="bayesflat"):
        BinnedFlat.from_columns(columns(), CAMERA)
    assert not caplog.records
