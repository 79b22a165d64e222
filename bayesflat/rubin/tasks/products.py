"""Gradients as repositories hold them: LSST's class where it is installed, with all of our product in the file."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

from lsst.daf.butler import DatasetRef, DatasetType, StorageClass

from bayesflat.files import checksum
from bayesflat.gradient.product import FlatGradient
from bayesflat.rubin.repository import Dataset, local


def storable(product: FlatGradient) -> Any:
    """What is put for a product with storage class ``IsrCalib``.

    That is an ``lsst.ip.isr.FlatGradient`` where there is such a class: one that has the product's numbers and is
    written as the product, with the HDUs that LSST's class does not know.  Elsewhere it is the product itself.
    """
    try:
        from lsst.ip.isr import FlatGradient as theirs
    except ImportError:
        return product
    return _carrier(theirs)(product)


class _OursInItsPlace(StorageClass):
    """A storage class that is equal to the repository's of that name, with our class in the place of LSST's."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageClass) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def pytype(self) -> type:
        """The class of what is put."""
        return FlatGradient


def put_products(butlerQC, struct, outputRefs) -> None:
    """Put all outputs; products of our own class where LSST's, which the storage class names, is not installed."""
    for name, ref in list(outputRefs):
        if isinstance(getattr(struct, name, None), FlatGradient):
            kind = ref.datasetType
            ours = _OursInItsPlace(kind.storageClass_name)
            kind = DatasetType(kind.name, kind.dimensions, ours, isCalibration=kind.isCalibration())
            setattr(outputRefs, name, DatasetRef(kind, ref.dataId, run=ref.run, id=ref.id))
    butlerQC.put(struct, outputRefs)


@cache
def _carrier(base: type) -> type:
    """A class of LSST's whose file is that of our product; it is read as LSST's own (``CALIBCLS``)."""

    class FlatGradientOfBayesflat(base):
        """LSST's flat gradient, written with all that a fit has left."""

        def __init__(self, product: FlatGradient | None = None, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self._product = product
            if product is None:  # as LSST's class is made before it is filled
                return
            found = {
                "radialSplineNodes": product.radial_spline_nodes,
                "radialSplineValues": product.radial_spline_values,
                "itlRatio": product.itl_ratio,
                "centroidX": product.centroid_x,
                "centroidY": product.centroid_y,
                "centroidDeltaX": product.centroid_delta_x,
                "centroidDeltaY": product.centroid_delta_y,
                "gradientX": product.gradient_x,
                "gradientY": product.gradient_y,
                "normalizationFactor": product.normalization_factor,
            }
            if hasattr(self, "outerGradientX"):  # the class of August 2025
                found |= {
                    "outerGradientX": product.outer_gradient_x,
                    "outerGradientY": product.outer_gradient_y,
                    "outerGradientRadius": product.outer_gradient_radius,
                }
            self.setParameters(**found)
            for key, value in product.metadata.items():
                self.getMetadata()[key] = value
            self.calibInfoFromDict(dict(product.metadata))

        def writeFits(self, filename: str) -> str:
            """Write the product, with what Butler has put into the header meanwhile."""
            if self._product is None:
                return super().writeFits(filename)
            cards = {key: value for key, value in self.getMetadata().toDict().items() if value is not None}
            replace(self._product, metadata=self._product.metadata | cards).write(filename)
            return filename

    return FlatGradientOfBayesflat


def read_product(handle: Any) -> tuple[FlatGradient, dict[str, Any]]:
    """A product with all that its file has, which LSST's class leaves behind; and the record of the input.

    Parameters
    ----------
    handle : lsst.daf.butler.DeferredDatasetHandle

    Raises
    ------
    InputError
        The file cannot be read as a flat gradient.
    """
    dataset = dataset_of(handle)
    with local(dataset.uri) as path:
        return FlatGradient.read(path), dataset.record(checksum(path))


def dataset_of(handle: Any) -> Dataset:
    """What is recorded of an input, by its handle."""
    ref = handle.ref
    uri = str(handle.butler.getURI(ref))
    return Dataset(str(ref.id), ref.datasetType.name, ref.run, dict(ref.dataId.required), uri)


def plain(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary in types that Butler's YAML has."""
    return json.loads(json.dumps(summary, allow_nan=False))
