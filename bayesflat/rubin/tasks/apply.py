"""The task that corrects the flat of a detector, in the place of LSST's ``CpFlatApplyGradientsTask``."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as connection_types

from bayesflat.commands.apply import DONE, cards_of
from bayesflat.data.pixels import check_bit, check_shape
from bayesflat.errors import InputError
from bayesflat.gradient.correction import check_centroids, check_products, check_usable, correct_planes
from bayesflat.gradient.product import FlatGradient
from bayesflat.rubin.tasks.config import BUTLER, camera_field, check_camera, geometry_of
from bayesflat.rubin.tasks.connections import camera_input, gradient_input, reference_input
from bayesflat.rubin.tasks.products import read_product
from bayesflat.rubin.work import find_detector


class ApplyFlatGradientsConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):  # fmt: skip
    """Datasets of the task, as LSST's."""

    camera = camera_input()
    input_flat = connection_types.Input(
        name="flat_uncorrected", doc="The flat to correct.", storageClass="ExposureF",
        dimensions=("instrument", "detector", "physical_filter"), deferLoad=True, isCalibration=True,
    )  # fmt: skip
    reference_gradient = reference_input("The gradient of a sky flat, which the flat gets.")
    gradient = gradient_input("The gradient of the flat, which goes.")
    output_flat = connection_types.Output(
        name="flat", doc="The corrected flat.", storageClass="ExposureF",
        dimensions=("instrument", "detector", "physical_filter"), isCalibration=True,
    )  # fmt: skip

    def __init__(self, *, config: ApplyFlatGradientsConfig) -> None:
        super().__init__(config=config)
        if config.camera != BUTLER:
            del self.camera


class ApplyFlatGradientsConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=ApplyFlatGradientsConnections
):  # fmt: skip
    """Configuration of the correction."""

    camera = camera_field()
    allow_unusable = Field[bool](doc="apply products that did not converge or are unusable", default=False)

    def validate(self) -> None:
        """Check that there is such a camera."""
        super().validate()
        check_camera(self)


class ApplyFlatGradientsTask(pipe_base.PipelineTask):
    """Correct the flat of a detector: on large scales it gets the shape of the reference."""

    ConfigClass = ApplyFlatGradientsConfig
    _DefaultName = "cpFlatApplyGradients"
    config: ApplyFlatGradientsConfig

    def runQuantum(self, butlerQC, inputRefs, outputRefs) -> None:
        """Read the products with all that their files have, and correct the flat."""
        inputs = butlerQC.get(inputRefs)
        dome, gradient = read_product(inputs["gradient"])
        sky, reference = read_product(inputs["reference_gradient"])
        struct = self.run(
            camera=inputs.get("camera"), input_flat=inputs["input_flat"].get(), reference_gradient=sky, gradient=dome,
            data_id=inputs["input_flat"].dataId, records=(gradient, reference),
        )  # fmt: skip
        butlerQC.put(struct, outputRefs)

    def run(
        self, *, camera: Any, input_flat: Any, reference_gradient: FlatGradient, gradient: FlatGradient,
        data_id: Any, records: tuple[dict[str, Any], dict[str, Any]],
    ) -> pipe_base.Struct:  # fmt: skip
        """Correct a flat.

        Parameters
        ----------
        camera : lsst.afw.cameraGeom.Camera
            Not used where the configuration names a camera.
        input_flat : lsst.afw.image.Exposure
            It is not changed.
        reference_gradient, gradient : FlatGradient
            Products of the sky and of the dome.
        data_id : mapping
            Instrument, detector and physical filter of the flat.
        records : tuple of dict
            Of the files of gradient and reference, ``name`` and ``sha256``, for the flat's header.

        Returns
        -------
        lsst.pipe.base.Struct
            With ``output_flat``.

        Raises
        ------
        InputError
            Products that are no use or do not belong to the flat; a flat that was corrected before.
        """
        number, physical_filter, instrument = (data_id[key] for key in ("detector", "physical_filter", "instrument"))
        where = f"flat of {instrument}, {physical_filter}, detector {number}"
        geometry = geometry_of(self.config.camera, camera)
        detector = find_detector(number, geometry, where)
        check_products(gradient, reference_gradient, physical_filter, instrument)
        check_usable(gradient, reference_gradient, self.config.allow_unusable, "allow_unusable=true")
        check_centroids(geometry, gradient, reference_gradient)
        if DONE in input_flat.metadata:
            raise InputError(f"{where}: was corrected before (card {DONE}); apply gradients to the flat as it was")
        flat = input_flat.clone()
        image, mask, variance = flat.image.array, flat.mask.array, flat.variance.array
        check_shape(image.shape, detector, where)
        bit = flat.mask.getMaskPlaneDict().get("NO_DATA")
        if bit is not None:
            check_bit(bit, 8 * mask.dtype.itemsize, where)
        correct_planes(
            detector, gradient, reference_gradient, [(image, 1), (variance, 2)], lambda: mask,
            None if bit is None else 1 << bit, np.nan if bit is None else 0.0, where,
        )  # fmt: skip
        names, sums = (tuple(one[key] for one in records) for key in ("name", "sha256"))
        for key, (value, _) in cards_of(gradient, sums[0], reference_gradient, sums[1], names).items():
            flat.metadata[key] = value
        return pipe_base.Struct(output_flat=flat)
