"""Stands in for LSST's flats: what the tasks use of ``ExposureF``."""

import copy
from types import SimpleNamespace

from astropy.io import fits


class ExposureF:
    """Image, mask, variance and header of a FITS file."""

    def __init__(self, hdus):
        self.metadata = dict(hdus[0].header)
        self.image, self.variance = (SimpleNamespace(array=hdus[name].data) for name in ("IMAGE", "VARIANCE"))
        planes = {key[3:]: value for key, value in hdus["MASK"].header.items() if key.startswith("MP_")}
        self.mask = SimpleNamespace(array=hdus["MASK"].data, getMaskPlaneDict=lambda: planes)

    @classmethod
    def readFits(cls, path):
        with fits.open(path, memmap=False) as hdus:
            return cls(hdus)

    def writeFits(self, path):
        hdus = fits.HDUList([fits.PrimaryHDU()])
        for key, value in self.metadata.items():
            if key.startswith(("CPP", "FILTER", "DET")):
                hdus[0].header[key] = value
        for name in ("image", "mask", "variance"):
            hdus.append(fits.ImageHDU(getattr(self, name).array, name=name.upper()))
        for plane, bit in self.mask.getMaskPlaneDict().items():
            hdus["MASK"].header[f"HIERARCH MP_{plane}"] = bit
        hdus.writeto(path)

    def clone(self):
        return copy.deepcopy(self)
