"""Files of two runs in one folder are told apart by the id of the run in each of them."""

import json
import re
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from bayesflat.cli import run
from bayesflat.commands.fit import BINNED, PRODUCT, RADIAL_PLOT, REFERENCE, REPORT, RESIDUAL_PLOT
from bayesflat.commands.runs import CONFIG
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.flats import read_flat
from bayesflat.errors import InputError
from bayesflat.gradient.correction import apply_gradients
from bayesflat.gradient.product import FlatGradient
from tests.helpers import complaint, fit_pair

SETTINGS = ["-c", "centroid_max=2", "-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true", "-q"]


@pytest.fixture(scope="module")
def fitted(small_camera, tmp_path_factory):
    """Fits of sky and dome, and the dome's a second time, each in its folder; and a flat of the middle detector."""
    out = tmp_path_factory.mktemp("runs")
    fit_pair(small_camera, out, SETTINGS, {"sky": "sky", "dome": "dome", "again": "dome"})
    return out


@pytest.fixture
def folder(fitted, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(fitted, tmp_path / "work")


def id_of(folder, product=PRODUCT):
    return FlatGradient.read(folder / product).estimates.header["RUNID"][0]


def test_every_file_has_the_id_of_its_run(fitted, small_camera):
    found = id_of(fitted / "dome")
    assert re.fullmatch("[0-9a-f]{12}", found)
    assert found != id_of(fitted / "again")
    assert BinnedFlat.read(fitted / "dome" / BINNED, small_camera).run == found
    for plot in (RESIDUAL_PLOT, RADIAL_PLOT):
        assert Image.open(fitted / "dome" / plot).text["Run"] == found
    for name in (CONFIG, "fit.log", REPORT):
        assert found in (fitted / "dome" / name).read_text(), name


def test_a_comparison_has_one_too(fitted, tmp_path):
    assert run(["compare", str(fitted / "sky" / REFERENCE), str(fitted / "dome" / PRODUCT), "-o", str(tmp_path / "c"),
                "-q"]) == 0  # fmt: skip
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())["run_id"]
    assert found == id_of(tmp_path / "c", "flat_gradient_paired.fits")
    assert found == Table.read(tmp_path / "c" / "comparison.ecsv", format="ascii.ecsv").meta["RUNID"]
    assert found != id_of(fitted / "dome")


def test_compare_refuses_the_bins_of_another_run(folder, capsys):
    one, other = id_of(folder / "dome"), id_of(folder / "again")
    shutil.copy(folder / "again" / BINNED, folder / "dome" / BINNED)
    products = [folder / "sky" / REFERENCE, folder / "dome" / PRODUCT]
    assert complaint(["compare", *products, "-o", folder / "c", "-q"], capsys) == (
        f"bayesflat: {folder / 'dome' / BINNED}: is of run {other}, {products[1]} of run {one}; "
        "a product needs the bins of its own run"
    )
    assert not (folder / "c").exists()


def test_the_bins_that_a_run_was_given_are_its_own(folder):
    """A fit of the binned table of another run leaves a copy, but the original will do."""
    assert run(["fit", str(folder / "dome" / BINNED), "-o", str(folder / "third"), "-C",
                str(folder / "dome" / CONFIG), "-q"]) == 0  # fmt: skip
    assert len({id_of(folder / name) for name in ("dome", "third")}) == 2
    products = [folder / "sky" / REFERENCE, folder / "third" / PRODUCT]
    tables = [folder / "sky" / BINNED, folder / "dome" / BINNED]
    assert run([str(a) for a in ("compare", *products, "--binned", *tables, "-o", folder / "c", "-q")]) == 0


def test_products_beside_the_config_of_another_run_are_refused(folder, capsys):
    one, other = id_of(folder / "dome"), id_of(folder / "again")
    shutil.copy(folder / "again" / CONFIG, folder / "dome" / CONFIG)
    sky, dome = folder / "sky" / REFERENCE, folder / "dome" / PRODUCT
    beside = folder / "dome" / CONFIG
    said = f"bayesflat: {dome}: is of run {one}, {beside} of run {other}; the folder holds files of two runs"
    assert complaint(["compare", sky, dome, "-o", folder / "c", "-q"], capsys) == said
    fits.PrimaryHDU([[1.0]]).writeto(folder / "flat.fits")
    arguments = ["apply", folder / "flat.fits", "--gradient", dome, "--reference", sky, "-o", folder / "c", "-q"]
    assert complaint(arguments, capsys) == said


def test_fit_refuses_bins_and_config_of_two_runs_in_a_folder(folder, capsys):
    shutil.copy(folder / "again" / CONFIG, folder / "dome" / CONFIG)
    arguments = ["fit", folder / "dome" / BINNED, "-C", folder / "dome" / CONFIG, "-o", folder / "c", "-q"]
    assert "the folder holds files of two runs" in complaint(arguments, capsys)
    assert not (folder / "c").exists()


# ---- products that are no use ----


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ({"VERDICT": "unusable"}, "--gradient is unusable (VERDICT)"),
        ({"CONVERGD": False}, "--gradient is of a fit that did not converge (CONVERGD = F)"),
    ],
)
def test_products_that_are_no_use_need_force(folder, small_camera, capsys, cards, said):
    sky, dome = folder / "sky" / REFERENCE, folder / "dome" / PRODUCT
    with fits.open(dome, mode="update") as hdus:
        hdus["PARAMETERS"].header.update(cards)
    detector = small_camera[12]
    header = fits.Header({"DETECTOR": 12, "FILTER": "i_39", "INSTRUME": small_camera.name})
    flat = fits.PrimaryHDU([[1000.0] * detector.nx] * detector.ny, header)
    flat.writeto(folder / "flat.fits")
    arguments = ["apply", folder / "flat.fits", "--gradient", dome, "--reference", sky, "-o", folder / "c", "--camera",
                 folder / "camera.ecsv"]  # fmt: skip
    line = complaint([*arguments, "-q"], capsys)
    assert f"bayesflat: {said}; --force (in Python force=True) applies it all the same" in line
    assert not (folder / "c").exists()
    assert run([str(a) for a in [*arguments, "--force"]]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert f"{said}; it was applied all the same" in shown
    assert (folder / "c" / "flat.fits").exists()
    read, products = read_flat(folder / "flat.fits", small_camera), (FlatGradient.read(dome), FlatGradient.read(sky))
    with pytest.raises(InputError, match=re.escape(f"{said}; --force (in Python force=True)")):
        apply_gradients(read, *products)
    by_force = apply_gradients(read, *products, force=True)
    np.testing.assert_allclose(by_force.image, fits.getdata(folder / "c" / "flat.fits"), rtol=1e-6)
