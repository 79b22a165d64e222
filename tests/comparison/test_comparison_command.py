"""The command that compares: what it leaves, and which options and products it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table

from bayesflat.cli import run
from bayesflat.commands.tables import comparison_lines
from bayesflat.comparison.comparison import compare
from bayesflat.quantities import COMPARED
from bayesflat.report.summaries import comparison_summary
from tests.helpers import complaint


def paths(folder):
    return folder / "sky" / "flat_gradient_reference.fits", folder / "dome" / "flat_gradient.fits"


def test_command_leaves_what_the_comparison_says(folder, paired, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([str(a) for a in ["compare", *paths(folder), "-o", out]]) == 0
    left = {p.name for p in out.iterdir()}
    assert {"comparison.ecsv", "comparison.json", "comparison_map.png", "comparison_radial.png",
            "flat_gradient_paired.fits", "report.html"} <= left  # fmt: skip
    found = json.loads((out / "comparison.json").read_text())
    assert found["method"] == "paired"
    assert (found["rope_mmag"], found["radius"]) == (2.0, paired.radius)
    for name in COMPARED:
        assert list(found["differences"][name]) == ["mean", "sd", "q05", "q95", "tail", "p_rope"]
        for key, value in found["differences"][name].items():
            assert value == pytest.approx(getattr(paired.differences[name], key), rel=1e-6, abs=1e-12)
    assert set(found["radial"]) == {"radius", "mean", "sd", "q05", "q95"}
    np.testing.assert_allclose(found["radial"]["mean"], paired.radial["mean"], atol=1e-6)
    names = [entry["name"].split("/")[-1] for entry in found["inputs"]]
    assert names == ["flat_gradient_reference.fits", "flat_gradient.fits", "binned_image.fits", "binned_image.fits"]
    assert all(len(entry["sha256"]) == 64 for entry in found["inputs"])
    table = Table.read(out / "comparison.ecsv")
    assert table.colnames == ["detector", "name", "mean_mmag", "sd_mmag", "measured_mmag", "zone"]
    np.testing.assert_allclose(table["mean_mmag"], [d.mean_mmag for d in paired.detectors], atol=1e-6)
    text = capsys.readouterr().out
    assert "paired" in text
    assert "verdict: sky and dome differ by more than the tolerance" in text
    line = complaint(["compare", *paths(folder), "-o", out], capsys)
    assert "holds comparison.json already" in line


def test_command_compares_products_alone(folder, unpaired, tmp_path, capsys):
    """With --unpaired, and where no binned tables lie beside the products."""
    import shutil

    for name, kind in zip(("sky.fits", "dome.fits"), paths(folder), strict=True):
        shutil.copy(kind, tmp_path / name)
    for out, extra in (("a", [*paths(folder), "--unpaired"]), ("b", [tmp_path / "sky.fits", tmp_path / "dome.fits"])):
        assert run([str(a) for a in ["compare", *extra, "-o", tmp_path / out, "--rope", "5", "-q"]]) == 0
        found = json.loads((tmp_path / out / "comparison.json").read_text())
        assert (found["method"], found["rope_mmag"]) == ("unpaired", 5.0)
        assert found["differences"]["gradient_x"]["sd"] == pytest.approx(unpaired.differences["gradient_x"].sd)
        assert not (tmp_path / out / "flat_gradient_paired.fits").exists()
    # named tables, in another folder
    arguments = ["compare", tmp_path / "sky.fits", tmp_path / "dome.fits", "--binned", folder / "sky.fits",
                 folder / "dome.fits", "-o", tmp_path / "c", "-q"]  # fmt: skip
    assert run([str(a) for a in arguments]) == 0
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["method"] == "paired"
    # one table beside both products belongs to one of them only
    shutil.copy(folder / "sky.fits", tmp_path / "binned_image.fits")
    assert run([str(a) for a in [*arguments[:3], "-o", tmp_path / "d"]]) == 0
    said = capsys.readouterr()
    assert "lies beside both products" in " ".join(said.err.split())
    assert "unpaired (conservative)" in said.out


def test_products_without_uncertainties(products, small_camera, folder, tmp_path):
    """As LSST's products are: there are means, and no uncertainties beside them."""
    sky, dome = products
    c = compare(replace(sky, estimates=None), dome, camera=small_camera)
    assert any("sky's product has no uncertainties" in note for note in c.notes)
    found = comparison_summary(c)
    mean = dome.estimates["gradient_x"]["mean"]  # and the sky's value, which has no mean
    assert found["differences"]["gradient_x"]["mean"] == pytest.approx(mean - sky.gradient_x)
    assert found["differences"]["gradient_x"]["sd"] is None
    assert found["radial"]["q05"][5] is None
    json.dumps(found, allow_nan=False)
    assert c.verdict.word == found["verdict"] == "undecided"
    assert comparison_lines(c)[-1].endswith("uncertainties are missing; fit both flats with bayesflat")
    sky.write(tmp_path / "sky.yaml")
    dome.write(tmp_path / "dome.ecsv")
    arguments = ["compare", tmp_path / "sky.yaml", tmp_path / "dome.ecsv", "--camera", folder / "camera.ecsv"]
    assert run([str(a) for a in [*arguments, "-o", tmp_path / "out", "-q"]]) == 0


def test_a_comparison_of_what_did_not_converge(folder, products, tmp_path, capsys):
    dome = replace(products[1], estimates=replace(products[1].estimates, converged=False))
    dome.write(tmp_path / "dome.fits")
    arguments = ["compare", paths(folder)[0], tmp_path / "dome.fits", "-o", tmp_path / "out", "-q"]
    assert "the dome's fit did not converge (CONVERGD = F)" in complaint(arguments, capsys, status=3)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["converged"] is False


# ---- what is refused ----


def test_swapped_products(folder, tmp_path, capsys):
    sky, dome = paths(folder)
    assert "are they swapped?" in complaint(["compare", dome, sky, "-o", tmp_path / "out"], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rope", "0"], "rope: the tolerance must be above 0 mmag, got 0"),
        (["--radius", "400"], "radius: 400 mm; must be above 0 and at most"),
        (["--radius", "-1"], "radius: -1 mm; must be above 0 and at most"),
        (["--unpaired", "--binned", "a", "b"], "--binned is for a paired comparison"),
        (["--binned", "no.fits", "no.fits"], "no.fits: no such file"),
        (["--camera", "lsstcam"], "lies outside its detector"),
    ],
)
def test_options_that_are_wrong(folder, tmp_path, capsys, options, message):
    assert message in complaint(["compare", *paths(folder), "-o", tmp_path / "out", *options], capsys)
    assert list(tmp_path.iterdir()) == []
