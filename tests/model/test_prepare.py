"""Normalization and cuts, re-derived."""

import logging

import numpy as np
import pytest

from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import lsstcam
from bayesflat.errors import InputError
from bayesflat.model.prepare import prepare


def flat(values, radii, detectors=None):
    """Bins along the x axis of LSSTCam, on whichever detector of the middle row they fall."""
    camera = lsstcam()
    radii = np.asarray(radii, dtype=float)
    if detectors is None:
        detectors = [next(d.id for d in camera if d.is_science and abs(d.y) < 1 and abs(d.x - r) < 21.2) for r in radii]
    itl = [camera[int(d)].is_itl for d in detectors]
    columns = {"xf": radii, "yf": np.zeros_like(radii), "value": values, "detector": detectors, "itl": itl}
    return BinnedFlat.from_columns(columns, camera)


def test_divides_by_the_median_of_the_central_region():
    data = prepare(flat([90, 100, 110, 80, 75.0], [0, 10, 25, 26, 100]), FitConfig())
    assert data.normalization == 100.0
    assert data.level == 1.0
    assert data.value.tolist() == [0.9, 1.0, 1.1, 0.8, 0.75]


def test_without_normalization_values_stay_and_cuts_scale_with_the_median():
    data = prepare(flat([90, 100, 110, 4.9, 5.1, 150.1, 149.9], [0, 10, 25, 50, 51, 52, 53]),
                   FitConfig(do_normalize_center=False))  # fmt: skip
    assert data.normalization == 1.0
    assert data.level == 100.0
    assert data.value.tolist() == [90, 100, 110, 5.1, 149.9]


def test_dead_bins_at_the_centre_do_not_shift_the_normalization():
    dead = [0.0] * 6 + [-3.0, np.nan, 1.0, 2.0]
    data = prepare(flat([*dead, 99, 100, 101], np.linspace(0, 20, 13)), FitConfig())
    assert data.normalization == 100.0
    assert data.value.tolist() == [0.99, 1.0, 1.01]


@pytest.mark.parametrize("values", [[np.nan, 0.0, -1.0, 50.0], [0.0, 0.0, 0.0, 50.0]])
def test_no_good_bin_at_the_centre(values):
    with pytest.raises(InputError, match=r"no good bin within normalize_center_radius = 25 mm of \(0, 0\)"):
        prepare(flat(values, [0, 5, 20, 100]), FitConfig())


def test_pivot_moves_centre_and_radius():
    config = FitConfig(fp_centroid_x=100.0, radial_spline_nodes=[0, 50, 100], noise="independent")
    data = prepare(flat([7.0, 8.0, 9.0, 5.0], [0, 100, 110, 210]), config)
    assert data.normalization == 8.5
    assert data.dx.tolist() == [-100.0, 0.0, 10.0]  # 210 lies 110 from the pivot
    assert data.dropped["beyond 100 mm"] == 1


@pytest.mark.parametrize(("centroid", "last"), [(False, 300.0), (True, 290.0)])
def test_bins_stay_within_the_nodes_for_every_centroid_that_the_prior_allows(centroid, last):
    radii = np.array([0.0, 100, 200, 289.9, 290.1, 299.9, 300.1])
    config = FitConfig(radial_spline_nodes=[0, 150, 300], do_fit_centroid=centroid, noise="independent")
    data = prepare(flat(np.ones(7), radii), config)
    assert data.dx.tolist() == radii[radii <= last].tolist()


def test_nodes_of_hierarchical_noise_leave_out_no_bin():
    """There they describe the fitted curve, wherever they end."""
    radii = np.array([0.0, 100, 200, 299.9, 300.1, 310.0])
    config = FitConfig(radial_spline_nodes=[0, 150, 300], do_fit_centroid=True, noise="hierarchical")
    data = prepare(flat(np.ones(6), radii), config)
    assert data.dx.tolist() == radii.tolist()
    assert data.rim == 310.0
    assert len(data.nodes) == 0


def test_counts_what_is_left_out_and_why(caplog):
    values = [100, 100, np.nan, 1.0, 200.0, 50.0]
    with caplog.at_level(logging.INFO, "bayesflat"):
        config = FitConfig(radial_spline_nodes=[0, 150, 300], noise="independent")
        data = prepare(flat(values, [0, 10, 50, 60, 70, 310]), config)
    assert list(data.dropped.values()) == [0, 1, 1, 1, 1]
    assert "1 of 6 bins left out: beyond 300 mm" in caplog.text


def test_guiders_stay_out_unless_asked_for():
    camera = lsstcam()
    guider = camera[189]
    columns = {"xf": [0.0, 1.0, guider.x], "yf": [0.0, 0.0, guider.y], "value": [1.0, 1.0, 0.7],
               "detector": [94, 94, 189], "itl": [False, False, True]}  # fmt: skip
    binned = BinnedFlat.from_columns(columns, camera)
    assert prepare(binned, FitConfig()).value.tolist() == [1.0, 1.0]
    both = prepare(binned, FitConfig(do_use_non_science_detectors=True))
    assert both.value.tolist() == [1.0, 1.0, 0.7]
    assert both.has_ratio


def test_nothing_left_says_why():
    with pytest.raises(InputError, match="no bin of 3 is left to fit: 3 below min_flat_value"):
        prepare(flat([1.0, 1.0, 1.0], [0, 1, 2]), FitConfig(min_flat_value=1.2))
