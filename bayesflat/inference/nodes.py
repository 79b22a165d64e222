"""Spline nodes placed where the data need them.

A rough fit condenses the bins into a fine profile of the radial function with its covariance; to that, Akima splines
are compared without looking at the bins again.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bayesflat.config import FitConfig
from bayesflat.inference.rough import Rough, rough_fit
from bayesflat.prepare import FitData
from bayesflat.spline import akima_with_jacobian

log = logging.getLogger(__name__)

# a node costs a place and a value: what it must gain in chi-squared, log(number of independent rings) for each
_GAIN = 10.0
_FEWEST, _MOST = 5, 40
# structure is well above the noise this many standard deviations of chi-squared beyond its mean
_CLEAR = 10.0


def with_nodes(data: FitData, config: FitConfig, found: Rough | None = None) -> tuple[FitData, FitConfig, Rough]:
    """Place the nodes of ``radial_spline_nodes = "auto"``.

    Parameters
    ----------
    data : FitData
    config : FitConfig
    found : Rough, optional
        The rough fit of these bins, where it is at hand.

    Returns
    -------
    data : FitData
        With the nodes.
    config : FitConfig
        With the nodes in place of ``auto``.
    found : Rough
    """
    found = found or rough_fit(data, config)
    nodes = place_nodes(found, _last_node(data, config, found), config.do_constrain_zero)
    return replace(data, nodes=np.array(nodes)), config.model_copy(update={"radial_spline_nodes": nodes}), found


def _last_node(data: FitData, config: FitConfig, found: Rough) -> float:
    """Where the nodes end (mm): no centroid that the prior allows moves a bin beyond it.

    A function that is held at 0 there ends where the light would, falling on as it does at the rim.
    """
    least = data.nodes[-1]  # provisional, but for this
    if not config.do_constrain_zero:
        return float(least)
    end, value = found.radius[-1], np.exp(found.log_radial)
    inner = np.searchsorted(found.radius, 0.95 * end)
    slope = (value[inner] - value[-1]) / (end - found.radius[inner])
    dark = end + value[-1] / slope if slope > 0 else np.inf
    return float(np.ceil(np.clip(dark, least, 1.5 * least)))


def place_nodes(found: Rough, last: float, constrained: bool) -> list[float]:
    """Nodes whose Akima spline follows a profile as well as the data can tell.

    Nodes are added one by one where they gain most, and taken away where they gain little, until neither pays.

    Parameters
    ----------
    found : Rough
    last : float
        The last node (mm), beyond the profile.
    constrained : bool
        Whether the function is 0 there.
    """
    grid = found.radius
    step = (grid[-1] - grid[0]) / (len(grid) - 3)
    first = 0.0 if grid[0] < 3 * step else float(np.floor(grid[0]))
    candidates = [float(c) for c in np.round(grid[1:], 1)]
    nodes = [first, *candidates[:: max(1, len(candidates) // 5)][1:-1], candidates[-1], last]
    chi = misfit(found, nodes, constrained)
    for _ in range(3 * _MOST):
        trials = [c for c in candidates if np.min(np.abs(c - np.array(nodes))) > 0.9 * step]
        added = [(misfit(found, sorted([*nodes, c]), constrained), c) for c in trials] if len(nodes) < _MOST else []
        best, place = min(added, default=(np.inf, 0.0))
        if best > chi - _GAIN:
            break
        nodes, chi = sorted([*nodes, place]), best
        while len(nodes) > _FEWEST:
            removed = [(misfit(found, nodes[:k] + nodes[k + 1 :], constrained), k) for k in range(1, len(nodes) - 1)]
            least, k = min(removed)
            if least > chi + _GAIN:
                break
            del nodes[k]
            chi = least
    log.info("%d spline nodes placed, chi-squared %.0f of %d points of the profile", len(nodes), chi, len(grid))
    return nodes


def warn_of_misfit(found: Rough, nodes: NDArray, constrained: bool) -> None:
    """Warn, with figures, where the Akima spline through given nodes cannot follow the bins."""
    chi, log_radial = _best(found, list(nodes), constrained)
    n = len(found.radius)
    seen = found.radius <= nodes[-1]
    if not chi > n + _CLEAR * np.sqrt(2 * n):
        return
    # what is left, smoothed a little: single points of the profile are noisy, and anticorrelated
    off = 100 * np.expm1(np.convolve(found.log_radial - log_radial, np.full(3, 1 / 3), mode="same"))[seen][1:-1]
    worst = np.argmax(np.abs(off))
    log.warning(
        "radial_spline_nodes cannot follow the flat: up to %.2f%% is left at %.0f mm (rms %.2f%%), chi-squared %.0f of %d;"
        ' "auto" places nodes where they are needed',
        np.abs(off[worst]),
        found.radius[seen][1:-1][worst],
        np.sqrt(np.mean(off**2)),
        chi,
        n,
    )


def misfit(found: Rough, nodes: list[float], constrained: bool) -> float:
    """Least chi-squared of the Akima spline through nodes."""
    return _best(found, nodes, constrained)[0]


def _best(found: Rough, nodes: list[float], constrained: bool) -> tuple[float, NDArray]:
    """The best Akima spline through nodes (chi-squared, log): steps of Gauss and Newton from interpolation."""
    places = np.asarray(nodes)
    values = np.exp(np.interp(places, found.radius, found.log_radial))
    free = slice(None, -1) if constrained else slice(None)
    if constrained:
        values[-1] = 0.0
    else:
        values[-1] = max(
            values[-2] + (values[-2] - values[-3]) * (places[-1] - places[-2]) / (places[-2] - places[-3]), 0
        )
    best = np.inf, np.zeros_like(found.radius)
    for _ in range(3):
        coefficients, to_coefficients = akima_with_jacobian(places, values)
        k = np.clip(np.searchsorted(places, found.radius, side="right") - 1, 0, len(places) - 2)
        t = (found.radius - places[k])[:, None] ** np.arange(4)
        radial = np.sum(t * coefficients[k], axis=1)
        if not np.all(radial > 0):
            return best
        jacobian = np.einsum("ij,ijk->ik", t, to_coefficients[k])[:, free] / radial[:, None]
        off = np.log(radial) - found.log_radial
        weighted = found.information @ jacobian
        chi = float(off @ found.information @ off)
        if chi < best[0]:
            best = chi, np.log(radial)
        curvature = jacobian.T @ weighted
        curvature[np.diag_indices_from(curvature)] *= 1 + 1e-9
        values[free] -= cho_solve(cho_factor(curvature), weighted.T @ off)
    return best
