"""Bin full-size detectors: time, peak memory whatever their number, and what a second process gains.

    python benchmarks/binning.py [--detectors N ...] [--compress] [--scaling]

Flats of 4096 x 4004 pixels with mask and variance are written to a temporary folder; each number of detectors is binned
in a process of its own, whose peak memory is read when it ends.  With ``--scaling`` the last number is binned by 1 and
by 2 processes in turn, three times each, with all that starting a process takes; 1.7 is wanted of an idle machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from bayesflat.data.binning import bin_files
from bayesflat.data.camera import lsstcam
from bayesflat.simulation.flats import write_simulation


def bin_in_new_process(paths: list[Path], pipe) -> None:
    began = time.perf_counter()
    binned = bin_files(paths, lsstcam())
    seconds = time.perf_counter() - began
    pipe.send((len(binned), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def cpu_seconds() -> float:
    """Of this process and of those that it has ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def scaling(paths: list[Path]) -> None:
    """Print best times; where both took as much CPU, a poor ratio tells of a busy machine."""
    best = {1: (float("inf"), 0.0), 2: (float("inf"), 0.0)}
    for _ in range(3):
        for processes in best:
            began, cpu = time.perf_counter(), cpu_seconds()
            bin_files(paths, lsstcam(), processes=processes)
            best[processes] = min(best[processes], (time.perf_counter() - began, cpu_seconds() - cpu))
    for processes, (seconds, cpu) in best.items():
        print(f"{len(paths)} detectors in {processes} processes: {seconds:.1f} s, {cpu:.1f} s of CPU")
    print(f"2 processes are {best[1][0] / best[2][0]:.2f} times as fast as 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detectors", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--compress", action="store_true", help="GZIP_2, as LSST's flats")
    parser.add_argument("--scaling", action="store_true", help="time 2 processes against 1")
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
        if arguments.scaling:
            scaling(paths[: arguments.detectors[-1]])


if __name__ == "__main__":
    main()
