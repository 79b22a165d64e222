"""A repository for pipelines, without LSST's stack: stand-ins of its classes, and ``pipetask`` in this process."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

import bayesflat
from tests.rubin.repositories import SCIENCE_DIMENSIONS, Repository

STANDINS = Path(__file__).with_name("standins")
PIPELINES = Path(bayesflat.__file__).with_name("pipelines")
# of a fit that takes seconds
QUICK = {
    "bin_factor": "20", "detector_boundary": "0", "radial_spline_nodes": "[0,20,35,45,52,60]",
    "do_fit_centroid": "True", "centroid_max": "2", "noise": "independent", "likelihood": "normal",
}  # fmt: skip


@contextmanager
def standing_in():
    """LSST's classes are stand-ins while the context lasts."""
    import lsst

    lsst.__path__.append(str(STANDINS / "lsst"))
    sys.path.append(str(STANDINS))
    try:
        yield
    finally:
        lsst.__path__.remove(str(STANDINS / "lsst"))
        sys.path.remove(str(STANDINS))
        for name in [name for name in sys.modules if name.startswith(("lsst.afw", "lsst.ip", "standin_"))]:
            del sys.modules[name]
        for name in ("afw", "ip"):
            lsst.__dict__.pop(name, None)


class PipelineRepository(Repository):
    """A repository whose datasets the stand-ins read, with the camera in the run ``camera``."""

    formatters = {  # noqa: RUF012
        "ExposureF": "bayesflat.formatters.ExposureFormatter", "Defects": "standin_formatters.DefectsFormatter",
    }  # fmt: skip

    def __init__(self, path: Path, camera, filters=("i_39", "r_57")) -> None:
        from lsst.afw.cameraGeom import Camera

        super().__init__(path, camera, filters, options=["--seed-config", STANDINS / "seed.yaml"])
        self.kinds["flat"] = self.register("flat", SCIENCE_DIMENSIONS, "ExposureF", True)
        kind = self.register("camera", ("instrument",), "Camera", True)
        self.butler.collections.register("camera")
        self.butler.put(Camera(camera), kind, instrument=camera.name, run="camera")

    def add_sky(self, run: str, folder: Path, physical_filter: str) -> None:
        """Sky flats, which LSST's pipelines call ``flat``."""
        flats = {d.id: next((folder / "flats").glob(f"*_{d.name}_*")) for d in self.camera}
        self.ingest(run, "flat", flats, physical_filter=physical_filter)


def pipetask(*arguments) -> Result:
    """Run ``pipetask`` in this process, and leave its loggers as they were."""
    from lsst.ctrl.mpexec.cli.pipetask import cli

    return _invoke(cli, arguments)


def butler(*arguments) -> Result:
    """Run ``butler`` in this process."""
    from lsst.daf.butler.cli.butler import cli

    return _invoke(cli, arguments)


def _invoke(cli, arguments) -> Result:
    from lsst.daf.butler.cli.cliLog import CliLog

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        return CliRunner().invoke(cli, [str(one) for one in arguments])
    finally:
        CliLog.resetLog()
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)


def run_pipeline(repo: Repository, pipeline, inputs: str, output: str, label: str, *more, **fields) -> Result:
    """Run a pipeline whose fit is quick."""
    settings = [part for key, value in {**QUICK, **fields}.items() for part in ("-c", f"{label}:{key}={value}")]
    return pipetask(
        "run", "-b", repo.path, "-i", inputs, "-o", output, "-p", pipeline, *settings, "--register-dataset-types", *more
    )  # fmt: skip
