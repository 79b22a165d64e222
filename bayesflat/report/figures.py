"""Elements shared by all plots: figures without pyplot, their style, and the focal plane that maps are drawn on.

No global state of matplotlib is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Detector
from bayesflat.files import replacing
from bayesflat.gradient.product import FlatGradient

Place = tuple[float, float, float, float]  # of axes in a figure: left, bottom, width, height (fractions)
Extent = tuple[float, float, float, float]  # left, right, bottom, top

BLANK = "0.82"  # no data; white is a residual of zero
ITL, REST, EMPTY = "#c51b7d", "0.15", "0.6"
SMALL, MIDDLE, LARGE = 11, 12.5, 15  # font sizes (points)
NICE = (1, 2, 2.5, 5, 10)  # steps of ticks


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure with a canvas (size in inches)."""
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: float = 150, run: str = "") -> None:
    """Write a figure as PNG, atomically; the id of a run goes into its metadata."""
    with replacing(path) as temporary:
        # twice as fast as by default, for files a tenth larger
        figure.savefig(
            temporary, dpi=dpi, format="png", metadata={"Run": run} if run else None, pil_kwargs={"compress_level": 3}
        )


def box(size: tuple[float, float], x: float, y: float, width: float, height: float) -> Place:
    """Place of axes in a figure; arguments in inches."""
    return x / size[0], y / size[1], width / size[0], height / size[1]


def beyond(values: NDArray, norm: Normalize) -> str:
    """The ends of a colour bar that values exceed: ``neither``, ``min``, ``max`` or ``both``."""
    below, above = bool(values.min() < norm.vmin), bool(values.max() > norm.vmax)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def style(colorbar: Colorbar, label: str) -> None:
    """Label and font sizes of a colour bar."""
    colorbar.set_label(label, fontsize=SMALL)
    colorbar.ax.tick_params(labelsize=SMALL)


def percent_bar(colorbar: Colorbar, half: float, label: str) -> None:
    """Ticks for a horizontal colour bar about 1, labelled in per cent from 1."""
    ticks = np.asarray(MaxNLocator(7, steps=NICE, symmetric=True).tick_values(-100.0 * half, 100.0 * half))
    ticks = ticks[np.abs(ticks) <= 100.0 * half * (1 + 1e-9)]
    colorbar.ax.xaxis.set_major_locator(FixedLocator((1.0 + ticks / 100.0).tolist()))
    colorbar.ax.xaxis.set_major_formatter(
        FuncFormatter(lambda ratio, _: f"{round(100.0 * (ratio - 1.0), 9):+g}".replace("-", "−").replace("+0", "0"))
    )
    colorbar.ax.minorticks_off()
    style(colorbar, label)


def heading(binned: BinnedFlat, gradient: FlatGradient, what: str) -> str:
    """Heading of a plot: instrument, physical filter, and a description."""
    instrument = binned.instrument or gradient.instrument or binned.camera.name
    parts = [instrument, binned.physical_filter or gradient.physical_filter, what]
    return "   ".join(part for part in parts if part)


# ---- the focal plane ----


def map_axes(figure: Figure, place: Place, extent: Extent, title: str, first: Axes | None = None) -> Axes:
    """Axes of a map of the focal plane; all but the first of a row have no labels along y."""
    left, right, bottom, top = extent
    axes = figure.add_axes(place, sharex=first)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", facecolor=BLANK)
    axes.set_title(title, fontsize=MIDDLE, pad=7)
    axes.set_xlabel("x on the focal plane (mm)", fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=NICE))
    axes.tick_params(labelsize=SMALL, labelleft=first is None, top=True, right=True, direction="in")
    if first is None:
        axes.set_ylabel("y on the focal plane (mm)", fontsize=SMALL)
    return axes


def outline(axes: Sequence[Axes], binned: BinnedFlat) -> list[Line2D]:
    """Draw the outlines of the detectors on all axes; returns the handles of the legend."""
    present, first = np.unique(binned.detector, return_index=True)
    itl = dict(zip(present.tolist(), binned.itl[first].tolist(), strict=True))
    groups: dict[str, list[Detector]] = {"empty": [], "rest": [], "itl": []}
    for detector in binned.camera:
        if detector.id in itl:
            groups["itl" if itl[detector.id] else "rest"].append(detector)
        elif detector.is_science:
            groups["empty"].append(detector)
    names = dict(zip(("itl", "rest"), binned.groups, strict=True)) | {"empty": "without bins"}
    colours = {"empty": EMPTY, "rest": REST, "itl": ITL}
    for panel in axes:
        for key, detectors in groups.items():
            if detectors:
                outlines = PolyCollection([d.corners() for d in detectors], facecolors="none", label=names[key])
                outlines.set(edgecolor=colours[key], linewidth=1.0 if key == "itl" else 0.7)
                panel.add_collection(outlines, autolim=False)
    return [
        Line2D([], [], color=colours[key], linewidth=2, label=f"{names[key]} ({len(groups[key])})")
        for key in ("itl", "rest", "empty")
        if groups[key]
    ]


def outline_legend(figure: Figure, handles: Sequence[Line2D], x: float, y: float) -> None:
    """The legend of the outlines, with its lower left corner at ``x, y`` (inches)."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(x / width, y / height),
        fontsize=SMALL,
        frameon=False,
        title="Detectors",
        title_fontsize=SMALL,
        alignment="left",
        borderpad=0,
        labelspacing=0.25,
    )
