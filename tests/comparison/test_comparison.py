"""Comparing sky and dome: what is found, what is refused, and what words and pictures say of it."""

from dataclasses import replace

import numpy as np
import pytest

import bayesflat
from bayesflat.commands.tables import comparison_lines
from bayesflat.comparison.comparison import check_pair, compare, zones_of
from bayesflat.data.camera import decam, lsstcam
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import COMPARED, MMAG
from bayesflat.report.plots_comparison import plot_comparison_map, plot_comparison_radial
from tests.helpers import DOME_LIGHT, SKY_LIGHT

# ---- what a comparison says ----


@pytest.mark.parametrize("method", ["paired", "unpaired"])
def test_truth_comes_back_within_its_error(method, paired, unpaired):
    """Within four sd.  The throughput ratio has a test of its own."""
    c = {"paired": paired, "unpaired": unpaired}[method]
    assert (c.method, c.converged) == (method, True)
    truth = dict(zip(COMPARED, (None, -0.8, 0.6, 2e-4, -1e-4), strict=True))
    for name, expected in truth.items():
        d = c.differences[name]
        expected = c.differences[name].mean if expected is None else expected
        assert abs(d.mean - expected) < 4 * d.sd, name
        assert d.q05 == pytest.approx(d.mean - 1.6448536 * d.sd, rel=1e-6)
    shown = (c.grid > 1) & (c.grid < 50)
    expected = -2.5e3 * np.log10(1 + DOME_LIGHT.bend * (c.grid / 350) ** 2)
    assert np.all(np.abs(c.radial["mean"] - expected)[shown] < 4.5 * c.radial["sd"][shown])
    assert c.radial["mean"][0] == 0.0


def test_ratio_of_the_ratios(paired, products):
    """The difference of the throughput ratios is that of the two lights, for the detectors are the same."""
    d, sky = paired.differences["itl_ratio"], products[0].itl_ratio
    assert abs(d.mean - sky * (0.92 / 0.9 - 1)) < 4 * d.sd + 0.03 * abs(d.mean) * abs(sky / 0.9 - 1)
    assert d.sd < 1e-4


def test_paired_is_much_sharper(paired, unpaired):
    for name, part in (("itl_ratio", 0.6), ("gradient_x", 0.05), ("gradient_y", 0.05)):
        assert paired.differences[name].sd < part * unpaired.differences[name].sd, name
    assert any("unpaired" in note for note in unpaired.notes)
    assert paired.notes == []


def test_tolerances_are_what_makes_two_mmag_at_the_radius(products, small_camera):
    """The probability of each quantity beyond its tolerance, which is computed here from the mmag at that radius."""
    sky, _ = products
    c = compare(*products, camera=small_camera, rope_mmag=3.0, radius=40.0)
    slope = (np.log(sky.compute_radial(40.001)) - np.log(sky.compute_radial(39.999))) / 0.002
    tolerance = {
        "gradient_x": 3.0 / MMAG / 40.0,
        "centroid_delta_y": 3.0 / MMAG / abs(slope),
        "itl_ratio": 3.0 / MMAG * sky.itl_ratio,
    }
    for name, limit in tolerance.items():
        d = c.differences[name]
        draws = np.random.default_rng(1).normal(d.mean, d.sd, 400_000)
        assert d.p_rope == pytest.approx(np.mean(np.abs(draws) > limit), abs=4e-3), name
    assert c.at_radius.mean == c.radial["mean"][np.flatnonzero(c.grid == 40.0)[0]]


def test_detectors_and_zones(paired, unpaired, small_camera):
    """The mean of each detector is that of the two lights' ratio over its bins."""
    for c in (paired, unpaired):
        p = c.positions
        assert [d.detector for d in c.detectors] == np.unique(p.detector).tolist()
        for d in c.detectors[::6]:
            here = p.detector == d.detector
            at = p.xf[here], p.yf[here], p.itl[here]
            expected = np.mean(-2.5e3 * np.log10(DOME_LIGHT.evaluate(*at) / SKY_LIGHT.evaluate(*at)))
            assert abs(d.mean_mmag - expected) < 4.5 * d.sd_mmag
            assert d.mean_mmag == pytest.approx(c.map_mmag[here].mean(), abs=1e-9)
            assert d.name == small_camera[d.detector].name
        assert {d.zone for d in c.detectors} == {"inside 66.6"}  # 317 / 350 of the outermost corner


def test_zones_of_other_cameras_follow_their_size():
    # DECam ends at 224.3 mm: 317 / 350 of that
    radii, names = zones_of(decam())
    assert radii == (pytest.approx(203.17, abs=0.01), pytest.approx(224.32, abs=0.01))
    assert names == ("inside 203", "203-224", "beyond")
    assert zones_of(lsstcam()) == ((317.0, 350.0), ("inside 317", "317-350", "beyond"))


def test_zones_of_lsstcam():
    nodes = [0.0, 200.0, 300.0, 340.0, 400.0]
    gradients = [FlatGradient(nodes, [1.0, 0.99, 0.95, 0.6, 0.1], itl_ratio=r) for r in (1.0, 1.01)]
    c = compare(*gradients)
    zones = {d.name: d.zone for d in c.detectors}
    assert (zones["R22_S11"], zones["R01_S00"]) == ("inside 317", "317-350")
    assert len(c.detectors) == 189
    by_name = {d.name: d.mean_mmag for d in c.detectors}
    assert by_name["R22_S11"] == pytest.approx(0.0, abs=1e-9)
    assert by_name["R01_S00"] == pytest.approx(-2.5e3 * np.log10(1.01), abs=1e-6)


def test_results_are_compared_in_pairs(folder, tables):
    config = bayesflat.RunConfig.read(folder / "sky" / "config.toml")
    sky, dome = (bayesflat.fit(table, config) for table in tables)
    c = bayesflat.compare(sky, dome)
    assert c.method == "paired"
    assert abs(c.differences["gradient_x"].mean - 2e-4) < 4 * c.differences["gradient_x"].sd
    assert bayesflat.compare is compare


def test_nodes_change_nothing_of_a_comparison(products, tables, paired):
    """Nodes that end inside the bins shorten the reach of both products, and nothing else."""
    shorter = [
        replace(p, radial_spline_nodes=p.radial_spline_nodes[:-1], radial_spline_values=p.radial_spline_values[:-1])
        for p in products
    ]
    assert shorter[0].reach == 52.0 < products[0].outermost_bin - 5
    again = compare(*shorter, binned=tables, radius=paired.radius)
    for name, expected in paired.differences.items():
        assert again.differences[name].mean == pytest.approx(expected.mean, abs=1e-6 * expected.sd), name
        assert again.differences[name].sd == pytest.approx(expected.sd, rel=1e-6), name


def test_products_without_a_curve_are_compared_too(products, tables, paired):
    """As those of an earlier version are: the sky's curve then comes from a first fit of its bins."""
    old = [replace(p, knots=None, config=p.config | {"radial_spline_nodes_placed": True, "priors": {"old": "flat"}})
           for p in products]  # fmt: skip
    c = compare(*old, binned=tables)
    assert (c.method, c.converged) == ("paired", True)
    for name in COMPARED[1:]:
        one, other = c.differences[name], paired.differences[name]
        # without a curve the bins end at the last node: what is known less well may differ by as much
        assert abs(one.mean - other.mean) < 0.5 * other.sd + 3 * max(one.sd**2 - other.sd**2, 0.0) ** 0.5, name
        # and the plane comes from 25 detectors, whose scatter is found anew
        assert 0.95 < one.sd / other.sd < 2.0, name
    assert c.tied.curve is None


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"FILTER": "r_57", "INSTRUME": "SmallCam"}}, "the filters differ: i_39 and r_57"),
        ({"metadata": {"FILTER": "i_39", "INSTRUME": "LSSTCam"}}, "the instruments differ: LSSTCam and SmallCam"),
        ({"centroid_x": 1.0}, r"the pivots of planes and centroids differ: \(0.0, 0.0\) and \(1.0, 0.0\) mm"),
    ],
)
def test_products_that_do_not_belong_together(products, change, message):
    sky, dome = products
    with pytest.raises(InputError, match=message):
        compare(sky, replace(dome, **change))


def test_two_of_a_kind_are_compared_with_a_note(products):
    sky, _ = products
    assert check_pair(sky, sky) == ["both products are references by their headers"]


def test_tables_that_do_not_belong_to_the_products(products, tables):
    other = replace(tables[1], value=1.1 * tables[1].value)
    with pytest.raises(InputError, match="the dome's binned table does not belong to its product: the centre reads"):
        compare(*products, binned=(tables[0], other))


# ---- words and pictures ----


def test_verdicts(products, small_camera):
    sky, dome = products
    wide = comparison_lines(compare(sky, dome, camera=small_camera, rope_mmag=500.0))
    assert wide[-1] == (
        "verdict: sky and dome agree within the tolerance: more than 500 mmag over less than 1% of the area"
    )
    assert len(wide) <= 12
    near = comparison_lines(compare(sky, replace(dome, **{name: getattr(sky, name) for name in COMPARED},
        radial_spline_values=sky.radial_spline_values, knots=sky.knots, estimates=sky.estimates),
        camera=small_camera))  # fmt: skip
    assert near[-1].startswith("verdict: the errors do not tell")


def test_plots_show_what_was_found(paired, unpaired):
    for c, panels, titles in (
        (paired, 2, ["Dome − sky, as measured", "Dome − sky, fitted", "Its standard deviation"]),
        (unpaired, 1, ["Dome − sky, fitted", "Its standard deviation"]),
    ):
        radial = plot_comparison_radial(c)
        assert len(radial.axes) == panels
        (line,) = [line for line in radial.axes[0].lines if line.get_label() == "radial functions"]
        np.testing.assert_array_equal(line.get_ydata(), c.radial["mean"])
        (band,) = [p for p in radial.axes[0].collections if p.get_label() == "90% of the posterior"]
        top = band.get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(c.radial["q95"].max())
        figure = plot_comparison_map(c)
        assert [a.get_title() for a in figure.axes if a.get_title()] == titles
        (panel,) = [a for a in figure.axes if a.get_title() == "Dome − sky, fitted"]
        shown = panel.images[0].get_array().compressed()
        assert set(np.round(np.unique(shown), 3)) <= set(np.round(np.unique(c.map_mmag.astype(np.float32)), 3))
    radial = plot_comparison_radial(paired)
    (rings,) = [line for line in radial.axes[0].lines if line.get_label() == "medians of rings of bins"]
    off = rings.get_ydata() - np.interp(rings.get_xdata(), paired.grid, paired.radial["mean"])
    assert np.nanmax(np.abs(off)) < 1.0  # mmag: medians of a hundred bins of 1.3 mmag
