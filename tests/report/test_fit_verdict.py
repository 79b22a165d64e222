"""The verdict on a fit, and what the page advises where it is not good."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bayesflat.report.fit_page import fit_report
from bayesflat.report.numbers import effects
from bayesflat.report.verdict import judge, misfit
from tests.helpers import NODES, VALUES, config_with
from tests.report.pages import Parsed


def good(result):
    """The same without the misfit of its nodes, which are given."""
    gradient = result.gradient
    header = gradient.estimates.header | {"VERDICT": ("good", "")}
    gradient = replace(gradient, estimates=replace(gradient.estimates, header=header))
    return replace(result, gradient=replace(gradient, config=gradient.config | {"verdict_reasons": []}))


def test_reasons_to_look_are_shown(result):
    """Given nodes miss the curve: the report says what the product says."""
    verdict = judge(result)
    (reason,) = result.judgement.reasons
    assert verdict.state == "doubtful"
    assert verdict.advice[0] == f"{reason[:1].upper()}{reason[1:]}."
    assert reason.startswith("the spline through the nodes misses the fitted curve by")


def test_verdict_of_a_good_fit(result, html):
    result = good(result)
    verdict = judge(result)
    known = effects(result.data, result.gradient)
    less = [name for name, effect in known.items() if effect > 0.002]
    assert verdict.state == "good"
    if less:
        assert verdict.sentences[0].startswith("The fit converged; all but the " + less[0])
    else:
        assert verdict.sentences[0] == "The fit converged; all that it measures is known to 0.2% of the flat."
    for name in known:
        listed = next(
            s for s in verdict.sentences[1:] if s.startswith("Less well" if name in less else "Well measured")
        )
        assert re.search(rf"\b{name} \(±[0-9.]+%\)", listed)
    # what the fit warned of is passed on
    assert "mind this" in judge(result, ["mind this"]).advice
    assert "mind <b>this</b>" in Parsed(html).text


@pytest.mark.parametrize("word", ["good", "look"])
def test_the_word_is_the_products(result, monkeypatch, word):
    """What a running median leaves is told where there is a reason to look, and makes no good fit doubtful."""
    monkeypatch.setattr("bayesflat.report.verdict.misfit", lambda *_: (0.012, 340.0))
    verdict = judge(good(result) if word == "good" else result)
    told = "The fit converged, but the radial function does not follow the flat: 1.2% is left at 340 mm."
    assert (verdict.state, told in verdict.sentences) == (("good", False) if word == "good" else ("doubtful", True))


def test_verdict_of_a_fit_that_did_not_converge(result):
    message = "not converged: another start ended 2.0e+00 sd away, whitened gradient norm 1.0e-01"
    failed = replace(result, map=replace(result.map, converged=False, message=message, gradient_norm=0.1))
    verdict = judge(failed)
    assert verdict.state == "bad"
    assert verdict.sentences == ("The fit did not converge: do not use this product.", "N" + message[1:] + ".")
    assert any(advice.startswith("Leave out terms that the bins do not constrain") for advice in verdict.advice)
    # nodes have a part in it only where their values are fitted
    assert not any("radial_spline_nodes" in advice for advice in verdict.advice)
    independent = replace(failed, config=config_with("student_t"))
    assert any('radial_spline_nodes = "auto"' in advice for advice in judge(independent).advice)
    page = fit_report(failed, warnings=[message])
    assert 'class="verdict bad"' in page
    assert ["whitened gradient norm", "1.0e-01 sd", "below 0.005", "✗"] in [row[:4] for row in Parsed(page).rows]
    assert "Warnings of the fit" not in page  # it is said already


def test_nonsense_of_a_failed_fit_does_not_stop_the_report(result):
    nonsense = replace(result.gradient, radial_spline_values=-np.array(VALUES))
    failed = replace(result, gradient=nonsense, map=replace(result.map, converged=False))
    assert "The fit did not converge" in Parsed(fit_report(failed)).text


def test_verdict_where_the_nodes_do_not_follow_the_flat(result):
    """The radial function is bent by 2% at one node: the misfit is that much, and there."""
    values = result.gradient.radial_spline_values.copy()
    values[3] *= 0.98
    bent = replace(result, gradient=replace(result.gradient, radial_spline_values=values))
    left, where = misfit(bent.data, bent.gradient)
    assert left == pytest.approx(0.02, abs=0.004)
    assert where == pytest.approx(NODES[3], abs=2.0)
    verdict = judge(bent)
    assert verdict.state == "doubtful"
    assert verdict.sentences[0].startswith("The fit converged, but the radial function does not follow the flat: 2.")
    assert any('radial_spline_nodes = "auto"' in advice for advice in verdict.advice)


def test_terms_that_are_not_needed_are_named(result):
    estimates = result.gradient.estimates
    columns = {key: column.copy() for key, column in estimates.columns.items()}
    for name in ("gradient_x", "gradient_y"):
        columns["mean"][estimates.names.index(name)] = 0.0
    changed = replace(result.gradient, estimates=replace(estimates, columns=columns))
    advice = judge(replace(result, gradient=changed)).advice
    assert "The plane is consistent with zero within 2 sd: --compare-terms tells whether the flat needs it." in advice
    assert not any("centroid" in text for text in advice)
