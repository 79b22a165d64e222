"""A configuration is written as text: key=value on a command line, and TOML."""

import logging
import re
import tomllib

import pytest

from bayesflat.config import FitConfig, NormalPrior, RunConfig, merge_overrides, read_toml
from tests.helpers import message


def parse(*texts):
    return merge_overrides({}, texts)


# ---- key=value ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,200,300", [0, 200, 300]),
        ("[0, 200, 300]", [0, 200, 300]),
        ("[0,200.5,3e2]", [0, 200.5, 300.0]),
        (" 0 , 200.5,300. ", [0, 200.5, 300.0]),
        ("0,200,", [0, 200]),
        ("NO_DATA,SAT", ["NO_DATA", "SAT"]),
        ('["NO_DATA", "SAT"]', ["NO_DATA", "SAT"]),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ("none", None),
        ("None", None),
        ("3", 3),
        ("-3", -3),
        ("1e-8", 1e-8),
        (".5", 0.5),
        ("5.", 5.0),
        ("+.5e-3", 5e-4),
        ("lsstcam", "lsstcam"),
        ('"true"', "true"),
        ("a=b", "a=b"),
        ("", ""),
        ("flat", "flat"),
        ('{dist = "normal", mu = 1, sigma = 0.01}', {"dist": "normal", "mu": 1, "sigma": 0.01}),
    ],
)
def test_value(text, expected):
    value = parse(f"key={text}")["key"]
    assert value == expected
    assert type(value) is type(expected)


def test_nested_keys():
    assert parse("a.b.c=1", "a.b.d=2", "a.e=x") == {"a": {"b": {"c": 1, "d": 2}, "e": "x"}}


def test_spaces_around_key_and_value():
    assert parse("  a.b =  1 ") == {"a": {"b": 1}}


def test_later_wins():
    assert parse("a=1", "a=2") == {"a": 2}
    assert parse("a.b=1", "a=2") == {"a": 2}
    assert parse("a=2", "a.b=1") == {"a": {"b": 1}}


def test_overrides_beat_the_file_and_leave_it_alone():
    file = {"bin_factor": 64, "connections": {"camera": "cam", "input_flats": "f"}}
    assert merge_overrides(file, ["bin_factor=32", "connections.camera=other"]) == {
        "bin_factor": 32,
        "connections": {"camera": "other", "input_flats": "f"},
    }
    assert file == {"bin_factor": 64, "connections": {"camera": "cam", "input_flats": "f"}}


@pytest.mark.parametrize("text", ["bin_factor", "=3", " =3", ""])
def test_not_key_value(text):
    assert message(parse, text) == f"-c {text}: needs the form key=value"


def test_from_texts_to_config():
    config = FitConfig.make(
        parse(
            "radial_spline_nodes=0,100,340",
            "do_fit_centroid=TRUE",
            "do_constrain_zero=false",
            "fixed_model_residual_plot_scale=none",
            "mask_planes=SAT",
            "centroid_max=5",
            "connections.output_gradient=mine",
            "priors.itl_ratio.sigma=0.01",
            "priors.itl_ratio.mu=1",
            "priors.gradient=flat",
            'priors.centroid_delta={dist = "normal", mu = [0.1, -0.2], sigma = 2}',
        )
    )
    assert config.radial_spline_nodes == [0.0, 100.0, 340.0]
    assert all(type(node) is float for node in config.radial_spline_nodes)
    assert (config.do_fit_centroid, config.do_constrain_zero) == (True, False)
    assert config.fixed_model_residual_plot_scale is None
    assert config.mask_planes == ["SAT"]
    assert config.centroid_max == 5.0
    assert config.connections.output_gradient == "mine"
    assert config.connections.camera == "camera"
    assert config.priors == {
        "itl_ratio": NormalPrior(mu=1.0, sigma=0.01),
        "gradient": "flat",
        "centroid_delta": NormalPrior(mu=[0.1, -0.2], sigma=2.0),
    }


# ---- TOML ----

EVERYTHING = {
    "bin_factor": 64,
    "radial_spline_nodes": [0.0, 100.5, 1 / 3 + 300],
    "radial_spline_nodes_initial": [0.0, 50.0, 300.0],
    "do_fit_centroid": True,
    "do_fit_gradient": True,
    "fp_centroid_x": -1.25e-3,
    "mask_planes": ["NO_DATA", "SAT"],
    "likelihood": "laplace",
    "noise": "independent",
    "seed": 17,
    "fixed_model_residual_plot_scale": 0.01,
    "saveLogOutput": False,
    "priors": {"gradient": "flat", "itl_ratio": {"dist": "normal", "mu": 1.0, "sigma": 0.1}},
    "connections": {"input_flats": 'a "quoted" one'},
}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
@pytest.mark.parametrize("kind", [FitConfig, RunConfig])
def test_toml_round_trip(tmp_path, kind, values):
    config = kind.make(values)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert kind.read(path) == config


def test_toml_is_plain():
    content = tomllib.loads(FitConfig.make(EVERYTHING).to_toml())
    assert content["radial_spline_nodes"] == [0.0, 100.5, 1 / 3 + 300]
    assert content["priors"] == EVERYTHING["priors"]
    assert content["connections"]["output_gradient"] == "flat_gradient"
    # TOML has no null: what is unset is not there
    assert "fixed_model_residual_plot_scale" not in tomllib.loads(FitConfig().to_toml())


def test_reading_names_the_file(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text("bin_factr = 64\n")
    assert message(FitConfig.read, path) == f"{path}: unknown key 'bin_factr'; did you mean 'bin_factor'?"


def test_run_keys_are_not_fit_keys(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text('camera = "lsstcomcam"\nphysical_filter = "i_39"\n')
    assert RunConfig.read(path).camera == "lsstcomcam"
    assert "unknown key 'camera'" in message(FitConfig.read, path)


@pytest.mark.parametrize("kind", [FitConfig, RunConfig])
def test_a_retired_key_in_a_file_warns(tmp_path, caplog, kind):
    """As in the config.toml of a fit with an earlier version."""
    path = tmp_path / "fit.toml"
    path.write_text("radial_spline_nodes = [0.0, 100.0, 340.0]\nradial_spline_nodes_placed = true\n")
    with caplog.at_level(logging.WARNING, "bayesflat"):
        config = kind.read(path)
    assert config.radial_spline_nodes == [0.0, 100.0, 340.0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: radial_spline_nodes_placed has no meaning any more (nodes describe the fitted curve and do not "
        "change its errors)"
    ]
    assert "radial_spline_nodes_placed" not in config.to_toml()
    caplog.clear()
    path.write_text(config.to_toml())
    assert kind.read(path) == config
    assert not caplog.records


def test_unreadable_toml(tmp_path):
    path = tmp_path / "no.toml"
    assert message(read_toml, path) == f"config {path}: cannot be read (No such file or directory)"
    path.write_text("bin_factor == 3\n")
    assert re.match(rf"config {re.escape(str(path))}: not TOML \(.+line 1", message(read_toml, path))
    path.write_bytes(b"\xff\xfe\x00")
    assert message(read_toml, path).startswith(f"config {path}: cannot be read (")


def test_a_mark_at_the_beginning_of_a_file(tmp_path):
    """As some editors put it before UTF-8."""
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf" + b'bin_factor = 64\ndetector_key = "CHIP"\n')
    config = RunConfig.read(tmp_path / "c.toml")
    assert (config.bin_factor, config.detector_key, config.filter_key) == (64, "CHIP", None)
    (tmp_path / "c.toml").write_text("bin_factor = 64", encoding="utf-16")
    assert "c.toml: cannot be read" in message(RunConfig.read, tmp_path / "c.toml")
