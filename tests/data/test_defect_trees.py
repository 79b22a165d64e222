"""Folders of defect tables as LSST keeps them: one for each detector, with a table for each date."""

import logging

import pytest
from astropy.table import Table

from bayesflat.data.camera import Camera, lsstcam, lsstcomcam
from bayesflat.data.defects import Box, find_defects, read_defects
from tests.helpers import complaint, message
from tests.mosaics import small_decam

CAMERA = small_decam()


def table(path, x0, **meta):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"x0": [x0], "y0": [0], "width": [1], "height": [2]}
    Table(columns, meta=meta).write(path, format="ascii.ecsv")


@pytest.fixture
def tree(tmp_path):
    """As in lsst/obs_decam_data: folders in lower case, dates in the names of the files."""
    for x0, (folder, date) in enumerate(
        [("s29", "19700101T0000"), ("s29", "20130716T0000"), ("s29", "20140209T1014"), ("n31", "19700101T0000"),
         ("n31", "20130716T0000"), ("s30", "20130716T0000")]
    ):  # fmt: skip
        table(tmp_path / "defects" / folder / f"{date}.ecsv", x0, OBSTYPE="defects", INSTRUME="decam")
    (tmp_path / "defects" / "README.md").touch()
    return tmp_path / "defects"


def chosen(tree, date):
    return {number: boxes[0].x0 for number, boxes in find_defects(tree, CAMERA, date).items()}


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2013-07-16", {1: 1, 62: 4, 2: 5}),
        ("2014-02-09", {1: 1, 62: 4, 2: 5}),  # a date is its beginning
        ("2014-02-09T10:14:00", {1: 2, 62: 4, 2: 5}),
        ("20140209T111400+0100", {1: 2, 62: 4, 2: 5}),
        ("20260101", {1: 2, 62: 4, 2: 5}),
    ],
)
def test_the_latest_table_that_is_not_after_the_date_holds(tree, date, expected):
    assert chosen(tree, date) == expected


def test_a_detector_whose_first_table_comes_later_has_none(tree, caplog):
    with caplog.at_level(logging.WARNING):
        assert chosen(tree, "2013-07-15") == {1: 0, 62: 3}
    assert "detector 2 (S30) has no defects yet at 2013-07-15T00:00:00" in caplog.text


def test_without_a_date_several_tables_are_refused(tree):
    text = message(find_defects, tree, CAMERA)
    assert "detector 62 (N31) has defects of 1970-01-01T00:00:00, 2013-07-16T00:00:00; --defects-date chooses" in text
    assert "--defects-date last week: not a date such as 2026-01-31" in message(find_defects, tree, CAMERA, "last week")


def test_where_date_and_detector_may_stand(tmp_path):
    table(tmp_path / "a" / "one.ecsv", 1, DETECTOR=1, CALIBDATE="2013-07-16T00:00:00")
    table(tmp_path / "a" / "two.ecsv", 2, DETECTOR=1, CALIBDATE="2014-07-16T00:00:00")
    assert chosen(tmp_path / "a", "2014-01-01") == {1: 1}
    table(tmp_path / "b" / "2013-07-16" / "S30.ecsv", 3)
    table(tmp_path / "b" / "2014-07-16" / "S30.ecsv", 4)
    assert chosen(tmp_path / "b", "2014-07-17") == {2: 4}
    assert chosen(tmp_path / "b" / "2013-07-16", None) == {2: 3}
    table(tmp_path / "c" / "defects_S30_2013-07-16.ecsv", 5)
    table(tmp_path / "c" / "defects_S30_2014-07-16.ecsv", 6)
    assert chosen(f"{tmp_path}/c/*_S30_*", "2014-01-01") == {2: 5}


def test_tables_that_dates_do_not_tell_apart(tmp_path, tree):
    table(tree / "s29" / "manual.ecsv", 9)
    assert "a detector may have one table, or one of each date" in message(find_defects, tree, CAMERA, "2014-01-01")


def test_a_folder_of_another_detector_than_its_tables(tmp_path, tree):
    table(tree / "n30" / "19700101T0000.ecsv", 9, DETECTOR=1)
    assert "is of detector S29, its folder of N30 in camera DECam" in message(find_defects, tree, CAMERA, "2014-01-01")


@pytest.mark.parametrize("name", ["LSSTComCam", "ComCam", "comCam"])
def test_defects_of_another_camera_are_refused(tmp_path, name):
    """Detector 5 of LSSTComCam is R22_S12, that of LSSTCam R01_S12."""
    table(tmp_path / "x.ecsv", 1, INSTRUME=name, DETECTOR=5)
    for read in (find_defects, read_defects):
        text = message(read, tmp_path / "x.ecsv", lsstcam())
        assert f"x.ecsv: is of {name}, the camera is LSSTCam; --camera lsstcomcam takes it" in text
    assert find_defects(tmp_path, lsstcomcam()) == {5: [Box(1, 0, 1, 2)]}
    assert find_defects(tmp_path, Camera("Own", list(lsstcomcam()))) == {5: [Box(1, 0, 1, 2)]}


def test_the_option_needs_tables(tmp_path, capsys):
    arguments = ["fit", tmp_path, "-o", tmp_path / "out", "--defects-date", "2014-01-01"]
    assert "--defects-date chooses among the tables of --defects, which is not given" in complaint(arguments, capsys)
