"""The command line as a user meets it: products, repeated fits, and one clear line for every mistake."""

import logging
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table

from bayesflat.cli import run
from bayesflat.commands.options import Settings, configured
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference import map as map_module
from tests.commands.conftest import FIT, TRUTH
from tests.helpers import complaint


def test_fit_leaves_what_it_should_and_finds_the_truth(fitted):
    assert sorted(p.name for p in fitted.iterdir()) == [
        "binned_image.fits", "config.toml", "fit.log", "flat_gradient.fits", "gradient_correlation_plot.png",
        "gradient_model_residual_plot.png", "gradient_offsets_plot.png", "gradient_predictive_plot.png",
        "gradient_radial_model_plot.png", "report.html",
    ]  # fmt: skip
    report = (fitted / "report.html").read_text(encoding="utf-8")
    assert "The fit converged" in report
    found = FlatGradient.read(fitted / "flat_gradient.fits")
    # white noise of 0.0005 a bin of 1.28 mm; 10000 bins
    assert (found.centroid_delta_x, found.centroid_delta_y) == pytest.approx(TRUTH["centroid_delta"], abs=0.02)
    assert (found.gradient_x, found.gradient_y) == pytest.approx(TRUTH["gradient"], abs=2e-6)
    assert found.itl_ratio == pytest.approx(0.9, abs=2e-4)
    assert found.estimates.converged
    assert found.estimates.method == "laplace"
    for name, true in (("itl_ratio", 0.9), ("centroid_delta_x", 0.8), ("gradient_x", 2e-4)):
        assert abs(found.estimates[name]["map"] - true) < 4 * found.estimates[name]["sd"]
    assert found.physical_filter == "i_39"
    assert found.metadata["CALIB_ID"].startswith("instrument=SmallCam filter=i_39 calibDate=2")
    assert len(np.unique(found.offsets.detector)) == 25
    assert found.estimates["outer_gradient_x"]["sd"] == 0.0
    assert [len(i["sha256"]) for i in found.config["inputs"]] == [64] * 25
    assert all(i["sha256"] in report for i in found.config["inputs"])
    assert "converged" in (fitted / "fit.log").read_text()


def test_binned_table_holds_what_was_in_the_flats(fitted, simulation):
    table = Table.read(fitted / "binned_image.fits")
    assert table.meta["FILTER"] == "i_39"
    camera = Camera.read(simulation / "camera.ecsv")
    path = next((simulation / "flats").glob("*R22_S00*"))
    image = fits.getdata(path, "IMAGE").astype(float)
    here = table[table["detector"] == camera["R22_S00"].id]
    px, py = camera["R22_S00"].focal_plane_to_pixel(here["xf"], here["yf"])
    # a bin without defects: its mean, unaltered
    row = np.flatnonzero(here["n_pixels"] == 100)[17]
    x, y = round(px[row] - 4.5), round(py[row] - 4.5)
    assert here["value"][row] == pytest.approx(image[y : y + 10, x : x + 10].mean(), rel=1e-9)


def test_config_and_binned_table_repeat_the_fit(fitted, tmp_path):
    again = tmp_path / "again"
    arguments = ["fit", str(fitted / "binned_image.fits"), "-C", str(fitted / "config.toml"), "-o", str(again), "-q"]
    assert run(arguments) == 0
    a, b = (FlatGradient.read(d / "flat_gradient.fits") for d in (fitted, again))
    np.testing.assert_array_equal(a.radial_spline_values, b.radial_spline_values)
    np.testing.assert_array_equal(a.estimates.columns["map"], b.estimates.columns["map"])
    assert tomllib.loads((fitted / "config.toml").read_text()) == tomllib.loads((again / "config.toml").read_text())


@pytest.mark.parametrize("overrides", [[], ["seed=3"], ["radial_spline_nodes=0,100,300"]])
def test_a_file_of_an_earlier_version_still_configures_a_fit(tmp_path, caplog, overrides):
    """It says that its nodes were placed, which has no meaning any more."""
    path = tmp_path / "config.toml"
    path.write_text("radial_spline_nodes = [0.0, 50.0, 300.0]\nradial_spline_nodes_placed = true\n")
    with caplog.at_level(logging.WARNING, "bayesflat"):
        config, _ = configured(Settings(tuple(overrides), str(path), ()), None, several=False)
    nodes = [0.0, 100.0, 300.0] if any("nodes" in text for text in overrides) else [0.0, 50.0, 300.0]
    assert config.radial_spline_nodes == nodes
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: radial_spline_nodes_placed has no meaning any more")


def test_a_retired_key_on_the_command_line_is_a_mistake(tmp_path, capsys):
    line = complaint(["fit", "x.fits", "-c", "radial_spline_nodes_placed=true", "-o", tmp_path / "out"], capsys)
    assert "unknown key 'radial_spline_nodes_placed'" in line


def test_reference_and_dome_products_have_their_own_names_and_overwrite_replaces_all(fitted, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["fit", fitted / "binned_image.fits", "-C", fitted / "config.toml", "-o", out, "-q"]
    assert run([str(a) for a in [*arguments, "-c", "do_reference_gradient=True"]]) == 0
    assert FlatGradient.read(out / "flat_gradient_reference.fits").estimates.reference
    before = (out / "flat_gradient_reference.fits").read_bytes()
    assert "holds flat_gradient_reference.fits already" in complaint(arguments, capsys)
    assert (out / "flat_gradient_reference.fits").read_bytes() == before
    (out / "mine.txt").write_text("not ours")
    assert (out / "report.html").exists()
    assert run([str(a) for a in [*arguments, "--overwrite", "--no-report", "-c", "saveLogOutput=false"]]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "binned_image.fits", "config.toml", "flat_gradient.fits", "gradient_correlation_plot.png",
        "gradient_model_residual_plot.png", "gradient_offsets_plot.png", "gradient_predictive_plot.png",
        "gradient_radial_model_plot.png", "mine.txt",
    ]  # fmt: skip


def test_not_converged_is_status_3_and_in_the_product(fitted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(map_module, "TOLERANCE", 0.0)
    out = tmp_path / "out"
    arguments = ["fit", fitted / "binned_image.fits", "-C", fitted / "config.toml", "-o", out, "-q"]
    assert "bayesflat: not converged: another start ended" in complaint(arguments, capsys, status=3)
    assert FlatGradient.read(out / "flat_gradient.fits").estimates.converged is False
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "The fit did not converge: do not use this product." in report
    # what it warns of is in the report, with and without a log
    assert "fit_eps has no use" not in report
    quiet = ["-c", "fit_eps=1e-6", "-c", "saveLogOutput=false", "--overwrite"]
    complaint([*arguments, *quiet], capsys, status=3)
    assert "<li>fit_eps has no use" in (out / "report.html").read_text(encoding="utf-8")


def test_interrupted_is_130_and_leaves_nothing(fitted, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(BinnedFlat, "write", interrupted)
    arguments = ["fit", fitted / "binned_image.fits", "-C", fitted / "config.toml", "-o", tmp_path / "a" / "b", "-q"]
    assert complaint(arguments, capsys, status=130) == "interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def spoil(simulation, folder, change):
    """A folder with one changed flat beside an untouched one."""
    folder.mkdir()
    good, bad = sorted((simulation / "flats").iterdir())[11:13]
    (folder / good.name).write_bytes(good.read_bytes())
    change(bad, folder / bad.name)
    return folder


def truncated(source, target):
    target.write_bytes(source.read_bytes()[:100_000])


def truncated_behind_the_mask(source, target):
    content = source.read_bytes()
    target.write_bytes(content[: int(0.9 * len(content))])


def without_image(source, target):
    fits.HDUList([fits.PrimaryHDU()]).writeto(target)


def all_nan(source, target):
    for path in sorted(source.parent.iterdir()):  # a focal plane of nothing but NaN
        with fits.open(path) as hdus:
            hdus["IMAGE"].data[:] = np.nan
            hdus.writeto(target.parent / path.name, overwrite=True)


def same_detector(source, target):
    target.write_bytes(source.read_bytes())
    target.with_name("copy_" + target.name).write_bytes(source.read_bytes())


def other_filter(source, target):
    with fits.open(source) as hdus:
        hdus[0].header["LSST BUTLER DATAID PHYSICAL_FILTER"] = "r_57"
        hdus[0].header["FILTER"] = "r_57"
        hdus.writeto(target)


def other_detector(source, target):
    with fits.open(source) as hdus:
        hdus[0].header["LSST BUTLER DATAID DETECTOR"] = 77
        hdus.writeto(target)


def no_fits(source, target):
    target.write_text("this is not FITS")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncated, "truncated"),
        (truncated_behind_the_mask, "truncated"),
        (without_image, "no image"),
        (all_nan, "not one good pixel"),
        (same_detector, "copy_"),
        (other_filter, "r_57"),
        (other_detector, "77"),
        (no_fits, "not"),
    ],
)
def test_bad_flats(simulation, tmp_path, capsys, change, message):
    folder = spoil(simulation, tmp_path / "flats", change)
    line = complaint(["fit", folder, "-o", tmp_path / "out", "--camera", simulation / "camera.ecsv", *FIT], capsys)
    assert message in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flats"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.fits"], "nowhere.fits"),
        (["empty"], "empty"),
        (["none*.fits"], "none*.fits"),
        (["T", "-c", "do_fit_gradiant=true"], "unknown key 'do_fit_gradiant'; did you mean 'do_fit_gradient'?"),
        (["T", "-c", "bin_factor=many"], "bin_factor: input should be a valid integer"),
        (["T", "-c", "do_fit_gradient"], "needs the form key=value"),
        (["T", "-c", "radial_spline_nodes=0,200,100"], "nodes must ascend, got 200 before 100"),
        (["T", "-c", "radial_spline_nodes=0,200"], "needs at least 3 nodes, got 2"),
        (["T", "-C", "nofile.toml"], "config nofile.toml: cannot be read"),
        (["T", "-C", "bad.toml"], "config bad.toml: not TOML"),
        (["T", "--camera", "hst"], "camera hst: no such file; accepted are lsstcam, lsstcomcam, decam, hsc or a table"),
        (["T", "--physical-filter", "r_57"], "filter is i_39, but --physical-filter r_57 was given"),
        (["T", "--defects", "empty"], "the input is a binned table"),
        (["T", "-j", "0"], "0 is not in the range"),
        (["T", "--nonsense"], "--nonsense"),
        ([], "INPUT"),
    ],
)
def test_bad_options(fitted, simulation, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.toml").write_text("a = = 1")
    arguments = [str(fitted / "binned_image.fits") if a == "T" else a for a in arguments]
    camera = [] if "--camera" in arguments else ["--camera", simulation / "camera.ecsv"]
    assert message in complaint(["fit", *arguments, "-o", "out", *camera], capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.toml", "empty"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.remove_column("yf"), "column yf missing"),
        (lambda t: t.replace_column("xf", ["a"] * len(t)), "column xf holds text"),
        (lambda t: t["yf"].__setitem__(3, np.nan), "column yf holds NaN or infinity in row 3"),
        (lambda t: t["detector"].__setitem__(0, 99), "detector 99 is not in camera"),
        (lambda t: t.remove_rows(slice(None)), "no rows"),
        (lambda t: t["value"].__setitem__(slice(None), np.nan), "no good bin"),
    ],
)
def test_bad_tables(fitted, simulation, tmp_path, capsys, change, message):
    table = Table.read(fitted / "binned_image.fits")
    change(table)
    table.write(tmp_path / "table.fits")
    line = complaint(
        ["fit", tmp_path / "table.fits", "-o", tmp_path / "out", "--camera", simulation / "camera.ecsv", *FIT], capsys
    )
    assert message in line
    assert [p.name for p in tmp_path.iterdir()] == ["table.fits"]


def test_constant_flat_ends(fitted, simulation, tmp_path, capsys):
    """There is nothing to measure, and no noise: the fit ends all the same, converged or not."""
    table = Table.read(fitted / "binned_image.fits")
    table["value"] = 100.0
    table.write(tmp_path / "table.fits")
    arguments = ["fit", tmp_path / "table.fits", "-o", tmp_path / "out", "--camera", simulation / "camera.ecsv", "-q"]
    status = run([str(a) for a in [*arguments, *FIT[:6], "-c", "do_constrain_zero=false"]])
    found = FlatGradient.read(tmp_path / "out" / "flat_gradient.fits")
    assert status == (0 if found.estimates.converged else 3)
    np.testing.assert_allclose(found.compute_radial([0.0, 20.0, 40.0, 50.0]), 1.0, atol=1e-3)


def test_sampling_too_little_fails_and_says_what_to_try(fitted, tmp_path, capsys):
    """Status 3; the product says that it did not converge, and the draws are kept for a closer look."""
    out = tmp_path / "out"
    arguments = ["fit", fitted / "binned_image.fits", "-C", fitted / "config.toml", "-o", out, "-q", "--sample"]
    more = [
        "--draws",
        10,
        "--tune",
        10,
        "--chains",
        2,
        "--seed",
        5,
        "-c",
        "noise=independent",
        "-c",
        "likelihood=normal",
    ]
    line = complaint([*arguments, *more], capsys, status=3)
    assert "ESS of" in line
    assert "below 400; try more draws (--draws)" in line
    found = FlatGradient.read(out / "flat_gradient.fits").estimates
    assert (found.method, found.converged) == ("nuts", False)
    assert [found.header[key][0] for key in ("NCHAINS", "NDRAWS", "SEEDNUTS")] == [2, 10, 5]
    draws = xr.open_datatree(out / "posterior.nc", engine="h5netcdf")["posterior"]["itl_ratio"].values
    assert found["itl_ratio"]["mean"] == pytest.approx(draws.mean(), rel=1e-12)
    resolved = tomllib.loads((out / "config.toml").read_text())
    assert [resolved[key] for key in ("draws", "tune", "chains", "seed")] == [10, 10, 2, 5]


@pytest.mark.parametrize("first", ["table", "flat"])
def test_table_must_be_the_only_input(fitted, simulation, tmp_path, capsys, first):
    inputs = [fitted / "binned_image.fits", next((simulation / "flats").iterdir())]
    line = complaint(["fit", *inputs[:: 1 if first == "table" else -1], "-o", tmp_path / "out"], capsys)
    assert "binned_image.fits: a binned table must be the only input, 2 were given" in line


def test_output_that_cannot_be_written(fitted, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["fit", fitted / "binned_image.fits", "-C", fitted / "config.toml", "-o"]
    assert "is a file; -o needs a folder" in complaint([*arguments, tmp_path / "file"], capsys)
    assert f"{tmp_path / 'file'} is a file" in complaint([*arguments, tmp_path / "file" / "out"], capsys)
    assert "cannot be written" in complaint([*arguments, "/proc/out"], capsys)


def test_simulate_with_chosen_truth(simulation, tmp_path):
    import json

    arguments = ["simulate", "-o", tmp_path / "s", "--camera", simulation / "camera.ecsv", "--kind", "dome", "-q"]
    arguments += ["--light", "gradient=1e-5,2e-5", "--light", "itl_ratio=0.8", "--noise", "detector_scatter=0"]
    assert run([str(a) for a in arguments]) == 0
    truth = json.loads((tmp_path / "s" / "truth.json").read_text())
    assert (truth["gradient_x"], truth["gradient_y"]) == (1e-5, 2e-5)
    assert truth["itl_ratio"] == pytest.approx(0.8, rel=0.01)  # amplifiers scatter still


def test_demo_checks_before_it_writes(tmp_path, capsys):
    (tmp_path / "dome_fit").mkdir()
    (tmp_path / "dome_fit" / "flat_gradient.fits").write_text("")
    assert "holds flat_gradient.fits already" in complaint(["demo", "-o", tmp_path], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["dome_fit"]


@pytest.mark.parametrize("option", [["--light", "gradient=a,b"], ["--noise", "detector_scatter=a,b"]])
def test_simulate_with_text_for_a_number(tmp_path, capsys, option):
    line = complaint(["simulate", "-o", tmp_path / "s", *option], capsys)
    assert f"{option[0]} {option[1].split('=')[0]}: needs a number, or two with a comma, got ['a', 'b']" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("--light", "gradient=1", "light: gradient must be two finite numbers, x and y; it is 1"),
        ("--light", "level=1,2", "light: level must be a finite number; it is (1, 2)"),
        ("--light", "radial=3", "light: radial is 3; accepted are 'lsstcam' or nodes and values"),
        ("--noise", "own_field=0.1,0.1", "noise: own_field must be one number; it is (0.1, 0.1)"),
        ("--noise", "field_scale=1,2", "noise: field_scale must be one number; it is (1, 2)"),
    ],
)
def test_simulate_says_how_many_numbers_a_field_takes(tmp_path, capsys, option, text, expected):
    assert expected in complaint(["simulate", "-o", tmp_path / "s", option, text], capsys)
    assert list(tmp_path.iterdir()) == []


def test_simulate_names_an_unknown_field(tmp_path, capsys):
    line = complaint(["simulate", "-o", tmp_path / "s", "--light", "tilt=1"], capsys)
    assert "--light: unknown key 'tilt'; known keys: radial," in line
    assert list(tmp_path.iterdir()) == []


def test_quiet_and_verbose(fitted, tmp_path, capsys):
    arguments = ["fit", str(fitted / "binned_image.fits"), "-C", str(fitted / "config.toml")]
    assert run([*arguments, "-o", str(tmp_path / "a"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert run([*arguments, "-o", str(tmp_path / "b"), "-v"]) == 0
    out, err = capsys.readouterr()
    assert "itl_ratio" in out
    assert "fitting" in err
    assert logging.getLogger("bayesflat").handlers == []


def test_importing_is_cheap():
    """Neither the package nor the command line's help loads what only a fit needs."""
    heavy = ("pymc", "pytensor", "matplotlib", "scipy", "astropy")
    code = f"import sys, bayesflat, bayesflat.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
