"""How often the verdicts of fit and comparison are the right word, for effects that the model does not know.

    python benchmarks/verdicts.py -n 20 -j 2
    python benchmarks/verdicts.py -n 100 -j 2 --effects none     # false alarms
    python benchmarks/verdicts.py -n 6 -j 2 --curves             # detection against strength, with a figure

Sky and dome of all of LSSTCam, as in `calibration.py`, in bins of 256 pixels; each effect of `effects.py` is put into
the dome alone.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from calibration import SETTINGS, draw_light
from effects import CASES, CURVES, curve_cases, factor
from matplotlib.figure import Figure
from results import CODE, parser, run
from rich.console import Console
from rich.table import Table
from scipy.stats import kstest

import bayesflat
from bayesflat.comparison.comparison import compare
from bayesflat.config import FitConfig
from bayesflat.data.camera import lsstcam
from bayesflat.inference.fitting import fit
from bayesflat.quantities import MMAG
from bayesflat.report.plots_fit import save_figure
from bayesflat.simulation.detectors import simulate_binned

BIN_FACTOR = 256
MOST_WRONG = 0.15  # of the words for an effect
RMS_TICKS = (0.2, 0.5, 1.0, 2.0, 5.0)  # mmag


def judge_pair(seed: int, effects: Sequence[str]) -> dict[str, Any]:
    """Simulate a sky and a dome, put the effects into the dome, and note the words: a row of the results."""
    began = time.perf_counter()
    light, noise, physical_filter, description = draw_light(seed)
    camera, config = lsstcam().science(), FitConfig(**SETTINGS)
    flats = {
        kind: simulate_binned(
            camera, light, noise, seed, kind=kind, bin_factor=BIN_FACTOR, physical_filter=physical_filter
        )
        for kind in ("sky", "dome")
    }
    sky = fit(flats["sky"], FitConfig(**SETTINGS, do_reference_gradient=True))
    found: dict[str, dict[str, Any]] = {}
    for effect in effects:
        case = (CASES | curve_cases())[effect]
        times = factor(case, flats["dome"], light)
        dome = fit(replace(flats["dome"], value=flats["dome"].value * times), config)
        header = dome.gradient.require_estimates().header
        found[effect] = {
            "fit": dome.judgement.word,
            "reasons": list(dome.judgement.reasons),
            "p": header["AZPVAL"][0],
            "p of field": header["FLDPVAL"][0],
            "rms_mmag": float(MMAG * np.nanstd(np.log(times))),
        }
        if case.compare != "-" or effect not in CASES:
            c = compare(sky, dome)
            found[effect] |= {"compare": c.verdict.word, "compare reasons": list(c.verdict.reasons)}
    return {
        "seed": seed, "setup": setup(effects), "code": CODE, "drawn": description, "converged": sky.converged,
        "message": sky.message, "seconds": time.perf_counter() - began, "found": found,
    }  # fmt: skip


def setup(effects: Sequence[str]) -> dict[str, Any]:
    """What results must have in common to be counted together."""
    return {"version": bayesflat.__version__, "verdicts": list(effects)}


def _print_words(rows: Sequence[Mapping[str, Any]], effects: Sequence[str], console: Console) -> bool:
    """The table of words; whether they are right."""
    table = Table("effect", "fit: right", "found", "compare: right", "found", "p of azimuth", "p of field")
    good = bool(rows)
    for effect in effects:
        found, case = [row["found"][effect] for row in rows], CASES[effect]
        words = [Counter(one[key] for one in found if key in one) for key in ("fit", "compare")]
        for right, counted in zip((case.fit, case.compare), words, strict=True):
            good &= right == "-" or counted[right] >= (1 - MOST_WRONG) * len(rows)
        chances = [np.array([one[key] for one in found]) for key in ("p", "p of field")]
        shown = [", ".join(f"{word} {n}" for word, n in counted.most_common()) for counted in words]
        medians = [f"{np.median(p):.2g}" for p in chances]
        table.add_row(effect, case.fit, shown[0], case.compare, shown[1], *medians)
        if effect == "none" and len(rows) > 1:
            for name, p in zip(("azimuth", "smooth field"), chances, strict=True):
                test = kstest(p, "uniform").pvalue
                console.print(
                    f"{name}: {len(p)} controls, {100 * np.mean(p < 0.05):.1f}% rejected at 5%, Kolmogorov-Smirnov "
                    f"p = {test:.3f}", highlight=False,
                )  # fmt: skip
                good &= test > 0.01
    console.print(table)
    return good


def _print_curves(rows: Sequence[Mapping[str, Any]], console: Console) -> Figure:
    """Detection against strength: the table, and the figure."""
    table = Table("effect", "strength", "rms (mmag)", "fit: not good", "compare: differ", "agree")
    figure = Figure(figsize=(9.5, 4), facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for kind, strengths in CURVES.items():
        points = []
        for strength in strengths:
            found = [row["found"][f"{kind} {strength:g}"] for row in rows]
            rms = float(np.median([one["rms_mmag"] for one in found]))
            shares = [
                float(np.mean([one["fit"] != "good" for one in found])),
                *(float(np.mean([one["compare"] == word for one in found])) for word in ("differ", "agree")),
            ]
            points.append((rms, *shares))
            table.add_row(kind, f"{strength:g}", f"{rms:.2g}", *(f"{100 * share:.0f}%" for share in shares))
        rms, looks, differ, _ = np.array(points).T
        for panel, shares in zip(panels, (looks, differ), strict=True):
            panel.plot(rms, 100 * shares, ".-", label=kind)
    titles = ("a fit of the dome says look", "sky and dome are said to differ")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(f"{title}, {len(rows)} flats", fontsize=11)
        panel.set(xscale="log", xticks=RMS_TICKS, yticks=range(0, 101, 25))
        panel.set_xticklabels([f"{rms:g}" for rms in RMS_TICKS])
        panel.minorticks_off()
        panel.set_xlabel("rms of the effect over the focal plane (mmag)")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("part of the flats (%)")
    panels[1].legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    console.print(table)
    return figure


def main() -> int:
    options = parser(__doc__, "verdicts.jsonl")
    options.add_argument("--effects", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    options.add_argument("--curves", action="store_true", help="detection against strength instead")
    options = options.parse_args()
    effects = list(curve_cases()) if options.curves else options.effects
    name = "detection.jsonl" if options.curves else "verdicts.jsonl"
    path = options.results or options.o.resolve().parent / name
    seeds = range(options.seed, options.seed + options.n)
    rows, failed = run(judge_pair, seeds, (effects,), path, setup(effects), options.j)
    console = Console(width=130)
    if not options.curves:
        return 0 if _print_words(rows, effects, console) and not failed else 1
    options.o.mkdir(parents=True, exist_ok=True)
    save_figure(_print_curves(rows, console), options.o / "detection.png")
    return 0 if rows and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
