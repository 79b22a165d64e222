"""A product with all its fields, and what tests hold products against."""

import numpy as np

from bayesflat.gradient.product import FlatGradient

NODES = [0.0, 100.0, 200.0, 250.0, 300.0, 325.0, 350.0]
VALUES = [1.0, 0.99, 0.98, 0.97, 0.93, 0.79, 0.5]
METADATA = {
    "INSTRUME": "LSSTCam",
    "FILTER": "i_39",
    "CALIB_ID": "instrument=LSSTCam filter=i_39 calibDate=2025-11-03T10:20:30.123456",
    "CALIBDATE": "2025-11-03T10:20:30.123456",
    "CALIB_CREATION_DATE": "2025-11-03",
    "CALIB_CREATION_TIME": "10:20:30.123456",
}
SCALARS = {
    "itl_ratio": 0.9512345678901234,
    "centroid_x": 3.0,
    "centroid_y": -2.0,
    "centroid_delta_x": 0.8,
    "centroid_delta_y": -0.5,
    "gradient_x": 3e-5,
    "gradient_y": -2e-5,
    "outer_gradient_x": 1e-5,
    "outer_gradient_y": 4e-5,
    "outer_gradient_radius": 320.0,
    "normalization_factor": 20123.456789012345,
}
FULL = FlatGradient(NODES, VALUES, **SCALARS, metadata=METADATA)
COLUMNS = [
    "RADIAL_SPLINE_NODES",
    "RADIAL_SPLINE_VALUES",
    "ITL_RATIO",
    "CENTROID_X",
    "CENTROID_Y",
    "CENTROID_DELTA_X",
    "CENTROID_DELTA_Y",
    "GRADIENT_X",
    "GRADIENT_Y",
    "NORMALIZATION_FACTOR",
    "OUTER_GRADIENT_X",
    "OUTER_GRADIENT_Y",
    "OUTER_GRADIENT_RADIUS",
]
YAML_KEYS = [
    "metadata",
    "radialSplineNodes",
    "radialSplineValues",
    "itlRatio",
    "centroidX",
    "centroidY",
    "centroidDeltaX",
    "centroidDeltaY",
    "gradientX",
    "gradientY",
    "normalizationFactor",
    "outerGradientX",
    "outerGradientY",
    "outerGradientRadius",
]
EMPTY = ["DETECTOR", "DET_NAME", "DET_SER", "RAFTNAME", "SLOTNAME", "SEQFILE", "SEQNAME", "SEQCKSUM"]


def akima(nodes, values, r):
    """Akima's spline at one radius: his weighted slopes at the nodes, a cubic between them."""
    x, y = np.array(nodes), np.array(values)
    m = list(np.diff(y) / np.diff(x))
    # two slopes more at either end, each as far from its neighbour as that one is from its own
    m = [3 * m[0] - 2 * m[1], 2 * m[0] - m[1], *m, 2 * m[-1] - m[-2], 3 * m[-1] - 2 * m[-2]]

    def slope(i):
        before, after = abs(m[i + 1] - m[i]), abs(m[i + 3] - m[i + 2])
        return (after * m[i + 1] + before * m[i + 2]) / (after + before)

    r = min(max(r, x[0]), x[-1])
    i = min(int(np.searchsorted(x, r, side="right")) - 1, len(x) - 2)
    h = x[i + 1] - x[i]
    t = (r - x[i]) / h
    return (
        (1 + 2 * t) * (1 - t) ** 2 * y[i]
        + t * (1 - t) ** 2 * h * slope(i)
        + t**2 * (3 - 2 * t) * y[i + 1]
        + t**2 * (t - 1) * h * slope(i + 1)
    )


def assert_same(a, b):
    """The same values exactly."""
    for name in ("radial_spline_nodes", "radial_spline_values", *SCALARS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


KNOTS = np.r_[[0.0] * 3, [0.0, 80.0, 160.0, 240.0, 280.0, 310.0, 330.0, 355.0], [355.0] * 3]
N_KNOTS = len(KNOTS) - 4
