"""What a monitor reads of a task's result: plain numbers, unknown ones None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesflat.quantities import QUANTITIES

if TYPE_CHECKING:
    from bayesflat.inference.fitting import FitResult

_STATISTICS = ("map", "mean", "sd")


def fit_summary(result: FitResult, times: Mapping[str, float]) -> dict[str, Any]:
    """Parameters of a fit with their errors, verdict and reasons, and times.

    Parameters
    ----------
    result : FitResult
    times : mapping of str to float
        Seconds that each step took.

    Returns
    -------
    dict
        ``scalars`` are the ratio, centroid and planes; ``parameters`` all rows of PARAMETERS.  Each has ``map``,
        ``mean``, ``sd`` and ``unit``.
    """
    gradient, estimates, judgement = result.gradient, result.gradient.require_estimates(), result.judgement
    parameters = {
        name: {key: known(estimates.columns[key][row]) for key in _STATISTICS} | {"unit": estimates.units[row]}
        for row, name in enumerate(estimates.names)
    }
    return {
        "instrument": gradient.instrument,
        "physical_filter": gradient.physical_filter,
        "reference": estimates.reference,
        "verdict": judgement.word,
        "reasons": list(judgement.reasons),
        "converged": bool(result.converged),
        "message": result.verdict,
        "n_bins": len(result.data),
        "n_detectors": len(np.unique(result.data.binned.detector)),
        "normalization_factor": float(gradient.normalization_factor),
        "scalars": {name: parameters[name] for name in QUANTITIES if name in parameters},
        "parameters": parameters,
        "seconds": {name: round(value, 3) for name, value in times.items()},
        "bayesflat": version("bayesflat"),
    }


def known(value: Any) -> float | None:
    """A number that YAML and JSON have."""
    return float(value) if math.isfinite(value) else None
