"""The plot of the radial function: density, line and band against formulas of the tests' own."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from bayesflat.gradient.estimates import Estimates
from bayesflat.gradient.product import FlatGradient
from bayesflat.report.numbers import adjusted_values, running_percentiles
from bayesflat.report.plots_fit import describe, plot_radial_model
from tests.report.bins import make_data
from tests.report.gradients import GRADIENT, own_model, own_plane, own_radial


def test_adjusted_values(data):
    x, y = data.binned.xf, data.binned.yf
    radius, adjusted = adjusted_values(data, GRADIENT)
    assert radius == pytest.approx(own_radial(x, y)[0])
    expected = np.array(
        [v * own_plane(a, b) / (0.93 if i else 1.0) for v, a, b, i in zip(data.value, x, y, data.itl, strict=True)]
    )
    assert adjusted == pytest.approx(expected)
    # the model itself, adjusted, is the radial function
    data = make_data(value=own_model)
    radius, adjusted = adjusted_values(data, GRADIENT)
    assert adjusted == pytest.approx(own_radial(data.binned.xf, data.binned.yf)[1])


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_density_and_line(data):
    upper, lower = plot_radial_model(data, GRADIENT).axes[:2]
    r, radial = own_radial(data.binned.xf, data.binned.yf)
    adjusted = data.value * own_plane(data.binned.xf, data.binned.yf) / np.where(data.itl, 0.93, 1.0)
    for axes, y in ((upper, adjusted), (lower, 100 * (adjusted / radial - 1))):
        image = axes.images[0]
        left, right, bottom, top = image.get_extent()
        counts = image.get_array()
        n_y, n_x = counts.shape
        column, row = np.floor((r - left) / (right - left) * n_x), np.floor((y - bottom) / (top - bottom) * n_y)
        expected = np.zeros((n_y, n_x))
        inside = (row >= 0) & (row < n_y)
        assert inside.mean() > 0.97
        np.add.at(expected, (row[inside].astype(int), column[inside].astype(int)), 1)
        assert np.array_equal(counts.filled(0), expected)
        assert np.array_equal(np.ma.getmaskarray(counts), expected == 0)
        assert (*axes.get_xlim(), *axes.get_ylim()) == (left, right, bottom, top)
    line = lines(upper)["radial function"]
    x = line.get_xdata()
    akima = Akima1DInterpolator([0.0, 40.0, 80.0, 120.0], [1.0, 0.97, 0.9, 0.6])
    assert line.get_ydata() == pytest.approx(akima(np.clip(x, 0, 120)))
    # where bins are, and no farther: beyond them the function is a guess, and drawn as one
    assert (x[0], x[-1]) == (0, pytest.approx(r.max()))
    guess = lines(upper)["beyond the bins"]
    assert guess.get_linestyle() == ":"
    assert (guess.get_xdata()[0], guess.get_ydata()[0]) == (x[-1], line.get_ydata()[-1])


def test_nodes_are_marked(data):
    gradient = FlatGradient([0, 40.0, 80, 91, 500], [1.0, 0.97, 0.9, 0.6, 0.5])
    upper, lower = plot_radial_model(data, gradient).axes[:2]
    nodes = lines(upper)["spline nodes"]
    reach = data.radius.max()
    assert 80 < reach < 120
    # the node far beyond the data would squeeze them
    assert list(nodes.get_xdata()) == [0, 40, 80, 91]
    assert list(nodes.get_ydata()) == [1.0, 0.97, 0.9, 0.6]
    assert upper.get_xlim()[1] < 200
    for axes in (upper, lower):
        marked = [line.get_xdata()[0] for line in axes.get_lines() if line.get_gid() == "node"]
        assert marked == [0, 40, 80, 91]


def test_running_percentiles():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 10, 5000), rng.normal(0, 1, 5000)
    y[(x > 4) & (x < 5)] += 7.0
    y[::50] = np.nan
    y[(x > 8) & (x < 9)] = np.nan
    at, low, median, high = running_percentiles(x, y, np.arange(11.0))
    for k in range(10):
        inside = (x >= k) & (x < k + 1) & np.isfinite(y)
        if k == 8:
            assert np.isnan([at[k], low[k], median[k], high[k]]).all()
            continue
        assert median[k] == np.median(y[inside])
        assert (low[k], high[k]) == tuple(np.percentile(y[inside], [16, 84]))
        assert at[k] == np.median(x[inside])
    assert median[4] == pytest.approx(7.0, abs=0.3)
    assert high[2] - low[2] == pytest.approx(2.0, abs=0.3)
    # the last edge belongs to its step
    assert running_percentiles(np.repeat(1.0, 20), np.repeat(3.0, 20), np.array([0.0, 1.0]))[2] == [3.0]


def test_running_median_is_drawn_in_per_cent():
    """A residual of +2% inside 50 mm of the centroid and -1% outside, on both vendors' detectors."""

    def value(x, y, itl):
        return own_model(x, y, itl) * np.where(own_radial(x, y)[0] < 50, 1.02, 0.99)

    drawn = lines(plot_radial_model(make_data(value=value), GRADIENT).axes[1])
    median = drawn["running median"]
    x, y = np.asarray(median.get_xdata()), np.asarray(median.get_ydata())
    known = np.isfinite(y)
    away = abs(x - 50) > 12
    assert (known & away & (x < 50)).sum() >= 2
    assert (known & away & (x > 50)).sum() >= 2
    assert y[known & away] == pytest.approx(np.where(x < 50, 2.0, -1.0)[known & away], abs=1e-9)
    assert list(drawn["radial function"].get_ydata()) == [0, 0]


def with_covariance(covariance, method="laplace"):
    names = tuple(f"radial_spline_values[{k}]" for k in range(len(covariance)))
    estimates = Estimates(names, ("",) * len(names), {}, covariance, method, True, False)
    return replace(GRADIENT, estimates=estimates)


def test_band(data):
    """Against splines through node values drawn from the posterior."""
    nodes, values = GRADIENT.radial_spline_nodes, GRADIENT.radial_spline_values
    rng = np.random.default_rng(5)
    root = np.tril(rng.normal(0, 1, (4, 4))) * 1e-4
    upper, lower = plot_radial_model(data, with_covariance(root @ root.T)).axes[:2]
    draws = Akima1DInterpolator(nodes, (values + rng.normal(0, 1, (20_000, 4)) @ root.T).T)
    radial = Akima1DInterpolator(nodes, values)
    reach = own_radial(data.binned.xf, data.binned.yf)[0].max()
    for axes, relative in ((upper, False), (lower, True)):
        (band,) = axes.collections
        points = band.get_paths()[0].vertices
        x = np.unique(points[:, 0])
        assert x[0] == 0
        # it ends where the data do
        assert reach - 0.5 < x[-1] <= reach
        for at in x[:: len(x) // 7]:
            y = points[points[:, 0] == at, 1]
            mean, half = float(radial(at)), 1.645 * draws(at).std()
            if relative:
                assert (y.min(), y.max()) == pytest.approx((-100 * half / mean, 100 * half / mean), rel=0.03)
            else:
                assert (y.min(), y.max()) == pytest.approx((mean - half, mean + half), abs=0.03 * half)
    assert "90% interval" in [text.get_text() for text in upper.get_legend().get_texts()]


def test_no_band_without_uncertainties(data):
    for gradient in (GRADIENT, with_covariance(np.full((4, 4), np.nan), "map")):
        for axes in plot_radial_model(data, gradient).axes[:2]:
            assert not axes.collections


def with_sd(**sd):
    names = (*(f"radial_spline_values[{k}]" for k in range(3)), *sd)
    column = np.array([1e-3] * 3 + list(sd.values()))
    estimates = Estimates(names, ("",) * len(names), {"sd": column}, np.diag(column**2), "laplace", True, False)
    return FlatGradient(
        [0.0, 40.0, 120.0],
        [1.0, 0.97, 0.6],
        itl_ratio=0.93456,
        centroid_delta_x=0.8123,
        centroid_delta_y=-0.4567,
        gradient_x=30.456e-6,
        gradient_y=-2.1e-6,
        estimates=estimates,
    )


def test_scalars_are_stated(data):
    gradient = with_sd(itl_ratio=0.0031, centroid_delta_x=0.012, centroid_delta_y=0.25, gradient_x=4e-6, gradient_y=0.0)
    text = describe(data, gradient)
    assert "ITL / E2V = 0.9346 ± 0.0031" in text
    assert "centroid = (0.812 ± 0.012, −0.46 ± 0.25) mm" in text
    assert "plane = (30.5 ± 4.0, −2.10) × 10⁻⁶/mm" in text
    assert any(t.get_text() == text for t in plot_radial_model(data, gradient).texts)
    # nothing known, and nothing to know
    unknown = describe(data, with_sd(itl_ratio=np.nan))
    assert "±" not in unknown
    assert "0.9346" in unknown
    assert "beyond" not in unknown
    assert "beyond 70 mm (100.00, 200.00) × 10⁻⁶/mm" in describe(data, GRADIENT)
    alone = make_data(present=(1, 7), fp_centroid_x=40.0)
    assert "ITL" not in describe(alone, gradient)
    assert "ITL" not in plot_radial_model(alone, gradient).axes[0].get_ylabel()
