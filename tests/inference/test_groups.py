"""ArviZ's groups of the posterior: values of replicates, priors and labels against what they are computed from anew."""

import arviz as az
import matplotlib
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from scipy.stats import multivariate_normal, norm

from bayesflat.data.camera import Camera, Detector
from bayesflat.inference.detectors import draw_detectors
from bayesflat.inference.draws import posterior_tree
from bayesflat.inference.fitting import fit
from bayesflat.inference.groups import add_groups
from bayesflat.inference.importance import laplace_draws
from bayesflat.inference.predictive import replicates
from bayesflat.model.build import build_model
from tests.helpers import PITCH, SIDE, config_with, message, noisy_flat, small_config

GROUPS = {
    "posterior", "unconstrained", "sample_stats", "log_likelihood", "log_prior", "prior", "prior_predictive",
    "posterior_predictive", "observed_data", "constant_data",
}  # fmt: skip


@pytest.fixture(scope="module")
def nine():
    """A camera of nine detectors, ITL on the left and on the right."""
    detectors = [
        Detector(
            id=10 + 3 * j + i, name=f"D{j}{i}", physical_type="E2V" if i == 1 else "ITL", purpose="science",
            x=(i - 1) * PITCH, y=(j - 1) * PITCH, yaw=0.0, nx=200, ny=200, pixel_size=SIDE / 200, refpos_x=99.5,
            refpos_y=99.5, amp_nx=4, amp_ny=2,
        )
        for j in range(3)
        for i in range(3)
    ]  # fmt: skip
    return Camera("Nine", detectors)


@pytest.fixture(scope="module")
def result(nine):
    return fit(noisy_flat(nine, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5)), small_config(seed=5))


@pytest.fixture(scope="module")
def tree(result):
    return laplace_draws(result, 320)


def test_every_group_with_names_units_and_provenance(result, tree, tmp_path):
    assert set(tree.children) == GROUPS
    tree.to_netcdf(tmp_path / "posterior.nc", engine="h5netcdf")
    back = xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf")
    posterior = back["posterior"]
    assert posterior["throughput"]["detector"].values.tolist() == list(range(10, 19))
    assert posterior["throughput"]["detector_name"].values.tolist() == [f"D{j}{i}" for j in range(3) for i in range(3)]
    assert posterior["shared_pattern"]["vendor"].values.tolist() == ["itl", "rest"]
    labels = posterior["shared_pattern"]["effect"].values.tolist()
    assert len(labels) == len(set(labels)) == result.objective.noise.shared_scale.shape[1]
    assert labels[:8] == [f"amplifier C{row}{column}" for row in range(2) for column in range(4)]
    assert labels[-6:] == ["slope x", "slope y", "rim low x", "rim high x", "rim low y", "rim high y"]
    units = {name: values.attrs.get("units") for name, values in posterior.variables.items()}
    assert units["centroid_delta"] == "mm"
    assert units["gradient"] == "1/mm"
    assert units["knot"] == units["node"] == "mm"
    assert units["itl_ratio"] == ""
    assert posterior.attrs["seed"] == 5
    assert posterior.attrs["inference_library"] == "bayesflat"
    assert posterior.attrs["sampling_time"] > 0
    assert {"bayesflat_version", "pymc_version", "arviz_version", "created_at"} <= set(back.attrs)


def test_labels_of_shared_effects_are_those_of_their_functions(result):
    """Slopes and rims by where they act: a slope along x differs from column to column of a row, and so on."""
    noise = result.objective.noise
    bins = np.flatnonzero(noise.effects.detector == 4)
    of = noise.effects.design(bins)[:, noise.effects.shared]
    x, y = result.data.dx[bins], result.data.dy[bins]
    at = {label: of[:, k] for k, label in enumerate(noise.shared_labels)}
    assert np.corrcoef(at["slope x"], x)[0, 1] == pytest.approx(1.0)
    assert np.corrcoef(at["slope y"], y)[0, 1] == pytest.approx(1.0)
    assert x[np.argmax(at["rim high x"])] == x.max()
    assert y[np.argmax(at["rim low y"])] == y.min()
    first = (x < np.quantile(x, 0.2)) & (y < np.quantile(y, 0.2))
    assert np.all(at["amplifier C00"][first] > 0.9)
    assert np.corrcoef(at["surface x1 y0"], x)[0, 1] > 0.9
    assert np.corrcoef(at["surface x0 y1"], y)[0, 1] > 0.9


def test_replicates_and_data_are_means_over_the_same_bins(result, tree):
    data = result.data
    left = np.log(data.value) - result.objective.log_mean(result.map.value)
    here = (data.binned.detector == 12) & (data.weight > 0)
    observed = tree["observed_data"]
    assert float(observed["detector_mean"].sel(detector=12)) == pytest.approx(left[here].mean(), abs=1e-14)
    constant = tree["constant_data"]
    assert int(constant["n_bins"].sel(detector=12)) == here.sum()
    assert float(constant["x"].sel(detector=12)) == PITCH
    ring = float(observed["ring"][7])
    half = 0.5 * (float(observed["ring"][8]) - ring)
    inside = (np.abs(data.radius - ring) <= half) & (data.weight > 0)
    assert float(observed["ring_mean"][7]) == pytest.approx(left[inside].mean(), abs=1e-12)
    # what is drawn scatters as the detectors do; data lie within
    drawn = tree["posterior_predictive"]["detector_mean"]
    scales = tree["posterior"]["log_noise_scales"].mean(("chain", "draw"))
    scatter = np.exp(float(scales.sel(noise_scale="detector itl")))
    assert 0.5 * scatter < float(drawn.sel(detector=10).std()) < 4 * scatter
    rank = (drawn < observed["detector_mean"]).mean(("chain", "draw"))
    assert 0.1 < float(rank.mean()) < 0.9
    assert float(tree["prior_predictive"]["detector_mean"].std()) > 3 * float(drawn.std())


def test_prior_draws_are_of_the_priors(result, tree):
    for p in result.objective.parameters[1:]:
        drawn = tree["prior"][p.name].values.reshape(-1, *p.mu.shape)
        n = len(drawn)
        assert n == 100
        assert np.all(np.abs(drawn.mean(0) - p.mu) < 4.5 * p.sigma / n**0.5), p.name
        if p.name != "centroid_delta":  # truncated
            assert np.all(np.abs(drawn.std(0) / p.sigma - 1) < 4.5 / (2 * n) ** 0.5), p.name


def test_full_replicates_on_request(result):
    found = replicates(result, 30, seed=2)
    flat = found["posterior_predictive"]["flat"]
    assert flat.dims == ("chain", "draw", "bin")
    np.testing.assert_array_equal(found["observed_data"]["flat"], result.data.value)
    np.testing.assert_array_equal(found["constant_data"]["detector"], result.data.binned.detector)
    logs = np.log(flat.values[0])
    means = np.array([logs[:, result.data.binned.detector == d].mean(1) for d in range(10, 19)])
    assert 2e-3 < means.std(1).mean() < 3e-2  # detectors are drawn anew


def test_arviz_reads_what_it_knows(tree):
    """Each of ArviZ's tools at numbers that are computed here in another way."""
    matplotlib.use("agg")
    summary = az.summary(tree, var_names=["centroid_delta", "gradient"], round_to="none")
    x = tree["posterior"]["centroid_delta"].sel(axis="x").values
    assert summary.loc["centroid_delta[x]", "mean"] == pytest.approx(x.mean())
    assert summary.loc["centroid_delta[x]", "sd"] == pytest.approx(x.std(ddof=1), rel=2e-3)
    assert list(summary.index) == ["centroid_delta[x]", "centroid_delta[y]", "gradient[x]", "gradient[y]"]
    plotted = az.plot_ppc_dist(tree, var_names="detector_mean", kind="ecdf", num_samples=5)
    assert plotted.viz["observed_dist"]["detector_mean"].item() is not None
    lines = [line.get_xdata() for line in plotted.viz["figure"].item().axes[0].get_lines()]
    observed = tree["observed_data"]["detector_mean"].values
    ends = [[line.min(), line.max()] for line in lines if len(line)]
    assert np.isclose(ends, [observed.min(), observed.max()], rtol=1e-6).all(1).any()
    az.plot_forest(tree, var_names=["throughput"])
    az.plot_pair(tree, var_names=["itl_ratio", "gradient"])
    matplotlib.pyplot.close("all")


def test_joint_log_likelihood_does_not_touch_that_of_the_detectors(result, tree):
    """PyMC's joint one is of the model's own parameters, in a tree of its own."""
    z = tree["unconstrained"]["z"].values[:1, :3]
    objective = result.objective
    own = {p.variable: np.array([[objective.to_parameters(point)[p.name] for point in z[0]]])
           for p in objective.parameters}  # fmt: skip
    model = build_model(result.data, result.config)
    dims = {name: list(model.named_vars_to_dims.get(name, ())) for name in own}
    draws = az.from_dict(
        {"posterior": own}, dims=dims, coords={name: list(values) for name, values in model.coords.items()}
    )
    pm.compute_log_likelihood(draws, model=model, progressbar=False)
    assert list(draws["log_likelihood"].data_vars) == ["flat"]
    joint = draws["log_likelihood"]["flat"].values[0]
    found = draw_detectors(model, draws, amplifiers=True, seed=1)
    assert list(found["log_likelihood"].data_vars) == ["value"]
    for k, point in enumerate(z[0]):
        # Bayes' theorem for the pattern c: p(y) = p(y | c) p(c) / p(c | y)
        _, covariance, marginal = objective.effects(point)
        bayes = float(found["log_likelihood"]["value"][0, k].sum())
        for v, c in enumerate(found["posterior"]["shared_pattern"].values[0, k]):
            bayes += norm.logpdf(c, 0, np.sqrt(covariance.shared[v])).sum()
            conditional = multivariate_normal(marginal.shared[v], covariance.shared_conditional[v], allow_singular=True)
            bayes -= conditional.logpdf(c)
        assert bayes == pytest.approx(joint[k], rel=1e-8)
    posterior = found["posterior"]
    itl = posterior["detector_name"].str.endswith("1").values
    np.testing.assert_allclose(posterior["throughput"].values[..., itl].mean(-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(posterior["amplifier_throughput"].mean("amplifier"), posterior["throughput"], rtol=1e-12)
    # with the vendors' means, the model's parameters are those of the product
    product = objective.product(z[0, 0])["itl_ratio"]
    mean = posterior["vendor_throughput"].values[0, 0]
    assert own["itl_ratio"][0, 0] * mean[0] / mean[1] == pytest.approx(float(product), abs=3e-3)


def test_draws_of_another_model_are_refused(nine, result, tree):
    other = fit(noisy_flat(nine), config_with("normal", do_constrain_zero=False))
    assert "with independent noise detectors do not scatter" in message(draw_detectors, other.model, tree)
    without = az.from_dict({"posterior": {"itl_ratio": np.ones((1, 2))}})
    assert "the draws are of another model: they have no log_radial, centroid_delta" in message(
        draw_detectors, build_model(result.data, result.config), without
    )


def test_a_flat_prior_has_no_prior_group(nine):
    result = fit(noisy_flat(nine), config_with("normal", do_constrain_zero=False, priors={"itl_ratio": "flat"}))
    z = result.map.value + np.zeros((1, 4, 1))
    tree = posterior_tree(result.objective, z, 1)
    add_groups(tree, result.objective, result.map.value, 1, library="bayesflat", seconds=1.0)
    assert set(tree.children) == GROUPS - {"prior", "prior_predictive", "sample_stats"}
    observed, drawn = (tree[group]["ring_mean"] for group in ("observed_data", "posterior_predictive"))
    assert np.all(np.abs(drawn - observed) < 0.02)
