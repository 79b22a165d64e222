"""Nothing that is said of a fit contradicts its verdict: what is printed, and the page, read as a user reads them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bayesflat.commands.results import FIT
from bayesflat.inference.fitting import fit
from bayesflat.logs import logging_to
from bayesflat.quantities import as_fraction
from bayesflat.report.fit_page import fit_report
from bayesflat.report.summaries import fit_summary
from tests.helpers import noisy_flat, small_config
from tests.report.pages import Parsed

WIDE = {"tolerance_mmag": 60.0}
TROUBLE = r"off as a whole|no term for it|misses the fitted curve|did not converge|same median|most bins are outliers"


def quadrupole(x, y):
    return 1 + 0.03 * (x**2 - y**2) / 60**2


# what is done to the flat, what is configured, and the words that the verdict may have
CASES = {
    "nothing": (lambda b: 1.0, {}, "good"),
    "a quadrupole": (lambda b: quadrupole(b.xf, b.yf), {}, "look"),
    "the same, and it does not matter": (lambda b: quadrupole(b.xf, b.yf), WIDE, "good"),
    "a detector": (lambda b: np.where(b.detector == 7, 0.7, 1.0), {}, "look"),
}


@pytest.fixture(scope="module")
def flat(small_camera):
    found = noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))
    return found.select(np.hypot(found.xf, found.yf) < 58.0)


def told(result, warnings):
    """Warnings, printed lines but the verdict's, the verdict's line, and the page."""
    *lines, verdict, _ = FIT.text(result, "written to out")
    lines = [*warnings, *(line for line in lines if isinstance(line, str))]
    return lines, verdict, Parsed(fit_report(result, warnings=warnings))


@pytest.fixture(scope="module", params=CASES)
def case(request, flat):
    effect, configured, word = CASES[request.param]
    config = small_config().replace(radial_spline_nodes="auto", **configured)
    with logging_to(None) as warnings:
        result = fit(replace(flat, value=flat.value * effect(flat)), config)
    return result, word, *told(result, warnings)


def marks(page):
    """What is wanted and found in the table of diagnostics, by name: whether it has a tick."""
    return {row[0]: row[3] == "✓" for row in page.rows if len(row) == 5 and row[3] in ("✓", "✗")}


def test_no_line_contradicts_the_verdict(case):
    result, word, lines, verdict, page = case
    assert verdict == f"verdict: {word}"
    assert str(result).splitlines()[-1].startswith(verdict)
    summary = fit_summary(result.gradient)
    assert summary["verdict"] == word
    states = [attributes["class"] for _, attributes in page.tags if "verdict" in attributes.get("class", "")]
    assert states == [f"verdict {'good' if word == 'good' else 'doubtful'}"]
    trouble = [line for line in lines if re.search(TROUBLE, line)]
    if word == "good":
        assert trouble == []
        assert all(marks(page).values()), marks(page)
        assert not re.search(TROUBLE, page.text)
        return
    # each reason is said above, word by word, and on the page
    assert summary["reasons"]
    for reason in summary["reasons"]:
        assert reason in lines
        assert reason[1:] in page.text


def test_numbers_are_what_the_verdict_says(case):
    """Amplitudes of the page, and throughputs of the product, against the limits that the docs give."""
    result, word, _, _, page = case
    (together,) = (row[1] for row in page.rows if row[0] == "neither radial nor planar")
    terms = [row for row in page.rows if len(row) == 5 and row[0] in result.gradient.azimuth.term]
    assert len(terms) == 7
    tolerance = 100 * as_fraction(result.config.tolerance_mmag)
    matter = [row[0] for row in terms if float(row[1].split(" ± ")[0]) > tolerance and row[4] == "< 0.001"]
    reasons = " ".join(result.judgement.reasons)
    assert ("no term for it" in reasons) == (together == "p < 0.001" and matter != [])
    offsets = result.gradient.offsets
    whole = offsets.amplifier < 0
    far = np.abs(np.log(offsets.mean[whole])) > 0.1
    assert ("off as a whole" in reasons) == bool(far.any())
    assert word == ("look" if reasons else "good")
