"""How `butler.get` reads what bayesflat put into a repository, where LSST's own formatters are not installed.

The files are LSST's: where ``lsst.ip.isr`` and ``lsst.afw`` are there, their classes read them and are returned.
Importing this module needs ``lsst-daf-butler``.
"""

from __future__ import annotations

from typing import Any

from lsst.daf.butler import FormatterV2
from lsst.resources import ResourcePath


class GradientFormatter(FormatterV2):
    """A flat gradient in FITS: LSST's class where it is installed, else `bayesflat.gradient.product.FlatGradient`."""

    default_extension = ".fits"
    can_read_from_local_file = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read a product."""
        try:
            from lsst.ip.isr import FlatGradient
        except ImportError:
            from bayesflat.gradient.product import FlatGradient

            return FlatGradient.read(path)
        return FlatGradient.readFits(path)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write a product, ours or LSST's."""
        write = in_memory_dataset.writeFits if hasattr(in_memory_dataset, "writeFits") else in_memory_dataset.write
        write(uri.ospath)


class ExposureFormatter(FormatterV2):
    """A flat in FITS: LSST's ``ExposureF`` where it is installed, else astropy's list of HDUs."""

    default_extension = ".fits"
    supported_extensions = frozenset({".fits", ".fits.gz", ".fits.fz", ".fit"})
    can_read_from_local_file = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read a flat; a component is LSST's own to take out."""
        try:
            from lsst.afw.image import ExposureF
        except ImportError:
            from astropy.io import fits

            with fits.open(path, memmap=False) as hdus:
                return fits.HDUList([hdu.copy() for hdu in hdus])
        if component is None:
            return ExposureF.readFits(path)
        from lsst.afw.image import ExposureFitsReader

        reader = ExposureFitsReader(path)
        return getattr(reader, f"read{component[0].upper()}{component[1:]}")()

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write a flat of LSST's class."""
        in_memory_dataset.writeFits(uri.ospath)
