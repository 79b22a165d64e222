"""How often the verdicts of fit and comparison are the right word, for effects that the model does not know.

    python benchmarks/verdicts.py -n 20 -j 2
    python benchmarks/verdicts.py -n 100 -j 2 --effects none     # false alarms

Sky and dome of all of LSSTCam, as in `calibration.py`, in bins of 256 pixels; each effect is put into the dome alone.
`RIGHT` says what the right word is; ``-`` where a single flat cannot tell, for its detectors scatter as much, or
because the effect looks like vignetting.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from calibration import CODE, SETTINGS, draw_light, parser, run
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import kstest

import bayesflat
from bayesflat.comparison.comparison import compare
from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import lsstcam
from bayesflat.inference.fitting import fit
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light

BIN_FACTOR = 256
RIM = 350.0
# effect: right word of the fit of the dome, and of the comparison
RIGHT = {
    "none": ("good", "agree"),
    "ghost off centre 2%": ("-", "differ"),
    "ghost concentric 2%": ("-", "differ"),
    "rim shadow 5%": ("-", "differ"),
    "smooth field 0.3%": ("-", "differ"),
    "quadrupole 0.3%": ("-", "differ"),
    "quadrupole 1%": ("look", "differ"),
    "coma 0.5%": ("look", "differ"),
    "elliptical by 1 mm": ("look", "differ"),
    "detector -30%": ("look", "-"),
    "normalized one by one": ("look", "-"),
}


def factor(effect: str, binned: BinnedFlat, light: Light) -> NDArray[np.float64]:
    """What the effect multiplies the bins by."""
    x, y = binned.xf, binned.yf
    r, theta = np.hypot(x, y), np.arctan2(y, x)
    share = r / RIM
    by_effect: dict[str, Callable[[], NDArray]] = {
        "none": lambda: np.ones_like(x),
        "ghost off centre 2%": lambda: 1 + 0.02 * np.exp(-0.5 * ((np.hypot(x - 60, y + 40) - 120) / 25) ** 2),
        "ghost concentric 2%": lambda: 1 + 0.02 * np.exp(-0.5 * ((r - 120) / 25) ** 2),
        "rim shadow 5%": lambda: np.where((r > 330) & (np.abs(theta - 0.7) < 0.5), 0.95, 1.0),
        "smooth field 0.3%": lambda: 1 + 0.003 * np.sin(x / 90 + 0.3) * np.cos(y / 110),
        "quadrupole 0.3%": lambda: 1 + 0.003 * share**2 * np.cos(2 * (theta - 0.5)),
        "quadrupole 1%": lambda: 1 + 0.01 * share**2 * np.cos(2 * (theta - 0.5)),
        "coma 0.5%": lambda: 1 + 0.005 * (3 * share**3 - 2 * share) * np.cos(theta - 1.0),
        "elliptical by 1 mm": lambda: (
            light.radial_function(r + share * np.cos(2 * theta)) / np.maximum(light.radial_function(r), 1e-9)
        ),
        "detector -30%": lambda: np.where(binned.detector == 100, 0.7, 1.0),
        "normalized one by one": lambda: 1 / _medians(binned)[binned.detector],
    }
    return by_effect[effect]()


def _medians(binned: BinnedFlat) -> NDArray[np.float64]:
    out = np.ones(int(binned.detector.max()) + 1)
    for number in np.unique(binned.detector):
        out[number] = np.median(binned.value[binned.detector == number])
    return out


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
        bins = replace(flats["dome"], value=flats["dome"].value * factor(effect, flats["dome"], light))
        dome = fit(bins, config)
        found[effect] = {
            "fit": dome.judgement.word,
            "reasons": list(dome.judgement.reasons),
            "p": dome.gradient.azimuth.p_value if dome.gradient.azimuth else None,
        }
        if RIGHT[effect][1] != "-":
            c = compare(sky, dome)
            found[effect] |= {"compare": c.verdict.word, "compare reasons": list(c.verdict.reasons)}
    return {
        "seed": seed, "setup": setup(effects), "code": CODE, "drawn": description, "converged": sky.converged,
        "message": sky.message, "seconds": time.perf_counter() - began, "found": found,
    }  # fmt: skip


def setup(effects: Sequence[str]) -> dict[str, Any]:
    """What results must have in common to be counted together."""
    return {"version": bayesflat.__version__, "verdicts": list(effects)}


def main() -> int:
    options = parser(__doc__, "verdicts.jsonl")
    options.add_argument("--effects", nargs="+", choices=list(RIGHT), default=list(RIGHT), help="default: all")
    options = options.parse_args()
    path = options.results or options.o.resolve().parent / "verdicts.jsonl"
    seeds = range(options.seed, options.seed + options.n)
    rows, failed = run(judge_pair, seeds, (options.effects,), path, setup(options.effects), options.j)
    console = Console(width=110)
    table = Table("effect", "fit: right", "found", "compare: right", "found", "p of azimuth, median")
    good = bool(rows) and not failed
    for effect in options.effects:
        found = [row["found"][effect] for row in rows]
        words = [Counter(one[key] for one in found if key in one) for key in ("fit", "compare")]
        for right, counted in zip(RIGHT[effect], words, strict=True):
            good &= right == "-" or counted[right] >= 0.85 * len(rows)
        p = np.array([one["p"] for one in found if one["p"] is not None])
        shown = [", ".join(f"{word} {n}" for word, n in counted.most_common()) for counted in words]
        table.add_row(effect, RIGHT[effect][0], shown[0], RIGHT[effect][1], shown[1], f"{np.median(p):.2g}")
        if effect == "none" and len(p) > 1:
            test = kstest(p, "uniform").pvalue
            console.print(
                f"score test on {len(p)} controls: {100 * np.mean(p < 0.05):.1f}% rejected at 5%, "
                f"Kolmogorov-Smirnov p = {test:.3f}", highlight=False,
            )  # fmt: skip
            good &= test > 0.01
    console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
