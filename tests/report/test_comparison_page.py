"""The page of a comparison: its numbers against the comparison, its verdict, users' text, and the page in a browser."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from bayesflat.cli import run
from bayesflat.comparison.comparison import compare
from bayesflat.comparison.differences import Difference
from bayesflat.config import FitConfig
from bayesflat.inference.fitting import fit
from bayesflat.quantities import COMPARED, MMAG
from bayesflat.report.comparison_page import comparison_report, judge
from tests.helpers import NODES, simulate_pair
from tests.report.browser import Browser, find_browser
from tests.report.pages import TIP, Parsed, chart

INPUTS = [
    {"name": "sky/a<b>&'\".fits", "sha256": "5e" * 32},
    {"name": "dome/flat_gradient.fits", "sha256": "d0" * 32},
]
LABELS = dict(zip(COMPARED, ("throughput ratio ITL / E2V", "centroid x", "centroid y", "plane x", "plane y"),
                  strict=True))  # fmt: skip
SCALES = dict.fromkeys(COMPARED, 1.0) | {"gradient_x": 1e6, "gradient_y": 1e6}


@pytest.fixture(scope="module")
def fits(small_camera):
    """Sky and dome on the same detectors; detector 13 has no bins."""
    found = []
    for kind, binned in simulate_pair(small_camera).items():
        config = FitConfig(radial_spline_nodes=NODES, do_fit_centroid=True, do_fit_gradient=True, centroid_max=2.0,
                           do_constrain_zero=False, do_reference_gradient=kind == "sky")  # fmt: skip
        found.append(fit(binned.select(binned.detector != 13), config))
    return found


@pytest.fixture(scope="module")
def paired(fits):
    return compare(*fits)


@pytest.fixture(scope="module")
def unpaired(fits, small_camera):
    return compare(*(found.gradient for found in fits), camera=small_camera)


@pytest.fixture(scope="module")
def html(paired):
    named = replace(paired, instrument="<i>Cam</i> & co", notes=["mind <b>this</b>"])
    return comparison_report(named, INPUTS)


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


# ---- numbers ----


def test_table_of_differences(paired, html):
    rows = {row[0]: row for row in Parsed(html).rows if row}
    entries = [(LABELS[name], paired.differences[name], SCALES[name], paired.tolerances[name]) for name in COMPARED]
    entries.append((f"radial function at {paired.radius:g} mm", paired.at_radius, 1.0, paired.rope_mmag))
    for label, d, scale, tolerance in entries:
        row = rows[label]
        mean, sd = (number(part) for part in row[1].split(" ± "))
        assert mean == pytest.approx(scale * d.mean, abs=0.06 * scale * d.sd), label
        assert sd == pytest.approx(scale * d.sd, rel=0.06), label
        low, high = (number(part) for part in row[3].split(" to "))
        assert low == pytest.approx(scale * d.q05, abs=0.06 * scale * d.sd), label
        assert high == pytest.approx(scale * d.q95, abs=0.06 * scale * d.sd), label
        assert number(row[4]) == pytest.approx(scale * tolerance, rel=0.06), label
        for shown, p in ((row[5], d.tail), (row[6], d.p_rope)):
            if shown[0] in "<>":
                assert p < 0.001 if shown[0] == "<" else p > 0.999
            else:
                assert float(shown) == pytest.approx(p, abs=6e-4)


def test_tolerances_are_those_of_the_probabilities(paired, unpaired):
    """The probability beyond each tolerance is that of the normal distribution."""
    for c in (paired, unpaired):
        assert c.tolerances["gradient_x"] == pytest.approx(c.rope_mmag / MMAG / c.radius)
        for name in COMPARED:
            d, limit = c.differences[name], c.tolerances[name]
            below = 0.5 * math.erfc((limit + d.mean) / d.sd / math.sqrt(2))
            above = 0.5 * math.erfc((limit - d.mean) / d.sd / math.sqrt(2))
            assert d.p_rope == pytest.approx(below + above, abs=1e-9), name


def test_radial_difference_with_band_tolerance_and_bins(paired, html):
    upper, lower = chart(html, "profile")["panels"]
    tolerance, rings, line = upper["series"]
    np.testing.assert_allclose(line["x"], paired.grid)
    for key, column in (("y", "mean"), ("low", "q05"), ("high", "q95")):
        np.testing.assert_allclose(line[key], paired.radial[column], rtol=1e-12)
    assert set(tolerance["high"]) == {2.0}
    assert set(tolerance["low"]) == {-2.0}
    p = paired.positions
    radius = np.hypot(p.xf - paired.dome_centre[0], p.yf - paired.dome_centre[1])
    left = paired.measured_mmag - paired.map_mmag
    edges = np.linspace(0.0, paired.grid[-1], len(rings["x"]) + 1)
    for k in (len(rings["x"]) // 3, len(rings["x"]) // 2):
        here = (radius >= edges[k]) & (radius < edges[k + 1])
        expected = np.percentile(left[here], (16, 50, 84))
        ring = lower["series"][0]
        np.testing.assert_allclose([ring["low"][k], ring["y"][k], ring["high"][k]], expected, rtol=1e-9)
        at = np.interp(rings["x"][k], paired.grid, paired.radial["mean"])
        assert rings["y"][k] == pytest.approx(at + expected[1], rel=1e-9)
    assert lower["range"][0] == -lower["range"][1]


def test_maps_and_facts_of_detectors(paired, html, small_camera):
    data = chart(html, "maps")
    layers = {layer["title"]: layer for layer in data["layers"]}
    assert list(layers) == ["Dome − sky, as measured", "Dome − sky, fitted", "Measured − fitted", "Standard deviation"]
    of = {d.detector: d for d in paired.detectors}
    p = paired.positions
    for k, detector in enumerate(small_camera):
        shown = data["detectors"][k]
        facts = dict(shown["facts"])
        assert (shown["name"], facts["vendor"]) == (detector.name, detector.physical_type)
        if detector.id == 13:
            assert (shown["group"], facts["bins"]) == ("", "none in the comparison")
            assert layers["Dome − sky, fitted"]["values"][k] is None
            continue
        d = of[detector.id]
        assert layers["Dome − sky, fitted"]["values"][k] == pytest.approx(d.mean_mmag, rel=1e-12)
        assert layers["Standard deviation"]["values"][k] == pytest.approx(d.sd_mmag, rel=1e-12)
        mean, sd = (number(part) for part in facts["dome − sky"].removesuffix(" mmag").split(" ± "))
        assert mean == pytest.approx(d.mean_mmag, abs=0.06 * d.sd_mmag)
        assert sd == pytest.approx(d.sd_mmag, rel=0.06)
        here = p.detector == detector.id
        assert number(facts["measured"].removesuffix(" mmag")) == pytest.approx(
            paired.measured_mmag[here].mean(), abs=0.06 * d.sd_mmag
        )
        assert facts["bins"] == str(here.sum())
        layer = layers["Dome − sky, as measured"]
        i = np.flatnonzero(here)[7]
        px, py = detector.focal_plane_to_pixel(p.xf[i], p.yf[i])
        nx = layer["cells"][k]["nx"]
        column, row = (int((position + 0.5) // (200 / nx)) for position in (px, py))
        cell = layer["cells"][k]["v"][column + nx * row]
        same = [j for j in np.flatnonzero(here) if _same_cell(detector, p, i, j, nx)]
        assert cell * layer["step"] == pytest.approx(paired.measured_mmag[same].mean(), abs=layer["step"])
    assert layers["Dome − sky, fitted"]["scale"] == layers["Dome − sky, as measured"]["scale"]
    (mark,) = data["marks"]
    assert (mark["x"], mark["y"]) == paired.dome_centre


def _same_cell(detector, p, i, j, nx):
    (a, b), (c, d) = (detector.focal_plane_to_pixel(p.xf[k], p.yf[k]) for k in (i, j))
    width = 200 / nx
    return (a + 0.5) // width == (c + 0.5) // width and (b + 0.5) // width == (d + 0.5) // width


def test_table_of_detectors_is_sorted_and_zones_count(paired, html):
    parsed = Parsed(html)
    names = {d.name: d for d in paired.detectors}
    listed = [row for row in parsed.rows if row and row[0] in names]
    sizes = [abs(names[row[0]].mean_mmag) for row in listed]
    assert len(sizes) == 24
    assert sizes == sorted(sizes, reverse=True)
    (zone,) = [row for row in parsed.rows if row and row[0] == "inside 66.6 mm"]  # 317 / 350 of 73.5
    limits = [Difference.normal(d.mean_mmag, d.sd_mmag, 2.0).p_rope > 0.95 for d in paired.detectors]
    assert zone[1:3] == ["24", str(sum(limits))]
    assert zone[3].startswith(listed[0][0])


def test_noise_notes_and_provenance(paired, html):
    parsed = Parsed(html)
    rows = {row[0]: row for row in parsed.rows if row}
    for name, sd in paired.noise.items():
        shown, mmag = rows[name][1].removesuffix(" mmag"), sd * 2.5 / np.log(10) * 1000
        assert shown == "< 0.01" if mmag < 0.01 else number(shown) == pytest.approx(mmag, rel=0.06)
    assert rows["bins in the fit of the ratio"][1] == f"{paired.n_bins:,}"
    assert rows["of these outliers (no weight)"][1] == f"{paired.n_spoilt:,}"
    assert parsed.text.count("mind <b>this</b>") == 2  # in the verdict and below
    for entry in INPUTS:
        assert rows[entry["name"]][1] == entry["sha256"]


# ---- the verdict ----


def test_verdict_that_they_differ(paired):
    verdict = judge(paired, INPUTS)
    assert verdict.state == "differ"
    assert verdict.sentences[0] == "Sky and dome differ by more than the tolerance of 2 mmag."
    assert verdict.sentences[1] == f"{paired.verdict.reasons[0].capitalize()}."
    area = re.match(r"More than 2 mmag over (\S+)% of the area \((\S+)% to (\S+)%\)", verdict.sentences[1])
    found = [paired.verdict.area_beyond[key] for key in ("mean", "q05", "q95")]
    assert [float(part) for part in area.groups()] == pytest.approx([100 * part for part in found], rel=0.06)
    assert verdict.advice[-1] == (
        "Correct the dome's flats: bayesflat apply FLATS --gradient flat_gradient_paired.fits "
        f"--reference {INPUTS[0]['name']} -o DIR"
    )


def test_other_verdicts(fits, paired, unpaired, small_camera):
    sky, dome = (found.gradient for found in fits)
    wide = judge(compare(sky, dome, camera=small_camera, rope_mmag=500.0))
    assert wide.sentences[0].startswith("Sky and dome agree within the tolerance of 500 mmag")
    assert not any("bayesflat apply" in advice for advice in wide.advice)
    unusable = replace(paired.verdict, word="unusable")
    notes = ["the dome's fit did not converge (CONVERGD = F)"]
    failed = judge(replace(paired, converged=False, verdict=unusable, notes=notes))
    assert failed.state == "bad"
    assert len(failed.sentences) == 1  # no other claim
    assert failed.sentences[0] == "A fit did not converge: do not use this comparison."
    assert "the dome's fit did not converge (CONVERGD = F)" in failed.advice
    assert judge(unpaired).state == "doubtful"  # it has a note
    same = judge(compare(sky, sky, camera=small_camera))
    assert same.sentences[0].startswith("The errors do not tell whether sky and dome agree within the tolerance")
    assert any("A paired comparison" in advice for advice in same.advice)


def test_a_comparison_without_uncertainties_or_bins(fits, small_camera):
    sky, dome = (found.gradient for found in fits)
    c = compare(replace(sky, estimates=None), replace(dome, estimates=None), camera=small_camera)
    page = comparison_report(c)
    assert judge(c).sentences[0].startswith("No verdict, because uncertainties are missing")
    (upper,) = chart(page, "profile")["panels"]
    assert [s["name"] for s in upper["series"]] == ["tolerance, ±2 mmag", "radial functions"]
    assert "low" not in upper["series"][1]
    assert [layer["title"] for layer in chart(page, "maps")["layers"]] == ["Dome − sky, fitted"]
    row = next(row for row in Parsed(page).rows if row and row[0] == "plane x")
    assert row[3] == row[5] == row[6] == "–"
    assert number(row[1]) == pytest.approx(1e6 * (dome.gradient_x - sky.gradient_x), rel=1e-4)
    assert "Inputs were not recorded" in Parsed(page).text


# ---- the page ----


def test_users_text_is_text_and_nothing_is_fetched(html):
    parsed = Parsed(html)
    assert "<i>Cam</i> & co" in parsed.text
    assert INPUTS[0]["name"] in parsed.text
    assert not [tag for tag, _ in parsed.tags if tag in ("i", "b")]
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", html) == ["data:,", *re.findall(r'href="(#[^"]*)"', html)]
    assert not re.search(r"url\((?!#)|@import|//cdn|https?://(?!www\.w3\.org/2000/svg)", html)


def test_command_writes_the_page_or_leaves_it_out(fits, small_camera, tmp_path):
    small_camera.write(tmp_path / "camera.ecsv")
    for found, kind in zip(fits, ("sky", "dome"), strict=True):
        (tmp_path / kind).mkdir()
        found.gradient.write(tmp_path / kind / "product.fits")
        found.data.binned.write(tmp_path / kind / "binned_image.fits")
    arguments = ["compare", *(tmp_path / kind / "product.fits" for kind in ("sky", "dome")), "--camera",
                 tmp_path / "camera.ecsv", "-q", "-o"]  # fmt: skip
    assert run([str(a) for a in [*arguments, tmp_path / "with"]]) == 0
    assert run([str(a) for a in [*arguments, tmp_path / "without", "--no-report"]]) == 0
    left = {p.name for p in (tmp_path / "with").iterdir()}
    assert left - {p.name for p in (tmp_path / "without").iterdir()} == {"report.html"}
    page = (tmp_path / "with" / "report.html").read_text(encoding="utf-8")
    shown = chart(page, "profile")["panels"][0]["series"][-1]
    again = compare(*(found.gradient for found in fits), binned=[found.data.binned for found in fits])
    np.testing.assert_allclose(shown["y"], again.radial["mean"], atol=1e-6)
    assert "dome/product.fits" in Parsed(page).text
    # the page of an earlier comparison does not stay beside a new one
    assert run([str(a) for a in [*arguments, tmp_path / "with", "--no-report", "--overwrite"]]) == 0
    assert not (tmp_path / "with" / "report.html").exists()


@pytest.mark.skipif(find_browser() is None, reason="there is no Chromium here")
def test_pointing_at_a_detector_shows_it(paired, html, tmp_path):
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    with Browser() as browser:
        browser.open(tmp_path / "report.html")
        assert browser.run("document.querySelectorAll('figure.chart').length") == 2
        assert browser.run("[...document.querySelectorAll('.drawing')].every((d) => d.querySelector('svg'))")
        assert browser.run(TIP) == ""
        place = browser.run(
            "(() => { const map = document.querySelectorAll('.maps svg')[1];"
            "const shape = map.querySelector('[data-detector=\"6\"]');"
            "shape.scrollIntoView({block: 'center'}); const box = shape.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        browser.move_mouse(*place)
        text = browser.run(TIP)
        d = next(d for d in paired.detectors if d.detector == 6)
        assert text.startswith("R11_S00")
        assert number(re.search(r"dome − sky\s+([+−\d.]+) ±", text)[1]) == pytest.approx(
            d.mean_mmag, abs=0.06 * d.sd_mmag
        )
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.complaints == []


@pytest.mark.skipif(find_browser() is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_overflows(html, tmp_path, width):
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    wider = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    with Browser(width) as browser:
        browser.open(tmp_path / "report.html")
        assert browser.run(wider) == 0
        assert browser.complaints == []


def test_cells_of_many_columns_say_which_column_they_are_of(html):
    """On a narrow screen, where there is no room for a row of headings."""
    parsed = Parsed(html)
    labels = [attributes["data-head"] for tag, attributes in parsed.tags if tag == "td" and "data-head" in attributes]
    head = next(row for row in parsed.rows if "tolerance" in row)
    assert labels[: len(head)] == head
