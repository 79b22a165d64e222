"""Do nodes change anything but themselves?  Fits of all of LSSTCam with four settings of the nodes, in six bands.

    python benchmarks/nodes.py -j 2

The posterior is that of the curve, and nodes only describe it: centroid, plane and ratio, and their errors, have to be
the same whatever the nodes are.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

import numpy as np
from calibration import SCALARS, SETTINGS, simulate_plane

from bayesflat.config import FitConfig
from bayesflat.inference.fitting import fit
from bayesflat.processes import in_processes

# of CpFlatFitGradientsTask in 2026
LSST_2026 = [0.0, 100.0, 200.0, 250.0, 275.0, 290.0, 300.0, 310.0, 315.0, 317.0, 320.0, 325.0, 333.0, 340.0, 350.0]
DENSE = [*np.linspace(0.0, 280.0, 9), *np.linspace(290.0, 368.0, 19)]  # 28 of them
NODES = {"auto": "auto", "lsst": "lsst", "LSST 2026": LSST_2026, "28 dense": DENSE}
MOST = 1e-6  # standard deviations
FIRST_SEED = 5000  # planes that nothing was made for


def fit_plane(seed: int) -> dict[str, tuple[bool, float, np.ndarray]]:
    """For each setting: whether the fit converged, the nodes' misfit (mmag), and maxima, means and errors."""
    binned, _, _ = simulate_plane(seed)
    found = {}
    for name, nodes in NODES.items():
        result = fit(binned, FitConfig(**SETTINGS, radial_spline_nodes=nodes))
        rows = [result.gradient.estimates[scalar] for scalar in SCALARS]
        values = np.array([[row[key] for key in ("map", "mean", "sd")] for row in rows])
        found[name] = result.converged, result.projection.worst[0], values
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Do nodes change anything but themselves?")
    parser.add_argument("-n", "--planes", type=int, default=12)
    parser.add_argument("-j", "--jobs", type=int, default=1)
    arguments = parser.parse_args()
    tasks = {seed: (seed,) for seed in range(FIRST_SEED, FIRST_SEED + arguments.planes)}
    good = True
    with closing(in_processes(fit_plane, tasks, arguments.jobs)) as fits:
        for seed, found in fits:
            reference = found["auto"][2]
            apart = {n: float(np.abs((v - reference) / reference[:, 2:]).max()) for n, (_, _, v) in found.items()}
            print(f"plane {seed}: " + "; ".join(
                f"{name} {'converged' if converged else 'NOT CONVERGED'}, {apart[name]:.1e} sd apart, nodes off by "
                f"{misfit:.2f} mmag" for name, (converged, misfit, _) in found.items()
            ), flush=True)  # fmt: skip
            good &= all(converged for converged, _, _ in found.values()) and max(apart.values()) < MOST
    print("nodes change nothing else" if good else "NODES CHANGE MORE THAN THEMSELVES")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
