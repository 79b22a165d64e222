"""A fit's verdict: can it be used, what in it is well known and what is not, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayesflat.gradient.correlations import strongest
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.report.numbers import TERMS, effects, radial_profile, robust_rms
from bayesflat.report.page import Verdict
from bayesflat.report.text import percent

if TYPE_CHECKING:
    from bayesflat.inference.fitting import FitResult

WELL = 2e-3  # of the flat: Rubin's share for the uniformity of throughput
MISFIT = 5e-3  # of the flat, left of it by the radial function
ALIKE = 0.9  # correlation beyond which two parameters can hardly be told apart
AGREES = 2.0  # standard deviations within which a term may as well not be there
OUTLIER = 5.0  # robust standard deviations

_NOTE = (
    "Each figure says by how much one standard deviation of the quantity changes the flat, where it changes it most."
)


def judge(result: FitResult, warnings: Sequence[str] = ()) -> Verdict:
    """The verdict on a fit.

    Parameters
    ----------
    result : FitResult
    warnings : sequence of str
        What the fit warned of.
    """
    if not result.converged:
        return _failed(result, warnings)
    data, gradient = result.data, result.gradient
    left, where = misfit(data, gradient)
    short = f"{percent(left)} is left at {where:.0f} mm"
    off = f"The fit converged, but the radial function does not follow the flat: {short}."
    nodes = 'Place the spline nodes where the data need them: radial_spline_nodes = "auto".'
    if not np.all(np.isfinite(gradient.estimates.covariance)):
        first = "The fit converged; it has no uncertainties." if left <= MISFIT else off
        second = "likelihood = laplace has kinks and no curvature: only the maximum is known."
        advice = ("For uncertainties fit with noise = hierarchical, the default.", *([nodes] if left > MISFIT else []))
        return Verdict("doubtful", (first, second), (*warnings, *advice))
    known = effects(data, gradient)
    well = [name for name, effect in known.items() if effect <= WELL]
    less = [name for name in known if name not in well]
    all_but = f"all but the {_and(less)} {'are' if len(less) > 1 else 'is'}" if less else "all that it measures is"
    first = f"The fit converged; {all_but} known to {100 * WELL:g}% of the flat."
    if not well:
        first = f"The fit converged; its errors are above {100 * WELL:g}% of the flat."
    sentences = [first if left <= MISFIT else off]
    if well:
        sentences.append("Well measured: " + _with_errors(well, known))
    if less:
        sentences.append("Less well: " + _with_errors(less, known))
    independent = result.config.noise == "independent"
    state = "doubtful" if warnings or independent or left > MISFIT else "good"
    advice = [nodes] if left > MISFIT else []
    if independent:
        advice.append(
            "The errors take all bins for independent, which those of a flat are not: they are too small, often many "
            "times. Fit with noise = hierarchical."
        )
    if result.posterior is None and not gradient.estimates.header["EXACTCUR"][0]:
        advice.append("The curvature at the maximum is not the exact one (a kink of the spline): sample (--sample).")
    for name in TERMS:
        rows = [gradient.estimates[f"{TERMS[name]}_{axis}"] for axis in "xy"]
        if name in known and all(abs(row["mean"]) < AGREES * row["sd"] for row in rows):
            advice.append(f"The {name} agrees with none within 2 sd: --compare-terms tells whether the flat needs it.")
    for one, other, value in strongest(gradient):
        if abs(value) > ALIKE:
            advice.append(f"{one} and {other} can hardly be told apart (correlation {value:+.2f}): see the posterior.")
    outliers = _outliers(data, gradient)
    if outliers:
        advice.append(f"Detectors far from the others of their vendor: {', '.join(outliers)}; see the maps.")
    return Verdict(state, tuple(sentences), (*warnings, *advice), _NOTE)


def _failed(result: FitResult, warnings: Sequence[str]) -> Verdict:
    """Of a fit that did not converge, or whose draws failed."""
    failures = () if result.diagnostics is None else result.diagnostics.failures
    message = result.map.message[:1].upper() + result.map.message[1:] + "."
    if result.map.converged:
        first = "The maximum was found, but the draws failed their diagnostics: do not trust these uncertainties."
        return Verdict("bad", (first, message), (*failures, *warnings))
    advice = (
        'Place the spline nodes where the data need them: radial_spline_nodes = "auto".',
        "Leave out terms that the bins do not constrain: do_fit_centroid, do_fit_gradient, do_fit_outer_gradient.",
        "Look for detectors that spoil the fit in the maps below, and leave them out.",
    )
    return Verdict(
        "bad", ("The fit did not converge: do not use this product.", message), (*failures, *warnings, *advice)
    )


def misfit(data: FitData, gradient: FlatGradient) -> tuple[float, float]:
    """The largest running median that the radial function leaves (fraction), and its radius (mm)."""
    profile = radial_profile(data, gradient)
    left = np.abs(np.nan_to_num(profile.median))
    worst = int(np.argmax(left))
    return float(left[worst]), float(profile.radius[worst])


def _with_errors(names: Sequence[str], known: dict[str, float]) -> str:
    return ", ".join(f"{name} (±{percent(known[name])})" for name in names) + "."


def _and(words: Sequence[str]) -> str:
    return " and the ".join([", the ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _outliers(data: FitData, gradient: FlatGradient, most: int = 5) -> list[str]:
    """Detectors whose throughput is beyond `OUTLIER` robust standard deviations of their vendor's, worst first."""
    if gradient.offsets is None:
        return []
    whole = gradient.offsets.amplifier < 0
    number, mean = gradient.offsets.detector[whole], gradient.offsets.mean[whole]
    camera = data.binned.camera
    itl = np.isin(number, data.binned.detector[data.itl])
    found = []
    for group in (itl, ~itl):
        if group.sum() < 5:
            continue
        away = mean[group] - np.median(mean[group])
        for k in np.flatnonzero(np.abs(away) > OUTLIER * robust_rms(away)):
            throughput = 100 * (mean[group][k] - 1)
            found.append((abs(away[k]), f"{camera[int(number[group][k])].name} ({throughput:+.1f}%)"))
    found.sort(reverse=True)
    more = [f"{len(found) - most} more"] if len(found) > most else []
    return [name.replace("-", "−") for _, name in found[:most]] + more
