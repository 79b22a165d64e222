"""The page of a fit in a browser: what is drawn, and what the mouse and keys show."""

import re

import numpy as np
import pytest

from bayesflat.report.page import Layer, Series, Verdict, maps, profile, render, section
from tests.helpers import PITCH
from tests.report.browser import Browser, find_browser
from tests.report.pages import TIP

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
