"""What is neither radial nor planar: a score test of fourteen numbers, with the covariance of the fit itself.

The terms are added to the log of the mean: ``a cos(m theta) f + b sin(m theta) f`` about the moved centroid.  The log
of the mean is linear in them, so that the fit with all of them is one more solve of its normal equations at the noise
scales that were found (Rao's score test; Cox & Hinkley 1974, section 9.3).  Everything that the fit has free takes
part: what a centroid or a plane could explain is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2
from threadpoolctl import threadpool_limits

from bayesflat.gradient.estimates import Azimuth
from bayesflat.inference.laplace import Laplace
from bayesflat.inference.objective import Objective
from bayesflat.model.prepare import FitData

if TYPE_CHECKING:
    from collections.abc import Callable

RIM = 0.9  # of the outermost radius: terms of the rim rise from 0 there to 1 at the outermost bin
# name, m, and f of the radius over the outermost one: 1 there
TERMS: tuple[tuple[str, int, Callable[[NDArray], NDArray]], ...] = (
    ("coma", 1, lambda r: 3 * r**3 - 2 * r),  # Zernike's, which has no plane in it on a full disc
    ("quadrupole", 2, lambda r: r**2),
    ("trefoil", 3, lambda r: r**3),
    ("tetrafoil", 4, lambda r: r**4),
    *((f"rim {m}", m, lambda r: np.maximum(r - RIM, 0) / (1 - RIM)) for m in (1, 2, 3)),
)
_DETERMINED = 1e-9  # least eigenvalue of the information, scaled to a diagonal of 1, of what the bins tell


def azimuth(objective: Objective, approximation: Laplace) -> Azimuth | None:
    """Amplitudes of what is neither radial nor planar, and how likely they are by chance.

    Parameters
    ----------
    objective : Objective
    approximation : Laplace
        Its centre is where the noise scales are taken.

    Returns
    -------
    Azimuth or None
        None with independent noise, whose bins are said to be independent but are not: any test would fail.
    """
    with threadpool_limits(1, "blas"):
        columns = design(objective.data, approximation.mean.get("centroid_delta", np.zeros(2)))
        found = objective.score(approximation.centre, columns)
        if found is None:
            return None
        coefficients, covariance, dof = solve_scores(*found)
    amplitude, sd, phase, p = (np.empty(len(TERMS)) for _ in range(4))
    for k, (_, m, _) in enumerate(TERMS):
        pair = slice(2 * k, 2 * k + 2)
        cosine, sine = coefficients[pair]
        amplitude[k], angle = np.hypot(cosine, sine), np.arctan2(sine, cosine)
        along = np.array([np.cos(angle), np.sin(angle)])
        sd[k] = np.sqrt(along @ covariance[pair, pair] @ along)
        phase[k] = np.degrees(angle) / m % (360.0 / m)
        p[k] = chi2.sf(coefficients[pair] @ np.linalg.pinv(covariance[pair, pair]) @ coefficients[pair], 2)
    return Azimuth(
        term=tuple(name for name, _, _ in TERMS),
        m=np.array([m for _, m, _ in TERMS]),
        amplitude=amplitude, sd=sd, phase=phase, p=p,
        chi2=float(found[0] @ coefficients), dof=dof,
    )  # fmt: skip


def solve_scores(score: NDArray, information: NDArray) -> tuple[NDArray, NDArray, int]:
    """Coefficients of terms, their covariance, and of how many combinations the bins tell.

    Parameters
    ----------
    score : numpy.ndarray, shape (n,)
    information : numpy.ndarray, shape (n, n)
        As `Objective.score` gives them.
    """
    scale = 1 / np.sqrt(np.diag(information))
    values, vectors = np.linalg.eigh(scale[:, None] * information * scale)
    told = values > _DETERMINED
    root = scale[:, None] * vectors[:, told] / np.sqrt(values[told])
    covariance = root @ root.T
    return covariance @ score, covariance, int(told.sum())


def design(data: FitData, centroid: NDArray) -> NDArray[np.float64]:
    """The terms at the bins, cosine and sine of each: shape (n_bins, 14)."""
    x, y = data.dx - centroid[0], data.dy - centroid[1]
    radius, theta = np.hypot(x, y), np.arctan2(y, x)
    share = radius / radius[data.weight > 0].max()
    return np.column_stack(
        [f(share) * of(m * theta) for _, m, f in TERMS for of in (np.cos, np.sin)],
    )
