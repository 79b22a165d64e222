"""The configuration: defaults, copies, and lengths of other cameras."""

import pytest

from bayesflat.config import LSST_NODES, FitConfig, NormalPrior, RunConfig
from tests.helpers import message

NODES_OF_AUGUST = [0, 200, 250, 300, 310, 320, 330, 340, 350, 360, 368]


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
