"""The shipped pipelines under ``pipetask``: reference, certification, fit, correction and comparison."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler, StorageClass
from lsst.pipe.base import Struct

from bayesflat.cli import run
from bayesflat.config import RunConfig
from bayesflat.gradient.product import FlatGradient
from bayesflat.rubin.tasks import (
    ApplyFlatGradientsConfig,
    ApplyFlatGradientsTask,
    FitFlatGradientsConfig,
    FitFlatGradientsTask,
)
from bayesflat.rubin.tasks.config import LEFT_OUT, run_config
from tests.helpers import message
from tests.rubin.pipelines import PIPELINES, QUICK, PipelineRepository, butler, pipetask, run_pipeline, standing_in
from tests.rubin.repositories import DOME, SKY, simulate

FIELDS = ["--no-report", *(part for key, value in QUICK.items() for part in ("-c", f"{key}={value}"))]
ONE = ("-d", "instrument='SmallCam' AND physical_filter='i_39'")
DATA_ID = {"instrument": "SmallCam", "physical_filter": "i_39"}


def spoil(folder):
    """No flat of a simulation has a good pixel."""
    for path in (folder / "flats").iterdir():
        with fits.open(path, mode="update") as hdus:
            hdus["IMAGE"].data[:] = np.nan


@pytest.fixture(scope="module")
def repo(small_camera, tmp_path_factory):
    """Sky and dome flats of i_39, sky flats of r_57 without a good pixel, and defects."""
    folder = tmp_path_factory.mktemp("pipelines")
    camera = small_camera.subset([5 * j + i for j in (1, 2, 3) for i in (0, 1, 2, 4)])
    with standing_in():
        camera.write(folder / "camera.ecsv")
        repo = PipelineRepository(folder / "repo", camera)
        repo.add_simulation("dome", simulate(folder / "dome", camera, DOME), "i_39", defects=True)
        repo.add_sky("sky", simulate(folder / "sky", camera, SKY, kind="sky"), "i_39")
        bad = simulate(folder / "bad", camera, SKY, kind="sky", physical_filter="r_57")
        spoil(bad)
        repo.add_sky("sky", bad, "r_57")
        yield repo


@pytest.fixture(scope="module")
def reference(repo):
    """The run of both filters' reference, one of which fails; what there is, is certified."""
    pipeline = PIPELINES / "flatGradientsReference.yaml"
    where = ("-d", "instrument='SmallCam'")
    label = "cpFlatFitGradientsReference"
    result = run_pipeline(repo, pipeline, "sky,defects,camera", "u/sky", label, *where)
    dates = ("--begin-date", "2026-01-01", "--end-date", "2027-01-01")
    done = butler("certify-calibrations", repo.path, "u/sky", "calib", "flat_gradient_reference", *dates)
    assert done.exit_code == 0, done.output
    return result


@pytest.fixture(scope="module")
def dome(repo, reference):
    """The run that fits, corrects and compares."""
    result = run_pipeline(repo, PIPELINES / "flatGradients.yaml", "dome,defects,camera,calib", "u/dome",
                          "cpFlatFitGradients", *ONE)  # fmt: skip
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def commands(repo, dome, tmp_path_factory):
    """The same by the commands, in a folder."""
    out = tmp_path_factory.mktemp("commands")
    ask = ["--butler", str(repo.path), "--camera", str(repo.path.with_name("camera.ecsv")), "--physical-filter", "i_39"]
    sky = ["fit", *ask, "--collections", "sky,defects", "-c", "connections.input_flats=flat", *FIELDS]
    assert run([*sky, "-c", "do_fit_gradient=true", "-c", "do_reference_gradient=true", "-o", str(out / "sky")]) == 0
    fit = ["fit", *ask, "--collections", "dome,defects", *FIELDS, "-c", "do_fit_gradient=true", "-o", str(out / "dome")]
    assert run(fit) == 0
    given = ["--gradient", str(out / "dome" / "flat_gradient.fits")]
    given += ["--reference", str(out / "sky" / "flat_gradient_reference.fits")]
    assert run(["apply", *ask, "--collections", "dome", *given, "-o", str(out / "flats")]) == 0
    assert run(["compare", *ask, "--collections", "u/dome,calib", "--no-report", "-o", str(out / "compare")]) == 0
    return out


@pytest.fixture(scope="module")
def here(repo, dome):
    """The repository as another process sees it, after the run."""
    return Butler.from_config(str(repo.path))


def get(here, name, **data_id):
    return here.get(name, DATA_ID | data_id, collections="u/dome")


def product(here, name, collections):
    """A product from its repository; the storage class stands for one that is not installed."""
    ours = StorageClass("IsrCalib", pytype=FlatGradient)
    return here.get(name, DATA_ID, collections=collections, storageClass=ours)


@pytest.mark.parametrize("kind", ["sky", "dome"])
def test_products_are_those_of_the_command(repo, here, commands, kind):
    name = "flat_gradient_reference" if kind == "sky" else "flat_gradient"
    theirs, ours = product(here, name, f"u/{kind}"), FlatGradient.read(commands / kind / f"{name}.fits")
    for key, column in ours.estimates.columns.items():
        np.testing.assert_allclose(theirs.estimates.columns[key], column, rtol=1e-12, err_msg=key)
    np.testing.assert_allclose(theirs.estimates.covariance, ours.estimates.covariance, rtol=1e-12)
    np.testing.assert_allclose(theirs.radial_spline_values, ours.radial_spline_values, rtol=1e-12)
    assert theirs.normalization_factor == pytest.approx(ours.normalization_factor, rel=1e-12)
    assert theirs.config["inputs"] == ours.config["inputs"]
    assert len(theirs.config["inputs"]) == 24  # flats and defects of 12 detectors
    light = SKY if kind == "sky" else DOME
    # the white noise of the bins leaves 2e-3 mm
    assert (theirs.centroid_delta_x, theirs.centroid_delta_y) == pytest.approx(light["centroid_delta"], abs=0.02)
    assert list(theirs.camera) == list(repo.camera)


def test_corrected_flats_are_those_of_the_command(repo, here, commands):
    for detector in repo.camera:
        flat = get(here, "flat", detector=detector.id)
        with fits.open(next((commands / "flats").glob(f"*_{detector.name}.fits"))) as hdus:
            for name in ("image", "variance", "mask"):
                np.testing.assert_allclose(getattr(flat, name).array, hdus[name].data, rtol=1e-12, err_msg=name)
        (ref,) = here.query_datasets("flat_gradient", "u/dome")
        assert flat.metadata["CPPGRSUM"] == hashlib.sha256(here.getURI(ref).read()).hexdigest()


def test_the_comparison_is_that_of_the_command(here, commands):
    """Paired: the flats that the products were fitted to are binned again."""
    theirs = get(here, "flat_gradient_comparison_summary")
    ours = json.loads((commands / "compare" / "comparison.json").read_text())
    ours.pop("run_id")
    assert theirs["method"] == ours["method"] == "paired"
    assert theirs["verdict"] == ours["verdict"] == "differ"
    assert theirs["inputs"] == ours["inputs"]
    for name, difference in ours["differences"].items():
        for key, value in difference.items():
            assert theirs["differences"][name][key] == (None if value is None else pytest.approx(value, rel=1e-12))
    np.testing.assert_allclose(theirs["radial"]["mean"], ours["radial"]["mean"], rtol=1e-12)


def test_the_summary_of_a_fit_is_what_the_product_says(here):
    summary, fitted = get(here, "flat_gradient_fit_summary"), product(here, "flat_gradient", "u/dome")
    estimates = fitted.estimates
    for name in ("itl_ratio", "centroid_delta_x", "gradient_y"):
        found, row = summary["parameters"][name], estimates[name]
        assert (found["map"], found["sd"]) == (row["map"], row["sd"])
    assert summary["parameters"]["centroid_delta_x"]["map"] == fitted.centroid_delta_x
    assert summary["verdict"] == estimates.header["VERDICT"][0]
    assert summary["reasons"] == fitted.config["verdict_reasons"]
    assert summary["converged"] is True
    assert set(summary["seconds"]) == {"binning", "fitting", "plotting"}
    metadata = get(here, "cpFlatFitGradients_metadata")["cpFlatFitGradients"]
    assert metadata["centroid_delta_x_map"] == fitted.centroid_delta_x
    assert (metadata["verdict"], metadata["n_detectors"]) == (summary["verdict"], 12)


def test_plots_are_put(here):
    for name in ("model_residual", "radial_model", "correlation", "predictive", "comparison_radial", "comparison_map"):
        name = f"gradient_{name}_plot"
        (ref,) = here.query_datasets(name, "u/dome")
        assert here.getURI(ref).read()[:4] == b"\x89PNG"


def test_a_filter_that_fails_leaves_the_others_whole(repo, reference):
    assert reference.exit_code != 0
    (ref,) = repo.butler.query_datasets("flat_gradient_reference", "u/sky")
    assert ref.dataId["physical_filter"] == "i_39"
    summaries = repo.butler.query_datasets("flat_gradient_fit_summary", "u/sky")
    assert [one.dataId["physical_filter"] for one in summaries] == ["i_39"]
    logs = repo.butler.get("cpFlatFitGradientsReference_log", DATA_ID | {"physical_filter": "r_57"},
                           collections="u/sky")  # fmt: skip
    assert any("not one good pixel, as in all 12 flats given" in one.message for one in logs)


def test_what_is_there_is_not_made_again(repo, dome):
    def made():
        return {ref.id for name in ("flat", "flat_gradient") for ref in repo.butler.query_datasets(name, "u/dome")}

    before = made()
    result = run_pipeline(repo, PIPELINES / "flatGradients.yaml", "dome,defects,camera,calib", "u/dome",
                          "cpFlatFitGradients", *ONE, "--extend-run", "--skip-existing")  # fmt: skip
    assert "QuantumGraph was empty" in result.output
    after = made()
    assert after == before
    assert len(after) == 13


def correct(here, repo, gradient=None, flat=None, **fields):
    """Correct a flat by the task itself."""
    config = ApplyFlatGradientsConfig()
    config.camera = str(repo.path.with_name("camera.ecsv"))
    for name, value in fields.items():
        setattr(config, name, value)
    where = DATA_ID | {"detector": 7}
    given = {
        "input_flat": flat or here.get("flat_uncorrected", where, collections="dome"),
        "gradient": gradient or product(here, "flat_gradient", "u/dome"),
        "reference_gradient": product(here, "flat_gradient_reference", "u/sky"),
    }
    records = ({"name": "dome.fits", "sha256": "1"}, {"name": "sky.fits", "sha256": "2"})
    return ApplyFlatGradientsTask(config=config).run(camera=None, **given, data_id=where, records=records).output_flat


def test_a_flat_is_not_corrected_twice(here, repo):
    flat = get(here, "flat", detector=7)
    said = message(correct, here, repo, flat=flat)
    assert said == ("flat of SmallCam, i_39, detector 7: was corrected before (card CPPGRSUM); apply gradients to the "
                    "flat as it was")  # fmt: skip


def test_products_that_did_not_converge_are_refused(here, repo, caplog):
    good = product(here, "flat_gradient", "u/dome")
    bad = replace(good, estimates=replace(good.estimates, converged=False))
    said = message(correct, here, repo, gradient=bad)
    assert said == ("--gradient is of a fit that did not converge (CONVERGD = F); allow_unusable=true applies it all "
                    "the same")  # fmt: skip
    flat = correct(here, repo, gradient=bad, allow_unusable=True)
    np.testing.assert_array_equal(flat.image.array, get(here, "flat", detector=7).image.array)
    assert "was applied all the same" in caplog.text


def test_a_fit_that_did_not_converge_is_there_and_ends_in_an_error(here, repo, monkeypatch, caplog):
    good = product(here, "flat_gradient", "u/dome")
    bad = replace(good, estimates=replace(good.estimates, converged=False))
    summary = {"converged": False, "message": "gradient norm 3", "verdict": "unusable", "n_bins": 7, "n_detectors": 2}
    struct = Struct(output_gradient=bad, fit_summary=summary)
    monkeypatch.setattr(FitFlatGradientsTask, "run", lambda self, **inputs: struct)
    pipeline = f"{PIPELINES / 'flatGradients.yaml'}#cpFlatFitGradients"
    result = run_pipeline(repo, pipeline, "dome,defects,camera", "u/bad", "cpFlatFitGradients", *ONE)
    assert result.exit_code != 0
    assert "UnconvergedFitError: gradient norm 3" in caplog.text
    assert product(Butler.from_config(str(repo.path)), "flat_gradient", "u/bad").estimates.converged is False


def test_without_defects_all_pixels_count_that_have_data(here, repo, caplog):
    refs = here.query_datasets("flat_uncorrected", "dome", limit=None)
    handles = {ref.dataId["detector"]: here.getDeferred(ref) for ref in refs}
    for use in (True, False):
        config = FitFlatGradientsConfig()
        config.bin_factor, config.detector_boundary, config.use_defects = 20, 0, use
        binned, inputs = FitFlatGradientsTask(config=config)._bin(repo.camera, run_config(config), handles, {})
        for number, handle in handles.items():
            flat = handle.get()
            good = (flat.mask.array & (1 << flat.mask.getMaskPlaneDict()["NO_DATA"])) == 0
            good &= np.isfinite(flat.image.array)
            assert binned.n_pixels[binned.detector == number].sum() == good.sum() > 39_000
        assert {one["data_id"]["detector"] for one in inputs} == set(handles)
    assert caplog.text.count("no defects for 12 of 12 detectors") == 1  # where they are asked for


# ---- without a repository ----


def build(*arguments):
    return pipetask("build", "-p", PIPELINES / "flatGradients.yaml", *arguments)


def test_every_field_is_shown(tmp_path):
    """In the form that ``-C`` reads."""
    for pipeline, labels in (
        ("flatGradients.yaml", ["cpFlatFitGradients", "cpFlatApplyGradients", "cpFlatCompareGradients"]),
        ("flatGradientsReference.yaml", ["cpFlatFitGradientsReference"]),
    ):
        shown = pipetask("build", "-p", f"resource://bayesflat/pipelines/{pipeline}", "--show", "config").output
        assert [line.split("`")[1].rstrip("'") for line in shown.splitlines() if line.startswith("### ")] == labels
    for name in [*(name for name in RunConfig.model_fields if name not in LEFT_OUT), "use_defects", "saveLogOutput"]:
        assert f"\nconfig.{name}=" in shown
    assert "config.connections.input_flats='flat'" in shown


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("bin_factor=0", "config: bin_factor: input should be greater than or equal to 1, got 0"),
        ("radial_spline_nodes=[0,200,100]", "config: radial_spline_nodes: nodes must ascend, got 200 before 100, got"),
        ('priors={"gradient": "wide"}', 'needs {dist = "normal", mu = ..., sigma = ...} or "flat", got \'wide\''),
        ("camera=nowhere", "camera nowhere: no such file"),
    ],
)
def test_a_wrong_value_is_one_line(setting, said, caplog):
    """In the exception that pipetask chains to its own."""
    result = build("-c", f"cpFlatFitGradients:{setting}", "--show", "config")
    assert result.exit_code != 0
    (line,) = [one for one in caplog.text.splitlines() if one.startswith("bayesflat.errors.InputError: ")]
    assert said in line


def test_contracts_hold_the_tasks_together(caplog):
    result = build("-c", "cpFlatApplyGradients:connections.gradient=flat_blue_gradient", "--show", "config")
    assert result.exit_code != 0
    assert "cpFlatApplyGradients.connections.gradient == cpFlatFitGradients.connections.output_gradient" in caplog.text
