"""Two plots to judge a fit by: data, model and their ratio over the focal plane; the radial function over the data.

Figures are made without pyplot: nothing global is changed, and `save_figure` writes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from bayesflat.binned import BinnedFlat
from bayesflat.camera import Detector
from bayesflat.files import replacing
from bayesflat.gradient import FlatGradient
from bayesflat.prepare import FitData
from bayesflat.raster import BinRaster

RASTER = 1280  # pixels along the longer side of the focal plane
LIMITS = (0.5, 99.5)  # percentiles of the values that the colours span
RESIDUAL_LIMIT = 99.0  # percentile of |data/model - 1| that the residual's colours span
STEPS = 80  # of the running median over all radii, at most
FEWEST = 8  # bins in such a step, at least
CELL = 0.0235  # side of a cell of a density (inches), at least

_BLANK = "0.82"  # not white, which is a residual of zero
_ITL, _REST, _EMPTY = "#c51b7d", "0.15", "0.6"
_LINE, _MEDIAN, _DENSITY = "#e6550d", "0.05", "viridis_r"
_SMALL, _MIDDLE, _LARGE = 11, 12.5, 15  # font sizes (points)


# ---- data, model and their ratio over the focal plane ----


def plot_model_residual(data: FitData, gradient: FlatGradient, *, scale: float | None = None) -> Figure:
    """Data, model and data/model over the focal plane.

    Each bin is a filled cell at its place on its detector; what was not fitted is left blank.

    Parameters
    ----------
    data : FitData
        The bins that were fitted.
    gradient : FlatGradient
        A fit to data with the same normalization.
    scale : float, optional
        Half width of the residual's colour scale about 1 (fraction); by default from the residuals, robustly.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        ``scale`` is not above 0.
    """
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be above 0")
    binned = data.binned
    model = gradient.compute_model(binned.xf, binned.yf, binned.itl)
    residual = np.divide(data.value, model, out=np.full(len(data), np.nan), where=model > 0)
    raster = BinRaster.of(binned, RASTER)
    left, right, bottom, top = raster.extent

    # inches: the panels keep the shape of the focal plane, all else has a fixed size
    width = 4.9
    height = float(np.clip(width * (top - bottom) / (right - left), 2.2, 8.0))
    margin, gap, below, above = 0.95, 0.3, 1.65, 0.85
    size = (margin + 3 * width + 2 * gap + 0.35, below + height + above)
    figure = _figure(size)
    axes: list[Axes] = []
    for k, title in enumerate(("Data", "Model", "Data / model")):
        x = margin + k * (width + gap)
        panel = figure.add_axes(_box(size, x, below, width, height), sharex=axes[0] if k else None)
        panel.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", facecolor=_BLANK)
        panel.set_title(title, fontsize=_MIDDLE, pad=7)
        panel.set_xlabel("x on the focal plane (mm)", fontsize=_SMALL)
        panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        panel.tick_params(labelsize=_SMALL, labelleft=k == 0, top=True, right=True, direction="in")
        axes.append(panel)
    axes[0].set_ylabel("y on the focal plane (mm)", fontsize=_SMALL)

    common = Normalize(*np.percentile(np.concatenate([data.value, model]), LIMITS))
    if common.vmin == common.vmax:  # nothing varies
        common.vmin, common.vmax = common.vmin - 0.01 * abs(common.vmin), common.vmax + 0.01 * abs(common.vmax)
    half = _half_width(residual - 1.0, RESIDUAL_LIMIT) if scale is None else float(scale)
    symmetric = Normalize(1.0 - half, 1.0 + half)
    images = [
        raster.draw(panel, values, norm, cmap)
        for panel, values, norm, cmap in zip(
            axes,
            (data.value, model, residual),
            (common, common, symmetric),
            ("viridis", "viridis", "RdBu_r"),
            strict=True,
        )
    ]
    axes[2].set_title(f"Data / model (robust rms {_percent(robust_rms(residual))})", fontsize=_MIDDLE, pad=7)

    bar_y, bar_height = 0.72, 0.2
    bar = figure.add_axes(_box(size, margin + 0.6 * width, bar_y, 0.8 * width + gap, bar_height))
    extend = _extend(np.concatenate([data.value, model]), common)
    _style(
        figure.colorbar(images[0], cax=bar, orientation="horizontal", extend=extend),
        "Flat, relative to its centre" if data.level == 1.0 else "Flat",
    )
    x = margin + 2 * (width + gap)
    bar = figure.add_axes(_box(size, x + 0.1 * width, bar_y, 0.8 * width, bar_height))
    _percent_bar(figure.colorbar(images[2], cax=bar, orientation="horizontal", extend="both"), half)

    handles = _outline(axes, binned)
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=((margin - 0.1) / size[0], 0.22 / size[1]),
        fontsize=_SMALL,
        frameon=False,
        title="Detectors",
        title_fontsize=_SMALL,
        alignment="left",
        borderpad=0,
        labelspacing=0.25,
    )
    figure.text(
        0.5, 1 - 0.2 / size[1], _name(data, gradient), ha="center", va="top", fontsize=_LARGE, fontweight="bold"
    )
    return figure


def _outline(axes: Sequence[Axes], binned: BinnedFlat) -> list[Line2D]:
    """Outlines of the detectors on all axes; returns what a legend needs."""
    present, first = np.unique(binned.detector, return_index=True)
    itl = dict(zip(present.tolist(), binned.itl[first].tolist(), strict=True))
    groups: dict[str, list[Detector]] = {"empty": [], "rest": [], "itl": []}
    for detector in binned.camera:
        if detector.id in itl:
            groups["itl" if itl[detector.id] else "rest"].append(detector)
        elif detector.is_science:
            groups["empty"].append(detector)
    names = {"itl": "ITL", "rest": _rest_name(binned), "empty": "without bins"}
    styles = {
        "empty": {"color": _EMPTY, "linewidth": 0.7},
        "rest": {"color": _REST, "linewidth": 0.7},
        "itl": {"color": _ITL, "linewidth": 1.0},
    }
    for panel in axes:
        for key, detectors in groups.items():
            if detectors:
                outlines = PolyCollection([d.corners() for d in detectors], facecolors="none", label=names[key])
                outlines.set(edgecolor=styles[key]["color"], linewidth=styles[key]["linewidth"])
                panel.add_collection(outlines, autolim=False)
    return [
        Line2D([], [], color=styles[key]["color"], linewidth=2, label=f"{names[key]} ({len(groups[key])})")
        for key in ("itl", "rest", "empty")
        if groups[key]
    ]


# ---- the radial function over the data ----


def plot_radial_model(
    data: FitData,
    gradient: FlatGradient,
    *,
    band: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
) -> Figure:
    """The radial function over the bins freed of planes and throughput ratio, and what is left, against radius.

    Parameters
    ----------
    data : FitData
        The bins that were fitted.
    gradient : FlatGradient
        A fit to data with the same normalization.
    band : tuple of array_like, optional
        Radius (mm), low and high end of an uncertainty band of the radial function.

    Returns
    -------
    matplotlib.figure.Figure
    """
    radius, adjusted = adjusted_values(data, gradient)
    radial = gradient.compute_radial(radius)
    residual = 100.0 * (np.divide(adjusted, radial, out=np.full(len(data), np.nan), where=radial > 0) - 1.0)
    nodes, values = gradient.radial_spline_nodes, gradient.radial_spline_values

    described = describe(data, gradient)
    width, heights, bottom = 8.35, (3.5, 2.45), 3.22
    head = bottom + heights[0] + 0.14
    head_name = head + 0.2 * (1 + described.count("\n")) + 0.1
    size = (10.5, head_name + 0.38)
    figure = _figure(size)
    upper = figure.add_axes(_box(size, 0.95, bottom, width, heights[0]))
    lower = figure.add_axes(_box(size, 0.95, 0.7, width, heights[1]), sharex=upper)
    # nodes somewhat beyond the data are shown, those far away are not
    outer = 1.02 * float(radius.max()) or float(nodes[-1])
    outer = max(outer, 1.01 * float(np.max(nodes[nodes <= 1.08 * outer], initial=0.0)))
    grid = np.linspace(min(0.0, float(nodes[0])), outer, 1500)
    line = gradient.compute_radial(grid)
    shown = (nodes >= grid[0]) & (nodes <= outer)

    low, high = np.percentile(adjusted, (0.05, 99.95))
    low, high = min(low, line.min()), max(high, line.max())
    pad = 0.04 * max(high - low, 1e-3 * abs(high))
    half = 1.5 * _half_width(residual, RESIDUAL_LIMIT)  # leaves room for the legend
    x_range = (grid[0] - 0.01 * outer, outer)
    # square cells of one size in both, larger where there are few bins
    cell = CELL * max(1.0, math.sqrt(150_000 / len(data)) / 1.5)
    densities = [
        _density(radius, y, x_range, y_range, (math.ceil(width / cell), math.ceil(height / cell)))
        for y, y_range, height in zip(
            (adjusted, residual), ((low - pad, high + pad), (-half, half)), heights, strict=True
        )
    ]
    norm = LogNorm(1, max(10.0, max(float(counts.max()) for counts, _ in densities)))
    for panel, (counts, extent) in zip((upper, lower), densities, strict=True):
        image = panel.imshow(
            np.ma.masked_equal(counts, 0),
            norm=norm,
            cmap=_DENSITY,
            extent=extent,
            origin="lower",
            interpolation="nearest",
            aspect="auto",
        )
        for node in nodes[shown]:
            panel.axvline(node, color="0.55", linewidth=0.6, linestyle=(0, (4, 3)), zorder=1.5, gid="node")
        panel.set(xlim=extent[:2], ylim=extent[2:])
        panel.tick_params(labelsize=_SMALL, top=True, right=True, direction="in")

    halo = [patheffects.withStroke(linewidth=3.4, foreground="white")]
    if band is not None:
        _draw_band(upper, lower, band, gradient)
    upper.plot(grid, line, color=_LINE, linewidth=1.6, path_effects=halo, label="radial function")
    upper.plot(
        nodes[shown],
        values[shown],
        "o",
        color="white",
        markeredgecolor=_LINE,
        markeredgewidth=1.5,
        markersize=5.5,
        zorder=5,
        label="spline nodes",
    )
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("Flat × plane / ITL ratio" if data.has_ratio else "Flat × plane", fontsize=_MIDDLE)
    upper.legend(loc="lower left", fontsize=_SMALL, framealpha=0.9, edgecolor="0.8")

    steps = int(np.clip(len(data) // 200, 10, STEPS))
    at, low16, median, high84 = running_percentiles(radius, residual, np.linspace(0.0, radius.max(), steps + 1))
    lower.axhline(0.0, color=_LINE, linewidth=1.4, path_effects=halo, label="radial function")
    lower.plot(at, median, color=_MEDIAN, linewidth=2.0, path_effects=halo, label="running median")
    for edge, label in ((low16, "16% to 84%"), (high84, None)):
        lower.plot(at, edge, color=_MEDIAN, linewidth=0.9, path_effects=halo, label=label)
    lower.set_ylabel("Residual (%)", fontsize=_MIDDLE)
    lower.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 2.5, 5, 10], prune="both"))
    lower.set_xlabel("Radius from the centroid (mm)", fontsize=_MIDDLE)
    lower.legend(loc="lower left", ncols=4, fontsize=_SMALL, framealpha=0.9, edgecolor="0.8")

    bar = figure.add_axes(_box(size, 9.42, 0.7, 0.18, head - 0.84))
    _style(
        figure.colorbar(image, cax=bar, format=FuncFormatter(lambda count, _: f"{count:g}")),
        "Bins in a cell of the plot",
    )
    figure.text(0.5, head / size[1], described, ha="center", va="bottom", fontsize=_SMALL)
    figure.text(
        0.5, head_name / size[1], _name(data, gradient), ha="center", va="bottom", fontsize=_LARGE, fontweight="bold"
    )
    return figure


def adjusted_values(data: FitData, gradient: FlatGradient) -> tuple[NDArray, NDArray]:
    """Radius from the moved centroid (mm), and the values times the planes and, on ITL, over the throughput ratio."""
    binned = data.binned
    adjusted = data.value * gradient.compute_plane(binned.xf, binned.yf)
    return gradient.radius(binned.xf, binned.yf), adjusted / np.where(binned.itl, gradient.itl_ratio, 1.0)


def running_percentiles(
    x: NDArray, y: NDArray, edges: NDArray, percentiles: Sequence[float] = (16.0, 50.0, 84.0)
) -> tuple[NDArray, ...]:
    """Percentiles of y between the edges.

    Returns
    -------
    x, percentiles... : numpy.ndarray, shape (len(edges) - 1,)
        The median of x and the percentiles of y in each step; NaN where it holds fewer than `FEWEST` finite y.
    """
    finite = np.isfinite(y)
    order = np.argsort(x[finite])
    x, y = x[finite][order], y[finite][order]
    result = np.full((1 + len(percentiles), len(edges) - 1), np.nan)
    bounds = np.searchsorted(x, edges)
    bounds[-1] = np.searchsorted(x, edges[-1], side="right")  # the last edge belongs to its step
    for step, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop - start >= FEWEST:
            result[0, step] = np.median(x[start:stop])
            result[1:, step] = np.percentile(y[start:stop], percentiles)
    return tuple(result)


def describe(data: FitData, gradient: FlatGradient) -> str:
    """The scalars of a fit in a line: ratio, centroid and planes, with standard deviations where they are known."""
    parts = []
    if data.has_ratio:
        parts.append(f"ITL / {_rest_name(data.binned)} = {_measured(gradient, ('itl_ratio',), 4)}")
    parts.append(f"centroid = {_measured(gradient, ('centroid_delta_x', 'centroid_delta_y'), 3)} mm")
    plane = _measured(gradient, ("gradient_x", "gradient_y"), 2, scale=1e6)
    parts.append(f"plane = {plane} × 10⁻⁶/mm")
    if gradient.outer_gradient_x or gradient.outer_gradient_y:
        outer = _measured(gradient, ("outer_gradient_x", "outer_gradient_y"), 2, scale=1e6)
        parts.append(f"beyond {gradient.outer_gradient_radius:g} mm {outer} × 10⁻⁶/mm")
    # a line holds some 110 characters
    lines, separator = [parts[0]], "     "
    for part in parts[1:]:
        if len(lines[-1] + separator + part) <= 115:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return "\n".join(lines)


def _measured(gradient: FlatGradient, names: Sequence[str], digits: int, scale: float = 1.0) -> str:
    """``value ± sd`` of one parameter or a pair; two digits of the sd, or so many decimals where there is none."""
    texts = []
    for name in names:
        value, sd = scale * getattr(gradient, name), math.nan
        if gradient.estimates is not None and name in gradient.estimates.names:
            sd = scale * gradient.estimates[name]["sd"]
        if math.isfinite(sd) and sd > 0:
            decimals = max(0, 1 - math.floor(math.log10(sd)))
            texts.append(f"{value:.{decimals}f} ± {sd:.{decimals}f}")
        else:
            texts.append(f"{value:.{digits}f}" if value else "0")
    text = ", ".join(texts).replace("-", "−")
    return f"({text})" if len(texts) > 1 else text


def _density(
    x: NDArray, y: NDArray, x_range: tuple[float, float], y_range: tuple[float, float], cells: tuple[int, int]
) -> tuple[NDArray, tuple[float, ...]]:
    """Number of points per cell as an image (rows along y), and its extent."""
    ok = np.isfinite(y)
    counts, _, _ = np.histogram2d(x[ok], y[ok], bins=cells, range=(x_range, y_range))
    return counts.T, (*x_range, *y_range)


def _draw_band(upper: Axes, lower: Axes, band: tuple[ArrayLike, ArrayLike, ArrayLike], gradient: FlatGradient) -> None:
    """The uncertainty band, as it is above and relative to the radial function below."""
    radius, low, high = (np.asarray(array, dtype=float) for array in band)
    radial = gradient.compute_radial(radius)
    relative = [np.divide(y, radial, out=np.full(y.shape, np.nan), where=radial > 0) for y in (low, high)]
    style = {"color": _LINE, "alpha": 0.4, "linewidth": 0}
    upper.fill_between(radius, low, high, label="its uncertainty", **style)
    lower.fill_between(radius, *(100.0 * (y - 1.0) for y in relative), label="uncertainty", **style)


# ---- what both share ----


def save_figure(figure: Figure, path: str | Path, dpi: float = 150) -> None:
    """Write a figure as PNG; the file appears whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def robust_rms(values: NDArray) -> float:
    """1.4826 times the median absolute deviation from the median: the rms, where the distribution is normal."""
    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite - np.median(finite)))) if len(finite) else math.nan


def _figure(size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _box(size: tuple[float, float], x: float, y: float, width: float, height: float) -> tuple[float, ...]:
    """Place of axes in the figure, from inches."""
    return x / size[0], y / size[1], width / size[0], height / size[1]


def _half_width(deviations: NDArray, percentile: float) -> float:
    """Half width of limits about zero that hold so many per cent of the deviations; never nothing."""
    finite = np.abs(deviations[np.isfinite(deviations)])
    return max(float(np.percentile(finite, percentile)) if len(finite) else 0.0, 1e-6)


def _extend(values: NDArray, norm: Normalize) -> str:
    """Which ends of a colour bar values lie beyond."""
    below, above = bool(values.min() < norm.vmin), bool(values.max() > norm.vmax)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def _style(colorbar: Colorbar, label: str) -> None:
    colorbar.set_label(label, fontsize=_SMALL)
    colorbar.ax.tick_params(labelsize=_SMALL)


def _percent_bar(colorbar: Colorbar, half: float) -> None:
    """A colour bar about 1 with ticks in per cent from 1."""
    ticks = MaxNLocator(7, steps=[1, 2, 2.5, 5, 10], symmetric=True).tick_values(-100.0 * half, 100.0 * half)
    ticks = ticks[np.abs(ticks) <= 100.0 * half * (1 + 1e-9)]
    colorbar.ax.xaxis.set_major_locator(FixedLocator(1.0 + ticks / 100.0))
    colorbar.ax.xaxis.set_major_formatter(
        FuncFormatter(lambda ratio, _: f"{round(100.0 * (ratio - 1.0), 9):+g}".replace("-", "−").replace("+0", "0"))
    )
    colorbar.ax.minorticks_off()
    _style(colorbar, "Data / model − 1 (%)")


def _percent(fraction: float) -> str:
    return f"{100.0 * fraction:.2g}%" if fraction < 0.1 else f"{100.0 * fraction:.0f}%"


def _rest_name(binned: BinnedFlat) -> str:
    """What the detectors that are not ITL are called: their type, if they have one in common."""
    types = {binned.camera[int(n)].physical_type for n in np.unique(binned.detector[~binned.itl])}
    return types.pop() if len(types) == 1 else "others"


def _name(data: FitData, gradient: FlatGradient) -> str:
    """Instrument and physical filter, and how many bins are shown."""
    binned = data.binned
    instrument = binned.instrument or gradient.instrument or binned.camera.name
    parts = [instrument, binned.physical_filter or gradient.physical_filter, f"{len(data):,} bins"]
    return "   ".join(part for part in parts if part)
