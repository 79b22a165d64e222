"""A real data repository (SQLite) with simulated flats of a small camera, as LSST's pipelines leave them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from lsst.daf.butler import (
    Butler,
    CollectionType,
    DataCoordinate,
    DatasetRef,
    DatasetType,
    FileDataset,
    FormatterV2,
    StorageClass,
    Timespan,
)

from bayesflat.gradient.product import FlatGradient
from bayesflat.simulation.flats import write_simulation
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES

FIT = ["-c", "bin_factor=10", "-c", "detector_boundary=0", "-c", "radial_spline_nodes=0,20,35,45,52,60",
       "-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true", "-c", "centroid_max=2",
       "-c", "do_constrain_zero=false", "-c", "noise=independent", "-c", "likelihood=normal", "-q"]  # fmt: skip
DOME = {"centroid_delta": (0.8, -0.6), "gradient": (2e-4, -1e-4), "itl_ratio": 0.9}
LATER = {"centroid_delta": (0.2, 0.7), "gradient": (-1e-4, 5e-5), "itl_ratio": 0.9}
SKY = {"centroid_delta": (-0.3, 0.4), "gradient": (0.0, 0.0), "itl_ratio": 0.9}
# formatters of LSST's own, which are not installed here
EXPOSURE = "lsst.obs.base.formatters.fitsExposure.FitsExposureFormatter"
GENERIC = "lsst.obs.base.formatters.fitsGeneric.FitsGenericFormatter"
SCIENCE_DIMENSIONS = ("instrument", "detector", "physical_filter")


def simulate(out: Path, camera, light, *, kind="dome", physical_filter="i_39", seed=3) -> Path:
    """Flats and defects of a camera."""
    write_simulation(
        out, kind=kind, seed=seed, camera=camera, light=Light(radial=(NODES, VALUES), **light),
        noise=Noise(white=0.0005, dead_columns=2), physical_filter=physical_filter,
    )  # fmt: skip
    return out


class AnyFile(FormatterV2):
    """Stands in while files are ingested, in either form that defects have."""

    supported_extensions = frozenset({".fits", ".ecsv"})


class Repository:
    """A repository that is being filled."""

    # who reads what is ingested, by storage class
    formatters = {"ExposureF": EXPOSURE, "Defects": GENERIC}  # noqa: RUF012

    def __init__(self, path: Path, camera, filters=("i_39", "r_57"), options=()) -> None:
        create = [Path(sys.executable).with_name("butler"), "create", *options, path]
        subprocess.run(create, check=True, capture_output=True)
        self.path, self.camera = path, camera
        self.butler = Butler.from_config(str(path), writeable=True)
        add = self.butler.registry.insertDimensionData
        add("instrument", {"name": camera.name, "class_name": "lsst.obs.small.SmallCam", "detector_max": 300,
                           "visit_max": 1, "exposure_max": 1})  # fmt: skip
        for detector in camera:
            add("detector", {"instrument": camera.name, "id": detector.id, "full_name": detector.name,
                             "purpose": "SCIENCE"})  # fmt: skip
        for name in filters:
            add("physical_filter", {"instrument": camera.name, "name": name, "band": name[0]})
        self.kinds = {
            "flat_uncorrected": self.register("flat_uncorrected", SCIENCE_DIMENSIONS, "ExposureF", True),
            "defects": self.register("defects", ("instrument", "detector"), "Defects", True),
        }

    def register(self, name, dimensions, storage_class, calibration=False):
        kind = DatasetType(
            name, dimensions, storage_class, universe=self.butler.dimensions, isCalibration=calibration
        )  # fmt: skip
        self.butler.registry.registerDatasetType(kind)
        return kind

    def ingest(self, run: str, kind: str, files: dict, **data_id) -> None:
        """Files by their detector, into a run; then their records name LSST's own formatters."""
        self.butler.collections.register(run)
        datasets = []
        for detector, path in files.items():
            where = DataCoordinate.standardize(
                {"instrument": self.camera.name, "detector": detector, **data_id}, universe=self.butler.dimensions
            )
            ref = DatasetRef(self.kinds[kind], where, run=run)
            datasets.append(FileDataset(str(path), [ref], formatter=AnyFile))
        self.butler.ingest(*datasets, transfer="copy")
        with sqlite3.connect(self.path / "gen3.sqlite3") as database:
            for storage_class, name in self.formatters.items():
                database.execute(
                    "UPDATE file_datastore_records SET formatter = ? WHERE storage_class = ?", (name, storage_class)
                )
        database.close()

    def add_simulation(self, run: str, folder: Path, physical_filter: str, defects: bool = False) -> None:
        """The flats of a simulation, with headers that do not tell what they are, and its defects."""
        flats = {}
        for detector in self.camera:
            path = next((folder / "flats").glob(f"*_{detector.name}_*"))
            with fits.open(path) as hdus:
                for card in ("DETECTOR", "DET_NAME", "FILTER", "INSTRUME"):
                    hdus[0].header[card] = "unknown"
                for key in ("DETECTOR", "PHYSICAL_FILTER"):
                    hdus[0].header[f"HIERARCH LSST BUTLER DATAID {key}"] = 77
                hdus[0].header["HIERARCH LSST BUTLER INPUT 9 ID"] = "of the flat as it was"
                target = folder / f"{detector.id}.fits"
                hdus.writeto(target, overwrite=True)
            flats[detector.id] = target
        self.ingest(run, "flat_uncorrected", flats, physical_filter=physical_filter)
        if defects:
            tables = {d.id: next((folder / "defects").glob(f"{d.name}.*")) for d in self.camera}
            self.ingest("defects", "defects", tables)

    def certify(self, collection: str, kind: str, run: str, begin: str | None, end: str | None) -> None:
        self.butler.collections.register(collection, CollectionType.CALIBRATION)
        moments = [Time(text, scale="tai") if text else None for text in (begin, end)]
        self.butler.registry.certify(collection, self.refs(kind, run), Timespan(*moments))

    def refs(self, kind: str, run: str):
        return self.butler.query_datasets(kind, run, limit=None)


def fresh(repo: Repository, writeable: bool = False) -> Butler:
    """The repository as another process sees it."""
    return Butler.from_config(str(repo.path), writeable=writeable)


def read(repo, name, run, physical_filter="i_39"):
    """A product, through Butler's own `get`; the storage class stands for the one that is not installed."""
    storage = StorageClass("IsrCalib", pytype=FlatGradient)
    data_id = {"instrument": "SmallCam", "physical_filter": physical_filter}
    return fresh(repo).get(name, data_id, collections=run, storageClass=storage)


def boxes_of(path):
    """Boxes of a table of defects, in either form: first column and row, width, height (pixels)."""
    if path.suffix == ".ecsv":
        table = Table.read(path, format="ascii.ecsv")
        return [[int(row[name]) for name in ("x0", "y0", "width", "height")] for row in table]
    rows = Table.read(path)
    return [[int(row["X"] - 1 - (row["R"][0] - 1) / 2), int(row["Y"] - 1 - (row["R"][1] - 1) / 2),
             int(row["R"][0]), int(row["R"][1])] for row in rows]  # fmt: skip
