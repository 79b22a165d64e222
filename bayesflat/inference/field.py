"""A smooth field over the focal plane that is neither radial nor planar, such as a ghost off the centre.

The same score test as that of `bayesflat.inference.azimuth`, of Zernike's polynomials up to details of a sixth of the
radius: too many to list, and all tested together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2
from threadpoolctl import threadpool_limits

from bayesflat.inference.azimuth import solve_scores
from bayesflat.inference.hierarchical import HierarchicalObjective
from bayesflat.inference.laplace import Laplace
from bayesflat.inference.objective import Objective
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.zernike import n_terms, zernike
from bayesflat.quantities import MMAG

DEGREE = 12
_DETECTORS_PER_TERM = 2  # their scatter is known from themselves: few detectors bear few terms
# what is smooth is seen by few bins: white noise counts less than the scatter of detectors and of their patterns
_BINS = 20_000


@dataclass(frozen=True)
class SmoothField:
    """A test of all terms, and their size.

    Attributes
    ----------
    chi2 : float
    dof : int
    rms_mmag : float
        Over the bins, less what noise alone makes of it.
    """

    chi2: float
    dof: int
    rms_mmag: float

    @classmethod
    def of_cards(cls, header: Mapping[str, tuple[Any, str]]) -> SmoothField:
        """From the cards of a product's estimates."""
        return cls(*(header[key][0] for key in ("FLDCHI2", "FLDDOF", "FLDRMS")))

    @property
    def p_value(self) -> float:
        """Probability of so large a chi-squared by chance."""
        return float(chi2.sf(self.chi2, self.dof)) if self.dof else 1.0

    def matters(self, tolerance_mmag: float, most_p: float = 1e-3) -> bool:
        """Whether chance is unlikely, and the field as large as a wave of an amplitude above the tolerance."""
        return bool(self.p_value < most_p and math.sqrt(2) * self.rms_mmag > tolerance_mmag)


def smooth_field(objective: Objective, approximation: Laplace) -> SmoothField | None:
    """Test for a smooth field.

    Parameters
    ----------
    objective : Objective
    approximation : Laplace
        Its centre is where the noise scales are taken.

    Returns
    -------
    SmoothField or None
        None with independent noise, or where detectors are too few for any term.
    """
    n_detectors = len(np.unique(objective.data.binned.detector))
    degrees = [degree for degree in range(2, DEGREE + 1) if n_terms(degree) * _DETECTORS_PER_TERM <= n_detectors]
    if not degrees or objective.config.noise != "hierarchical":
        return None
    data = objective.data.select(slice(None, None, max(1, round(len(objective.data) / _BINS))))
    few = HierarchicalObjective(data, objective.config, HierarchicalNoise(data), objective.parameters)
    with threadpool_limits(1, "blas"):
        cx, cy = approximation.mean.get("centroid_delta", (0.0, 0.0))
        x, y = data.dx - cx, data.dy - cy
        columns = zernike(x, y, float(np.hypot(x, y).max()), degrees[-1])
        score, information = few.score(approximation.centre, columns)
        coefficients, covariance, dof = solve_scores(score, information)
        gram = columns.T @ columns / len(columns)
        square = coefficients @ gram @ coefficients - np.sum(gram * covariance)  # less what is expected of noise
    return SmoothField(float(score @ coefficients), dof, MMAG * math.sqrt(max(square, 0.0)))
