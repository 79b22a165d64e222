"""Small cameras and their files of several detectors, which tests of reading and of correcting share."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from bayesflat.data.camera import Camera, Detector

NX, NY = 64, 50
SHAPE = {"nx": NX, "ny": NY, "pixel_size": 0.5, "refpos_x": 31.5, "refpos_y": 24.5, "amp_nx": 2, "amp_ny": 1}
FILTER = "g DECam SDSS c0001 4720.0 1520.0"


def small_decam():
    """Four CCDs and a focus CCD of DECam, with its names and ids, closer together."""
    detectors = [
        Detector(number, name, "LBNL", "science", x, y, 0.0, **SHAPE)
        for number, name, x, y in ((1, "S29", -17.0, -13.0), (2, "S30", -17.0, 13.0), (61, "N30", 17.0, -13.0),
                                   (62, "N31", 17.0, 13.0))
    ]  # fmt: skip
    return Camera("DECam", [*detectors, Detector(63, "FS3", "LBNL", "focus", 0.0, 60.0, 0.0, **SHAPE)])


def pixels(number):
    """The image of a detector, which no other one has."""
    return np.random.default_rng(number).uniform(1e4, 2e4, (NY, NX)).astype(np.float32)


def image_hdu(detector, data=None, compress=None, cards=(), name=None):
    """As DECam's files have it: DETECTOR is a serial number, DATASEC and TRIMSEC are those of the untrimmed image."""
    header = fits.Header(
        [("DETECTOR", "S3-06_123195-15-3"), ("CCDNUM", detector.id), ("DETPOS", detector.name), ("INHERIT", True),
         ("DATASEC", "[57:2104,51:4146]"), ("TRIMSEC", "[57:2104,51:4146]")]
    )  # fmt: skip
    header.update(cards)
    data = pixels(detector.id) if data is None else data
    name = detector.name if name is None else name
    if compress:
        return fits.CompImageHDU(data, header, name=name, **compress)
    return fits.ImageHDU(data, header, name=name)


def primary_hdu(data=None, cards=()):
    header = fits.Header([("INSTRUME", "DECam"), ("FILTER", FILTER), ("OBSTYPE", "dome flat"), ("NEXTEND", 70), *cards])
    return fits.PrimaryHDU(data, header)


def guide_hdu():
    """A guide CCD that the small camera does not list."""
    return fits.ImageHDU(np.ones((9, 8), np.float32), fits.Header([("CCDNUM", 73), ("DETPOS", "GN1")]), name="GN1")


def decam_file(path, *, compress=None, hdus=None, camera=None):
    """A file of all CCDs, focus and guide CCDs among them."""
    if hdus is None:
        hdus = [primary_hdu()]
        for detector in camera or small_decam():
            if detector.purpose == "focus":
                hdus += [fits.ImageHDU(np.ones((7, 6), np.float32), name="FS3")]
                hdus[-1].header["CCDNUM"] = 63
            else:
                hdus.append(image_hdu(detector, compress=compress))
        hdus.insert(2, guide_hdu())
    fits.HDUList(hdus).writeto(path)
    return path
