"""Cameras are read from tables, and mistakes in these are named."""

import re
from dataclasses import asdict

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from bayesflat.data.camera import Camera, Detector, get_camera, lsstcam
from tests.data.detectors import TILTED
from tests.helpers import message

CAMERA = lsstcam()


def rows(**changes):
    """Columns of a table of one detector."""
    row = {**asdict(TILTED), **changes}
    row["detector"] = row.pop("id")
    return {key: [value] for key, value in row.items() if value is not None}


def table_of(path, columns, **meta):
    Table(columns, meta=meta).write(path, format="ascii.ecsv")
    return path


def test_round_trip(tmp_path):
    camera = Camera("Own", [TILTED, *list(CAMERA)[185:195], CAMERA[3].coarsened(3)])
    camera.write(tmp_path / "camera.ecsv")
    back = Camera.read(tmp_path / "camera.ecsv")
    assert back.name == "Own"
    assert list(back) == list(camera)
    for detector in back:
        for key, value in asdict(TILTED).items():
            assert type(getattr(detector, key)) is type(value), key


def test_units_in_the_table(tmp_path):
    CAMERA.write(tmp_path / "camera.ecsv")
    table = Table.read(tmp_path / "camera.ecsv")
    units = {key: str(table[key].unit) for key in table.colnames if table[key].unit is not None}
    expected = {"mm": "x y pixel_size", "deg": "yaw", "pix": "nx ny refpos_x refpos_y"}
    assert units == {key: unit for unit, keys in expected.items() for key in keys.split()}


def test_amplifiers_default_to_eight_by_two(tmp_path):
    path = table_of(tmp_path / "mine.ecsv", rows(amp_nx=None, amp_ny=None))
    camera = Camera.read(path)
    assert (camera[7].amp_nx, camera[7].amp_ny) == (8, 2)
    # without INSTRUME the file's name has to do
    assert camera.name == "mine"


def test_named_cameras(tmp_path):
    assert list(get_camera("LSSTCam")) == list(CAMERA)
    assert get_camera("lsstcomcam").name == "LSSTComCam"
    assert list(get_camera(table_of(tmp_path / "c.ecsv", rows()))) == [TILTED]


def test_no_such_file(tmp_path):
    expected = "camera lsstcan: no such file; accepted are lsstcam, lsstcomcam, decam, hsc or a table in ECSV or CSV"
    assert message(get_camera, "lsstcan") == expected
    path = tmp_path / "no.ecsv"
    assert message(Camera.read, path) == expected.replace("lsstcan", str(path))


def test_not_a_table(tmp_path):
    path = tmp_path / "camera.ecsv"
    path.write_text("detector,name\n1,A\n")
    assert message(Camera.read, path).startswith(f"camera {path}: not a table in ECSV (")
    assert message(Camera.read, tmp_path).startswith(f"camera {tmp_path}: not a table in ECSV (")


@pytest.mark.parametrize("column", ["detector", "name", "physical_type", "purpose", "yaw", "ny", "refpos_x"])
def test_missing_column(tmp_path, column):
    columns = rows()
    del columns[column]
    path = table_of(tmp_path / "c.ecsv", columns)
    expected = f"camera {path}: column {column} missing; it has {', '.join(columns)}"
    assert message(Camera.read, path) == expected


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("nx", "many", "row 0, column nx: many is not int"),
        ("x", "left", "row 0, column x: left is not float"),
        ("yaw", np.nan, "row 0, column yaw is not finite"),
        ("x", np.inf, "row 0, column x is not finite"),
        ("nx", 0, "row 0, column nx is 0; it must be above 0"),
        ("ny", -4, "row 0, column ny is -4; it must be above 0"),
        ("pixel_size", 0.0, "row 0, column pixel_size is 0.0; it must be above 0"),
        ("amp_nx", 0, "row 0, column amp_nx is 0; it must be above 0"),
        ("amp_ny", -1, "row 0, column amp_ny is -1; it must be above 0"),
    ],
)
def test_bad_value(tmp_path, column, value, expected):
    path = table_of(tmp_path / "c.ecsv", rows(**{column: value}))
    assert message(Camera.read, path) == f"camera {path}: {expected}"


def test_bad_value_names_its_row(tmp_path):
    columns = {key: value * 3 for key, value in rows().items()}
    columns |= {"detector": [1, 2, 3], "name": ["a", "b", "c"], "yaw": [0.0, 1.0, np.nan]}
    assert "row 2, column yaw is not finite" in message(Camera.read, table_of(tmp_path / "c.ecsv", columns))


@pytest.mark.parametrize("column", ["x", "nx", "name"])
def test_missing_value(tmp_path, column):
    columns = {key: value * 2 for key, value in rows().items()} | {"detector": [1, 2], "name": ["a", "b"]}
    columns[column] = MaskedColumn(columns[column], mask=[False, True])
    text = message(Camera.read, table_of(tmp_path / "c.ecsv", columns))
    assert re.search(rf"row 1, column {column}\b", text)


def test_part_of_a_pixel(tmp_path):
    assert "column nx" in message(Camera.read, table_of(tmp_path / "c.ecsv", rows(nx=400.5)))


def test_empty_and_doubled_tables(tmp_path):
    columns = rows()
    empty = table_of(tmp_path / "e.ecsv", {key: np.array(value)[:0] for key, value in columns.items()}, INSTRUME="E")
    assert message(Camera.read, empty) == "camera E has no detectors"
    double = table_of(tmp_path / "d.ecsv", {key: value * 2 for key, value in columns.items()}, INSTRUME="D")
    assert message(Camera.read, double) == "camera D: detector 7 (T7) is there twice"


def test_a_table_in_csv(tmp_path):
    """As a spreadsheet saves it: with a mark at the beginning, CRLF, names that look like numbers."""
    lines = ["detector,name,physical_type,purpose,x,y,yaw,nx,ny,pixel_size,refpos_x,refpos_y"]
    lines += ["5,05,1234,science,-12.5,30,90,64,50,0.5,31.5,24.5", "7,007,ITL,guider,1e1,0,0,64,50,0.5,31.5,24.5"]
    (tmp_path / "mycam.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    camera = get_camera(tmp_path / "mycam.csv")
    shape = {"nx": 64, "ny": 50, "pixel_size": 0.5, "refpos_x": 31.5, "refpos_y": 24.5}
    assert camera.name == "mycam"
    assert list(camera) == [
        Detector(5, "05", "1234", "science", -12.5, 30.0, 90.0, **shape),
        Detector(7, "007", "ITL", "guider", 10.0, 0.0, 0.0, **shape),
    ]
    (tmp_path / "mycam.csv").write_text("\n".join(lines).replace(",", ";"))
    assert "column detector, name" in message(get_camera, tmp_path / "mycam.csv")
    (tmp_path / "mycam.csv").write_text("\n".join([*lines, "8,x"]))
    assert "mycam.csv: row 2, column physical_type has no value" in message(get_camera, tmp_path / "mycam.csv")
    (tmp_path / "mycam.csv").write_text("\n".join([*lines, "8" + ",x" * 12]))
    assert "mycam.csv: not a table in CSV" in message(get_camera, tmp_path / "mycam.csv")


def test_a_mark_at_the_beginning_of_an_ecsv_table(tmp_path):
    CAMERA.write(tmp_path / "c.ecsv")
    (tmp_path / "c.ecsv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "c.ecsv").read_bytes())
    assert list(get_camera(tmp_path / "c.ecsv")) == list(CAMERA)
