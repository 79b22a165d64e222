"""Mistakes in a configuration are found and named, however it was made."""

import pytest

from bayesflat.config import FitConfig, NormalPrior, checked, merge_overrides
from tests.helpers import message


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
    values = merge_overrides({}, [f"{key}=1"])
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
