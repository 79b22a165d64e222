"""The report of a fit: one page with the verdict, the parameters, their uncertainties, and the diagnostics.

The verdict is in `bayesflat.report.verdict`, the sections with maps and radial function in
`bayesflat.report.fit_sections`, their numbers in `bayesflat.report.numbers`; `bayesflat.report.page` makes a page from
sections.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.correlations import correlations
from bayesflat.gradient.estimates import Azimuth, Estimates
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.diagnostics import LEAST_BFMI, LEAST_ESS, MOST_R_HAT
from bayesflat.inference.field import SmoothField
from bayesflat.inference.importance import laplace_note
from bayesflat.inference.map import AGREEMENT, COST_AGREEMENT, TOLERANCE
from bayesflat.model.prepare import FitData
from bayesflat.quantities import QUANTITIES, as_fraction, label_of, long_label
from bayesflat.report import page
from bayesflat.report.fit_sections import focal_plane_section, radial_section
from bayesflat.report.numbers import BAND, TERMS, effects, shown_radii
from bayesflat.report.text import percent, probability
from bayesflat.report.verdict import judge
from bayesflat.text import plus_minus

if TYPE_CHECKING:
    import xarray as xr

    from bayesflat.inference.laplace import Laplace
    from bayesflat.inference.predictive import PredictiveCheck
    from bayesflat.inference.result import FitResult

log = logging.getLogger(__name__)

_METHODS = {"map": "no uncertainties", "laplace": "Laplace's approximation", "nuts": "NUTS"}


def fit_report(result: FitResult, *, warnings: Sequence[str] = (), check: PredictiveCheck | None = None) -> str:
    """The report of a fit as an HTML page.

    Parameters
    ----------
    result : FitResult
    warnings : sequence of str
        Warnings of the fit.
    check : PredictiveCheck, optional
        A posterior predictive check, to be shown too.

    Returns
    -------
    str
        Self-contained HTML.
    """
    data, gradient = result.data, result.gradient
    estimates = gradient.require_estimates()
    said = {result.map.message, *(result.diagnostics.failures if result.diagnostics else ())}
    warnings = [warning for warning in dict.fromkeys(warnings) if warning not in said]
    kind = "reference (sky)" if estimates.reference else "dome"
    title = " ".join(part for part in ("Flat gradient", data.binned.instrument or gradient.instrument) if part)
    created = " ".join(str(gradient.metadata.get(f"CALIB_CREATION_{what}", ""))[:10] for what in ("DATE", "TIME"))
    subtitle = " · ".join(
        part
        for part in (
            data.binned.physical_filter or gradient.physical_filter,
            f"{kind} flat",
            f"{len(data):,} bins of {len(np.unique(data.binned.detector))} detectors",
            f"{result.config.noise} noise, {_METHODS[estimates.method]}",
            f"{created[:16]} UTC",
        )
        if part.strip()
    )
    sections = [
        _parameters(data, gradient, estimates),
        focal_plane_section(data, gradient, result.config),
        radial_section(data, gradient),
        _posterior(result, estimates),
        _diagnostics(result, warnings, check),
        _configuration(result.config),
        _provenance(gradient, estimates),
    ]
    return page.render(title, subtitle, judge(result, warnings), [part for part in sections if part])


# ---- parameters ----


def _parameters(data: FitData, gradient: FlatGradient, estimates: Estimates) -> str:
    known = effects(data, gradient)
    term_of = {"itl_ratio": "throughput ratio"} | {
        f"{term}_{axis}": name for name, term in TERMS.items() for axis in "xy"
    }
    rows = []
    for name, quantity in QUANTITIES.items():
        if term_of[name] in known:
            row, scale = estimates[name], quantity.scale
            value = plus_minus(row["map"], row["sd"], scale)
            interval = _interval(row["q05"], row["q95"], row["sd"], scale)
            rows.append(
                (
                    long_label(name, data.binned.groups),
                    value,
                    quantity.shown_unit,
                    interval,
                    percent(known[term_of[name]]),
                )
            )
    for radius in shown_radii(gradient):
        radial, sd = float(gradient.compute_radial(radius)), float(gradient.compute_radial_sd(radius))
        interval = _interval(radial - BAND * sd, radial + BAND * sd, sd)
        relative = percent(sd / radial) if radial > 0 else "–"
        rows.append((f"radial function at {radius:g} mm", plus_minus(radial, sd), "", interval, relative))
    rows.append(("normalization", f"{gradient.normalization_factor:,.6g}", "", "", ""))
    off = [name for name in TERMS if name not in known]
    if not data.has_ratio:
        off.append("throughput ratio (one vendor only)")
    caption = (
        "Value at the maximum of the posterior ± its standard deviation. The last column is the largest change of the "
        "flat that this error causes: for a plane at the rim, for the centroid where the vignetting is steepest; x and "
        "y together." + (f" Not fitted: {', '.join(off)}." if off else "")
    )
    keys = ("map", "mean", "sd", "q05", "q50", "q95") + (("ess_bulk", "r_hat") if estimates.method == "nuts" else ())
    everything = [
        (name, *(f"{estimates.columns[key][k]:.6g}" for key in keys), unit)
        for k, (name, unit) in enumerate(zip(estimates.names, estimates.units, strict=True))
    ]
    return page.section(
        "Parameters",
        page.table(
            ("", "value", "unit", "90% interval", "error in the flat"), rows, numbers=(1, 3, 4), caption=caption
        ),
        page.folded(
            f"All {len(everything)} parameters, as in the product",
            page.table(("name", *keys, "unit"), everything, numbers=range(1, 1 + len(keys))),
        ),
    )


def _interval(low: float, high: float, sd: float, scale: float = 1.0) -> str:
    """The limits of an interval, rounded by the standard deviation."""
    if not math.isfinite(sd):
        return "–"
    return " to ".join(plus_minus(end, sd, scale).split(" ±")[0] for end in (low, high))


# ---- the posterior ----


def _posterior(result: FitResult, estimates: Estimates) -> str:
    if not np.all(np.isfinite(estimates.covariance)):
        return page.section("Posterior", page.paragraph("No uncertainties were computed: there is nothing to show."))
    items = []
    for name, quantity in QUANTITIES.items():
        row, scale = estimates[name], quantity.scale
        if not row["sd"] > 0:
            continue
        item: dict[str, Any] = {"label": label_of(name, result.data.binned.groups), "unit": quantity.shown_unit}
        item["text"] = plus_minus(row["mean"], row["sd"], scale)
        item |= {"low": scale * row["q05"], "high": scale * row["q95"], "map": scale * row["map"]}
        if result.posterior is None:
            item |= _normal(row["mean"], row["sd"], scale)
        else:
            item |= _smoothed(_draws(result.posterior, name), scale)
            if result.laplace is not None:
                item["other"] = _laplace(result.laplace, result.map.parameters, name, scale)
        items.append(item)
    curves = (
        "The draws of NUTS (line), and Laplace's approximation (dashed): where they differ, trust the draws."
        if result.posterior is not None
        else "Laplace's approximation: normal, with the curvature at its centre; --sample draws from the posterior."
    )
    if not items:
        words = "Only the radial function was fitted: its band is in the figure above."
        return page.section("Posterior", page.paragraph(words))
    note = laplace_note(result) if result.posterior is None else ""
    if note:
        log.info("%s", note)
    parts = [page.paragraph(note)] if note else []
    parts += [page.densities(items, f"{curves} Filled: the central 90%; the tick is the maximum of the posterior.")]
    names, values = correlations(result.gradient)
    if len(names) > 1:
        caption = (
            "Correlations. Near ±1, two quantities can hardly be told apart: the fit knows their combination better "
            "than each of them. Neighbouring radii are correlated because the radial function is smooth."
        )
        parts.append(page.matrix([label_of(name, result.data.binned.groups) for name in names], values, caption))
    return page.section("Posterior", *parts)


def _normal(mean: float, sd: float, scale: float) -> dict[str, list[float]]:
    """A normal density times the square root of 2 pi."""
    t = np.linspace(-4.0, 4.0, 81)
    return {"x": (scale * (mean + sd * t)).tolist(), "y": (np.exp(-0.5 * t**2) / (abs(scale) * sd)).tolist()}


def _smoothed(draws: NDArray, scale: float) -> dict[str, list[float]]:
    """A kernel density estimate of the draws, normalized as `_normal`."""
    from scipy.stats import gaussian_kde

    draws = scale * draws
    x = np.linspace(draws.mean() - 4 * draws.std(), draws.mean() + 4 * draws.std(), 81)
    y = gaussian_kde(draws)(x) * math.sqrt(2 * math.pi)
    return {"x": x.tolist(), "y": y.tolist()}


def _draws(posterior: xr.DataTree, name: str) -> NDArray[np.float64]:
    """All draws of a scalar, in product units."""
    group = posterior["posterior"].to_dataset()
    if name in group:
        return group[name].values.ravel()
    return group[name[:-2]].values[..., "xy".index(name[-1])].ravel()


def _laplace(approximation: Laplace, best: Mapping[str, NDArray], name: str, scale: float) -> dict[str, list[float]]:
    """Density of a scalar in Laplace's approximation, about the maximum of the posterior."""
    row = (name, 0) if name == "itl_ratio" else (name[:-2], "xy".index(name[-1]))
    k = approximation.names.index(row)
    mean = np.ravel(best[row[0]])[row[1]]
    return _normal(float(mean), math.sqrt(approximation.product[k, k]), scale)


# ---- diagnostics, configuration, provenance ----


def _azimuth(other: Azimuth, radius: float) -> str:
    """The terms of the test, folded."""
    rows = [
        (name, plus_minus(size, sd, 100.0), f"{phase:.0f}", f"{360 / m:.0f}", probability(p))
        for name, size, sd, phase, m, p in zip(
            other.term, other.amplitude, other.sd, other.phase, other.m, other.p, strict=True
        )
    ]
    return page.folded(
        "What is neither radial nor planar, by term",
        page.table(
            ("", "amplitude (%)", "brightest at (degrees)", "and again after", "p"), rows, numbers=(1, 2, 3, 4),
            caption=f"Fitted together, with everything else free: at {radius:.0f} mm, the outermost bins.",
        ),
    )  # fmt: skip


def _diagnostics(result: FitResult, warnings: Sequence[str], check: PredictiveCheck | None) -> str:
    found, draws, data = result.map, result.diagnostics, result.data
    kinked = result.config.likelihood == "laplace"
    nearness = COST_AGREEMENT if kinked else AGREEMENT
    rows = [
        ("distance of another start", f"{found.second_start:.1e}" + ("" if kinked else " sd"), f"below {nearness:g}",
         _mark(found.second_start < nearness), "Two starts must end at the same maximum."),
    ]  # fmt: skip
    if not kinked:
        rows.append(
            ("whitened gradient norm", f"{found.gradient_norm:.1e} sd", f"below {TOLERANCE:g}",
             _mark(found.gradient_norm < TOLERANCE), "Distance to the maximum by the gradient of PyMC's log-density.")
        )  # fmt: skip
    if draws is not None:
        rows += [
            ("R-hat", f"{draws.r_hat:.3f}", f"at most {MOST_R_HAT}", _mark(draws.r_hat <= MOST_R_HAT),
             "Whether the chains agree; the worst of all parameters."),
            ("bulk ESS", f"{draws.ess_bulk:.0f}", f"at least {LEAST_ESS:.0f}", _mark(draws.ess_bulk >= LEAST_ESS),
             "Number of independent draws with the same information about the means."),
            ("tail ESS", f"{draws.ess_tail:.0f}", f"at least {LEAST_ESS:.0f}", _mark(draws.ess_tail >= LEAST_ESS),
             "The same for the ends of the intervals."),
            ("divergent transitions", f"{draws.divergences}", "0", _mark(draws.divergences == 0),
             "Where the posterior bends too sharply for the sampler."),
            ("E-BFMI", f"{draws.bfmi:.2f}", f"at least {LEAST_BFMI}", _mark(draws.bfmi >= LEAST_BFMI),
             "Whether the chains explore the tails."),
        ]  # fmt: skip
    # as the verdict takes them: what is no chance may be too small to matter
    other, tolerance = result.gradient.azimuth, result.config.tolerance_mmag
    wanted = f"above 0.001, or within {tolerance:g} mmag"
    if other is not None:
        rows.append(
            ("neither radial nor planar", _chance(other.p_value), wanted,
             _mark(not other.matters(as_fraction(tolerance))),
             f"Chance of a chi-squared of {other.chi2:.0f} with {other.dof} terms that the model does not have.")
        )  # fmt: skip
    header = result.gradient.require_estimates().header
    field = SmoothField.of_cards(header)
    if field.dof:
        rows.append(
            ("a smooth field", _chance(field.p_value), wanted, _mark(not field.matters(tolerance)),
             f"Chance of a chi-squared of {field.chi2:.0f} with {field.dof} smooth terms, neither radial nor planar; "
             f"less noise their rms is {field.rms_mmag:.1f} mmag.")
        )  # fmt: skip
    if check is not None:
        rows.append(
            ("beyond the replicates' 90%", percent(check.outside), "about 10%", "",
             "Means by detector, radius and azimuth against flats drawn from the fitted model; much more than 10% says "
             "that the noise model is too narrow.")
        )  # fmt: skip
    said = [page.paragraph("Warnings of the fit:"), _list(warnings)] if warnings else []
    left = [(reason, f"{count:,}") for reason, count in data.dropped.items() if count]
    left.append(("fitted, but outliers: dust or defects (no weight)", f"{int(np.sum(data.weight == 0)):,}"))
    left.append(("fitted", f"{len(data):,}"))
    terms = [] if other is None else [_azimuth(other, result.gradient.outermost_bin)]
    return page.section(
        "Diagnostics",
        page.paragraph(found.message[:1].upper() + found.message[1:] + "."),
        page.table(("", "found", "wanted", "", "meaning"), rows, numbers=(1, 2)),
        *([_list(draws.failures)] if draws is not None and draws.failures else []),
        *said,
        *terms,
        page.table(
            ("bins", ""), left, numbers=(1,), caption="Bins that were left out, by reason, and bins in the fit."
        ),
    )


def _chance(p: float) -> str:
    shown = probability(p)
    return f"p {shown}" if shown[0] in "<>" else f"p = {shown}"


def _mark(passed: bool) -> str:
    return "✓" if passed else "✗"


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{page.text(item)}</li>" for item in items) + "</ul>"


def _configuration(config: FitConfig) -> str:
    default = type(config)().model_dump()
    changed = [
        (key, _shown(value), _shown(default[key]), type(config).model_fields[key].description)
        for key, value in config.model_dump().items()
        if value != default[key] and key != "connections"
    ]
    return page.section(
        "Configuration",
        page.table(("field", "value", "default", "what it is"), changed)
        if changed
        else page.paragraph("All defaults."),
        page.folded("The whole configuration (TOML)", page.preformatted(config.to_toml())),
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)


def _provenance(gradient: FlatGradient, estimates: Estimates) -> str:
    rows = [
        (key, gradient.metadata[key])
        for key in ("INSTRUME", "FILTER", "CALIB_ID", "CALIBDATE")
        if gradient.metadata.get(key)
    ]
    rows += [
        (comment or key, value)
        for key, (value, comment) in estimates.header.items()
        if key.startswith(("SEED", "V", "RUNID"))
    ]
    inputs = gradient.config.get("inputs", [])
    columns = list(dict.fromkeys(key for entry in inputs for key in entry))
    listed = [tuple(str(entry.get(key, "")) for key in columns) for entry in inputs]
    parts = [page.table(("", ""), [(key, str(value)) for key, value in rows])]
    if listed:
        parts.append(
            page.folded(
                f"{len(listed)} input file{'s' if len(listed) > 1 else ''} with checksums", page.table(columns, listed)
            )
        )
    else:
        parts.append(page.paragraph("Inputs were not recorded: the bins came from memory."))
    return page.section("Provenance", *parts)
