"""What a comparison is made of: differences of single quantities, and of detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

LEVELS = {"q05": norm.ppf(0.05), "q95": norm.ppf(0.95)}


@dataclass(frozen=True)
class Difference:
    """Dome minus sky of one quantity.

    Attributes
    ----------
    mean, sd, q05, q95 : float
        In the quantity's own unit; the central 90% are between the quantiles.
    tail : float
        Two-sided tail probability of zero.
    p_rope : float
        Probability that the difference exceeds the tolerance in either direction.
    """

    mean: float
    sd: float
    q05: float
    q95: float
    tail: float
    p_rope: float

    @classmethod
    def normal(cls, mean: float, sd: float, tolerance: float) -> Difference:
        """The difference with a normal posterior; where the sd is NaN, all but the mean are NaN."""
        quantiles = {key: float(mean + level * sd) for key, level in LEVELS.items()}
        if sd == 0:
            return cls(mean, sd, **quantiles, tail=float(mean == 0), p_rope=float(abs(mean) > tolerance))
        return cls(mean, sd, **quantiles, tail=float(2 * norm.sf(abs(mean) / sd)),
                   p_rope=float(p_beyond(mean, sd, tolerance)))  # fmt: skip


def p_beyond(mean, sd, tolerance: float):
    """Probability that normal variables exceed the tolerance in either direction; ``sd`` is above 0."""
    return norm.cdf((-tolerance - mean) / sd) + norm.sf((tolerance - mean) / sd)


@dataclass(frozen=True)
class DetectorDifference:
    """Mean of ``-2.5 log10(dome / sky)`` over the bins of a detector, relative to the centre (mmag).

    Attributes
    ----------
    detector : int
    name : str
    mean_mmag, sd_mmag : float
        As fitted.
    measured_mmag : float
        As the bins have it; NaN without bins.
    zone : str
    """

    detector: int
    name: str
    mean_mmag: float
    sd_mmag: float
    measured_mmag: float
    zone: str

    @property
    def found_mmag(self) -> float:
        """As the bins have it, or else as fitted."""
        return self.measured_mmag if np.isfinite(self.measured_mmag) else self.mean_mmag
