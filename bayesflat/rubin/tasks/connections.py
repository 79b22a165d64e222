"""Connections that several tasks have."""

from __future__ import annotations

from lsst.pipe.base import connectionTypes as connection_types

OF_A_FILTER = ("instrument", "physical_filter")


def camera_input() -> connection_types.PrerequisiteInput:
    """The repository's camera."""
    return connection_types.PrerequisiteInput(
        name="camera", doc="Geometry of the camera.", storageClass="Camera", dimensions=("instrument",),
        isCalibration=True,
    )  # fmt: skip


def reference_input(doc: str) -> connection_types.PrerequisiteInput:
    """The certified gradient of a sky flat."""
    return connection_types.PrerequisiteInput(
        name="flat_gradient_reference", doc=doc, storageClass="IsrCalib", dimensions=OF_A_FILTER, deferLoad=True,
        isCalibration=True,
    )  # fmt: skip


def gradient_input(doc: str) -> connection_types.Input:
    """The gradient of a dome flat."""
    return connection_types.Input(
        name="flat_gradient", doc=doc, storageClass="IsrCalib", dimensions=OF_A_FILTER, deferLoad=True
    )


def summary_output(name: str, doc: str) -> connection_types.Output:
    """Numbers and texts for monitors."""
    return connection_types.Output(name=name, doc=doc, storageClass="StructuredDataDict", dimensions=OF_A_FILTER)


def plot_output(name: str, doc: str) -> connection_types.Output:
    """A figure."""
    return connection_types.Output(name=name, doc=doc, storageClass="Plot", dimensions=OF_A_FILTER)
