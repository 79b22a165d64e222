"""The command `bayesflat demo`: fit simulated sky and dome flats, compare them, correct the dome, and fit it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.interpolate import PchipInterpolator

from bayesflat.commands.apply import run_apply
from bayesflat.commands.compare import FILES as COMPARISON
from bayesflat.commands.compare import TIED, run_compare
from bayesflat.commands.fit import FILES, PRODUCT, REFERENCE, run_fit
from bayesflat.commands.tables import comparison_lines, new_table
from bayesflat.comparison.comparison import Comparison
from bayesflat.config import RunConfig
from bayesflat.data.camera import get_camera
from bayesflat.files import check_free
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.result import FitResult
from bayesflat.quantities import COMPARED, QUANTITIES, SHOWN_RADII, shown_radii, unit_of
from bayesflat.report.summaries import comparison_summary, fit_summary
from bayesflat.simulation.flats import check_folder, write_simulation
from bayesflat.stages import within


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes
    ----------
    fits : dict of str to FitResult
        ``sky``, ``dome`` and ``refit``, of the corrected dome.
    comparison, closure : Comparison
        Of the dome with the sky, and of the corrected dome with it.
    """

    fits: dict[str, FitResult]
    comparison: Comparison
    closure: Comparison

    def summary(self) -> dict[str, Any]:
        """The same as plain numbers and texts, for JSON."""
        return {
            "fits": {name: fit_summary(fit.gradient) for name, fit in self.fits.items()},
            "comparison": comparison_summary(self.comparison),
            "closure": comparison_summary(self.closure),
        }


def run_demo(
    out: str | Path,
    *,
    seed: int = 1,
    coarse: int = 16,
    camera: str = "lsstcam",
    processes: int = 1,
    overwrite: bool = False,
    say: Callable[[str | Table], None] = print,
) -> Demo:
    """Simulate sky and dome, fit both, compare them, correct the dome with the sky, and compare again.

    Parameters
    ----------
    out : str or Path
        Folder for ``sky``, ``dome`` (the simulations), ``sky_fit``, ``dome_fit``, ``compare``, ``corrected`` (the
        corrected dome flats), ``refit`` (a fit of these) and ``closure`` (a comparison of these with the sky).
    seed : int
        Seed of the simulation.
    coarse : int
        Factor by which pixels are larger; bins keep their size on the focal plane.
    camera, processes, overwrite
        As for the commands.
    say : callable
        Prints text and rich tables.

    Returns
    -------
    Demo
    """
    out = Path(out)
    for kind in ("sky", "dome"):  # before anything is written
        check_folder(out / kind, overwrite)
    for folder, files in (("sky_fit", FILES), ("dome_fit", FILES), ("compare", COMPARISON), ("refit", FILES),
                          ("closure", COMPARISON)):  # fmt: skip
        check_free(out / folder, files, overwrite)

    def fit(flats: str, kind: str, into: str) -> FitResult:
        config = RunConfig(
            camera=str(out / kind / "camera.ecsv"),
            bin_factor=max(1, round(128 / coarse)),
            detector_boundary=max(1, round(10 / coarse)),
            do_fit_centroid=True,
            do_fit_gradient=True,
            radial_spline_nodes="auto",
            do_reference_gradient=kind == "sky",
        )
        with within(into):
            return run_fit([out / flats], out / into, config, defects=out / kind / "defects", processes=processes,
                           overwrite=overwrite)  # fmt: skip

    fits: dict[str, FitResult] = {}
    for kind in ("sky", "dome"):
        geometry = get_camera(camera)
        size = coarse * next(iter(geometry)).pixel_size
        say(f"{kind}: simulating flats of {size:g} mm pixels, seed {seed}")
        truth = write_simulation(
            out / kind, kind=kind, coarse=coarse, seed=seed, camera=geometry, processes=processes, overwrite=overwrite,
        )  # fmt: skip
        say(f"{kind}: fitting")
        fits[kind] = fit(f"{kind}/flats", kind, f"{kind}_fit")
        say(truth_table(fits[kind].gradient, truth, f"{kind}: {fits[kind].map.message}"))
        say(f"{kind}: see {out / f'{kind}_fit'}\n")
    sky, dome = out / "sky_fit" / REFERENCE, out / "dome_fit" / PRODUCT
    say("comparing them")
    comparison = run_compare(sky, dome, out / "compare", overwrite=overwrite)
    say("\n".join(comparison_lines(comparison)) + f"\nsee {out / 'compare'}\n")
    say("correcting the dome's flats with the sky, and fitting them again")
    run_apply(
        [out / "dome" / "flats"], out / "corrected", out / "compare" / TIED, sky,
        camera=str(out / "dome" / "camera.ecsv"), processes=processes, overwrite=overwrite,
    )  # fmt: skip
    fits["refit"] = fit("corrected", "dome", "refit")
    closure = run_compare(sky, out / "refit" / PRODUCT, out / "closure", overwrite=overwrite)
    say(closure_table(comparison, closure, fits["sky"].gradient))
    say(f"corrected flats: see {out / 'corrected'}, {out / 'refit'} and {out / 'closure'}")
    return Demo(fits, comparison, closure)


def closure_table(comparison: Comparison, closure: Comparison, sky: FlatGradient) -> Table:
    """How the dome differs from the sky before and after the correction, which is to bring all rows to 0.

    Parameters
    ----------
    comparison, closure : Comparison
        Of the sky with the dome, and with the corrected dome.
    sky : FlatGradient
        Its plane is added to the differences of planes: a correction takes out the dome's, whatever the sky's is.
    """
    title = "dome minus sky, before and after the correction"
    table = new_table(title, ("", "before", "sd", "after", "sd", "unit"), ("", "unit"), no_wrap=True)

    def add(name: str, found: list[tuple[float, float]], unit: str) -> None:
        shown = [text for mean, sd in found for text in (f"{mean:+.2g}", f"{sd:.1g}")]
        table.add_row(name, *shown, unit)

    both = comparison, closure
    for radius in _radii(min(c.grid[-1] for c in both)):
        at = [(c.radial, int(np.argmin(np.abs(c.grid - radius)))) for c in both]
        add(f"radial, {radius:g} mm", [(radial["mean"][k], radial["sd"][k]) for radial, k in at], "mmag")
    for name in COMPARED:
        if name == "itl_ratio" and sky.require_estimates()[name]["sd"] == 0:
            continue  # there is one group of detectors
        quantity, found = QUANTITIES[name], [c.differences[name] for c in both]
        plane = getattr(sky, name) if name.startswith("gradient") else 0.0
        label = f"{quantity.label} (dome's alone)" if name.startswith("gradient") else quantity.label
        shown = [(quantity.scale * (d.mean + plane), quantity.scale * d.sd) for d in found]
        add(label, shown, quantity.shown_unit)
    return table


def _radii(reach: float) -> tuple[float, ...]:
    """Radii to show (mm): not the centre, where flats are normalized, and none beyond the bins."""
    radii = shown_radii(reach)
    return (100.0, *radii[1:]) if radii == SHOWN_RADII else radii[1:]


def truth_table(gradient: FlatGradient, truth: dict[str, Any], title: str) -> Table:
    """Truth and estimate of each parameter, with the standard deviation; for the radial function relative (%)."""
    columns = ("parameter", "truth", "estimate", "difference", "sd", "unit")
    table = new_table(title, columns, ("parameter", "unit"))
    estimates = gradient.require_estimates()
    for name in COMPARED:
        true, found = truth[name], getattr(gradient, name)
        sd = estimates[name]["sd"]
        if name == "itl_ratio" and sd == 0:
            continue  # there is one group of detectors
        table.add_row(name, f"{true:.6g}", f"{found:.6g}", f"{found - true:+.2g}", f"{sd:.2g}", unit_of(name))
    true_curve = PchipInterpolator(*(truth["radial_function"][key] for key in ("radius", "value")))
    for radius in _radii(gradient.reach):
        true = float(true_curve(radius)) * truth["level"]
        found = float(gradient.compute_radial(radius)) * gradient.normalization_factor
        sd = float(gradient.compute_radial_sd(radius)) * gradient.normalization_factor / true
        table.add_row(
            f"radial at {radius:g} mm", f"{true:.1f}", f"{found:.1f}", f"{100 * (found / true - 1):+.3f}%",
            f"{100 * sd:.3f}%", "counts",
        )  # fmt: skip
    return table
