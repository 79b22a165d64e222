"""A rough, robust picture of the flat: where the priors are centred and the search begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from bayesflat.config import FitConfig
from bayesflat.data.grouped import medians_of
from bayesflat.model.prepare import FitData

# part of the radial range in which the vendors are compared: farther out the vignetting is too steep
_INNER = 0.8
_RING = 10.0  # mm
_FEWEST = 5  # bins for a median


@dataclass(frozen=True)
class Start:
    """Starting values in product units, and the scatter of the bins about them (fraction of the level).

    Without nodes, with hierarchical noise, there is the ratio alone.
    """

    radial_spline_values: NDArray[np.float64]
    itl_ratio: float
    scatter: float


def estimate(data: FitData, config: FitConfig) -> Start:
    """Medians: the vendors' ratio ring by ring, then the radial function around each node.

    Nothing is assumed of the plane and the centroid: over whole rings they average out.
    """
    radius = data.radius
    ratio = _ratio(data, radius) if data.has_ratio else 1.0
    if not len(data.nodes):
        return Start(np.empty(0), float(ratio), np.nan)
    adjusted = data.value / np.where(data.itl, ratio if data.has_ratio else 1.0, 1.0)
    values = _node_values(data.nodes, radius, adjusted, config)
    model = Akima1DInterpolator(data.nodes, values)(np.clip(radius, data.nodes[0], data.nodes[-1]))
    residual = adjusted - model
    scatter = 1.4826 * np.median(np.abs(residual - np.median(residual))) / data.level
    return Start(values, float(ratio), float(max(scatter, 1e-6)))


def _ratio(data: FitData, radius: NDArray) -> float:
    """Median over rings of the ratio of the vendors' medians; 1 where no ring holds both."""
    inside = radius <= _INNER * data.rim
    of_vendor = 2 * (radius[inside] / _RING).astype(int) + data.itl[inside]
    n = 2 * (int(radius.max() / _RING) + 1)
    rest, itl = medians_of(of_vendor, data.value[inside], n).reshape(-1, 2).T
    both = np.bincount(of_vendor, minlength=n).reshape(-1, 2).min(1) >= _FEWEST
    return float(np.median((itl / rest)[both])) if both.any() else 1.0


def _node_values(nodes: NDArray, radius: NDArray, value: NDArray, config: FitConfig) -> NDArray:
    """Median around each node, interpolated over nodes without bins."""
    coarse = nodes if config.radial_spline_nodes_initial is None else np.asarray(config.radial_spline_nodes_initial)
    order = np.argsort(radius)
    r, v = radius[order], value[order]
    found_at, found = [], []
    for k, node in enumerate(coarse):
        gaps = np.abs(np.delete(coarse, k) - node)
        for width in (0.1 * gaps.min(), 0.5 * gaps.min()):
            here = slice(*np.searchsorted(r, (node - width, node + width)))
            if here.stop - here.start >= _FEWEST:
                found_at.append(np.median(r[here]))
                found.append(np.median(v[here]))
                break
    if not found:
        found_at, found = [float(np.median(r))], [float(np.median(v))]
    if config.do_constrain_zero and nodes[-1] > found_at[-1]:
        found_at.append(nodes[-1])
        found.append(0.0)
    values = np.interp(nodes, found_at, found)
    if config.do_constrain_zero:
        values[-1] = 0.0
    return values
