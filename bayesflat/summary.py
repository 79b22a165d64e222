"""A fit as a table to print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table

from bayesflat.gradient import SCALARS, FlatGradient

_SHOWN_RADII = (0.0, 200.0, 300.0, 310.0, 330.0)


def fit_table(gradient: FlatGradient) -> Table:
    """The scalars of a product, with their uncertainties where it has any."""
    table = Table(title=f"{gradient.instrument} {gradient.physical_filter}".strip() or None)
    for name, justify in (("parameter", "left"), ("MAP", "right"), ("sd", "right"), ("unit", "left")):
        table.add_column(name, justify=justify)
    for name in SCALARS:
        row = gradient.estimates[name]
        unit = gradient.estimates.units[gradient.estimates.names.index(name)]
        if row["sd"] == 0 and name != "itl_ratio":
            continue  # the term is off
        table.add_row(name, f"{row['map']:.6g}", "" if np.isnan(row["sd"]) else f"{row['sd']:.2g}", unit)
    for radius in _SHOWN_RADII:
        if gradient.radial_spline_nodes[0] <= radius <= gradient.radial_spline_nodes[-1]:
            sd = float(gradient.compute_radial_sd(radius))
            shown = "" if np.isnan(sd) else f"{sd:.2g}"
            table.add_row(f"radial function at {radius:g} mm", f"{gradient.compute_radial(radius):.5f}", shown, "")
    table.add_row("normalization_factor", f"{gradient.normalization_factor:.6g}", "", "")
    return table


def terms_table(folder: str | Path) -> Table:
    """The comparison of terms that `bayesflat fit --compare-terms` left in a folder."""
    from astropy.table import Table as AstropyTable

    from bayesflat.run import TERMS

    table = Table(title="which terms predict detectors that are left out")
    for name, justify in (("terms", "left"), ("elpd difference", "right"), ("its error", "right"), ("bad k", "right")):
        table.add_column(name, justify=justify)
    for row in AstropyTable.read(Path(folder) / TERMS, format="ascii.ecsv"):
        table.add_row(row["terms"], f"{row['elpd_diff']:.1f}", f"{row['dse']:.1f}", str(row["bad_k"]))
    return table
