"""Are the errors of importance draws those of NUTS?  On 9, 16 and 189 detectors.

    python benchmarks/importance.py

Nine and sixteen detectors are those of a corner of a small camera, where centroid and scatter are hardly known and
Laplace's approximation is at its worst; 189 are LSSTCam's, in bins of 256 pixels.  NUTS runs several times, each time
to its gates, for its errors must be better known than those that are judged by them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import arviz as az
import numpy as np
from calibration import SETTINGS, draw_light
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bayesflat.config import FitConfig
from bayesflat.data.camera import Camera, Detector, lsstcam
from bayesflat.inference.fitting import fit, sample
from bayesflat.inference.importance import MOST_K, laplace_draws
from bayesflat.inference.result import FitResult
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise

NAMES = {"itl_ratio": ("",), "centroid_delta": ("_x", "_y"), "gradient": ("_x", "_y")}
WITHIN = 0.05  # of NUTS, and twice the Monte Carlo error of both
PITCH, SIDE, PIXELS = 21.0, 20.0, 200  # mm, and pixels along a side
LIGHT = Light(
    radial=([0.0, 20.0, 35.0, 45.0, 52.0, 60.0, 72.0], [1.0, 0.97, 0.9, 0.75, 0.5, 0.3, 0.1]),
    itl_ratio=0.9, centroid_delta=(0.3, -0.2), gradient=(1e-4, -5e-5),
)  # fmt: skip
NOISE = Noise(white=0.002, detector_scatter=0.005, amplifier_scatter=0.002, own_field=0.002, field_scale=5.0)


def corner(n: int) -> Camera:
    """The n by n detectors in a corner of a camera of 5 by 5 that is centred on the pivot; one column is ITL."""
    detectors = [
        Detector(
            id=5 * j + i, name=f"D{j}{i}", physical_type="E2V" if i else "ITL", purpose="science",
            x=(i - 2) * PITCH, y=(j - 2) * PITCH, yaw=0.0, nx=PIXELS, ny=PIXELS, pixel_size=SIDE / PIXELS,
            refpos_x=(PIXELS - 1) / 2, refpos_y=(PIXELS - 1) / 2,
        )
        for j in range(n)
        for i in range(n)
    ]  # fmt: skip
    return Camera(f"{n} x {n}", detectors)


def fitted(n_detectors: int, seed: int) -> FitResult:
    """A fit of a simulated flat."""
    if n_detectors == 189:
        light, noise, physical_filter, _ = draw_light(seed)
        camera, options = lsstcam().science(), {"bin_factor": 256, "physical_filter": physical_filter}
        config = FitConfig(**SETTINGS, seed=seed)
    else:
        camera, light, noise = corner(round(n_detectors**0.5)), LIGHT, NOISE
        options = {"bin_factor": 20, "detector_boundary": 0}
        config = FitConfig(**SETTINGS, seed=seed, min_flat_value=0.01, normalize_center_radius=60.0, centroid_max=2.0)
    return fit(simulate_binned(camera, light, noise, seed, **options), config)


@dataclass(frozen=True)
class Width:
    """A standard deviation by three ways.

    Attributes
    ----------
    name : str
    laplace, importance : float
        Over that of NUTS.
    error : float
        Monte Carlo's, of the log of the latter.
    """

    name: str
    laplace: float
    importance: float
    error: float

    @property
    def right(self) -> bool:
        """Whether importance draws have the width of NUTS's, as far as can be told."""
        return abs(np.log(self.importance)) < WITHIN + 2 * self.error


@dataclass(frozen=True)
class Compared:
    """Importance draws against NUTS.

    Attributes
    ----------
    k, ess, seconds : float
        Of the importance draws: Pareto's k, what they are worth, and how long they took.
    seconds_of_nuts : float
    passed : bool
        Whether all runs of NUTS passed their gates.
    widths : list of Width
    """

    k: float
    ess: float
    seconds: float
    seconds_of_nuts: float
    passed: bool
    widths: list[Width]

    @property
    def right(self) -> bool:
        """Weights that settle have errors that are NUTS's."""
        return self.passed and (self.k >= MOST_K or all(width.right for width in self.widths))


def compare(result: FitResult, draws: int, seeds: Sequence[int], most: int = 4000) -> Compared:
    """Importance draws of a fit, and the draws of a run of NUTS for each seed."""
    began = time.perf_counter()
    tree = laplace_draws(result, draws)
    seconds, began = time.perf_counter() - began, time.perf_counter()
    runs = [sample(result, seed=seed, draws=most) for seed in seeds]
    seconds_of_nuts = time.perf_counter() - began
    length = min(run.posterior["posterior"].sizes["draw"] for run in runs)
    attrs = tree["posterior"].attrs
    widths = []
    for name, axes in NAMES.items():
        drawn = tree["posterior"][name].values.reshape(-1, len(axes)).T
        reference = np.concatenate([run.posterior["posterior"][name].values[:, :length] for run in runs])
        for k, axis in enumerate(axes):
            of_nuts = reference.reshape(*reference.shape[:2], -1)[:, :, k]
            sd, error = drawn[k].std(), error_of_width(drawn[k], attrs["importance_ess"])
            error = float(np.hypot(error, az.mcse(of_nuts, method="sd") / of_nuts.std()))
            laplace = result.gradient.require_estimates()[name + axis]["sd"]
            widths.append(Width(name + axis, laplace / of_nuts.std(), sd / of_nuts.std(), error))
    passed = all(run.converged for run in runs)
    return Compared(attrs["pareto_k"], attrs["importance_ess"], seconds, seconds_of_nuts, passed, widths)


def error_of_width(draws: NDArray, n: float) -> float:
    """Relative error of the standard deviation of draws that are worth n independent ones."""
    square = (draws - draws.mean()) ** 2
    return float(square.std() / square.mean() / (2 * np.sqrt(n)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Are the errors of importance draws those of NUTS?")
    parser.add_argument("--detectors", type=int, nargs="+", choices=(9, 16, 189), default=(9, 16, 189))
    parser.add_argument("--draws", type=int, default=6000, help="importance draws; 189: a sixth (default %(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="of NUTS (default %(default)s)")
    parser.add_argument("--seed", type=int, default=4, help="of flat and draws (default %(default)s)")
    arguments = parser.parse_args()
    console, good = Console(width=120), True
    table = Table("detectors", "k", "worth", "s", "NUTS s", "sd of", "Laplace / NUTS", "importance / NUTS", "")
    for n in arguments.detectors:
        draws = arguments.draws // 6 if n == 189 else arguments.draws
        seeds = [100 + run for run in range(arguments.runs)]
        found = compare(fitted(n, arguments.seed), draws, seeds)
        good &= found.right
        row = [f"{n}", f"{found.k:.2f}", f"{found.ess:.0f} of {draws}", f"{found.seconds:.0f}"]
        row.append(f"{found.seconds_of_nuts:.0f}" + ("" if found.passed else " (gates not passed)"))
        for width in found.widths:
            ratio = f"{width.importance:.3f} +- {width.importance * width.error:.3f}"
            word = "" if width.right else ("differs" if found.k < MOST_K else "refused")
            table.add_row(*row, width.name, f"{width.laplace:.2f}", ratio, word)
            row = [""] * len(row)
        console.print(f"{n} detectors: {'as they should be' if found.right else 'NOT AS THEY SHOULD BE'}")
    console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
