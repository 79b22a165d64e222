"""A radial function, the noise of a band, and what tests of the simulator hold its numbers against."""

import numpy as np

from bayesflat.simulation.truth import Noise

NODES = (0.0, 200.0, 250.0, 300.0, 310.0, 320.0, 330.0, 340.0, 350.0, 360.0, 368.0)
VALUES = (1.0, 0.99, 0.97, 0.94, 0.91, 0.85, 0.74, 0.61, 0.5, 0.3, 0.1)
FULL = Noise.for_band("i")


def means(image, factor):
    """Of square blocks of pixels."""
    ny, nx = (n // factor for n in image.shape)
    return image[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor).mean(axis=(1, 3))


def within(sample, expected, n):
    """Whether the standard deviation of n independent normal numbers lies within four of its standard errors."""
    return abs(sample / expected - 1) < 4 / np.sqrt(2 * n)
