"""Plots of throughputs, of correlations, and of predictive checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bayesflat.data.camera import Detector
from bayesflat.gradient.correlations import RADII, correlations
from bayesflat.gradient.estimates import Offsets
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.quantities import label_of
from bayesflat.report.figures import (
    ITL,
    LARGE,
    MIDDLE,
    NICE,
    REST,
    SMALL,
    box,
    heading,
    map_axes,
    new_figure,
    outline,
    outline_legend,
    percent_bar,
    style,
)
from bayesflat.report.numbers import half_width
from bayesflat.report.text import percent

if TYPE_CHECKING:
    from bayesflat.inference.predictive import Groups, PredictiveCheck

LIMIT = 99.5  # percentile of the deviations at the ends of a map's colour scale

_BAND, _MEDIAN, _INSIDE, _OUTSIDE = "#9ecae1", "#2171b5", "0.15", "#d94801"


# ---- throughput of detectors and amplifiers ----


def plot_offsets(data: FitData, gradient: FlatGradient) -> Figure:
    """Relative throughput of each detector, of each amplifier within its detector, and its distribution by vendor.

    Parameters
    ----------
    data : FitData
        The bins that were fitted.
    gradient : FlatGradient
        The fit to them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The product has no throughputs.
    """
    offsets = gradient.offsets
    if offsets is None:
        raise ValueError("the product has no throughputs of detectors and amplifiers (OFFSETS): nothing to draw")
    camera = data.binned.camera
    whole = offsets.amplifier < 0
    of_detector = dict(zip(offsets.detector[whole].tolist(), offsets.mean[whole], strict=True))
    within = offsets.mean[~whole] / [of_detector[number] for number in offsets.detector[~whole].tolist()]
    shapes = (
        [camera[number].corners() for number in of_detector],
        [
            amplifier_corners(camera[number], amplifier)
            for number, amplifier in zip(
                offsets.detector[~whole].tolist(), offsets.amplifier[~whole].tolist(), strict=True
            )
        ],
    )

    # inches: the maps keep the shape of the focal plane, everything else has a fixed size
    extent = _extent(data)
    width = 4.9
    height = float(np.clip(width * (extent[3] - extent[2]) / (extent[1] - extent[0]), 2.2, 8.0))
    margin, gap, below, above = 0.95, 0.3, 1.65, 0.85
    third = margin + 2 * (width + gap) + 0.75
    size = (third + 4.2 + 0.35, below + height + above)
    figure = new_figure(size)
    axes: list[Axes] = []
    for k, (polygons, values, title) in enumerate(
        zip(shapes, (offsets.mean[whole], within), ("Detectors", "Amplifiers in their detector"), strict=True)
    ):
        x = margin + k * (width + gap)
        spread = percent(float(np.std(values)))
        place = box(size, x, below, width, height)
        axes.append(map_axes(figure, place, extent, f"{title} (rms {spread})", axes[0] if k else None))
        half = half_width(values - 1.0, LIMIT)
        filled = PolyCollection(polygons, cmap="RdBu_r", norm=Normalize(1.0 - half, 1.0 + half), gid="throughput")
        filled.set_array(values)
        axes[k].add_collection(filled, autolim=False)
        left = (0.3, 0.1)[k] * width  # the legend is to the left of the first colour bar
        bar = figure.add_axes(box(size, x + left, 0.72, 0.9 * width - left, 0.2))
        end = "both" if np.abs(values - 1.0).max() > half else "neither"
        against = "its vendor" if k == 0 else "its detector"
        percent_bar(
            figure.colorbar(filled, cax=bar, orientation="horizontal", extend=end),
            half,
            f"Throughput relative to {against} (%)",
        )
    _draw_throughputs(figure.add_axes(box(size, third, below, 4.2, height)), data, offsets)
    outline_legend(figure, outline(axes, data.binned), margin - 0.1, 0.22)
    _head(figure, heading(data.binned, gradient, f"{len(of_detector)} detectors"))
    return figure


def amplifier_corners(detector: Detector, amplifier: int) -> NDArray[np.float64]:
    """The four corners of an amplifier on the focal plane, in order around it: shape (4, 2), mm."""
    row, column = divmod(amplifier, detector.amp_nx)
    px = detector.nx / detector.amp_nx * (column + np.array([0, 1, 1, 0])) - 0.5
    py = detector.ny / detector.amp_ny * (row + np.array([0, 0, 1, 1])) - 0.5
    return np.column_stack(detector.pixel_to_focal_plane(px, py))


def _extent(data: FitData) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the detectors with bins and the camera's other science detectors (mm)."""
    present = np.unique(data.binned.detector)
    corners = np.concatenate([d.corners() for d in data.binned.camera if d.is_science or d.id in present])
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.025 * float((high - low).max())
    return low[0] - margin, high[0] + margin, low[1] - margin, high[1] + margin


def _draw_throughputs(axes: Axes, data: FitData, offsets: Offsets) -> None:
    """Cumulative distribution of the detectors' throughputs, for each vendor from 0 to 100%."""
    whole = offsets.amplifier < 0
    number, mean, sd = offsets.detector[whole], offsets.mean[whole], offsets.sd[whole]
    itl = np.isin(number, data.binned.detector[data.itl])
    axes.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    for name, colour, here in zip(data.binned.groups, (ITL, REST), (itl, ~itl), strict=True):
        if not here.any():
            continue
        order = np.argsort(mean[here])
        share = 100.0 * (np.arange(here.sum()) + 0.5) / here.sum()
        axes.errorbar(
            100.0 * (mean[here][order] - 1.0),
            share,
            xerr=100.0 * sd[here][order],
            fmt="o",
            color=colour,
            markersize=3.5,
            elinewidth=0.7,
            label=f"{name} (rms {percent(float(np.std(mean[here])))})",
        )
    axes.set_title("Detectors in order, ± 1 sd", fontsize=MIDDLE, pad=7)
    axes.set_xlabel("Throughput relative to its vendor (%)", fontsize=SMALL)
    axes.set_ylabel("Share of the vendor's detectors (%)", fontsize=SMALL)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE))
    axes.tick_params(labelsize=SMALL, top=True, right=True, direction="in")
    axes.legend(loc="upper left", fontsize=SMALL, framealpha=0.9, edgecolor="0.8")


# ---- correlations ----


def plot_correlations(gradient: FlatGradient, radii: Sequence[float] = RADII) -> Figure:
    """The correlation matrix of `correlations`, with its numbers.

    Parameters
    ----------
    gradient : FlatGradient
        With uncertainties.
    radii : sequence of float
        As for `correlations`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As `correlations`.
    """
    names, correlation = correlations(gradient, radii)
    n, cell = len(names), 0.75
    left, below, above = 1.75, 1.35, 0.75
    size = (max(left + n * cell + 1.35, 6.0), below + n * cell + above)
    figure = new_figure(size)
    axes = figure.add_axes(box(size, left, below, n * cell, n * cell))
    image = axes.imshow(correlation, norm=Normalize(-1.0, 1.0), cmap="RdBu_r")
    for (row, column), value in np.ndenumerate(correlation):
        colour = "white" if abs(value) > 0.6 else "black"  # readable on dark cells
        text = f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
    labels = [label_of(name) for name in names]
    axes.set_xticks(range(n), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), labels)
    axes.tick_params(labelsize=SMALL, length=0)
    bar = figure.add_axes(box(size, left + n * cell + 0.2, below, 0.2, n * cell))
    style(figure.colorbar(image, cax=bar), "Correlation")
    _head(figure, "   ".join(part for part in (gradient.instrument, gradient.physical_filter, "correlations") if part))
    return figure


# ---- predictive checks ----


def plot_predictive(check: PredictiveCheck) -> Figure:
    """Statistics of the data by radius, azimuth and detector, over those of replicates of the model.

    Parameters
    ----------
    check : PredictiveCheck

    Returns
    -------
    matplotlib.figure.Figure
    """
    posterior = check.kind == "posterior"
    height, gap = 2.35, 0.8
    size = (10.5, 0.65 + 3 * height + 2 * gap + 1.15)
    figure = new_figure(size)
    for k, (groups, label) in enumerate(
        zip(
            (check.radius, check.azimuth, check.detector),
            ("Radius from the pivot (mm)", "Azimuth about the pivot (degrees, from x to y)", "Detector"),
            strict=True,
        )
    ):
        axes = figure.add_axes(box(size, 1.0, 0.65 + (2 - k) * (height + gap), 9.2, height))
        _draw_groups(axes, groups, 100.0 if posterior else 1.0)
        axes.set_xlabel(label, fontsize=SMALL)
        axes.set_ylabel("Mean of log(data / model) (%)" if posterior else "Mean of log value", fontsize=SMALL)
        axes.set_title(
            f"{np.sum(groups.outside)} of {len(groups.at)} beyond their 90%, least p-value {groups.p_value.min():.2g}",
            fontsize=SMALL,
            loc="right",
            pad=4,
        )
    # above the panels, where it does not cover data
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.55 / size[1]),
        ncols=4,
        fontsize=SMALL,
        frameon=False,
        borderpad=0,
    )
    skipped = f", {check.n_skipped} others not positive" if check.n_skipped else ""
    _head(figure, f"{check.kind.capitalize()} predictive check   {check.n_draws} draws{skipped}")
    return figure


def _draw_groups(axes: Axes, groups: Groups, scale: float) -> None:
    """Band and median of the replicates, and points for the data, in another colour outside the band."""
    # detectors are placed in order, without gaps; a step of the band is as wide as its group
    x = np.arange(float(len(groups.at))) if groups.name == "detector" else groups.at
    half = 0.5 * float(np.min(np.diff(x))) if len(x) > 1 else 0.5
    low, median, high, observed = (scale * y for y in (groups.low, groups.median, groups.high, groups.observed))
    axes.bar(x, high - low, width=2 * half, bottom=low, color=_BAND, linewidth=0, label="90% of the replicates")
    axes.hlines(median, x - half, x + half, color=_MEDIAN, linewidth=1.2, label="median of the replicates")
    outside = groups.outside
    size = 3.5 if len(x) > 60 else 5
    for here, colour, label in ((~outside, _INSIDE, "data"), (outside, _OUTSIDE, "data beyond the 90%")):
        axes.plot(x[here], observed[here], "o", color=colour, markersize=size, label=label)
    axes.use_sticky_edges = False  # room above and below the bars
    axes.set_xlim(x[0] - 2 * half, x[-1] + 2 * half)
    if groups.name == "detector":
        shown = np.asarray(MaxNLocator(16, integer=True).tick_values(0, len(x) - 1)).astype(int)
        shown = shown[(shown >= 0) & (shown < len(x))]
        axes.set_xticks(shown, groups.at[shown].astype(int))
    elif groups.name == "azimuth":
        axes.set_xticks(np.arange(0, 361, 45))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=NICE))
    axes.tick_params(labelsize=SMALL, top=True, right=True, direction="in")


def _head(figure: Figure, text: str) -> None:
    """Draw the title of a figure."""
    up = 1 - 0.2 / figure.get_figheight()
    figure.text(0.5, up, text, ha="center", va="top", fontsize=LARGE, fontweight="bold")
