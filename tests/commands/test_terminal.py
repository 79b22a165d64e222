"""What a user sees: JSON, help, completion, and plain lines where there is no terminal."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
from click.shell_completion import ShellComplete

from bayesflat.cli import cli, run
from bayesflat.config import RunConfig
from bayesflat.gradient.product import FlatGradient
from tests.commands.conftest import FIT

COMMANDS = ["fit", "apply", "compare", "simulate", "demo"]


def printed(arguments, capsys, status=0):
    assert run([str(argument) for argument in arguments]) == status
    return capsys.readouterr()


def arguments_of(fitted, simulation):
    return ["fit", fitted / "binned_image.fits", "--camera", simulation / "camera.ecsv", *FIT]


def test_json_of_a_fit_is_what_the_product_says(fitted, simulation, tmp_path, capsys):
    out = tmp_path / "out"
    found = json.loads(printed([*arguments_of(fitted, simulation), "-o", out, "--json", "-q"], capsys).out)
    product = FlatGradient.read(out / "flat_gradient.fits")
    assert found["written"] == [str(out)]
    assert found["converged"] is True
    assert found["message"].startswith("converged: ")
    assert found["verdict"] == product.estimates.header["VERDICT"][0]
    assert found["reasons"] == product.config["verdict_reasons"]
    assert found["run_id"] == product.estimates.header["RUNID"][0]
    assert found["method"] == "laplace"
    for name in ("itl_ratio", "centroid_delta_x", "gradient_y"):
        assert found["parameters"][name]["map"] == getattr(product, name)
        assert found["parameters"][name]["sd"] == product.estimates[name]["sd"]
        assert found["parameters"][name]["fitted"]
    assert found["parameters"]["gradient_x"]["unit"] == "1/mm"
    assert not found["parameters"]["outer_gradient_x"]["fitted"]
    for radius, value, sd in zip(*(found["radial"][key] for key in ("radius", "value", "sd")), strict=True):
        assert value == pytest.approx(product.compute_radial(radius), rel=1e-12)
        assert sd == pytest.approx(product.compute_radial_sd(radius), rel=1e-12)
    assert found["n_bins"] == product.estimates.header["NBINS"][0]


def test_json_of_a_comparison_a_correction_and_a_simulation(fitted, simulation, tmp_path, capsys):
    sky = tmp_path / "sky"
    again = [*arguments_of(fitted, simulation), "-o", sky, "-c", "do_reference_gradient=true", "-q"]
    assert printed(again, capsys).out == ""
    products = [sky / "flat_gradient_reference.fits", fitted / "flat_gradient.fits"]
    compared = ["compare", *products, "-o", tmp_path / "compared", "--no-report", "--json"]
    found = json.loads(printed(compared, capsys).out)
    written = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert found["verdict"] == "agree"  # they were fitted to the same bins
    assert {key: value for key, value in found.items() if key not in ("inputs", "written")} == {
        key: value for key, value in written.items() if key not in ("inputs", "run_id")
    }
    assert found["written"] == [str(tmp_path / "compared")]
    applied = ["apply", simulation / "flats", "--gradient", products[1], "--reference", products[0],
               "--camera", simulation / "camera.ecsv", "-o", tmp_path / "corrected", "--json"]  # fmt: skip
    found = json.loads(printed(applied, capsys).out)
    assert found == {"corrected_flats": 25, "written": [str(tmp_path / "corrected")]}
    simulated = ["simulate", "--camera", simulation / "camera.ecsv", "--coarse", 8, "-o", tmp_path / "new", "--json"]
    found = json.loads(printed(simulated, capsys).out)
    assert found["truth"] == json.loads((tmp_path / "new" / "truth.json").read_text())


def test_json_of_what_did_not_converge_says_so(fitted, simulation, tmp_path, capsys):
    sampled = ["--sample", "--draws", 20, "--tune", 5, "--chains", 2, "--json"]
    shown = printed([*arguments_of(fitted, simulation), "-o", tmp_path / "out", *sampled], capsys, status=3)
    found = json.loads(shown.out)
    assert (found["converged"], found["verdict"], found["method"]) == (False, "unusable", "nuts")
    assert "R-hat" in found["message"] or "ESS" in found["message"]
    assert "the product says so" in shown.err


def test_json_of_a_mistake_is_nothing(tmp_path, capsys):
    shown = printed(["fit", tmp_path / "none.fits", "-o", tmp_path / "out", "--json"], capsys, status=2)
    assert shown.out == ""
    assert "none.fits" in shown.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option_under_a_heading(command, capsys):
    text = printed([command, "--help"], capsys).out
    headings = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[-1] == "Running"
    for parameter in cli.commands[command].params:
        if parameter.param_type_name == "option":
            assert text.count(f"{max(parameter.opts, key=len)} ") + text.count(f"{max(parameter.opts, key=len)}\n") >= 1
    if command == "fit":
        assert headings == ["Options", "Configuration", "Headers", "Data repository", "Sampling", "Running"]
        at = {name: text.index(name) for name in ("--defects PATH", "--config-file", "--collections", "--tune")}
        order = [text.index(f"\n{heading}:") for heading in headings]
        assert order[0] < at["--defects PATH"] < order[1] < at["--config-file"] < order[2]
        assert order[3] < at["--collections"] < order[4] < at["--tune"] < order[5]


def test_defaults_in_the_help_are_those_of_the_config(capsys):
    text = " ".join(printed(["fit", "--help"], capsys).out.split())
    for option, name in (("--draws", "draws"), ("--tune", "tune"), ("--chains", "chains"), ("--seed", "seed")):
        default = text[text.index(f"{option} INTEGER") :].split("[default: ", 1)[1].split("]")[0]
        assert int(default.split(";")[0]) == RunConfig.model_fields[name].default


def completed(arguments, incomplete):
    return [item.value for item in ShellComplete(cli, {}, "bayesflat", "_B").get_completions(arguments, incomplete)]


def test_completion_knows_fields_and_cameras():
    assert completed(["fit", "-c"], "do_fit_c") == ["do_fit_centroid=true", "do_fit_centroid=false"]
    assert completed(["fit", "--config"], "noi") == ["noise=independent", "noise=hierarchical"]
    assert completed(["fit", "-c"], "bin_f") == ["bin_factor=128"]
    assert completed(["apply", "--camera"], "lsst") == ["lsstcam", "lsstcomcam"]
    # every field is offered, and what is offered is accepted
    offered = completed(["fit", "-c"], "")
    assert {text.split("=")[0] for text in offered} == set(RunConfig.model_fields)
    for text in offered:
        key, value = text.split("=", 1)
        if value and key not in ("camera",):
            RunConfig.make({key: _read(value)}, "-c")


def _read(value):
    try:
        return tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        return [float(part) for part in value.split(",")] if value[0].isdigit() else value


def test_without_a_terminal_lines_are_plain_and_whole(fitted, simulation, tmp_path):
    arguments = [*arguments_of(fitted, simulation), "-o", tmp_path / "out", "-v", "--no-report"]
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "bayesflat", *map(str, arguments)], capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr
    log = [line.removeprefix("INFO ") for line in done.stderr.splitlines() if line.startswith("INFO ")]
    stages = ["reading bins", "first fit", "maximum", "certificate of the maximum", "errors", "nodes",
              "score tests", "plots"]  # fmt: skip
    assert [line for line in log if line in stages] == stages
    assert any(line.startswith("hardest to tell apart") and len(line) > 100 for line in log)
