"""A fit in hand: its table with units, its ten lines, its HTML, and its plots; and posteriors of earlier versions."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy import units as u

from bayesflat.cli import run
from bayesflat.inference.draws import posterior_tree
from bayesflat.inference.fitting import fit
from tests.helpers import config_with, message, noisy_flat, small_config


@pytest.fixture(scope="module")
def result(small_camera):
    return fit(noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5)), small_config())


def test_summary_has_the_estimates_with_units(result):
    table, estimates = result.summary(), result.gradient.estimates
    assert list(table["statistic"]) == ["map", "mean", "sd", "q05", "q50", "q95"]
    assert [name for name in table.colnames if not name.startswith("radial")][1:] == [
        "itl_ratio", "centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y",
    ]  # fmt: skip
    assert table["gradient_x"].unit == 1 / u.mm
    for name in ("gradient_x", "centroid_delta_y", "itl_ratio"):
        for key in ("map", "sd", "q95"):
            assert u.Quantity(table.loc[key][name]).value == estimates[name][key]
    slope = table.loc["map"]["gradient_x"] * 1 * u.m  # what it does over a metre
    assert slope.to_value(u.dimensionless_unscaled) == pytest.approx(1e3 * estimates["gradient_x"]["map"])
    radius = float(table.colnames[-1].removeprefix("radial_"))
    assert float(table.loc["map"][table.colnames[-1]]) == pytest.approx(float(result.gradient.compute_radial(radius)))
    assert float(table.loc["sd"][table.colnames[-1]]) == pytest.approx(float(result.gradient.compute_radial_sd(radius)))


def test_a_fit_is_printed_in_ten_lines(result):
    text = str(result)
    assert text == repr(result)
    lines = text.splitlines()
    assert len(lines) <= 11
    assert lines[0] == (
        f"SmallCam dome flat: {len(result.data):,} bins of 25 detectors, hierarchical noise, errors from Laplace's "
        "approximation"
    )
    row = result.gradient.estimates["centroid_delta_x"]
    (line,) = (line for line in lines if line.strip().startswith("centroid"))
    found = re.search(r"([\d.−]+) ± ([\d.]+), ([\d.−]+) ± ([\d.]+) mm$", line)
    assert float(found[1]) == pytest.approx(row["map"], abs=0.06 * row["sd"])
    assert float(found[2]) == pytest.approx(row["sd"], rel=0.06)
    assert lines[-1].startswith(f"verdict: {result.judgement.word}")
    html = result._repr_html_()
    assert html.count("<tr>") == 5 + sum("radial function" in line for line in lines)
    assert "10⁻⁶/mm" in html


def test_plots_are_those_of_the_public_functions(result):
    figures = [
        result.plot_model_residual(), result.plot_radial_model(), result.plot_offsets(), result.plot_correlations(),
        result.plot_predictive(10),
    ]  # fmt: skip
    assert len({id(figure) for figure in figures}) == 5
    # the image of the model is that of the fit: brightest where the model is
    assert all(len(figure.axes) >= 2 for figure in figures)
    plt.close("all")


def test_what_a_fit_lacks_is_said(small_camera):
    kinked = fit(noisy_flat(small_camera), config_with("laplace", do_constrain_zero=False))
    assert message(kinked.plot_offsets) == "noise = independent: the fit has no throughputs of detectors"
    assert message(kinked.plot_correlations) == "likelihood = laplace: the fit has no errors to plot"
    assert "no errors" not in str(kinked).splitlines()[1]
    assert np.isnan(u.Quantity(kinked.summary().loc["sd"]["itl_ratio"]).value)


def test_a_posterior_of_before_lies_beside_a_product_that_is_compared(result, small_camera, tmp_path):
    """The groups of before are those that a tree has before anything is added; `compare` needs no draws."""
    camera = tmp_path / "camera.ecsv"
    small_camera.write(camera)
    for kind in ("sky", "dome"):
        (tmp_path / kind).mkdir()
        result.gradient.write(tmp_path / kind / "flat_gradient.fits")
        z = result.map.value + np.zeros((1, 2, 1))
        old = posterior_tree(result.objective, z, 1)
        assert set(old.children) == {"posterior", "log_likelihood", "log_prior", "unconstrained"}
        old.to_netcdf(tmp_path / kind / "posterior.nc", engine="h5netcdf")
    out = tmp_path / "out"
    products = [str(tmp_path / kind / "flat_gradient.fits") for kind in ("sky", "dome")]
    assert run(["compare", *products, "--camera", str(camera), "-o", str(out), "-q"]) == 0
    assert (out / "comparison.json").is_file()
    back = xr.open_datatree(tmp_path / "sky" / "posterior.nc", engine="h5netcdf")
    np.testing.assert_allclose(
        back["posterior"]["gradient"].values[0, 0], result.map.parameters["gradient"], rtol=1e-12
    )
