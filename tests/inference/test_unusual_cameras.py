"""Unlike LSSTCam: steep tilts, rotated rafts, a hole in the middle, detectors of half size, one alone."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from bayesflat.data.camera import Camera, Detector
from bayesflat.inference.fitting import fit
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES, message, noisy_flat, small_config

AUTO = small_config().replace(radial_spline_nodes="auto")


def halved(detector):
    ny = detector.ny // 2
    return replace(detector, ny=ny, refpos_y=(ny - 1) / 2)


CAMERAS = {
    "as it is": lambda detectors: detectors,
    "rafts turned by quarters": lambda detectors: [replace(d, yaw=90.0 * (d.id // 5 % 4)) for d in detectors],
    "turned by 30 degrees": lambda detectors: [replace(d, yaw=30.0) for d in detectors],
    "some of half size": lambda detectors: [halved(d) if d.id % 5 == 0 else d for d in detectors],
    "a hole of 30 mm": lambda detectors: [d for d in detectors if np.hypot(d.x, d.y) > 30.5],
}


@pytest.mark.parametrize(
    ("kind", "plane"), [("as it is", 6.3e-3), *((kind, 1e-4) for kind in CAMERAS if kind != "as it is")]
)
def test_plane_and_centroid_are_recovered(small_camera, kind, plane):
    """Within four of their own sd; 6.3e-3 a mm is a tilt of 33% at the rim."""
    camera = Camera("Unusual", CAMERAS[kind](list(small_camera)))
    truth = {"gradient_x": plane, "gradient_y": -0.3 * plane, "centroid_delta_x": 0.3, "centroid_delta_y": -0.2}
    flat = noisy_flat(camera, centroid_delta=(0.3, -0.2), gradient=(plane, -0.3 * plane))
    result = fit(flat.select(np.hypot(flat.xf, flat.yf) < 58.0), AUTO)
    assert result.converged
    for name, value in truth.items():
        found = result.gradient.estimates[name]
        assert abs(found["mean"] - value) < 4 * found["sd"], name
    assert abs(result.gradient.estimates["gradient_x"]["sd"]) < 1e-4


def test_fields_of_long_detectors_are_described_as_well():
    """Twice as high as wide, as DECam's: fields that are small beside the height are no sign of anything odd.

    Taken for squares, these detectors were left with structure: p = 0.001 for the azimuth, and a centroid 3 sd off.
    """
    nx, ny = 100, 200
    detectors = [
        Detector(
            id=6 * j + i, name=f"D{j}{i}", physical_type="CCD", purpose="science", x=21.0 * (i - 2.5),
            y=41.0 * (j - 1.0), yaw=0.0, nx=nx, ny=ny, pixel_size=0.2, refpos_x=(nx - 1) / 2, refpos_y=(ny - 1) / 2,
        )
        for j in range(3)
        for i in range(6)
    ]  # fmt: skip
    light = Light(radial=([0, 30, 50, 65, 85], [1.0, 0.97, 0.85, 0.6, 0.3]), centroid_delta=(0.3, -0.2))
    noise = Noise(white=0.0007, detector_scatter=0.005, amplifier_scatter=0.002, own_field=0.004, field_scale=6.0)
    flat = simulate_binned(Camera("Long", detectors), light, noise, 3, bin_factor=8, detector_boundary=0)
    result = fit(flat, AUTO.replace(do_fit_gradient=False))
    assert result.data.smooth == pytest.approx(6.0 / 20.0, rel=0.1)  # of the width
    header = result.gradient.estimates.header
    assert header["AZPVAL"][0] > 0.01
    assert header["FLDPVAL"][0] > 0.01
    for axis, truth in (("x", 0.3), ("y", -0.2)):
        found = result.gradient.estimates[f"centroid_delta_{axis}"]
        assert abs(found["mean"] - truth) < 4 * found["sd"]


def test_nothing_to_normalize_by_is_said(small_camera):
    camera = Camera("Hole", CAMERAS["a hole of 30 mm"](list(small_camera)))
    config = AUTO.replace(normalize_center_radius=15.0)
    said = message(fit, noisy_flat(camera), config)
    assert said == (
        "no good bin within normalize_center_radius = 15 mm of (0, 0) to normalize by; move the pivot, or enlarge the "
        "radius"
    )


def test_one_detector(small_camera):
    """Its own throughput is all that it has: the radial function is the light on it, relative to its centre."""
    camera = Camera("One", [small_camera[12]])
    result = fit(noisy_flat(camera), AUTO.replace(do_fit_centroid=False, do_fit_gradient=False))
    assert result.converged
    radius = np.array([3.0, 6.0, 9.0])
    found = result.gradient.compute_radial(radius) / result.gradient.compute_radial(1.0)
    light = Akima1DInterpolator(NODES, VALUES)
    np.testing.assert_allclose(found, light(radius) / light(1.0), atol=3e-3)
    assert result.gradient.itl_ratio == 1.0
