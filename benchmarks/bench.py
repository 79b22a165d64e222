"""Time everything that a user waits for, and what else could do the work, in one run: a table, and a JSON file.

    python benchmarks/bench.py -o bench.json
    python benchmarks/bench.py --cp-pipe cp_pipe --ip-isr ip_isr    # with LSST's fitter, of checkouts that you bring
    python benchmarks/bench.py fit lsst                             # some parts only

Parts: start, fit, sizes, nuts, binning, lsst, pymc.  Each thing is timed in a process of its own; what is compiled once
and kept on disk is there already.  Times are noisy: compare those of one run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import multiprocessing
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from fit import TERMS, dome
from rich.console import Console
from rich.table import Table

REPEATED = 4  # later fits in a process
PARTS = ("start", "fit", "sizes", "nuts", "binning", "lsst", "pymc")
RUNS = 5  # of ours, to the gate, beside other samplers
SIZES = {"45k": 256, "181k": 128, "720k": 64}  # pixels of a bin
# where a fit spends its time: functions that are timed, whoever calls them
STAGES = {
    "read": "bayesflat.commands.fit.load",
    "first fit": "bayesflat.inference.fitting.make_ready",
    "maximum and certificate": "bayesflat.inference.fitting.find_map",
    "Laplace": "bayesflat.inference.fitting.laplace",
    "nodes": "bayesflat.inference.fitting._projected",
    "product": "bayesflat.inference.fitting.make_gradient",
    "predictive check": "bayesflat.inference.predictive.posterior_predictive",
    "plots": "bayesflat.report.figures.save_figure",
    "plots ": "bayesflat.report.plots_fit.plot_model_residual",
    "plots  ": "bayesflat.report.plots_fit.plot_radial_model",
    "plots   ": "bayesflat.report.plots_uncertainty.plot_offsets",
    "report": "bayesflat.report.fit_page.fit_report",
}


def in_new_process(function: Callable, *arguments: Any) -> dict[str, Any]:
    """What the function returns in a new process, with the peak memory (GiB) of it and of the largest it started."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(send, function, arguments))
    process.start()
    send.close()
    found = receive.recv()
    process.join()
    return found


def _in_process(send, function: Callable, arguments: tuple) -> None:
    logging.getLogger("bayesflat").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    found = function(*arguments)
    own, workers = (
        resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    send.send(
        found | {"memory (GiB)": round(own, 2)} | ({"memory of a worker (GiB)": round(workers, 2)} if workers else {})
    )


def command(*arguments: str) -> float:
    """Seconds of a command in a new process, the second time."""
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    return round(seconds, 2)


# ---- the parts ----


def start() -> dict[str, Any]:
    """How long it takes before anything happens."""
    return {
        "import bayesflat (s)": command("-c", "import bayesflat"),
        "bayesflat --help (s)": command("-m", "bayesflat", "--help"),
    }


def fit_command(table: Path, folder: Path) -> dict[str, Any]:
    """A whole fit from the command line, with plots and report."""
    arguments = ["-m", "bayesflat", "fit", str(table), "-q", "--overwrite", "-o", str(folder / "out")]
    seconds = command(*arguments, *[f for name in TERMS for f in ("-c", f"{name}=true")])
    log = (folder / "out" / "fit.log").read_text()
    return {"whole command (s)": seconds, "maximum (s)": float(re.search(r"maximum found in ([\d.]+) s", log).group(1))}


def stages(table: Path, folder: Path) -> dict[str, Any]:
    """The stages of a fit in a new process, then a second fit in the same."""
    import bayesflat as bf
    from bayesflat.commands.fit import run_fit
    from bayesflat.config import RunConfig

    seconds: dict[str, float] = defaultdict(float)
    _time_stages(seconds)
    config = RunConfig(**TERMS)
    began = time.perf_counter()
    result = run_fit([table], folder / "stages", config, overwrite=True)
    found = {"fit, plots, report (s)": time.perf_counter() - began}
    found |= {f"- {name} (s)": value for name, value in seconds.items()}
    binned = bf.BinnedFlat.read(table, bf.lsstcam())
    again = []
    for _ in range(REPEATED):  # what else the machine does only adds to it
        began = time.perf_counter()
        bf.fit(binned, bf.FitConfig(**TERMS))
        again.append(time.perf_counter() - began)
    found["a later fit in the process, least of some (s)"] = min(again)
    found["bins"] = len(binned)
    return {name: round(value, 3) for name, value in found.items()} | density(result)


def _time_stages(seconds: dict[str, float]) -> None:
    """Have the functions of `STAGES` add up their time."""

    def timed(function: Callable, name: str) -> Callable:
        @wraps(function)
        def run(*arguments, **options):
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.perf_counter() - began

        return run

    for name, path in STAGES.items():
        module, function = path.rsplit(".", 1)
        home = importlib.import_module(module)
        setattr(home, function, timed(getattr(home, function), name.strip()))


def density(result) -> dict[str, Any]:
    """PyMC's log-density with gradient, as a sampler asks for it."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        began = time.perf_counter()
        model = result.model
        made = time.perf_counter()
        function = model.logp_dlogp_function(ravel_inputs=True)
        points = 0.1 * np.random.default_rng(1).normal(size=(20, result.objective.size))
        function(points[0])
        compiled = time.perf_counter()
        for point in points:
            function(point)
        each = (time.perf_counter() - compiled) / len(points)
    return {
        "model for samplers (s)": round(made - began, 2),
        "compilation (s)": round(compiled - made, 2),
        "log-density with gradient (ms)": round(1e3 * each, 1),
    }


def exponent(sizes: dict[str, dict[str, Any]]) -> float:
    """The k of ``fixed + c bins**k`` through the later fits at the three sizes."""
    from scipy.optimize import brentq

    bins = np.array([of["bins"] for of in sizes.values()], dtype=float)
    seconds = np.array([of["a later fit in the process, least of some (s)"] for of in sizes.values()])
    wanted = (seconds[2] - seconds[1]) / (seconds[1] - seconds[0])
    return round(brentq(lambda k: (bins[2] ** k - bins[1] ** k) / (bins[1] ** k - bins[0] ** k) - wanted, 0.1, 3), 2)


def nuts(physical_filter: str) -> dict[str, Any]:
    """NUTS to its gate, on all of LSSTCam."""
    import bayesflat as bf

    result = bf.fit(dome(physical_filter), bf.FitConfig(**TERMS))
    began = time.perf_counter()
    sampled = bf.sample(result)
    seconds, found = time.perf_counter() - began, sampled.diagnostics
    return {
        "time (s)": round(seconds, 1),
        "draws of each chain": sampled.posterior["posterior"].sizes["draw"],
        "R-hat": round(found.r_hat, 4),
        "least ESS": round(min(found.ess_bulk, found.ess_tail)),
        "divergences": found.divergences,
        "passed": found.passed,
    }


def binning(folder: Path) -> dict[str, Any]:
    """Binning a detector of 4096 x 4004 pixels, uncompressed, against reading it with astropy."""
    from astropy.io import fits

    from bayesflat.data.binning import bin_files
    from bayesflat.data.camera import lsstcam
    from bayesflat.simulation.flats import write_simulation

    write_simulation(folder / "flats", camera=lsstcam().subset([94, 95, 96]), compress=False)
    paths = sorted((folder / "flats" / "flats").iterdir())
    bin_files(paths[:1], lsstcam())
    began = time.perf_counter()
    bin_files(paths, lsstcam())
    binned = time.perf_counter()
    for path in paths:
        with fits.open(path, memmap=False) as file:
            _ = [file[name].data.sum() for name in ("IMAGE", "MASK")]
    read = time.perf_counter()
    return {
        "binning a detector (s)": round((binned - began) / len(paths), 3),
        "reading it (s)": round((read - binned) / len(paths), 3),
    }


def lsst(table: Path, cp_pipe: Path, ip_isr: Path) -> dict[str, Any]:
    """LSST's fitter alone, one pass and as its task does it, on the same bins."""
    from lsst import NODES, lsst_one_pass, lsst_two_passes
    from lsst_classes import load_lsst

    import bayesflat as bf
    from bayesflat.model.prepare import prepare

    fitter = load_lsst(cp_pipe, ip_isr)[1]
    config = bf.FitConfig(**TERMS, noise="independent", radial_spline_nodes=NODES)
    data = prepare(bf.BinnedFlat.read(table, bf.lsstcam()), config)
    return {f"{way.__name__} (s)": round(way(fitter, data).seconds, 1) for way in (lsst_one_pass, lsst_two_passes)}


def small_result():
    """Sixteen detectors, those of the notebook of one's own camera."""
    import bayesflat as bf

    detectors = [
        bf.Detector(
            id=4 * j + i, name=f"D{j}{i}", physical_type="ITL" if i == 0 else "E2V", purpose="science",
            x=21.0 * (i - 1.5), y=21.0 * (j - 1.5), yaw=0.0, nx=200, ny=200, pixel_size=0.1, refpos_x=99.5,
            refpos_y=99.5, amp_nx=4, amp_ny=2,
        )
        for j in range(4) for i in range(4)
    ]  # fmt: skip
    light = bf.Light(
        radial=([0, 15, 25, 35, 60], [1.0, 0.98, 0.95, 0.8, 0.5]), gradient=(2e-4, 0.0), centroid_delta=(0.4, -0.3),
        itl_ratio=0.95,
    )  # fmt: skip
    noise = bf.Noise(white=0.001, detector_scatter=0.01, amplifier_scatter=0.003, own_field=0.001, field_scale=6.0)
    binned = bf.simulate_binned(bf.Camera("MyCam", detectors), light, noise, seed=1, bin_factor=20, detector_boundary=0)
    return bf.fit(binned, bf.FitConfig(**TERMS, centroid_max=2.0))


def plain(sampler: str, whole: bool) -> dict[str, Any]:
    """``pm.sample(result.model)`` with its defaults, against `bayesflat.sample`."""
    import pymc as pm

    import bayesflat as bf

    result = bf.fit(dome("i_39"), bf.FitConfig(**TERMS)) if whole else small_result()
    began = time.perf_counter()
    with result.model:
        drawn = pm.sample(
            draws=500, tune=500, chains=4, cores=2, nuts_sampler=sampler, random_seed=1, progressbar=False, quiet=True
        )
    seconds = time.perf_counter() - began
    # runs to the gate are short, and some scales have heavy tails: several tell a width, and how well it is known
    ours = [bf.sample(result, seed=seed).posterior["unconstrained"]["z"].values for seed in range(RUNS)]
    return {"time (s)": round(seconds, 1)} | against(result, ours, drawn)


def against(result, runs, theirs) -> dict[str, Any]:
    """How far means and widths of the model's variables are from those of our draws, and how well both are known."""
    from bayesflat.inference.diagnostics import r_hat_and_ess

    least = min(z.shape[1] for z in runs)
    z = np.concatenate([z[:, :least] for z in runs])  # all chains, as many draws of each
    posterior = theirs["posterior"].to_dataset()
    found: dict[str, Any] = {"divergences": int(theirs["sample_stats"]["diverging"].values.sum())}
    off, width, error, r_hat, width_error, names = [], [], [], [], [], []
    for p in result.objective.parameters:
        if p.name == "log_radial":  # its coefficients are many and each hardly known
            continue
        here = result.objective.slices[p.name]
        of_ours = np.array([[np.ravel(p.from_value(point[here])) for point in chain] for chain in z])
        of_theirs = posterior[p.variable].values.reshape(*posterior[p.variable].shape[:2], -1)
        sd = of_ours.std((0, 1))
        off.append((of_theirs.mean((0, 1)) - of_ours.mean((0, 1))) / sd)
        width.append(np.log(of_theirs.std((0, 1)) / sd))
        # chains are independent: so far do their own widths scatter
        by_chain = [np.log(values.std(1)) for values in (of_ours, of_theirs)]
        width_error.append(np.sqrt(sum(logs.var(0, ddof=1) / len(logs) for logs in by_chain)))
        many = p.name == "log_noise_scales"
        names += result.objective.noise.labels if many else [p.name] * of_ours.shape[-1]
        ess = [r_hat_and_ess(values) for values in (of_ours, of_theirs)]
        error.append(np.sqrt(1 / ess[0][1] + 1 / ess[1][1]))
        r_hat.append(ess[1][0])
    off, width, error, width_error = (np.concatenate(x) for x in (off, width, error, width_error))
    k = int(np.argmax(np.abs(width)))
    found["R-hat"] = round(float(np.concatenate(r_hat).max()), 4)
    found["mean off, most (sd)"] = round(float(np.abs(off).max()), 3)
    found["sd off, most (%)"] = (
        f"{100 * np.expm1(width[k]):+.1f} of {names[k]}, with a Monte Carlo error of {100 * width_error[k]:.1f}"
    )
    found["Monte Carlo error of a mean, largest (sd)"] = round(float(error.max()), 3)
    return found


def find_map_of_pymc() -> dict[str, Any]:
    """``pm.find_MAP`` as it comes, on the model as it is built, at 45k bins."""
    import pymc as pm

    import bayesflat as bf
    from bayesflat.simulation.detectors import simulate_binned
    from bayesflat.simulation.truth import Noise, default_light

    binned = simulate_binned(
        bf.lsstcam(), default_light("dome", "i_39"), Noise.for_band("i_39"), 1, kind="dome", bin_factor=256
    )
    result = bf.fit(binned, bf.FitConfig(**TERMS))
    model = bf.build_model(result.data, result.config)
    began = time.perf_counter()
    point = pm.find_MAP(model=model, progressbar=False)
    seconds = time.perf_counter() - began
    sd = {name: result.gradient.require_estimates()[f"{name}_x"]["sd"] for name in ("centroid_delta", "gradient")}
    apart = [abs(point[name][0] - result.map.parameters[name][0]) / sd[name] for name in sd]
    return {"time (s)": round(seconds, 1), "distance from the maximum, at least (sd)": round(max(apart), 2)}


# ---- the run ----


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; by default all")
    options.add_argument("-o", "--output", type=Path, default=Path("bench.json"), help="default %(default)s")
    options.add_argument("--cp-pipe", type=Path, help="checkout of lsst/cp_pipe")
    options.add_argument("--ip-isr", type=Path, help="checkout of lsst/ip_isr")
    options = options.parse_args()
    parts = options.parts or PARTS
    unknown = set(parts) - set(PARTS)
    if unknown:
        print(f"unknown part {sorted(unknown)[0]}: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = {size: folder / f"{size}.fits" for size in SIZES}
        if set(parts) & {"fit", "sizes", "lsst"}:
            for size, path in tables.items():
                dome("i_39", SIZES[size]).write(path)
        if "start" in parts:
            found["start"] = start()
        if "fit" in parts:
            found["bayesflat fit, 181k bins"] = fit_command(tables["181k"], folder)
        if "sizes" in parts:
            by_size = {size: in_new_process(stages, path, folder / size) for size, path in tables.items()}
            found |= {f"a fit of {size} bins": of for size, of in by_size.items()}
            found["cost by bins"] = {"exponent, fixed costs apart": exponent(by_size)}
        if "lsst" in parts and options.cp_pipe and options.ip_isr:
            found["LSST's fitter, 181k bins"] = in_new_process(lsst, tables["181k"], options.cp_pipe, options.ip_isr)
        if "nuts" in parts:
            found |= {f"NUTS to its gate, {name}": in_new_process(nuts, name) for name in ("i_39", "u_24")}
        if "binning" in parts:
            found["binning"] = in_new_process(binning, folder)
        if "pymc" in parts:
            found["pm.find_MAP, 45k bins"] = in_new_process(find_map_of_pymc)
            for sampler, whole in (("pymc", False), ("nutpie", False), ("nutpie", True)):
                title = f"pm.sample, {sampler}, {'LSSTCam' if whole else '16 detectors'}"
                found[title] = in_new_process(plain, sampler, whole)
    show(found)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def show(found: dict[str, dict[str, Any]]) -> None:
    """All of it, a line each."""
    table = Table("what", "", "measured")
    for part, values in found.items():
        for k, (name, value) in enumerate(values.items()):
            table.add_row(part if not k else "", name, str(value), end_section=k == len(values) - 1)
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
