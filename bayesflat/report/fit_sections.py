"""The sections of a fit's report that have maps of the focal plane, and the radial function over the bins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.estimates import Offsets
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.report import page
from bayesflat.report.numbers import (
    BAND,
    DetectorRow,
    cells,
    detector_rows,
    half_width,
    nice,
    radial_profile,
    residuals,
    robust_rms,
)
from bayesflat.report.page import Layer, Series
from bayesflat.report.text import percent
from bayesflat.text import plus_minus

# ---- the focal plane ----


def focal_plane_section(data: FitData, gradient: FlatGradient, config: FitConfig) -> str:
    """Maps of residuals, throughputs, data and model, and a table of the detectors."""
    rows = detector_rows(data, gradient)
    binned, offsets = data.binned, gradient.offsets
    residual, model = residuals(data, gradient), gradient.compute_model(binned.xf, binned.yf, data.itl)

    def layer(
        title: str,
        unit: str,
        values: Sequence[NDArray | float],
        note: str,
        *,
        about: float | None = None,
        half: float = 0.0,
    ) -> Layer:
        """A layer whose scale is symmetric about a value, or spans the values."""
        flat = np.concatenate([np.ravel(value) for value in values])
        flat = flat[np.isfinite(flat)]
        if about is not None:
            half = half or nice(half_width(flat - about, 99.0))
            return Layer(title, unit, values, (about - half, about + half), True, note)
        low, high = np.percentile(flat, (0.5, 99.5)) if len(flat) else (0.0, 1.0)
        return Layer(title, unit, values, (low, high) if high > low else (low - 0.5, high + 0.5), False, note)

    def of_bins(values: NDArray) -> list[NDArray | float]:
        return [
            cells(row.detector, binned.xf[row.rows], binned.yf[row.rows], values[row.rows]) if row.n_bins else math.nan
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
                "Throughput of detectors", "%", [100 * row.offset for row in rows],
                "Relative to the mean of its vendor. The model takes these for scatter; a trend in them is suspicious.",
                about=0.0,
            )
        )  # fmt: skip
        layers.append(
            layer(
                "Throughput of amplifiers", "%", _amplifiers(rows, offsets),
                "Relative to their detector: gains that do not match stand out.",
                about=0.0,
            )
        )  # fmt: skip
    layers += [
        layer("Rms within detectors", "%", [100 * row.rms for row in rows],
              "Scatter of data / model about its mean in the detector: defects, ghosts and dust stand out."),
        layer("Bins in the fit", "", [float(row.n_bins or math.nan) for row in rows],
              "Fewer at the rim, where bins beyond the last full ring or node are left out."),
        layer("Data", "", of_bins(data.value), "Divided by the normalization."),
        layer("Model", "", of_bins(model), "Radial function, throughput ratio and planes."),
    ]  # fmt: skip
    facts = [_facts(row) for row in rows]
    centre = gradient.centroid_x + gradient.centroid_delta_x, gradient.centroid_y + gradient.centroid_delta_y
    fitted = next(fact for row, fact in zip(rows, facts, strict=True) if row.n_bins)
    head = ("detector", *(key for key in fitted if key != "id"))
    listed = [
        (row.detector.name, *(fact.get(key, "") for key in head[1:]))
        for row, fact in sorted(zip(rows, facts, strict=True), key=lambda pair: _deviation(pair[0]), reverse=True)
        if row.n_bins
    ]
    return page.section(
        "Over the focal plane",
        page.paragraph("Point at a detector for its figures; a click holds it. Each map shows what its menu says."),
        page.maps(
            [row.detector for row in rows], [row.group for row in rows], facts, layers,
            marks=[(*centre, "centre of the radial function")],
            caption=f"Data / model − 1 of all bins: {percent(robust_rms(residual))} (robust rms), the throughputs of "
            "detectors and amplifiers left in. Orange is brighter than the model, blue dimmer; colours end at the "
            "limits of the scale.",
        ),
        page.folded("All detectors as a table, the largest deviations first",
                    page.table(head, listed, numbers=range(2, len(head)))),
    )  # fmt: skip


def _deviation(row: DetectorRow) -> float:
    """Deviation of a detector from its vendor's mean, or from the model where its throughput is not known."""
    return float(abs(np.nan_to_num(row.offset if math.isfinite(row.offset) else row.residual)))


def _facts(row: DetectorRow) -> dict[str, str]:
    """Label and text of everything that is shown for a detector."""
    facts = {"vendor": row.detector.physical_type, "id": str(row.detector.id)}
    if not row.n_bins:
        return facts | {"bins": "none in the fit"}
    if math.isfinite(row.offset):
        facts["throughput"] = plus_minus(100 * row.offset, 100 * row.offset_sd, digits=3) + " %"
    facts["data / model − 1"] = f"{100 * row.residual:+.2f} %".replace("-", "−").replace("+nan %", "–")
    facts["rms within"] = percent(row.rms).replace("%", " %")
    outliers = f" ({row.n_outliers} outliers)" if row.n_outliers else ""
    return facts | {"bins": f"{row.n_bins}{outliers}"}


def _amplifiers(rows: Sequence[DetectorRow], offsets: Offsets) -> list[NDArray | float]:
    """Throughput of amplifiers relative to their detector (%)."""
    found: list[NDArray | float] = []
    for row in rows:
        detector = row.detector
        here = (offsets.detector == detector.id) & (offsets.amplifier >= 0)
        values = np.full(detector.n_amplifiers, math.nan)
        values[offsets.amplifier[here]] = 100 * (offsets.mean[here] / (1.0 + row.offset) - 1.0)
        found.append(values.reshape(detector.amp_ny, detector.amp_nx) if here.any() else math.nan)
    return found


# ---- the radial function ----


def radial_section(data: FitData, gradient: FlatGradient) -> str:
    """The radial function with its band over the bins, and the residuals over radius."""
    found = radial_profile(data, gradient)
    radial = gradient.compute_radial(found.radius)
    nodes = gradient.radial_spline_nodes
    outer = gradient.radius(data.binned.xf, data.binned.yf).max()
    shown = nodes <= outer
    grid = np.linspace(min(nodes[0], outer), outer, 400)
    line, sd = gradient.compute_radial(grid), gradient.compute_radial_sd(grid)
    known = bool(np.isfinite(sd).any())
    half = np.divide(BAND * sd, line, out=np.full(grid.shape, np.nan), where=line > 0)
    low, high = radial * (1 + found.low), radial * (1 + found.high)
    upper = [
        Series("data, 16% to 84%", found.radius, radial * (1 + found.median), low, high, "data"),
        Series("radial function, 90% band", grid, line, line - BAND * sd, line + BAND * sd)
        if known
        else Series("radial function", grid, line),
        Series("spline nodes", nodes[shown], gradient.radial_spline_values[shown], look="nodes"),
    ]
    zero = np.zeros(grid.shape)
    lower = [
        Series("residual, 16% to 84%", found.radius, 100 * found.median, 100 * found.low, 100 * found.high, "data"),
        Series("model, 90% band", grid, zero, -100 * half, 100 * half, "zero")
        if known
        else Series("model", grid, zero, look="zero"),
    ]
    values = np.concatenate([line, low, high])
    bottom, top = np.nanmin(values), np.nanmax(values)
    room = 0.05 * (top - bottom) or 0.01 * abs(top)
    # percentiles of the innermost ring, which has few bins, may exceed the limits; medians may not
    edges, medians = (np.abs(y[np.isfinite(y)]) for y in (np.append(found.low, found.high), found.median))
    limit = 1.3 * half_width(edges, 97.0)
    limit = 100.0 * max(limit, 1.1 * float(medians.max(initial=0.0)))
    ratio = " and throughput ratio" if data.has_ratio else ""
    caption = (
        f"Above: the radial function over the bins, corrected for planes{ratio} and for the throughput of "
        f"{found.freed}. Below: the residuals, what is left after both, with the running median as a line. It should "
        "stay near zero. "
        "Waves from node to node (dashed) mean that Akima's spline through the nodes does not follow the flat."
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
