"""Coverage of the uncertainties, on simulated focal planes of all of LSSTCam whose truth is known.

    python benchmarks/calibration.py -o docs/images -j 2

Every plane has light, detectors and noise of its own; the fit knows nothing of them.  Each result is a line of a file
as soon as it is there, so that a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from results import CODE, parser, run
from rich.console import Console
from rich.table import Table
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.stats import norm

import bayesflat
from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, lsstcam
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import fit
from bayesflat.report.plots_fit import save_figure
from bayesflat.simulation.detectors import SimulatedDetectors, simulate_binned, true_parameters
from bayesflat.simulation.truth import _VIGNETTING, Light, Noise, band_itl_ratio

SCALARS = ("itl_ratio", "gradient_x", "gradient_y", "centroid_delta_x", "centroid_delta_y")
RADII = (20.0, 50.0, 100.0, 250.0, 310.0, 330.0, 345.0)  # mm
QUANTITIES = (*SCALARS, *(f"radial {radius:g} mm" for radius in RADII))
SETTINGS = {"do_fit_centroid": True, "do_fit_gradient": True}
FILTERS = ("u_24", "g_6", "r_57", "i_39", "z_20", "y_10")
LEVEL = 0.9  # of the interval that is judged
# what is asked of the uncertainties
COVERAGE, HARD = (0.84, 0.96), (0.80, 0.98)  # of all quantities but one, and of that one
MEAN, SPREAD = 0.25, 1.2


# ---- one focal plane ----


def simulate_plane(
    seed: int, bin_factor: int = 128, camera: Camera | None = None
) -> tuple[BinnedFlat, dict[str, Any], dict[str, Any]]:
    """A focal plane with light, detectors and noise drawn at random.

    Parameters
    ----------
    seed : int
        Bands in turn: u, g, r, i, z, y.
    bin_factor : int
        Side of a bin (pixels).
    camera : Camera, optional
        LSSTCam's science detectors, or some of them.

    Returns
    -------
    binned : BinnedFlat
    truth : dict
        `SCALARS` of the detectors that were drawn, and ``radial``: the radial function at `RADII` (electrons).
    description : dict
        What was drawn.
    """
    light, noise, physical_filter, description = draw_light(seed)
    camera = camera or lsstcam().science()
    binned = simulate_binned(camera, light, noise, seed, bin_factor=bin_factor, physical_filter=physical_filter)
    found = true_parameters(light, SimulatedDetectors(camera, noise, seed))
    truth = {name: found[name] for name in SCALARS}
    truth["radial"] = (light.radial_function(RADII) * found["group_throughput"] * light.level).tolist()
    return binned, truth, description


def draw_light(seed: int) -> tuple[Light, Noise, str, dict[str, Any]]:
    """Light and noise at random, the filter, and what was drawn; the seeds go through the bands."""
    rng = np.random.default_rng([seed, 77])
    physical_filter = FILTERS[seed % len(FILTERS)]
    curve = ("pchip", "cubic")[rng.integers(2)]
    field_scale = float(rng.uniform(10.0, 20.0))
    centroid, gradient = rng.normal(0.0, 1.5, 2).tolist(), rng.normal(0.0, 2e-5, 2).tolist()
    radial = draw_radial(rng, curve)
    ratio = band_itl_ratio(physical_filter)
    light = Light(radial=radial, centroid_delta=centroid, gradient=gradient, itl_ratio=ratio)
    noise = replace(Noise.for_band(physical_filter), field_scale=field_scale)
    return light, noise, physical_filter, {"filter": physical_filter, "curve": curve, "field_scale": field_scale}


def draw_radial(rng: np.random.Generator, curve: str) -> tuple[NDArray, NDArray]:
    """LSSTCam's vignetting, bent smoothly at random by half a per cent or so: on a fine grid, to its end.

    Parameters
    ----------
    rng : numpy.random.Generator
    curve : str
        ``pchip``, whose slope bends at the tabulated radii, or ``cubic``, which has a second derivative everywhere.
    """
    table = np.array(_VIGNETTING)
    r = np.arange(0.0, table[0, -1] + 1.0)
    # flat at the centre, as a function of the radius must be
    through = PchipInterpolator(*table) if curve == "pchip" else CubicSpline(*table, bc_type=((1, 0.0), "not-a-knot"))
    bend = 1.0 + 0.004 * rng.standard_normal(3) @ np.cos(np.pi * np.outer([1, 2, 3], r) / r[-1])
    return r, np.maximum(through(r), 0.0) * bend / bend[0]


def judge(gradient: FlatGradient, truth: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Hold a product against the truth.

    Parameters
    ----------
    gradient : FlatGradient
        With estimates.
    truth : mapping
        As `simulate_plane` returns it.

    Returns
    -------
    dict
        For each of `QUANTITIES` ``truth``, ``mean``, ``sd``, ``low``, ``high`` (the central 90% interval) and ``pull``.
    """
    rows = {}
    for name in SCALARS:
        found = gradient.estimates[name]
        rows[name] = {"mean": found["mean"], "sd": found["sd"], "low": found["q05"], "high": found["q95"]}
        rows[name]["truth"] = float(truth[name])
    half = norm.ppf(0.5 + LEVEL / 2)
    means, sds = gradient.compute_radial(RADII), gradient.compute_radial_sd(RADII)
    expected = np.asarray(truth["radial"]) / gradient.normalization_factor
    for name, radius, mean, sd, true in zip(QUANTITIES[len(SCALARS) :], RADII, means, sds, expected, strict=True):
        rows[name] = {"mean": mean, "sd": sd, "low": mean - half * sd, "high": mean + half * sd, "truth": true}
        rows[name] = {key: float(value) for key, value in rows[name].items()}
        if radius > gradient.reach:  # where there are no bins, nothing is claimed
            rows[name] = dict.fromkeys(rows[name], math.nan)
    for row in rows.values():
        row["pull"] = (row["mean"] - row["truth"]) / row["sd"]
    return rows


def calibrate_plane(seed: int, bin_factor: int = 128, camera: Camera | None = None) -> dict[str, Any]:
    """Simulate, fit and judge one focal plane: a row of the results."""
    binned, truth, description = simulate_plane(seed, bin_factor, camera)
    began = time.perf_counter()
    result = fit(binned, FitConfig(**SETTINGS))
    seconds = time.perf_counter() - began
    return {
        "seed": seed,
        "setup": setup(bin_factor),
        "code": CODE,
        "drawn": description,
        "seconds": seconds,
        "converged": result.converged,
        "message": result.map.message,
        "exact": bool(result.laplace.exact),
        "nodes": len(result.gradient.radial_spline_nodes),
        "quantities": judge(result.gradient, truth),
    }


def setup(bin_factor: int = 128) -> dict[str, Any]:
    """What results must have in common to be counted together."""
    return {"version": bayesflat.__version__, "config": SETTINGS, "bin_factor": bin_factor}


# ---- all of them ----


@dataclass(frozen=True)
class Row:
    """How one quantity did.

    Attributes
    ----------
    name : str
    coverage, error : float
        Part of the central 90% intervals that hold the truth, and the binomial error that 90% would have.
    mean, spread : float
        Of the pulls.
    sd : float
        Median uncertainty.
    passed, bearable : bool
        Whether it is as every quantity should be, and as at most one may be.
    """

    name: str
    coverage: float
    error: float
    mean: float
    spread: float
    sd: float
    passed: bool
    bearable: bool


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Coverage and pulls of each quantity, and whether they are as they should be."""
    summary = []
    for name in QUANTITIES:
        found = [row["quantities"][name] for row in rows if math.isfinite(row["quantities"][name]["pull"])]
        inside = np.array([f["low"] <= f["truth"] <= f["high"] for f in found])
        pulls, sds = (np.array([f[key] for f in found]) for key in ("pull", "sd"))
        coverage, mean = float(inside.mean()), float(pulls.mean())
        spread = float(pulls.std(ddof=1)) if len(pulls) > 1 else math.nan
        pulled = abs(mean) < MEAN and spread <= SPREAD
        passed, bearable = (pulled and low <= coverage <= high for low, high in (COVERAGE, HARD))
        error = math.sqrt(LEVEL * (1 - LEVEL) / len(found))
        summary.append(Row(name, coverage, error, mean, spread, float(np.median(sds)), passed, bearable))
    return summary


def all_pass(summary: Sequence[Row]) -> bool:
    """Whether all quantities but one at most pass, and that one nearly does."""
    return all(row.bearable for row in summary) and sum(not row.passed for row in summary) <= 1


def summary_table(summary: Sequence[Row], n: int) -> Table:
    """The summary to print."""
    table = Table(title=f"Calibration on {n} simulated focal planes")
    for name in ("quantity", "in 90% interval", "mean pull", "spread of pulls", "median sd", ""):
        table.add_column(name, justify="left" if name in ("quantity", "") else "right")
    for row in summary:
        table.add_row(
            row.name,
            f"{100 * row.coverage:.1f} ± {100 * row.error:.1f} %",
            f"{row.mean:+.2f}",
            f"{row.spread:.2f}",
            f"{row.sd:.2g}",
            "[green]pass[/]" if row.passed else "[yellow]near[/]" if row.bearable else "[red]FAIL[/]",
        )
    asked = ("asked for", f"{100 * COVERAGE[0]:.0f} .. {100 * COVERAGE[1]:.0f} %", f"within {MEAN}")
    table.add_section()
    table.add_row(*asked, f"at most {SPREAD}", "", "")
    return table


def plot_calibration(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Coverage at all levels, and the pulls."""
    pulls = {name: np.array([row["quantities"][name]["pull"] for row in rows]) for name in QUANTITIES}
    pulls = {name: found[np.isfinite(found)] for name, found in pulls.items()}
    n = len(rows)
    figure = Figure(figsize=(12.0, 5.6), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))

    levels = np.linspace(0.0, 1.0, 201)
    error = 100 * np.sqrt(levels * (1 - levels) / n)
    for times, shade in ((3, "0.92"), (1, "0.82")):
        label = f"{times}σ, binomial, of {n}"
        left.fill_between(100 * levels, -times * error, times * error, color=shade, lw=0, label=label)
    left.axhline(0.0, color="0.35", lw=1.0)
    shown = np.linspace(0.10, 0.99, 90)
    for name in QUANTITIES:
        inside = np.abs(pulls[name])[:, None] <= norm.ppf(0.5 + shown / 2)
        style = {"color": _COLOURS[name], "ls": _DASHES.get(name, "-")}
        left.plot(100 * shown, 100 * (inside.mean(0) - shown), lw=1.6, label=_label(name), **style)
    low, high = (100 * (bound - LEVEL) for bound in COVERAGE)
    left.errorbar([100 * LEVEL] * 2, [low, high], color="black", lw=1.3, marker="_", ms=9, mew=1.3, zorder=5)
    left.annotate(
        "accepted at 90%", (100 * LEVEL, low), (0, -4), textcoords="offset points", ha="center", va="top", fontsize=8.5
    )
    top = max(12.0, 1.1 * max(abs(v) for line in left.lines for v in line.get_ydata()), 3.2 * error.max())
    left.set(xlim=(0, 100), ylim=(-top, top), xlabel="nominal probability of the central interval (%)")
    left.set_ylabel("observed minus nominal coverage (percentage points)")
    left.set_title("Coverage: above 0 the uncertainties are too large, below too small", fontsize=11)
    left.legend(ncols=4, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, handlelength=2.2)

    edges, at = np.linspace(-4.0, 4.0, 33 if n >= 100 else 17), np.linspace(-4.0, 4.0, 201)
    step = 0.55  # between the rows, in units of the density
    for k, name in enumerate(QUANTITIES):
        base = -k * step
        density = np.histogram(np.clip(pulls[name], -4.0, 4.0), edges)[0] / (len(pulls[name]) * np.diff(edges))
        density = np.minimum(density, 1.5 * step)  # of a few planes only
        right.stairs(base + density, edges, baseline=base, fill=True, color=_COLOURS[name], alpha=0.65, lw=0)
        right.plot(at, base + norm.pdf(at), color="black", lw=0.9)
        right.plot(edges[[0, -1]], [base] * 2, color="0.6", lw=0.6)
        spread = pulls[name].std(ddof=1) if n > 1 else math.nan
        figures = f"{pulls[name].mean():+.2f}, {spread:.2f}"
        right.text(4.15, base + 0.05, figures, fontsize=9, family="monospace", va="bottom")
        right.text(-4.15, base + 0.05, _label(name), fontsize=9, ha="right", va="bottom")
    right.text(4.15, 0.42, "mean, spread", fontsize=9, va="bottom")
    right.set(xlim=(-4, 4), yticks=[], ylim=(-(len(QUANTITIES) - 1) * step - 0.06, 0.62))
    right.set(xlabel="pull, (estimate − truth) / sd", xticks=range(-4, 5))
    right.set_title("Pulls, and the standard normal", fontsize=11)
    for panel, sides in ((left, ("top", "right")), (right, ("top", "right", "left"))):
        panel.spines[list(sides)].set_visible(False)
    return figure


_COLOURS = dict(
    zip(
        QUANTITIES,
        (
            "#7b3294",
            "#0571b0",
            "#0571b0",
            "#e66101",
            "#e66101",
            "#c7e9c0",
            "#a1d99b",
            "#74c476",
            "#41ab5d",
            "#238b45",
            "#006d2c",
            "#00441b",
        ),
        strict=True,
    )
)
_DASHES = {"gradient_y": (0, (4, 1.5)), "centroid_delta_y": (0, (4, 1.5))}


def _label(name: str) -> str:
    """Short name of a quantity."""
    return name.replace("_delta", "").replace("itl_", "ITL ").replace("_", " ")


def main() -> int:
    options = parser(__doc__, "calibration.jsonl")
    # larger bins leave nothing at 345 mm
    options.add_argument(
        "--bin-factor", type=int, default=128, choices=(32, 64, 128, 256), help="side of a bin in pixels (default 128)"
    )
    options = options.parse_args()
    path = options.results or options.o.resolve().parent / "calibration.jsonl"
    seeds = range(options.seed, options.seed + options.n)
    rows, failed = run(calibrate_plane, seeds, (options.bin_factor,), path, setup(options.bin_factor), options.j)
    if not rows:
        return 1
    summary, console = summarise(rows), Console()
    console.print(summary_table(summary, len(rows)), width=max(console.width, 90))
    amiss = sum(not row["converged"] for row in rows)
    inexact = sum(not row["exact"] for row in rows)
    console.print(
        f"{amiss} of {len(rows)} fits did not converge, {inexact} without the exact curvature (all are counted); "
        f"{failed} failed; {np.median([row['seconds'] for row in rows]):.1f} s a fit (median)",
        highlight=False,
    )
    options.o.mkdir(parents=True, exist_ok=True)
    save_figure(plot_calibration(rows), options.o / "calibration.png")
    console.print(f"{options.o / 'calibration.png'} and {path} written", highlight=False)
    return 0 if not failed and all_pass(summary) else 1


if __name__ == "__main__":
    sys.exit(main())
