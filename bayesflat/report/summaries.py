"""Fits and comparisons as plain numbers and texts, for JSON and for monitors; unknown numbers are None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayesflat.comparison.comparison import Comparison
from bayesflat.comparison.differences import Difference
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import SCALARS
from bayesflat.report.numbers import shown_radii


def fit_summary(gradient: FlatGradient) -> dict[str, Any]:
    """What a product says: verdict and reasons, the scalars with their errors, the radial function at some radii.

    Parameters
    ----------
    gradient : FlatGradient
        With estimates.

    Returns
    -------
    dict
        ``instrument``, ``physical_filter``, ``reference``, ``converged``, ``verdict``, ``reasons``, ``run_id``;
        ``method``: laplace, nuts or map; ``parameters`` by name, with ``unit``, ``map``, ``mean``, ``sd``, ``q05``,
        ``q95``, and ``fitted``: False for a term that is off; ``radial`` with ``radius`` (mm), ``value``, ``sd``;
        ``azimuth`` with ``chi2``, ``dof``, ``p``; ``normalization_factor``; ``n_bins``, ``n_outliers``,
        ``n_detectors``.
    """
    estimates = gradient.require_estimates()
    card = {key: value for key, (value, _) in estimates.header.items()}
    parameters = {}
    for name in SCALARS:
        row = estimates[name]
        unit = estimates.units[estimates.names.index(name)]
        numbers = {key: _known(row[key]) for key in ("map", "mean", "sd", "q05", "q95")}
        parameters[name] = {"unit": unit, "fitted": row["sd"] != 0, **numbers}
    radii = shown_radii(gradient)
    azimuth = gradient.azimuth
    return {
        "instrument": gradient.instrument,
        "physical_filter": gradient.physical_filter,
        "reference": estimates.reference,
        "converged": estimates.converged,
        "verdict": card.get("VERDICT"),
        "reasons": list(gradient.config.get("verdict_reasons", [])),
        "method": estimates.method,
        "run_id": card.get("RUNID"),
        "parameters": parameters,
        "radial": {
            "radius": radii.tolist(),
            "value": [float(gradient.compute_radial(radius)) for radius in radii],
            "sd": [_known(float(gradient.compute_radial_sd(radius))) for radius in radii],
        },
        "azimuth": None if azimuth is None else {"chi2": azimuth.chi2, "dof": azimuth.dof, "p": azimuth.p_value},
        "normalization_factor": gradient.normalization_factor,
        "n_bins": card.get("NBINS"),
        "n_outliers": card.get("NSPOILT"),
        "n_detectors": card.get("NDETECT"),
    }


def comparison_summary(comparison: Comparison, inputs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Content of ``comparison.json``; unknown numbers are None.

    Parameters
    ----------
    comparison : Comparison
    inputs : sequence of dict, optional
        Names and checksums of the files that were compared.
    """

    def numbers(difference: Difference) -> dict[str, float | None]:
        return {key: _known(value) for key, value in vars(difference).items()}

    return {
        "method": comparison.method,
        "instrument": comparison.instrument,
        "physical_filter": comparison.physical_filter,
        "converged": comparison.converged,
        "notes": comparison.notes,
        "verdict": comparison.verdict.word,
        "reasons": list(comparison.verdict.reasons),
        "area_beyond": {key: _known(value) for key, value in comparison.verdict.area_beyond.items()},
        "surface": {"rms_mmag": comparison.parts_mmag.get("surface")},
        "parts_rms_mmag": comparison.parts_mmag,
        "rope_mmag": comparison.rope_mmag,
        "radius": comparison.radius,
        "differences": {name: numbers(difference) for name, difference in comparison.differences.items()},
        "radial_at_radius": numbers(comparison.at_radius),
        "radial": {"radius": comparison.grid.tolist()}
        | {key: [_known(v) for v in values.tolist()] for key, values in comparison.radial.items()},
        "n_bins": comparison.n_bins,
        "n_spoilt": comparison.n_spoilt,
        "noise": comparison.noise,
        "inputs": list(inputs),
    }


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
