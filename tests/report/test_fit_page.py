"""The page of a fit: its numbers against the product, and what becomes of users' text."""

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
from bayesflat.report.page import Verdict, embedded, render, section, table
from bayesflat.text import plus_minus
from tests.helpers import config_with, noisy_flat
from tests.report.pages import INPUTS, Parsed, chart

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


def test_report_of_a_product_read_back_says_the_same(result, tmp_path):
    """What the page shows of the product is in the product's file."""
    result.gradient.write(tmp_path / "a.fits")
    again = replace(result, gradient=FlatGradient.read(tmp_path / "a.fits"))
    for kind in ("maps", "profile", "densities", "matrix"):
        assert chart(fit_report(again), kind) == chart(fit_report(result), kind)
