"""Steps of the noise scales."""

import numpy as np
import pytest
from scipy.optimize import minimize

from bayesflat.inference.rough import rough_fit
from bayesflat.inference.scales import fit_scales, lengthened
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.log_mean import LogMean
from bayesflat.model.prepare import prepare
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light
from tests.helpers import DETECTOR_NOISE, NODES, VALUES, small_config


@pytest.mark.parametrize("times", [1e-3, 0.5, 1.0, 2.0, 3.0])
def test_a_step_ends_at_the_scatter_of_the_residuals(rng, times):
    """Fisher's step of the log of a standard deviation: slope ``n (s**2 / sigma**2 - 1)``, information ``2 n``."""
    residual = rng.normal(0, 0.02, 500)
    scatter = np.sqrt(np.mean(residual**2))
    sigma = times * scatter
    slope = np.sum(residual**2) / sigma**2 - len(residual)
    step = lengthened(np.array([slope / (2 * len(residual))]))
    np.testing.assert_allclose(sigma * np.exp(step), scatter, rtol=1e-12)


def test_a_step_down_is_no_longer_than_a_factor_of_four():
    step = lengthened(np.array([-0.499, -5.0]))
    assert step[0] == step[1]
    assert np.log(3) < -step[0] < np.log(4)


@pytest.mark.parametrize("far", [-2.0, 0.0, 2.0])
def test_scales_end_at_their_maximum_wherever_they_begin(small_camera, far):
    """Within a standard deviation, from scales that are e**2 times off too: SciPy's search gains less than 0.5."""
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9)
    config = small_config()
    data = prepare(simulate_binned(small_camera, light, DETECTOR_NOISE, 8, bin_factor=10, detector_boundary=0), config)
    rough = rough_fit(data, config)
    data, noise = data.select(rough.inside), HierarchicalNoise(data.select(rough.inside))
    residual = np.log(data.value) - LogMean(data, config, rough.radial.spline)(rough.parameters)
    typical, width = noise.typical_scales()

    def cost(scales):
        covariance = noise.covariance(scales)
        found, away = covariance.marginal(residual), (scales - typical) / width
        return away @ away / 2 - found.log_likelihood, away / width - noise.by_log_scales(covariance, found, scales)

    found = fit_scales(noise, residual, typical + far, typical, width)
    best = minimize(cost, found, jac=True, method="BFGS")
    assert 0 <= cost(found)[0] - best.fun < 0.5
