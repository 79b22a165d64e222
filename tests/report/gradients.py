"""A gradient with all terms, and formulas of the tests' own for what it says."""

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from bayesflat.gradient.product import FlatGradient

GRADIENT = FlatGradient(
    [0.0, 40.0, 80.0, 120.0],
    [1.0, 0.97, 0.9, 0.6],
    itl_ratio=0.93,
    centroid_x=5.0,
    centroid_y=-3.0,
    centroid_delta_x=1.5,
    centroid_delta_y=-0.7,
    gradient_x=4e-4,
    gradient_y=-3e-4,
    outer_gradient_x=1e-4,
    outer_gradient_y=2e-4,
    outer_gradient_radius=70.0,
)


def own_plane(x, y):
    plane = 1 + 4e-4 * (x - 5.0) - 3e-4 * (y + 3.0)
    outer = 1 + 1e-4 * (x - 5.0) + 2e-4 * (y + 3.0)
    return plane * np.where((x - 5.0) ** 2 + (y + 3.0) ** 2 >= 70.0**2, outer, 1.0)


def own_radial(x, y):
    r = np.sqrt((x - 6.5) ** 2 + (y + 3.7) ** 2)
    return r, Akima1DInterpolator([0.0, 40.0, 80.0, 120.0], [1.0, 0.97, 0.9, 0.6])(r)


def own_model(x, y, itl):
    return own_radial(x, y)[1] * np.where(itl, 0.93, 1.0) / own_plane(x, y)
