"""The main job on simulated flats, from pixels to products, held against the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Table

from bayesflat.camera import get_camera
from bayesflat.config import RunConfig
from bayesflat.files import check_free
from bayesflat.fitting import FitResult
from bayesflat.run import FILES, run_fit
from bayesflat.simulate_files import CONTENTS, write_simulation

PHYSICAL_FILTER = "i_39"
_RADII = (100.0, 200.0, 300.0, 310.0, 330.0)


def run_demo(
    out: str | Path,
    *,
    seed: int = 1,
    coarse: int = 16,
    camera: str = "lsstcam",
    processes: int = 1,
    overwrite: bool = False,
    progress: Callable | None = None,
    say: Callable = print,
) -> list[FitResult]:
    """Simulate sky and dome, fit both, and print the truth beside the estimates.

    Parameters
    ----------
    out : str or Path
        Gets ``sky``, ``dome`` (the simulations), ``sky_fit`` and ``dome_fit``.
    seed : int
        Of the simulation.
    coarse : int
        Pixels so many times as large; bins keep their size on the focal plane.
    camera, processes, overwrite, progress
        As for the commands.
    say : callable
        Prints text and rich tables.
    """
    out = Path(out)
    for kind in ("sky", "dome"):  # before anything is written
        check_free(out / kind, CONTENTS, overwrite)
        check_free(out / f"{kind}_fit", FILES, overwrite)
    results = []
    for kind in ("sky", "dome"):
        say(f"{kind}: simulating flats of {coarse * 0.01:g} mm pixels, seed {seed}")
        truth = write_simulation(
            out / kind,
            kind=kind,
            coarse=coarse,
            seed=seed,
            physical_filter=PHYSICAL_FILTER,
            camera=get_camera(camera),
            processes=processes,
            overwrite=overwrite,
        )
        say(f"{kind}: fitting")
        config = RunConfig(
            camera=str(out / kind / "camera.ecsv"),
            bin_factor=max(1, round(128 / coarse)),
            detector_boundary=max(1, round(10 / coarse)),
            do_fit_centroid=True,
            do_fit_gradient=True,
            radial_spline_nodes="auto",
            do_reference_gradient=kind == "sky",
        )
        result = run_fit(
            [out / kind / "flats"],
            out / f"{kind}_fit",
            config,
            defects=out / kind / "defects",
            processes=processes,
            overwrite=overwrite,
            progress=progress,
        )
        say(truth_table(result.gradient, truth, f"{kind}: {result.map.message}"))
        say(f"{kind}: see {out / f'{kind}_fit'}")
        results.append(result)
    return results


def truth_table(gradient, truth: dict, title: str) -> Table:
    """Truth and estimate side by side, with the estimate's error; the radial function relative to the truth's."""
    table = Table(title=title)
    for name, justify in (
        ("parameter", "left"), ("truth", "right"), ("estimate", "right"), ("difference", "right"),
        ("sd", "right"), ("unit", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)
    names = {
        "itl_ratio": "",
        "centroid_delta_x": "mm",
        "centroid_delta_y": "mm",
        "gradient_x": "1/mm",
        "gradient_y": "1/mm",
    }
    for name, unit in names.items():
        true, found = truth[name], getattr(gradient, name)
        sd = gradient.estimates[name]["sd"]
        table.add_row(name, f"{true:.6g}", f"{found:.6g}", f"{found - true:+.2g}", f"{sd:.2g}", unit)
    true_radius, true_value = (np.array(truth["radial_function"][key]) for key in ("radius", "value"))
    for radius in _RADII:
        true = float(np.interp(radius, true_radius, true_value)) * truth["level"]
        found = float(gradient.compute_radial(radius)) * gradient.normalization_factor
        sd = float(gradient.compute_radial_sd(radius)) * gradient.normalization_factor / true
        table.add_row(
            f"radial at {radius:g} mm", f"{true:.1f}", f"{found:.1f}", f"{100 * (found / true - 1):+.3f}%",
            f"{100 * sd:.3f}%", "counts",
        )  # fmt: skip
    return table
