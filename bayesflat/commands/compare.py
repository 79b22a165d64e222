"""The command `bayesflat compare`: read two products and their bins from disk, compare them, and write a folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from bayesflat.commands.fit import BINNED, REPORT, record
from bayesflat.commands.runs import check_beside, check_table, new_run, of_run
from bayesflat.comparison.comparison import Comparison, compare
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import get_camera
from bayesflat.errors import InputError
from bayesflat.files import filling
from bayesflat.gradient.correction import check_centroids
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import TOLERANCE_MMAG
from bayesflat.report.summaries import comparison_summary
from bayesflat.stages import stage

log = logging.getLogger(__name__)

JSON, DETECTORS = "comparison.json", "comparison.ecsv"
RADIAL_PLOT, MAP_PLOT = "comparison_radial.png", "comparison_map.png"
TIED = "flat_gradient_paired.fits"  # the dome's gradient, tied to the sky's
FILES = (RADIAL_PLOT, MAP_PLOT, DETECTORS, REPORT, TIED, JSON)


def run_compare(
    sky: str | Path,
    dome: str | Path,
    out: str | Path,
    *,
    binned: tuple[str | Path, str | Path] | None = None,
    unpaired: bool = False,
    camera: str | None = None,
    rope_mmag: float = TOLERANCE_MMAG,
    radius: float | None = None,
    overwrite: bool = False,
    report: bool = True,
) -> Comparison:
    """Compare the products of a sky and a dome flat, and write the result to a folder.

    Parameters
    ----------
    sky, dome : str or Path
        Files of the products.
    out : str or Path
        Folder to write.
    binned : (str or Path, str or Path), optional
        Binned tables of sky and dome; by default ``binned_image.fits`` beside the products, where both have one.
    unpaired : bool
        Whether to compare the products without their bins.
    camera : str, optional
        As for `get_camera`; by default the one that the sky's product names.
    rope_mmag, radius : float
        As for `compare`.
    overwrite : bool
        Whether an earlier comparison may be replaced.
    report : bool
        Whether to write ``report.html``.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        As `compare`; or a file cannot be read.
    """
    if binned is not None and unpaired:
        raise InputError("--binned is for a paired comparison; leave it or --unpaired out")
    with filling(out, FILES, overwrite) as folder:
        stage("reading")
        products = FlatGradient.read(sky), FlatGradient.read(dome)
        geometry = get_camera(camera) if camera else products[0].camera
        check_centroids(geometry, *products)
        tables = None if unpaired else binned or _beside(sky, dome)
        read = None
        if tables is not None:
            read = BinnedFlat.read(tables[0], geometry), BinnedFlat.read(tables[1], geometry)
        for k, path in enumerate((sky, dome)):
            check_beside(path, products[k])
            if tables is not None and read is not None:
                check_table(path, products[k], tables[k], read[k])
        comparison = compare(*products, binned=read, camera=geometry, rope_mmag=rope_mmag, radius=radius)
        write_comparison(comparison, [record(path) for path in (sky, dome, *(tables or ()))], folder, report)
    return comparison


def _beside(sky: str | Path, dome: str | Path) -> tuple[Path, Path] | None:
    """The binned tables in the folders of the products; None unless each product has its own."""
    tables = Path(sky).parent / BINNED, Path(dome).parent / BINNED
    if not all(table.is_file() for table in tables):
        return None
    if tables[0].resolve() == tables[1].resolve():
        log.warning("%s lies beside both products and can be of one only: name the tables with --binned", tables[0])
        return None
    return tables


def write_comparison(comparison: Comparison, inputs: list[dict[str, Any]], folder: Path, report: bool) -> None:
    """Write the files of a comparison.

    Parameters
    ----------
    comparison : Comparison
    inputs : list of dict
        Names and checksums of the files that were compared, and Butler's ids where they are known.
    folder : Path
        An existing empty folder.
    report : bool
        Whether to write ``report.html``.
    """
    from astropy.table import Table

    from bayesflat.report.figures import save_figure
    from bayesflat.report.plots_comparison import plot_comparison_map, plot_comparison_radial

    run = new_run()
    stage("plots")
    save_figure(plot_comparison_radial(comparison), folder / RADIAL_PLOT, run=run)
    save_figure(plot_comparison_map(comparison), folder / MAP_PLOT, run=run)
    if report:
        from bayesflat.report.comparison_page import comparison_report

        stage("report")
        (folder / REPORT).write_text(comparison_report(comparison, inputs, run), encoding="utf-8")
    table = Table(rows=[vars(row) for row in comparison.detectors])
    for name in ("mean_mmag", "sd_mmag", "measured_mmag"):
        table[name].unit = "mmag"
    table.meta |= {"method": comparison.method, "instrument": comparison.instrument}
    table.meta |= {"physical_filter": comparison.physical_filter, "RUNID": run}
    table.write(folder / DETECTORS, format="ascii.ecsv")
    if comparison.tied is not None:
        of_run(comparison.tied, run).write(folder / TIED)
    text = json.dumps(
        {**comparison_summary(comparison, inputs), "run_id": run}, indent=1, allow_nan=False, ensure_ascii=False
    )
    (folder / JSON).write_text(text + "\n", encoding="utf-8")
