"""``bayesflat compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bayesflat.commands.options import Command, Common, Settings, common, configured, settings_options
from bayesflat.commands.results import COMPARISON, show, show_all
from bayesflat.commands.terminal import working
from bayesflat.errors import InputError
from bayesflat.quantities import REFERENCE_RADIUS, TOLERANCE_MMAG
from bayesflat.rubin.options import Source, query_of, source_options


@click.command(cls=Command, name="compare", short_help="Do sky and dome differ?")
@click.argument("products", nargs=-1, metavar="SKY.fits DOME.fits")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write."
)
@click.option(
    "--binned",
    nargs=2,
    metavar="SKY DOME",
    help="Binned tables, for a paired comparison.  [default: binned_image.fits beside the products]",
)
@click.option("--unpaired", is_flag=True, help="Compare the products alone, conservatively.")
@click.option("--rope", type=float, default=TOLERANCE_MMAG, show_default=True, metavar="MMAG", help="Tolerance (mmag).")
@click.option(
    "--radius",
    type=float,
    metavar="MM",
    help=f"Where differences are judged in mmag (mm).  [default: {REFERENCE_RADIUS:g}, or 0.85 of the bins' radius]",
)
@settings_options("With --butler: which filters to compare.  [default: all]")
@source_options
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@common
def compare_command(
    products: tuple[str, ...],
    out: Path,
    binned: tuple[str, str] | None,
    unpaired: bool,
    rope: float,
    radius: float | None,
    settings: Settings,
    source: Source,
    no_report: bool,
    common: Common,
) -> int:
    """Compare the gradients of a sky and a dome flat: what differs, by how much, and does it matter?

    SKY.fits and DOME.fits are products of `bayesflat fit`.  With their binned tables the ratio of the flats is fitted
    bin by bin, in which the detectors cancel; otherwise the two posteriors are subtracted.

    With --butler the products come from a data repository, and the flats that they were fitted to are binned again;
    folders in DIR are as for fit. Of the config, only the camera and the dataset type names are used, and only then:
    connections.gradient, reference_gradient.
    """
    if source.repo is None:
        given = {"--physical-filter": settings.filters, "-c": settings.overrides, "-C": settings.config_file}
        option = next((option for option, value in given.items() if value), None)
        if option:
            raise InputError(f"{option} needs --butler, the data repository: products in files say what they are")
        if len(products) != 2:
            raise InputError(f"SKY.fits DOME.fits: two products are needed, {len(products)} given; or --butler")
    config, filters = configured(settings, common.camera, several=source.repo is not None)
    query = query_of(source, products, out, filters)
    work: dict[str, Any] = {"binned": binned, "unpaired": unpaired, "rope_mmag": rope, "radius": radius}
    work |= {"overwrite": common.overwrite, "report": not no_report}
    with working(common):
        if query is not None:
            from bayesflat.rubin.compare import run_compare as run_units

            outcomes = run_units(query, out, config, processes=common.processes, **work)
            return show_all(COMPARISON, outcomes, common)
        from bayesflat.commands.compare import run_compare

        sky, dome = products
        comparison = run_compare(sky, dome, out, camera=common.camera, **work)
    return show(COMPARISON, comparison, str(out), common)
