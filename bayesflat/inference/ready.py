"""Make bins ready for a fit: which of them are used, and what follows from a first fit."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from bayesflat.config import SCALED, FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.projection import Curve, place_nodes
from bayesflat.inference.rough import Rough, rough_fit
from bayesflat.model.prepare import FitData, require_noise
from bayesflat.stages import stage

log = logging.getLogger(__name__)

_FEWEST_AT_NODE = 10
_FEWEST_IN_DETECTOR = 4  # bins, in the typical one


def make_ready(data: FitData, config: FitConfig) -> tuple[FitData, FitConfig, Rough | None]:
    """Bins, weights, knots and smoothness from a first fit; with independent noise the nodes, if they are automatic.

    Parameters
    ----------
    data : FitData
        Normalized and cut; what is ready already stays as it is.
    config : FitConfig

    Returns
    -------
    data : FitData
    config : FitConfig
        With lengths that fit the camera; with independent noise, with the nodes that were placed.
    rough : Rough or None
        The first fit, where there was one.

    Raises
    ------
    InputError
        Bins as large as the detectors, or ready for hierarchical noise where noise is independent.
    """
    default, config = config, config.scaled_to(data.binned.camera.scale)
    if config is not default:
        lengths = ", ".join(f"{name} {getattr(config, name):g} mm" for name in SCALED)
        log.info("lengths that fit %s: %s", data.binned.camera.name, lengths)
    if config.noise == "hierarchical":
        if data.radial is not None:
            return data, config, None
        _check_bins_per_detector(data)
        stage("first fit")
        rough = rough_fit(data, config)
        beyond = int(np.sum(~rough.inside))
        if beyond:
            log.info("%d of %d bins left out: beyond the full rings about the centroid", beyond, len(data))
        log.info("%d bins are outliers (dust, defects) and weigh nothing", np.sum(rough.outlier))
        alive = data.value[rough.inside] > 0  # the others have no log
        data = data.select(rough.inside).select(alive)
        data = replace(
            data,
            dropped=data.dropped
            | {"beyond the full rings about the centroid": beyond, "not positive": int(np.sum(~alive))},
            weight=(~rough.outlier[alive]).astype(float),
            smooth=rough.smooth,
            odd=rough.odd,
            radial=rough.radial,
        )
        return data, config, rough
    require_noise(data, config)
    if config.radial_spline_nodes == "auto":
        _check_bins_per_detector(data)
        data, config = _with_nodes(data, config)
    _warn_of_nodes(data, config)
    return data, config, None


def _with_nodes(data: FitData, config: FitConfig) -> tuple[FitData, FitConfig]:
    """Automatic nodes for a fit of the values there: those that describe the curve of a first fit."""
    stage("first fit")
    rough = rough_fit(data, config)
    inside = data.select(rough.inside)
    cx, cy = rough.parameters.get("centroid_delta", (0.0, 0.0))
    radius = np.hypot(inside.dx - cx, inside.dy - cy)
    curve = Curve.of_bins(rough.radial.spline, rough.radial.mean, radius, (~rough.outlier).astype(float))
    nodes = place_nodes(curve, config.do_constrain_zero).nodes
    # no centroid that the prior allows moves a bin beyond the last node
    last = np.ceil(data.radius.max() + (config.centroid_max if config.do_fit_centroid else 0.0))
    nodes = np.append(nodes[nodes < last - 1.0], max(last, nodes[-1]))
    log.info("%d spline nodes placed", len(nodes))
    return replace(data, nodes=nodes), config.replace(radial_spline_nodes=nodes.tolist())


def _check_bins_per_detector(data: FitData) -> None:
    """Refuse bins as large as the detectors: what scatters within them cannot be told from what scatters between."""
    numbers, counts = np.unique(data.binned.detector, return_counts=True)
    typical = int(np.median(counts))
    if typical < _FEWEST_IN_DETECTOR:
        detector = data.binned.camera[int(numbers[0])]
        raise InputError(
            f"{typical} bin{'s' if typical != 1 else ''} in the typical detector ({detector.nx} x {detector.ny} "
            f"pixels); at least {_FEWEST_IN_DETECTOR} are needed: bin more finely (bin_factor)"
        )


def _warn_of_nodes(data: FitData, config: FitConfig) -> None:
    """Warn of nodes whose values no bin determines."""
    nodes = data.nodes
    free = nodes[:-1] if config.do_constrain_zero else nodes
    edges = np.concatenate([[nodes[0]], 0.5 * (nodes[1:] + nodes[:-1]), [nodes[-1]]])
    counts, _ = np.histogram(data.radius, edges)
    empty = [f"{node:g}" for node, n in zip(free, counts, strict=False) if n < _FEWEST_AT_NODE]
    if empty:
        log.warning(
            "fewer than %d bins near node %s mm: little but its prior holds its value",
            _FEWEST_AT_NODE,
            ", ".join(empty),
        )
