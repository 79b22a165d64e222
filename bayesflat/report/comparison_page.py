"""The report of a comparison: one page with the differences of sky and dome, and a verdict on whether they matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from bayesflat.comparison.comparison import Comparison
from bayesflat.comparison.differences import DetectorDifference, Difference
from bayesflat.comparison.judgement import zones
from bayesflat.quantities import MMAG, QUANTITIES, long_label
from bayesflat.report import page
from bayesflat.report.numbers import BAND, cells, half_width, nice, running_percentiles
from bayesflat.report.page import Layer, Series, Verdict
from bayesflat.report.text import probability
from bayesflat.text import plus_minus

_WORTH = 0.25  # rms of what a correction removes, in tolerances, from which on it is advised
_RINGS = 70  # largest number of rings of bins
_LEAST = 0.01  # smallest noise that is shown as a number (mmag)
_FEW = 6  # largest number of inputs that are shown unfolded


def comparison_report(c: Comparison, inputs: Sequence[Mapping[str, str]] = (), run: str = "") -> str:
    """The report of a comparison as an HTML page.

    Parameters
    ----------
    c : Comparison
    inputs : sequence of mapping
        ``name`` and ``sha256`` of the files that were compared, the sky's product first.
    run : str
        Id of the run that the page is of.

    Returns
    -------
    str
        Self-contained HTML.
    """
    title = " ".join(part for part in ("Sky against dome", c.instrument) if part)
    how = f"paired: the ratio of {c.n_bins:,} bins" if c.method == "paired" else "unpaired: two posteriors subtracted"
    subtitle = " · ".join(
        part for part in (c.physical_filter, how, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC") if part.strip()
    )
    sections = [_differences(c), _radial(c), _focal_plane(c), _noise(c), _provenance(inputs, run)]
    return page.render(title, subtitle, judge(c, inputs), [part for part in sections if part])


def judge(c: Comparison, inputs: Sequence[Mapping[str, str]] = ()) -> Verdict:
    """The verdict on a comparison.

    Parameters
    ----------
    c : Comparison
    inputs : sequence of mapping
        As for `comparison_report`.
    """
    kind, words = c.verdict.word, c.verdict.words
    first = f"{words[:1].upper()}{words[1:]} of {c.rope_mmag:g} mmag."
    if kind == "unusable":
        return Verdict("bad", ("A fit did not converge: do not use this comparison.",), tuple(c.notes))
    if not math.isfinite(c.verdict.area_beyond["mean"]):
        first = "No verdict, because uncertainties are missing: fit both flats with bayesflat."
    sentences = [f"{reason[:1].upper()}{reason[1:]}." for reason in c.verdict.reasons]
    worst, at = _largest(c)
    sentences.append(f"The radial functions differ most at {at:.0f} mm: {worst}.")
    if c.left_over:
        sentences.append(
            f"A correction removes {c.parts_mmag['corrected']:.2g} mmag rms (radial function, plane, centroid) and "
            f"leaves {c.left_over} mmag."
        )
    advice = list(c.notes)
    if kind == "differ" and c.parts_mmag.get("corrected", 0.0) > _WORTH * c.rope_mmag:
        names = [str(entry["name"]) for entry in inputs[:2]]
        sky = names[0] if names else "SKY.fits"
        dome = "flat_gradient_paired.fits" if c.tied is not None else names[1] if names else "DOME.fits"
        advice.append(f"Correct the dome's flats: bayesflat apply FLATS --gradient {dome} --reference {sky} -o DIR")
    if kind == "undecided" and math.isfinite(c.verdict.area_beyond["mean"]):
        more = "" if c.method == "paired" else " A paired comparison, with the binned tables, has far smaller errors."
        advice.append("Smaller errors or a larger tolerance would decide: fit more flats, or set --rope." + more)
    state = {"differ": "differ", "agree": "good", "undecided": "doubtful"}[kind]
    note = (
        "Differences are dome minus sky. They differ where more than 1% of the area is beyond the tolerance with a "
        "probability above 95%, or the radial functions are at some radius; they agree where both are below 5%."
    )
    return Verdict("doubtful" if c.notes else state, (first, *sentences), tuple(advice), note)


# ---- differences ----


def _quantities(c: Comparison) -> list[tuple[str, Difference, float, str, float]]:
    """Label, difference, scale, unit and tolerance (product units) of each quantity that is judged."""
    found = [(f"radial function at {c.radius:g} mm", c.at_radius, 1.0, "mmag", c.rope_mmag)]
    one_group = not 0 < c.positions.itl.sum() < len(c.positions)
    for name, d in c.differences.items():
        if name == "itl_ratio" and one_group:
            continue
        quantity = QUANTITIES[name]
        found.append((long_label(name, c.positions.groups), d, quantity.scale, quantity.shown_unit, c.tolerances[name]))
    return found


def _differences(c: Comparison) -> str:
    rows = []
    for label, d, scale, unit, tolerance in _quantities(c):
        known = math.isfinite(d.sd)
        rows.append(
            (
                label,
                _signed(d, scale, ""),
                unit,
                f"{_number(scale * d.q05, scale * d.sd)} to {_number(scale * d.q95, scale * d.sd)}" if known else "–",
                f"{scale * tolerance:.2g}" if math.isfinite(tolerance) else "–",
                probability(d.tail) if known else "–",
                probability(d.p_rope) if known else "–",
            )
        )
    by_zone = [
        (f"{zone} mm", str(len(here)), str(off), f"{most.name} ({_number(most.found_mmag, most.sd_mmag)} mmag)")
        for zone, here, off, most in zones(c.detectors, c.rope_mmag)
    ]
    return page.section(
        "Differences",
        page.table(
            ("dome minus sky", "mean", "unit", "90% interval", "tolerance", "p of zero", "p beyond"),
            rows,
            numbers=(1, 3, 4, 5, 6),
            caption=f"The tolerance of each quantity changes the flat by {c.rope_mmag:g} mmag at {c.radius:g} mm. "
            "p of zero: two-sided tail probability of zero. p beyond: probability that the difference exceeds the "
            "tolerance in either direction.",
        ),
        page.table(
            ("detectors, by their centre", "number", "beyond the tolerance", "most of all"),
            by_zone,
            numbers=(1, 2),
            caption="Means over each detector of dome over sky, relative to the centre: measured where there are bins.",
        ),
    )


def _largest(c: Comparison) -> tuple[str, float]:
    """The largest difference of the radial functions, as text, and its radius (mm)."""
    k = int(np.nanargmax(np.abs(c.radial["mean"])))
    return f"{_plus(plus_minus(c.radial['mean'][k], c.radial['sd'][k]))} mmag", float(c.grid[k])


def _radial(c: Comparison) -> str:
    """Difference of the radial functions with band and tolerance, and the residuals of the bins."""
    mean, low, high = c.radial["mean"], c.radial["q05"], c.radial["q95"]
    zero, rope = np.zeros(c.grid.shape), np.full(c.grid.shape, c.rope_mmag)
    known = bool(np.all(np.isfinite(low)))
    upper = [
        Series(f"tolerance, ±{c.rope_mmag:g} mmag", c.grid, zero, -rope, rope, "tolerance"),
        Series("radial functions, 90% band", c.grid, mean, low, high)
        if known
        else Series("radial functions", c.grid, mean),
    ]
    shown = [mean, rope, -rope] + ([low, high] if known else [])
    panels: list[tuple[str, list[Series], tuple[float, float]]] = []
    if c.measured_mmag is not None:
        radius = np.hypot(c.positions.xf - c.dome_centre[0], c.positions.yf - c.dome_centre[1])
        left = c.measured_mmag - c.map_mmag
        edges = np.linspace(0.0, c.grid[-1], int(np.clip(len(radius) // 200, 8, _RINGS)) + 1)
        at, below, middle, above = running_percentiles(radius, left, edges)
        expected = np.interp(at, c.grid, mean)
        upper.insert(1, Series("medians of rings of bins", at, expected + middle, look="data"))
        shown.append(expected[np.isfinite(middle)] + middle[np.isfinite(middle)])
        half = BAND * c.radial["sd"]
        lower = [
            Series("rings of bins: median, 16 to 84%", at, middle, below, above, "data"),
            Series("fit, 90% band", c.grid, zero, -half, half, "zero"),
        ]
        spread = np.abs(np.concatenate([below, above]))
        panels.append(("bins − fit (mmag)", lower, _about_zero(spread[np.isfinite(spread)])))
    bottom, top = min(float(np.nanmin(s)) for s in shown), max(float(np.nanmax(s)) for s in shown)
    room = 0.06 * (top - bottom)
    panels.insert(0, ("dome − sky (mmag)", upper, (bottom - room, top + room)))
    caption = (
        "−2.5 log10 of dome over sky of the radial functions, each about its own centroid and relative to its centre. "
        "Where the band lies outside the tolerance (grey), the difference matters."
    )
    if c.measured_mmag is not None:
        caption += (
            " Below: the residuals of the bins; the medians should stay near zero, and the spread is the noise that "
            "does not cancel between dome and sky."
        )
    return page.section(
        "Radial difference",
        page.profile("radius from the dome's centroid (mm)", panels, lines=[c.radius], caption=caption),
    )


def _about_zero(sizes: NDArray) -> tuple[float, float]:
    half = 1.3 * half_width(sizes, 97.0) or 1.0
    return -half, half


# ---- over the focal plane ----


def _focal_plane(c: Comparison) -> str:
    binned = c.positions
    of = {d.detector: d for d in c.detectors}
    order = np.argsort(binned.detector, kind="stable")
    present, first = np.unique(binned.detector[order], return_index=True)
    rows = dict(zip(present.tolist(), np.split(order, first[1:]), strict=True))
    detectors = [d for d in binned.camera if d.id in of or d.is_science]
    names = binned.groups
    groups = [names[0 if binned.itl[rows[d.id][0]] else 1] if d.id in of else "" for d in detectors]
    measured = {} if c.measured_mmag is None else {k: float(np.mean(c.measured_mmag[r])) for k, r in rows.items()}

    def of_bins(values: NDArray) -> list[NDArray | float]:
        return [
            cells(d, binned.xf[rows[d.id]], binned.yf[rows[d.id]], values[rows[d.id]]) if d.id in of else math.nan
            for d in detectors
        ]

    def of_detectors(values: Mapping[int, float]) -> list[float]:
        return [values.get(d.id, math.nan) for d in detectors]

    half = nice(max(half_width(c.map_mmag, 99.0), 0.5 * c.rope_mmag))
    layers = []
    if c.measured_mmag is not None:
        left = c.measured_mmag - c.map_mmag
        layers.append(
            Layer("Dome − sky, as measured", "mmag", of_bins(c.measured_mmag), (-half, half), True,
                  "The bins themselves, relative to the centre: positive is a dome that is too dim there.")
        )  # fmt: skip
    layers.append(
        Layer("Dome − sky, fitted", "mmag", of_detectors({k: d.mean_mmag for k, d in of.items()}), (-half, half), True,
              "Means over the detectors, relative to the centre: what a correction removes.")
    )  # fmt: skip
    if c.measured_mmag is not None:
        most = nice(max(half_width(left, 97.0), 0.1))
        layers.append(
            Layer("Measured − fitted", "mmag", of_bins(left), (-most, most), True,
                  "Good: no order across the focal plane. Whole detectors or amplifiers that stand out respond "
                  "differently to the colours of lamp and sky.")
        )  # fmt: skip
    sds = np.array([d.sd_mmag for d in c.detectors])
    if np.isfinite(sds).all():
        layers.append(
            Layer("Standard deviation", "mmag", of_detectors({k: d.sd_mmag for k, d in of.items()}),
                  (0.0, nice(max(float(sds.max()), 1e-6))), False,
                  "Standard deviation of the fitted means over the detectors.")
        )  # fmt: skip
    facts = [_facts(d.id, d.physical_type, of.get(d.id), measured, len(rows.get(d.id, ())), c) for d in detectors]
    head = ("detector", "vendor", "zone", "dome − sky", *(("measured",) if measured else ()), "beyond the tolerance")
    listed = [
        (d.name, *(fact.get(key, "") for key in head[1:]))
        for d, fact in sorted(zip(detectors, facts, strict=True), key=lambda pair: _size(of.get(pair[0].id)))
        if d.id in of
    ]
    return page.section(
        "Over the focal plane",
        page.paragraph("Point at a detector for its figures; a click holds it. Each map shows what its menu says."),
        page.maps(
            detectors, groups, facts, layers, marks=[(*c.dome_centre, "centre of the dome's radial function")],
            caption="Dome over sky in magnitudes, relative to the centre: the whole models, planes and vendors' ratio "
            "included.",
        ),
        page.folded("All detectors as a table, the largest differences first",
                    page.table(head, listed, numbers=range(3, len(head)))),
    )  # fmt: skip


def _size(d: DetectorDifference | None) -> float:
    return -abs(d.found_mmag) if d is not None else 0.0


def _facts(
    number: int, vendor: str, d: DetectorDifference | None, measured: Mapping[int, float], n: int, c: Comparison
) -> dict[str, str]:
    """Label and text of everything that is shown for a detector."""
    facts = {"vendor": vendor, "id": str(number)}
    if d is None:
        return facts | {"bins": "none in the comparison"}
    facts |= {"zone": f"{d.zone} mm", "dome − sky": f"{_of_detector(d)} mmag"}
    if number in measured:
        facts["measured"] = f"{_number(measured[number], d.sd_mmag)} mmag"
        facts["bins"] = str(n)
    p = Difference.normal(d.found_mmag, d.sd_mmag, c.rope_mmag).p_rope
    return facts | {"beyond the tolerance": f"p {_equal(probability(p))}" if math.isfinite(p) else "–"}


def _of_detector(d: DetectorDifference) -> str:
    return _plus(plus_minus(d.mean_mmag, d.sd_mmag, digits=3))


# ---- noise and provenance ----


def _noise(c: Comparison) -> str:
    notes = ["<ul>" + "".join(f"<li>{page.text(note)}</li>" for note in c.notes) + "</ul>"] if c.notes else []
    if not c.noise:
        return page.section("Notes", *notes) if notes else ""
    in_mmag = {name: MMAG * sd for name, sd in c.noise.items()}
    rows = [(name, f"{sd:.2g} mmag" if sd >= _LEAST else f"< {_LEAST:g} mmag") for name, sd in in_mmag.items()]
    rows += [("bins in the fit of the ratio", f"{c.n_bins:,}"), ("of these outliers (no weight)", f"{c.n_spoilt:,}")]
    return page.section(
        "Notes and noise" if notes else "Noise",
        *notes,
        page.table(
            ("", ""),
            rows,
            numbers=(1,),
            caption="Standard deviations of the log-ratio by source, estimated from the ratio: white noise, and the "
            "part of the detectors', amplifiers' and patterns' scatter that does not cancel between lamp and sky.",
        ),
    )


def _provenance(inputs: Sequence[Mapping[str, str]], run: str) -> str:
    about = [("version of bayesflat", version("bayesflat")), *([("run", run)] if run else [])]
    versions = page.table(("", ""), about)
    if not inputs:
        return page.section("Provenance", versions, page.paragraph("Inputs were not recorded: they came from memory."))
    columns = list(dict.fromkeys(key for entry in inputs for key in entry))
    listed = [tuple(str(entry.get(key, "")) for key in columns) for entry in inputs]
    found = page.table(columns, listed, caption="The files that were compared.")
    if len(listed) > _FEW:
        found = page.folded(f"The {len(listed)} files that were compared", found)
    return page.section("Provenance", versions, found)


# ---- numbers ----


def _signed(d: Difference, scale: float, unit: str) -> str:
    return f"{_plus(plus_minus(d.mean, d.sd, scale))} {unit}".rstrip()


def _plus(number: str) -> str:
    return number if number.startswith(("−", "–")) else f"+{number}"


def _number(value: float, sd: float = math.nan) -> str:
    """A number with its sign, rounded to two digits of the sd where there is one."""
    return _plus(plus_minus(value, sd, digits=3).split(" ± ")[0])


def _equal(p: str) -> str:
    return p if p[0] in "<>" else f"= {p}"
