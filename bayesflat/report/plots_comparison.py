"""Plots of a comparison: difference of the radial functions over radius, and dome/sky over the focal plane."""

from __future__ import annotations

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from bayesflat.comparison.comparison import Comparison, zones_of
from bayesflat.report.figures import LARGE, MIDDLE, SMALL, box, map_axes, new_figure, outline, outline_legend, style
from bayesflat.report.numbers import BAND, half_width, running_percentiles
from bayesflat.report.plots_fit import RASTER, RESIDUAL_LIMIT
from bayesflat.report.raster import BinRaster

_LINE, _ROPE, _POINT = "#e6550d", "#9ecae1", "0.05"
_RINGS = 70  # largest number of rings of bins


def plot_comparison_radial(comparison: Comparison) -> Figure:
    """Difference of the radial functions with its credible band, and the residuals of a paired comparison.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    matplotlib.figure.Figure
    """
    c = comparison
    rings = None if c.measured_mmag is None else _rings(c, c.measured_mmag)
    heights = (3.6, 2.1) if rings is not None else (4.6, 0.0)
    below = 0.75 + (heights[1] + 0.2 if rings is not None else 0.0)
    size = (10.0, below + heights[0] + 0.95)
    figure = new_figure(size)
    upper = figure.add_axes(box(size, 1.0, below, 8.6, heights[0]))
    panels = [upper]
    low, high = c.radial["q05"], c.radial["q95"]
    upper.axhspan(-c.rope_mmag, c.rope_mmag, color=_ROPE, alpha=0.45, linewidth=0, zorder=0,
                  label=f"tolerance, ±{c.rope_mmag:g} mmag")  # fmt: skip
    upper.axhline(0.0, color="0.4", linewidth=0.8)
    if np.all(np.isfinite(low)):
        upper.fill_between(c.grid, low, high, color=_LINE, alpha=0.4, linewidth=0, label="90% of the posterior")
    if rings is not None:
        upper.plot(*rings, "o", color=_POINT, markersize=3.2, label="medians of rings of bins", zorder=3)
    halo = [patheffects.withStroke(linewidth=3.4, foreground="white")]
    upper.plot(c.grid, c.radial["mean"], color=_LINE, linewidth=1.8, path_effects=halo, label="radial functions")
    upper.set_ylabel("Dome − sky (mmag)", fontsize=MIDDLE)
    upper.legend(loc="best", fontsize=SMALL, framealpha=0.9, edgecolor="0.8")
    if rings is not None:
        at, median = rings
        lower = figure.add_axes(box(size, 1.0, 0.75, 8.6, heights[1]), sharex=upper)
        panels.append(lower)
        middle = np.interp(at, c.grid, c.radial["mean"])
        half = BAND * c.radial["sd"]
        lower.fill_between(c.grid, -half, half, color=_LINE, alpha=0.4, linewidth=0)
        lower.axhline(0.0, color=_LINE, linewidth=1.0)
        lower.plot(at, median - middle, "o", color=_POINT, markersize=3.2)
        lower.set_ylabel("Rings − fit (mmag)", fontsize=MIDDLE)
        upper.tick_params(labelbottom=False)
    for panel in panels:
        panel.axvline(c.radius, color="0.55", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        panel.tick_params(labelsize=SMALL, top=True, right=True, direction="in")
    panels[-1].set(xlim=(0.0, 1.01 * c.grid[-1]))
    panels[-1].set_xlabel("Radius, each from its own centroid (mm)", fontsize=MIDDLE)
    shown = f"at {c.radius:g} mm: {c.at_radius.mean:+.2f}".replace("-", "−")
    shown += f" ± {c.at_radius.sd:.2g} mmag" if np.isfinite(c.at_radius.sd) else " mmag"
    figure.text(0.55, 1 - 0.62 / size[1], shown, ha="center", va="bottom", fontsize=SMALL)
    _title(figure, size, c)
    return figure


def plot_comparison_map(comparison: Comparison) -> Figure:
    """Dome/sky over the focal plane, relative to the centre: measured (paired only), fitted, and its sd.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    matplotlib.figure.Figure
    """
    c = comparison
    raster = BinRaster.of(c.positions, RASTER)
    left, right, bottom, top = raster.extent
    names = ["Dome − sky, fitted", "Its standard deviation"]
    values: list[NDArray] = [c.map_mmag, c.map_sd]
    if c.measured_mmag is not None:
        names.insert(0, "Dome − sky, as measured")
        values.insert(0, c.measured_mmag)
    width = 4.9
    height = float(np.clip(width * (top - bottom) / (right - left), 2.2, 8.0))
    margin, gap, below, above = 0.95, 0.35, 1.65, 0.85
    size = (margin + len(names) * width + (len(names) - 1) * gap + 0.35, below + height + above)
    figure = new_figure(size)
    half = half_width(c.map_mmag, RESIDUAL_LIMIT)
    if c.measured_mmag is not None:  # so that the noise of the bins does not saturate the colours
        half = max(half, 2 * half_width(c.measured_mmag - c.map_mmag, 68.0))
    axes: list[Axes] = []
    for k, (name, of_panel) in enumerate(zip(names, values, strict=True)):
        x = margin + k * (width + gap)
        panel = map_axes(figure, box(size, x, below, width, height), raster.extent, name, axes[0] if k else None)
        axes.append(panel)
        is_sd = k == len(names) - 1
        known = of_panel[np.isfinite(of_panel)]
        norm = Normalize(0.0, float(known.max()) if len(known) else 1.0) if is_sd else Normalize(-half, half)
        image = raster.draw(panel, of_panel, norm, "viridis" if is_sd else "RdBu_r")
        bar = figure.add_axes(box(size, x + 0.15 * width, 0.72, 0.7 * width, 0.2))
        style(figure.colorbar(image, cax=bar, orientation="horizontal", extend="neither" if is_sd else "both"), "mmag")
        for radius in zones_of(c.positions.camera)[0]:
            if radius < max(abs(edge) for edge in raster.extent):
                centre = (0.0, 0.0)
                panel.add_patch(Circle(centre, radius, fill=False, color="0.25", linewidth=0.8, linestyle=(0, (5, 3))))
    outline_legend(figure, outline(axes, c.positions), 0.08, 0.12)
    _title(figure, size, c)
    return figure


def _rings(c: Comparison, measured: NDArray) -> tuple[NDArray, NDArray]:
    """Radius (mm) of rings of bins, and their medians of dome/sky corrected for planes, centroid and ratio (mmag)."""
    radius = np.hypot(c.positions.xf - c.dome_centre[0], c.positions.yf - c.dome_centre[1])
    corrected = measured - c.map_mmag + np.interp(radius, c.grid, c.radial["mean"])
    edges = np.linspace(0.0, c.grid[-1], int(np.clip(len(radius) // 200, 8, _RINGS)) + 1)
    at, _, median, _ = running_percentiles(radius, corrected, edges)
    return at, median


def _title(figure: Figure, size: tuple[float, float], c: Comparison) -> None:
    """Draw the title: instrument, filter, and kind of comparison."""
    what = f"{c.method}, {c.n_bins:,} bins" if c.method == "paired" else "unpaired (conservative)"
    text = "   ".join(part for part in (c.instrument, c.physical_filter, f"sky against dome: {what}") if part)
    figure.text(0.5, 1 - 0.2 / size[1], text, ha="center", va="top", fontsize=LARGE, fontweight="bold")
