"""The task that compares the gradients of sky and dome of a filter, which LSST's pipelines do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pex.config import Field
from lsst.resources import ResourcePath

from bayesflat.comparison.comparison import check_pair, compare
from bayesflat.errors import InputError
from bayesflat.gradient.correction import check_centroids
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import TOLERANCE_MMAG
from bayesflat.rubin.compare import bin_pair
from bayesflat.rubin.repository import Dataset
from bayesflat.rubin.tasks.config import BUTLER, camera_field, check_camera, geometry_of
from bayesflat.rubin.tasks.connections import camera_input, gradient_input, plot_output, reference_input, summary_output
from bayesflat.rubin.tasks.products import plain, read_product


class CompareFlatGradientsConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "physical_filter")
):  # fmt: skip
    """Datasets of the task; the flats are those that the gradients were fitted to."""

    camera = camera_input()
    reference_gradient = reference_input("The gradient of a sky flat.")
    gradient = gradient_input("The gradient of a dome flat.")
    comparison_summary = summary_output(
        "flat_gradient_comparison_summary", "Verdict and reasons, differences with their errors."
    )
    comparison_radial_plot = plot_output("gradient_comparison_radial_plot", "Dome over sky: the radial functions.")
    comparison_map_plot = plot_output("gradient_comparison_map_plot", "Dome over sky over the focal plane.")

    def __init__(self, *, config: CompareFlatGradientsConfig) -> None:
        super().__init__(config=config)
        if config.camera != BUTLER:
            del self.camera


class CompareFlatGradientsConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=CompareFlatGradientsConnections
):  # fmt: skip
    """Configuration of the comparison: the options of `bayesflat compare`."""

    camera = camera_field()
    rope_mmag = Field[float](doc="tolerance (mmag)", default=TOLERANCE_MMAG)
    radius = Field[float](
        doc="radius at which differences are judged (mm); unset: 310, or 0.85 of the largest common radius of another "
        "camera",
        default=None,
        optional=True,
    )
    unpaired = Field[bool](
        doc="compare the products alone; false: the flats that they were fitted to are binned again, where they are "
        "there",
        default=False,
    )

    def validate(self) -> None:
        """Check camera, tolerance and radius."""
        super().validate()
        check_camera(self)
        for name in ("rope_mmag", "radius"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}: must be above 0, got {value!r}")


class CompareFlatGradientsTask(pipe_base.PipelineTask):
    """Compare the gradients of sky and dome."""

    ConfigClass = CompareFlatGradientsConfig
    _DefaultName = "cpFlatCompareGradients"
    config: CompareFlatGradientsConfig

    def runQuantum(self, butlerQC, inputRefs, outputRefs) -> None:
        """Read the products with all that their files have, and compare them."""
        inputs = butlerQC.get(inputRefs)
        sky, reference = read_product(inputs["reference_gradient"])
        dome, gradient = read_product(inputs["gradient"])
        struct = self.run(
            camera=inputs.get("camera"), reference_gradient=sky, gradient=dome, data_id=inputs["gradient"].dataId,
            records=[reference, gradient],
        )  # fmt: skip
        butlerQC.put(struct, outputRefs)

    def run(
        self, *, camera: Any, reference_gradient: FlatGradient, gradient: FlatGradient, data_id: Any,
        records: list[dict[str, Any]],
    ) -> pipe_base.Struct:  # fmt: skip
        """Compare two products, and the flats that they were fitted to where these are there.

        Parameters
        ----------
        camera : lsst.afw.cameraGeom.Camera
            Not used where the configuration names a camera.
        reference_gradient, gradient : FlatGradient
            Of the sky and of the dome.
        data_id : mapping
            Instrument and physical filter.
        records : list of dict
            Of the products' files, for the summary.

        Returns
        -------
        lsst.pipe.base.Struct
            What the connections are called.

        Raises
        ------
        InputError
            Products that do not belong together; flats that have changed.
        """
        from bayesflat.report.plots_comparison import plot_comparison_map, plot_comparison_radial
        from bayesflat.report.summaries import comparison_summary

        geometry = geometry_of(self.config.camera, camera)
        products = reference_gradient, gradient
        check_pair(*products)
        check_centroids(geometry, *products)
        tables = None
        flats: list[dict[str, Any]] = []
        if not self.config.unpaired:
            name = str(data_id["physical_filter"])
            tables, flats = bin_pair(products, _dataset, name, data_id, geometry)
        comparison = compare(
            *products, binned=tables, camera=geometry, rope_mmag=self.config.rope_mmag, radius=self.config.radius
        )  # fmt: skip
        for key in ("method", "converged", "n_bins"):
            self.metadata[key] = getattr(comparison, key)
        self.metadata["verdict"] = comparison.verdict.word
        return pipe_base.Struct(
            comparison_summary=plain(comparison_summary(comparison, records + flats)),
            comparison_radial_plot=plot_comparison_radial(comparison),
            comparison_map_plot=plot_comparison_map(comparison),
        )


def _dataset(record: Mapping[str, Any]) -> Dataset | None:
    """The input that a product records, where it still lies there.

    It is none of the quantum's inputs: sky and dome flats may have the same dataset type and data id, and a graph has
    one of each.
    """
    if "id" not in record or not ResourcePath(record["name"]).exists():
        return None
    return Dataset(record["id"], record["dataset_type"], record["run"], dict(record["data_id"]), record["name"])
