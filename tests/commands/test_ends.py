"""How commands end: on signals, with nobody to print to, with files of any name, with caches that cannot be written."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayesflat.cli import run
from bayesflat.commands.fit import record
from bayesflat.commands.results import fail
from bayesflat.gradient.product import FlatGradient
from tests.gradient.test_correction import dome, lsst_file, sky
from tests.helpers import complaint

COMMAND = [sys.executable, "-m", "bayesflat"]


@pytest.fixture
def applying(tmp_path, small_camera, rng):
    """Arguments that correct a flat into ``out``."""
    small_camera.write(tmp_path / "camera.ecsv")
    dome().write(tmp_path / "dome.fits")
    sky().write(tmp_path / "sky.fits")
    flat = tmp_path / "flat.fits"
    lsst_file(flat, small_camera[12], rng)
    products = ["--gradient", tmp_path / "dome.fits", "--reference", tmp_path / "sky.fits"]
    return ["apply", flat, "-o", tmp_path / "out", *products, "--camera", tmp_path / "camera.ecsv"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("processes", [1, 2])
def test_signals(tmp_path, number, status, processes):
    """SIGTERM cleans up; what SIGKILL leaves goes with the next run."""
    arguments = ["simulate", "-o", tmp_path / "out", "--camera", "lsstcomcam", "--coarse", "2", "-j", str(processes)]
    # a hangup is ignored where whoever runs the tests ignores it (nohup), as it should be
    before = signal.signal(number, signal.SIG_DFL) if number == signal.SIGHUP else None
    try:
        started = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    finally:
        if before is not None:
            signal.signal(number, before)
    with started as process:
        while not any(tmp_path.glob(".bayesflat-*/new/flats")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == status, said
    if number != signal.SIGKILL:
        assert said == "terminated; nothing was written\n"
        assert list(tmp_path.iterdir()) == []
        return
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.5)  # workers end with their parent
    assert run([*map(str, arguments[:-3]), "64"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("into", "reason"), [("full", "No space left on device"), ("closed", "it is closed"), ("pipe", "Broken pipe")]
)
def test_results_are_said_where_stdout_takes_nothing(applying, tmp_path, into, reason):
    command = [*COMMAND, *map(str, applying)]
    if into == "closed":
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    elif into == "full":
        with open("/dev/full", "w") as stdout:
            done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", closefd=True) as stdout:
            done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    where = f"1 corrected flats written to {tmp_path / 'out'}"
    assert done.stderr == f"bayesflat: stdout cannot be written ({reason}); {where}\n"
    assert done.returncode == 0
    assert (tmp_path / "out" / "flat.fits").exists()


def test_links_that_lead_nowhere_are_refused_first(applying, tmp_path, capsys):
    (tmp_path / "out").symlink_to("out")
    applying[1] = tmp_path / "not_even_there.fits"
    assert "out: is a link that leads nowhere, or to itself" in complaint(["simulate", *applying[2:4]], capsys)
    (tmp_path / "out").unlink()
    (tmp_path / "out").symlink_to("nowhere")
    assert "out: is a link that leads nowhere, or to itself" in complaint(["fit", *applying[1:4]], capsys)


# ---- names ----

ODD = os.fsdecode(b"fl\xe4t.fits")


def test_names_of_any_bytes(applying, tmp_path, capsys):
    os.rename(applying[1], tmp_path / ODD)
    os.rename(tmp_path / "dome.fits", tmp_path / os.fsdecode(b"d\xf6me.fits"))
    applying[1], applying[5] = tmp_path / ODD, tmp_path / os.fsdecode(b"d\xf6me.fits")
    applying[3] = tmp_path / os.fsdecode(b"\xff")
    assert run([str(a) for a in applying]) == 0
    assert capsys.readouterr().out == f"1 corrected flats written to {tmp_path}/\\xff\n"
    assert fits.getheader(applying[3] / ODD)["CPPGRAD"] == "d\\xf6me.fits"
    assert record(tmp_path / ODD)["name"] == f"{tmp_path}/fl\\xe4t.fits"
    line = complaint(applying, capsys)
    assert line.endswith("/\\xff: holds fl\\xe4t.fits already; give another folder, or --overwrite")


def test_escape_codes_never_reach_the_terminal(tmp_path, small_camera, capsys):
    small_camera.write(tmp_path / "camera.ecsv")
    table = Table({"xf": [0.0], "yf": [0.0], "value": [1.0], "detector": [12], "itl": [False]})
    table.meta["FILTER"] = "\x1b[2J\x07"
    table.write(tmp_path / "b.ecsv", format="ascii.ecsv")
    arguments = ["fit", tmp_path / "b.ecsv", "-o", tmp_path / "out", "--camera", tmp_path / "camera.ecsv"]
    assert "FILTER is \\x1b[2J\\x07; FITS headers hold" in complaint(arguments, capsys)
    table.meta["FILTER"] = "x" * 100_000
    table.write(tmp_path / "b.ecsv", format="ascii.ecsv", overwrite=True)
    start = time.monotonic()
    line = complaint(arguments, capsys)
    assert f"FILTER has 100000 characters ({'x' * 77}...); at most 200" in line
    assert time.monotonic() - start < 10
    fail("a \x1b[31mcard\n of a header")
    assert capsys.readouterr().err == "bayesflat: a \\x1b[31mcard of a header\n"


def test_cameras_that_headers_cannot_name(tmp_path, small_camera, capsys):
    path = tmp_path / "camera.ecsv"
    small_camera.write(path)
    path.write_text(path.read_text().replace("SmallCam", "Kaméra"))
    line = complaint(["simulate", "-o", tmp_path / "out", "--camera", path], capsys)
    assert line.startswith(f"bayesflat: camera {path}: INSTRUME is Kaméra; FITS headers hold letters without accents")
    line = complaint(["simulate", "-o", tmp_path / "out", "--physical-filter", "ï"], capsys)
    assert "FITS headers hold" in line or "its first letter must be a band" in line
    assert not (tmp_path / "out").exists()


def test_a_home_that_cannot_be_written(applying):
    """The cache is named, and what moves it; correcting flats needs none."""
    environment = os.environ | {"HOME": "/dev/null"}
    environment.pop("PYTENSOR_FLAGS", None)
    arguments = ["fit", *map(str, applying[1:4]), *map(str, applying[-2:])]
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("bayesflat: PyTensor's cache of compiled code cannot be written (")
    assert done.stderr.endswith("; the variable PYTENSOR_FLAGS=base_compiledir=FOLDER puts it elsewhere\n")
    done = subprocess.run([*COMMAND, *map(str, applying)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_camera_of_the_product_is_that_of_apply(applying, small_camera, tmp_path, capsys):
    camera = applying[-2:]
    del applying[-2:]
    assert "lsstcam" in complaint(applying, capsys).lower()
    product = dome()
    object.__setattr__(product, "config", {"camera": "gone.ecsv", "camera_table": small_camera.to_lines()})
    product.write(tmp_path / "dome.fits")
    assert FlatGradient.read(tmp_path / "dome.fits").camera.name == "SmallCam"
    assert run([str(a) for a in applying]) == 0
    mine = fits.getdata(tmp_path / "out" / "flat.fits", "IMAGE")
    applying[3] = tmp_path / "again"
    assert run([str(a) for a in (*applying, *camera)]) == 0
    np.testing.assert_array_equal(mine, fits.getdata(tmp_path / "again" / "flat.fits", "IMAGE"))


# ---- options ----


def test_long_forms_of_options_and_the_log(applying, tmp_path, capsys):
    applying[2] = "--output"
    more = ["--processes", "1", "--log-level", "error", "--log-file", tmp_path / "my.log", "--config", "seed=1"]
    assert run([str(a) for a in (*applying, *more)]) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "my.log").read_text().endswith("INFO 1 flats in 1 files corrected\n")
    applying[3] = tmp_path / "other"
    line = complaint([*applying, "--log-file", tmp_path / "none" / "my.log"], capsys)
    assert line.endswith("my.log: the log cannot be written (No such file or directory)")
    assert complaint([*applying, "-i", "calib"], capsys).endswith("--collections needs --butler, the data repository")
    assert complaint([*applying, "-d", "detector=1"], capsys).endswith("--where needs --butler, the data repository")
