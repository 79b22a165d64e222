"""Tables in ECSV that were cut after a whole row: the header says how many there should be."""

import pytest

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera
from bayesflat.data.defects import read_defects
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.flats import write_simulation
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, message


@pytest.fixture(scope="module")
def tables(small_camera, tmp_path_factory):
    """Ours, by what reads them: the camera, bins, and defects of an odd detector."""
    out = tmp_path_factory.mktemp("tables")
    few = small_camera.subset(["R00_S00", "R01_S00"])
    light, noise = Light(radial=(NODES, VALUES)), Noise(dead_columns=3)
    write_simulation(out / "flats", camera=few, light=light, noise=noise)
    simulate_binned(few, light, Noise(), 1, bin_factor=100).write(out / "bins.ecsv")
    return few, {
        "camera": (out / "flats" / "camera.ecsv", Camera.read),
        "bins": (out / "bins.ecsv", lambda path: BinnedFlat.read(path, few)),
        "defects": (out / "flats" / "defects" / "R01_S00.ecsv", lambda path: read_defects(path, few)[1]),
    }


@pytest.mark.parametrize("kind", ["camera", "bins", "defects"])
def test_a_table_cut_after_any_row_is_refused(tables, tmp_path, kind):
    path, read = tables[1][kind]
    lines = path.read_text().splitlines(keepends=True)
    first = next(k for k, line in enumerate(lines) if not line.startswith("#")) + 1  # after the row of names
    n_rows = len(lines) - first
    assert n_rows >= 2
    assert len(read(path)) == n_rows
    cut = tmp_path / path.name
    for n in range(1, n_rows):
        cut.write_text("".join(lines[: first + n]))
        assert f"has {n} rows, and its header says {n_rows}; was it cut short?" in message(read, cut)
    # a table of somebody else says nothing of its length
    cut.write_text("".join(line for line in lines[: first + 1] if "ROWS" not in line))
    assert len(read(cut)) == 1
