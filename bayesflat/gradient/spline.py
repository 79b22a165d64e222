"""Splines in NumPy: Akima's with its derivatives by the node values, and the knots of a cubic B-spline.

`bayesflat.model.akima` is Akima's spline in PyTensor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TIED = 1e-9  # as in bayesflat.model.akima
_BY_AREA = 0.75  # part of a B-spline's intervals that is spread by area, as the bins are, and not by radius


def akima_with_jacobian(nodes: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    """Coefficients of Akima's cubics, and their derivatives by the node values.

    Returns
    -------
    coefficients : numpy.ndarray, shape (n_nodes - 1, 4)
        Of each interval, in powers of the distance from its left node, lowest first.
    jacobian : numpy.ndarray, shape (n_nodes - 1, 4, n_nodes)
    """
    n = len(nodes)
    h = np.diff(nodes)
    identity = np.eye(n)
    # rows: the slopes of the intervals, two extrapolated ones beyond each end; all are linear in the values
    inner = np.diff(identity, axis=0) / h[:, None]
    before = 2 * inner[0] - inner[1]
    after = 2 * inner[-1] - inner[-2]
    to_slopes = np.vstack([2 * before - inner[0], before, inner, after, 2 * after - inner[-1]])
    m = to_slopes @ values
    to_change = np.diff(to_slopes, axis=0)
    signed = to_change @ values
    to_size = np.sign(signed)[:, None] * to_change
    change = np.abs(signed)
    left, right = change[:-2], change[2:]
    total = left + right
    defined = total > _TIED * total.max()
    safe = np.where(defined, total, 1.0)
    weight = left / safe
    step, to_step = m[2:-1] - m[1:-2], to_slopes[2:-1] - to_slopes[1:-2]
    to_weight = (to_size[:-2] * right[:, None] - left[:, None] * to_size[2:]) / safe[:, None] ** 2
    t = np.where(defined, m[1:-2] + weight * step, 0.5 * (m[:-3] + m[3:]))
    to_t = np.where(
        defined[:, None],
        to_slopes[1:-2] + weight[:, None] * to_step + step[:, None] * to_weight,
        0.5 * (to_slopes[:-3] + to_slopes[3:]),
    )

    def cubics(v, t, s, h):
        return np.stack([v[:-1], t[:-1], (3 * s - 2 * t[:-1] - t[1:]) / h, (t[:-1] + t[1:] - 2 * s) / h**2], axis=1)

    return (
        cubics(values, t, np.diff(values) / h, h),
        cubics(identity, to_t, inner, h[:, None]),
    )


def akima_basis(nodes: NDArray, values: NDArray, radius: NDArray) -> NDArray[np.float64]:
    """Derivatives of the spline at each radius by the node values: shape (n_radii, n_nodes)."""
    _, jacobian = akima_with_jacobian(nodes, values)
    inside = np.clip(radius, nodes[0], nodes[-1])
    k = np.clip(np.searchsorted(nodes, inside, side="right") - 1, 0, len(nodes) - 2)
    t = (inside - nodes[k])[:, None]
    basis = jacobian[k, 3]
    for power in (2, 1, 0):
        basis *= t
        basis += jacobian[k, power]
    return basis


def spread_knots(first: float, last: float, intervals: int, steps: int) -> NDArray[np.float64]:
    """Knots of a cubic B-spline over radius, denser where a ring of the same width has more bins.

    Parameters
    ----------
    first, last : float
        Radii at which the spline begins and ends (mm); the knots there are fourfold.
    intervals : int
    steps : int
        Radii between which the spread of the intervals is interpolated.

    Returns
    -------
    numpy.ndarray, shape (intervals + 7,)
    """
    at = np.linspace(first, last, steps)
    share = _BY_AREA * (at**2 - first**2) / (last**2 - first**2) + (1 - _BY_AREA) * (at - first) / (last - first)
    edges = np.interp(np.linspace(0, 1, intervals + 1), share, at)
    return np.concatenate([np.full(3, edges[0]), edges, np.full(3, edges[-1])])
