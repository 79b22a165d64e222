"""The same numbers however many threads, memory that does not grow, and a disk that is full."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bayesflat.cli import run
from bayesflat.gradient.product import FlatGradient
from bayesflat.simulation.flats import write_simulation
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, noisy_flat

COMMAND = [sys.executable, "-m", "bayesflat"]
PLANE = ["-c", "do_fit_gradient=true", "-c", "normalize_center_radius=60", "--no-report"]


@pytest.fixture(scope="module")
def table(small_camera, tmp_path_factory):
    """A binned table of the small camera, and its camera."""
    out = tmp_path_factory.mktemp("table")
    small_camera.write(out / "camera.ecsv")
    noisy_flat(small_camera).write(out / "bins.fits")
    return [str(out / "bins.fits"), "--camera", str(out / "camera.ecsv"), *PLANE]


def fitted(table, out, threads):
    """The product of a fit in a process of its own, with so many threads for BLAS and Numba."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    subprocess.run(
        [*COMMAND, "fit", *table, "-o", str(out), "-q"], check=True,
        env=os.environ | dict.fromkeys(names, str(threads)),
    )  # fmt: skip
    return FlatGradient.read(out / "flat_gradient.fits")


def test_the_same_bits_again_and_the_same_numbers_with_other_threads(table, tmp_path):
    one, again, other = (fitted(table, tmp_path / name, n) for name, n in (("a", 1), ("b", 1), ("c", 2)))
    for name, column in one.estimates.columns.items():
        np.testing.assert_array_equal(column, again.estimates.columns[name])
    np.testing.assert_array_equal(one.estimates.covariance, again.estimates.covariance)
    sd = one.estimates.columns["sd"]
    known = sd > 0
    apart = np.abs(one.estimates.columns["map"] - other.estimates.columns["map"])
    assert np.max(apart[known] / sd[known]) < 1e-6
    assert np.all(apart[~known] == 0)


MEMORY = """
import resource, sys
import numpy as np
import bayesflat as bf
from bayesflat.simulation.detectors import simulate_binned
camera = bf.Camera.read(sys.argv[1])
light = bf.Light(radial=([0.0, 20, 35, 45, 52, 60], [1.0, 0.97, 0.9, 0.75, 0.5, 0.3]))
config = bf.FitConfig(do_fit_gradient=True, normalize_center_radius=60.0)
sizes = []
for k in range(int(sys.argv[2])):
    few = camera.subset([d.name for d in list(camera)[: 25 - k % 7]])
    bf.fit(simulate_binned(few, light, bf.Noise(white=5e-4, detector_scatter=0.005), k, bin_factor=10), config)
    sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(sizes[0], sizes[-1])
"""


@pytest.mark.slow
def test_fifty_fits_of_different_sizes_in_one_process(small_camera, tmp_path):
    """PyTensor's caches of rewritten graphs hold the last 128 Ops, and with these what they know."""
    small_camera.write(tmp_path / "camera.ecsv")
    arguments = [sys.executable, "-c", MEMORY, str(tmp_path / "camera.ecsv"), "50"]
    first, last = map(float, subprocess.check_output(arguments, text=True).split())
    assert last - first < 500  # MB


@pytest.mark.slow
def test_full_size_detectors_are_in_memory_one_at_a_time(tmp_path):
    """A detector of LSSTCam is 64 MB in single precision, and its mask as much; 20 of them are 2.6 GB."""
    from bayesflat.data.camera import Camera, lsstcam

    whole = lsstcam()
    few = Camera("LSSTCam", [d for d in whole if d.is_science and np.hypot(d.x, d.y) < 110])
    write_simulation(tmp_path / "flats", camera=few, coarse=1, light=Light(), noise=Noise(white=5e-4))
    code = (
        "import resource, sys; from bayesflat.cli import run; status = run(sys.argv[1:]);"
        "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    arguments = ["fit", tmp_path / "flats" / "flats", "-o", tmp_path / "out", "--no-report", "-q"]
    said = subprocess.check_output([sys.executable, "-c", code, *map(str, arguments)], text=True)
    status, peak = said.split()
    assert int(status) in (0, 3)
    assert float(peak) < 1400  # MB, of which the fit itself is 600
    assert len(list((tmp_path / "flats" / "flats").iterdir())) >= 15


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where this may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False,
                             capture_output=True)  # fmt: skip
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    for _ in range(20):
        if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0:
            break
        time.sleep(0.1)


def test_a_full_disk_is_said_and_nothing_is_left(table, small_disk, capsys):
    (small_disk / "mine.txt").write_text("notes")
    assert run(["fit", *table, "-o", str(small_disk / "out"), "-q"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"bayesflat: {small_disk}/out")
    assert line.endswith("No space left on device\n")
    assert [path.name for path in Path(small_disk).iterdir()] == ["mine.txt"]


def test_simulated_flats_of_a_seed_are_the_same_bytes(small_camera, tmp_path):
    few, light = small_camera.subset(["R22_S00", "R21_S00"]), Light(radial=(NODES, VALUES))
    for name, processes in (("a", 1), ("b", 2)):
        write_simulation(tmp_path / name, camera=few, light=light, noise=Noise(white=5e-4), seed=5, processes=processes)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.fits"))
    assert len(files) >= 2
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
