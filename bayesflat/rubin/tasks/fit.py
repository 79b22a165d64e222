"""The task that fits the flats of a filter, in the place of LSST's ``CpFlatFitGradientsTask``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as connection_types

from bayesflat.commands.caches import check_caches
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.binning import FlatRegister, bin_flat
from bayesflat.data.camera import Camera
from bayesflat.data.exposures import boxes_from_lsst, flat_from_lsst
from bayesflat.files import checksum
from bayesflat.rubin.fit import input_order
from bayesflat.rubin.repository import local
from bayesflat.rubin.tasks.config import BUTLER, FitFields, camera_field, check_camera, geometry_of, run_config
from bayesflat.rubin.tasks.connections import camera_input, plot_output, summary_output
from bayesflat.rubin.tasks.products import dataset_of, plain, put_products, storable
from bayesflat.rubin.work import find_detector

Handles = Mapping[int, Any]


class UnconvergedFitError(pipe_base.AlgorithmError):
    """A fit that did not converge; its product is written, and says so."""

    def __init__(self, message: str, summary: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary

    @property
    def metadata(self) -> dict[str, Any]:
        """Verdict and size of the fit."""
        return {key: self.summary[key] for key in ("verdict", "n_bins", "n_detectors")}


class FitFlatGradientsConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "physical_filter")
):  # fmt: skip
    """Datasets of the task: those of LSST's, a summary and more plots."""

    camera = camera_input()
    input_flats = connection_types.Input(
        name="flat_uncorrected", doc="Flats to fit.", storageClass="ExposureF",
        dimensions=("instrument", "detector", "physical_filter"), multiple=True, deferLoad=True, isCalibration=True,
    )  # fmt: skip
    input_defects = connection_types.PrerequisiteInput(
        name="defects", doc="Defects, whose pixels are left out.", storageClass="Defects",
        dimensions=("instrument", "detector"), multiple=True, deferLoad=True, isCalibration=True,
    )  # fmt: skip
    output_reference_gradient = connection_types.Output(
        name="flat_gradient_reference", doc="The gradient of a sky flat, to which dome flats are corrected.",
        storageClass="IsrCalib", dimensions=("instrument", "physical_filter"), isCalibration=True,
    )  # fmt: skip
    output_gradient = connection_types.Output(
        name="flat_gradient", doc="The gradient of a dome flat.", storageClass="IsrCalib",
        dimensions=("instrument", "physical_filter"),
    )  # fmt: skip
    fit_summary = summary_output(
        "flat_gradient_fit_summary", "Parameters with their errors, verdict and reasons, times."
    )
    model_residual_plot = plot_output(
        "gradient_model_residual_plot", "Data, model and their ratio over the focal plane."
    )
    radial_model_plot = plot_output("gradient_radial_model_plot", "The radial function and the bins.")
    offsets_plot = plot_output("gradient_offsets_plot", "Throughput of detectors and amplifiers.")
    correlation_plot = plot_output("gradient_correlation_plot", "Correlations of the parameters.")
    predictive_plot = plot_output("gradient_predictive_plot", "The data against replicates of the model.")

    def __init__(self, *, config: FitFlatGradientsConfig) -> None:
        super().__init__(config=config)
        if config.do_reference_gradient:
            del self.output_gradient
        else:
            del self.output_reference_gradient
        if config.camera != BUTLER:
            del self.camera
        if not config.use_defects:
            del self.input_defects
        if config.noise != "hierarchical":
            del self.offsets_plot
        if config.likelihood == "laplace":  # it has no curvature
            del self.correlation_plot
            del self.predictive_plot


class FitFlatGradientsConfig(
    pipe_base.PipelineTaskConfig, FitFields, pipelineConnections=FitFlatGradientsConnections
):  # fmt: skip
    """Configuration of a fit: `bayesflat.FitConfig`, and what the task does beside it."""

    camera = camera_field()
    use_defects = Field[bool](doc="leave the pixels of defects out; false: the connection goes", default=True)
    do_raise_unconverged = Field[bool](
        doc="end with an annotated error where the fit did not converge; its product is written in any case",
        default=True,
    )

    def validate(self) -> None:
        """Check all fields together, as `bayesflat.FitConfig` does."""
        super().validate()
        run_config(self)
        check_camera(self)


class FitFlatGradientsTask(pipe_base.PipelineTask):
    """Fit the large-scale gradients of the flats of a filter."""

    ConfigClass = FitFlatGradientsConfig
    _DefaultName = "cpFlatFitGradients"
    config: FitFlatGradientsConfig

    def runQuantum(self, butlerQC, inputRefs, outputRefs) -> None:
        """Fit, put what is made, and end with an error where the fit did not converge."""
        inputs = butlerQC.get(inputRefs)
        struct = self.run(
            camera=inputs.get("camera"),
            input_flat_handle_dict=_by_detector(inputs["input_flats"]),
            input_defect_handle_dict=_by_detector(inputs.get("input_defects", ())),
        )
        put_products(butlerQC, struct, outputRefs)
        if struct.fit_summary["converged"] or not self.config.do_raise_unconverged:
            return
        try:
            raise UnconvergedFitError(struct.fit_summary["message"], struct.fit_summary)
        except UnconvergedFitError as error:
            raise pipe_base.AnnotatedPartialOutputsError.annotate(error, self, log=self.log) from error

    def run(
        self, *, camera: Any, input_flat_handle_dict: Handles, input_defect_handle_dict: Handles,
        binned_image: BinnedFlat | None = None,
    ) -> pipe_base.Struct:  # fmt: skip
        """Fit flats.

        Parameters
        ----------
        camera : lsst.afw.cameraGeom.Camera
            Not used where the configuration names a camera.
        input_flat_handle_dict : mapping of int to lsst.daf.butler.DeferredDatasetHandle
            Flats by their detector; one is in memory at a time.
        input_defect_handle_dict : mapping of int to lsst.daf.butler.DeferredDatasetHandle
            Defects by their detector.
        binned_image : BinnedFlat, optional
            Bins of an earlier run, which the flats are not read for then.

        Returns
        -------
        lsst.pipe.base.Struct
            What the connections are called, and ``binned_image``; None where something is not made.

        Raises
        ------
        InputError
            Flats that do not go together or cannot be fitted.
        """
        from bayesflat.inference.fitting import fit
        from bayesflat.report.fit_figures import draw_figures
        from bayesflat.report.summaries import fit_summary

        check_caches()
        start = time.monotonic()
        geometry = geometry_of(self.config.camera, camera)
        config = run_config(
            self.config, camera=geometry.name if self.config.camera == BUTLER else self.config.camera
        )  # fmt: skip
        inputs: list[dict[str, Any]] = []
        if binned_image is None:
            binned_image, inputs = self._bin(geometry, config, input_flat_handle_dict, input_defect_handle_dict)
        binned = time.monotonic()
        config = config.replace(physical_filter=binned_image.physical_filter or None)
        result = fit(binned_image, config, inputs=inputs)
        fitted = time.monotonic()
        plots, _ = draw_figures(result, config.fixed_model_residual_plot_scale)
        times = {"binning": binned - start, "fitting": fitted - binned, "plotting": time.monotonic() - fitted}
        summary = plain(
            fit_summary(result.gradient)
            | {"message": result.verdict, "seconds": {name: round(value, 3) for name, value in times.items()}}
        )
        self._note(summary)
        product = storable(result.gradient)
        reference = self.config.do_reference_gradient
        return pipe_base.Struct(
            **{"output_reference_gradient" if reference else "output_gradient": product},
            fit_summary=summary,
            model_residual_plot=plots["model_residual"],
            radial_model_plot=plots["radial_model"],
            offsets_plot=plots.get("offsets"),
            correlation_plot=plots.get("correlation"),
            predictive_plot=plots.get("predictive"),
            binned_image=binned_image,
        )

    def _bin(self, camera: Camera, config, flats: Handles, defects: Handles) -> tuple[BinnedFlat, list[dict[str, Any]]]:
        """Bins of the flats, and the record of what was read for them."""
        register = FlatRegister(camera, config.do_use_non_science_detectors)
        parts, inputs, lacking = {}, [], 0
        self.log.info("binning %d flats", len(flats))
        for number, handle in sorted(flats.items()):
            where = _name(handle)
            detector = find_detector(number, camera, where)
            instrument, physical_filter = (handle.dataId[name] for name in ("instrument", "physical_filter"))
            if not register.add(detector, physical_filter, instrument, where):
                continue
            boxes = []
            if number in defects:
                boxes = boxes_from_lsst(defects[number].get(), _name(defects[number]))
                inputs += _records(defects[number])
            lacking += number not in defects
            flat = flat_from_lsst(handle.get(), detector, physical_filter, instrument, config.mask_planes, where)
            parts[number] = bin_flat(flat, boxes, config.bin_factor, config.detector_boundary)
            del flat  # else it would stay while the next one is read
            inputs += _records(handle)
        if lacking and self.config.use_defects:
            self.log.warning("no defects for %d of %d detectors", lacking, len(parts))
        inputs.sort(key=input_order)
        return register.assemble(parts), inputs

    def _note(self, summary: Mapping[str, Any]) -> None:
        """Put the figures of a fit into the task's metadata."""
        for key in ("verdict", "converged", "n_bins", "n_outliers", "n_detectors"):
            self.metadata[key] = summary[key]
        for name, values in summary["parameters"].items():
            for key in ("map", "sd"):
                if values[key] is not None:
                    self.metadata[f"{name}_{key}"] = values[key]


def _by_detector(handles) -> dict[int, Any]:
    return {handle.dataId["detector"]: handle for handle in handles}


def _name(handle: Any) -> str:
    """What messages call a dataset."""
    return str(getattr(handle, "ref", handle.dataId))


def _records(handle: Any) -> list[dict[str, Any]]:
    """What a product records of an input; nothing of one that is in memory alone."""
    if not hasattr(handle, "butler"):
        return []
    dataset = dataset_of(handle)
    with local(dataset.uri) as path:
        return [dataset.record(checksum(path))]
