"""A simulation of the small camera, and a fit of it by the command line."""

import pytest

from bayesflat.cli import run
from bayesflat.simulation.flats import write_simulation
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES

FIT = ["-c", "bin_factor=10", "-c", "detector_boundary=0", "-c", "radial_spline_nodes=0,20,35,45,52,60",
       "-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true", "-c", "centroid_max=2",
       "-c", "do_constrain_zero=false"]  # fmt: skip
TRUTH = {"centroid_delta": (0.8, -0.6), "gradient": (2e-4, -1e-4), "itl_ratio": 0.9}


@pytest.fixture(scope="package")
def simulation(small_camera, tmp_path_factory):
    """Flats and defects of the small camera, and the camera's table."""
    out = tmp_path_factory.mktemp("simulation") / "dome"
    light = Light(radial=(NODES, VALUES), **TRUTH)
    write_simulation(
        out, kind="dome", seed=3, camera=small_camera, light=light, noise=Noise(white=0.0005, dead_columns=2)
    )
    return out


@pytest.fixture(scope="package")
def fitted(simulation, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "out"
    arguments = ["fit", str(simulation / "flats"), "--defects", str(simulation / "defects"), "-o", str(out), *FIT]
    assert run([*arguments, "--camera", str(simulation / "camera.ecsv"), "-q"]) == 0
    return out
