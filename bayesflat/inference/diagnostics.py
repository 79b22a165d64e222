"""Can the draws be trusted?  Gates on the chains, and a comparison with Laplace's approximation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.gradient.estimates import Estimates

MOST_R_HAT = 1.01
LEAST_ESS = 400.0
LEAST_BFMI = 0.3
# beyond these, the posterior is not as Laplace's approximation has it
MOST_SHIFT = 0.5  # |MAP - median| in standard deviations
SD_RATIO = (0.7, 1.4)


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of the chains.

    Attributes
    ----------
    r_hat, ess_bulk, ess_tail : float
        The worst of all parameters.
    divergences : int
    bfmi : float
        The worst chain's.
    failures : tuple of str
        What failed, where, and what to try; empty: the draws can be trusted.
    """

    r_hat: float
    ess_bulk: float
    ess_tail: float
    divergences: int
    bfmi: float
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all gates were passed."""
        return not self.failures


def diagnose(estimates: Estimates, divergences: int, energy: NDArray) -> Diagnostics:
    """Hold the chains against the gates.

    Parameters
    ----------
    estimates : Estimates
        With ``r_hat``, ``ess_bulk``, ``ess_tail``; rows that are not sampled are NaN.
    divergences : int
        Divergent transitions after tuning.
    energy : numpy.ndarray, shape (chains, draws)
        Of the sampler.
    """
    columns = estimates.columns
    sampled = estimates.columns["sd"] > 0
    names = np.array(estimates.names)[sampled]
    r_hat, bulk, tail = (columns[key][sampled] for key in ("r_hat", "ess_bulk", "ess_tail"))
    # Betancourt (2016): energy changes between draws over energy's variance
    bfmi = float(np.min(np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)))
    failures = []
    more = "more draws (--draws), or more tuning (--tune)"
    if not np.all(r_hat <= MOST_R_HAT):
        worst = _worst(r_hat)
        failures.append(
            f"R-hat of {names[worst]} is {r_hat[worst]:.3f}, above {MOST_R_HAT}: the chains disagree; try {more}"
        )
    for name, ess in (("bulk", bulk), ("tail", tail)):
        if not np.all(ess >= LEAST_ESS):
            worst = _worst(-ess)
            failures.append(
                f"{name} ESS of {names[worst]} is {ess[worst]:.0f}, below {LEAST_ESS:.0f}; try more draws (--draws)"
            )
    if divergences:
        failures.append(
            f"{divergences} divergent transition{'s' if divergences > 1 else ''}: the posterior bends too sharply "
            "somewhere; try more tuning (--tune), or tighter priors"
        )
    if not bfmi >= LEAST_BFMI:
        failures.append(f"E-BFMI is {bfmi:.2f}, below {LEAST_BFMI}: tails are hardly visited; try tighter priors")
    return Diagnostics(
        r_hat=float(np.max(r_hat)),
        ess_bulk=float(np.min(bulk)),
        ess_tail=float(np.min(tail)),
        divergences=int(divergences),
        bfmi=bfmi,
        failures=tuple(failures),
    )


def _worst(badness: NDArray) -> int:
    return int(np.argmax(np.where(np.isfinite(badness), badness, np.inf)))


def compare_with_laplace(
    names: list[str], best: NDArray, laplace_sd: NDArray, median: NDArray, sd: NDArray
) -> list[str]:
    """Warnings where NUTS and Laplace's approximation disagree.

    Parameters
    ----------
    names : list of str
    best, laplace_sd : numpy.ndarray, shape (n,)
        The MAP and the standard deviation of Laplace's approximation.
    median, sd : numpy.ndarray, shape (n,)
        Of the draws.
    """
    warnings = []
    for name, m, s0, q50, s1 in zip(names, best, laplace_sd, median, sd, strict=True):
        if not s1 > 0:
            continue
        if abs(m - q50) > MOST_SHIFT * s1:
            warnings.append(f"{name}: the MAP is {abs(m - q50) / s1:.1f} sd from the median of the draws")
        if not SD_RATIO[0] <= s1 / s0 <= SD_RATIO[1]:
            warnings.append(f"{name}: the sd of the draws is {s1 / s0:.2f} times Laplace's")
    return warnings
