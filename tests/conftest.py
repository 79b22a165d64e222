"""Fixtures of all tests: a small camera of both vendors, and random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bayesflat.data.camera import Camera, Detector
from tests.helpers import PITCH, SIDE


@pytest.fixture(scope="session")
def small_camera() -> Camera:
    """25 detectors within 60 mm, ITL in the outer columns, one of them rotated."""
    detectors = [
        Detector(
            id=5 * j + i,
            name=f"R{j}{i}_S00",
            physical_type="ITL" if i in (0, 4) else "E2V",
            purpose="science",
            x=(i - 2) * PITCH,
            y=(j - 2) * PITCH,
            yaw=90.0 if (i, j) == (1, 1) else 0.0,
            nx=200,
            ny=200,
            pixel_size=SIDE / 200,
            refpos_x=99.5,
            refpos_y=99.5,
        )
        for j in range(5)
        for i in range(5)
    ]
    return Camera("SmallCam", detectors)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
