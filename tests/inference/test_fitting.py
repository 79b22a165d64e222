"""Whole fits: nodes describe the curve and change nothing else, and a fit can be repeated from its config."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.fitting import build_model, fit, fit_data, sample
from bayesflat.inference.hierarchical import HierarchicalObjective
from bayesflat.inference.loo import compare_terms
from bayesflat.inference.predictive import prior_predictive
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, message, small_config

NOISE = Noise(white=0.002, detector_scatter=0.005, amplifier_scatter=0.002)
TRUTH = {"centroid_delta": (0.5, -0.3), "gradient": (1e-4, -5e-5)}
RADIUS = np.linspace(0, 75, 76)
FALL = 1.0 - 0.05 * (RADIUS / 60) ** 2 - 0.3 / (1 + np.exp(-(RADIUS - 45) / 1.5))
SETTINGS = {"auto": "auto", "given": NODES, "short": [0.0, 30.0, 70.0], "dense": np.linspace(0.0, 72.0, 37).tolist()}


def flat(camera, bin_factor=20, radial=(RADIUS, FALL)):
    light = Light(radial=radial, itl_ratio=0.9, **TRUTH)
    return simulate_binned(camera, light, NOISE, 5, bin_factor=bin_factor, detector_boundary=0)


def config(nodes="auto", **more):
    return small_config().replace(radial_spline_nodes=nodes, **more)


@pytest.fixture(scope="module")
def fits(small_camera):
    """The same bins with several settings of the nodes."""
    return {name: fit(flat(small_camera), config(nodes)) for name, nodes in SETTINGS.items()}


def test_truth_comes_back_within_its_error(fits):
    result = fits["auto"]
    assert result.converged
    estimates = result.gradient.estimates
    for name, true in TRUTH.items():
        for axis, value in zip("xy", true, strict=True):
            row = estimates[f"{name}_{axis}"]
            assert abs(row["mean"] - value) < 4 * row["sd"], name
    # the curve, relative to its level
    radii = np.linspace(2.0, 54.0, 27)
    curve = result.gradient.curve
    off = curve.spline.evaluate(curve.mean, radii) - np.log(Light(radial=(RADIUS, FALL)).radial_function(radii))
    centre = np.eye(len(radii)) - 1 / len(radii)
    rows = centre @ curve.spline.design(radii)
    sd = np.sqrt(np.diag(rows @ curve.covariance @ rows.T))
    pull = centre @ off / sd
    assert np.abs(pull).max() < 4.5
    assert np.sqrt(np.mean(pull**2)) < 2


@pytest.mark.parametrize("other", ["given", "short", "dense"])
def test_nodes_change_nothing_but_themselves(fits, other):
    """Centroid, plane, ratio, noise and curve, their errors, and how all of them are correlated."""
    one, two = fits["auto"].gradient, fits[other].gradient
    assert len(one.radial_spline_nodes) != len(two.radial_spline_nodes)
    names = [name for name in one.estimates.names if not name.startswith("radial_spline")]
    assert names == [name for name in two.estimates.names if not name.startswith("radial_spline")]
    rows = [[g.estimates.names.index(name) for name in names] for g in (one, two)]
    for key in ("map", "mean", "sd", "q05", "q95"):
        first, second = (g.estimates.columns[key][at] for g, at in zip((one, two), rows, strict=True))
        np.testing.assert_allclose(first, second, rtol=1e-9, err_msg=key)
    first, second = (g.estimates.covariance[np.ix_(at, at)] for g, at in zip((one, two), rows, strict=True))
    sd = np.sqrt(np.diag(first))
    sd[sd == 0] = 1.0
    np.testing.assert_allclose(first / np.outer(sd, sd), second / np.outer(sd, sd), atol=1e-9)
    for name in ("itl_ratio", "centroid_delta_x", "gradient_y"):
        assert one.estimates[name]["sd"] > 0
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-9)


def test_values_at_nodes_are_as_sure_as_the_curve_there(fits):
    """Where a spline through them can follow the curve: its own relative error."""
    for name in ("auto", "dense"):
        gradient = fits[name].gradient
        nodes = gradient.radial_spline_nodes
        curve = gradient.curve
        within = nodes < 50
        rows = curve.spline.design(nodes[within])
        expected = np.sqrt(np.diag(rows @ curve.covariance @ rows.T))
        sd = gradient.estimates.columns["sd"][: len(nodes)][within] / gradient.radial_spline_values[within]
        np.testing.assert_allclose(sd / expected, 1.0, atol=0.25)
        np.testing.assert_allclose(
            np.log(gradient.radial_spline_values[within]), curve.spline.evaluate(curve.best, nodes[within]), atol=5e-3
        )


def test_the_resolved_config_repeats_the_fit(small_camera, fits, tmp_path):
    """As an object, and as the file that is written beside the product."""
    result = fits["auto"]
    assert result.config.radial_spline_nodes == result.gradient.radial_spline_nodes.tolist()
    (tmp_path / "config.toml").write_text(result.config.to_toml())
    for given in (result.config, FitConfig.read(tmp_path / "config.toml")):
        again = fit(flat(small_camera), given).gradient
        np.testing.assert_allclose(again.radial_spline_values, result.gradient.radial_spline_values, rtol=1e-12)
        for key in ("map", "mean", "sd"):
            one, other = (g.estimates.columns[key] for g in (again, result.gradient))
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-15, err_msg=key)


def test_independent_noise_places_nodes_once(small_camera):
    """Values at nodes are fitted themselves there; the resolved config repeats the fit with its errors."""
    binned = flat(small_camera)
    result = fit(binned, config(noise="independent", likelihood="student_t"))
    assert result.projection is None
    nodes = result.data.nodes
    assert nodes[-1] >= result.data.radius.max() + result.config.centroid_max
    falling = np.sum((nodes > 38) & (nodes < 52)) / 14
    assert falling > 2 * np.sum(nodes < 38) / 38
    again = fit(binned, FitConfig(**result.config.model_dump()))
    np.testing.assert_array_equal(again.data.nodes, nodes)
    np.testing.assert_array_equal(again.data.value, result.data.value)
    one, other = (r.gradient.estimates.columns["sd"] for r in (result, again))
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_a_value_that_is_held_has_no_error(small_camera, fits):
    """The last value is held at zero; nothing else changes."""
    held = fit(flat(small_camera), config(do_constrain_zero=True)).gradient
    n = len(held.radial_spline_nodes)
    assert held.radial_spline_values[-1] == 0
    assert not held.estimates.covariance[n - 1].any()
    row = held.estimates[f"radial_spline_values[{n - 1}]"]
    assert [row[key] for key in ("sd", "q05", "q95")] == [0.0, 0.0, 0.0]
    for name in ("itl_ratio", "centroid_delta_x", "gradient_x", "log_radial[3]"):
        for key in ("map", "sd"):
            assert held.estimates[name][key] == pytest.approx(fits["auto"].gradient.estimates[name][key], rel=1e-9)


def test_nodes_that_miss_the_curve_are_warned_of(small_camera, caplog):
    result = fit(flat(small_camera), config(SETTINGS["short"]))
    (text,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("radial_spline_nodes: ")]
    mmag, where = (
        float(text.split(before)[1].split(after)[0]) for before, after in ((" by ", " mmag"), (" at ", " mm;"))
    )
    curve, gradient = result.gradient.curve, result.gradient
    data, at = result.data, result.map.parameters["centroid_delta"]
    radius = np.hypot(data.dx - at[0], data.dy - at[1])
    radius = radius[radius <= 70]
    off = gradient.compute_radial(radius) / np.exp(curve.spline.evaluate(curve.best, radius)) - 1
    assert mmag == pytest.approx(2500 / np.log(10) * np.abs(off).max(), rel=0.1)
    assert where == pytest.approx(radius[np.abs(off).argmax()], abs=1.0)
    assert mmag > 10


def test_dead_bins_that_no_cut_removes_have_no_say(small_camera):
    """Without a least value, bins at zero and below stay in the table; the fit is that without them."""
    binned = flat(small_camera)
    dead = np.arange(len(binned)) % 97 == 0
    binned.value[dead] = np.where(np.arange(dead.sum()) % 2, 0.0, -3.0)
    found = fit(binned, config(min_flat_value=-10.0))
    expected = fit(binned.select(~dead), config())
    assert found.converged
    assert np.all(found.data.value > 0)
    for name in ("itl_ratio", "gradient_x", "centroid_delta_x"):
        one, other = (r.gradient.require_estimates()[name] for r in (found, expected))
        assert abs(one["map"] - other["map"]) < 0.2 * other["sd"], name
        assert one["sd"] == pytest.approx(other["sd"], rel=0.02), name


def test_a_retired_key_is_warned_of(tmp_path, caplog):
    """And the rest of the file is read."""
    (tmp_path / "config.toml").write_text("radial_spline_nodes_placed = true\ncentroid_max = 3.5\n")
    with caplog.at_level(logging.WARNING, "bayesflat"):
        found = FitConfig.read(tmp_path / "config.toml")
    assert found.centroid_max == 3.5
    (text,) = [r.getMessage() for r in caplog.records]
    assert "radial_spline_nodes_placed has no meaning any more" in text


@pytest.mark.parametrize(
    ("noise", "given", "right"),
    [("hierarchical", "radial_spline_values", "log_radial"), ("independent", "log_radial", "radial_spline_values")],
)
def test_a_prior_of_the_other_radial_function_is_an_error(noise, given, right):
    with pytest.raises(InputError, match=rf"priors\.{given} is no parameter.*priors\.{right}"):
        FitConfig.make({"noise": noise, "priors": {given: {"dist": "normal", "sigma": 0.1}}})


def test_a_model_that_does_not_describe_the_data_is_not_converged(small_camera, fits, monkeypatch):
    """By the medians of data over model, by hand: here one vendor's are shifted by 3%."""
    result = fits["auto"]
    found = result.objective.vendor_ratios(result.map.parameters)
    data, product = result.data, result.map.parameters
    ratio = data.value / np.exp(result.objective.mean(product))
    for name, itl in (("itl", True), ("rest", False)):
        medians = [
            np.median(ratio[(data.binned.detector == d) & (data.weight > 0)])
            for d in np.unique(data.binned.detector[data.itl == itl])
        ]
        assert found[name][0] == pytest.approx(np.mean(medians), rel=1e-12)
        assert found[name][1] == pytest.approx(np.std(medians, ddof=1) / len(medians) ** 0.5, rel=1e-9)
        assert abs(np.mean(medians) - 1) < 5e-3
    whole = HierarchicalObjective.vendor_ratios

    def shifted(self, product):
        return whole(self, product | {"itl_ratio": product["itl_ratio"] / 1.03})

    monkeypatch.setattr(HierarchicalObjective, "vendor_ratios", shifted)
    bad = fit(flat(small_camera), config())
    assert not bad.converged
    assert bad.gradient.estimates.converged is False
    assert bad.message.startswith("not converged: ")
    assert "the model does not describe the ITL detectors: their data/model is 1.03" in bad.message


def test_model_has_the_knots_of_a_first_fit(small_camera, fits):
    """`build_model` makes one, too: its density at the maximum is the fit's."""
    model = build_model(flat(small_camera), config())
    np.testing.assert_array_equal(model.coords["knot"], fits["auto"].data.radial.spline.places)


def test_bins_that_are_ready_for_another_noise_model_are_refused(small_camera, fits):
    """Those of a fit with hierarchical noise have a curve and no nodes, the others nodes and no curve."""
    independent = config(NODES, noise="independent", likelihood="student_t")
    said = "^noise = independent, but these bins are ready for hierarchical noise: fit the binned flat anew$"
    with pytest.raises(InputError, match=said):
        build_model(fits["auto"].data, independent)
    with pytest.raises(InputError, match=said):
        fit_data(fits["auto"].data, independent)
    said = "^noise = hierarchical, but these bins are ready for independent noise: fit the binned flat anew$"
    with pytest.raises(InputError, match=said):
        fit_data(prepare(flat(small_camera), independent), config())


def test_terms_are_compared_with_nodes_of_their_own(small_camera, caplog):
    """A flat with a plane and a moved centroid; no fit is told of nodes that another one placed."""
    with caplog.at_level(logging.WARNING, "bayesflat"):
        table = compare_terms(flat(small_camera), config(outer_gradient_radius=40.0))
    assert not [r for r in caplog.records if "radial_spline_nodes" in r.getMessage()]
    terms = [row["terms"].split(" + ") for row in table]
    assert {"centroid", "gradient"} <= set(terms[0])
    without = table[["centroid" not in names for names in terms]]
    assert np.all(without["elpd_diff"] < -2 * without["dse"])
    assert np.all(table["converged"])


@pytest.mark.parametrize(("bin_factor", "bins"), [(200, "1 bin"), (100, None)])
def test_bins_as_large_as_the_detectors_are_refused(small_camera, bin_factor, bins):
    """Flats with large pixels are binned so by the default; the error says what to change."""
    if bins is None:
        assert len(fit(flat(small_camera, bin_factor=bin_factor), config()).data) > 0
        return
    expected = rf"^{bins} in the typical detector \(200 x 200 pixels\); at least 4 are needed: bin more finely"
    with pytest.raises(InputError, match=expected):
        fit(flat(small_camera, bin_factor=bin_factor), config())


@pytest.mark.parametrize("call", [fit, build_model, compare_terms, prior_predictive])
@pytest.mark.parametrize(
    ("unchecked", "said"),
    [
        ({"noise": "hierachical"}, "config: noise: input should be 'independent' or 'hierarchical', got 'hierachical'"),
        ({"do_fit_plane": True}, "config: unknown key 'do_fit_plane'"),
        ({"priors": {"gradent": "flat"}}, "no parameter 'gradent'; did you mean 'gradient'?"),
    ],
)
def test_a_config_with_unchecked_fields_is_refused(small_camera, call, unchecked, said):
    assert said in message(call, flat(small_camera), config().model_copy(update=unchecked))


def test_priors_that_were_put_in_as_mappings_hold(small_camera):
    priors = {"gradient": {"dist": "normal", "mu": [3e-4, 0.0], "sigma": 1e-9}}
    held = fit(flat(small_camera), config().model_copy(update={"priors": priors})).gradient
    assert held.gradient_x == pytest.approx(3e-4, abs=5e-9)
    assert abs(held.gradient_y) < 5e-9


def test_sampling_checks_the_config_of_a_result(fits):
    result = replace(fits["auto"], config=fits["auto"].config.model_copy(update={"chains": 0}))
    assert message(sample, result).startswith("config: chains: input should be greater than or equal to 1")
    assert message(sample, fits["auto"], draws=0).startswith("config: draws: input should be greater")
