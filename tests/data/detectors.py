"""A detector that no camera has."""

from bayesflat.data.camera import Detector

# a rotation that is no multiple of 90 degrees, and pixels of its own
TILTED = Detector(7, "T7", "CCD250", "science", 12.5, -30.0, 37.0, 400, 240, 0.1, 199.0, 120.25, 4, 3)
