"""The command `bayesflat fit`: read inputs from disk, fit them, and write a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesflat.commands.caches import check_caches
from bayesflat.commands.runs import CONFIG, check_config, marked, new_run, of_run
from bayesflat.config import RunConfig
from bayesflat.data.binned import BinnedFlat, is_binned_table
from bayesflat.data.binning import bin_files
from bayesflat.data.camera import get_camera
from bayesflat.data.defects import find_defects
from bayesflat.data.flats import find_flats
from bayesflat.errors import InputError
from bayesflat.files import checksum, filling
from bayesflat.logs import logging_to
from bayesflat.processes import Workers
from bayesflat.stages import stage
from bayesflat.text import printable

if TYPE_CHECKING:
    from bayesflat.inference.result import FitResult

log = logging.getLogger(__name__)

PRODUCT, REFERENCE = "flat_gradient.fits", "flat_gradient_reference.fits"
RESIDUAL_PLOT, RADIAL_PLOT = "gradient_model_residual_plot.png", "gradient_radial_model_plot.png"
PLOTS = {  # by what they show, as `draw_figures` names it
    "radial_model": RADIAL_PLOT,
    "model_residual": RESIDUAL_PLOT,
    "offsets": "gradient_offsets_plot.png",
    "correlation": "gradient_correlation_plot.png",
    "predictive": "gradient_predictive_plot.png",
}
BINNED, LOG = "binned_image.fits", "fit.log"
POSTERIOR, TERMS, REPORT = "posterior.nc", "terms.ecsv", "report.html"
# the product comes last: where it exists, all files do
FILES = (
    LOG, CONFIG, *PLOTS.values(), REPORT, TERMS, POSTERIOR, BINNED, REFERENCE, PRODUCT,
)  # fmt: skip


def run_fit(
    inputs: Iterable[str | Path],
    out: str | Path,
    config: RunConfig,
    *,
    defects: str | Path | None = None,
    defects_date: str | None = None,
    processes: Workers = 1,
    overwrite: bool = False,
    sampling: bool = False,
    terms: bool = False,
    report: bool = True,
    config_file: str | Path | None = None,
) -> FitResult:
    """Fit flats, or a binned table, and write the product, plots and report to a folder.

    Parameters
    ----------
    inputs : iterable of str or Path
        Flats, folders or globs; or one binned table.
    out : str or Path
        Folder to write; its files appear together at the end.
    config : RunConfig
    defects : str or Path, optional
        Defect tables: a folder, a folder of folders, a glob or a file.
    defects_date : str, optional
        As for `bayesflat.data.defects.find_defects`.
    processes : int or concurrent.futures.Executor
        Number of processes that bin flats, or an executor.
    overwrite : bool
        Whether an earlier product may be replaced.
    sampling : bool
        Whether to sample the posterior with NUTS.
    terms : bool
        Whether to compare models with and without centroid, plane and outer plane, in ``terms.ecsv``.
    report : bool
        Whether to write ``report.html``.
    config_file : str or Path, optional
        That the config is from; where it lies beside a binned table, both must be of one run.

    Returns
    -------
    FitResult
        It is written even if it did not converge, which the product records.

    Raises
    ------
    InputError
        Wrong inputs, config or output; then nothing is written.
    """
    with (
        filling(out, FILES, overwrite) as folder,
        logging_to(folder / LOG if config.saveLogOutput else None) as warnings,
    ):
        check_caches()
        binned, record = load(inputs, config, defects=defects, defects_date=defects_date, processes=processes)
        if config_file is not None:
            check_config(config_file, record[0]["name"], binned)
        return fit_into(
            folder, binned, record, config, sampling=sampling, terms=terms, warnings=warnings if report else None
        )


def fit_into(
    folder: Path,
    binned: BinnedFlat,
    record: Sequence[dict[str, Any]],
    config: RunConfig,
    *,
    sampling: bool = False,
    terms: bool = False,
    warnings: list[str] | None = None,
) -> FitResult:
    """Fit a binned flat and write everything but the log to a folder; parameters and result as in `run_fit`.

    A report is written if ``warnings`` is given: a list to which the caller's log handler appends during the fit.
    """
    from bayesflat.inference.fitting import fit, sample

    run = new_run()
    log.info("run %s", run)
    result = fit(binned, config, inputs=record)
    if sampling:
        result = sample(result)
    if terms:
        from bayesflat.inference.loo import compare_terms

        table = compare_terms(binned, config)
        table.meta["RUNID"] = run
        table.write(folder / TERMS, format="ascii.ecsv")
    result = replace(result, gradient=of_run(result.gradient, run))
    _write(result, replace(binned, run=run), config, folder, warnings)
    return result


def load(
    inputs: Iterable[str | Path],
    config: RunConfig,
    *,
    defects: str | Path | None = None,
    defects_date: str | None = None,
    processes: Workers = 1,
) -> tuple[BinnedFlat, list[dict[str, str]]]:
    """Read a binned table, or bin flats.

    Returns
    -------
    binned : BinnedFlat
    record : list of dict
        Name and SHA-256 of every file that was read.
    """
    camera = get_camera(config.camera)
    paths = [str(path) for path in inputs]
    tables = [path for path in paths if is_binned_table(path)]
    if tables and len(paths) > 1:
        raise InputError(f"{tables[0]}: a binned table must be the only input, {len(paths)} were given")
    if tables:
        if defects is not None:
            raise InputError("--defects: the input is a binned table, whose defects were left out when it was made")
        stage("reading bins")
        binned = BinnedFlat.read(tables[0], camera)
        log.info("the input is binned already: bin_factor, detector_boundary and mask_planes do nothing")
        return _with_filter(binned, config.physical_filter, tables[0]), [record(tables[0])]
    flats = find_flats(paths)
    boxes = find_defects(defects, camera, defects_date) if defects is not None else None
    stage(f"reading headers of {len(flats)} files")
    binned = bin_files(
        flats,
        camera,
        defects=boxes,
        bin_factor=config.bin_factor,
        detector_boundary=config.detector_boundary,
        mask_planes=config.mask_planes,
        physical_filter=config.physical_filter,
        detector_key=config.detector_key,
        filter_key=config.filter_key,
        use_non_science=config.do_use_non_science_detectors,
        processes=processes,
    )
    return binned, [record(path) for path in flats]


def _with_filter(binned: BinnedFlat, physical_filter: str | None, where: str) -> BinnedFlat:
    """The binned flat with the filter that is configured, which must agree with that of the table."""
    if not physical_filter:
        return binned
    if binned.physical_filter not in ("", physical_filter):
        raise InputError(
            f"{where}: filter is {binned.physical_filter}, but --physical-filter {physical_filter} was given"
        )
    return replace(binned, physical_filter=physical_filter)


def record(path: str | Path) -> dict[str, str]:
    """Name and SHA-256 of a file."""
    return {"name": printable(str(path)), "sha256": checksum(path)}


def _write(result: FitResult, binned: BinnedFlat, config: RunConfig, folder: Path, warnings: list[str] | None) -> None:
    """Write the files of a fit; the report only if ``warnings`` is not None."""
    from bayesflat.report.figures import save_figure
    from bayesflat.report.fit_figures import draw_figures

    gradient = result.gradient
    stage("plots")
    figures, check = draw_figures(result, config.fixed_model_residual_plot_scale)
    for name, figure in figures.items():
        save_figure(figure, folder / PLOTS[name], run=binned.run)
    if warnings is not None:
        from bayesflat.report.fit_page import fit_report

        stage("report")
        page = fit_report(result, warnings=warnings, check=check)
        (folder / REPORT).write_text(page, encoding="utf-8")
    if result.posterior is not None:
        result.posterior.attrs["run_id"] = binned.run
        result.posterior.to_netcdf(folder / POSTERIOR, engine="h5netcdf")
    binned.write(folder / BINNED)
    text = marked(_resolved(result, binned, config).to_toml(), binned.run)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    gradient.write(folder / (REFERENCE if config.do_reference_gradient else PRODUCT))


def _resolved(result: FitResult, binned: BinnedFlat, config: RunConfig) -> RunConfig:
    """The configuration that repeats the fit in any folder, with the filter that was read and a full camera path."""
    camera = Path(config.camera)
    found = {
        "physical_filter": binned.physical_filter or None,
        "camera": str(camera.resolve()) if camera.is_file() else config.camera,
    }
    return RunConfig(**result.config.model_dump() | found)
