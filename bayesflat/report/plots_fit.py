"""Plots of a fit: data, model and their ratio over the focal plane, and the radial function over the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.quantities import label_of
from bayesflat.report.figures import (
    LARGE,
    MIDDLE,
    NICE,
    SMALL,
    Extent,
    beyond,
    box,
    heading,
    map_axes,
    new_figure,
    outline,
    outline_legend,
    percent_bar,
    style,
)
from bayesflat.report.figures import save_figure as save_figure
from bayesflat.report.numbers import (
    BAND,
    adjusted_values,
    half_width,
    robust_rms,
    running_percentiles,
    throughput_of_bins,
)
from bayesflat.report.raster import BinRaster
from bayesflat.report.text import percent

RASTER = 1280  # pixels along the longer side of the focal plane
LIMITS = (0.5, 99.5)  # percentiles of the values at the ends of the colour scale
RESIDUAL_LIMIT = 99.0  # percentile of |data/model - 1| at the end of the residual's colour scale
STEPS = 80  # largest number of steps of the running median
CELL = 0.0235  # smallest side of a cell of a density (inches)

_LINE, _MEDIAN, _DENSITY = "#e6550d", "0.05", "viridis_r"


# ---- data, model and their ratio over the focal plane ----


def plot_model_residual(data: FitData, gradient: FlatGradient, *, scale: float | None = None) -> Figure:
    """Data, model and data/model over the focal plane.

    Each bin is a filled cell at its position; areas without fitted bins are left blank.

    Parameters
    ----------
    data : FitData
        The bins that were fitted.
    gradient : FlatGradient
        A fit to data with the same normalization.
    scale : float, optional
        Half width of the residual's colour scale about 1 (fraction); by default a percentile of the residuals.

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

    # inches: the panels keep the shape of the focal plane, everything else has a fixed size
    width = 4.9
    height = float(np.clip(width * (top - bottom) / (right - left), 2.2, 8.0))
    margin, gap, below, above = 0.95, 0.3, 1.65, 0.85
    size = (margin + 3 * width + 2 * gap + 0.35, below + height + above)
    figure = new_figure(size)
    axes: list[Axes] = []
    for k, title in enumerate(("Data", "Model", "Data / model")):
        x = margin + k * (width + gap)
        place = box(size, x, below, width, height)
        axes.append(map_axes(figure, place, raster.extent, title, axes[0] if k else None))

    low, high = np.percentile(np.concatenate([data.value, model]), LIMITS)
    if low == high:  # a constant flat
        low, high = low - 0.01 * abs(low), high + 0.01 * abs(high)
    common = Normalize(low, high)
    half = half_width(residual - 1.0, RESIDUAL_LIMIT) if scale is None else float(scale)
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
    axes[2].set_title(f"Data / model (robust rms {percent(robust_rms(residual))})", fontsize=MIDDLE, pad=7)

    bar_y, bar_height = 0.72, 0.2
    bar = figure.add_axes(box(size, margin + 0.6 * width, bar_y, 0.8 * width + gap, bar_height))
    extend = beyond(np.concatenate([data.value, model]), common)
    style(
        figure.colorbar(images[0], cax=bar, orientation="horizontal", extend=extend),
        "Flat, relative to its centre" if data.level == 1.0 else "Flat",
    )
    x = margin + 2 * (width + gap)
    bar = figure.add_axes(box(size, x + 0.1 * width, bar_y, 0.8 * width, bar_height))
    percent_bar(
        figure.colorbar(images[2], cax=bar, orientation="horizontal", extend="both"), half, "Data / model − 1 (%)"
    )

    outline_legend(figure, outline(axes, binned), margin - 0.1, 0.22)
    figure.text(
        0.5,
        1 - 0.2 / size[1],
        heading(data.binned, gradient, f"{len(data):,} bins"),
        ha="center",
        va="top",
        fontsize=LARGE,
        fontweight="bold",
    )
    return figure


# ---- the radial function over the data ----


def plot_radial_model(data: FitData, gradient: FlatGradient) -> Figure:
    """The radial function over the bins corrected for planes and throughput ratio, and the residuals, against radius.

    Residuals are what is left after the throughputs of detectors and amplifiers; of a product without these they are
    raw, and say so.

    Where the product has uncertainties, a band about the radial function shows the central 90% of its posterior.

    Parameters
    ----------
    data : FitData
        The bins that were fitted.
    gradient : FlatGradient
        A fit to data with the same normalization.

    Returns
    -------
    matplotlib.figure.Figure
    """
    radius, adjusted = adjusted_values(data, gradient)
    radial = gradient.compute_radial(radius)
    throughput = throughput_of_bins(data, gradient)
    freed = adjusted if throughput is None else adjusted / throughput
    residual = 100.0 * (np.divide(freed, radial, out=np.full(len(data), np.nan), where=radial > 0) - 1.0)
    nodes, values = gradient.radial_spline_nodes, gradient.radial_spline_values

    described = describe(data, gradient)
    width, heights, bottom = 8.35, (3.5, 2.45), 3.22
    head = bottom + heights[0] + 0.14
    head_name = head + 0.2 * (1 + described.count("\n")) + 0.1
    size = (10.5, head_name + 0.38)
    figure = new_figure(size)
    upper = figure.add_axes(box(size, 0.95, bottom, width, heights[0]))
    lower = figure.add_axes(box(size, 0.95, 0.7, width, heights[1]), sharex=upper)
    # nodes slightly beyond the data are shown, those far beyond are not
    outer = 1.02 * float(radius.max()) or float(nodes[-1])
    outer = max(outer, 1.01 * float(np.max(nodes[nodes <= 1.08 * outer], initial=0.0)))
    grid = np.linspace(min(float(nodes[0]), float(radius.max())), float(radius.max()), 1500)
    beyond = np.linspace(float(radius.max()), outer, 50)
    line, guess = gradient.compute_radial(grid), gradient.compute_radial(beyond)
    shown = (nodes >= grid[0]) & (nodes <= outer)

    low, high = np.percentile(adjusted, (0.05, 99.95))
    low, high = min(low, line.min(), guess.min()), max(high, line.max(), guess.max())
    pad = 0.04 * max(high - low, 1e-3 * abs(high))
    half = 1.5 * half_width(residual, RESIDUAL_LIMIT)  # with room for the legend
    x_range = (grid[0] - 0.01 * outer, outer)
    # square cells of the same size in both panels, larger where there are few bins
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
        panel.set(xlim=x_range, ylim=extent[2:])
        panel.tick_params(labelsize=SMALL, top=True, right=True, direction="in")

    halo = [patheffects.withStroke(linewidth=3.4, foreground="white")]
    _draw_band(upper, lower, grid, gradient)
    upper.plot(grid, line, color=_LINE, linewidth=1.6, path_effects=halo, label="radial function")
    upper.plot(beyond, guess, color=_LINE, linewidth=0.9, linestyle=":", label="beyond the bins")
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
    upper.set_ylabel(
        f"Flat × plane / {label_of('itl_ratio', data.binned.groups)}" if data.has_ratio else "Flat × plane",
        fontsize=MIDDLE,
    )
    upper.legend(loc="lower left", fontsize=SMALL, framealpha=0.9, edgecolor="0.8")

    steps = int(np.clip(len(data) // 200, 10, STEPS))
    used = data.weight > 0
    edges = np.linspace(0.0, radius.max(), steps + 1)
    at, low16, median, high84 = running_percentiles(radius[used], residual[used], edges)
    # no halo here: it would hide a narrow band
    lower.axhline(0.0, color=_LINE, linewidth=1.0, label="radial function")
    lower.plot(at, median, color=_MEDIAN, linewidth=2.0, path_effects=halo, label="running median")
    for edge, label in ((low16, "16% to 84%"), (high84, None)):
        lower.plot(at, edge, color=_MEDIAN, linewidth=0.9, path_effects=halo, label=label)
    lower.set_ylabel("Residual (%)" if throughput is not None else "Raw residual (%)", fontsize=MIDDLE)
    lower.yaxis.set_major_locator(MaxNLocator(9, steps=NICE, prune="both"))
    lower.set_xlabel("Radius from the centroid (mm)", fontsize=MIDDLE)
    lower.legend(loc="lower left", ncols=4, fontsize=SMALL, framealpha=0.9, edgecolor="0.8")

    bar = figure.add_axes(box(size, 9.42, 0.7, 0.18, head - 0.84))
    style(
        figure.colorbar(image, cax=bar, format=FuncFormatter(lambda count, _: f"{count:g}")),
        "Bins in a cell of the plot",
    )
    figure.text(0.5, head / size[1], described, ha="center", va="bottom", fontsize=SMALL)
    figure.text(
        0.5,
        head_name / size[1],
        heading(data.binned, gradient, f"{len(data):,} bins"),
        ha="center",
        va="bottom",
        fontsize=LARGE,
        fontweight="bold",
    )
    return figure


def describe(data: FitData, gradient: FlatGradient) -> str:
    """The scalars of a fit as text: ratio, centroid and planes, with standard deviations where they are known."""
    parts = []
    if data.has_ratio:
        parts.append(f"{' / '.join(data.binned.groups)} = {_measured(gradient, ('itl_ratio',), 4)}")
    parts.append(f"centroid = {_measured(gradient, ('centroid_delta_x', 'centroid_delta_y'), 3)} mm")
    plane = _measured(gradient, ("gradient_x", "gradient_y"), 2, scale=1e6)
    parts.append(f"plane = {plane} × 10⁻⁶/mm")
    if gradient.outer_gradient_x or gradient.outer_gradient_y:
        outer = _measured(gradient, ("outer_gradient_x", "outer_gradient_y"), 2, scale=1e6)
        parts.append(f"beyond {gradient.outer_gradient_radius:g} mm {outer} × 10⁻⁶/mm")
    # about 115 characters fit on a line
    lines, separator = [parts[0]], "     "
    for part in parts[1:]:
        if len(lines[-1] + separator + part) <= 115:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return "\n".join(lines)


def _measured(gradient: FlatGradient, names: Sequence[str], digits: int, scale: float = 1.0) -> str:
    """``value ± sd`` of one parameter or a pair: two digits of the sd, or ``digits`` decimals without one."""
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
) -> tuple[NDArray, Extent]:
    """Number of points in each cell as an image (rows along y), and its extent."""
    ok = np.isfinite(y)
    counts, _, _ = np.histogram2d(x[ok], y[ok], bins=cells, range=(x_range, y_range))
    return counts.T, (*x_range, *y_range)


def _draw_band(upper: Axes, lower: Axes, radius: NDArray, gradient: FlatGradient) -> None:
    """Draw the uncertainty of the radial function: absolute in the upper panel, relative (%) in the lower one."""
    sd = gradient.compute_radial_sd(radius)
    if not np.any(np.isfinite(sd)):
        return
    radial = gradient.compute_radial(radius)
    half = BAND * sd
    relative = 100.0 * np.divide(half, radial, out=np.full(radius.shape, np.nan), where=radial > 0)
    for panel, low, high in ((upper, radial - half, radial + half), (lower, -relative, relative)):
        panel.fill_between(radius, low, high, color=_LINE, alpha=0.4, linewidth=0, label="90% interval")
