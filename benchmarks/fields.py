"""Errors on DECam, whose detectors are twice as long as wide: smooth fields of 10 mm under a steep vignetting.

    python benchmarks/fields.py -n 12

Such fields are small beside a detector's length.  Where they are not described, they are left to centroid and plane.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from bayesflat.config import FitConfig
from bayesflat.data.camera import decam
from bayesflat.inference.fitting import fit
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise

RADIAL = ([0.0, 100.0, 160.0, 180.0, 190.0, 200.0, 210.0, 225.0], [1.0, 0.99, 0.95, 0.85, 0.6, 0.25, 0.08, 0.02])
NOISE = Noise(white=0.0005, detector_scatter=0.01, amplifier_scatter=0.003, own_field=0.003, field_scale=10.0)
SETTINGS = {"do_fit_centroid": True, "do_fit_gradient": True}
MOST = 1.4  # spread of 48 pulls: 1, and four times the error of that


def main() -> int:
    parser = argparse.ArgumentParser(description="Errors on DECam, whose detectors are twice as long as wide.")
    parser.add_argument("-n", type=int, default=12, help="how many (default %(default)s)")
    arguments = parser.parse_args()
    camera, pulls, chances = decam().science(), [], []
    for seed in range(arguments.n):
        rng = np.random.default_rng(seed)
        truth = dict(zip(("centroid_delta_x", "centroid_delta_y"), rng.uniform(-1, 1, 2).tolist(), strict=True))
        truth |= dict(zip(("gradient_x", "gradient_y"), rng.uniform(-3e-5, 3e-5, 2).tolist(), strict=True))
        centroid, plane = (
            tuple(value for name, value in truth.items() if name[:4] == kind) for kind in ("cent", "grad")
        )
        light = Light(radial=RADIAL, centroid_delta=centroid, gradient=plane)
        result = fit(simulate_binned(camera, light, NOISE, seed), FitConfig(**SETTINGS))
        estimates = result.gradient.require_estimates()
        pulls.append([(estimates[name]["mean"] - value) / estimates[name]["sd"] for name, value in truth.items()])
        chances.append([estimates.header[card][0] for card in ("AZPVAL", "FLDPVAL")])
        print(
            f"seed {seed}: {result.judgement.word}, pulls of centroid and plane "
            f"{', '.join(f'{pull:+.1f}' for pull in pulls[-1])}; p = {chances[-1][0]:.2g} (azimuth), "
            f"{chances[-1][1]:.2g} (smooth field); fields of {result.data.smooth:.2f} of the width", flush=True,
        )  # fmt: skip
    spread, worst = np.sqrt(np.mean(np.square(pulls), axis=0)), np.min(chances)
    print(f"rms of the pulls: {', '.join(f'{one:.2f}' for one in spread)}; least p {worst:.2g}")
    return 0 if np.sqrt(np.mean(np.square(pulls))) < MOST and worst > 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
