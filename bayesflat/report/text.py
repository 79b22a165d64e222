"""Numbers as text: with two digits of their error, as a percentage, or as a probability."""

from __future__ import annotations

import math


def plus_minus(value: float, sd: float, scale: float = 1.0, digits: int = 5) -> str:
    """``value ± sd`` with two digits of the sd, or the value with ``digits`` digits where there is no sd."""
    value, sd = scale * value, scale * sd
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(sd) and sd > 0):
        return f"{value:.{digits}g}".replace("-", "−")
    decimals = 1 - math.floor(math.log10(sd))
    if decimals > 12:
        return f"{value:.{digits}g} ± {sd:.1g}".replace("-", "−")
    value, sd = round(value, decimals) + 0.0, round(sd, decimals)
    return f"{value:.{max(0, decimals)}f} ± {sd:.{max(0, decimals)}f}".replace("-", "−")


def percent(fraction: float) -> str:
    """A fraction as a percentage with two digits."""
    if not math.isfinite(fraction):
        return "–"
    rounded = float(f"{100.0 * fraction:.2g}")
    return (f"{rounded:.0f}%" if abs(rounded) >= 10 else f"{rounded:#.2g}%").replace("-", "−")


def probability(p: float) -> str:
    """A probability with three digits."""
    return "> 0.999" if p > 0.999 else "< 0.001" if p < 0.001 else f"{p:.3f}"
