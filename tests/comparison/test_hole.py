"""Comparison of flats of a camera with no detector in the middle."""

import numpy as np

import bayesflat
from bayesflat.comparison.comparison import compare
from bayesflat.config import FitConfig
from bayesflat.quantities import MMAG
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Noise
from tests.helpers import DOME_LIGHT, SKY_LIGHT


def test_a_hole_in_the_middle(small_camera):
    """Nothing is relative to a centre where no bin is: the truth is that of the ring around the hole."""
    ring = small_camera.subset([d.id for d in small_camera if np.hypot(d.x, d.y) > 35])
    noise = Noise(white=7e-4, detector_scatter=0.01)
    options = {"bin_factor": 10, "detector_boundary": 0}
    config = FitConfig(do_fit_centroid=True, do_fit_gradient=True, centroid_max=2.0, normalize_center_radius=45.0)
    sky, dome = (
        bayesflat.fit(simulate_binned(ring, light, noise, 5, kind=kind, **options), config)
        for kind, light in (("sky", SKY_LIGHT), ("dome", DOME_LIGHT))
    )
    found = compare(sky, dome)
    inner = sky.gradient.radial_spline_nodes[0]
    assert found.grid[0] == inner > 25
    radial = [light.radial_function(found.grid) for light in (SKY_LIGHT, DOME_LIGHT)]
    expected = MMAG * (np.log(radial[0] / radial[0][0]) - np.log(radial[1] / radial[1][0]))
    off = found.radial["mean"] - expected
    assert np.all(np.abs(off[1:]) < 4 * found.radial["sd"][1:])
    assert max(found.radial["sd"].max(), found.map_sd.max()) < 2.0  # hundreds, relative to the centre
    # the dome's gradient has the level that goes with it, but for what Akima's spline misses
    p = found.positions
    ratio = np.log(found.tied.compute_model(p.xf, p.yf, p.itl) / sky.gradient.compute_model(p.xf, p.yf, p.itl))
    assert np.std(-MMAG * ratio - found.map_mmag) < 0.5
