"""What `bayesflat fit` does: inputs from disk, the fit, and the folder that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

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

log = logging.getLogger(__name__)

PRODUCT, REFERENCE = "flat_gradient.fits", "flat_gradient_reference.fits"
RESIDUAL_PLOT, RADIAL_PLOT = "gradient_model_residual_plot.png", "gradient_radial_model_plot.png"
OFFSETS_PLOT, CORRELATION_PLOT, PREDICTIVE_PLOT = (
    "gradient_offsets_plot.png", "gradient_correlation_plot.png", "gradient_predictive_plot.png",
)  # fmt: skip
BINNED, CONFIG, LOG = "binned_image.fits", "config.toml", "fit.log"
POSTERIOR, TERMS, REPORT = "posterior.nc", "terms.ecsv", "report.html"
# the product comes last: where it is, all is there
FILES = (
    LOG, CONFIG, RADIAL_PLOT, RESIDUAL_PLOT, OFFSETS_PLOT, CORRELATION_PLOT, PREDICTIVE_PLOT, REPORT, TERMS, POSTERIOR,
    BINNED, REFERENCE, PRODUCT,
)  # fmt: skip


def run_fit(
    inputs: Iterable[str | Path],
    out: str | Path,
    config: RunConfig,
    *,
    defects: str | Path | None = None,
    processes: Workers = 1,
    overwrite: bool = False,
    progress: Callable[[int], Callable[[], None]] | None = None,
    sampling: bool = False,
    terms: bool = False,
    report: bool = True,
):
    """Fit flats, or a binned table, and leave the product and its companions in a folder.

    Parameters
    ----------
    inputs : iterable of str or Path
        Flats, folders or globs of them; or one binned table.
    out : str or Path
        Folder to write; all its files appear at once, when the fit is done.
    config : RunConfig
    defects : str or Path, optional
        Defect tables: a folder, a glob or a file.
    processes : int or concurrent.futures.Executor
        Processes that bin flats, or who bins them.
    overwrite : bool
        Whether an earlier product may be replaced.
    progress : callable, optional
        Called with the number of flats; what it returns is called after each flat.
    sampling : bool
        Whether to sample the posterior with NUTS; then ``progress`` says whether to show bars.
    terms : bool
        Whether to compare models with and without centroid, plane and outer plane: ``terms.ecsv``.
    report : bool
        Whether to write the page that says how the fit went: ``report.html``.

    Returns
    -------
    FitResult
        Written even where it did not converge; the product says so.

    Raises
    ------
    InputError
        Any mistake in inputs, config or output; then nothing is left behind.
    """
    with (
        filling(out, FILES, overwrite) as folder,
        logging_to(folder / LOG if config.saveLogOutput else None) as warnings,
    ):
        binned, record = load(inputs, config, defects=defects, processes=processes, progress=progress)
        return fit_into(
            folder, binned, record, config, sampling=sampling, terms=terms, bars=progress is not None,
            warnings=warnings if report else None,
        )  # fmt: skip


def fit_into(
    folder: Path,
    binned: BinnedFlat,
    record: Sequence[dict[str, Any]],
    config: RunConfig,
    *,
    sampling: bool = False,
    terms: bool = False,
    bars: bool = False,
    warnings: list[str] | None = None,
):
    """Fit a binned flat and write everything but the log into a folder; parameters and result as of `run_fit`.

    With ``warnings``, which are filled while it runs, there is a report too.
    """
    from bayesflat.inference.fitting import fit, sample

    result = fit(binned, config, inputs=record)
    if sampling:
        result = sample(result, progress=bars)
    if terms:
        from bayesflat.inference.loo import compare_terms

        compare_terms(binned, config).write(folder / TERMS, format="ascii.ecsv")
    _write(result, binned, folder, warnings)
    return result


def load(
    inputs: Iterable[str | Path],
    config: RunConfig,
    *,
    defects: str | Path | None = None,
    processes: Workers = 1,
    progress: Callable[[int], Callable[[], None]] | None = None,
) -> tuple[BinnedFlat, list[dict[str, str]]]:
    """Read a binned table, or bin flats.

    Returns
    -------
    binned : BinnedFlat
    record : list of dict
        Name and SHA-256 of every file that was read.
    """
    camera = get_camera(config.camera)
    inputs = [str(path) for path in inputs]
    tables = [path for path in inputs if is_binned_table(path)]
    if tables and len(inputs) > 1:
        raise InputError(f"{tables[0]}: a binned table must be the only input, {len(inputs)} were given")
    if tables:
        if defects is not None:
            raise InputError("--defects: the input is a binned table, whose defects were left out when it was made")
        binned = BinnedFlat.read(inputs[0], camera)
        log.info("the input is binned already: bin_factor, detector_boundary and mask_planes do nothing")
        return _with_filter(binned, config.physical_filter, inputs[0]), [record(inputs[0])]
    paths = find_flats(inputs)
    boxes = find_defects(defects, camera) if defects is not None else None
    log.info("binning %d flats by %d pixels", len(paths), config.bin_factor)
    binned = bin_files(
        paths,
        camera,
        defects=boxes,
        bin_factor=config.bin_factor,
        detector_boundary=config.detector_boundary,
        mask_planes=config.mask_planes,
        physical_filter=config.physical_filter,
        use_non_science=config.do_use_non_science_detectors,
        processes=processes,
        progress=progress(len(paths)) if progress else None,
    )
    return binned, [record(path) for path in paths]


def _with_filter(binned: BinnedFlat, physical_filter: str | None, where: str) -> BinnedFlat:
    """The table's own filter, or the one that the user names."""
    from dataclasses import replace

    if not physical_filter:
        return binned
    if binned.physical_filter not in ("", physical_filter):
        raise InputError(
            f"{where}: filter is {binned.physical_filter}, but --physical-filter {physical_filter} was given"
        )
    return replace(binned, physical_filter=physical_filter)


def record(path: str | Path) -> dict[str, str]:
    """Name and SHA-256 of a file."""
    return {"name": str(path), "sha256": checksum(path)}


def _write(result, binned: BinnedFlat, folder: Path, warnings: list[str] | None) -> None:
    """Everything that a fit leaves; the report where there are warnings to put into it, be they none."""
    from bayesflat.inference.predictive import posterior_predictive
    from bayesflat.report.figures import save_figure
    from bayesflat.report.plots_fit import plot_model_residual, plot_radial_model
    from bayesflat.report.plots_uncertainty import plot_correlations, plot_offsets, plot_predictive

    config, gradient = result.config, result.gradient
    log.info("drawing plots")
    scale = config.fixed_model_residual_plot_scale
    save_figure(plot_model_residual(result.data, gradient, scale=scale), folder / RESIDUAL_PLOT)
    save_figure(plot_radial_model(result.data, gradient), folder / RADIAL_PLOT)
    if gradient.offsets is not None:
        save_figure(plot_offsets(result.data, gradient), folder / OFFSETS_PLOT)
    check = None
    if result.laplace is not None:
        save_figure(plot_correlations(gradient), folder / CORRELATION_PLOT)
        check = posterior_predictive(result)
        save_figure(plot_predictive(check), folder / PREDICTIVE_PLOT)
    if warnings is not None:
        from bayesflat.report.fit_page import fit_report

        page = fit_report(result, warnings=warnings, check=check)
        (folder / REPORT).write_text(page, encoding="utf-8")
    if result.posterior is not None:
        result.posterior.to_netcdf(folder / POSTERIOR, engine="h5netcdf")
    binned.write(folder / BINNED)
    (folder / CONFIG).write_text(_resolved(config, binned).to_toml(), encoding="utf-8")
    result.gradient.write(folder / (REFERENCE if config.do_reference_gradient else PRODUCT))


def _resolved(config: RunConfig, binned: BinnedFlat) -> RunConfig:
    """The configuration that repeats the fit from any folder: with the filter found, and a camera table's full path."""
    camera = Path(config.camera)
    return config.model_copy(
        update={
            "physical_filter": binned.physical_filter or None,
            "camera": str(camera.resolve()) if camera.is_file() else config.camera,
        }
    )
