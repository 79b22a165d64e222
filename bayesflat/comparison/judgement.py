"""The conclusion of a comparison: whether sky and dome differ by more than the tolerance, and where."""

from __future__ import annotations

import numpy as np

from bayesflat.comparison.comparison import Comparison, DetectorDifference, Difference

# a quantity differs if its probability of exceeding the tolerance is above this, and agrees if it is below 1 - SURE
SURE = 0.95


def conclusion(c: Comparison) -> tuple[str, str]:
    """Whether sky and dome differ by more than the tolerance.

    Returns
    -------
    kind : str
        ``differ``, ``agree``, ``undecided``, or ``unknown`` without uncertainties.
    words : str
    """
    found = [kind_of(d) for d in [*c.differences.values(), c.at_radius]]
    known = [kind for kind in found if kind != "unknown"]
    if "differ" in known:
        return "differ", "sky and dome differ by more than the tolerance"
    if known and all(kind == "agree" for kind in known):
        return "agree", "sky and dome agree within the tolerance"
    if known:
        return "undecided", "the errors do not tell whether sky and dome agree within the tolerance"
    return "unknown", "none, because uncertainties are missing; fit both flats with bayesflat"


def kind_of(d: Difference) -> str:
    """``differ``, ``agree``, ``undecided`` or ``unknown`` for one quantity and its tolerance."""
    if not np.isfinite(d.p_rope):
        return "unknown"
    return "differ" if d.p_rope > SURE else "agree" if d.p_rope < 1 - SURE else "undecided"


def is_beyond(d: DetectorDifference, tolerance: float) -> bool:
    """Whether a detector differs by more than the tolerance (mmag) with a probability above `SURE`."""
    return kind_of(Difference.normal(d.mean_mmag, d.sd_mmag, tolerance)) == "differ"


def zones(c: Comparison, tolerance: float) -> list[tuple[str, list[DetectorDifference], int, DetectorDifference]]:
    """Detectors by zone, the inner one first.

    Returns
    -------
    list of tuple
        Name of the zone, its detectors, how many of them `is_beyond`, and the one with the largest difference.
    """
    found = []
    for zone in dict.fromkeys(d.zone for d in sorted(c.detectors, key=lambda d: d.zone != "inside 317")):
        here = [d for d in c.detectors if d.zone == zone]
        most = max(here, key=lambda d: abs(d.mean_mmag))
        found.append((zone, here, sum(is_beyond(d, tolerance) for d in here), most))
    return found
