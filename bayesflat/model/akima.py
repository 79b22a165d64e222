"""Akima's spline in PyTensor: the radial function as a symbolic function of its node values.

Akima (1970), J. ACM 17, 589: the slope at a node is the mean of the slopes of the two intervals beside it, weighted by
how much the slopes change on the *other* side.  The result equals SciPy's ``Akima1DInterpolator(method="akima")``.

A few small vector operations give the cubic of each interval; two Ops of our own then evaluate it at all bins and
collect the gradient, in one pass each.  Each is the other's pullback, so derivatives of any order exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from numba import njit
from numpy.typing import NDArray
from pytensor.graph import Apply, Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.tensor.variable import TensorVariable

from bayesflat.gradient.piecewise import interval

# SciPy's limit: where the slopes beside a node change by less than this part of the largest change, take their mean
_TIED = 1e-9


def akima_slopes(nodes: NDArray, values: TensorVariable) -> TensorVariable:
    """Slope of the spline at each node, shape (n_nodes,), finite and differentiable at tied slopes too.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (n_nodes,)
        Ascending, at least 3.
    values : TensorVariable, shape (n_nodes,)
        Function values at the nodes.
    """
    inner = pt.diff(values) / np.diff(nodes)
    # two slopes beyond each end, by linear extrapolation of the slopes
    before = 2 * inner[0] - inner[1]
    after = 2 * inner[-1] - inner[-2]
    m = pt.concatenate([pt.stack([2 * before - inner[0], before]), inner, pt.stack([after, 2 * after - inner[-1]])])
    change = abs(pt.diff(m))
    left, right = change[:-2], change[2:]
    total = left + right
    defined = total > _TIED * total.max()
    # where() differentiates both branches: the one not taken must be finite as well
    weight = left / pt.where(defined, total, 1.0)
    return pt.where(defined, m[1:-2] + weight * (m[2:-1] - m[1:-2]), 0.5 * (m[:-3] + m[3:]))


def akima_coefficients(nodes: NDArray, values: TensorVariable) -> TensorVariable:
    """Cubic of each interval in powers of the distance from its left node, lowest first: shape (n_nodes - 1, 4)."""
    h = np.diff(nodes)
    t = akima_slopes(nodes, values)
    s = pt.diff(values) / h
    return pt.stack([values[:-1], t[:-1], (3 * s - 2 * t[:-1] - t[1:]) / h, (t[:-1] + t[1:] - 2 * s) / h**2], axis=1)


def akima(nodes: NDArray, values: TensorVariable, radius: TensorVariable) -> TensorVariable:
    """The spline at each radius, clipped to the first and last node.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (n_nodes,)
        Ascending (mm), at least 3.
    values : TensorVariable, shape (n_nodes,)
    radius : TensorVariable, shape (n_bins,)
        mm.

    Returns
    -------
    TensorVariable, shape (n_bins,)
    """
    nodes = np.asarray(nodes, dtype=float)
    inside = pt.clip(radius, nodes[0], nodes[-1])
    return pt.as_tensor(piecewise_cubic(akima_coefficients(nodes, values), pt.constant(nodes), inside))


def _derivative(coefficients: TensorVariable) -> TensorVariable:
    """Coefficients of the derivative of each interval's cubic."""
    return pt.concatenate([coefficients[:, 1:] * np.array([1.0, 2.0, 3.0]), pt.zeros_like(coefficients[:, :1])], axis=1)


class PiecewiseCubic(Op):
    """The cubic of the interval that each radius lies in, at it: (coefficients, nodes, radius) -> value per radius."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """One node of the graph, of coefficients of shape (n_nodes - 1, 4), nodes and radius."""
        coefficients, nodes, radius = (pt.as_tensor(a) for a in inputs)
        return Apply(self, [coefficients, nodes, radius], [pt.vector(dtype="float64", shape=radius.type.shape)])

    def infer_shape(self, node, shapes):
        """As many values as radii."""
        return [shapes[2]]

    def perform(self, node, inputs, output_storage):
        """One compiled pass, for PyTensor's Python mode."""
        output_storage[0][0] = evaluate_cubic(*inputs)

    def pullback(self, inputs, outputs, cotangents):
        """Moments of the cotangents for the coefficients, the derivative's cubic for the radius."""
        coefficients, nodes, radius = inputs
        (g,) = cotangents
        return [
            piecewise_moments(nodes, radius, g),
            pt.zeros_like(nodes),  # nodes are constants of the model
            g * self(_derivative(coefficients), nodes, radius),
        ]


class PiecewiseMoments(Op):
    """Sum ``weight * t**power`` over the radii of each interval: (nodes, radius, weight) -> (n_nodes - 1, 4)."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """One node of the graph, of nodes, radius and weight; t is a radius's distance from its interval's left end."""
        nodes, radius, weight = (pt.as_tensor(a) for a in inputs)
        return Apply(self, [nodes, radius, weight], [pt.matrix(dtype="float64", shape=(None, 4))])

    def infer_shape(self, node, shapes):
        """Four moments an interval."""
        return [(shapes[0][0] - 1, 4)]

    def perform(self, node, inputs, output_storage):
        """One compiled pass, for PyTensor's Python mode."""
        output_storage[0][0] = collect_moments(*inputs)

    def pullback(self, inputs, outputs, cotangents):
        """The cotangents are coefficients of cubics: evaluate them."""
        nodes, radius, weight = inputs
        (g,) = cotangents
        return [
            pt.zeros_like(nodes),
            weight * piecewise_cubic(_derivative(g), nodes, radius),
            piecewise_cubic(g, nodes, radius),
        ]


piecewise_cubic = PiecewiseCubic()
piecewise_moments = PiecewiseMoments()


@njit(cache=True)
def evaluate_cubic(coefficients, nodes, radius):
    """Cubic of the interval that each radius lies in, at the radius: shape (n_bins,)."""
    value = np.empty(len(radius))
    k = 0
    for i in range(len(radius)):
        k = interval(nodes, radius[i], k)
        t = radius[i] - nodes[k]
        value[i] = coefficients[k, 0] + t * (coefficients[k, 1] + t * (coefficients[k, 2] + t * coefficients[k, 3]))
    return value


@njit(cache=True)
def evaluate_basis(coefficients, nodes, radius, out):
    """As many cubics in each interval as ``out`` has rows: coefficients of shape (n_nodes - 1, 4, n_rows)."""
    k = 0
    for i in range(len(radius)):
        k = interval(nodes, radius[i], k)
        t = radius[i] - nodes[k]
        for j in range(out.shape[0]):
            out[j, i] = coefficients[k, 0, j] + t * (
                coefficients[k, 1, j] + t * (coefficients[k, 2, j] + t * coefficients[k, 3, j])
            )


@njit(cache=True)
def collect_moments(nodes, radius, weight):
    """Sum of ``weight * t**power`` over the radii of each interval: shape (n_nodes - 1, 4)."""
    moments = np.zeros((len(nodes) - 1, 4))
    k = 0
    for i in range(len(radius)):
        k = interval(nodes, radius[i], k)
        t = radius[i] - nodes[k]
        power = weight[i]
        for j in range(4):
            moments[k, j] += power
            power *= t
    return moments


# PyTensor's Numba mode compiles the loops into its own function.  The number returned stands for the version of the
# loop: it is part of the key of PyTensor's compilation cache, so raise it when the loop changes or its module moves.


@register_funcify_default_op_cache_key(PiecewiseCubic)
def _numba_piecewise_cubic(op, node, **kwargs):
    return numba_njit(evaluate_cubic.py_func), 3


@register_funcify_default_op_cache_key(PiecewiseMoments)
def _numba_piecewise_moments(op, node, **kwargs):
    return numba_njit(collect_moments.py_func), 3
