"""Time `bayesflat apply` on full-size compressed flats against reading and writing them, both in one run.

python benchmarks/apply.py --detectors 3
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from bayesflat.commands.apply import correct_file
from bayesflat.data.camera import Camera, lsstcam
from bayesflat.gradient.product import FlatGradient
from bayesflat.simulation.flats import write_simulation
from bayesflat.simulation.truth import _VIGNETTING


def read_and_write(path: Path, target: Path) -> None:
    """Every plane read (decompressed) and written (compressed again), nothing computed and nothing copied."""
    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            hdu.data  # noqa: B018
        hdus.writeto(target)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--detectors", type=int, default=3, help="how many (default %(default)s)")
    options.add_argument("--uncompressed", action="store_true", help="flats that are not compressed")
    options = options.parse_args()
    logging.getLogger("bayesflat").setLevel(logging.ERROR)
    full = lsstcam()
    camera = Camera("LSSTCam", list(full)[: options.detectors])
    nodes, values = (np.array(column) for column in _VIGNETTING)
    dome = FlatGradient(nodes, values, gradient_x=3e-5, gradient_y=-2e-5, centroid_delta_x=0.8)
    sky = FlatGradient(nodes, values * (1 - 5e-3 * (nodes / 350) ** 2))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_simulation(
            folder / "dome", kind="dome", seed=1, physical_filter="i_39", camera=camera,
            compress=not options.uncompressed,
        )  # fmt: skip
        paths = sorted((folder / "dome" / "flats").iterdir())
        correct_file(paths[0], folder / "warm.fits", full, dome, sky, None, {})  # compiles, once for all
        seconds = {"read and write": [], "apply": []}
        for k, path in enumerate(paths):
            for name in seconds:
                began = time.perf_counter()
                target = folder / f"{name}-{k}.fits"
                if name == "apply":
                    correct_file(path, target, full, dome, sky, None, {})
                else:
                    read_and_write(path, target)
                seconds[name].append(time.perf_counter() - began)
                target.unlink()
    for name, each in seconds.items():
        print(f"{name}: {np.mean(each):.2f} s a detector")
    print(f"ratio {np.sum(seconds['apply']) / np.sum(seconds['read and write']):.2f}")


if __name__ == "__main__":
    main()
