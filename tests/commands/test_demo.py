"""The last table of the demo: a dome that was corrected beside one that was not, against what was done to it."""

from dataclasses import replace

import pytest
from rich.console import Console

from bayesflat.commands.demo import closure_table
from bayesflat.comparison.comparison import compare
from bayesflat.inference.fitting import fit
from tests.helpers import DOME_LIGHT, SKY_LIGHT, complaint, simulate_pair, small_config


def rows_of(table):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table)
    rows = {}
    for line in captured.get().splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) > 4:
            rows[cells[1]] = [float(cell) for cell in cells[2:6]]
    return rows


@pytest.fixture(scope="module")
def table(small_camera):
    flats = simulate_pair(small_camera)
    config = small_config().replace(radial_spline_nodes="auto")
    sky, dome = (fit(flats[kind], config) for kind in ("sky", "dome"))
    comparison = compare(sky, dome)
    by, bins = comparison.tied, flats["dome"]
    value = bins.value * by.compute_plane(bins.xf, bins.yf) / by.normalization_factor
    value *= sky.gradient.compute_radial(sky.gradient.radius(bins.xf, bins.yf))
    value /= by.compute_radial(by.radius(bins.xf, bins.yf))
    corrected = fit(replace(bins, value=value), config)
    return rows_of(closure_table(comparison, compare(sky, corrected), sky.gradient))


def test_before_is_what_was_put_in(table):
    """Within four of its own sd, and the two digits that are shown."""
    for axis, k in (("x", 0), ("y", 1)):
        before, sd, _, _ = table[f"centroid {axis}"]
        expected = DOME_LIGHT.centroid_delta[k] - SKY_LIGHT.centroid_delta[k]
        assert before == pytest.approx(expected, abs=4 * sd + 0.05 * abs(expected))
        before, sd, _, _ = table[f"plane {axis} (dome's alone)"]
        assert before == pytest.approx(1e6 * DOME_LIGHT.gradient[k], rel=0.5)  # of a sky that has some by chance
    assert table["ITL ratio"][0] == pytest.approx(0.02, abs=4 * table["ITL ratio"][1] + 0.001)


def test_after_is_zero(table):
    """Within four of its own sd, in every row; but for the ratio, which a correction leaves alone."""
    assert sum(name.startswith("radial") for name in table) >= 3
    for name, (_, _, after, sd) in table.items():
        if name != "ITL ratio":
            assert abs(after) < 4 * sd, name
    assert abs(table["ITL ratio"][2] - table["ITL ratio"][0]) < 4 * table["ITL ratio"][3] + 0.001


def test_a_demo_replaces_an_earlier_one(tmp_path, capsys):
    """What the simulation wrote, folders too, is no obstacle: the complaint is of the one folder that is."""
    for kind in ("sky", "dome"):
        for name in ("flats", "defects"):
            (tmp_path / kind / name).mkdir(parents=True)
        for name in ("truth.json", "camera.ecsv"):
            (tmp_path / kind / name).touch()
    (tmp_path / "closure" / "comparison.json").mkdir(parents=True)
    found = complaint(["demo", "-o", tmp_path, "--overwrite"], capsys)
    assert f"{tmp_path / 'closure' / 'comparison.json'}: is a folder" in found
