"""``bayesflat simulate`` and ``bayesflat demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bayesflat.commands.options import Command, Common, common
from bayesflat.commands.results import DONE, NOT_CONVERGED, say_json
from bayesflat.commands.terminal import say, working
from bayesflat.config import merge_overrides
from bayesflat.errors import InputError

if TYPE_CHECKING:
    from bayesflat.simulation.truth import Light, Noise


@click.command(cls=Command, name="simulate", short_help="Make flats with a known truth.")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write."
)
@click.option("--kind", type=click.Choice(["sky", "dome"]), default="sky", show_default=True, help="Light source.")
@click.option(
    "--coarse", type=click.IntRange(1), default=1, show_default=True, metavar="F", help="Pixels F times as large."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same detectors.")
@click.option("--physical-filter", metavar="NAME", help="Sets ratio and scatters.  [default: the camera's in i]")
@click.option("--compress", is_flag=True, help="Tile-compress the flats (GZIP_2), as LSST does.")
@click.option("--mef", is_flag=True, help="One file with an HDU a detector, in place of a file a detector.")
@click.option("--light", "light_fields", multiple=True, metavar="KEY=VALUE", help="Truth: see below.")
@click.option("--noise", "noise_fields", multiple=True, metavar="KEY=VALUE", help="Amplitude: see below.")
@common
def simulate_command(
    out: Path,
    kind: str,
    coarse: int,
    seed: int,
    physical_filter: str | None,
    compress: bool,
    mef: bool,
    light_fields: tuple[str, ...],
    noise_fields: tuple[str, ...],
    common: Common,
) -> int:
    """Simulate flats and defect tables with a known truth: DIR/flats, DIR/defects, DIR/camera.ecsv, DIR/truth.json.

    Headers are as those of the camera's files. The light has LSSTCam's vignetting, scaled to other cameras.

    \b
    --light  centroid_delta (mm, x,y), gradient and outer_gradient (1/mm, x,y), outer_gradient_radius (mm),
             itl_ratio, bend (fraction at 350 mm, grows as radius squared), level (counts at the centre),
             scale (size of vignetting and bend relative to LSSTCam's)
    --noise  detector_scatter, amplifier_scatter, shared_amplifier, shared_smooth, shared_slope (fractions;
             one number, or ITL,rest), own_field, field_scale (mm), rim, dust (fraction of the bins), white
             (fraction in a bin of 1.28 mm), dead_columns (number a detector); defaults are the filter's
    """  # noqa: D301
    from bayesflat.data.camera import get_camera
    from bayesflat.simulation.flats import write_simulation
    from bayesflat.simulation.truth import Noise, band_of, default_filter, default_light, light_scale

    camera = get_camera(common.camera or "lsstcam")
    physical_filter = physical_filter or default_filter(camera)
    light = _with_fields(default_light(kind, physical_filter, light_scale(camera)), light_fields, "--light")
    noise = _with_fields(Noise.for_band(band_of(physical_filter)), noise_fields, "--noise")
    with working(common):
        truth = write_simulation(
            out,
            kind=kind,
            coarse=coarse,
            seed=seed,
            physical_filter=physical_filter,
            camera=camera,
            light=light,
            noise=noise,
            compress=compress,
            mef=mef,
            overwrite=common.overwrite,
            processes=common.processes,
        )
    if common.json:
        say_json({"truth": truth, "written": [str(out)]})
    elif not common.quiet:
        say(f"written to {out}", where=f"written to {out}")
    return DONE


def _with_fields[T: (Light, Noise)](defaults: T, texts: Sequence[str], option: str) -> T:
    """A dataclass with some of its fields replaced, from key=value texts."""
    import dataclasses

    values = merge_overrides({}, texts, option)
    known = [f.name for f in dataclasses.fields(defaults)]
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{option}: unknown key {key!r}; known keys: {', '.join(known)}")
        numbers = value if isinstance(value, list) else [value]
        if key != "radial" and not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise InputError(f"{option} {key}: needs a number, or two with a comma, got {value!r}")
        if isinstance(value, list):
            values[key] = tuple(value)
    try:
        return dataclasses.replace(defaults, **values)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{option} {' '.join(texts)}: {error}") from None


@click.command(cls=Command, name="demo", short_help="The whole story on simulated flats.")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the simulation.")
@click.option(
    "--coarse", type=click.IntRange(1), default=16, show_default=True, metavar="F", help="Pixels F times as large."
)
@common
def demo_command(out: Path, seed: int, coarse: int, common: Common) -> int:
    """Simulate sky and dome flats of a camera, fit both, compare them, correct the dome, and fit it again.

    Estimates are compared with the truth.
    """
    from bayesflat.commands.demo import run_demo

    silent = common.quiet or common.json
    with working(common):
        found = run_demo(
            out,
            seed=seed,
            coarse=coarse,
            camera=common.camera or "lsstcam",
            processes=common.processes,
            overwrite=common.overwrite,
            say=lambda what: None if silent else say(what),
        )
    if common.json:
        say_json({**found.summary(), "written": [str(out)]})
    return DONE if all(fit.converged for fit in found.fits.values()) else NOT_CONVERGED
