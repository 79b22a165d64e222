"""Leaving one detector out: against dense conditional densities and refits; which terms a flat is told to need."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayesflat.data.camera import Camera
from bayesflat.errors import InputError
from bayesflat.inference.fitting import fit
from bayesflat.inference.hierarchical import HierarchicalObjective
from bayesflat.inference.loo import TERMS, compare_terms, leave_one_out
from bayesflat.inference.map import newton
from bayesflat.model.hierarchical import HierarchicalNoise
from tests.helpers import complaint, config_with, hierarchical_config, noisy_flat, small_config


@pytest.fixture(scope="module")
def fitted(small_camera):
    """One detector is off by 30%, so that own effects differ in scatter."""
    flat = noisy_flat(small_camera, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5))
    return fit(replace(flat, value=np.where(flat.detector == 7, 0.7, 1.0) * flat.value), small_config(seed=3))


def dense(objective, z):
    """Mean and covariance of the logs of all bins before they were seen, about the log of the mean at z."""
    n, noise, data = objective.n_mean, objective.noise, objective.data
    steps = 1e-5 * np.eye(objective.size)[:n]
    jacobian = np.column_stack([(objective.log_mean(z + h) - objective.log_mean(z - h)) / 2e-5 for h in steps])
    _, gradient, curvature = objective._prior(z)
    spread = np.linalg.inv(curvature[:n, :n])
    own, shared, white = noise.variances(objective.to_parameters(z)["log_noise_scales"])
    effects, u = noise.effects, noise.effects.design()
    vendor, detector, o, s = effects.vendor[effects.detector], effects.detector, effects.own, effects.shared
    covariance = jacobian @ spread @ jacobian.T + white * np.eye(len(data))
    same, alike = detector[:, None] == detector, vendor[:, None] == vendor
    covariance += np.where(same, (u[:, o] * own[vendor] * effects.times[detector] ** 2) @ u[:, o].T, 0.0)
    covariance += np.where(alike, (u[:, s] * shared[vendor]) @ u[:, s].T, 0.0)
    return -jacobian @ spread @ gradient[:n], covariance


def test_density_given_the_others_is_the_dense_one(fitted):
    """Conditional density of a multivariate normal: of values, whose logs are normal; outliers do not count."""
    found, data, z = leave_one_out(fitted), fitted.data, fitted.map.value
    mean, covariance = dense(fitted.objective, z)
    residual = np.log(data.value) - fitted.objective.log_mean(z) - mean
    good = data.weight > 0
    for row, number in enumerate(found.detector):
        here, others = good & (data.binned.detector == number), good & (data.binned.detector != number)
        solved = np.linalg.solve(
            covariance[np.ix_(others, others)], np.column_stack([covariance[np.ix_(others, here)], residual[others]])
        )
        cross = covariance[np.ix_(here, others)]
        conditional = covariance[np.ix_(here, here)] - cross @ solved[:, :-1]
        expected = multivariate_normal(cross @ solved[:, -1], conditional).logpdf(residual[here])
        expected -= np.log(data.value[here]).sum()
        assert found.elpd[row] == pytest.approx(expected, abs=1e-4), number


def test_density_agrees_with_a_fit_of_the_others(fitted):
    """At scales that the others choose: a detector that takes part gains about 1 / (number of detectors) a scale."""
    found, full = leave_one_out(fitted), fitted.objective
    gain = len(full.noise.labels) / 25
    ids = list(np.unique(fitted.data.binned.detector))
    for number in (3, 12, 18):
        others = fitted.data.select(fitted.data.binned.detector != number)
        reduced = HierarchicalObjective(others, full.config, HierarchicalNoise(others), full.parameters)
        z = newton(reduced, fitted.map.value, 0.01).z
        mean, covariance = dense(full, z)  # at their own scales, the detector itself not seen
        residual = np.log(fitted.data.value) - full.log_mean(z) - mean
        good = fitted.data.weight > 0
        densities = [
            multivariate_normal(mean=None, cov=covariance[np.ix_(rows, rows)]).logpdf(residual[rows])
            for rows in (good, good & (fitted.data.binned.detector != number))
        ]
        here = good & (fitted.data.binned.detector == number)
        expected = densities[0] - densities[1] - np.log(fitted.data.value[here]).sum()
        # a chi2 of so many degrees of freedom, over 25
        assert -0.2 < found.elpd[ids.index(number)] - expected < 3 * gain, number


@pytest.mark.parametrize(("plane", "wanted"), [(0.0, False), (6e-4, True)])
def test_a_plane_is_wanted_where_there_is_one(small_camera, plane, wanted):
    """Known to about 8e-5 a mm from 25 detectors that scatter by 1%."""
    binned = noisy_flat(small_camera, centroid_delta=(0.0, 0.0), gradient=(plane, -0.75 * plane))
    table = compare_terms(binned, hierarchical_config(do_constrain_zero=False))
    assert len(table) == 2 ** len(TERMS)
    assert table["elpd_diff"][0] == 0
    (enough,) = table["terms"][table["enough"]]
    assert ("gradient" in enough.split(" + ")) == wanted, table
    if wanted:
        without = [row for row in table if "gradient" not in row["terms"].split(" + ")]
        assert all(row["elpd_diff"] < -2 * row["dse"] for row in without)


def test_what_cannot_be_compared_is_refused(small_camera, tmp_path, capsys):
    binned = noisy_flat(small_camera)
    said = "leaving detectors out needs to know how they scatter: use noise = hierarchical"
    with pytest.raises(InputError, match=said):
        compare_terms(binned, config_with("normal"))
    with pytest.raises(InputError, match=said):
        leave_one_out(fit(binned, config_with("normal", do_constrain_zero=False)))
    one = Camera("One", [small_camera[12]])
    alone = fit(noisy_flat(one), hierarchical_config(do_constrain_zero=False, do_fit_centroid=False))
    with pytest.raises(InputError, match="one detector only: there is no other to predict it"):
        leave_one_out(alone)
    binned.write(tmp_path / "binned.fits")
    small_camera.write(tmp_path / "camera.ecsv")
    words = ["fit", tmp_path / "binned.fits", "-o", tmp_path / "out", "--camera", tmp_path / "camera.ecsv"]
    assert said in complaint([*words, "--compare-terms", "-c", "noise=independent"], capsys)
    assert not (tmp_path / "out").exists()
