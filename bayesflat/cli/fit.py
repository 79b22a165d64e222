"""``bayesflat fit``."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bayesflat.commands.options import (
    Command,
    Common,
    Keys,
    Sampling,
    Settings,
    check_keys,
    common,
    configured,
    key_options,
    required,
    sampling_options,
    settings_options,
)
from bayesflat.commands.results import FIT, show, show_all
from bayesflat.commands.terminal import say, working
from bayesflat.config import RunConfig
from bayesflat.errors import InputError
from bayesflat.processes import workers_of
from bayesflat.rubin.options import SourceAndOutput, query_of, source_and_output_options


@click.command(cls=Command, name="fit", short_help="Fit flats, or a binned table.")
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--defects", metavar="PATH", help="Defect tables: a folder, a folder of folders, a glob or a file.")
@click.option("--defects-date", metavar="DATE", help="Of several tables of a detector, the last one until DATE (UTC).")
@settings_options("Physical filter, where the input does not say; with --butler which ones to fit (default: all).")
@key_options
@source_and_output_options
@sampling_options
@click.option("--compare-terms", is_flag=True, help="Which of centroid, plane, outer plane does the flat need?")
@click.option("--dask", metavar="ADDRESS", help="Bin and fit on the Dask cluster of this scheduler, in place of -j.")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@common
def fit_command(
    inputs: tuple[str, ...],
    out: Path | None,
    defects: str | None,
    defects_date: str | None,
    settings: Settings,
    keys: Keys,
    source: SourceAndOutput,
    sampling: Sampling,
    compare_terms: bool,
    dask: str | None,
    no_report: bool,
    common: Common,
) -> int:
    """Fit the large-scale gradients of flats.

    INPUT are flats in FITS, of one detector or several a file, folders or globs of them, or one binned table (FITS or
    ECSV).

    With --butler and no INPUT, flats and defects come from a data repository, and each filter and date is a fit of its
    own: in DIR itself where one filter is named, else in DIR/FILTER; in a folder DATE below where there are several.

    \b
    Config fields (-c KEY=VALUE; lists 0,200,300 or [0, 200, 300]; true, false, none; nested keys with dots):
    """  # noqa: D301
    fields = asdict(sampling)
    sample = fields.pop("sample")
    config, filters = configured(
        settings, common.camera, several=source.repo is not None, options=fields | asdict(keys)
    )
    if compare_terms:
        from bayesflat.inference.loo import require_scatter

        require_scatter(config)
    query = query_of(source, inputs, out, filters)
    check_keys(keys, query is not None)
    if query is not None and defects is not None:
        raise InputError("--defects: with --butler they come from the repository (connections.input_defects)")
    if defects_date is not None and defects is None:
        raise InputError("--defects-date chooses among the tables of --defects, which is not given")
    with working(common), workers_of(common.processes, dask) as workers:
        work: dict[str, Any] = {"processes": workers, "overwrite": common.overwrite}
        work |= {"sampling": sample, "terms": compare_terms, "report": not no_report}
        if query is not None:
            from bayesflat.rubin.fit import run_fit as run_units

            return show_all(FIT, run_units(query, out, config, **work), common)
        from bayesflat.commands.fit import run_fit

        folder = required(out, "-o must say which folder to write")
        result = run_fit(inputs, folder, config, defects=defects, defects_date=defects_date,
                         config_file=settings.config_file, **work)  # fmt: skip
    if compare_terms and not (common.quiet or common.json):
        from bayesflat.commands.tables import terms_table

        say(terms_table(folder))
    return show(FIT, result, str(folder), common)


def _describe_fields() -> str:
    """Help on the config fields: a line for each, with unit and default."""
    lines = []
    for name, field in RunConfig.model_fields.items():
        if name == "connections":
            continue
        default = field.default
        shown = str(default).lower() if isinstance(default, bool) or default is None else default
        if isinstance(default, list):
            shown = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in default)
        lines.append(f"  {name}: {field.description} [{shown}]")
    return "\n".join(lines)


fit_command.help = inspect.cleandoc(fit_command.help or "") + "\n" + _describe_fields()
