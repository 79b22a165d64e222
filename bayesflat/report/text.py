"""Numbers as text: as a percentage, or as a probability."""

from __future__ import annotations

import math


def percent(fraction: float) -> str:
    """A fraction as a percentage with two digits."""
    if not math.isfinite(fraction):
        return "–"
    rounded = float(f"{100.0 * fraction:.2g}")
    return (f"{rounded:.0f}%" if abs(rounded) >= 10 else f"{rounded:#.2g}%").replace("-", "−")


def probability(p: float) -> str:
    """A probability with three digits."""
    return "> 0.999" if p > 0.999 else "< 0.001" if p < 0.001 else f"{p:.3f}"
