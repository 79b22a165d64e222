"""What tests of several folders share: radial functions, small flats, configurations, and how errors are caught."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from bayesflat.cli import run
from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.spline import spread_knots
from bayesflat.model.radial import RadialPrior
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise

# the small camera: 5 x 5 detectors of 20 mm; as many bins in each as LSSTCam's would have if bins were 2 mm
PITCH, SIDE = 21.0, 20.0

# radial function on the small camera
NODES = [0.0, 20.0, 35.0, 45.0, 52.0, 60.0]
VALUES = np.array([1.0, 0.97, 0.9, 0.75, 0.5, 0.3])

# radial function on LSSTCam
LSST_NODES = [0.0, 100, 200, 250, 275, 290, 300, 310, 315, 320, 325, 333, 340, 350, 368]
LSST_VALUES = [1.0, 0.997, 0.986, 0.969, 0.949, 0.94, 0.937, 0.91, 0.88, 0.845, 0.796, 0.699, 0.609, 0.499, 0.0]


class Watching:
    """Watches stages: what began, with how many steps, and how many were done in each."""

    def __init__(self, interrupt_at=None):
        self.stages, self.done, self.said, self.interrupt_at = [], [], [], interrupt_at

    def begin(self, name, total):
        self.stages.append((name, total))
        self.done.append(0)

    def advance(self, steps):
        self.done[-1] += steps
        if self.interrupt_at == (self.stages[-1][0], self.done[-1]):
            raise KeyboardInterrupt

    def say(self, text):
        self.said.append(text)


# ---- configurations for the small camera ----

SWITCHES = ("do_fit_centroid", "do_fit_gradient", "do_fit_outer_gradient", "do_constrain_zero")
CENTROID_AND_PLANE = {"do_fit_centroid": True, "do_fit_gradient": True, "do_constrain_zero": False}


def every_switch():
    """Every combination of the switches; in the last one all are on."""
    return [dict(zip(SWITCHES, on, strict=True)) for on in itertools.product((False, True), repeat=len(SWITCHES))]


def config_with(likelihood="student_t", *, noise="independent", **more):
    return FitConfig(
        radial_spline_nodes=NODES, outer_gradient_radius=40.0, noise=noise, likelihood=likelihood, min_flat_value=0.01,
        normalize_center_radius=60.0, centroid_max=2.0, **more,
    )  # fmt: skip


def hierarchical_config(**more):
    return config_with(None, noise="hierarchical", **more)


def small_config(**more):
    """Hierarchical noise, centroid and plane, and a last node that is free."""
    return hierarchical_config(**CENTROID_AND_PLANE, **more)


# ---- binned flats of the small camera ----


def small_flat(camera, rng, n=400, level=2000.0, vendors="both"):
    """Bins at random places on a small camera, dim towards the rim, tilted, with noise."""
    keep = {"both": (True, True), "itl": (True, False), "rest": (False, True)}[vendors]
    detectors = [d for d in camera if keep[0 if d.is_itl else 1]]
    which = rng.integers(len(detectors), size=n)
    px, py = rng.uniform(0, 199, (2, n))
    columns = {name: np.empty(n) for name in ("xf", "yf")} | {
        "detector": np.array([detectors[i].id for i in which]),
        "itl": np.array([detectors[i].is_itl for i in which]),
    }
    for row, i in enumerate(which):
        columns["xf"][row], columns["yf"][row] = detectors[i].pixel_to_focal_plane(px[row], py[row])
    radius = np.hypot(columns["xf"] - 0.5, columns["yf"] + 0.3)
    value = Akima1DInterpolator(NODES, VALUES)(np.clip(radius, 0, 60)) * np.where(columns["itl"], 0.9, 1.0)
    value *= 1 + rng.normal(0, 0.003, n)
    return BinnedFlat.from_columns({**columns, "value": level * value}, camera)


DETECTOR_NOISE = Noise(white=0.002, detector_scatter=0.005, amplifier_scatter=0.002, own_field=0.002, field_scale=5.0)


def noisy_flat(camera, seed=4, **light):
    """All bins of a camera, 10 x 10 in each detector, whose detectors scatter."""
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9, **light)
    return simulate_binned(camera, light, DETECTOR_NOISE, seed, bin_factor=20, detector_boundary=0)


SKY_LIGHT = Light(radial=(NODES, VALUES), centroid_delta=(0.3, -0.2), itl_ratio=0.9, level=5000.0)
DOME_LIGHT = Light(radial=(NODES, VALUES), bend=0.4, centroid_delta=(-0.5, 0.4), gradient=(2e-4, -1e-4), itl_ratio=0.92)


def simulate_pair(camera):
    """A sky and a dome that the same detectors see, by their kind."""
    noise = Noise(white=0.0007, detector_scatter=0.01, amplifier_scatter=0.003)
    options = {"bin_factor": 10, "detector_boundary": 0, "physical_filter": "i_39"}
    lights = {"sky": SKY_LIGHT, "dome": DOME_LIGHT}
    return {kind: simulate_binned(camera, light, noise, 5, kind=kind, **options) for kind, light in lights.items()}


def fit_pair(camera, folder, options, kinds=None):
    """Fit the pair with the command line: a folder each, beside the binned tables and the camera.

    Parameters
    ----------
    camera : Camera
    folder : pathlib.Path
    options : list of str
        Of ``bayesflat fit``.
    kinds : dict of str to str, optional
        Which kind is fitted into which folder; by default each into that of its name.
    """
    camera.write(folder / "camera.ecsv")
    for kind, binned in simulate_pair(camera).items():
        binned.write(folder / f"{kind}.fits")
    for name, kind in (kinds or {"sky": "sky", "dome": "dome"}).items():
        arguments = ["fit", folder / f"{kind}.fits", "-o", folder / name, "--camera", folder / "camera.ecsv", *options]
        assert run([str(a) for a in [*arguments, "-c", f"do_reference_gradient={kind == 'sky'}"]]) == 0


def with_radial(data, n_intervals=12, curve=None):
    """The data with knots and prior of the radial function, as a first fit would set them.

    Parameters
    ----------
    data : FitData
    n_intervals : int
        Of the B-spline, which ends 2 mm beyond the outermost bin.
    curve : callable, optional
        The log of the radial function about which the prior is centred; by default that of ``NODES`` and ``VALUES``.
    """
    if curve is None:

        def curve(radius):
            return np.log(Akima1DInterpolator(NODES, VALUES)(np.clip(radius, 0, NODES[-1])) * data.level)

    spline = LogSpline(spread_knots(0.0, data.radius.max() + 2.0, n_intervals, 400))
    mean = np.linalg.solve(spline.design(spline.places), curve(spline.places))
    bending = np.geomspace(1e-4, 3e-3, spline.size - 2) ** 2  # 1/mm**4: it bends more towards the rim
    return replace(data, radial=RadialPrior(spline, mean, bending))


# ---- errors ----


def message(call, *args, **kwargs):
    """The one line of the `InputError` that a call raises."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def complaint(arguments, capsys, status=2):
    """The one line on stderr of a command that fails."""
    assert run([str(a) for a in arguments]) == status
    err = capsys.readouterr().err.strip()
    assert "\n" not in err
    assert "Traceback" not in err
    return err
