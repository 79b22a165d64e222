"""The gradient that is tied to the sky is the sky times the ratio, and a dome corrected with it has the sky's shape."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import bayesflat
from bayesflat.comparison.comparison import compare, config_of
from bayesflat.comparison.ratio import fit_ratio
from bayesflat.comparison.ratio_mean import SkyCurve
from bayesflat.comparison.tied import tied_gradient
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import prepare
from bayesflat.quantities import COMPARED, SCALARS
from tests.helpers import NODES


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
