"""Bins of random values on a few detectors that lie at all angles, for tests of plots."""

import numpy as np

from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, Detector
from bayesflat.model.prepare import prepare

BIN_SIDE = 16  # of a bin (pixels)


def detector(number, kind, x, y, yaw, nx=96, ny=64, purpose="science"):
    return Detector(number, f"D{number}", kind, purpose, x, y, yaw, nx, ny, 0.25, (nx - 1) / 2 + 1, (ny - 1) / 2)


CAMERA = Camera(
    "Toy",
    [
        detector(3, "E2V", 0.0, 2.0, 0.0),
        detector(1, "ITL", 40.0, 0.0, 90.0),
        detector(7, "ITL", 80.0, 5.0, 180.0, nx=80),
        detector(4, "E2V", 0.0, 40.0, 270.0),
        detector(5, "E2V", 40.0, 45.0, 33.0),
        detector(6, "E2V", 80.0, 45.0, -100.0),  # never given bins
        detector(8, "ITL_G", 40.0, 90.0, 0.0, purpose="guider"),
    ],
)
PRESENT = (1, 3, 4, 5, 7)


def corners_of_bins(d, side=BIN_SIDE):
    """First pixels of all bins of a detector."""
    y0, x0 = np.mgrid[: d.ny // side, : d.nx // side] * side
    return x0.ravel(), y0.ravel()


def place(d, px, py):
    """Pixel to focal plane by complex numbers."""
    z = (px - d.refpos_x + 1j * (py - d.refpos_y)) * d.pixel_size * np.exp(1j * np.radians(d.yaw))
    return z.real + d.x, z.imag + d.y


def make_data(camera=CAMERA, present=PRESENT, *, keep=None, jitter=0.0, value=None, seed=1, **options):
    """Bins of random values (or ``value(xf, yf, itl)``), all of them or those that ``keep(detector, x0, y0)`` names."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in present:
        d = camera[number]
        x0, y0 = corners_of_bins(d)
        if keep is not None:
            good = np.array([keep(number, a, b) for a, b in zip(x0, y0, strict=True)])
            x0, y0 = x0[good], y0[good]
        px = x0 + (BIN_SIDE - 1) / 2 + jitter * rng.uniform(-1, 1, x0.shape)
        py = y0 + (BIN_SIDE - 1) / 2 + jitter * rng.uniform(-1, 1, x0.shape)
        xf, yf = place(d, px, py)
        parts.append((xf, yf, np.full(x0.shape, number), np.full(x0.shape, "ITL" in d.physical_type)))
    xf, yf, number, itl = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    values = rng.uniform(0.7, 1.2, xf.shape) if value is None else value(xf, yf, itl)
    shuffled = rng.permutation(len(xf))
    columns = {"xf": xf, "yf": yf, "value": values, "detector": number, "itl": itl}
    binned = BinnedFlat.from_columns(
        {k: v[shuffled] for k, v in columns.items()}, camera, instrument="ToyCam", physical_filter="r_7"
    )
    options = {"do_normalize_center": False, "radial_spline_nodes": [0.0, 40.0, 80.0, 120.0]} | options
    return prepare(binned, FitConfig(**options))
