"""The report: its numbers against the product, its verdict, what becomes of users' text, and the page in a browser."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import fit, sample
from bayesflat.report.fit_page import fit_report
from bayesflat.report.numbers import cells, effects
from bayesflat.report.page import Layer, Series, Verdict, embedded, maps, profile, render, section, table
from bayesflat.report.verdict import judge, misfit
from bayesflat.text import plus_minus
from tests.helpers import NODES, PITCH, VALUES, config_with, noisy_flat, small_config
from tests.report.browser import Browser, find_browser
from tests.report.pages import TIP, Parsed, chart

INPUTS = [{"name": "flats/a<b>&'\".fits", "sha256": "5e" * 32}]


@pytest.fixture(scope="module")
def result(small_camera):
    """Both vendors, all terms but the outer plane; detector 13 has no bins."""
    binned = noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(3e-4, -2e-4))
    binned = binned.select(binned.detector != 13)
    binned = replace(binned, instrument="<i>Cam</i> & co", physical_filter="r<57>")
    return fit(binned, small_config(seed=3), inputs=INPUTS)


@pytest.fixture(scope="module")
def html(result):
    return fit_report(result, warnings=["mind <b>this</b>"])


# ---- numbers ----


def own_residual(result):
    """data/model - 1 from the design's formula, with the product's numbers."""
    g, b = result.gradient, result.data.binned
    r = np.sqrt((b.xf - g.centroid_delta_x) ** 2 + (b.yf - g.centroid_delta_y) ** 2)
    nodes = g.radial_spline_nodes
    radial = Akima1DInterpolator(nodes, g.radial_spline_values)(np.clip(r, nodes[0], nodes[-1]))
    model = radial * np.where(b.itl, g.itl_ratio, 1) / (1 + g.gradient_x * b.xf + g.gradient_y * b.yf)
    return r, b.value / g.normalization_factor / model - 1


def test_maps_hold_throughputs_of_the_product_and_residuals_of_the_bins(result, html, small_camera):
    data = chart(html, "maps")
    offsets, binned = result.gradient.offsets, result.data.binned
    layers = {layer["title"]: layer for layer in data["layers"]}
    assert [d["name"] for d in data["detectors"]] == [d.name for d in small_camera]
    _, residual = own_residual(result)
    for k, detector in enumerate(small_camera):
        shown = data["detectors"][k]
        facts = dict(shown["facts"])
        np.testing.assert_allclose(shown["corners"], detector.corners(), atol=1e-4)
        assert facts["vendor"] == detector.physical_type
        if detector.id == 13:
            assert (shown["group"], facts["bins"]) == ("", "none in the fit")
            assert layers["Throughput of detectors"]["values"][k] is None
            assert layers["Data / model − 1"]["cells"][k] is None
            continue
        assert shown["group"] == detector.physical_type
        row = np.flatnonzero((offsets.detector == detector.id) & (offsets.amplifier == -1))[0]
        assert layers["Throughput of detectors"]["values"][k] == pytest.approx(100 * (offsets.mean[row] - 1), rel=1e-12)
        found, sd = facts["throughput"].replace("−", "-").removesuffix(" %").split(" ± ")
        assert float(found) == pytest.approx(100 * (offsets.mean[row] - 1), abs=1.01 * 0.05 * float(sd))
        assert float(sd) == pytest.approx(100 * offsets.sd[row], rel=0.06)
        here = (binned.detector == detector.id) & (result.data.weight > 0)
        rms = layers["Rms within detectors"]["values"][k]
        assert rms == pytest.approx(100 * np.std(residual[here]), rel=1e-9)
        assert float(facts["data / model − 1"].replace("−", "-")[:-2]) == pytest.approx(
            100 * residual[here].mean(), abs=6e-3
        )
        assert layers["Bins in the fit"]["values"][k] == np.sum(binned.detector == detector.id)
        assert facts["bins"].split()[0] == str(np.sum(binned.detector == detector.id))
        # amplifier 8 * row + column lies where its own pixels lie
        within = layers["Throughput of amplifiers"]["cells"][k]
        number = np.flatnonzero((offsets.detector == detector.id) & (offsets.amplifier == 11))[0]
        assert within["nx"] == 8
        expected = 100 * (offsets.mean[number] / offsets.mean[row] - 1)
        step = layers["Throughput of amplifiers"]["step"]
        assert within["v"][8 * 1 + 3] * step == pytest.approx(expected, abs=step)
    # bins of 20 pixels on 200: a cell is a bin, also on the detector that is turned
    layer = layers["Data / model − 1"]
    for name in ("R11_S00", "R22_S00"):
        detector, k = small_camera[name], [d.name for d in small_camera].index(name)
        grid = layer["cells"][k]
        assert (grid["nx"], len(grid["v"])) == (10, 100)
        for i in np.flatnonzero(binned.detector == detector.id)[::7]:
            px, py = detector.focal_plane_to_pixel(binned.xf[i], binned.yf[i])
            cell = grid["v"][int(px // 20) + 10 * int(py // 20)]
            assert cell * layer["step"] == pytest.approx(100 * residual[i], abs=layer["step"])
    low, high = layer["scale"]
    assert low == -high


def test_cells_are_means(small_camera, rng):
    """Of 31 bins along a side in at most 16 cells, and of detectors that are not square."""
    detector = replace(small_camera[6], nx=310, ny=155)
    py, px = (a.ravel() for a in np.mgrid[2.0:155:5, 4.5:310:10])
    values = rng.normal(size=px.shape)
    values[5] = np.nan
    found = cells(detector, *detector.pixel_to_focal_plane(px, py), values)
    assert found.shape == (16, 16)
    inside = (px + 0.5 >= 310 / 16 * 2) & (px + 0.5 < 310 / 16 * 3) & (py + 0.5 >= 155 / 16) & (py + 0.5 < 155 / 8)
    assert inside.sum() in (2, 4)
    assert found[1, 2] == pytest.approx(values[inside].mean())


def test_radial_function_band_and_residuals(result, html):
    data, gradient = chart(html, "profile"), result.gradient
    (upper, lower) = data["panels"]
    of_data, line, nodes = upper["series"]
    x = np.array(line["x"])
    spline = Akima1DInterpolator(gradient.radial_spline_nodes, gradient.radial_spline_values)
    of_model = spline(np.minimum(x, gradient.radial_spline_nodes[-1]))  # bins go on beyond the nodes that are given
    np.testing.assert_allclose(line["y"], of_model, rtol=1e-12)
    sd = gradient.compute_radial_sd(x)
    np.testing.assert_allclose(np.array(line["high"]) - np.array(line["low"]), 2 * 1.645 * sd, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(lower["series"][1]["high"], 100 * 1.645 * sd / of_model, rtol=1e-3)
    shown = gradient.radial_spline_nodes <= x[-1]
    assert nodes["y"] == gradient.radial_spline_values[shown].tolist()
    # residuals freed of each amplifier's throughput
    offsets, binned = gradient.offsets, result.data.binned
    r, residual = own_residual(result)
    for i in range(len(r)):
        at = (offsets.detector == binned.detector[i]) & (offsets.amplifier == binned.amplifier[i])
        residual[i] = (1 + residual[i]) / offsets.mean[at][0] - 1
    left = lower["series"][0]
    edges = np.linspace(0, r.max(), len(left["x"]) + 1)
    for k in (len(left["x"]) // 3, len(left["x"]) // 2):
        here = (r >= edges[k]) & (r < edges[k + 1]) & (result.data.weight > 0)
        expected = np.percentile(100 * residual[here], (16, 50, 84))
        np.testing.assert_allclose([left["low"][k], left["y"][k], left["high"][k]], expected, rtol=1e-9)
        assert of_data["y"][k] == pytest.approx(float(spline(left["x"][k])) * (1 + expected[1] / 100), rel=1e-9)


def test_parameters_posterior_and_provenance(result, html):
    gradient, parsed = result.gradient, Parsed(html)
    estimates = gradient.estimates
    rows = {row[0]: row for row in parsed.rows if row}
    row = rows["centroid x"]
    found, sd = (float(part) for part in row[1].split(" ± "))
    assert found == pytest.approx(gradient.centroid_delta_x, abs=0.06 * estimates["centroid_delta_x"]["sd"])
    assert sd == pytest.approx(estimates["centroid_delta_x"]["sd"], rel=0.06)
    low, high = (float(part.replace("−", "-")) for part in rows["plane y"][3].split(" to "))
    assert low == pytest.approx(1e6 * estimates["gradient_y"]["q05"], abs=1)
    assert high == pytest.approx(1e6 * estimates["gradient_y"]["q95"], abs=1)
    for k, name in enumerate(estimates.names):
        shown = rows[name]
        assert float(shown[1]) == pytest.approx(estimates.columns["map"][k], rel=1e-5)
        assert float(shown[3]) == pytest.approx(estimates.columns["sd"][k], rel=1e-5)
    items = {item["label"]: item for item in chart(html, "densities")["items"]}
    assert list(items) == ["ITL ratio", "centroid x", "centroid y", "plane x", "plane y"]
    item = items["plane x"]
    assert item["map"] == pytest.approx(1e6 * gradient.gradient_x)
    x, y = np.array(item["x"]), np.array(item["y"])
    assert np.average(x, weights=y) == pytest.approx(1e6 * estimates["gradient_x"]["mean"], rel=1e-6)
    spread = np.sqrt(np.average((x - item["map"]) ** 2, weights=y))
    assert spread == pytest.approx(1e6 * estimates["gradient_x"]["sd"], rel=1e-2)
    found = chart(html, "matrix")
    a, b = found["labels"].index("plane x"), found["labels"].index("centroid x")
    i, j = estimates.names.index("gradient_x"), estimates.names.index("centroid_delta_x")
    expected = estimates.covariance[i, j] / np.sqrt(estimates.covariance[i, i] * estimates.covariance[j, j])
    assert found["values"][a][b] == pytest.approx(expected)
    assert rows[INPUTS[0]["name"]][1] == INPUTS[0]["sha256"]
    assert rows["seed of all random numbers"][1] == "3"
    assert rows["CALIB_ID"][1] == gradient.metadata["CALIB_ID"]
    assert rows["version of pymc"][1] == estimates.header["VPYMC"][0]
    assert rows["fitted"][1] == f"{len(result.data):,}"
    assert result.config.to_toml() in parsed.text


def test_what_the_errors_do_to_the_flat(result):
    """The largest change that one standard deviation makes, from the model itself."""
    gradient, estimates = result.gradient, result.gradient.estimates
    b = result.data.binned
    known = effects(result.data, gradient)
    assert list(known) == ["throughput ratio", "centroid", "plane", "radial function"]

    def change(**fields):
        moved = replace(gradient, **{key: getattr(gradient, key) + value for key, value in fields.items()})
        after, before = (g.compute_model(b.xf, b.yf, b.itl) for g in (moved, gradient))
        return np.max(np.abs(after / before - 1))

    sd = {name: estimates[name]["sd"] for name in ("itl_ratio", "centroid_delta_x", "gradient_x", "gradient_y")}
    assert known["throughput ratio"] == pytest.approx(change(itl_ratio=sd["itl_ratio"]), rel=1e-3)
    # x and y have about the same error, and count together
    assert known["centroid"] / np.sqrt(2) == pytest.approx(change(centroid_delta_x=sd["centroid_delta_x"]), rel=0.3)
    # the outermost bins lie along the diagonals
    both = change(gradient_x=sd["gradient_x"], gradient_y=sd["gradient_y"])
    assert known["plane"] == pytest.approx(both, rel=0.05)


# ---- the verdict ----


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


def test_other_kinds_of_fits(small_camera):
    """Without curvature there are no uncertainties; one vendor has no ratio; independent errors are warned of."""
    binned = noisy_flat(small_camera)
    found = fit(binned, config_with("laplace", do_fit_gradient=True, do_constrain_zero=False))
    page = Parsed(fit_report(found))
    assert "it has no uncertainties" in page.text or "does not follow the flat" in page.text
    assert [kind for kind, _ in page.charts] == ["maps", "profile"]
    assert "low" not in page.charts[1][1]["panels"][0]["series"][1]
    assert ["plane x", f"{1e6 * found.gradient.gradient_x:.5g}".replace("-", "−")] in [row[:2] for row in page.rows]
    assert "Inputs were not recorded" in page.text

    found = fit(binned.select(~binned.itl), config_with("student_t", do_constrain_zero=False))
    page = Parsed(fit_report(found))
    assert "Not fitted: centroid, plane, outer plane, throughput ratio (one vendor only)." in page.text
    assert "fit with noise = hierarchical" in page.text
    assert [kind for kind, _ in page.charts] == ["maps", "profile"]
    assert page.charts[0][1]["groups"] == ["E2V"]


def test_draws_are_shown_beside_laplace(result):
    sampled = sample(result, draws=15, tune=15, chains=2, cores=1)
    page = Parsed(fit_report(sampled))
    assert "the draws failed their diagnostics" in page.text
    assert [row[0] for row in page.rows if row and row[0] in ("R-hat", "bulk ESS", "E-BFMI")] == [
        "R-hat",
        "bulk ESS",
        "E-BFMI",
    ]
    (data,) = (data for kind, data in page.charts if kind == "densities")
    item = data["items"][1]
    draws = sampled.posterior["posterior"]["centroid_delta"].values[..., 0].ravel()
    x, y = np.array(item["x"]), np.array(item["y"])
    assert np.average(x, weights=y) == pytest.approx(draws.mean(), abs=0.05 * draws.std())
    assert item["low"] == pytest.approx(np.quantile(draws, 0.05))
    before = result.gradient.estimates["centroid_delta_x"]
    assert item["other"]["x"][40] == pytest.approx(before["map"])
    assert item["other"]["x"][50] - item["other"]["x"][40] == pytest.approx(before["sd"], rel=1e-6)


# ---- the page ----


def test_users_text_is_text(result, html):
    parsed = Parsed(html)
    assert "<i>Cam</i> & co" in parsed.text
    assert "r<57>" in parsed.text
    assert not [tag for tag, _ in parsed.tags if tag in ("i", "b")]
    assert INPUTS[0]["name"] in parsed.text


def test_data_cannot_end_its_script():
    hostile = "</script><script>alert(1)</script> & \u2028 @@body@@"
    found = embedded({"a": hostile, "b": [float("nan"), np.float64(0.1), np.int64(3), -np.inf]})
    assert not set("<>&\u2028") & set(found)
    assert json.loads(found) == {"a": hostile, "b": [None, 0.1, 3, None]}
    page = render(
        hostile, hostile, Verdict("good", (hostile,), (hostile,)), [section(hostile, table((hostile,), [(hostile,)]))]
    )
    parsed = Parsed(page)
    assert (
        parsed.text.count(hostile) == 9
    )  # title, heading, subtitle, sentence, advice, menu, section, table's head and cell
    assert sum(tag == "script" for tag, _ in parsed.tags) == 1


def test_the_page_is_whole_in_itself(html):
    """Nothing is fetched: the page holds no address, and its policy forbids it."""
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", html) == ["data:,", *re.findall(r'href="(#[^"]*)"', html)]
    assert not re.search(r"url\((?!#)|@import|//cdn|https?://(?!www\.w3\.org/2000/svg)", html)
    policy = next(a["content"] for tag, a in Parsed(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_colour_that_is_used_is_defined(html):
    """An undefined colour is drawn black, or not at all, and no error shows on the console."""
    assert set(re.findall(r"var\((--[\w-]+)", html)) <= set(re.findall(r"(--[\w-]+):", html))


def test_numbers_are_rounded_by_their_error():
    assert plus_minus(0.80413, 0.00672) == "0.8041 ± 0.0067"
    assert plus_minus(-2.53e-5, 3.9e-6, 1e6) == "−25.3 ± 3.9"
    assert plus_minus(-0.001, 0.5) == "0.00 ± 0.50"
    assert plus_minus(1234.4, 250.0) == "1230 ± 250"
    assert plus_minus(0.91234567, float("nan")) == "0.91235"
    assert plus_minus(float("nan"), 1.0) == "–"


# ---- in a browser ----

needs_browser = pytest.mark.skipif(find_browser() is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser() as found:
        yield found


@needs_browser
def test_pointing_at_a_detector_shows_it(browser, result, html, tmp_path):
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    assert browser.run(TIP) == ""
    for number, name in ((12, "R22_S00"), (6, "R11_S00")):
        place = browser.run(
            "(() => { const map = document.querySelectorAll('.maps svg')[1];"
            f"const shape = map.querySelector('[data-detector=\"{number}\"]');"
            "shape.scrollIntoView({block: 'center'}); const box = shape.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        browser.move_mouse(*place)
        text = browser.run(TIP)
        row = np.flatnonzero((result.gradient.offsets.detector == number) & (result.gradient.offsets.amplifier == -1))[
            0
        ]
        offset = 100 * (result.gradient.offsets.mean[row] - 1)
        assert text.startswith(name)
        assert "E2V" in text
        shown = float(re.search(r"throughput\s+([−\d.]+) ±", text)[1].replace("−", "-"))
        assert shown == pytest.approx(offset, abs=0.006)
        assert browser.run("document.querySelectorAll('.outline.on').length") == 2  # on both maps
    browser.click(*place)
    browser.move_mouse(2, 2)
    assert browser.run(TIP).startswith("R11_S00")  # held
    browser.click(2, 2)
    assert browser.run(TIP) == ""
    assert browser.complaints == []


@needs_browser
def test_arrow_keys_go_from_detector_to_detector(browser, html, small_camera, tmp_path):
    """5 x 5 detectors; the first key goes to the middle, others to the neighbour; at the edge they stay."""
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    middle = min(small_camera, key=lambda d: np.hypot(d.x, d.y))
    browser.run("document.querySelectorAll('.maps svg')[1].focus()")
    x, y = middle.x, middle.y
    for key, (dx, dy) in [("Up", (0, 0)), ("Left", (-1, 0)), ("Up", (0, 1)), ("Right", (1, 0)), ("Down", (0, -1))]:
        browser.press(f"Arrow{key}")
        x, y = x + PITCH * dx, y + PITCH * dy
        expected = min(small_camera, key=lambda d: np.hypot(d.x - x, d.y - y))
        assert browser.run(TIP).startswith(expected.name), key
        assert browser.run("document.querySelectorAll('.outline.on').length") == 2
    for _ in range(4):
        browser.press("ArrowRight")
    edge = max((d for d in small_camera if d.y == middle.y), key=lambda d: d.x)
    assert browser.run(TIP).startswith(edge.name)
    browser.press("Escape")
    assert browser.run(TIP) == ""
    assert browser.complaints == []


@needs_browser
def test_every_chart_is_drawn_in_light_and_dark_and_the_menu_changes_the_map(browser, html, tmp_path):
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    fills = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(tmp_path / "report.html")
        assert browser.run("document.querySelectorAll('figure.chart').length") == 4
        assert browser.run("[...document.querySelectorAll('.drawing')].every((d) => d.querySelector('svg'))")
        fills[scheme] = browser.run("getComputedStyle(document.body).backgroundColor")
        assert browser.run("document.querySelectorAll('.maps svg')[0].querySelectorAll('image').length") == 24
        assert browser.run("document.querySelectorAll('.maps svg')[1].querySelectorAll('image').length") == 0
        browser.run(
            "(() => { const menu = document.querySelectorAll('.maps select')[1]; menu.value = 2;"
            "menu.dispatchEvent(new Event('change')); })()"
        )
        assert browser.run("document.querySelectorAll('.maps svg')[1].querySelectorAll('image').length") == 24
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    browser.prefer("light")
    assert fills["light"] != fills["dark"]
    assert browser.complaints == []


@needs_browser
def test_an_address_points_at_a_detector_and_hostile_names_stay_text(browser, small_camera, tmp_path):
    """With the parts of a page that other pages use too."""
    detectors = list(small_camera)
    facts = [{"note": "<img src=x onerror=alert(1)>"} for _ in detectors]
    layers = [Layer("any </script>", "mmag", np.arange(25.0).tolist(), (0.0, 24.0), False)]
    parts = [
        maps(detectors, ["<b>a</b>"] * 25, facts, layers),
        profile("radius (mm)", [("mmag", [Series("x<y", [0, 1, 2], [1, float("nan"), 3])], (0.0, 4.0))]),
    ]
    page = render("t", "", Verdict("good", ("s",)), [section("One", *parts)])
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "page.html", "#detector=R20_S00")
    assert browser.run(TIP).split() == ["R20_S00", "note", "<img", "src=x", "onerror=alert(1)>"]
    assert browser.run("document.querySelectorAll('img, b:not(.tip b)').length") == 0
    assert browser.complaints == []


def test_report_of_a_product_read_back_says_the_same(result, tmp_path):
    """What the page shows of the product is in the product's file."""
    result.gradient.write(tmp_path / "a.fits")
    again = replace(result, gradient=FlatGradient.read(tmp_path / "a.fits"))
    for kind in ("maps", "profile", "densities", "matrix"):
        assert chart(fit_report(again), kind) == chart(fit_report(result), kind)
