"""Maps of a flat, its model and what is left: what is drawn where, read back from the artists."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, Detector
from bayesflat.gradient.product import FlatGradient
from bayesflat.report import plots_fit as plots
from bayesflat.report.numbers import robust_rms
from bayesflat.report.plots_fit import plot_model_residual, plot_radial_model, save_figure
from bayesflat.report.raster import BinRaster
from tests.report.bins import BIN_SIDE, CAMERA, PRESENT, corners_of_bins, make_data, place
from tests.report.gradients import GRADIENT, own_model

USUAL = plots.RASTER


@pytest.fixture(autouse=True)
def small_raster(monkeypatch):
    """Fewer pixels than usual, for speed; the maps of the fixture have the usual number."""
    monkeypatch.setattr(plots, "RASTER", 500)


def pixel_centres(image):
    left, right, bottom, top = image.get_extent()
    n_y, n_x = image.get_array().shape
    assert image.origin == "lower"
    return np.meshgrid(
        left + (np.arange(n_x) + 0.5) * (right - left) / n_x, bottom + (np.arange(n_y) + 0.5) * (top - bottom) / n_y
    )


def bin_at(data, x, y):
    """Which bin each point lies in, by looking into each bin's square; -1: none; -2: too near an edge to say."""
    found = np.full(x.shape, -1)
    for k in range(len(data)):
        d = data.binned.camera[int(data.binned.detector[k])]
        z = (x - data.binned.xf[k] + 1j * (y - data.binned.yf[k])) * np.exp(-1j * np.radians(d.yaw))
        off = np.maximum(abs(z.real), abs(z.imag)) / (BIN_SIDE * d.pixel_size / 2)
        found[off < 1 - 1e-6] = k
        found[abs(off - 1) <= 1e-6] = -2
    return found


def check_image(image, data, values, seed=0):
    """Compare 4000 random pixels of an image with the values of the bins that they lie in."""
    x, y = pixel_centres(image)
    some = np.random.default_rng(seed).choice(x.size, 4000, replace=False)
    bins = bin_at(data, x.ravel()[some], y.ravel()[some])
    drawn = np.ma.getdata(image.get_array()).ravel()[some]
    mask = np.ma.getmaskarray(image.get_array()).ravel()[some]
    sure = bins != -2
    assert (bins >= 0).sum() > 300
    assert np.array_equal(mask[sure], bins[sure] == -1)
    hit = bins >= 0
    assert drawn[hit] == pytest.approx(values[bins[hit]], rel=1e-6)


@pytest.fixture(scope="module")
def maps(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "RASTER", USUAL)
        return plot_model_residual(data, GRADIENT)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_aspect() == 1.0]


def images(figure):
    return [axes.images[0] for axes in panels(figure)]


def test_maps_hold_each_bin_at_its_place(data, maps):
    model = own_model(data.binned.xf, data.binned.yf, data.binned.itl)
    for image, values in zip(images(maps), (data.value, model, data.value / model), strict=True):
        check_image(image, data, values)


def test_colours_on_the_page(data, maps):
    """The rendered page, at the centre of every bin: right side up, colours of the colour map."""
    maps.canvas.draw()
    page = np.asarray(maps.canvas.buffer_rgba())
    for axes, values in zip(panels(maps)[:1], (data.value,), strict=True):
        image = axes.images[0]
        at = axes.transData.transform(np.column_stack([data.binned.xf, data.binned.yf]))
        seen = page[page.shape[0] - 1 - at[:, 1].astype(int), at[:, 0].astype(int), :3]
        expected = mpl.colormaps["viridis"](image.norm(values))[:, :3] * 255
        assert np.abs(seen - expected).max() <= 1.5


def test_limits(data, maps):
    first, second, third = images(maps)
    assert first.get_clim() == second.get_clim()
    assert first.get_cmap().name == second.get_cmap().name == "viridis"
    model = own_model(data.binned.xf, data.binned.yf, data.binned.itl)
    assert first.get_clim() == pytest.approx(np.percentile(np.append(data.value, model), [0.5, 99.5]))
    low, high = third.get_clim()
    assert high - 1 == pytest.approx(1 - low, abs=1e-12)
    assert high - 1 == pytest.approx(np.percentile(abs(data.value / model - 1), 99))
    # a scale that is given, and an outlier that must not stretch the one that is not
    low, high = images(plot_model_residual(data, GRADIENT, scale=0.013))[2].get_clim()
    assert (low, high) == pytest.approx((0.987, 1.013), abs=1e-12)
    with pytest.raises(ValueError, match="above 0"):
        plot_model_residual(data, GRADIENT, scale=0.0)
    data = make_data(value=lambda x, y, itl: np.where(np.arange(len(x)) == 17, 1.4, own_model(x, y, itl) * 1.001))
    assert images(plot_model_residual(data, GRADIENT))[2].get_clim()[1] == pytest.approx(1.001, abs=1e-6)


def test_colour_bar_of_the_residual_is_in_per_cent(data):
    figure = plot_model_residual(data, GRADIENT, scale=0.02)
    figure.canvas.draw()
    bar = images(figure)[2].colorbar
    assert bar.extend == "both"
    assert "%" in bar.ax.get_xlabel()
    labels = {
        label.get_text(): tick
        for label, tick in zip(bar.ax.get_xticklabels(), bar.ax.get_xticks(), strict=True)
        if label.get_text()
    }
    assert len(labels) >= 3
    for text, tick in labels.items():
        assert float(text.replace("−", "-")) / 100 == pytest.approx(tick - 1, abs=1e-9)


def test_detectors_and_bins_that_are_missing_stay_blank():
    def keep(number, x0, y0):
        return number != 4 and not (number == 5 and x0 == 32 and y0 == 16)

    data = make_data(keep=keep, present=(1, 3, 5, 7))
    figure = plot_model_residual(data, GRADIENT)
    for image in images(figure):
        check_image(image, data, np.ma.getdata(image.get_array())[nearest_pixel(image, data)])
        x, y = pixel_centres(image)
        for number, (x0, y0, nx, ny) in {4: (0, 0, 96, 64), 6: (0, 0, 96, 64), 5: (32, 16, BIN_SIDE, BIN_SIDE)}.items():
            px, py = CAMERA[number].focal_plane_to_pixel(x, y)
            inside = (abs(px - x0 - (nx - 1) / 2) < nx / 2 - 0.3) & (abs(py - y0 - (ny - 1) / 2) < ny / 2 - 0.3)
            assert inside.sum() > 50
            assert np.all(np.ma.getmaskarray(image.get_array())[inside])
    text = [label.get_text() for label in figure.legends[0].get_texts()]
    assert text == ["ITL (2)", "E2V (2)", "without bins (2)"]


def nearest_pixel(image, data):
    left, right, bottom, top = image.get_extent()
    n_y, n_x = image.get_array().shape
    return (
        ((data.binned.yf - bottom) / (top - bottom) * n_y).astype(int),
        ((data.binned.xf - left) / (right - left) * n_x).astype(int),
    )


def test_outlines(maps):
    """ITL detectors are told apart; the guider, which has no bins, is not drawn."""
    for axes in panels(maps):
        groups = {c.get_label(): c for c in axes.collections if isinstance(c, PolyCollection)}
        for label, numbers in {"ITL": {1, 7}, "E2V": {3, 4, 5}, "without bins": {6}}.items():
            drawn = [path.vertices[:4] for path in groups[label].get_paths()]
            expected = []
            for d in CAMERA:
                if d.id in numbers:
                    px = np.array([0, d.nx, d.nx, 0]) - 0.5
                    py = np.array([0, 0, d.ny, d.ny]) - 0.5
                    expected.append(np.column_stack(place(d, px, py)))
            assert np.allclose(drawn, expected)
        colours = {to_hex(c.get_edgecolor()[0]) for c in groups.values()}
        assert len(colours) == 3
        limits = (*axes.get_xlim(), *axes.get_ylim())
        everything = np.concatenate([d.corners() for d in CAMERA if d.is_science])
        assert limits[0] < everything[:, 0].min()
        assert limits[1] > everything[:, 0].max()
        assert limits[2] < everything[:, 1].min()
        assert limits[3] > everything[:, 1].max()


def test_titles_and_units(data, maps):
    texts = " ".join(t.get_text() for t in maps.texts)
    assert "ToyCam" in texts
    assert "r_7" in texts
    residual = data.value / own_model(data.binned.xf, data.binned.yf, data.binned.itl)
    rms = 1.4826 * np.median(abs(residual - np.median(residual)))
    assert f"{100 * rms:.0f}%" in panels(maps)[2].get_title()
    for axes in panels(maps):
        assert "mm" in axes.get_xlabel()
    assert "mm" in panels(maps)[0].get_ylabel()


def test_robust_rms():
    x = np.random.default_rng(2).normal(3.0, 0.02, 20_001)
    x[:500] = 9.0
    x[500] = np.nan
    assert robust_rms(x) == pytest.approx(0.02, rel=0.05)


def test_lonely_bins_are_as_large_as_the_others():
    """A detector with a few bins far apart, one with a single one, one with a single column."""

    def keep(number, x0, y0):
        few = {1: {(0, 0), (48, 32)}, 4: {(16, 16)}, 7: {(32, 0), (32, 16), (32, 48)}}
        return number not in few or (x0, y0) in few[number]

    data = make_data(keep=keep)
    check_image(images(plot_model_residual(data, GRADIENT))[0], data, data.value)


def test_detectors_with_other_bins():
    """Bins of twice the side on one detector: each detector's own spacing counts."""
    large = Detector(5, "D5", "E2V", "science", 50.0, 45.0, 33.0, 192, 160, 0.25, 95.5, 79.5)
    camera = Camera("Mixed", [CAMERA[3], large])
    px, py = (a.ravel() for a in np.meshgrid(np.arange(15.5, 192, 32), np.arange(15.5, 160, 32)))
    x0, y0 = corners_of_bins(CAMERA[3])
    places = place(large, px, py), place(CAMERA[3], x0 + 7.5, y0 + 7.5)
    xf, yf = (np.concatenate(arrays) for arrays in zip(*places, strict=True))
    columns = {"xf": xf, "yf": yf, "value": np.ones(54), "detector": np.repeat([5, 3], [30, 24])}
    raster = BinRaster.of(BinnedFlat.from_columns(columns | {"itl": np.zeros(54, bool)}, camera), 900)
    area = ((raster.extent[1] - raster.extent[0]) / raster.index.shape[1]) ** 2
    covered = np.bincount(raster.index[raster.index >= 0], minlength=54) * area
    assert covered == pytest.approx(np.repeat([64.0, 16.0], [30, 24]), rel=0.05)


def test_bins_without_a_grid_take_the_nearest():
    data = make_data(jitter=6.0)
    image = images(plot_model_residual(data, GRADIENT))[0]
    x, y = (a.ravel() for a in pixel_centres(image))
    some = np.random.default_rng(3).choice(x.size, 5000, replace=False)
    drawn = image.get_array().ravel()[some]
    on_some = np.zeros(5000, bool)
    checked = 0
    for number in PRESENT:
        d, rows = CAMERA[number], np.flatnonzero(data.binned.detector == number)
        px, py = d.focal_plane_to_pixel(x[some], y[some])
        on = (abs(px - (d.nx - 1) / 2) < d.nx / 2 - 0.01) & (abs(py - (d.ny - 1) / 2) < d.ny / 2 - 0.01)
        on_some |= (abs(px - (d.nx - 1) / 2) < d.nx / 2 + 0.01) & (abs(py - (d.ny - 1) / 2) < d.ny / 2 + 0.01)
        distance = np.hypot(data.binned.xf[rows, None] - x[some][on], data.binned.yf[rows, None] - y[some][on])
        near = distance.min(axis=0) < 2.0
        checked += near.sum()
        expected = data.value[rows[distance.argmin(axis=0)]][near]
        assert drawn[on][near].filled(-1) == pytest.approx(expected, rel=1e-6)
    assert checked > 500
    assert np.all(np.ma.getmaskarray(drawn)[~on_some])


def test_rounded_positions_are_a_grid_still():
    data = make_data()
    exact = BinRaster.of(data.binned, 500).index
    columns = {name: getattr(data.binned, name) for name in ("value", "detector", "itl")}
    columns |= {name: np.round(getattr(data.binned, name), 2) for name in ("xf", "yf")}
    rounded = BinRaster.of(BinnedFlat.from_columns(columns, CAMERA), 500).index
    assert np.mean(exact != rounded) < 0.01


def test_a_model_that_is_zero_somewhere():
    """The last node is held at zero: the ratio has no value there, and its limits are finite all the same."""
    gradient = FlatGradient([0.0, 40.0, 80.0, 120.0], [1.0, 1.0, 0.0, 0.0])
    figure = plot_model_residual(make_data(), gradient)
    drawn = images(figure)[2].get_array()
    assert np.all(np.isfinite(drawn.compressed()))
    assert drawn.count() < images(figure)[0].get_array().count()
    figure.canvas.draw()
    plot_radial_model(make_data(), gradient).canvas.draw()


def test_one_bin_and_a_flat_without_structure():
    lone = make_data(present=(3,), keep=lambda number, x0, y0: (x0, y0) == (32, 32))
    even = make_data(value=lambda x, y, itl: np.ones(len(x)))
    flat = FlatGradient([0.0, 40.0, 80.0, 120.0], [1.0, 1.0, 1.0, 1.0])
    for data in (lone, even):
        figure = plot_model_residual(data, flat)
        for image in images(figure):
            assert image.norm.vmin < image.norm.vmax
        drawn = images(figure)[0].get_array().compressed()
        assert np.allclose(np.unique(drawn), np.unique(data.value), rtol=1e-6)
        plot_radial_model(data, flat)


# ---- files and manners ----


def test_save_is_whole_or_not_at_all(tmp_path, maps, monkeypatch):
    path = tmp_path / "map.png"
    save_figure(maps, path, dpi=40)
    written = path.read_bytes()
    assert written.startswith(b"\x89PNG\r\n\x1a\n")
    # width and height in the header of a PNG
    assert int.from_bytes(written[16:20]) == int(maps.get_figwidth() * 40)

    def broken(target, **_):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(maps, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        save_figure(maps, path)
    assert path.read_bytes() == written
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def test_nothing_global_changes(data):
    before = dict(mpl.rcParams)
    plot_model_residual(data, GRADIENT).canvas.draw()
    plot_radial_model(data, GRADIENT).canvas.draw()
    assert dict(mpl.rcParams) == before


def test_no_pyplot():
    heavy = "any(m in sys.modules for m in ('matplotlib.pyplot', 'pymc'))"
    code = f"import sys, bayesflat.report.plots_fit, bayesflat.report.plots_uncertainty; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
