"""Fits and comparisons as tables and text to print."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from bayesflat.comparison.comparison import Comparison
from bayesflat.comparison.differences import Difference
from bayesflat.comparison.judgement import zones
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import SCALARS
from bayesflat.report.numbers import shown_radii
from bayesflat.text import printable


def new_table(title: str | None, columns: Sequence[str], text: Collection[str], *, no_wrap: bool = False) -> Table:
    """An empty table whose columns are aligned to the right, except those of text."""
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name in text else "right", no_wrap=no_wrap)
    return table


def fit_table(gradient: FlatGradient) -> Table:
    """The scalars of a fit, with their standard deviations where they are known."""
    estimates = gradient.require_estimates()
    title = printable(f"{gradient.instrument} {gradient.physical_filter}").strip() or None
    table = new_table(title, ("parameter", "MAP", "sd", "unit"), ("parameter", "unit"))
    groups = str(estimates.header.get("GROUPS", ("ITL", ""))[0])
    for name in SCALARS:
        row = estimates[name]
        unit = estimates.units[estimates.names.index(name)]
        if row["sd"] == 0:
            continue  # the term was not fitted, or there is one group of detectors
        shown = f"{name} ({groups})" if name == "itl_ratio" and not groups.startswith("ITL") else name
        table.add_row(printable(shown), f"{row['map']:.6g}", "" if np.isnan(row["sd"]) else f"{row['sd']:.2g}", unit)
    for radius in shown_radii(gradient):
        sd = float(gradient.compute_radial_sd(radius))
        shown = "" if np.isnan(sd) else f"{sd:.2g}"
        table.add_row(f"radial function at {radius:g} mm", f"{gradient.compute_radial(radius):.5f}", shown, "")
    table.add_row("normalization_factor", f"{gradient.normalization_factor:.6g}", "", "")
    return table


def terms_table(folder: str | Path) -> Table:
    """The comparison of terms that `bayesflat fit --compare-terms` wrote to a folder."""
    from astropy.table import Table as AstropyTable

    from bayesflat.commands.fit import TERMS

    title = "which terms predict detectors that are left out"
    table = new_table(title, ("terms", "elpd difference", "its error", "enough"), ("terms", "enough"))
    for row in AstropyTable.read(Path(folder) / TERMS, format="ascii.ecsv"):
        table.add_row(row["terms"], f"{row['elpd_diff']:.1f}", f"{row['dse']:.1f}", "yes" if row["enough"] else "")
    return table


def comparison_lines(c: Comparison) -> list[str]:
    """A comparison in about ten lines: the differences, the detectors beyond the tolerance, and the verdict.

    Parameters
    ----------
    c : Comparison
    """
    how = f"paired, {c.n_bins:,} bins ({c.n_spoilt} outliers)" if c.method == "paired" else "unpaired (conservative)"
    what = " ".join(part for part in (c.instrument, c.physical_filter) if part)
    lines = [f"{what}: dome minus sky, {how}; tolerance {c.rope_mmag:g} mmag at {c.radius:g} mm"]
    verdict = f"verdict: {c.verdict.words}"
    if c.verdict.word == "unusable":
        return [*lines, verdict]
    lines.append(f"radial function at {c.radius:g} mm: {_measured(c.at_radius, 'mmag')}")
    worst = int(np.nanargmax(np.abs(c.radial["mean"])))
    sd = c.radial["sd"][worst]
    shown = f"{c.radial['mean'][worst]:+.2f}" + (f" ± {sd:.2g}" if np.isfinite(sd) else "")
    lines.append(f"  largest: {shown} mmag at {c.grid[worst]:.0f} mm")
    for name, unit, scale in (
        ("centroid_delta", "mm", 1.0), ("gradient", "1e-6/mm", 1e6), ("itl_ratio", "", 1.0),
    ):  # fmt: skip
        if name == "itl_ratio" and not 0 < c.positions.itl.sum() < len(c.positions):
            continue
        names = [name] if name in c.differences else [f"{name}_x", f"{name}_y"]
        parts = [c.differences[key] for key in names]
        shown = ", ".join(_measured(part, "", scale) for part in parts)
        of = (
            " (x, y)"
            if len(parts) == 2
            else ""
            if c.positions.groups[0] == "ITL"
            else f" ({' / '.join(c.positions.groups)})"
        )
        lines.append(f"{name}{of}: {shown} {unit}".rstrip())
    for zone, here, off, most in zones(c.detectors, c.rope_mmag):
        lines.append(
            f"detectors {zone}: {off} of {len(here)} are beyond the tolerance, most of all "
            f"{most.name} ({most.found_mmag:+.2f} mmag)"
        )
    lines.append(f"what `bayesflat apply` corrects: {correction(c)}")
    return [*lines, f"{verdict}: {'; '.join(c.verdict.reasons)}"]


def correction(c: Comparison) -> str:
    """What a correction removes of the difference, and what it leaves (mmag, rms over the area)."""
    with_what = " (--gradient flat_gradient_paired.fits)" if c.tied is not None else ""
    return f"{c.parts_mmag.get('corrected', 0.0):.2g} mmag rms, by radial function, plane and centroid{with_what}" + (
        f"; it leaves {c.left_over} mmag rms" if c.left_over else ""
    )


def _measured(d: Difference, unit: str, scale: float = 1.0) -> str:
    """Mean and sd with two digits of the sd."""
    if not (np.isfinite(d.sd) and d.sd > 0):
        return f"{scale * d.mean:+.4g} {unit}".rstrip()
    decimals = max(0, 1 - int(np.floor(np.log10(scale * d.sd))))
    return f"{scale * d.mean:+.{decimals}f} ± {scale * d.sd:.{decimals}f} {unit}".rstrip()
