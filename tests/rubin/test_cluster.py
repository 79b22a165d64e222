"""Executors: a real Dask cluster on this machine, threads, workers that are lost; numbers are those of one process."""

import os
import socket
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayesflat.cli import run
from bayesflat.data.binning import bin_files
from bayesflat.data.defects import read_boxes
from bayesflat.data.flats import find_flats
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.processes import in_processes, workers_of
from tests.helpers import complaint
from tests.rubin.repositories import DOME, FIT, Repository, simulate


@contextmanager
def cluster(folder, workers=2):
    """A scheduler and workers as processes on the loopback; yields the scheduler's address."""
    file = folder / "scheduler.json"
    here = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    alone = ["--no-nanny", "--nthreads", "1", "--local-directory", str(folder)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    commands = [["scheduler", *here, "--port", "0"], *[["worker", *here, *alone]] * workers]
    processes = []
    try:
        for command in commands:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command], env=environment, cwd=folder,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
            address = client.scheduler.address
        yield address
    finally:
        for process in processes:  # a worker whose scheduler is gone takes its time to end itself
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The scheduler of two workers."""
    with cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


def fit_filters(tmp_path, camera, filters, address):
    """A repository of some filters, fitted on a cluster and in this process: folders of products."""
    repo = Repository(tmp_path / "repo", camera, filters)
    camera.write(tmp_path / "camera.ecsv")
    for number, name in enumerate(filters):
        light = DOME | {"centroid_delta": (0.1 * number, -0.1)}
        folder = simulate(tmp_path / name, camera, light, physical_filter=name, seed=number)
        repo.add_simulation("dome", folder, name, defects=number == 0)
    ask = [
        "fit",
        "--butler",
        str(repo.path),
        "--collections",
        "dome,defects",
        "--camera",
        str(tmp_path / "camera.ecsv"),
    ]
    assert run([*ask, "--dask", address, "-o", str(tmp_path / "dask"), "--output-run", "fit", *FIT]) == 0
    assert run([*ask, "-o", str(tmp_path / "serial"), *FIT]) == 0
    refs = repo.butler.query_datasets("flat_gradient", "fit")
    assert {ref.dataId["physical_filter"] for ref in refs} == set(filters)
    return [[FlatGradient.read(tmp_path / d / name / "flat_gradient.fits") for d in ("dask", "serial")]
            for name in filters]  # fmt: skip


def compare(pairs):
    """All estimates agree to 1e-10."""
    for remote, serial in pairs:
        assert remote.estimates.converged
        for key, column in serial.estimates.columns.items():
            np.testing.assert_allclose(remote.estimates.columns[key], column, rtol=1e-10, atol=1e-18, err_msg=key)
        scale = np.sqrt(np.outer(*[np.diag(serial.estimates.covariance)] * 2))
        np.testing.assert_allclose(remote.estimates.covariance, serial.estimates.covariance, atol=1e-10 * scale.max())
        assert remote.normalization_factor == pytest.approx(serial.normalization_factor, rel=1e-10)
        assert remote.config["inputs"] == serial.config["inputs"]
    assert len({pair[0].centroid_delta_x for pair in pairs}) == len(pairs)


def test_filters_on_a_dask_cluster(small_camera, tmp_path, address):
    compare(fit_filters(tmp_path, small_camera, ("i_39", "r_57"), address))


PADDED = "Unexpected extra padding at the end of the file"


@pytest.fixture(scope="module")
def noted(small_camera, tmp_path_factory):
    """A repository where reading a flat of r_57 warns, and a table of defects; detector 8 has no table."""
    folder = tmp_path_factory.mktemp("noted")
    repo = Repository(folder / "repo", small_camera)
    small_camera.write(folder / "camera.ecsv")
    for name in ("i_39", "r_57"):
        simulate(folder / name, small_camera, DOME, physical_filter=name)
        repo.add_simulation("dome", folder / name, name)
    path = sorted((folder / "r_57" / "defects").glob("*.fits"))[0]
    table = Table.read(path)
    table.replace_column("SHAPE", ["CIRCLE"] * len(table))
    table.write(path, overwrite=True)
    tables = {d.id: next((folder / "r_57" / "defects").glob(f"{d.name}.*")) for d in small_camera if d.id != 8}
    repo.ingest("defects", "defects", tables)
    (ref,) = [r for r in repo.refs("flat_uncorrected", "dome") if r.dataId["detector"] == 7
              and r.dataId["physical_filter"] == "r_57"]  # fmt: skip
    with open(repo.butler.getURI(ref).ospath, "ab") as file:
        file.write(bytes(2880))  # astropy warns of zeros behind the last HDU when it reads so far
    return repo, folder


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("workers", ["one process", "two processes", "dask"])
def test_warnings_of_reading_are_in_the_log_of_the_fit(noted, tmp_path, address, capfd, workers, quiet):
    """The log of a filter has those of its flats and of the tables that both share; stderr has each once."""
    repo, folder = noted
    how = {"one process": [], "two processes": ["-j", "2"], "dask": ["--dask", address]}[workers]
    ask = ["fit", "--butler", repo.path, "--collections", "dome,defects", "--camera", folder / "camera.ecsv", *FIT[:-1]]
    assert run([str(a) for a in [*ask, *how, *(["-q"] if quiet else []), "-o", tmp_path / "out"]]) == 0
    shown = " ".join(capfd.readouterr().err.split())
    numbers = {PADDED: 1, "row 0 skipped: shape CIRCLE": 1, "no defects for 1 of 25 detectors": 2}
    for warning, number in numbers.items():
        assert shown.count(warning) == (0 if quiet else number)
    for name, padded in (("i_39", 0), ("r_57", 1)):
        page, text = ((tmp_path / "out" / name / file).read_text() for file in ("report.html", "fit.log"))
        expected = {PADDED: padded, "row 0 skipped: shape CIRCLE": 1, f"{name}: no defects for 1 of 25 detectors": 1}
        for warning, number in expected.items():
            assert text.count(warning) == number
            assert (warning in page) == (number > 0)
        assert text.index("25 flats of i_39; 25 flats of r_57") < text.index("no defects") < text.index("INFO fitting")


@pytest.mark.slow
def test_six_filters_on_a_dask_cluster(small_camera, tmp_path, address):
    compare(fit_filters(tmp_path, small_camera, ("u_24", "g_6", "r_57", "i_39", "z_20", "y_10"), address))


def test_bins_do_not_depend_on_who_reads_the_flats(small_camera, tmp_path):
    folder = simulate(tmp_path / "flats", small_camera, DOME) / "flats"
    flats = find_flats([folder])
    alone = bin_files(flats, small_camera, bin_factor=10)
    with ThreadPoolExecutor(4) as pool:
        shared = bin_files(flats, small_camera, bin_factor=10, processes=pool)
        assert pool.submit(len, flats).result() == 25  # it stays open
    np.testing.assert_array_equal(shared.value, alone.value)
    np.testing.assert_array_equal(shared.detector, alone.detector)


def truncated(folder):
    """A flat of a folder is cut short; its path."""
    path = sorted(folder.iterdir())[7]
    path.write_bytes(path.read_bytes()[:20_000])
    return path


@pytest.mark.parametrize("workers", [1, 2, "threads"])
def test_a_flat_that_fails_is_named(small_camera, tmp_path, workers):
    folder = simulate(tmp_path / "flats", small_camera, DOME) / "flats"
    path = truncated(folder)
    with ThreadPoolExecutor(2) as pool, pytest.raises(InputError, match=path.name):
        bin_files(
            [p for p in sorted(folder.iterdir()) if p != path] + [path], small_camera,
            processes=pool if workers == "threads" else workers,
        )  # fmt: skip


running = []


def note(key, failing=()):
    """Work that returns how many calls run at the same time."""
    running.append(threading.get_ident())
    most = len(running)
    time.sleep(0.01)
    running.remove(threading.get_ident())
    if key in failing:
        raise ValueError(f"bad {key}")
    return most


def test_a_worker_does_one_piece_at_a_time():
    """Threads of a worker share its log, its warnings and PyTensor's compiler."""
    with ThreadPoolExecutor(4) as pool:
        found = dict(in_processes(note, {k: (k,) for k in range(8)}, pool))
    assert found == dict.fromkeys(range(8), 1)


@pytest.mark.parametrize("workers", ["one process", "two processes", "dask"])
def test_what_workers_warn_of_is_logged_here(address, tmp_path, caplog, workers):
    """Once for each file, in whichever process it was read; warnings before an error are not lost."""
    paths = {name: tmp_path / f"{name}.ecsv" for name in ("good", "odd", "bad")}
    for name, path in paths.items():
        shapes = ["BOX", {"good": "BOX", "odd": "CIRCLE", "bad": "CIRCLE"}[name], "BOX"]
        sizes = [[4.0, 4.0], [4.0, 4.0], [4.0, 4.0] if name != "bad" else [-4.0, 4.0]]
        rows = {"X": [9.0] * 3, "Y": [9.0] * 3, "SHAPE": shapes, "R": sizes, "ROTANG": [0.0] * 3}
        Table(rows).write(path, format="ascii.ecsv")
    tasks = {name: (path,) for name, path in paths.items()}
    dask = address if workers == "dask" else None
    errors = {}
    with workers_of(1 if workers == "one process" else 2, dask) as who:
        found = dict(in_processes(read_boxes, tasks, who, errors=errors, names={k: f"piece {k}" for k in paths}))
    assert {name: len(boxes) for name, boxes in found.items()} == {"good": 3, "odd": 2}
    assert list(errors) == ["bad"]
    prefix = {name: "" if workers == "one process" else f"piece {name}: " for name in paths}
    expected = [f"{prefix[k]}{paths[k]}: row 1 skipped: shape CIRCLE, accepted are POINT, BOX and ROTBOX"
                for k in ("bad", "odd")]  # fmt: skip
    assert sorted(record.getMessage() for record in caplog.records) == sorted(expected)
    assert {(record.name, record.levelname) for record in caplog.records} == {("bayesflat.data.defects", "WARNING")}


@pytest.mark.parametrize("executor", [False, True])
def test_errors_by_task(executor):
    tasks = {k: (k, (2, 5)) for k in range(8)}
    with ThreadPoolExecutor(2) as pool:
        errors = {}
        found = dict(in_processes(note, tasks, pool if executor else 1, errors=errors))
        assert sorted(found) == [0, 1, 3, 4, 6, 7]
        assert {key: str(error) for key, error in errors.items()} == {2: "bad 2", 5: "bad 5"}
        with pytest.raises(ValueError, match=r"bad [25]"):
            dict(in_processes(note, tasks, pool if executor else 1))


def test_a_worker_that_is_lost_is_one_line_that_names_the_piece(tmp_path):
    with cluster(tmp_path, workers=1) as address, workers_of(1, address) as executor:
        work = in_processes(os._exit, {4: (1,)}, executor, "fitting", names={4: "i_39"})
        with closing(work), pytest.raises(InputError, match=r"^i_39: a worker that was fitting was lost"):
            next(work)


def test_workers_that_cannot_load_the_work(address, monkeypatch):
    """A module that only this process has stands for workers without bayesflat."""
    module = types.ModuleType("only_here")
    exec("def note(key): return key", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with workers_of(1, address) as executor, pytest.raises(InputError, match="have the same bayesflat installed"):
        dict(in_processes(module.note, {1: (1,)}, executor))


def test_processes_that_are_killed():
    with pytest.raises(
        InputError, match="a process that was fitting was killed, perhaps because memory ran out; use few"
    ):
        dict(in_processes(os._exit, {1: (1,), 2: (1,)}, 2, "fitting"))


def test_processes_end_with_a_parent_that_is_killed():
    """Even with SIGKILL, as batch systems do; the connections of the workers close when these end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        tasks = f"{{k: ({listener.getsockname()[1]},) for k in range(3)}}"
        imports = "from bayesflat.processes import in_processes; from tests.rubin.tasks import hold"
        parent = subprocess.Popen([sys.executable, "-c", f"{imports}; dict(in_processes(hold, {tasks}, 2))"])
        try:
            lines = [listener.accept()[0] for _ in range(2)]
        finally:
            parent.kill()
            parent.wait()
        for line in lines:
            line.settimeout(20)
            assert line.recv(1) == b""
            line.close()


def test_flats_in_files_are_binned_on_the_cluster(small_camera, tmp_path, address, capsys):
    """This flat lacks a mask plane, which shows only when a worker reads the pixels; the error names the flat."""
    folder = simulate(tmp_path / "dome", small_camera, DOME) / "flats"
    path = sorted(folder.iterdir())[7]
    with fits.open(path) as hdus:
        del hdus["MASK"].header["MP_VIGNETTED"]
        hdus.writeto(path, overwrite=True)
    ask = ["fit", folder, "-o", tmp_path / "out", "--camera", tmp_path / "dome" / "camera.ecsv", *FIT]
    ask += ["--defects", tmp_path / "dome" / "defects"]
    line = complaint([*ask, "--dask", address, "-c", "mask_planes=VIGNETTED"], capsys)
    assert f"{path.name}: mask plane VIGNETTED is not in it" in line
    assert run([str(a) for a in [*ask, "--dask", address]]) == 0
    found = FlatGradient.read(tmp_path / "out" / "flat_gradient.fits")
    assert found.gradient_x == pytest.approx(2e-4, abs=2e-5)
