"""Options that several commands have, in groups that are one argument each, and the configuration made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel

from bayesflat.config import RunConfig, merge_overrides, read_toml, without_retired
from bayesflat.errors import InputError

Decorator = Callable[[Callable[..., int]], Callable[..., int]]


_SECTIONS: dict[str, str] = {}  # heading in the help, by the name of the parameter


class Command(click.Command):
    """A command whose help shows options under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = _SECTIONS.get(parameter.name or "", "Options")
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def group(name: str, kind: type, heading: str, *options: Decorator) -> Decorator:
    """Pass options to a command as one argument ``name``: a dataclass ``kind`` with a field for each option.

    The help has them under a heading.
    """
    taken = [field.name for field in fields(kind)]
    _SECTIONS.update(dict.fromkeys(taken, heading))

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def grouped(**given: Any) -> int:
            values = {key: given.pop(key) for key in taken}
            return command(**given, **{name: kind(**values)})

        with_options: Callable[..., int] = grouped
        for option in reversed(options):
            with_options = option(with_options)
        return with_options

    return decorate


class CameraName(click.ParamType):
    """A camera by its name, or a table of one."""

    name = "camera"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so; else files."""
        from bayesflat.data.camera import NAMED_CAMERAS

        found = [CompletionItem(name) for name in NAMED_CAMERAS if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


class KeyValue(click.ParamType):
    """A config field and its value."""

    name = "key=value"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Fields that begin so, with the values of switches and choices, else with the default."""
        found = []
        for name, field in RunConfig.model_fields.items():
            values = ("true", "false") if field.annotation is bool else get_args(field.annotation)
            if not values or not all(isinstance(value, str) for value in values):
                values = (_as_text(field.default),)
            found += [CompletionItem(f"{name}={value}", help=field.description) for value in values]
        return [one for one in found if one.value.startswith(incomplete)]


def _as_text(default: Any) -> str:
    """A default as it is written on the command line; empty where that would say nothing."""
    if isinstance(default, list):
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default)
    return "" if default is None or isinstance(default, BaseModel | dict) else str(default)


@dataclass(frozen=True)
class Common:
    """Options of all commands."""

    camera: str | None
    processes: int
    overwrite: bool
    verbose: int
    quiet: bool
    json: bool
    log_level: str | None
    log_file: Path | None


common = group(
    "common",
    Common,
    "Running",
    click.option(
        "--camera",
        type=CameraName(),
        metavar="NAME|TABLE",
        help="lsstcam (default), lsstcomcam, decam, hsc or a camera table (ECSV).",
    ),
    click.option("-j", "--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes."),
    click.option("--overwrite", is_flag=True, help="Replace what an earlier run left in DIR."),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option("--json", is_flag=True, help="Print the result as JSON, with -q too."),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        help="What is logged to stderr, in place of -v and -q.",
    ),
    click.option(
        "--log-file", type=click.Path(path_type=Path), metavar="FILE", help="Log into this file too, info at least."
    ),
)


class Names(click.ParamType):
    """One name, or several separated by commas."""

    name = "names"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split at the commas."""
        return [part.strip() for part in value.split(",") if part.strip()]


@dataclass(frozen=True)
class Settings:
    """Options that set the configuration, and the filters."""

    overrides: tuple[str, ...]
    config_file: str | None
    filters: tuple[list[str], ...]


def settings_options(filter_help: str) -> Decorator:
    """Options for filters and config fields; the help on filters differs between commands."""
    return group(
        "settings",
        Settings,
        "Configuration",
        click.option(
            "--physical-filter", "filters", type=Names(), multiple=True, metavar="NAME[,NAME...]", help=filter_help
        ),
        click.option(
            "-c",
            "--config",
            "overrides",
            type=KeyValue(),
            multiple=True,
            metavar="KEY=VALUE",
            help="Set a config field; beats -C.",
        ),
        click.option(
            "-C",
            "--config-file",
            "config_file",
            metavar="FILE",
            help="Config in TOML, such as an earlier fit's config.toml.",
        ),
    )


@dataclass(frozen=True)
class Keys:
    """Options that name header cards; both are fields of the config."""

    detector_key: str | None
    filter_key: str | None


key_options = group(
    "keys",
    Keys,
    "Headers",
    click.option("--detector-key", metavar="KEY", help="Header card with a detector's id or name; A+B joins two."),
    click.option("--filter-key", metavar="KEY", help="Header card with the physical filter."),
)


@dataclass(frozen=True)
class Sampling:
    """Options of NUTS; all but ``sample`` are fields of the config."""

    sample: bool
    seed: int | None
    draws: int | None
    tune: int | None
    chains: int | None


sampling_options = group(
    "sampling",
    Sampling,
    "Sampling",
    click.option("--seed", type=click.IntRange(0), help="Seed of all random numbers.  [default: 0]"),
    click.option("--sample", is_flag=True, help="Sample the posterior with NUTS."),
    click.option("--draws", type=click.IntRange(1), help="Most draws of each chain.  [default: 2000]"),
    click.option("--tune", type=click.IntRange(1), help="Draws before, spent on the step size.  [default: 50]"),
    click.option("--chains", type=click.IntRange(1), help="Chains.  [default: 4]"),
)


def configured(
    settings: Settings, camera: str | None, *, several: bool, options: dict[str, Any] | None = None
) -> tuple[RunConfig, list[str]]:
    """The configuration of a command, and the filters.

    Parameters
    ----------
    settings : Settings
    camera : str or None
        ``--camera``.
    several : bool
        Whether several filters are accepted, as from a data repository.
    options : dict, optional
        Config fields that have options of their own; None for an option that is not given.

    Raises
    ------
    InputError
        An invalid configuration, or several filters where only one is accepted.
    """
    values: dict[str, Any] = {}
    if settings.config_file is not None:
        values = without_retired(read_toml(settings.config_file), settings.config_file)
    values = merge_overrides(values, settings.overrides)
    filters = [name for names in settings.filters for name in names]
    if len(filters) > 1 and not several:
        raise InputError(
            f"--physical-filter: several ({', '.join(filters)}) need --butler; files are fitted one by one"
        )
    given = (options or {}) | {"camera": camera, "physical_filter": filters[0] if filters else None}
    values |= {key: value for key, value in given.items() if value is not None}
    config = RunConfig.make(values, settings.config_file or "-c")
    return config, filters or ([config.physical_filter] if config.physical_filter else [])


def check_keys(keys: Keys, butler: bool) -> None:
    """Refuse names of header cards where a repository says which detector and filter a flat is."""
    option = next((name for name, value in asdict(keys).items() if value is not None), None)
    if butler and option is not None:
        raise InputError(f"--{option.replace('_', '-')}: with --butler, data ids say which detector and filter it is")


def required[T](value: T | None, message: str) -> T:
    """The value of an option that must be given."""
    if value is None:
        raise InputError(message)
    return value
