"""Automatic nodes, the rough fit behind them, and the warning where given nodes fall short."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.fitting import build_model, fit
from bayesflat.inference.map import find_map
from bayesflat.inference.nodes import on_nodes, place_nodes, with_nodes, without_a_node
from bayesflat.inference.rough import Rough, rough_fit
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, small_config

NOISE = Noise(white=0.002, detector_scatter=0.005, amplifier_scatter=0.002)
TRUTH = {"centroid_delta": (0.5, -0.3), "gradient": (1e-4, -5e-5)}
# a light with a sudden fall: no Akima spline of few nodes follows it
RADIUS = np.linspace(0, 75, 76)
FALL = 1.0 - 0.05 * (RADIUS / 60) ** 2 - 0.3 / (1 + np.exp(-(RADIUS - 45) / 1.5))


def flat(camera, radial=(NODES, VALUES), bin_factor=10, **more):
    light = Light(radial=radial, itl_ratio=0.9, **(TRUTH | more))
    return simulate_binned(camera, light, NOISE, 5, bin_factor=bin_factor, detector_boundary=0)


def config(nodes="auto", **more):
    return small_config().model_copy(update={"radial_spline_nodes": nodes, **more})


@pytest.fixture(scope="module")
def rough(small_camera):
    data = prepare(flat(small_camera, (RADIUS, FALL)), config())
    return data, rough_fit(data, config())


def test_rough_fit_is_near_the_truth(rough):
    """The profile is right within its own errors, the centroid to a fraction of a bin of 1 mm."""
    _, found = rough
    np.testing.assert_allclose(found.parameters["centroid_delta"], TRUTH["centroid_delta"], atol=0.15)
    np.testing.assert_allclose(found.parameters["gradient"], TRUTH["gradient"], atol=5e-5)
    light = Light(radial=(RADIUS, FALL))
    off = found.log_radial - np.log(light.radial_function(found.radius))
    # the overall level is free
    off -= np.mean(off)
    covariance = np.linalg.inv(found.information)
    centre = np.eye(len(off)) - 1 / len(off)
    sd = np.sqrt(np.diag(centre @ covariance @ centre))
    assert np.mean(np.abs(off) < 3 * sd) > 0.95


def test_lopsided_rings_are_left_out(rough):
    """Bins that are kept fill a circle about the centroid, which ends half a bin's diagonal within that of all bins."""
    data, found = rough
    cx, cy = found.parameters["centroid_delta"]
    kept = np.hypot(data.dx - cx, data.dy - cy)[found.inside].max()
    edge = data.radius.max() - np.hypot(cx, cy) - 0.5**0.5
    assert edge - 1.5 < kept <= edge + 0.02


def test_nodes_follow_the_light(rough):
    data, found = rough
    placed, resolved, _ = with_nodes(data.select(found.inside), config(), found)
    nodes = np.array(resolved.radial_spline_nodes)
    np.testing.assert_array_equal(placed.nodes, nodes)
    assert np.all(np.diff(nodes) > 0)
    assert nodes[-1] >= data.radius.max() + resolved.centroid_max
    # where the light falls they are denser than elsewhere
    falling = np.sum((nodes > 38) & (nodes < 52)) / 14
    assert falling > 2 * np.sum(nodes < 38) / 38
    # and again the same
    again = with_nodes(data.select(found.inside), config(), found)[1]
    assert again.radial_spline_nodes == resolved.radial_spline_nodes


def test_nodes_where_a_bin_lies_on_the_pivot(small_camera):
    """The profile begins at a radius of 0, give or take rounding, as the nodes do."""
    settings = config(do_fit_centroid=False)
    binned = flat(small_camera, (RADIUS, FALL), bin_factor=40, centroid_delta=(0.0, 0.0))
    data = prepare(binned, settings)
    assert data.radius.min() < 1e-9
    found = rough_fit(data, settings)
    fit = place_nodes(found, float(data.nodes[-1]), constrained=False)
    assert np.isfinite(fit.bent)
    assert fit.chi_squared < 2 * len(found.radius)


def test_fit_with_placed_nodes_gives_the_truth_within_its_error(small_camera, caplog):
    result = fit(flat(small_camera, (RADIUS, FALL)), config())
    assert result.converged
    assert "radial_spline_nodes cannot follow" not in caplog.text
    estimates = result.gradient.estimates
    for name, true in TRUTH.items():
        for axis, value in zip("xy", true, strict=True):
            row = estimates[f"{name}_{axis}"]
            assert abs(row["map"] - value) < 4 * row["sd"], name
    assert isinstance(result.config.radial_spline_nodes, list)


def test_errors_of_the_product_count_the_choice_of_nodes(small_camera, tmp_path):
    """Against a fit to which the same nodes are given; the resolved config repeats the fit with its errors."""
    binned = flat(small_camera, (RADIUS, FALL))
    result = fit(binned, config())
    assert result.config.radial_spline_nodes_placed
    (tmp_path / "config.toml").write_text(result.config.to_toml())
    again = fit(binned, FitConfig.read(tmp_path / "config.toml"))
    given = fit(binned, result.config.model_copy(update={"radial_spline_nodes_placed": False}))
    n = len(result.config.radial_spline_nodes)
    wide, same, narrow = (r.gradient.estimates.covariance for r in (result, again, given))
    values = result.gradient.radial_spline_values
    np.testing.assert_allclose(given.gradient.radial_spline_values, values, rtol=1e-5)
    sd = np.sqrt(np.diag(wide))
    sd[sd == 0] = 1.0
    added = (wide - narrow) / np.outer(sd, sd)
    choice = result.rough.choice * values**2 / sd[:n] ** 2
    assert 0.1 < np.max(choice) < 1
    np.testing.assert_allclose(added[:n, :n], np.diag(choice), atol=0.02)
    # of the radial function only
    np.testing.assert_allclose(added[n:], 0.0, atol=0.02)
    np.testing.assert_allclose(np.sqrt(np.diag(same)), np.sqrt(np.diag(wide)), rtol=0.02)
    assert given.rough.choice is None


def test_a_value_that_is_held_has_no_error(small_camera):
    """The last value is held at zero, whatever the choice of the nodes adds to the errors of the others."""
    result = fit(flat(small_camera, (RADIUS, FALL), bin_factor=20), config(do_constrain_zero=True))
    estimates, n = result.gradient.estimates, len(result.config.radial_spline_nodes)
    assert result.gradient.radial_spline_values[-1] == 0
    assert result.rough.choice.max() > 0
    assert not estimates.covariance[n - 1].any()
    row = estimates[f"radial_spline_values[{n - 1}]"]
    assert [row[key] for key in ("sd", "q05", "q95")] == [0.0, 0.0, 0.0]


def test_independent_noise_does_not_count_the_choice_but_repeats_the_fit(small_camera):
    binned = flat(small_camera, (RADIUS, FALL), bin_factor=20)
    result = fit(binned, config(noise="independent"))
    assert result.rough.choice is None
    again = fit(binned, FitConfig(**result.config.model_dump()))
    assert again.rough.choice is None
    np.testing.assert_array_equal(again.data.value, result.data.value)
    one, other = (r.gradient.estimates.columns["sd"] for r in (result, again))
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_placed_nodes_without_a_positive_spline_are_refused(rough, monkeypatch):
    _, found = rough
    given = {"radial_spline_nodes": NODES, "do_constrain_zero": False}
    stub = SimpleNamespace(chi_squared=np.inf, values=np.ones(len(NODES)), log_radial=found.log_radial)
    monkeypatch.setattr("bayesflat.inference.nodes.SplineFit", lambda *_, **__: stub)
    assert on_nodes(found, np.array(NODES), FitConfig(**given)).choice is None
    with pytest.raises(InputError, match="no spline through the nodes that were placed is positive"):
        on_nodes(found, np.array(NODES), FitConfig(radial_spline_nodes_placed=True, **given))


def test_given_nodes_that_fall_short_are_warned_of(small_camera, caplog):
    """The warning says how much is left, and where."""
    fit(flat(small_camera, (RADIUS, FALL)), config([0.0, 30.0, 60.0]))
    (text,) = [r.getMessage() for r in caplog.records if "cannot follow" in r.getMessage()]
    percent, where = (
        float(x) for x in (text.split("up to ")[1].split("%")[0], text.split("left at ")[1].split(" mm")[0])
    )
    assert percent > 1
    assert 35 < where < 58
    assert '"auto" places nodes' in text


def test_given_nodes_that_follow_the_light_are_not_warned_of(small_camera, caplog):
    fit(flat(small_camera), config(NODES))
    assert "cannot follow" not in caplog.text


def test_model_of_automatic_nodes(small_camera):
    """`build_model` places them too."""
    binned = flat(small_camera, bin_factor=20)
    model = build_model(binned, config())
    assert len(model.coords["node"]) >= 5


def test_the_node_at_which_the_spline_turns_least_is_left_out(rough):
    """A straight piece has a kink of Akima's weights at its inner node; elsewhere the spline turns clearly."""
    data, found = rough
    data = data.select(found.inside)
    nodes = np.array([0.0, 15.0, 30.0, 38.0, 43.0, 47.0, 52.0, 80.0])
    values = np.array([1.0, 0.98, 0.9, 0.86, 0.82, 0.6, 0.55, 0.5])
    values[3] = np.interp(38.0, nodes[[2, 4]], values[[2, 4]]) + 1e-7
    data = replace(data, nodes=nodes)
    fewer, resolved, again = without_a_node(data, config(nodes.tolist()), found, values, 1e-8 * np.eye(8))
    np.testing.assert_array_equal(fewer.nodes, np.delete(nodes, 3))
    assert resolved.radial_spline_nodes == fewer.nodes.tolist()
    assert len(again.parameters["radial_spline_values"]) == 7
    values[3] += 0.01  # which is 50 standard deviations
    assert without_a_node(data, config(nodes.tolist()), found, values, 1e-8 * np.eye(8)) is None


def test_a_node_with_a_negative_variance_is_left_out(rough):
    """A fit that ended on a kink has such a covariance: the node with the negative variance is left out."""
    data, found = rough
    nodes = np.array([0.0, 15.0, 30.0, 38.0, 43.0, 47.0, 52.0, 80.0])
    values = np.array([1.0, 0.98, 0.9, 0.8, 0.82, 0.6, 0.55, 0.3])
    data = replace(data.select(found.inside), nodes=nodes)
    covariance = 1e-8 * np.eye(8)
    covariance[4, 4] = -1e-6
    covariance[3, 3] = covariance[5, 5] = 1e-6  # uncertain neighbours, at which the spline still turns clearly
    fewer, _, _ = without_a_node(data, config(nodes.tolist()), found, values, covariance)
    np.testing.assert_array_equal(fewer.nodes, np.delete(nodes, 4))


def test_no_node_is_left_out_where_the_spline_would_not_be_positive(rough, monkeypatch):
    data, found = rough
    values = np.linspace(1.0, 0.5, 8)  # turns nowhere
    data = replace(data.select(found.inside), nodes=np.linspace(0.0, 80.0, 8))
    given = data, config(data.nodes.tolist()), found, values, 1e-8 * np.eye(8)
    assert without_a_node(*given) is not None
    monkeypatch.setattr("bayesflat.inference.nodes.SplineFit", lambda *_: SimpleNamespace(chi_squared=np.inf))
    assert without_a_node(*given) is None


def test_a_fit_without_a_maximum_is_tried_with_a_node_less(small_camera, monkeypatch, caplog):
    """Only where nodes are automatic: those that a user gives stay as they are."""
    numbers = []

    def first_fails(model, objective, rough=None):
        found = find_map(model, objective, rough)
        numbers.append(len(objective.data.nodes))
        if len(numbers) > 1:
            return found
        # values so uncertain that the spline turns clearly at no node
        return replace(found, converged=False, curvature=1e-4 * found.curvature)

    monkeypatch.setattr("bayesflat.inference.fitting.find_map", first_fails)
    binned = flat(small_camera, (RADIUS, FALL), bin_factor=20)
    with caplog.at_level("INFO", "bayesflat"):
        result = fit(binned, config())
    assert result.converged
    assert numbers[1] == numbers[0] - 1 == len(result.config.radial_spline_nodes)
    assert len(result.gradient.radial_spline_nodes) == numbers[1]
    assert caplog.text.count("trying without the spline node") == 1
    numbers.clear()
    assert not fit(binned, config(NODES)).converged
    assert len(numbers) == 1


def test_full_rings_where_the_bins_fill_a_circle_about_another_place(small_camera):
    """No ring that is kept lacks bins; a flat that was corrected about another centroid ends in such a circle."""
    centre, radius = np.array([3.0, -2.0]), 45.0
    binned = flat(small_camera)
    binned = binned.select(np.hypot(binned.xf - centre[0], binned.yf - centre[1]) <= radius)
    data = prepare(binned, config())
    away = np.hypot(data.dx - TRUTH["centroid_delta"][0], data.dy - TRUTH["centroid_delta"][1])
    # the circle about the centroid that touches the bins' own from within, less half a bin's diagonal (bins of 1 mm)
    edge = radius - np.hypot(*(centre - TRUTH["centroid_delta"])) - 0.5**0.5
    dead = (data.dx > 0) & (data.dx < 5) & (data.dy > 10) & (data.dy < 12)  # nor do defects inside matter
    data = data.select(~dead)
    kept = away[~dead][rough_fit(data, config()).inside].max()
    assert edge - 1.5 < kept < edge + 1.0  # to a bin


def test_bins_that_the_mask_cuts_are_left_out(small_camera):
    """The flat ends at 45 mm, and bins across that edge have part of their pixels only: none of them is kept."""
    radius = 45.0
    binned = flat(small_camera)
    away = np.hypot(binned.xf, binned.yf)
    share = np.clip(radius + 0.5 - away, 0.0, 1.0)  # about what lies inside, of a bin of 1 mm
    binned = replace(binned, n_pixels=np.round(100 * share).astype(int)).select(share > 0)
    assert np.hypot(binned.xf, binned.yf).max() > radius + 0.4
    data = prepare(binned, config())
    found = rough_fit(data, config())
    kept = data.select(found.inside)
    assert np.all(kept.binned.n_pixels[kept.radius > 40] == 100)
    edge = radius - np.hypot(*TRUTH["centroid_delta"]) - 0.5**0.5
    assert np.hypot(kept.dx - 0.5, kept.dy + 0.3).max() > edge - 2.0


def test_values_at_given_nodes_are_the_best_on_either_side_of_kinks(rng, caplog):
    """The last node lies beyond the profile, and slopes turn both ways, so that chi-squared has several minima."""
    nodes, radius, level = np.array([0.0, 12.0, 24.0, 34.0, 45.0]), np.arange(0.5, 42.0), 3.0
    for _ in range(30):
        values = level * (np.array([1.0, 0.97, 0.9, 0.8, 0.65]) + 0.01 * rng.standard_normal(5))
        log_radial = np.log(Akima1DInterpolator(nodes, values)(radius))
        profile = Rough(
            radius=radius, log_radial=log_radial, information=np.eye(len(radius)) / 1e-4**2, knots=radius,
            outer=radius[-1], parameters={}, inside=np.ones(0, bool), outlier=np.zeros(0, bool), smooth=0.3,
        )  # fmt: skip
        found = on_nodes(profile, nodes, FitConfig(do_constrain_zero=False)).parameters["radial_spline_values"]
        through = np.log(Akima1DInterpolator(nodes, found)(radius))
        np.testing.assert_allclose(through, log_radial, atol=1e-5)
    assert not caplog.records  # nodes that can follow the flat are not warned of


@pytest.mark.parametrize(("bin_factor", "bins"), [(200, "1 bin"), (100, None)])
def test_bins_as_large_as_the_detectors_are_refused(small_camera, bin_factor, bins):
    """Flats with large pixels are binned so by the default; the error says what to change."""
    if bins is None:
        assert len(fit(flat(small_camera, bin_factor=bin_factor), config(NODES)).data) > 0
        return
    expected = rf"^{bins} in the typical detector \(200 x 200 pixels\); at least 4 are needed: bin more finely"
    with pytest.raises(InputError, match=expected):
        fit(flat(small_camera, bin_factor=bin_factor), config(NODES))
