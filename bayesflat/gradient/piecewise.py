"""Where in a piecewise function a point lies; without PyTensor, which applying a gradient must not wait for."""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def interval(nodes, r, k):
    """Interval of ``r``, sought from ``k``: neighbouring bins or pixels lie in the same interval or the next."""
    while k > 0 and r < nodes[k]:
        k -= 1
    while k < len(nodes) - 2 and r >= nodes[k + 1]:
        k += 1
    return k
