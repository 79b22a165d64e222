"""Throughputs, correlations and predictive checks: read back from the artists, against numbers of the tests' own."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from scipy.interpolate import Akima1DInterpolator

from bayesflat.data.camera import Camera, Detector
from bayesflat.gradient.correlations import correlations, strongest_correlations
from bayesflat.gradient.estimates import Estimates, Offsets
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.predictive import Groups, PredictiveCheck
from bayesflat.report.plots_uncertainty import plot_correlations, plot_offsets, plot_predictive
from tests.report.bins import make_data


def detector(number, kind, x, y, yaw, amplifiers, purpose="science"):
    return Detector(number, f"D{number}", kind, purpose, x, y, yaw, 96, 64, 0.25, 48.5, 31.5, *amplifiers)


CAMERA = Camera(
    "Toy",
    [
        detector(3, "E2V", 0.0, 2.0, 0.0, (8, 2)),
        detector(1, "ITL", 40.0, 0.0, 90.0, (8, 2)),
        detector(7, "ITL", 80.0, 5.0, 180.0, (4, 1)),
        detector(5, "E2V", 40.0, 45.0, 33.0, (3, 2)),
        detector(6, "E2V", 80.0, 45.0, -100.0, (8, 2)),  # never given bins
    ],
)
PRESENT = (1, 3, 5, 7)
NODES = np.array([0.0, 40.0, 80.0, 120.0, 160.0])
VALUES = np.array([1.0, 0.97, 0.9, 0.6, 0.1])


@pytest.fixture(scope="module")
def data():
    return make_data(CAMERA, PRESENT)


@pytest.fixture(scope="module")
def offsets():
    rng = np.random.default_rng(3)
    rows = [(n, a) for n in PRESENT for a in range(-1, CAMERA[n].n_amplifiers)]
    numbers, amplifiers = np.array(rows).T
    return Offsets(numbers, amplifiers, 1 + rng.normal(0, 0.02, len(rows)), rng.uniform(1e-3, 4e-3, len(rows)))


@pytest.fixture(scope="module")
def figure(data, offsets):
    return plot_offsets(data, FlatGradient(NODES, VALUES, offsets=offsets))


def filled(axes):
    (collection,) = (c for c in axes.collections if isinstance(c, PolyCollection) and c.get_gid() == "throughput")
    return collection


def pixel_edges(d, polygon):
    """Vertices in pixels from the detector's corner, by complex numbers."""
    z = (polygon[:4, 0] - d.x + 1j * (polygon[:4, 1] - d.y)) * np.exp(-1j * np.radians(d.yaw)) / d.pixel_size
    return z.real + d.refpos_x + 0.5, z.imag + d.refpos_y + 0.5


def holder(polygon):
    """The detector whose area holds the polygon's middle."""
    for d in CAMERA:
        x, y = pixel_edges(d, np.tile(polygon[:4].mean(0), (4, 1)))
        if 0 < x[0] < d.nx and 0 < y[0] < d.ny:
            return d
    raise AssertionError("between the detectors")


def expected_of(offsets):
    rows = zip(offsets.detector, offsets.amplifier, offsets.mean, strict=True)
    return {(int(number), int(amplifier)): mean for number, amplifier, mean in rows}


def test_detectors_at_their_places(figure, offsets):
    collection, expected = filled(figure.axes[0]), expected_of(offsets)
    seen = set()
    for path, value in zip(collection.get_paths(), collection.get_array(), strict=True):
        d = holder(path.vertices)
        x, y = pixel_edges(d, path.vertices)
        assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((0, d.nx, 0, d.ny), abs=1e-9)
        assert value == expected[d.id, -1]
        seen.add(d.id)
    assert seen == set(PRESENT)


def test_amplifiers_at_their_places(figure, offsets):
    """Their colour is the throughput over that of their detector."""
    collection, expected = filled(figure.axes[2]), expected_of(offsets)
    seen = set()
    for path, value in zip(collection.get_paths(), collection.get_array(), strict=True):
        d = holder(path.vertices)
        x, y = pixel_edges(d, path.vertices)
        assert np.ptp(x) == pytest.approx(d.nx / d.amp_nx)
        assert np.ptp(y) == pytest.approx(d.ny / d.amp_ny)
        amplifier = int(d.amplifier(x.mean() - 0.5, y.mean() - 0.5))
        assert value == pytest.approx(expected[d.id, amplifier] / expected[d.id, -1], rel=1e-12)
        seen.add((d.id, amplifier))
    assert seen == {key for key in expected if key[1] >= 0}


def test_colours_are_about_one_and_in_per_cent(figure):
    figure.canvas.draw()
    for panel, bar in ((0, 1), (2, 3)):
        low, high = filled(figure.axes[panel]).get_clim()
        assert high - 1 == pytest.approx(1 - low, abs=1e-12)
        axes = figure.axes[bar]
        assert "%" in axes.get_xlabel()
        labels = [(t.get_text(), x) for t, x in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)]
        assert len(labels) >= 3
        for text, x in labels:
            assert float(text.replace("−", "-")) / 100 == pytest.approx(x - 1, abs=1e-9)


def test_throughputs_by_vendor(figure, offsets):
    axes, expected = figure.axes[4], expected_of(offsets)
    sds = {int(n): s for n, a, s in zip(offsets.detector, offsets.amplifier, offsets.sd, strict=True) if a < 0}
    assert [c.get_label().split(" (")[0] for c in axes.containers] == ["ITL", "E2V"]
    for container, numbers in zip(axes.containers, ((1, 7), (3, 5)), strict=True):
        points, _, (bars,) = container
        order = sorted(numbers, key=lambda n: expected[n, -1])
        assert points.get_xdata() == pytest.approx([100 * (expected[n, -1] - 1) for n in order])
        assert list(points.get_ydata()) == [25, 75]
        for segment, n in zip(bars.get_segments(), order, strict=True):
            assert np.ptp(segment[:, 0]) == pytest.approx(200 * sds[n])


def test_one_vendor(offsets):
    some = np.isin(offsets.detector, (3, 5))
    few = Offsets(*(getattr(offsets, name)[some] for name in ("detector", "amplifier", "mean", "sd")))
    figure = plot_offsets(make_data(CAMERA, (3, 5)), FlatGradient(NODES, VALUES, offsets=few))
    assert len(figure.axes[4].containers) == 1
    figure.canvas.draw()


def test_offsets_must_be_there(data):
    with pytest.raises(ValueError, match="no throughputs of detectors and amplifiers"):
        plot_offsets(data, FlatGradient(NODES, VALUES))


# ---- correlations ----

FITTED = ("itl_ratio", "centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y")
OFF = ("outer_gradient_x", "outer_gradient_y")
SD = np.array([2e-4, 1e-4, 3e-4, 2e-4, 1e-4, 3e-3, 0.01, 0.02, 3e-6, 4e-6, 0.1])


def uncertain(nodes=NODES, values=VALUES, seed=8):
    """A product whose last node is held, with any correlation of the rest."""
    n = len(nodes)
    names = (*(f"radial_spline_values[{k}]" for k in range(n)), *FITTED, *OFF, "log_noise_scale")
    held = np.array([name in (*OFF, f"radial_spline_values[{n - 1}]") for name in names])
    root = np.random.default_rng(seed).normal(0, 1, (len(names), len(names)))
    sd = np.concatenate([SD[:n], SD[5:10], [0, 0], SD[10:]]) * ~held
    covariance = root @ root.T
    covariance *= np.outer(sd, sd) / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    estimates = Estimates(names, ("",) * len(names), {"sd": sd}, covariance, "laplace", True, False)
    return FlatGradient(nodes, values, itl_ratio=0.93, estimates=estimates)


def test_correlations_are_those_of_draws():
    gradient = uncertain()
    names, found = correlations(gradient, radii=(55.0, 117.0, 400.0))
    assert names == [*FITTED, "radial at 55 mm", "radial at 117 mm"]
    covariance = gradient.estimates.covariance
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(len(covariance)), covariance, 100_000)
    spline = Akima1DInterpolator(NODES, (VALUES + draws[:, :5]).T)
    expected = np.corrcoef(np.column_stack([draws[:, 5:10], spline(55.0), spline(117.0)]).T)
    assert np.abs(expected[np.triu_indices(7, 1)]).max() > 0.3
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_strongest_pairs():
    gradient = uncertain()
    names, found = correlations(gradient)
    three = strongest_correlations(gradient)
    assert len(three) == 3
    weakest = abs(three[-1][2])
    assert [abs(v) for *_, v in three] == sorted((abs(v) for *_, v in three), reverse=True)
    named = {frozenset(pair[:2]) for pair in three}
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        pair = frozenset((names[i], names[j]))
        if pair in named:
            assert found[i, j] in [v for *_, v in three]
        elif not all(name.startswith("radial") for name in pair):
            assert abs(found[i, j]) <= weakest


def test_radii_of_a_small_camera():
    names, found = correlations(uncertain())
    assert names[-2:] == ["radial at 102 mm", "radial at 114 mm"]
    assert np.array_equal(found, correlations(uncertain(), radii=(102.0, 114.0))[1])
    large = uncertain(nodes=3 * NODES)
    assert correlations(large)[0][-2:] == ["radial at 310 mm", "radial at 330 mm"]


def test_what_is_held_has_no_correlation():
    """The last node is fixed to zero, the outer plane is off."""
    names, found = correlations(uncertain(), radii=(160.0, 40.0))
    assert names == [*FITTED, "radial at 40 mm"]
    gradient = uncertain()
    covariance = gradient.estimates.covariance
    expected = covariance[1, 5] / np.sqrt(covariance[1, 1] * covariance[5, 5])
    assert found[-1, 0] == pytest.approx(expected)  # at a node the function is the node's value
    assert np.diag(found) == pytest.approx(np.ones(6))


def test_correlations_need_uncertainties():
    gradient = uncertain()
    unknown = replace(gradient.estimates, covariance=np.full_like(gradient.estimates.covariance, np.nan))
    for estimates in (None, unknown):
        with pytest.raises(ValueError, match="no uncertainties"):
            correlations(replace(gradient, estimates=estimates))
        with pytest.raises(ValueError, match="no uncertainties"):
            plot_correlations(replace(gradient, estimates=estimates))
    nothing = replace(gradient.estimates, covariance=np.zeros_like(gradient.estimates.covariance))
    with pytest.raises(ValueError, match="COVARIANCE is 0"):
        correlations(replace(gradient, estimates=nothing))


def test_numbers_in_the_cells():
    gradient = uncertain()
    names, expected = correlations(gradient)
    axes = plot_correlations(gradient).axes[0]
    assert np.array_equal(axes.images[0].get_array(), expected)
    assert axes.images[0].get_clim() == (-1, 1)
    for text in axes.texts:
        column, row = text.get_position()
        assert float(text.get_text().replace("−", "-")) == pytest.approx(expected[row, column], abs=0.0051)
    assert len(axes.texts) == len(names) ** 2
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        found = [label.get_text() for label in labels]
        assert found == ["ITL ratio", "centroid x", "centroid y", "plane x", "plane y", *names[-2:]]


# ---- predictive checks ----


def groups(name, at, planted, rng):
    n = len(at)
    observed = np.zeros(n)
    observed[planted] = 0.03
    low, high = -rng.uniform(0.005, 0.01, n), rng.uniform(0.005, 0.01, n)
    return Groups(name, np.asarray(at, float), np.full(n, 9), observed, low, 0.5 * (low + high), high, np.full(n, 0.5))


def test_predictive_panels():
    rng = np.random.default_rng(2)
    parts = {
        "radius": groups("radius", np.arange(1.0, 61, 2), 20, rng),
        "azimuth": groups("azimuth", np.arange(7.5, 360, 15), [], rng),
        "detector": groups("detector", [1, 3, 4, 9, 20], 3, rng),
    }
    figure = plot_predictive(PredictiveCheck("posterior", 100, 3, **parts))
    figure.canvas.draw()
    for axes, part in zip(figure.axes, parts.values(), strict=True):
        x = np.arange(5) if part.name == "detector" else part.at
        assert axes.get_ylabel().endswith("(%)")
        (bars,) = axes.containers
        for bar, at, low, high in zip(bars, x, part.low, part.high, strict=True):
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(at)
            assert (bar.get_y(), bar.get_y() + bar.get_height()) == pytest.approx((100 * low, 100 * high))
        inside, outside = axes.get_lines()
        assert to_hex(inside.get_color()) != to_hex(outside.get_color())
        assert list(outside.get_xdata()) == list(x[part.observed > 0])
        assert outside.get_ydata() == pytest.approx([3.0] * len(outside.get_xdata()))
        assert len(inside.get_xdata()) + len(outside.get_xdata()) == len(x)
        low, high = axes.get_ylim()
        assert low < 100 * part.low.min()
        assert high > 100 * part.high.max()
    assert [t.get_text() for t in figure.axes[2].get_xticklabels()] == ["1", "3", "4", "9", "20"]
    assert "100 draws, 3 others" in figure.texts[0].get_text()
    assert figure.axes[0].get_title(loc="right").startswith("1 of 30 beyond")


def test_prior_panels_are_logs():
    rng = np.random.default_rng(2)
    parts = {name: groups(name, [1.0], [], rng) for name in ("detector", "radius", "azimuth")}
    axes = plot_predictive(PredictiveCheck("prior", 50, 0, **parts)).axes[0]
    assert "log" in axes.get_ylabel()
    assert axes.containers[0][0].get_y() == pytest.approx(parts["radius"].low[0])
