"""A fit in hand: its numbers as a table with units, in ten lines, and as HTML for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u
from astropy.table import QTable

from bayesflat.quantities import QUANTITIES, long_label, shown_radii
from bayesflat.text import plus_minus, printable

if TYPE_CHECKING:
    from bayesflat.config import FitConfig
    from bayesflat.gradient.product import FlatGradient
    from bayesflat.model.prepare import FitData

METHODS = {"map": "no errors", "laplace": "errors from Laplace's approximation", "nuts": "errors from NUTS"}


def summary_table(gradient: FlatGradient) -> QTable:
    """Statistics of every scalar that was fitted, and of the radial function.

    Returns
    -------
    astropy.table.QTable
        A row for each statistic (``statistic``: map, mean, sd, q05, q50, q95), a column with its unit for each scalar,
        and for the radial function at some radii (``radial_200`` at 200 mm; its map and sd only).  ``table.loc["sd"]``
        is a row.
    """
    estimates = gradient.require_estimates()
    statistics = ("map", "mean", "sd", "q05", "q50", "q95")
    table = QTable({"statistic": list(statistics)})
    for name, quantity in QUANTITIES.items():
        row = estimates[name]
        if row["sd"] != 0:  # else the term was not fitted, or there is one group of detectors
            table[name] = np.array([row[key] for key in statistics]) * u.Unit(quantity.unit)
    for radius in shown_radii(gradient.reach):
        column = np.full(len(statistics), np.nan)
        column[0], column[2] = float(gradient.compute_radial(radius)), float(gradient.compute_radial_sd(radius))
        table[f"radial_{radius:g}"] = column * u.dimensionless_unscaled
    table.add_index("statistic")
    return table


def summary_rows(gradient: FlatGradient, groups: tuple[str, str]) -> list[tuple[str, str, str]]:
    """What it is, ``value ± sd``, and the unit, of what was fitted."""
    estimates, rows = gradient.require_estimates(), []
    for name, quantity in QUANTITIES.items():
        row = estimates[name]
        if row["sd"] != 0:
            value = plus_minus(row["map"], row["sd"], quantity.scale)
            rows.append((long_label(name, groups), value, quantity.shown_unit))
    for radius in shown_radii(gradient.reach):
        value = plus_minus(float(gradient.compute_radial(radius)), float(gradient.compute_radial_sd(radius)))
        rows.append((f"radial function at {radius:g} mm", value, ""))
    return rows


def heading(data: FitData, config: FitConfig, gradient: FlatGradient) -> str:
    """Which flat, and what of it was fitted how."""
    kind = "sky" if config.do_reference_gradient else "dome"
    what = " ".join(part for part in (gradient.instrument, gradient.physical_filter) if part)
    detectors = len(np.unique(data.binned.detector))
    method = METHODS[gradient.require_estimates().method]
    return f"{printable(what)} {kind} flat: {len(data):,} bins of {detectors} detectors, {config.noise} noise, {method}"


def as_text(title: str, verdict: str, rows: list[tuple[str, str, str]]) -> str:
    """About ten lines; the x and y of a quantity stand in one."""
    merged: dict[str, tuple[str, str]] = {}
    for label, value, unit in rows:
        name = label.removesuffix(" x").removesuffix(" y")
        before = merged.get(name)
        merged[name] = (value if before is None else f"{before[0]}, {value}", unit)
    width = max(len(name) for name in merged)
    lines = [f"  {name:<{width}}  {value} {unit}".rstrip() for name, (value, unit) in merged.items()]
    return "\n".join([title, *lines, f"verdict: {verdict}"])


def as_html(title: str, verdict: str, rows: list[tuple[str, str, str]]) -> str:
    """A table for a notebook."""
    cells = "".join(
        f"<tr><td style='text-align:left'>{escape(label)}</td><td>{escape(value)}</td><td>{escape(unit)}</td></tr>"
        for label, value, unit in rows
    )
    return f"<p>{escape(title)}</p><table>{cells}</table><p>verdict: {escape(verdict)}</p>"
