"""The verdict on a fit: whether it can be used, how well each quantity is known, and advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayesflat.gradient.correlations import strongest_correlations
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.report.numbers import TERMS, effects, radial_profile
from bayesflat.report.page import Verdict
from bayesflat.report.text import percent

if TYPE_CHECKING:
    from bayesflat.inference.result import FitResult

WELL = 2e-3  # largest error of a well measured quantity (fraction of the flat): Rubin's share for throughput uniformity
MISFIT = 5e-3  # largest residual of a radial function that follows the flat (fraction)
ALIKE = 0.9  # correlation above which two parameters can hardly be told apart
AGREES = 2.0  # standard deviations from zero within which a term may not be needed

_NOTE = "Each percentage is the largest change of the flat that one standard deviation of the quantity causes."


def judge(result: FitResult, warnings: Sequence[str] = ()) -> Verdict:
    """The verdict on a fit.

    Parameters
    ----------
    result : FitResult
    warnings : sequence of str
        Warnings of the fit.
    """
    if not result.converged:
        return _failed(result, warnings)
    data, gradient = result.data, result.gradient
    estimates = gradient.require_estimates()
    left, where = misfit(data, gradient)
    found = result.judgement
    # the word is the product's: what a running median of few bins leaves by chance makes no good fit doubtful
    follows = left <= MISFIT or found.word == "good"
    short = f"{percent(left)} is left at {where:.0f} mm"
    off = f"The fit converged, but the radial function does not follow the flat: {short}."
    nodes = 'Place the spline nodes where the data need them: radial_spline_nodes = "auto".'
    advice = [] if follows else [nodes]
    if not np.all(np.isfinite(estimates.covariance)):
        first = "The fit converged; it has no uncertainties." if follows else off
        second = "likelihood = laplace has kinks and no curvature: only the maximum is known."
        hierarchical = "For uncertainties fit with noise = hierarchical, the default."
        return Verdict("doubtful", (first, second), (*warnings, hierarchical, *advice))
    known = effects(data, gradient)
    well = [name for name, effect in known.items() if effect <= WELL]
    less = [name for name in known if name not in well]
    all_but = f"all but the {_and(less)} {'are' if len(less) > 1 else 'is'}" if less else "all that it measures is"
    first = f"The fit converged; {all_but} known to {100 * WELL:g}% of the flat."
    if not well:
        first = f"The fit converged; its errors are above {100 * WELL:g}% of the flat."
    sentences = [first if follows else off]
    if well:
        sentences.append("Well measured: " + _with_errors(well, known))
    if less:
        sentences.append("Less well: " + _with_errors(less, known))
    state = "doubtful" if found.word == "look" else "good"
    said = [f"{reason[:1].upper()}{reason[1:]}." for reason in found.reasons]
    advice = [*said, *advice]
    warnings = [warning for warning in warnings if warning not in found.reasons]
    for name in TERMS:
        rows = [estimates[f"{TERMS[name]}_{axis}"] for axis in "xy"]
        if name in known and all(abs(row["mean"]) < AGREES * row["sd"] for row in rows):
            advice.append(
                f"The {name} is consistent with zero within 2 sd: --compare-terms tells whether the flat needs it."
            )
    for one, other, value in strongest_correlations(gradient):
        if abs(value) > ALIKE:
            advice.append(f"{one} and {other} can hardly be told apart (correlation {value:+.2f}): see the posterior.")
    return Verdict(state, tuple(sentences), (*warnings, *advice), _NOTE)


def _failed(result: FitResult, warnings: Sequence[str]) -> Verdict:
    """The verdict on a fit that did not converge, or whose draws failed their diagnostics."""
    failures = () if result.diagnostics is None else result.diagnostics.failures
    message = result.map.message[:1].upper() + result.map.message[1:] + "."
    if result.map.converged:
        first = "The maximum was found, but the draws failed their diagnostics: do not trust these uncertainties."
        return Verdict("bad", (first, message), (*failures, *warnings))
    advice = [
        "Leave out terms that the bins do not constrain: do_fit_centroid, do_fit_gradient, do_fit_outer_gradient.",
        "Look for detectors that do not fit in the maps below, and leave them out.",
    ]
    if result.config.noise == "independent":
        advice.insert(0, 'Place the spline nodes where the data need them: radial_spline_nodes = "auto".')
    return Verdict(
        "bad", ("The fit did not converge: do not use this product.", message), (*failures, *warnings, *advice)
    )


def misfit(data: FitData, gradient: FlatGradient) -> tuple[float, float]:
    """The largest running median of the residuals (fraction), and its radius (mm)."""
    profile = radial_profile(data, gradient)
    left = np.abs(np.nan_to_num(profile.median))
    worst = int(np.argmax(left))
    return float(left[worst]), float(profile.radius[worst])


def _with_errors(names: Sequence[str], known: dict[str, float]) -> str:
    return ", ".join(f"{name} (±{percent(known[name])})" for name in names) + "."


def _and(words: Sequence[str]) -> str:
    return " and the ".join([", the ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
