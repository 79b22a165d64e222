"""Options that commands share, and what they amount to."""

from __future__ import annotations

import click

from bayesflat.config import RunConfig, merge_overrides, read_toml
from bayesflat.errors import InputError


def _options(*options):
    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


common = _options(
    click.option("--camera", metavar="NAME|TABLE", help="lsstcam (default), lsstcomcam, or a camera table (ECSV)."),
    click.option("-j", "processes", type=click.IntRange(1), default=1, show_default=True, help="Processes."),
    click.option("--overwrite", is_flag=True, help="Replace what an earlier run left in DIR."),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
)

config_options = _options(
    click.option("-c", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a config field; beats -C."),
    click.option("-C", "config_file", metavar="FILE", help="Config in TOML, such as an earlier fit's config.toml."),
)


class Names(click.ParamType):
    """One name, or several with commas."""

    name = "names"

    def convert(self, value, param, ctx):
        """Split at the commas."""
        return [part.strip() for part in value.split(",") if part.strip()]


def filter_option(help: str):
    """The filter, or with --butler several; what they are for differs from command to command."""
    return click.option(
        "--physical-filter", "filters", type=Names(), multiple=True, metavar="NAME[,NAME...]", help=help
    )  # fmt: skip


repository_options = _options(
    click.option("--butler", "repo", metavar="REPO", help="Take the input from a data repository: folder or label."),
    click.option(
        "--collections", type=Names(), multiple=True, metavar="C[,C...]", help="Its collections, searched in order."
    ),
    click.option("--instrument", metavar="NAME", help="Not needed where the repository has only one."),
    click.option(
        "--date", "dates", multiple=True, metavar="ISO",
        help="Take what CALIBRATION collections certify for this date (TAI); repeat for several.",
    ),
)  # fmt: skip

butler_options = _options(
    repository_options,
    click.option("--where", default="", metavar="EXPR", help="Butler's expression that flats must satisfy."),
    click.option(
        "--output-run", metavar="RUN",
        help="Put the results into this RUN collection (several dates: RUN/DATE); -o is not needed then.",
    ),
)  # fmt: skip


def configured(config_file, overrides, camera, filters, repo, options) -> tuple[RunConfig, list[str]]:
    """The configuration of a command, and the filters that are named."""
    values = read_toml(config_file) if config_file is not None else {}
    if "radial_spline_nodes" in merge_overrides({}, overrides):
        values.pop("radial_spline_nodes_placed", None)  # of the nodes that were in the file
    values = merge_overrides(values, overrides)
    filters = [name for names in filters for name in names]
    if len(filters) > 1 and repo is None:
        raise InputError(
            f"--physical-filter: several ({', '.join(filters)}) need --butler; files are fitted one by one"
        )
    options |= {"camera": camera, "physical_filter": filters[0] if filters else None}
    values |= {key: value for key, value in options.items() if value is not None}
    config = RunConfig.make(values, config_file or "-c")
    return config, filters or ([config.physical_filter] if config.physical_filter else [])


def query_of(inputs, out, repo, collections, filters, dates, instrument, where="", output_run=None):
    """What is asked of a repository, or None where the input is files."""
    if repo is None:
        given = {"--collections": collections, "--date": dates, "--instrument": instrument, "--where": where}
        alone = next((option for option, value in (given | {"--output-run": output_run}).items() if value), None)
        if alone:
            raise InputError(f"{alone} needs --butler, the data repository")
        if not inputs:
            raise InputError("no INPUT given; accepted are files, folders and globs, or --butler")
        if out is None:
            raise InputError("-o must say which folder to write")
        return None
    if inputs:
        raise InputError(f"{inputs[0]}: the input comes from --butler or from files, not from both")
    from bayesflat.rubin.work import Query

    collections = [name for names in collections for name in names]
    return Query(repo, collections, filters, dates, instrument, where, output_run)
