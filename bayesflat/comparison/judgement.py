"""The verdict of a comparison: whether sky and dome differ by more than the tolerance.

What is judged is the map of dome over sky, with its posterior: radial functions, planes, centroids, vendors' ratio,
surface and detectors together.  A is the part of the area where it exceeds the tolerance.

Where errors are much larger than the tolerance, some part of any map exceeds it, that of two equal flats too.  So sky
and dome differ only where, besides, the map exceeds the tolerance somewhere by more than a band that holds all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.comparison.differences import DetectorDifference, Difference, p_beyond
from bayesflat.inference.linalg import covariance_root
from bayesflat.quantities import MMAG

if TYPE_CHECKING:
    from bayesflat.comparison.posterior import Linear, Posterior

SURE = 0.95  # sky and dome differ with a probability above this, and agree where that is below 1 - SURE
AREA = 0.01  # part of the area that may exceed the tolerance
_DRAWS, _PLACES = 400, 5_000  # draws of the map, and positions of it at most

WORDS = {
    "differ": "sky and dome differ by more than the tolerance",
    "agree": "sky and dome agree within the tolerance",
    "undecided": "the errors do not tell whether sky and dome agree within the tolerance",
    "unusable": "unusable: a fit did not converge",
}


@dataclass(frozen=True)
class Verdict:
    """What a comparison says.

    Attributes
    ----------
    word : str
        ``agree``, ``differ``, ``undecided``, or ``unusable`` where a fit did not converge.
    reasons : tuple of str
    area_beyond : dict of str to float
        ``mean``, ``q05``, ``q95`` of A; NaN where a product has no errors.
    """

    word: str
    reasons: tuple[str, ...]
    area_beyond: dict[str, float]

    @property
    def words(self) -> str:
        """In a sentence."""
        return WORDS[self.word]


def areas_beyond(
    posterior: Posterior, log_ratio: Linear, offsets_mmag: NDArray, tolerance: float
) -> tuple[NDArray[np.float64], bool]:
    """Draws of A, NaN where the posterior has no errors; and whether the map exceeds the tolerance somewhere for sure.

    The latter is so where its mean exceeds the tolerance by more than the simultaneous band of probability `SURE`: c
    standard deviations, with c the quantile of the largest deviation of a draw.

    Parameters
    ----------
    posterior : Posterior
    log_ratio : (numpy.ndarray, numpy.ndarray)
        Its ``log_ratio`` at positions that all stand for the same area; at every so many of them the map is drawn.
    offsets_mmag : numpy.ndarray, shape (n_positions,)
        What the detectors have beside the posterior's map.
    tolerance : float
        mmag.
    """
    if not np.all(np.isfinite(posterior.covariance)):
        return np.full(_DRAWS, np.nan), False
    some = slice(None, None, max(1, -(-len(offsets_mmag) // _PLACES)))
    mean, rows = (part[some] for part in log_ratio)
    root = covariance_root(posterior.covariance)
    normal = np.random.default_rng(0).standard_normal((root.shape[1], _DRAWS))
    middle, away = -MMAG * mean + offsets_mmag[some], -MMAG * (rows @ (root @ normal))
    sd = MMAG * posterior.sd(rows)
    largest = np.max(np.divide(np.abs(away), sd[:, None], out=np.zeros_like(away), where=sd[:, None] > 0), axis=0)
    sure = bool(np.any(np.abs(middle) > tolerance + np.quantile(largest, SURE) * sd))
    return np.mean(np.abs(middle[:, None] + away) > tolerance, axis=0), sure


def judge(
    grid: NDArray,
    radial_mean: NDArray,
    radial_sd: NDArray,
    areas: NDArray,
    sure: bool,
    tolerance: float,
    converged: bool,
) -> Verdict:
    """The verdict.

    Parameters
    ----------
    grid : numpy.ndarray, shape (n,)
        Radii (mm).
    radial_mean, radial_sd : numpy.ndarray, shape (n,)
        Of the radial difference there (mmag); the sd is 0 where it is normalized.
    areas : numpy.ndarray
    sure : bool
        From `areas_beyond`.
    tolerance : float
        mmag.
    converged : bool
        Whether both fits, and that of the ratio, converged.
    """
    known = bool(np.all(np.isfinite(areas)))
    if known:
        area = {"mean": float(areas.mean()), "q05": float(np.quantile(areas, 0.05)),
                "q95": float(np.quantile(areas, 0.95))}  # fmt: skip
    else:
        area = dict.fromkeys(("mean", "q05", "q95"), float("nan"))
    if not converged:
        return Verdict("unusable", ("a fit did not converge",), area)
    if not known:
        return Verdict("undecided", ("uncertainties are missing; fit both flats with bayesflat",), area)
    moving = radial_sd > 0
    beyond = np.zeros(len(grid))
    beyond[moving] = p_beyond(radial_mean[moving], radial_sd[moving], tolerance)
    p_area = float(np.mean(areas > AREA))
    worst = int(np.argmax(np.where(beyond > SURE, np.abs(radial_mean), beyond)))
    radial = (
        f"the radial functions differ by {radial_mean[worst]:+.1f} ± {radial_sd[worst]:.1f} mmag at "
        f"{grid[worst]:.0f} mm"
    )
    part = f"{_percent(area['mean'])} of the area ({_percent(area['q05'])} to {_percent(area['q95'])})"
    if sure and (p_area > SURE or beyond.max() > SURE):
        reasons = [f"more than {tolerance:g} mmag over {part}"] if p_area > SURE else []
        return Verdict("differ", (*reasons, *([radial] if beyond.max() > SURE else [])), area)
    if p_area < 1 - SURE and beyond.max() < 1 - SURE:
        return Verdict("agree", (f"more than {tolerance:g} mmag over less than {100 * AREA:g}% of the area",), area)
    open_questions = [f"more than {tolerance:g} mmag over {part}"] if p_area >= 1 - SURE else []
    if beyond.max() >= 1 - SURE:
        open_questions.append(f"{radial}: beyond {tolerance:g} mmag with a probability of {beyond.max():.2f}")
    return Verdict("undecided", tuple(open_questions), area)


def _percent(part: float) -> str:
    return f"{100 * part:.2g}%" if part < 0.995 else "100%"


def is_beyond(d: DetectorDifference, tolerance: float) -> bool:
    """Whether a detector differs by more than the tolerance (mmag) with a probability above `SURE`."""
    return Difference.normal(d.found_mmag, d.sd_mmag, tolerance).p_rope > SURE


def zones(
    detectors: Sequence[DetectorDifference], tolerance: float
) -> list[tuple[str, list[DetectorDifference], int, DetectorDifference]]:
    """Detectors by zone, the inner one first.

    Returns
    -------
    list of tuple
        Name of the zone, its detectors, how many of them `is_beyond`, and the one with the largest difference.
    """
    found = []
    for zone in dict.fromkeys(
        d.zone for d in sorted(detectors, key=lambda d: (not d.zone.startswith("inside"), d.zone))
    ):
        here = [d for d in detectors if d.zone == zone]
        most = max(here, key=lambda d: abs(d.found_mmag))
        found.append((zone, here, sum(is_beyond(d, tolerance) for d in here), most))
    return found
