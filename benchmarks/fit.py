"""Time a fit of all of LSSTCam from the command line, and hold its least absolute deviation against SciPy's.

    python benchmarks/fit.py
    python benchmarks/fit.py --sample         # NUTS alone
    python benchmarks/fit.py --sample 2 3     # on focal planes of calibration.py, by their seeds

The command runs twice in new processes: the first fills the compilation caches, the second is what counts.
"""

from __future__ import annotations

import argparse
import logging
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import calibration
import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import minimize

from bayesflat.config import FitConfig
from bayesflat.data.camera import lsstcam
from bayesflat.inference.fitting import fit, sample
from bayesflat.model.start import estimate
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Noise, default_light

TERMS = {"do_fit_centroid": True, "do_fit_gradient": True}


def dome(physical_filter: str, bin_factor: int = 128):
    light = replace(default_light("dome", physical_filter), centroid_delta=(0.8, -0.5))
    noise = Noise.for_band(physical_filter)
    return simulate_binned(
        lsstcam(), light, noise, 1, kind="dome", physical_filter=physical_filter, bin_factor=bin_factor
    )


def time_command(binned, folder: Path, *options: str) -> None:
    binned.write(folder / "binned.fits")
    command = [sys.executable, "-m", "bayesflat", "fit", str(folder / "binned.fits"), "-q", "--overwrite"]
    command += ["-o", str(folder / "out"), "-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true"]
    for option in options:
        command += ["-c", option]
    print("bayesflat fit", *options)
    for run in ("cold or warm", "warm"):
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        log = (folder / "out" / "fit.log").read_text()
        optimisation = re.search(r"maximum found in ([\d.]+) s", log).group(1)
        print(f"  {len(binned)} bins, caches {run}: {seconds:.1f} s, of it optimisation {optimisation} s")


def compare_costs(binned) -> bool:
    """Sum of absolute deviations against finite-difference L-BFGS-B from the same start."""
    flat = dict.fromkeys(("radial_spline_values", "itl_ratio", "centroid_delta", "gradient"), "flat")
    config = FitConfig(
        **TERMS, noise="independent", likelihood="laplace", priors=flat, radial_spline_nodes="lsst",
        do_constrain_zero=True,
    )  # fmt: skip
    began = time.perf_counter()
    result = fit(binned, config)
    ours_seconds = time.perf_counter() - began
    data = result.data
    nodes, n = data.nodes, len(data.nodes) - 1

    def cost(p):
        values, (ratio, cx, cy, gx, gy) = np.append(p[:n], 0.0), p[n:]
        radius = np.clip(np.hypot(data.dx - cx, data.dy - cy), nodes[0], nodes[-1])
        mean = Akima1DInterpolator(nodes, values)(radius) * np.where(data.itl, ratio, 1.0)
        return np.abs(data.value - mean / (1 + gx * data.dx + gy * data.dy)).sum()

    start = estimate(data, config)
    began = time.perf_counter()
    theirs = minimize(
        cost,
        np.r_[start.radial_spline_values[:-1], start.itl_ratio, 0, 0, 0, 0],
        method="L-BFGS-B",
        options={"maxfun": 10_000, "maxiter": 10_000, "maxcor": 20, "eps": 1e-8, "gtol": 1e-10},
    )
    theirs_seconds = time.perf_counter() - began
    found = result.map.parameters
    p = np.concatenate([found["radial_spline_values"][:-1], np.ravel(found["itl_ratio"]),
                        found["centroid_delta"], found["gradient"]])  # fmt: skip
    for name, value, centroid, seconds in (
        ("bayesflat", cost(p), p[n + 1 : n + 3], ours_seconds),
        ("finite-difference L-BFGS-B", theirs.fun, theirs.x[n + 1 : n + 3], theirs_seconds),
    ):
        print(f"{name}: sum of absolute deviations {value:.6f}, centroid {np.round(centroid, 4)} mm, {seconds:.1f} s")
    return cost(p) <= theirs.fun


def time_sampling(binned) -> bool:
    """NUTS from a fit with automatic nodes, and what its diagnostics say."""
    result = fit(binned, FitConfig(**TERMS))
    began = time.perf_counter()
    result = sample(result)
    seconds, found = time.perf_counter() - began, result.diagnostics
    print(f"{len(result.data)} bins, {len(result.gradient.radial_spline_nodes)} nodes: {seconds:.0f} s in all")
    print(f"R-hat {found.r_hat:.4f}, ESS bulk {found.ess_bulk:.0f}, tail {found.ess_tail:.0f}, "
          f"{found.divergences} divergences, E-BFMI {found.bfmi:.2f}")  # fmt: skip
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    own, worker = (resource.getrusage(process).ru_maxrss / 2**20 for process in who)
    print(f"peak memory so far: {own:.1f} GiB, and {worker:.1f} GiB in the largest of the workers")
    return found.passed


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--sample", nargs="*", type=int, metavar="SEED", help="NUTS alone")
    options.add_argument("--filter", default="i_39", help="of the flat, where no seeds are given (default %(default)s)")
    options = options.parse_args()
    if options.sample is not None:
        logging.getLogger("bayesflat").setLevel(logging.INFO)
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("pytensor").setLevel(logging.ERROR)
        planes = (calibration.simulate_plane(seed)[0] for seed in options.sample)
        failed = sum(not time_sampling(plane) for plane in (planes if options.sample else [dome(options.filter)]))
        return 1 if failed else 0
    binned = dome(options.filter)
    with tempfile.TemporaryDirectory() as folder:
        time_command(binned, Path(folder), "noise=independent", "radial_spline_nodes=lsst")
        time_command(binned, Path(folder))
    ok = compare_costs(binned)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
