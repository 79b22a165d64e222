"""The configuration: defaults, what a command line can say, and the mistakes it finds."""

import logging
import re
import tomllib

import pytest

from bayesflat.config import LSST_NODES, FitConfig, NormalPrior, RunConfig, checked, merge_overrides, read_toml
from tests.helpers import message

NODES_OF_AUGUST = [0, 200, 250, 300, 310, 320, 330, 340, 350, 360, 368]


def parse(*texts):
    return merge_overrides({}, texts)


# ---- defaults ----


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("bin_factor", 128),
        ("detector_boundary", 10),
        ("do_constrain_zero", False),
        ("do_fit_centroid", False),
        ("do_fit_gradient", False),
        ("do_fit_outer_gradient", False),
        ("do_normalize_center", True),
        ("normalize_center_radius", 25.0),
        ("fp_centroid_x", 0.0),
        ("fp_centroid_y", 0.0),
        ("outer_gradient_radius", 325.0),
        ("radial_spline_nodes", "auto"),
        ("min_flat_value", 0.05),
        ("max_flat_value", 1.5),
        ("fit_eps", 1e-8),
        ("fit_gtol", 1e-10),
        ("do_reference_gradient", False),
        ("saveLogOutput", True),
        ("radial_spline_nodes_initial", None),
        ("do_use_non_science_detectors", False),
        ("fixed_model_residual_plot_scale", None),
        ("mask_planes", ["NO_DATA"]),
        ("centroid_max", 10.0),
        ("priors", {}),
    ],
)
def test_default(field, expected):
    value = getattr(FitConfig(), field)
    assert value == expected
    assert type(value) is type(expected)


def test_default_connections():
    assert FitConfig().connections.model_dump() == {
        "camera": "camera",
        "input_flats": "flat_uncorrected",
        "input_defects": "defects",
        "output_gradient": "flat_gradient",
        "output_reference_gradient": "flat_gradient_reference",
        "model_residual_plot": "gradient_model_residual_plot",
        "radial_model_plot": "gradient_radial_model_plot",
        "input_flat": "flat_uncorrected",
        "gradient": "flat_gradient",
        "reference_gradient": "flat_gradient_reference",
        "output_flat": "flat",
    }


def test_default_run():
    assert (RunConfig().camera, RunConfig().physical_filter) == ("lsstcam", None)
    assert RunConfig().radial_spline_nodes == "auto"


def test_defaults_are_not_shared():
    FitConfig().mask_planes.append("SAT")
    assert FitConfig().mask_planes == ["NO_DATA"]


def test_nodes_of_the_config():
    """Those of a list as they are, those of LSST by name; automatic ones are not there yet."""
    assert FitConfig(radial_spline_nodes=[0.0, 100.0, 340.0]).nodes == [0.0, 100.0, 340.0]
    named = FitConfig(radial_spline_nodes="lsst")
    assert named.nodes == LSST_NODES == NODES_OF_AUGUST
    assert named.radial_spline_nodes == "lsst"
    with pytest.raises(ValueError, match="radial_spline_nodes = auto: there are none yet"):
        FitConfig().nodes


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


# ---- mistakes ----


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("do_fit_centriod", "'do_fit_centroid'"),
        ("radial_spline_node", "'radial_spline_nodes'"),
        ("bin_facter", "'bin_factor'"),
        ("save_log_output", "'saveLogOutput'"),
        ("connections.camra", "'camera'"),
        ("priors.itl_ratio.sgima", "'sigma'"),
    ],
)
def test_unknown_key_names_the_nearest(key, near):
    values = parse(f"{key}=1")
    if key.startswith("priors"):
        values["priors"]["itl_ratio"]["sigma"] = 1.0
    text = message(FitConfig.make, values, "-c")
    assert text.startswith("-c: unknown key '")
    assert key.split(".")[-1] in text
    assert text.endswith(f"; did you mean {near}?")


def test_unknown_key_like_no_other():
    text = message(FitConfig.make, {"zzz": 1})
    assert text.startswith("config: unknown key 'zzz'; known keys: bin_factor, detector_boundary, ")


def test_unknown_parameter_of_a_prior():
    text = message(FitConfig.make, {"priors": {"gradent": "flat"}})
    assert "no parameter 'gradent'; did you mean 'gradient'?" in text
    assert "radial_spline_values, itl_ratio, centroid_delta, gradient, outer_gradient" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"bin_factor": "many"}, "bin_factor: input should be a valid integer"),
        ({"bin_factor": 128.5}, "bin_factor: input should be a valid integer"),
        ({"bin_factor": 0}, "bin_factor: input should be greater than or equal to 1, got 0"),
        ({"bin_factor": True}, "bin_factor: input should be a number, not true or false, got True"),
        ({"detector_boundary": -1}, "detector_boundary: input should be greater than or equal to 0, got -1"),
        ({"do_fit_centroid": "perhaps"}, "do_fit_centroid: input should be a valid boolean"),
        ({"do_fit_centroid": None}, "do_fit_centroid: input should be a valid boolean"),
        ({"fp_centroid_x": "left"}, "fp_centroid_x: input should be a valid number"),
        ({"fp_centroid_x": True}, "fp_centroid_x: input should be a number, not true or false, got True"),
        ({"fp_centroid_x": float("nan")}, "fp_centroid_x: input should be a finite number, got nan"),
        ({"outer_gradient_radius": float("inf")}, "outer_gradient_radius: input should be a finite number, got inf"),
        ({"normalize_center_radius": 0}, "normalize_center_radius: input should be greater than 0, got 0"),
        ({"centroid_max": -1.0}, "centroid_max: input should be greater than 0, got -1.0"),
        ({"fit_gtol": 0}, "fit_gtol: input should be greater than 0, got 0"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
        ({"likelihood": "gaussian"}, "likelihood: input should be 'normal', 'student_t' or 'laplace', got 'gaussian'"),
        ({"mask_planes": [1]}, "mask_planes.0: input should be a valid string, got 1"),
        ({"radial_spline_nodes": 5}, "radial_spline_nodes: input should be a valid list, got 5"),
        ({"radial_spline_nodes": [0, "a", 2]}, "radial_spline_nodes.1: input should be a valid number"),
        ({"radial_spline_nodes": [0, float("inf"), 2]}, "radial_spline_nodes.1: input should be a finite number"),
        ({"radial_spline_nodes": []}, "radial_spline_nodes: needs at least 3 nodes, got 0"),
        ({"radial_spline_nodes": [0, 300]}, "radial_spline_nodes: needs at least 3 nodes, got 2"),
        ({"radial_spline_nodes": [0, 300, 200, 350]}, "radial_spline_nodes: nodes must ascend, got 300 before 200"),
        ({"radial_spline_nodes": [0, 300, 300, 350]}, "radial_spline_nodes: nodes must ascend, got 300 before 300"),
        ({"radial_spline_nodes": [-1, 200, 300]}, "nodes are radii and start at 0 or above, got -1"),
        ({"radial_spline_nodes_initial": [0, 300]}, "radial_spline_nodes_initial: needs at least 3 nodes, got 2"),
        ({"radial_spline_nodes_initial": [0, 5, 4]}, "radial_spline_nodes_initial: nodes must ascend, got 5 before 4"),
        ({"min_flat_value": 1.5}, "min_flat_value (1.5) must be below max_flat_value (1.5)"),
        (
            {"do_fit_centroid": True, "centroid_max": 368.0, "noise": "independent", "radial_spline_nodes": "lsst"},
            "centroid_max (368 mm) must be below the last node (368 mm): with noise = independent, bins are used out "
            "to their difference",
        ),
        (
            {"do_fit_centroid": True, "centroid_max": 40.0, "noise": "independent", "radial_spline_nodes": [0, 20, 40]},
            "centroid_max (40 mm) must be below the last node (40 mm)",
        ),
        ({"radial_spline_nodes_placed": True}, "unknown key 'radial_spline_nodes_placed'"),
        (
            {"priors": {"radial_spline_values": {"sigma": 0.1}}},
            "priors.radial_spline_values is no parameter with noise = hierarchical; the radial function is "
            "priors.log_radial",
        ),
        (
            {"noise": "independent", "priors": {"log_radial": {"sigma": 0.1}}},
            "priors.log_radial is no parameter with noise = independent; the radial function is "
            "priors.radial_spline_values",
        ),
        ({"priors": {"log_radial": "flat"}}, "priors.log_radial: a flat prior leaves the curve undetermined"),
        ({"fixed_model_residual_plot_scale": 0}, "fixed_model_residual_plot_scale: input should be greater than 0"),
        ({"priors": {"itl_ratio": {"mu": 1}}}, "sigma: field required"),
        ({"priors": {"itl_ratio": {"sigma": 0}}}, "sigma: input should be greater than 0, got 0"),
        ({"priors": {"gradient": {"sigma": [1, -1]}}}, "sigma: input should be greater than 0, got [1, -1]"),
        ({"connections": {"camera": 3}}, "connections.camera: input should be a valid string, got 3"),
    ],
)
def test_bad_value(values, expected):
    text = message(FitConfig.make, values, "my.toml")
    assert text.startswith("my.toml: ")
    assert expected in text


@pytest.mark.parametrize(
    "more",
    [
        {"noise": "independent", "radial_spline_nodes": "lsst"},  # no centroid is fitted
        {"do_fit_centroid": True, "noise": "independent"},  # automatic nodes come later
        {"do_fit_centroid": True, "radial_spline_nodes": "lsst"},  # nodes that cut no bins
    ],
)
def test_centroid_max_counts_only_where_nodes_cut_bins(more):
    assert FitConfig(centroid_max=400.0, **more).centroid_max == 400.0


@pytest.mark.parametrize(("noise", "name"), [("hierarchical", "log_radial"), ("independent", "radial_spline_values")])
def test_prior_of_the_radial_function_goes_with_the_noise(noise, name):
    config = FitConfig.make({"noise": noise, "priors": {name: {"sigma": 0.1}}})
    assert config.priors == {name: NormalPrior(sigma=0.1)}


def test_two_ways_to_write_a_bad_prior():
    assert "priors.itl_ratio" in message(FitConfig.make, {"priors": {"itl_ratio": "wide"}})
    assert "priors" in message(FitConfig.make, {"priors": "flat"})


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


# ---- lengths of other cameras ----


def test_lengths_that_are_not_set_scale():
    config = FitConfig(centroid_max=3.0).scaled_to(0.64091)
    assert (config.centroid_max, config.outer_gradient_radius) == (3.0, 208.0)
    assert FitConfig().scaled_to(0.64091).centroid_max == 6.41
    # once is enough, and what is written down repeats the fit
    again = FitConfig().scaled_to(0.5)
    assert again.scaled_to(0.5) == again == FitConfig(**again.model_dump()).scaled_to(0.5)
    assert FitConfig().scaled_to(1.0) == FitConfig()
    # other fields keep theirs
    assert config.model_dump() == FitConfig(centroid_max=3.0, outer_gradient_radius=208.0).model_dump()


# ---- copies ----


def test_replace_checks_values_and_names():
    config = FitConfig(bin_factor=64, priors={"itl_ratio": "flat"})
    other = config.replace(do_fit_centroid=True, priors={"gradient": {"sigma": 1e-6}})
    assert (other.bin_factor, other.do_fit_centroid) == (64, True)
    assert other.priors == {"gradient": NormalPrior(sigma=1e-6)}
    assert not config.do_fit_centroid
    assert "did you mean 'noise'?" in message(config.replace, nois="independent")
    text = message(config.replace, noise="hierachical")
    assert text == "config: noise: input should be 'independent' or 'hierarchical', got 'hierachical'"


def test_replace_keeps_the_class_and_what_was_left_to_its_default():
    config = RunConfig(camera="decam").replace(noise="independent")
    assert type(config) is RunConfig
    assert (config.camera, config.likelihood) == ("decam", "student_t")  # normal goes with hierarchical noise
    assert config.scaled_to(0.5).centroid_max == 5.0  # as it was never set


@pytest.mark.parametrize(
    ("unchecked", "said"),
    [
        ({"noise": "hierachical"}, "noise: input should be 'independent' or 'hierarchical', got 'hierachical'"),
        ({"priors": {"gradent": "flat"}}, "no parameter 'gradent'; did you mean 'gradient'?"),
        ({"priors": {"gradient": {"dist": "normal", "sigma": -1.0}}}, "priors.gradient.sigma: input should be greater"),
        ({"priors": {"gradient": NormalPrior(sigma=1.0).model_copy(update={"sigma": -1.0})}}, "priors.gradient.sigma"),
        ({"do_fit_centriod": True}, "unknown key 'do_fit_centriod'; did you mean 'do_fit_centroid'?"),
        ({"centroid_max": float("nan")}, "centroid_max: input should be greater than 0, got nan"),
        ({"seed": True}, "seed: input should be a number, not true or false, got True"),
    ],
)
def test_fields_that_were_put_in_unchecked_are_checked(unchecked, said):
    assert said in message(checked, FitConfig(do_fit_gradient=True).model_copy(update=unchecked))


def test_a_config_that_was_constructed_unchecked_is_checked():
    assert "noise: input should be" in message(checked, FitConfig.model_construct(noise="hierachical"))


def test_checked_makes_priors_of_mappings_and_takes_no_other_class():
    config = FitConfig().model_copy(update={"priors": {"gradient": {"sigma": 2e-6}}})
    assert checked(config).priors["gradient"] == NormalPrior(sigma=2e-6)
    assert checked(None) == FitConfig()
    config = FitConfig()
    config.priors["centroid_delta"] = {"sigma": 0.1}  # in place
    assert checked(config).priors["centroid_delta"] == NormalPrior(sigma=0.1)
    assert message(checked, {"noise": "independent"}).startswith("config: must be a FitConfig, got dict")
