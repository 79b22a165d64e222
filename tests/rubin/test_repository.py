"""What is found in a data repository, and mistakes in asking it."""

import json
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from bayesflat.cli import run
from bayesflat.errors import InputError
from bayesflat.files import checksum
from bayesflat.gradient.product import FlatGradient
from bayesflat.rubin.repository import Repository as Reader
from bayesflat.rubin.repository import local
from bayesflat.rubin.work import WorkUnit, finish_units
from tests.helpers import complaint
from tests.rubin.repositories import FIT, fresh


def test_tagged_and_chained_collections(repo, asking, tmp_path):
    """The first collection that has a detector counts; detector 24 is not tagged."""
    reader = Reader(str(repo.path), ["chain"])
    found = reader.find("flat_uncorrected", ("physical_filter", "detector"))
    assert len(found) == 50
    assert {found["i_39", number].run for number in range(24)} == {"dome/second"}
    assert found["i_39", 24].run == found["r_57", 3].run == "dome/first"
    several = Reader(str(repo.path), ["dome/first", "tagged"], where="detector IN (3, 4)")
    found = several.find("flat_uncorrected", ("physical_filter", "detector"))
    assert {(key, one.run) for key, one in found.items()} == {
        ((name, number), "dome/first") for name in ("i_39", "r_57") for number in (3, 4)
    }


def test_certified_for_one_time_needs_no_date(repo):
    reader = Reader(str(repo.path), ["calib"])
    assert len(reader.find("defects", ("detector",))) == 25
    with pytest.raises(InputError, match=r"calib: holds flat_uncorrected of physical_filter i_39, detector 0 for seve"):
        reader.find("flat_uncorrected", ("physical_filter", "detector"))
    for date, run_name in (("2026-01-31T23:59:59", "dome/first"), ("2026-02-01", "dome/second")):
        found = reader.find("flat_uncorrected", ("physical_filter", "detector"), date)
        assert found["i_39", 7].run == run_name
    assert reader.find("flat_uncorrected", ("physical_filter", "detector"), "2025-12-31") == {}


def test_record_is_json(repo):
    found = Reader(str(repo.path), ["defects"]).find("defects", ("detector",))
    record = json.loads(json.dumps(found[4,].record("0" * 64)))
    assert uuid.UUID(record["id"]) in {ref.id for ref in repo.refs("defects", "defects")}
    assert record["data_id"] == {"instrument": "SmallCam", "detector": 4}
    assert checksum(Path(record["name"].removeprefix("file://"))) != record["sha256"]


def test_remote_files_are_fetched_and_named_as_they_are_there(monkeypatch, tmp_path):
    """`local` copies a resource that is not on this machine, removes the copy, and names the original in errors."""
    from lsst.resources import ResourcePath

    source = ResourcePath("mem://bucket/flat.fits")
    with pytest.raises(InputError, match=r"^mem://bucket/flat.fits: "), local(str(source)):
        pass
    with (
        pytest.raises(InputError, match=r"^file:///nowhere/flat.fits: no such file"),
        local("file:///nowhere/flat.fits"),
    ):
        pass
    # a resource inside an installed package has to be copied out, as one that is remote
    uri = "resource://lsst.daf.butler/configs/storageClasses.yaml"
    with local(uri) as path:
        assert path.read_bytes() == ResourcePath(uri).read()
        raised = pytest.raises(InputError, match=f"^{uri}: is bad")
    with raised, local(uri) as path:
        raise InputError(f"{path}: is bad")


def test_a_filter_that_fails_names_its_file_and_the_others_finish(repo, asking, tmp_path, capsys):
    """Several filters have a folder each; two processes give the same numbers as one."""
    flats = repo.path.parent / "first" / "damaged"
    flats.mkdir(exist_ok=True)
    damaged = repo.path.parent / "first" / "12.fits"
    content = damaged.read_bytes()
    (flats / "12.fits").write_bytes(content[: len(content) // 3])
    repo.ingest("damaged", "flat_uncorrected", {12: flats / "12.fits"}, physical_filter="r_57")
    ask = ["fit", *asking, "--collections", "damaged,dome/first,defects", "-j", "2", "--output-run", "fit/damaged"]
    line = complaint([*ask, "--physical-filter", "i_39,r_57", "-o", tmp_path / "out", *FIT], capsys)
    assert line.startswith("bayesflat: r_57: ")
    assert "damaged/flat_uncorrected/r/r_57/" in line
    assert "truncated" in line
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["i_39"]
    assert {ref.dataId["physical_filter"] for ref in fresh(repo).query_datasets("flat_gradient", "fit/damaged")} == {
        "i_39"
    }
    assert run([*ask[:-4], "--where", "physical_filter = 'i_39'", "-o", str(tmp_path / "one"), *FIT]) == 0
    a, b = (FlatGradient.read(tmp_path / name / "i_39" / "flat_gradient.fits") for name in ("out", "one"))
    np.testing.assert_allclose(a.estimates.columns["map"], b.estimates.columns["map"], rtol=1e-10)
    assert a.config["inputs"] == b.config["inputs"]


def test_units_that_fail_and_an_interrupt(tmp_path):
    """Units that failed are named, in the work or when they are finished; an interrupt says what was written."""
    units = [WorkUnit(name, None, tmp_path / name, None, {}, {}) for name in ("i_39", "r_57", "g_6", "u_24")]
    errors = {1: InputError("bad flat")}

    def finish(k, what):
        if what is None:
            raise OSError(28, "No space left on device", "out")
        if what == "interrupt":
            raise KeyboardInterrupt
        return what.upper()

    found = finish_units(units, [(0, "a"), (3, None), (2, "b")], finish, errors)
    assert [one.error for one in found] == [None, "r_57: bad flat", None, "u_24: out: No space left on device"]
    assert [one.result for one in found] == ["A", None, "B", None]
    assert [one.written for one in found] == [(str(tmp_path / "i_39"),), (), (str(tmp_path / "g_6"),), ()]
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; written: g_6$"):
        finish_units(units, [(2, "a"), (0, "interrupt")], finish)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; written: nothing$"):
        finish_units(units, [(0, "interrupt")], finish)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--butler", "nowhere"], "--butler nowhere: no data repository there"),
        (["--collections", "nosuch"], "has no nosuch; it has calib, chain, "),
        (
            ["--physical-filter", "u_24"],
            "no flat_uncorrected of SmallCam and u_24 in dome/first; there are those of i_39",
        ),
        (["-c", "connections.input_flats=flatt"], "has no dataset type flatt; it has defects, "),
        (["-c", "connections.input_flats=defects"], "has the dimensions instrument, detector; instrument, physical_"),
        (["-c", "connections.input_defects=defect"], "has no dataset type defect; it has defects, "),
        (["--instrument", "HSC"], "has no HSC; it has SmallCam"),
        (["--where", "detetor = 3"], "--where detetor = 3: Unrecognized identifier 'detetor'"),
        (["--where", "detector > 99"], "no flat_uncorrected of SmallCam in dome/first where detector > 99"),
        (["--date", "yesterday"], "--date yesterday: not a date; accepted are 2026-01-31"),
        (["--date", "2026-01-01", "--date", "2026-02-01"], "dome/first is none"),
        (["--collections", "calib", "--date", "2019-01-01"], "no flat_uncorrected of SmallCam in calib for 2019-01-01"),
        (["--output-run", "calib"], "--output-run calib: is a CALIBRATION collection there, a RUN is needed"),
        (["--output-run", "x", "-c", "connections.output_gradient=defects"], "it must be IsrCalib (instrument, phys"),
        (["--defects", "there"], "they come from the repository"),
        (["flats/"], "flats/: the input comes from --butler or from files, not from both"),
        (["--camera", "lsstcomcam"], "is of detector 9, camera LSSTComCam has no such detector"),
        (["--dask", "tcp://127.0.0.1:1"], "--dask tcp://127.0.0.1:1: no Dask scheduler answers there"),
    ],
)
def test_mistakes(repo, asking, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("bayesflat.processes.SCHEDULER_TIMEOUT", 0.3)
    monkeypatch.chdir(tmp_path)
    before = fresh(repo).collections.query("*")
    ask = ["fit", *asking, "-o", "out", *([] if "--collections" in arguments else ["--collections", "dome/first"])]
    assert message in complaint([*ask, *arguments], capsys)
    assert list(tmp_path.iterdir()) == []
    assert fresh(repo).collections.query("*") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.fits"], "two products are needed, 1 given; or --butler"),
        (["a.fits", "b.fits", "c.fits"], "two products are needed, 3 given"),
        (["a.fits", "b.fits", "--physical-filter", "i_39"], "--physical-filter needs --butler"),
        (["a.fits", "b.fits", "-c", "connections.gradient=g"], "-c needs --butler"),
        (["a.fits", "b.fits", "--collections", "c"], "--collections needs --butler"),
    ],
)
def test_comparing_files_takes_two_and_no_options_of_a_repository(arguments, message, tmp_path, capsys):
    assert message in complaint(["compare", *arguments, "-o", tmp_path / "out"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_to_install(repo, asking, tmp_path, capsys, monkeypatch):
    for module in ("lsst.daf.butler", "distributed"):
        monkeypatch.setitem(sys.modules, module, None)
    ask = ["fit", *asking, "--collections", "dome/first", "-o", tmp_path / "out"]
    assert complaint(ask, capsys).endswith("--butler needs lsst-daf-butler; pip install 'bayesflat[lsst]'")
    line = complaint(["fit", "a.fits", "-o", tmp_path / "out", "--dask", "tcp://127.0.0.1:1"], capsys)
    assert line.endswith("--dask needs distributed; pip install 'bayesflat[dask]'")
