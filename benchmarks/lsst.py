"""Hold bayesflat against LSST's own code: files, model and fit.

LSST's classes are loaded from checkouts of ``lsst/cp_pipe`` and ``lsst/ip_isr`` that the user brings; what they import
beside NumPy, SciPy and astropy is replaced by stand-ins, so that no other part of LSST's software is needed.

    python benchmarks/lsst.py --cp-pipe cp_pipe --ip-isr ip_isr

Exit status 1 if any comparison fails: numbers that differ, or a sum of absolute deviations above LSST's.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lsst_classes import load_lsst
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bayesflat.config import FitConfig
from bayesflat.data.camera import lsstcam
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.map import find_map, make_objective
from bayesflat.model.build import build_model
from bayesflat.model.prepare import FitData, prepare
from bayesflat.simulation.detectors import SimulatedDetectors, simulate_binned, true_parameters
from bayesflat.simulation.truth import Light, Noise, default_light

# wide enough for the table of fits
console = Console(width=170, highlight=False)

RELATIVE = 1e-12
# our cost may lie above LSST's by this part of it: what our own two starts agree to
COST_TOLERANCE = 1e-6
# the defaults of LSST's task since September 2025
NODES = [0, 100, 200, 250, 275, 290, 300, 310, 315, 317, 320, 325, 333, 340, 350]
NODES_INITIAL = [0, 100, 200, 250, 275, 317]
# LSST's class: (our attribute, its attribute)
ATTRIBUTES = {
    "radial_spline_nodes": "radialSplineNodes",
    "radial_spline_values": "radialSplineValues",
    "itl_ratio": "itlRatio",
    "centroid_x": "centroidX",
    "centroid_y": "centroidY",
    "centroid_delta_x": "centroidDeltaX",
    "centroid_delta_y": "centroidDeltaY",
    "gradient_x": "gradientX",
    "gradient_y": "gradientY",
    "normalization_factor": "normalizationFactor",
}
OUTER_ATTRIBUTES = {
    "outer_gradient_x": "outerGradientX",
    "outer_gradient_y": "outerGradientY",
    "outer_gradient_radius": "outerGradientRadius",
}


# ---- checks ----


class Checks:
    """Prints each comparison and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, good: bool, detail: str = "") -> None:
        """Record one comparison."""
        self.failed += not good
        mark = "[green]same[/]" if good else "[red]FAIL[/]"
        console.print(f"  {mark}  {what}" + (f"  ({detail})" if detail else ""))

    def close(self, what: str, ours: NDArray, theirs: NDArray) -> None:
        """Two arrays, equal to `RELATIVE`."""
        worst = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
        self(what, worst <= RELATIVE, f"largest relative difference {worst:.1e}")


def compare_attributes(check: Checks, what: str, ours: FlatGradient, theirs: Any, names: dict[str, str]) -> None:
    """Both hold the same numbers, bit for bit."""
    wrong = [name for name, lsst in names.items() if not np.array_equal(getattr(ours, name), getattr(theirs, lsst))]
    check(f"{what}: every number, bit for bit", not wrong, ", ".join(wrong))
    check(
        f"{what}: instrument and filter",
        (ours.instrument, ours.physical_filter) == (theirs._instrument, theirs._filter),
    )


def compare_models(check: Checks, what: str, ours: FlatGradient, theirs: Any) -> None:
    """Radial function, planes and full model at random positions, inside and beyond the nodes."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-300, 300, (2, 20_000))
    itl = rng.random(len(x)) < 0.4
    beyond = int(np.sum(ours.radius(x, y) > ours.radial_spline_nodes[-1]))
    check.close(
        f"{what}: radial function", ours.compute_radial(ours.radius(x, y)), theirs.computeRadialSplineModelXY(x, y)
    )
    check.close(f"{what}: plane", ours.compute_plane(x, y), theirs.computeGradientModel(x, y))
    check.close(
        f"{what}: full model, {beyond} of {len(x)} positions beyond the last node",
        ours.compute_model(x, y, itl),
        theirs.computeFullModel(x, y, itl),
    )


def compare_products(check: Checks, lsst_class: type, folder: Path) -> None:
    """Each reads what the other writes, and both evaluate to the same numbers."""
    outer = hasattr(lsst_class(), "outerGradientX")
    names = ATTRIBUTES | (OUTER_ATTRIBUTES if outer else {})
    console.rule("product")
    console.print(
        "This LSST version knows the outer gradient."
        if outer
        else "This LSST version knows no outer gradient: it must read a product that has one without it, "
        "and is compared in numbers with the same product without.",
    )
    full = FlatGradient(
        radial_spline_nodes=NODES,
        radial_spline_values=1 - 0.5 * (np.array(NODES) / 350) ** 6 + 0.002 * np.sin(NODES),
        itl_ratio=0.951234567890123,
        centroid_x=1.5,
        centroid_y=-2.25,
        centroid_delta_x=0.8123456789,
        centroid_delta_y=-0.5,
        gradient_x=3.3e-5,
        gradient_y=-2.1e-5,
        outer_gradient_x=1.1e-5,
        outer_gradient_y=4.7e-5,
        outer_gradient_radius=325.0,
        normalization_factor=20123.4567,
        metadata={"INSTRUME": "LSSTCam", "FILTER": "i_39", "CALIBDATE": "2025-11-03T10:20:30.123456"},
    )
    # with all that a fit adds to FITS, for LSST's reader to step over
    plain = replace(full, outer_gradient_x=0.0, outer_gradient_y=0.0)
    readers = {"fits": lsst_class.readFits, "yaml": lsst_class.readText, "ecsv": lsst_class.readText}
    for kind, reader in readers.items():
        path = folder / f"ours.{kind}"
        ours = with_estimates(full) if kind == "fits" else full
        ours.write(path)
        theirs = reader(str(path))
        compare_attributes(check, f"LSST reads our {kind.upper()}", full, theirs, names)
        compare_models(check, f"LSST's model of our {kind.upper()}", full if outer else plain, theirs)

    theirs = lsst_class()
    theirs.setParameters(**{lsst: getattr(full, name) for name, lsst in names.items()})
    theirs.updateMetadata(INSTRUME="LSSTCam", FILTER="i_39", setCalibInfo=True, setCalibId=True, setDate=True)
    theirs.updateMetadata()
    writers = {"fits": theirs.writeFits, "yaml": theirs.writeText, "ecsv": theirs.writeText}
    for kind, writer in writers.items():
        path = folder / f"theirs.{kind}"
        writer(str(path))
        ours = FlatGradient.read(path)
        compare_attributes(check, f"we read LSST's {kind.upper()}", ours, theirs, names)
        compare_models(check, f"our model of LSST's {kind.upper()}", ours, theirs)


def with_estimates(gradient: FlatGradient) -> FlatGradient:
    """The gradient with estimates (no numbers that matter) and a config."""
    from bayesflat.gradient.estimates import STATISTICS, Estimates
    from bayesflat.quantities import SCALARS

    names = tuple(f"radial_spline_values[{i}]" for i in range(len(gradient.radial_spline_nodes))) + SCALARS
    n = len(names)
    columns = {key: np.full(n, np.nan) for key in STATISTICS}
    estimates = Estimates(names, ("",) * n, columns, np.eye(n), "map", converged=True, reference=False)
    return replace(gradient, estimates=estimates, config={"do_fit_gradient": True})


# ---- fits ----


@dataclass
class Fit:
    """What a fit found, in product units."""

    name: str
    values: NDArray
    ratio: float
    centroid: NDArray
    gradient: NDArray
    seconds: float
    remark: str = ""


def lsst_fitter(fitter_class: type, data: FitData, nodes: list[float], rows: NDArray | slice = slice(None)) -> Any:
    """LSST's fitter of some of the bins, with centroid and plane."""
    binned = data.binned
    return fitter_class(
        np.asarray(nodes, dtype=float),
        binned.xf[rows],
        binned.yf[rows],
        data.value[rows],
        np.flatnonzero(data.itl[rows]),
        constrain_zero=False,
        fit_centroid=True,
        fit_gradient=True,
    )


def lsst_one_pass(fitter_class: type, data: FitData) -> Fit:
    """All parameters at once."""
    begin = time.perf_counter()
    fitter = lsst_fitter(fitter_class, data, data.nodes)
    found = fitter.fit(fitter.compute_p0())
    return _from_lsst("LSST, one pass", fitter, found, begin)


def lsst_two_passes(fitter_class: type, data: FitData) -> Fit:
    """As LSST's task: a first pass inside the last of few nodes gives the ratio, which the second pass keeps."""
    begin = time.perf_counter()
    first = lsst_fitter(fitter_class, data, NODES_INITIAL, data.radius < NODES_INITIAL[-1])
    ratio = first.fit(first.compute_p0())[first.indices["itl_ratio"]]
    fitter = lsst_fitter(fitter_class, data, data.nodes)
    found = fitter.fit(fitter.compute_p0(itl_ratio=ratio), freeze_itl_ratio=True)
    return _from_lsst("LSST, two passes", fitter, found, begin)


def _from_lsst(name: str, fitter: Any, found: NDArray, begin: float) -> Fit:
    index = fitter.indices
    return Fit(
        name,
        found[index["spline"]],
        float(found[index["itl_ratio"]]),
        found[index["centroid_delta"]],
        found[index["gradient"]],
        time.perf_counter() - begin,
    )


def our_fit(name: str, data: FitData, config: FitConfig) -> Fit:
    """Model and maximum, compilation included."""
    begin = time.perf_counter()
    result = find_map(build_model(data, config), make_objective(data, config))
    seconds = time.perf_counter() - begin
    p = result.parameters
    return Fit(
        name,
        np.asarray(p["radial_spline_values"]),
        float(p["itl_ratio"]),
        np.asarray(p["centroid_delta"]),
        np.asarray(p["gradient"]),
        seconds,
        "" if result.converged else result.message,
    )


def cost_of(fitter: Any, fit: Fit) -> float:
    """LSST's own cost, the sum of absolute deviations, of anyone's parameters."""
    parameters = np.empty(sum(np.size(index) for index in fitter.indices.values()))
    found = {"spline": fit.values, "itl_ratio": fit.ratio, "centroid_delta": fit.centroid, "gradient": fit.gradient}
    for key, index in fitter.indices.items():
        parameters[index] = found[key]
    return float(fitter(parameters))


def truth_of(light: Light, detectors: SimulatedDetectors, data: FitData) -> Fit:
    """The truth, its radial function read off at the nodes."""
    truth = true_parameters(light, detectors)
    values = light.radial_function(data.nodes) * truth["group_throughput"] * light.level / data.normalization
    pairs = [np.array([truth[f"{name}_{axis}"] for axis in "xy"]) for name in ("centroid_delta", "gradient")]
    return Fit("truth", values, truth["itl_ratio"], *pairs, np.nan)


def compare_fits(check: Checks, fitter_class: type, kind: str, title: str, noise: Noise, seed: int) -> None:
    """Fit the same bins in all ways and print what came out."""
    console.rule(f"{kind} flat, {title}")
    camera = lsstcam()
    light = default_light(kind, "i_39")
    binned = simulate_binned(camera, light, noise, seed, kind=kind, physical_filter="i_39")
    shared = {
        "radial_spline_nodes": NODES,
        "do_constrain_zero": False,
        "do_fit_centroid": True,
        "do_fit_gradient": True,
        # so near the last node bins are used
        "centroid_max": 2.0,
    }
    flat = dict.fromkeys(("radial_spline_values", "itl_ratio", "centroid_delta", "gradient"), "flat")
    laplace = FitConfig(**shared, noise="independent", likelihood="laplace", priors=flat)
    default = FitConfig(**shared, noise="independent")
    data = prepare(binned, laplace)
    console.print(f"{len(data):,} of {len(binned):,} bins, {len(data.nodes)} nodes")

    ways: list[Callable[[], Fit]] = [lambda: lsst_one_pass(fitter_class, data)]
    if "freeze_itl_ratio" in inspect.signature(fitter_class.fit).parameters:
        ways.append(lambda: lsst_two_passes(fitter_class, data))
    else:
        console.print("This LSST version fits in one pass only.")
    ways += [
        lambda: our_fit("bayesflat, laplace", data, laplace),
        lambda: our_fit(f"bayesflat, {default.noise}, {default.likelihood}", data, default),
    ]
    judge = lsst_fitter(fitter_class, data, data.nodes)
    fits = [way() for way in ways]
    costs = {fit.name: cost_of(judge, fit) for fit in fits}
    print_fits([truth_of(light, SimulatedDetectors(camera.science(), noise, seed), data), *fits], judge)
    best = min(cost for name, cost in costs.items() if name.startswith("LSST"))
    ours = costs["bayesflat, laplace"]
    check(f"our cost is not above LSST's: {ours:.6f}, {best:.6f}", ours <= best * (1 + COST_TOLERANCE))
    for fit in fits:
        if fit.remark:
            console.print(f"  [yellow]note[/]  {fit.name} says of itself: {fit.remark}")


def print_fits(fits: list[Fit], judge: Any) -> None:
    """A row for each; the truth comes first."""
    table = Table(title_justify="left")
    columns = (
        "",
        "cost",
        "centroid x, y (mm)",
        "error (mm)",
        "plane x, y (1e-6/mm)",
        "error",
        "ratio",
        "error",
        "time (s)",
    )
    for column in columns:
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    truth = fits[0]
    for fit in fits:
        apart = {name: getattr(fit, name) - getattr(truth, name) for name in ("centroid", "gradient", "ratio")}
        isnt = fit is not truth
        table.add_row(
            fit.name,
            f"{cost_of(judge, fit):.5f}",
            f"{fit.centroid[0]:+.4f} {fit.centroid[1]:+.4f}",
            f"{apart['centroid'][0]:+.4f} {apart['centroid'][1]:+.4f}" if isnt else "",
            f"{1e6 * fit.gradient[0]:+.3f} {1e6 * fit.gradient[1]:+.3f}",
            f"{1e6 * apart['gradient'][0]:+.3f} {1e6 * apart['gradient'][1]:+.3f}" if isnt else "",
            f"{fit.ratio:.5f}",
            f"{apart['ratio']:+.5f}" if isnt else "",
            f"{fit.seconds:.1f}" if isnt else "",
        )
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run all comparisons; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Hold bayesflat against LSST's own code: files, model and fit.")
    parser.add_argument("--cp-pipe", type=Path, required=True, help="checkout of lsst/cp_pipe")
    parser.add_argument("--ip-isr", type=Path, required=True, help="checkout of lsst/ip_isr")
    parser.add_argument("--kind", choices=["sky", "dome", "both"], default="dome", help="flats to fit (default: dome)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (default: 1)")
    parser.add_argument("--skip-fits", action="store_true", help="compare files and models only")
    options = parser.parse_args(arguments)

    lsst_class, fitter_class = load_lsst(options.cp_pipe, options.ip_isr)
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        compare_products(check, lsst_class, Path(folder))
    noises = {"realistic noise (i band)": Noise.for_band("i"), "white noise alone (0.05%)": Noise(white=0.0005)}
    if not options.skip_fits:
        for kind in ("sky", "dome") if options.kind == "both" else (options.kind,):
            for title, noise in noises.items():
                compare_fits(check, fitter_class, kind, title, noise, options.seed)
    console.rule()
    console.print(f"{check.failed} comparisons failed" if check.failed else "all comparisons passed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
