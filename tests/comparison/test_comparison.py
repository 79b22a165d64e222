"""Comparing sky and dome: what the command leaves, what is refused, and a dome corrected to the sky."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

import bayesflat
from bayesflat.cli import run
from bayesflat.commands.tables import comparison_lines
from bayesflat.comparison.comparison import check_pair, compare, config_of, zones_of
from bayesflat.comparison.ratio import fit_ratio
from bayesflat.comparison.ratio_mean import SkyCurve
from bayesflat.comparison.tied import tied_gradient
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import decam, lsstcam
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import prepare
from bayesflat.quantities import COMPARED, MMAG, SCALARS
from bayesflat.report.plots_comparison import plot_comparison_map, plot_comparison_radial
from bayesflat.report.summaries import comparison_summary
from tests.helpers import DOME_LIGHT, NODES, SKY_LIGHT, complaint, simulate_pair

FIT = ["-c", "radial_spline_nodes=0,20,35,45,52,60", "-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true",
       "-c", "centroid_max=2", "-q"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(small_camera, tmp_path_factory):
    """Fits of a sky and a dome that see the same detectors, each beside its binned table; and the camera."""
    out = tmp_path_factory.mktemp("compare")
    small_camera.write(out / "camera.ecsv")
    for kind, binned in simulate_pair(small_camera).items():
        binned.write(out / f"{kind}.fits")
        arguments = ["fit", out / f"{kind}.fits", "-o", out / kind, "--camera", out / "camera.ecsv", *FIT]
        assert run([str(a) for a in [*arguments, "-c", f"do_reference_gradient={kind == 'sky'}"]]) == 0
    return out


@pytest.fixture(scope="module")
def products(folder):
    return (
        FlatGradient.read(folder / "sky" / "flat_gradient_reference.fits"),
        FlatGradient.read(folder / "dome" / "flat_gradient.fits"),
    )


@pytest.fixture(scope="module")
def tables(folder, small_camera):
    return tuple(BinnedFlat.read(folder / kind / "binned_image.fits", small_camera) for kind in ("sky", "dome"))


@pytest.fixture(scope="module")
def paired(products, tables):
    return compare(*products, binned=tables)


@pytest.fixture(scope="module")
def unpaired(products, small_camera):
    return compare(*products, camera=small_camera)


def paths(folder):
    return folder / "sky" / "flat_gradient_reference.fits", folder / "dome" / "flat_gradient.fits"


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


def test_a_corrected_dome_has_the_shape_of_the_sky(products, tables, paired):
    """Corrected with the gradient that is tied to the sky, without the sky's own plane: that alone is left."""
    sky, _ = products
    tied = paired.tied
    table = tables[1]
    factor = tied.compute_plane(table.xf, table.yf) / tied.normalization_factor
    factor *= sky.compute_radial(sky.radius(table.xf, table.yf)) / tied.compute_radial(tied.radius(table.xf, table.yf))
    corrected = replace(table, value=table.value * factor)
    refitted = bayesflat.fit(corrected, bayesflat.FitConfig(
        radial_spline_nodes=NODES, do_fit_centroid=True, do_fit_gradient=True, centroid_max=2.0,
    ))  # fmt: skip
    assert refitted.gradient.normalization_factor == pytest.approx(1.0, abs=1e-3)
    for name in ("gradient_x", "gradient_y"):
        found = refitted.gradient.estimates[name]
        assert abs(found["map"]) < 3 * found["sd"]
    c = compare(sky, refitted.gradient, binned=(tables[0], corrected))
    for name in ("centroid_delta_x", "centroid_delta_y"):
        assert abs(c.differences[name].mean) < 4 * c.differences[name].sd
    assert c.differences["itl_ratio"].mean == pytest.approx(paired.differences["itl_ratio"].mean, abs=1e-4)
    for name in ("gradient_x", "gradient_y"):
        assert abs(c.differences[name].mean + getattr(sky, name)) < 5 * c.differences[name].sd
    shown = (c.grid > 1) & (c.grid < 50)
    assert np.all(np.abs(c.radial["mean"])[shown] < 4.5 * c.radial["sd"][shown])


def test_tied_gradient_is_the_sky_and_the_ratio(products, paired, tmp_path):
    """Its covariance is the sum of the sky's and the ratio's."""
    sky, dome = products
    tied = paired.tied
    assert tied.normalization_factor == dome.normalization_factor
    assert tied.centroid_delta_x == pytest.approx(sky.centroid_delta_x + paired.differences["centroid_delta_x"].mean)
    inner = sky.radial_spline_nodes[1:-1]  # between them Akima's spline knows nothing of the ratio
    ratio = tied.compute_radial(inner) / sky.compute_radial(inner) / (tied.compute_radial(0) / sky.compute_radial(0))
    np.testing.assert_allclose(
        -2.5e3 * np.log10(ratio), np.interp(inner, paired.grid, paired.radial["mean"]), atol=1e-3
    )
    for name in COMPARED:
        expected = np.hypot(sky.estimates[name]["sd"], paired.differences[name].sd)
        assert tied.estimates[name]["sd"] == pytest.approx(expected, rel=1e-9)
    # the sky's mean is not quite its maximum
    for name in (*COMPARED, "log_radial[3]", "radial_spline_values[2]"):
        of_sky, found = sky.estimates[name], tied.estimates[name]
        scale = found["map"] / of_sky["map"] if name.startswith("radial_spline") else 1.0
        assert found["mean"] - found["map"] == pytest.approx(scale * (of_sky["mean"] - of_sky["map"]), rel=1e-6), name
        assert found["q50"] == found["mean"], name
    assert not tied.estimates.reference
    tied.write(tmp_path / "tied.fits")
    again = FlatGradient.read(tmp_path / "tied.fits")
    np.testing.assert_array_equal(again.estimates.covariance, tied.estimates.covariance)
    assert again.reach == tied.reach == sky.reach


def test_tied_curve_is_the_sky_times_the_ratio(products, tables, paired):
    """At radii between the places as well, with an error that is the sum of both."""
    sky, _ = products
    tied = paired.tied
    np.testing.assert_array_equal(tied.knots, sky.knots)
    # the same ratio, for its posterior
    found = ratio_of(products, tables)
    radius = np.linspace(0.0, tied.reach, 200)
    mean, rows = found.posterior.log_radial(radius)
    centre, of_centre = found.posterior.centre
    spline = tied.curve.spline
    ratio = spline.evaluate(tied.curve.best, radius) - spline.evaluate(sky.curve.best, radius)
    np.testing.assert_allclose(ratio, mean + centre, rtol=0, atol=1e-4)
    design = spline.design(radius)
    of_sky, of_tied = (np.einsum("ri,ij,rj->r", design, p.curve.covariance, design) for p in (sky, tied))
    of_ratio = found.posterior.sd(rows + of_centre) ** 2
    # the ratio has knots of its own, between which its variance waves
    np.testing.assert_allclose(np.sqrt(of_tied), np.sqrt(of_sky + of_ratio), rtol=0.02)
    # and so it is of the nodes, which describe it
    np.testing.assert_allclose(
        tied.compute_radial_sd(radius), tied.compute_radial(radius) * np.sqrt(of_tied), rtol=1e-9
    )
    reached = tied.radial_spline_nodes <= tied.reach
    nodes, values = tied.radial_spline_nodes[reached], tied.radial_spline_values[reached]
    misfit = values / np.exp(spline.evaluate(tied.curve.best, nodes))
    of_sky = sky.radial_spline_values[reached] / np.exp(spline.evaluate(sky.curve.best, nodes))
    np.testing.assert_allclose(misfit, of_sky, rtol=1e-4)


def ratio_of(products, tables):
    """The ratio that a paired comparison fits."""
    sky, _ = products
    data = [prepare(table, config_of(p)) for table, p in zip(tables, products, strict=True)]
    for k, product in enumerate(products):
        data[k] = data[k].select(product.radius(data[k].binned.xf, data[k].binned.yf) <= product.outermost_bin)
    return fit_ratio(*data, config_of(sky), curve=SkyCurve.of_product(sky), itl_ratio=sky.itl_ratio)


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


def test_tied_gradient_has_the_sky_s_nodes(products):
    """With a ratio of 1 values, curve and errors are the sky's too."""
    sky, dome = products
    nothing = SimpleNamespace(
        log_radial=lambda radius: (0.0 * radius, np.zeros((len(radius), 1))), centre=(0.0, np.zeros(1)),
        scalars=dict.fromkeys(SCALARS, (0.0, np.zeros(1))), covariance=np.zeros((1, 1)),
    )  # fmt: skip
    tied = tied_gradient(sky, dome, nothing, 50.0, True)
    assert tied.config["radial_spline_nodes"] == sky.radial_spline_nodes.tolist()
    np.testing.assert_allclose(tied.radial_spline_values, sky.radial_spline_values)
    assert tied.estimates["itl_ratio"]["sd"] == pytest.approx(sky.estimates["itl_ratio"]["sd"])
    np.testing.assert_array_equal(tied.knots, sky.knots)
    np.testing.assert_allclose(tied.curve.best, sky.curve.best, rtol=1e-12)
    np.testing.assert_allclose(tied.curve.covariance, sky.curve.covariance, rtol=1e-12)
    # products of an earlier version have no curve
    tied = tied_gradient(replace(sky, knots=None), dome, nothing, 50.0, True)
    assert tied.knots is None
    assert not any(name.startswith("log_radial") for name in tied.estimates.names)
    np.testing.assert_allclose(tied.compute_radial_sd(NODES), replace(sky, knots=None).compute_radial_sd(NODES))


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


# ---- what the command leaves ----


def test_command_leaves_what_the_comparison_says(folder, paired, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([str(a) for a in ["compare", *paths(folder), "-o", out]]) == 0
    left = {p.name for p in out.iterdir()}
    assert {"comparison.ecsv", "comparison.json", "comparison_map.png", "comparison_radial.png",
            "flat_gradient_paired.fits", "report.html"} <= left  # fmt: skip
    found = json.loads((out / "comparison.json").read_text())
    assert found["method"] == "paired"
    assert (found["rope_mmag"], found["radius"]) == (2.0, paired.radius)
    for name in COMPARED:
        assert list(found["differences"][name]) == ["mean", "sd", "q05", "q95", "tail", "p_rope"]
        for key, value in found["differences"][name].items():
            assert value == pytest.approx(getattr(paired.differences[name], key), rel=1e-6, abs=1e-12)
    assert set(found["radial"]) == {"radius", "mean", "sd", "q05", "q95"}
    np.testing.assert_allclose(found["radial"]["mean"], paired.radial["mean"], atol=1e-6)
    names = [entry["name"].split("/")[-1] for entry in found["inputs"]]
    assert names == ["flat_gradient_reference.fits", "flat_gradient.fits", "binned_image.fits", "binned_image.fits"]
    assert all(len(entry["sha256"]) == 64 for entry in found["inputs"])
    table = Table.read(out / "comparison.ecsv")
    assert table.colnames == ["detector", "name", "mean_mmag", "sd_mmag", "measured_mmag", "zone"]
    np.testing.assert_allclose(table["mean_mmag"], [d.mean_mmag for d in paired.detectors], atol=1e-6)
    text = capsys.readouterr().out
    assert "paired" in text
    assert "verdict: sky and dome differ by more than the tolerance" in text
    line = complaint(["compare", *paths(folder), "-o", out], capsys)
    assert "holds comparison.json already" in line


def test_command_compares_products_alone(folder, unpaired, tmp_path, capsys):
    """With --unpaired, and where no binned tables lie beside the products."""
    import shutil

    for name, kind in zip(("sky.fits", "dome.fits"), paths(folder), strict=True):
        shutil.copy(kind, tmp_path / name)
    for out, extra in (("a", [*paths(folder), "--unpaired"]), ("b", [tmp_path / "sky.fits", tmp_path / "dome.fits"])):
        assert run([str(a) for a in ["compare", *extra, "-o", tmp_path / out, "--rope", "5", "-q"]]) == 0
        found = json.loads((tmp_path / out / "comparison.json").read_text())
        assert (found["method"], found["rope_mmag"]) == ("unpaired", 5.0)
        assert found["differences"]["gradient_x"]["sd"] == pytest.approx(unpaired.differences["gradient_x"].sd)
        assert not (tmp_path / out / "flat_gradient_paired.fits").exists()
    # named tables, in another folder
    arguments = ["compare", tmp_path / "sky.fits", tmp_path / "dome.fits", "--binned", folder / "sky.fits",
                 folder / "dome.fits", "-o", tmp_path / "c", "-q"]  # fmt: skip
    assert run([str(a) for a in arguments]) == 0
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["method"] == "paired"
    # one table beside both products belongs to one of them only
    shutil.copy(folder / "sky.fits", tmp_path / "binned_image.fits")
    assert run([str(a) for a in [*arguments[:3], "-o", tmp_path / "d"]]) == 0
    said = capsys.readouterr()
    assert "lies beside both products" in " ".join(said.err.split())
    assert "unpaired (conservative)" in said.out


def test_products_without_uncertainties(products, small_camera, folder, tmp_path):
    """As LSST's products are: there are means, and no uncertainties beside them."""
    sky, dome = products
    c = compare(replace(sky, estimates=None), dome, camera=small_camera)
    assert any("sky's product has no uncertainties" in note for note in c.notes)
    found = comparison_summary(c)
    mean = dome.estimates["gradient_x"]["mean"]  # and the sky's value, which has no mean
    assert found["differences"]["gradient_x"]["mean"] == pytest.approx(mean - sky.gradient_x)
    assert found["differences"]["gradient_x"]["sd"] is None
    assert found["radial"]["q05"][5] is None
    json.dumps(found, allow_nan=False)
    assert c.verdict.word == found["verdict"] == "undecided"
    assert comparison_lines(c)[-1].endswith("uncertainties are missing; fit both flats with bayesflat")
    sky.write(tmp_path / "sky.yaml")
    dome.write(tmp_path / "dome.ecsv")
    arguments = ["compare", tmp_path / "sky.yaml", tmp_path / "dome.ecsv", "--camera", folder / "camera.ecsv"]
    assert run([str(a) for a in [*arguments, "-o", tmp_path / "out", "-q"]]) == 0


def test_a_comparison_of_what_did_not_converge(folder, products, tmp_path, capsys):
    dome = replace(products[1], estimates=replace(products[1].estimates, converged=False))
    dome.write(tmp_path / "dome.fits")
    arguments = ["compare", paths(folder)[0], tmp_path / "dome.fits", "-o", tmp_path / "out", "-q"]
    assert "the dome's fit did not converge (CONVERGD = F)" in complaint(arguments, capsys, status=3)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["converged"] is False


# ---- what is refused ----


def test_swapped_products(folder, tmp_path, capsys):
    sky, dome = paths(folder)
    assert "are they swapped?" in complaint(["compare", dome, sky, "-o", tmp_path / "out"], capsys)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rope", "0"], "rope: the tolerance must be above 0 mmag, got 0"),
        (["--radius", "400"], "radius: 400 mm; must be above 0 and at most"),
        (["--radius", "-1"], "radius: -1 mm; must be above 0 and at most"),
        (["--unpaired", "--binned", "a", "b"], "--binned is for a paired comparison"),
        (["--binned", "no.fits", "no.fits"], "no.fits: no such file"),
        (["--camera", "lsstcam"], "lies outside its detector"),
    ],
)
def test_options_that_are_wrong(folder, tmp_path, capsys, options, message):
    assert message in complaint(["compare", *paths(folder), "-o", tmp_path / "out", *options], capsys)
    assert list(tmp_path.iterdir()) == []


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
