"""Can the draws be trusted?  Gates on the chains, and a comparison with Laplace's approximation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.inference.objective import Objective

if TYPE_CHECKING:
    import xarray as xr

RADII = 20
MOST_R_HAT, MOST_R_HAT_KNOT = 1.01, 1.02
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
    enough : bool
        Whether R-hat and ESS pass: more draws would change nothing that is judged.
    failures : tuple of str
        What failed, where, and what to try; empty: the draws can be trusted.
    """

    r_hat: float
    ess_bulk: float
    ess_tail: float
    divergences: int
    bfmi: float
    enough: bool
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all gates were passed."""
        return not self.failures


def diagnose(tree: xr.DataTree, objective: Objective) -> Diagnostics:
    """Hold the chains against the gates.

    Judged are ratio, centroid, planes and noise scales, and the radial function: its log at `RADII` radii, or with
    independent noise its values at the nodes.  Coefficients of the log are many and hardly known where they are felt
    by few bins; of these R-hat alone is judged, by `MOST_R_HAT_KNOT`.

    Parameters
    ----------
    tree : xarray.DataTree
        ``posterior`` and ``sample_stats`` as `bayesflat.inference.nuts.run_nuts` makes them.
    objective : Objective
    """
    draws, knots = _judged(tree["posterior"].to_dataset(), objective)
    names, (r_hat, bulk, tail) = list(draws), r_hat_and_ess(np.stack(list(draws.values()), axis=-1))
    stats = tree["sample_stats"].to_dataset()
    energy, divergences = stats["energy"].values, int(stats["diverging"].sum())
    # Betancourt (2016): energy changes between draws over energy's variance
    bfmi = float(np.min(np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)))
    failures = []
    more = "more draws (--draws), or more tuning (--tune)"
    if not np.all(r_hat <= MOST_R_HAT):
        worst = _worst(r_hat)
        failures.append(
            f"R-hat of {names[worst]} is {r_hat[worst]:.3f}, above {MOST_R_HAT}: the chains disagree; try {more}"
        )
    if knots is not None:
        of_knots = r_hat_and_ess(knots)[0]
        if not np.all(of_knots <= MOST_R_HAT_KNOT):
            worst = _worst(of_knots)
            failures.append(
                f"R-hat of log_radial[{worst}] is {of_knots[worst]:.3f}, above {MOST_R_HAT_KNOT}: the chains disagree; "
                f"try {more}"
            )
    for name, ess in (("bulk", bulk), ("tail", tail)):
        if not np.all(ess >= LEAST_ESS):
            worst = _worst(-ess)
            failures.append(
                f"{name} ESS of {names[worst]} is {ess[worst]:.0f}, below {LEAST_ESS:.0f}; try more draws (--draws)"
            )
    enough = not failures
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
        divergences=divergences,
        bfmi=bfmi,
        enough=enough,
        failures=tuple(failures),
    )


def _judged(posterior: xr.Dataset, objective: Objective) -> tuple[dict[str, NDArray], NDArray | None]:
    """Draws of what is judged, of shape (chains, draws) each, and of the coefficients, (chains, draws, n)."""
    draws: dict[str, NDArray] = {}
    knots, radial = None, objective.data.radial
    for parameter in objective.parameters:
        found = posterior[parameter.name]
        values = found.values
        if radial is not None and parameter.name == "log_radial":
            knots = values
            radii = np.linspace(0.0, float(objective.data.radius.max()), RADII)
            values = values @ radial.spline.design(radii).T
            labels = [f"log of the radial function at {radius:.0f} mm" for radius in radii]
        elif values.ndim == 2:
            values, labels = values[..., None], [parameter.name]
        else:
            labels = [f"{parameter.name}[{label}]" for label in found[found.dims[-1]].values]
        draws |= dict(zip(labels, np.moveaxis(values, -1, 0), strict=True))
    return {name: values for name, values in draws.items() if np.ptp(values) > 0}, knots


def r_hat_and_ess(values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """R-hat, bulk and tail ESS of draws of shape (chains, draws, n): shape (n,) each."""
    import arviz as az

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")
        sampled = az.from_dict({"posterior": {"value": values}})["posterior"]["value"]
    bulk, tail = (np.asarray(az.ess(sampled, method=method)) for method in ("bulk", "tail"))
    return np.asarray(az.rhat(sampled)), bulk, tail


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
