"""Calibration and power of the paired comparison, on simulated sky and dome flats of all of LSSTCam.

    python benchmarks/compare.py -o docs/images -j 2

Every pair has light, detectors and noise of its own.  Without a true difference the central 90% intervals must leave
out zero in about 10% of the pairs; with a bend in radius or a plane of known size, some pairs are compared again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from calibration import RADII, SETTINGS, draw_light
from matplotlib.figure import Figure
from results import CODE, parser, run
from rich.console import Console
from rich.table import Table

import bayesflat
from bayesflat.comparison.differences import Difference
from bayesflat.comparison.ratio import SkyCurve, fit_ratio
from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, lsstcam
from bayesflat.inference.fitting import fit
from bayesflat.model.prepare import prepare
from bayesflat.quantities import COMPARED, MMAG, REFERENCE_RADIUS, TOLERANCE_MMAG
from bayesflat.report.plots_fit import save_figure
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light

NAMES = (*COMPARED, *(f"radial {radius:g} mm" for radius in RADII))
AMPLITUDES = (0.05, 0.1, 0.2, 1.0, 2.0, 5.0)  # mmag at REFERENCE_RADIUS
KINDS = ("bend", "plane")
WITH_POWER = 20  # pairs that are compared with true differences too: the first ones
LEFT_OUT = (0.04, 0.16)  # part of the 90% intervals that may leave out zero
SURE = 0.95


def changed(light: Light, kind: str, amplitude: float) -> Light:
    """The light with a difference (mmag) at `REFERENCE_RADIUS`: ``bend`` grows as radius squared, ``plane`` along x."""
    if kind == "bend":
        return replace(light, bend=light.bend - amplitude / MMAG * (350.0 / REFERENCE_RADIUS) ** 2)
    return replace(light, gradient=(light.gradient[0] + amplitude / MMAG / REFERENCE_RADIUS, light.gradient[1]))


def compare_pair(seed: int, bin_factor: int = 128, with_power: int = WITH_POWER, camera: Camera | None = None):
    """Simulate a sky, and domes that do not and do differ from it, and compare: a row of the results."""
    began = time.perf_counter()
    light, noise, physical_filter, description = draw_light(seed)
    camera = camera or lsstcam().science()
    config = FitConfig(**SETTINGS)

    def flat(kind: str, light: Light) -> BinnedFlat:
        return simulate_binned(
            camera, light, noise, seed, kind=kind, bin_factor=bin_factor, physical_filter=physical_filter
        )

    sky = fit(flat("sky", light), config)
    curve = SkyCurve.of_product(sky.gradient)

    def differences(dome: Light, kind: str) -> tuple[dict[str, dict[str, float]], bool]:
        bins = prepare(flat("dome", dome), config)
        found = fit_ratio(sky.data, bins, config, curve=curve, itl_ratio=light.itl_ratio)
        rows = {name: (*found.posterior.scalars[name], np.inf) for name in COMPARED}
        mean, jacobian = found.posterior.log_radial(RADII)
        rows |= {name: (-MMAG * m, MMAG * row, TOLERANCE_MMAG) for name, m, row in
                 zip(NAMES[len(COMPARED):], mean, jacobian, strict=True)}  # fmt: skip
        mean, row, _ = rows["gradient_x"]
        rows["gradient_x"] = (mean, row, TOLERANCE_MMAG / MMAG / REFERENCE_RADIUS)
        return {
            name: vars(Difference.normal(float(mean), float(found.posterior.sd(row[None])[0]), tolerance))
            for name, (mean, row, tolerance) in rows.items()
        }, found.converged

    null, converged = differences(light, "none")
    power = {}
    if seed < with_power:
        for kind, name in zip(KINDS, ("radial 310 mm", "gradient_x"), strict=True):
            for amplitude in AMPLITUDES:
                power[f"{kind} {amplitude:g}"] = differences(changed(light, kind, amplitude), kind)[0][name]
    return {
        "seed": seed, "setup": setup(bin_factor), "code": CODE, "drawn": description,
        "seconds": time.perf_counter() - began, "converged": converged, "message": "the ratio's fit did not converge",
        "null": null, "power": power,
    }  # fmt: skip


def setup(bin_factor: int = 128) -> dict[str, Any]:
    """What results must have in common to be counted together."""
    return {"version": bayesflat.__version__, "comparison": SETTINGS, "bin_factor": bin_factor}


def left_out(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Part of the pairs without a difference whose 90% interval leaves out zero."""
    found = [row["null"][name] for row in rows]
    return float(np.mean([d["q05"] > 0 or d["q95"] < 0 for d in found]))


def summary_table(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, bool]:
    """The summary to print, and whether every quantity is as it should be."""
    table = Table(title=f"Paired comparisons of {len(rows)} pairs without a difference")
    for name in ("quantity", "90% interval leaves out 0", "mean pull", "spread", "median sd", ""):
        table.add_column(name, justify="left" if name in ("quantity", "") else "right")
    good = True
    for name in NAMES:
        pulls = np.array([row["null"][name]["mean"] / row["null"][name]["sd"] for row in rows])
        part = left_out(rows, name)
        passed = LEFT_OUT[0] <= part <= LEFT_OUT[1]
        good &= passed
        sd = np.median([row["null"][name]["sd"] for row in rows])
        spread = pulls.std(ddof=1) if len(rows) > 1 else np.nan
        table.add_row(name, f"{100 * part:.1f} %", f"{pulls.mean():+.2f}", f"{spread:.2f}", f"{sd:.2g}",
                      "[green]pass[/]" if passed else "[red]FAIL[/]")  # fmt: skip
    return table, good


def power_of(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[float]]:
    """Part of the pairs in which a difference is seen, and is seen to be beyond the tolerance, by amplitude."""
    found = [[row["power"][f"{kind} {a:g}"] for row in rows if row["power"]] for a in AMPLITUDES]
    if not found[0]:  # none of these pairs was compared with a difference
        return {}
    return {
        "seen": [float(np.mean([d["q05"] > 0 or d["q95"] < 0 for d in each])) for each in found],
        "beyond": [float(np.mean([d["p_rope"] > SURE for d in each])) for each in found],
    }


def plot_comparisons(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How often zero is left out without a difference, and how often a difference is seen."""
    figure = Figure(figsize=(11.5, 4.9), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = [100 * left_out(rows, name) for name in NAMES]
    at = np.arange(len(NAMES))[::-1]
    left.axvspan(100 * LEFT_OUT[0], 100 * LEFT_OUT[1], color="0.88", lw=0, label="accepted")
    left.axvline(10.0, color="0.35", lw=1.0, label="nominal")
    left.plot(parts, at, "o", color="#0571b0", ms=7)
    left.set(yticks=at, yticklabels=[name.replace("_delta", "") for name in NAMES], xlim=(0, 25))
    left.set_xlabel("90% intervals that leave out zero (%)")
    left.set_title(f"No true difference, {len(rows)} pairs", fontsize=11)
    left.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for kind, colour in zip(KINDS, ("#e66101", "#5e3c99"), strict=True):
        power = power_of(rows, kind)
        if not power:
            continue
        right.plot(AMPLITUDES, power["seen"], "o-", color=colour, label=f"{kind}: seen (90% interval without 0)")
        right.plot(AMPLITUDES, power["beyond"], "s--", color=colour, mfc="white",
                   label=f"{kind}: beyond {TOLERANCE_MMAG:g} mmag (p > {SURE:g})")  # fmt: skip
    right.axvline(TOLERANCE_MMAG, color="0.6", lw=0.9)
    right.set(xscale="log", ylim=(-0.03, 1.03), yticks=np.arange(0, 1.01, 0.25), xticks=AMPLITUDES)
    right.set_xticklabels([f"{a:g}" for a in AMPLITUDES])
    right.minorticks_off()
    right.set_xlabel(f"true difference at {REFERENCE_RADIUS:g} mm (mmag)")
    right.set_ylabel("part of the pairs")
    right.set_title(f"True differences, {sum(bool(row['power']) for row in rows)} pairs each", fontsize=11)
    if right.lines[1:]:
        right.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> int:
    options = parser(__doc__, "comparison.jsonl")
    options.add_argument("--bin-factor", type=int, default=128, help="side of a bin in pixels (default %(default)s)")
    options = options.parse_args()
    path = options.results or options.o.resolve().parent / "comparison.jsonl"
    seeds = range(options.seed, options.seed + options.n)
    rows, failed = run(compare_pair, seeds, (options.bin_factor,), path, setup(options.bin_factor), options.j)
    if not rows:
        return 1
    console = Console()
    table, good = summary_table(rows)
    console.print(table, width=max(console.width, 90))
    for kind in KINDS:
        for what, parts in power_of(rows, kind).items():
            shown = ", ".join(f"{a:g} mmag {p:.2f}" for a, p in zip(AMPLITUDES, parts, strict=True))
            console.print(f"{kind}, {what}: {shown}", highlight=False)
    amiss = sum(not row["converged"] for row in rows)
    console.print(f"{amiss} of {len(rows)} did not converge (all are counted); {failed} failed", highlight=False)
    options.o.mkdir(parents=True, exist_ok=True)
    save_figure(plot_comparisons(rows), Path(options.o) / "comparison.png")
    console.print(f"{options.o / 'comparison.png'} and {path} written", highlight=False)
    return 0 if good and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
