"""Results of a data repository: fits, corrections and comparisons from the command line, and what comes back out."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf import butler as daf_butler

from bayesflat.cli import run
from bayesflat.errors import InputError
from bayesflat.gradient.correction import compute_correction
from bayesflat.gradient.product import FlatGradient
from bayesflat.rubin.output import OutputRun, gradient_kind
from tests.helpers import complaint
from tests.rubin.repositories import DOME, FIT, LATER, boxes_of, fresh, read

FILES = ["binned_image.fits", "config.toml", "fit.log", "flat_gradient.fits", "gradient_correlation_plot.png",
         "gradient_model_residual_plot.png", "gradient_predictive_plot.png",
         "gradient_radial_model_plot.png", "report.html"]  # fmt: skip


@pytest.fixture(scope="module")
def fitted(repo, asking, tmp_path_factory):
    """Fits of both dates in one call, and of the sky: in a folder and in the repository."""
    out = tmp_path_factory.mktemp("fitted")
    dates = ["--date", "2026-01-15", "--date", "2026-02-01T00:00:00"]
    dome = ["fit", *asking, "--collections", "calib", "--physical-filter", "i_39", *dates]
    assert run([*dome, "-o", str(out / "dome"), "--output-run", "fit/dome", *FIT]) == 0
    sky = ["fit", *asking, "--collections", "sky/first,defects", "--output-run", "fit/sky"]
    assert run([*sky, "-c", "do_reference_gradient=true", *FIT]) == 0
    return out


def scalars(product):
    return [product.centroid_delta_x, product.centroid_delta_y, product.gradient_x, product.gradient_y]


def test_each_date_is_fitted_with_the_flats_that_are_certified_for_it(repo, fitted):
    """Flats whose records name formatters that are not installed, and whose headers are wrong."""
    with pytest.raises(ImportError):
        fresh(repo).get(repo.refs("flat_uncorrected", "dome/first")[0])
    for folder, light in (("2026-01-15", DOME), ("2026-02-01T00_00_00", LATER)):
        assert sorted(p.name for p in (fitted / "dome" / folder).iterdir()) == FILES
        found = FlatGradient.read(fitted / "dome" / folder / "flat_gradient.fits")
        # the white noise of the bins leaves 1e-3 mm and 1e-6/mm
        assert scalars(found)[:2] == pytest.approx(light["centroid_delta"], abs=0.01)
        assert scalars(found)[2:] == pytest.approx(light["gradient"], abs=5e-6)
        assert (found.instrument, found.physical_filter) == ("SmallCam", "i_39")
        back = read(repo, "flat_gradient", f"fit/dome/{folder}")
        np.testing.assert_array_equal(back.estimates.columns["map"], found.estimates.columns["map"])
        assert not back.estimates.reference
    assert read(repo, "flat_gradient_reference", "fit/sky").estimates.reference
    assert scalars(read(repo, "flat_gradient_reference", "fit/sky"))[:2] == pytest.approx((-0.3, 0.4), abs=0.01)


def test_files_in_the_repository_are_those_in_the_folder(repo, fitted):
    butler = fresh(repo)
    for name, file in (
        ("flat_gradient", "flat_gradient.fits"),
        ("gradient_model_residual_plot", "gradient_model_residual_plot.png"),
        ("gradient_radial_model_plot", "gradient_radial_model_plot.png"),
    ):
        (ref,) = butler.query_datasets(name, "fit/dome/2026-01-15")
        assert butler.getURI(ref).read() == (fitted / "dome" / "2026-01-15" / file).read_bytes()


def test_dataset_types_are_those_of_lsst(repo, fitted):
    found = {
        name: (set(kind.dimensions.required), kind.storageClass_name, kind.isCalibration())
        for name in ("flat_gradient", "flat_gradient_reference", "gradient_model_residual_plot")
        for kind in [fresh(repo).get_dataset_type(name)]
    }
    dimensions = {"instrument", "physical_filter"}
    assert found == {
        "flat_gradient": (dimensions, "IsrCalib", False),
        "flat_gradient_reference": (dimensions, "IsrCalib", True),
        "gradient_model_residual_plot": (dimensions, "Plot", False),
    }


def test_product_names_its_inputs_by_their_ids_and_checksums(repo, fitted):
    inputs = FlatGradient.read(fitted / "dome" / "2026-01-15" / "flat_gradient.fits").config["inputs"]
    flats = {str(ref.id): ref for ref in repo.refs("flat_uncorrected", "dome/first")}
    defects = {str(ref.id): ref for ref in repo.refs("defects", "defects")}
    mine = {key for key, ref in flats.items() if ref.dataId["physical_filter"] == "i_39"}
    assert {one["id"] for one in inputs} == mine | set(defects)
    for one in inputs:
        ref = (flats | defects)[one["id"]]
        assert (one["dataset_type"], one["run"]) == (ref.datasetType.name, ref.run)
        assert one["data_id"] == dict(ref.dataId.required)
        content = Path(one["name"].removeprefix("file://")).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()


def test_defects_are_left_out(repo, fitted):
    """Tables in both forms, whatever they call their detector: pixels in their boxes are not binned."""
    table = fits.getdata(fitted / "dome" / "2026-01-15" / "binned_image.fits", 1)
    endings = set()
    for ref in repo.refs("defects", "defects"):
        path = Path(repo.butler.getURI(ref).ospath)
        endings.add(path.suffix)
        bad = np.zeros((200, 200), dtype=bool)
        for x0, y0, width, height in boxes_of(path):
            bad[y0 : y0 + height, x0 : x0 + width] = True
        assert bad.sum() >= 200
        rows = table["detector"] == ref.dataId["detector"]
        assert table["n_pixels"][rows].sum() == 40_000 - bad.sum()
    assert endings == {".fits", ".ecsv"}


# ---- apply ----


def test_apply_puts_corrected_flats_back(repo, asking, fitted, small_camera, tmp_path, capsys):
    ask = ["apply", *asking, "--collections", "dome/first,fit/dome/2026-01-15,fit/sky", "--physical-filter", "i_39"]
    assert run([*ask, "-o", str(tmp_path / "out"), "--output-run", "corrected", "-j", "2", "-q"]) == 0
    butler = fresh(repo)
    dome = read(repo, "flat_gradient", "fit/dome/2026-01-15")
    sky = read(repo, "flat_gradient_reference", "fit/sky")
    refs = butler.query_datasets("flat", "corrected")
    assert {ref.dataId["detector"] for ref in refs} == set(range(25))
    kind = butler.get_dataset_type("flat")
    assert (kind.storageClass_name, kind.isCalibration()) == ("ExposureF", True)
    storage = daf_butler.StorageClass("ExposureF", pytype=fits.HDUList)
    ids = {ref.dataId["detector"]: str(ref.id) for ref in repo.refs("flat_uncorrected", "dome/first")
           if ref.dataId["physical_filter"] == "i_39"}  # fmt: skip
    for ref in refs[:3]:
        number = ref.dataId["detector"]
        hdus = butler.get(ref, storageClass=storage)
        correction = compute_correction(small_camera[number], dome, sky)
        there = ~correction.nowhere
        before = fits.getdata(repo.path.parent / "first" / f"{number}.fits", "IMAGE")
        np.testing.assert_array_equal(hdus["IMAGE"].data[there], (before * correction.factor)[there])
        header = hdus[0].header
        assert header["LSST BUTLER ID"] == str(ref.id)
        assert (header["LSST BUTLER RUN"], header["LSST BUTLER DATASETTYPE"]) == ("corrected", "flat")
        assert header["LSST BUTLER DATAID DETECTOR"] == number
        assert header["LSST BUTLER DATAID PHYSICAL_FILTER"] == "i_39"
        (gradient,) = butler.query_datasets("flat_gradient", "fit/dome/2026-01-15")
        (reference,) = butler.query_datasets("flat_gradient_reference", "fit/sky")
        inputs = [header[f"LSST BUTLER INPUT {k} ID"] for k in range(3)]
        assert inputs == [ids[number], str(gradient.id), str(reference.id)]
        assert header["LSST BUTLER N_INPUTS"] == 3
        assert "LSST BUTLER INPUT 9 ID" not in header
        name = f"flat_SmallCam_i_39_{small_camera[number].name}.fits"
        assert butler.getURI(ref).read() == (tmp_path / "out" / name).read_bytes()
    again = complaint([*ask, "--output-run", "corrected", "-q"], capsys)
    assert again.endswith("--output-run corrected: holds flat of i_39 0 already; give another run, or --overwrite")
    twice = [*ask[:-1], "i_39", "--collections", "corrected", "-c", "connections.input_flat=flat", "-o", tmp_path / "2"]
    assert "was corrected before" in complaint(twice, capsys)
    assert run([*ask, "--output-run", "corrected", "--overwrite", "-q"]) == 0
    after = fresh(repo).query_datasets("flat", "corrected")
    assert {ref.id for ref in after}.isdisjoint({ref.id for ref in refs})
    assert all(fresh(repo).getURI(ref).exists() for ref in after)


def test_apply_with_products_in_files_and_filters_that_lack_one(repo, asking, fitted, tmp_path, capsys):
    gradient = fitted / "dome" / "2026-01-15" / "flat_gradient.fits"
    ask = ["apply", *asking, "--collections", "dome/first,fit/sky", "--where", "detector < 2", "-q"]
    line = complaint([*ask, "--gradient", gradient, "-o", tmp_path / "out"], capsys)
    assert line.startswith("bayesflat: r_57: ")
    assert "no flat_gradient_reference of SmallCam and r_57 in dome/first, fit/sky" in line
    assert line.endswith("there are those of i_39")
    assert sorted(p.name for p in (tmp_path / "out" / "i_39").iterdir()) == [
        "flat_SmallCam_i_39_R00_S00.fits", "flat_SmallCam_i_39_R01_S00.fits",
    ]  # fmt: skip
    header = fits.getheader(tmp_path / "out" / "i_39" / "flat_SmallCam_i_39_R01_S00.fits")
    assert header["CPPGRSUM"] == hashlib.sha256(gradient.read_bytes()).hexdigest()


# ---- compare ----


@pytest.fixture(scope="module")
def pair(repo, fitted, asking, tmp_path_factory):
    """Copies of the products, each beside its binned table, as a user would export them."""
    out = tmp_path_factory.mktemp("pair")
    sky = ["fit", *asking, "--collections", "sky/first,defects", "--physical-filter", "i_39", "-o", str(out / "sky")]
    assert run([*sky, "-c", "do_reference_gradient=true", *FIT]) == 0
    shutil.copytree(fitted / "dome" / "2026-01-15", out / "dome")
    return [str(out / "sky" / "flat_gradient_reference.fits"), str(out / "dome" / "flat_gradient.fits")]


def read_comparison(folder):
    return json.loads((folder / "comparison.json").read_text())


@pytest.mark.parametrize("method", ["paired", "unpaired"])
def test_compare_is_that_of_the_exported_files(repo, asking, pair, method, tmp_path, capsys):
    """The flats that the products were fitted to are binned again, with their defects: the answer is the same."""
    options = ["--unpaired"] if method == "unpaired" else []
    assert run(["compare", *pair, "-o", str(tmp_path / "files"), *asking[2:], *options, "-q"]) == 0
    ask = ["compare", *asking, "--collections", "fit/dome/2026-01-15,fit/sky", *options, "-j", "2"]
    assert run([*ask, "-o", str(tmp_path / "all")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("i_39: ")
    assert f"written to {tmp_path / 'all' / 'i_39'}" in printed.replace("\n", "")
    here, there = read_comparison(tmp_path / "all" / "i_39"), read_comparison(tmp_path / "files")
    assert here["method"] == there["method"] == method
    for name, one in there["differences"].items():
        for key, value in one.items():
            assert here["differences"][name][key] == pytest.approx(value, rel=1e-9, abs=1e-30), (name, key)
    assert here["radial"]["mean"] == pytest.approx(there["radial"]["mean"], rel=1e-9, abs=1e-12)
    assert (here["n_bins"], here["noise"]) == (there["n_bins"], pytest.approx(there["noise"], rel=1e-9))
    names = [p.name for p in sorted((tmp_path / "files").iterdir())]
    assert [p.name for p in sorted((tmp_path / "all" / "i_39").iterdir())] == names
    # what was compared, by Butler's ids
    butler = fresh(repo)
    used = [butler.query_datasets("flat_gradient_reference", "fit/sky"),
            butler.query_datasets("flat_gradient", "fit/dome/2026-01-15")]  # fmt: skip
    if method == "paired":
        flats = [repo.refs("flat_uncorrected", name) for name in ("sky/first", "dome/first")]
        used += [[ref for ref in refs if ref.dataId["physical_filter"] == "i_39"] for refs in flats]
        used += [repo.refs("defects", "defects")] * 2
    assert sorted(one["id"] for one in here["inputs"]) == sorted(str(ref.id) for refs in used for ref in refs)
    for one in here["inputs"]:
        assert one["sha256"] == hashlib.sha256(Path(one["name"].removeprefix("file://")).read_bytes()).hexdigest()


def test_compare_with_given_bins_reads_no_flats(asking, pair, tmp_path):
    tables = [str(Path(path).with_name("binned_image.fits")) for path in pair]
    ask = ["compare", *asking, "--collections", "fit/dome/2026-01-15,fit/sky", "--physical-filter", "i_39", "-q"]
    assert run([*ask, "--binned", *tables, "-o", str(tmp_path / "given")]) == 0
    assert run(["compare", *pair, *asking[2:], "-o", str(tmp_path / "files"), "-q"]) == 0
    here, there = (read_comparison(tmp_path / name) for name in ("given", "files"))
    assert here["differences"] == there["differences"]
    assert [one["name"] for one in here["inputs"][2:]] == tables
    assert len(here["inputs"]) == 4


def test_flats_that_have_changed_since_the_fit(repo, asking, pair, tmp_path, capsys):
    """A flat that has changed is an error; where a product was fitted to files, the products are compared alone."""
    ask = ["compare", *asking, "--collections", "fit/dome/2026-01-15,fit/sky", "--physical-filter", "i_39"]
    (ref,) = [ref for ref in repo.refs("flat_uncorrected", "sky/first") if ref.dataId["detector"] == 3]
    path = Path(repo.butler.getURI(ref).ospath)
    content = path.read_bytes()
    path.write_bytes(content + bytes(2880))
    line = complaint([*ask, "-o", tmp_path / "out", "-q"], capsys)
    path.write_bytes(content)
    assert line.startswith(f"bayesflat: i_39: file://{path}: has changed since the product was fitted to it")
    assert not (tmp_path / "out").exists()
    # a dome that was fitted to a binned table, and put by hand
    table = str(Path(pair[1]).with_name("binned_image.fits"))
    assert run(["fit", table, *asking[2:], "-o", str(tmp_path / "fit"), *FIT]) == 0
    output = OutputRun(repo.butler, "fit/byhand")
    kind = gradient_kind("flat_gradient", reference=False)
    data_id = {"instrument": "SmallCam", "physical_filter": "i_39"}
    output.put([(tmp_path / "fit" / "flat_gradient.fits", kind, output.reference(kind, data_id))])
    ask[ask.index("--collections") + 1] = "fit/byhand,fit/sky"
    capsys.readouterr()
    assert run([*ask, "-o", str(tmp_path / "alone")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "is not in the repository, an input of the dome's product, so the products are compared alone" in said
    assert read_comparison(tmp_path / "alone")["method"] == "unpaired"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--physical-filter", "i_39,r_57"], "no flat_gradient_reference of SmallCam and r_57 in fit/dome/2026-01-15"),
        (["--collections", "fit/sky"], "no flat_gradient of SmallCam in fit/sky"),
        (["--physical-filter", "i_39", "-c", "connections.gradient=flat_gradient_reference"], None),
        (["--binned", "a.fits", "b.fits", "--unpaired"], "--binned is for a paired comparison"),
        (["sky.fits"], "sky.fits: the input comes from --butler or from files, not from both"),
        (["--where", "detector = 3"], "No such option '--where'"),
    ],
)
def test_mistakes_in_comparing(asking, fitted, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = [] if "--collections" in arguments else ["--collections", "fit/dome/2026-01-15,fit/sky"]
    ask = ["compare", *asking, *given, "-o", "out", "-q", *arguments]
    if message is None:  # both are references, of one flat: no difference, and a note that says so
        assert run(ask) == 0
        assert read_comparison(tmp_path / "out")["notes"] == ["both products are references by their headers"]
        return
    assert message in complaint(ask, capsys)
    left = list(tmp_path.iterdir())
    # of two filters, the one that has both products is there
    assert [p.name for p in left] == (["out"] if "i_39,r_57" in arguments else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--butler", "REPO", "-o", "out"], "--butler needs --collections"),
        (["fit", "--butler", "REPO", "--collections", "dome/first"], "-o or --output-run must say where"),
        (["fit", "a.fits", "--collections", "dome/first", "-o", "out"], "--collections needs --butler"),
        (["fit", "a.fits", "--physical-filter", "i_39,r_57", "-o", "out"], "several (i_39, r_57) need --butler"),
        (["fit", "a.fits"], "-o must say which folder to write"),
        (["apply", "a.fits", "-o", "out", "--gradient", "g.fits"], "--reference must say which product to apply"),
        (
            ["apply", "--butler", "REPO", "--collections", "fit/sky", "-o", "out"],
            "no flat_uncorrected of SmallCam in f",
        ),
    ],
)
def test_options_that_do_not_go_together(repo, fitted, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in complaint([str(repo.path) if a == "REPO" else a for a in arguments], capsys)
    assert list(tmp_path.iterdir()) == []


# ---- what is there already, and what is replaced ----


def test_results_that_are_there_already_stay(repo, asking, fitted, tmp_path, capsys):
    ask = ["fit", *asking, "--collections", "sky/first", *FIT, "-c", "do_reference_gradient=true"]
    there = "--output-run fit/sky: holds flat_gradient_reference of i_39 already"
    assert complaint([*ask, "--output-run", "fit/sky"], capsys).endswith(f"{there}; give another run, or --overwrite")
    repo.certify("certified", "flat_gradient_reference", "fit/sky", "2026-01-01", None)
    line = complaint([*ask, "--output-run", "fit/sky", "--overwrite"], capsys)
    assert line.endswith(f"{there}, and certified has it too; give another run")
    (tmp_path / "flat_gradient.fits").write_text("")
    line = complaint([*ask, "--physical-filter", "i_39", "-o", tmp_path], capsys)
    assert line.endswith("holds flat_gradient.fits already; give another folder, or --overwrite")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_replaced_stays_where_the_new_cannot_be_put(repo, fitted, tmp_path, monkeypatch, failure):
    """In the registry and in the files: the old product is read as before."""
    kind = gradient_kind("flat_gradient", reference=False)
    data_id = {"instrument": "SmallCam", "physical_filter": "i_39"}
    old, new = (fitted / "dome" / date / "flat_gradient.fits" for date in ("2026-01-15", "2026-02-01T00_00_00"))
    output = OutputRun(repo.butler, f"fit/{type(failure).__name__}", overwrite=True)
    output.put([(old, kind, output.reference(kind, data_id))])
    (before,) = fresh(repo).query_datasets("flat_gradient", output.run)

    def fail(*datasets, **how):
        assert not repo.butler.getURI(before).exists()
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(repo.butler, "ingest", fail)
        with pytest.raises((InputError, KeyboardInterrupt)):
            output.put([(new, kind, output.reference(kind, data_id))])
    (after,) = fresh(repo).query_datasets("flat_gradient", output.run)
    assert after.id == before.id
    assert fresh(repo).getURI(after).read() == old.read_bytes()
    output.put([(new, kind, output.reference(kind, data_id))])
    (after,) = fresh(repo).query_datasets("flat_gradient", output.run)
    assert fresh(repo).getURI(after).read() == new.read_bytes()


_PUT = """
import os, sys
from pathlib import Path
from lsst.daf.butler import Butler
from lsst.daf.butler.direct_butler import DirectButler
from bayesflat.rubin.output import OutputRun, gradient_kind
butler = Butler.from_config(sys.argv[1], writeable=True)
ingest = DirectButler.ingest
def killed(self, *datasets, **how):
    if sys.argv[4] == "after":
        ingest(self, *datasets, **how)
    os.kill(os.getpid(), 9)
DirectButler.ingest = killed
kind = gradient_kind("flat_gradient", reference=False)
output = OutputRun(butler, sys.argv[2], overwrite=True)
output.put([(Path(sys.argv[3]), kind, output.reference(kind, {"instrument": "SmallCam", "physical_filter": "i_39"}))])
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("there", [False, True])
def test_a_put_that_was_killed_does_not_stop_the_next_one(repo, fitted, when, there):
    """Killed while the file is there and the registry does not know, or the other way round."""
    kind = gradient_kind("flat_gradient", reference=False)
    data_id = {"instrument": "SmallCam", "physical_filter": "i_39"}
    old, new = (fitted / "dome" / date / "flat_gradient.fits" for date in ("2026-01-15", "2026-02-01T00_00_00"))
    name = f"fit/killed {when} {there}".replace(" ", "_")
    if there:
        output = OutputRun(repo.butler, name)
        output.put([(old, kind, output.reference(kind, data_id))])
    killed = subprocess.run([sys.executable, "-c", _PUT, str(repo.path), name, str(new), when], check=False)
    assert killed.returncode == -9
    # what has no file needs no --overwrite; a file of the new run in the place of the old one's cannot be told from it
    for overwrite in (True,) if (when, there) == ("after", True) else (False, True):
        output = OutputRun(fresh(repo, writeable=True), name, overwrite=overwrite)
        output.check([kind], [data_id])
        output.put([(new, kind, output.reference(kind, data_id))])
        (found,) = fresh(repo).query_datasets("flat_gradient", name)
        assert fresh(repo).getURI(found).read() == new.read_bytes()
