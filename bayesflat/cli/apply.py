"""``bayesflat apply``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bayesflat.commands.options import (
    Command,
    Common,
    Keys,
    Settings,
    check_keys,
    common,
    configured,
    key_options,
    required,
    settings_options,
)
from bayesflat.commands.results import FLATS, show, show_all
from bayesflat.commands.terminal import working
from bayesflat.rubin.options import SourceAndOutput, query_of, source_and_output_options


@click.command(cls=Command, name="apply", short_help="Correct dome flats.")
@click.argument("flats", nargs=-1, metavar="FLAT...")
@click.option("--gradient", metavar="DOME.fits", help="Gradient of the dome flat (FITS, YAML, ECSV).")
@click.option("--reference", metavar="SKY.fits", help="Reference gradient, of the sky flat.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--force", is_flag=True, help="Apply products that did not converge or are unusable, too.")
@settings_options("Physical filter, where the flats do not say; with --butler which ones to correct (default: all).")
@key_options
@source_and_output_options
@common
def apply_command(
    flats: tuple[str, ...],
    gradient: str | None,
    reference: str | None,
    out: Path | None,
    force: bool,
    settings: Settings,
    keys: Keys,
    source: SourceAndOutput,
    common: Common,
) -> int:
    """Give dome flats the large-scale shape of the sky: planes removed, the radial function exchanged.

    FLAT are flats in FITS, folders or globs of them; each corrected one keeps its name, headers, mask and compression.
    Of a file of several detectors every one for science is corrected, and the rest is copied.
    The vendors' throughput ratio stays in; the normalization is divided out.

    With --butler and no FLAT, the flats come from a data repository, and the products too where --gradient and
    --reference are not given; folders in DIR are as for fit. Of the config, only the camera and the dataset type names
    are used: connections.input_flat, gradient, reference_gradient, output_flat.
    """
    config, filters = configured(settings, common.camera, several=source.repo is not None, options=asdict(keys))
    query = query_of(source, flats, out, filters)
    check_keys(keys, query is not None)
    if query is not None:
        with working(common):
            from bayesflat.rubin.apply import run_apply as run_units

            outcomes = run_units(
                query, out, config, gradient=gradient, reference=reference, processes=common.processes,
                overwrite=common.overwrite, force=force,
            )  # fmt: skip
            return show_all(FLATS, outcomes, common)
    folder = required(out, "-o must say which folder to write")
    dome = required(gradient, "--gradient must say which product to apply")
    sky = required(reference, "--reference must say which product to apply")
    with working(common):
        from bayesflat.commands.apply import run_apply

        written = run_apply(
            flats, folder, dome, sky, camera=config.camera if "camera" in config.model_fields_set else None,
            physical_filter=config.physical_filter,
            detector_key=config.detector_key, filter_key=config.filter_key,
            processes=common.processes, overwrite=common.overwrite, force=force,
        )  # fmt: skip
    return show(FLATS, sum(written.values()), str(folder), common)
