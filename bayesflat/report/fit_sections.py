"""The figures of a report: maps of the focal plane, and the radial function over the bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.report import page
from bayesflat.report.numbers import BAND, cells, detector_rows, half_width, nice, radial_profile, residuals, robust_rms
from bayesflat.report.page import Layer, Series
from bayesflat.report.text import percent, plus_minus

# ---- the focal plane ----


def focal_plane_section(data: FitData, gradient: FlatGradient, config: FitConfig) -> str:
    """Maps of residuals, throughputs, data and model, and the same as a table."""
    rows = detector_rows(data, gradient)
    binned, offsets = data.binned, gradient.offsets
    residual, model = residuals(data, gradient), gradient.compute_model(binned.xf, binned.yf, data.itl)

    def layer(title: str, unit: str, values: Sequence, note: str, *, about: float | None = None, half: float = 0.0):
        flat = np.concatenate([np.ravel(value) for value in values])
        flat = flat[np.isfinite(flat)]
        if about is not None:
            half = half or nice(half_width(flat - about, 99.0))
            return Layer(title, unit, values, (about - half, about + half), True, note)
        low, high = np.percentile(flat, (0.5, 99.5)) if len(flat) else (0.0, 1.0)
        return Layer(title, unit, values, (low, high) if high > low else (low - 0.5, high + 0.5), False, note)

    def of_bins(values: NDArray) -> list[NDArray | float]:
        return [
            cells(row["detector"], binned.xf[row["rows"]], binned.yf[row["rows"]], values[row["rows"]])
            if row["n_bins"]
            else math.nan
            for row in rows
        ]

    fixed = 100 * (config.fixed_model_residual_plot_scale or 0.0)
    layers = [
        layer(
            "Data / model − 1", "%", of_bins(100 * residual),
            "Good: detectors and amplifiers differ, without order. Rings, a slope across the focal plane or a dipole "
            "at the rim are large-scale structure that the model has not followed.",
            about=0.0, half=fixed,
        )
    ]  # fmt: skip
    if offsets is not None:
        layers.append(
            layer(
                "Throughput of detectors", "%", [100 * row["offset"] for row in rows],
                "Relative to the mean of its vendor. The model takes these for scatter; a trend in them is suspicious.",
                about=0.0,
            )
        )  # fmt: skip
        layers.append(
            layer(
                "Throughput of amplifiers", "%", _amplifiers(rows, gradient),
                "Relative to their detector: gains that do not match stand out.",
                about=0.0,
            )
        )  # fmt: skip
    layers += [
        layer("Residual rms within detectors", "%", [100 * row["rms"] for row in rows],
              "Of the bins about their detector's mean: defects, ghosts and dust stand out."),
        layer("Bins in the fit", "", [float(row["n_bins"] or math.nan) for row in rows],
              "Fewer at the rim, where bins beyond the last full ring or node are left out."),
        layer("Data", "", of_bins(data.value), "Divided by the normalization."),
        layer("Model", "", of_bins(model), "Radial function, throughput ratio and planes."),
    ]  # fmt: skip
    facts = [_facts(row) for row in rows]
    centre = gradient.centroid_x + gradient.centroid_delta_x, gradient.centroid_y + gradient.centroid_delta_y
    fitted = next(fact for row, fact in zip(rows, facts, strict=True) if row["n_bins"])
    head = ("detector", *(key for key in fitted if key != "id"))
    listed = [
        (row["detector"].name, *(fact.get(key, "") for key in head[1:]))
        for row, fact in sorted(zip(rows, facts, strict=True), key=lambda pair: _deviation(pair[0]), reverse=True)
        if row["n_bins"]
    ]
    return page.section(
        "Over the focal plane",
        page.paragraph("Point at a detector for its figures; a click holds it. Each map shows what its menu says."),
        page.maps(
            [row["detector"] for row in rows], [row["group"] for row in rows], facts, layers,
            marks=[(*centre, "centre of the radial function")],
            caption=f"Residuals of all bins: {percent(robust_rms(residual))} (robust rms). Orange is brighter than the "
            "model, blue dimmer; colours end at the limits of the scale.",
        ),
        page.folded("All detectors as a table, the largest deviations first",
                    page.table(head, listed, numbers=range(2, len(head)))),
    )  # fmt: skip


def _deviation(row: dict[str, Any]) -> float:
    """By how much a detector differs from its vendor, or where that is not known from the model."""
    return abs(np.nan_to_num(row["offset"] if math.isfinite(row["offset"]) else row["residual"]))


def _facts(row: dict[str, Any]) -> dict[str, str]:
    """What is shown of a detector."""
    facts = {"vendor": row["detector"].physical_type, "id": str(row["detector"].id)}
    if not row["n_bins"]:
        return facts | {"bins": "none in the fit"}
    if math.isfinite(row["offset"]):
        facts["throughput"] = plus_minus(100 * row["offset"], 100 * row["offset_sd"], digits=3) + " %"
    facts["mean residual"] = f"{100 * row['residual']:+.2f} %".replace("-", "−").replace("+nan %", "–")
    facts["residual rms"] = percent(row["rms"]).replace("%", " %")
    outliers = f" ({row['n_outliers']} outliers)" if row["n_outliers"] else ""
    return facts | {"bins": f"{row['n_bins']}{outliers}"}


def _amplifiers(rows: Sequence[dict[str, Any]], gradient: FlatGradient) -> list[NDArray | float]:
    """Throughput of amplifiers relative to their detector (%)."""
    offsets, found = gradient.offsets, []
    for row in rows:
        detector = row["detector"]
        here = (offsets.detector == detector.id) & (offsets.amplifier >= 0)
        values = np.full(detector.n_amplifiers, math.nan)
        values[offsets.amplifier[here]] = 100 * (offsets.mean[here] / (1.0 + row["offset"]) - 1.0)
        found.append(values.reshape(detector.amp_ny, detector.amp_nx) if here.any() else math.nan)
    return found


# ---- the radial function ----


def radial_section(data: FitData, gradient: FlatGradient) -> str:
    """The radial function with its band over the bins, and what it leaves."""
    found = radial_profile(data, gradient)
    inner = gradient.compute_radial(found.radius)
    nodes = gradient.radial_spline_nodes
    outer = gradient.radius(data.binned.xf, data.binned.yf).max()
    shown = nodes <= outer
    grid = np.linspace(min(nodes[0], outer), outer, 400)
    line, sd = gradient.compute_radial(grid), gradient.compute_radial_sd(grid)
    known = bool(np.isfinite(sd).any())
    half = np.divide(BAND * sd, line, out=np.full(grid.shape, np.nan), where=line > 0)
    band = {"low": line - BAND * sd, "high": line + BAND * sd} if known else {}
    relative = {"low": -100 * half, "high": 100 * half} if known else {}
    with_band = ", 90% band" if known else ""
    upper = [
        Series(
            "data, 16% to 84%", found.radius, *(inner * (1 + y) for y in (found.median, found.low, found.high)), "data"
        ),
        Series(f"radial function{with_band}", grid, line, **band),
        Series("spline nodes", nodes[shown], gradient.radial_spline_values[shown], look="nodes"),
    ]
    lower = [
        Series("residual, 16% to 84%", found.radius, *(100 * y for y in (found.median, found.low, found.high)), "data"),
        Series(f"model{with_band}", grid, np.zeros(grid.shape), **relative, look="zero"),
    ]
    values = np.concatenate([line, inner * (1 + found.low), inner * (1 + found.high)])
    bottom, top = np.nanmin(values), np.nanmax(values)
    room = 0.05 * (top - bottom) or 0.01 * abs(top)
    # the innermost ring has few bins; the median is always inside
    edges, medians = (np.abs(y[np.isfinite(y)]) for y in (np.append(found.low, found.high), found.median))
    limit = 1.3 * half_width(edges, 97.0)
    limit = 100.0 * max(limit, 1.1 * float(medians.max(initial=0.0)))
    ratio = " and throughput ratio" if data.has_ratio else ""
    caption = (
        f"Above: the radial function over the bins, freed of planes{ratio} and of the throughput of {found.freed}. "
        "Below: what is left of the bins, with the running median as a line. It should stay near zero, without waves "
        "from node to node (dashed): where it does not, the nodes cannot follow the flat."
        + (" The band is the uncertainty of the radial function." if known else "")
    )
    return page.section(
        "Radial function",
        page.profile(
            "radius from the centroid (mm)",
            [
                ("flat, relative to its normalization", upper, (bottom - room, top + room)),
                ("residual (%)", lower, (-limit, limit)),
            ],
            lines=nodes,
            caption=caption,
        ),
    )
