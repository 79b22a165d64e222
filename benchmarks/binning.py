"""Bin full-size detectors: time, and peak memory whatever their number.

    python benchmarks/binning.py [--detectors N ...] [--compress]

Flats of 4096 x 4004 pixels with mask and variance are written to a temporary folder; each number of detectors is binned
in a process of its own, whose peak memory is read when it ends.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from bayesflat.binning import bin_files
from bayesflat.camera import lsstcam
from bayesflat.simulate_files import write_simulation


def bin_in_new_process(paths: list[Path], pipe) -> None:
    began = time.perf_counter()
    binned = bin_files(paths, lsstcam())
    seconds = time.perf_counter() - began
    pipe.send((len(binned), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detectors", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--compress", action="store_true", help="GZIP_2, as LSST's flats")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    camera = lsstcam().subset(range(max(arguments.detectors)))
    with tempfile.TemporaryDirectory() as folder:
        write_simulation(Path(folder) / "s", camera=camera, compress=arguments.compress, processes=2)
        paths = sorted((Path(folder) / "s" / "flats").iterdir())
        for n in arguments.detectors:
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=bin_in_new_process, args=(paths[:n], send))
            process.start()
            bins, seconds, peak = receive.recv()
            process.join()
            print(f"{n} detectors: {bins} bins, {seconds / n:.2f} s a detector, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
