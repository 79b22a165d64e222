"""The command line: parse options, run a command, print its results, and print errors in one line."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bayesflat import __version__
from bayesflat.commands.options import (
    Command,
    Common,
    Keys,
    Sampling,
    Settings,
    common,
    configured,
    key_options,
    sampling_options,
    settings_options,
)
from bayesflat.commands.results import (
    COMPARISON,
    DONE,
    FIT,
    FLATS,
    INTERRUPTED,
    NOT_CONVERGED,
    say_json,
    show,
    show_all,
)
from bayesflat.commands.terminal import WRONG_INPUT, fail, say, working
from bayesflat.config import RunConfig, merge_overrides
from bayesflat.errors import InputError
from bayesflat.processes import Ended, end_on_signals, workers_of
from bayesflat.quantities import REFERENCE_RADIUS, TOLERANCE_MMAG
from bayesflat.rubin.options import (
    Source,
    SourceAndOutput,
    query_of,
    source_and_output_options,
    source_options,
)
from bayesflat.text import printable

if TYPE_CHECKING:
    from bayesflat.simulation.truth import Light, Noise


def main() -> None:
    """Run the command line and end with its exit status."""
    _occupy_standard_streams()
    end_on_signals()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line on arguments and return its exit status."""
    try:
        return cli.main(arguments, prog_name="bayesflat", standalone_mode=False) or DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return WRONG_INPUT
    except click.ClickException as error:
        return fail(error.format_message())
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        # the disk is full, no permission ...: the user can solve it
        return fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort) as error:
        return _ended(str(error) or "interrupted; nothing was written", INTERRUPTED)
    except Ended as error:
        return _ended(error.message, error.status)


def _ended(message: str, status: int) -> int:
    """Say what ended the work, if anybody still listens, and return the exit status."""
    with suppress(OSError):
        click.echo(printable(message), err=True)
    return status


def _occupy_standard_streams() -> None:
    """Let no file that is opened take the number of stdin, stdout or stderr where that is closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Large-scale gradients of a wide-field camera's flats.

    Exit status: 0 done, 2 wrong input or options, 3 not converged or diagnostics failed, 130 interrupted,
    143 terminated.
    """


@cli.command(cls=Command, name="fit", short_help="Fit flats, or a binned table.")
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
    _check_keys(keys, query is not None)
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

        folder = _required(out, "-o must say which folder to write")
        result = run_fit(inputs, folder, config, defects=defects, defects_date=defects_date,
                         config_file=settings.config_file, **work)  # fmt: skip
    if compare_terms and not (common.quiet or common.json):
        from bayesflat.commands.tables import terms_table

        say(terms_table(folder))
    return show(FIT, result, str(folder), common)


def _check_keys(keys: Keys, butler: bool) -> None:
    option = next((name for name, value in asdict(keys).items() if value is not None), None)
    if butler and option is not None:
        raise InputError(f"--{option.replace('_', '-')}: with --butler, data ids say which detector and filter it is")


def _required[T](value: T | None, message: str) -> T:
    """The value of an option that must be given."""
    if value is None:
        raise InputError(message)
    return value


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


@cli.command(cls=Command, name="apply", short_help="Correct dome flats.")
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
    _check_keys(keys, query is not None)
    if query is not None:
        with working(common):
            from bayesflat.rubin.apply import run_apply as run_units

            outcomes = run_units(
                query, out, config, gradient=gradient, reference=reference, processes=common.processes,
                overwrite=common.overwrite, force=force,
            )  # fmt: skip
            return show_all(FLATS, outcomes, common)
    folder = _required(out, "-o must say which folder to write")
    dome = _required(gradient, "--gradient must say which product to apply")
    sky = _required(reference, "--reference must say which product to apply")
    with working(common):
        from bayesflat.commands.apply import run_apply

        written = run_apply(
            flats, folder, dome, sky, camera=config.camera if "camera" in config.model_fields_set else None,
            physical_filter=config.physical_filter,
            detector_key=config.detector_key, filter_key=config.filter_key,
            processes=common.processes, overwrite=common.overwrite, force=force,
        )  # fmt: skip
    return show(FLATS, sum(written.values()), str(folder), common)


@cli.command(cls=Command, name="compare", short_help="Do sky and dome differ?")
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


@cli.command(cls=Command, name="simulate", short_help="Make flats with a known truth.")
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


@cli.command(cls=Command, name="demo", short_help="The whole story on simulated flats.")
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
