"""Whether the comparison of terms tells that a flat has a plane, against planes of known size.

    python benchmarks/terms.py -n 6 -j 2

Flats of all of LSSTCam, as in `calibration.py`, in bins of 256 pixels, with each of `PLANES` along x in turn.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from astropy.table import Table as AstropyTable
from calibration import SETTINGS, draw_light
from results import CODE, parser, run
from rich.console import Console
from rich.table import Table

import bayesflat
from bayesflat.config import FitConfig
from bayesflat.data.camera import lsstcam
from bayesflat.inference.fitting import fit
from bayesflat.inference.loo import compare_terms
from bayesflat.simulation.detectors import simulate_binned

BIN_FACTOR = 256
PLANES = (0.0, 1e-5, 5e-5)  # 1/mm
WELL_KNOWN = 8e-6  # 1/mm: largest error of the plane in flats that are judged; in u and y detectors scatter too much
# what may be said; of a plane that is two or three errors large, anything
RIGHT = {0.0: ("no gain", "undecided"), 5e-5: ("needed",)}


def word_of(table: AstropyTable) -> str:
    """What a comparison of terms says of the plane.

    ``needed``: the combination that is marked as enough has it; ``undecided``: not so, but with it the flat is
    predicted better, by less than two errors; ``no gain``: it is predicted best without.
    """
    has = np.array(["gradient" in terms.split(" + ") for terms in table["terms"]])
    return "needed" if has[np.argmax(table["enough"])] else "undecided" if has[0] else "no gain"


def judge_flat(seed: int, planes: Sequence[float] = PLANES) -> dict[str, Any]:
    """Compare terms for a flat with each plane in turn: a row of the results."""
    began = time.perf_counter()
    light, noise, physical_filter, description = draw_light(seed)
    found, sd, converged = {}, np.nan, True
    for plane in planes:
        binned = simulate_binned(
            lsstcam().science(), replace(light, gradient=(plane, 0.0)), noise, seed, kind="dome",
            bin_factor=BIN_FACTOR, physical_filter=physical_filter,
        )  # fmt: skip
        if np.isnan(sd):
            sd = fit(binned, FitConfig(**SETTINGS)).gradient.require_estimates()["gradient_x"]["sd"]
        table = compare_terms(binned)
        has = np.array(["gradient" in terms.split(" + ") for terms in table["terms"]])
        converged &= bool(np.all(table["converged"]))
        best = int(np.argmax(~has))  # of those without a plane; the best of all comes first
        found[f"{plane:g}"] = {
            "word": word_of(table), "terms": str(table["terms"][np.argmax(table["enough"])]),
            "lost without": 0.0 - float(table["elpd_diff"][best]), "error": float(table["dse"][best]),
        }  # fmt: skip
    return {
        "seed": seed, "setup": setup(planes), "code": CODE, "drawn": description, "converged": converged,
        "message": "a fit did not converge", "seconds": time.perf_counter() - began, "sd": float(sd), "found": found,
    }  # fmt: skip


def setup(planes: Sequence[float] = PLANES) -> dict[str, Any]:
    """What results must have in common to be counted together."""
    return {"version": bayesflat.__version__, "terms": list(planes), "bin_factor": BIN_FACTOR}


def print_words(rows: Sequence[Mapping[str, Any]], console: Console) -> bool:
    """The table; whether every word is right where the plane is well known."""
    table = Table("plane (1/mm)", "flats", "error (1/mm)", "said", "lost without it")
    well = [row for row in rows if row["sd"] < WELL_KNOWN]
    good = bool(well)
    for group in (well, [row for row in rows if row["sd"] >= WELL_KNOWN]):
        for plane in PLANES:
            if not group:
                continue
            found = [row["found"][f"{plane:g}"] for row in group]
            counted = Counter(one["word"] for one in found)
            if group is well:
                good &= set(counted) <= set(RIGHT.get(plane, counted))
            lost = ", ".join(f"{one['lost without']:.1f} ± {one['error']:.1f}" for one in found[:6])
            sd = f"{np.median([row['sd'] for row in group]):.1g}"
            said = ", ".join(f"{word} {n}" for word, n in counted.most_common())
            table.add_row(f"{plane:g}", str(len(group)), sd, said, lost)
        table.add_section()
    console.print(table)
    return good


def main() -> int:
    options = parser(__doc__, "terms.jsonl").parse_args()
    path = options.results or options.o.resolve().parent / "terms.jsonl"
    seeds = range(options.seed, options.seed + options.n)
    rows, failed = run(judge_flat, seeds, (PLANES,), path, setup(), options.j)
    return 0 if print_words(rows, Console(width=130)) and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
