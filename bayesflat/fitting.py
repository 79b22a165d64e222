"""Fit a binned focal plane: from the bins to the product."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from bayesflat.binned import BinnedFlat
from bayesflat.config import FitConfig
from bayesflat.gradient import STATISTICS, Estimates, FlatGradient, Offsets
from bayesflat.gradient_files import FIXED_METADATA
from bayesflat.inference.laplace import Laplace, laplace
from bayesflat.inference.map import MapResult, find_map, make_objective
from bayesflat.inference.nodes import warn_of_misfit, with_nodes
from bayesflat.inference.objective import Objective
from bayesflat.inference.rough import rough_fit
from bayesflat.model.build import build_model
from bayesflat.model.noise import noise_model
from bayesflat.prepare import FitData, prepare

if TYPE_CHECKING:
    import pymc as pm

log = logging.getLogger(__name__)

_UNITS = {
    "centroid_delta_x": "mm",
    "centroid_delta_y": "mm",
    "gradient_x": "1/mm",
    "gradient_y": "1/mm",
    "outer_gradient_x": "1/mm",
    "outer_gradient_y": "1/mm",
}
_FEWEST_AT_NODE = 10


@dataclass(frozen=True)
class FitResult:
    """A fitted focal plane.

    Attributes
    ----------
    data : FitData
        The bins that were fitted.
    config : FitConfig
        As it was used: with the nodes that were placed.
    model : pymc.Model
        The model itself, for all that PyMC can do with it.
    objective : Objective
        Minus the log-posterior in NumPy.
    map : MapResult
        The maximum of the posterior, and how it was judged.
    laplace : Laplace or None
        The normal approximation of the posterior; None for ``likelihood = "laplace"``, which has no curvature.
    gradient : FlatGradient
        The product.
    """

    data: FitData
    config: FitConfig
    model: pm.Model
    objective: Objective
    map: MapResult
    laplace: Laplace | None
    gradient: FlatGradient

    @property
    def converged(self) -> bool:
        """Whether the fit converged."""
        return self.map.converged


def fit(binned: BinnedFlat, config: FitConfig | None = None, *, inputs: Sequence[dict[str, Any]] = ()) -> FitResult:
    """Find the maximum a posteriori gradient of a binned focal plane.

    Parameters
    ----------
    binned : BinnedFlat
    config : FitConfig, optional
        Defaults to the default configuration.
    inputs : sequence of dict, optional
        What the product records of where the bins come from.

    Returns
    -------
    FitResult
        Look at ``converged`` before using it; the product says so too.

    Raises
    ------
    InputError
        No good bin at the centre, no bin left after the cuts, or a prior of the wrong size.
    """
    config = config or FitConfig()
    data = prepare(binned, config)
    log.info(
        "fitting %d bins of %d detectors, %s noise (%s)",
        len(data),
        len(np.unique(data.binned.detector)),
        config.noise,
        config.likelihood,
    )
    rough = None
    if config.noise == "hierarchical" or config.radial_spline_nodes == "auto":
        rough = rough_fit(data, config)
        lopsided = int(np.sum(~rough.inside))
        if lopsided:
            log.info("%d of %d bins left out: beyond the full rings about the centroid", lopsided, len(data))
        data = data.select(rough.inside)
        data = replace(data, dropped=data.dropped | {"beyond the full rings about the centroid": lopsided})
    if config.radial_spline_nodes == "auto":
        data, config, rough = with_nodes(data, config, rough)
    elif rough is not None:
        warn_of_misfit(rough, data.nodes, config.do_constrain_zero)
    _warn(data, config)
    if config.noise == "hierarchical":
        log.info("%d bins are spoilt by dust or defects and weigh nothing", rough.spoilt.sum())
        data = replace(data, weight=(~rough.spoilt).astype(float))
    noise = noise_model(data, config)
    model = build_model(data, config, noise)
    objective = make_objective(data, config, noise)
    found = find_map(model, objective, rough)
    log.log(logging.INFO if found.converged else logging.WARNING, "%s", found.message)
    approximation = None if config.likelihood == "laplace" else laplace(objective, found)
    gradient = _gradient(objective, found, approximation, inputs)
    return FitResult(data, config, model, objective, found, approximation, gradient)


def _warn(data: FitData, config: FitConfig) -> None:
    """Say what the user may not expect."""
    if "fit_eps" in config.model_fields_set and config.fit_eps != FitConfig.model_fields["fit_eps"].default:
        log.warning("fit_eps has no use: gradients are exact, not finite differences")
    if config.do_fit_outer_gradient:
        log.warning("LSST's present class ignores the outer gradient; only that of August 2025 evaluates it")
    nodes, radius = data.nodes, data.radius
    free = nodes[:-1] if config.do_constrain_zero else nodes
    edges = np.concatenate([[nodes[0]], 0.5 * (nodes[1:] + nodes[:-1]), [nodes[-1]]])
    counts, _ = np.histogram(radius, edges)
    empty = [f"{node:g}" for node, n in zip(free, counts, strict=False) if n < _FEWEST_AT_NODE]
    if empty:
        log.warning(
            "fewer than %d bins near node %s mm: little but its prior holds its value",
            _FEWEST_AT_NODE,
            ", ".join(empty),
        )


def _gradient(
    objective: Objective, found: MapResult, approximation: Laplace | None, inputs: Sequence[dict[str, Any]]
) -> FlatGradient:
    """The product of a fit."""
    data, config = objective.data, objective.config
    scalars = {"itl_ratio": float(found.parameters.get("itl_ratio", 1.0))}
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        x, y = found.parameters.get(name, (0.0, 0.0))
        scalars[f"{name}_x"], scalars[f"{name}_y"] = float(x), float(y)
    return FlatGradient(
        radial_spline_nodes=data.nodes,
        radial_spline_values=found.parameters["radial_spline_values"],
        **scalars,
        centroid_x=config.fp_centroid_x,
        centroid_y=config.fp_centroid_y,
        outer_gradient_radius=config.outer_gradient_radius,
        normalization_factor=data.normalization,
        metadata=_metadata(data.binned.instrument or data.binned.camera.name, data.binned.physical_filter),
        estimates=_estimates(objective, found, approximation),
        offsets=_offsets(objective, found, approximation),
        config={**config.model_dump(mode="json"), "inputs": list(inputs)},
    )


def _metadata(instrument: str, physical_filter: str) -> dict[str, Any]:
    """LSST's header cards of a product made now."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    named = {"instrument": instrument, "filter": physical_filter, "calibDate": now.isoformat()}
    return {
        **FIXED_METADATA,
        "INSTRUME": instrument,
        "FILTER": physical_filter,
        "CALIB_ID": " ".join(f"{key}={value}" for key, value in named.items() if value),
        "CALIBDATE": now.isoformat(),
        "CALIB_CREATION_DATE": now.date().isoformat(),
        "CALIB_CREATION_TIME": now.time().isoformat(),
    }


def _estimates(objective: Objective, found: MapResult, approximation: Laplace | None) -> Estimates:
    """A row for every parameter; what is off or held fixed has an sd of 0."""
    data, config = objective.data, objective.config
    # (parameter, component) of every row, its name, and its value where it is not fitted
    n_nodes = len(data.nodes)
    rows = [("radial_spline_values", k, f"radial_spline_values[{k}]", 0.0) for k in range(n_nodes)]
    rows.append(("itl_ratio", 0, "itl_ratio", 1.0))
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        rows += [(name, k, f"{name}_{axis}", 0.0) for k, axis in enumerate("xy")]
    labels = objective.noise.coords().get("noise_scale")
    noise = objective.parameters[-1].name
    rows += (
        [(noise, k, f"{noise}[{label}]", 0.0) for k, label in enumerate(labels)] if labels else [(noise, 0, noise, 0.0)]
    )
    names = tuple(name for _, _, name, _ in rows)
    point = np.array([np.ravel(found.parameters[p])[k] if p in found.parameters else fixed for p, k, _, fixed in rows])
    held = np.array([p not in found.parameters for p, *_ in rows])
    if config.do_constrain_zero:
        held[n_nodes - 1] = True
    covariance = np.where(held[:, None] | held[None, :], 0.0, np.nan)
    if approximation is not None:
        at = {where: i for i, where in enumerate(approximation.names)}
        index = [at[p, k] for (p, k, *_), fixed in zip(rows, held, strict=True) if not fixed]
        covariance[np.ix_(~held, ~held)] = approximation.product[np.ix_(index, index)]
    sd = np.sqrt(np.diag(covariance))
    columns = {key: np.full(len(rows), np.nan) for key in STATISTICS}
    columns |= {"map": point, "mean": point + 0 * sd, "sd": sd}
    columns |= {key: point + norm.ppf(level) * sd for key, level in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95))}
    return Estimates(
        names=names,
        units=tuple(_UNITS.get(name, "") for name in names),
        columns=columns,
        covariance=covariance,
        method="map" if approximation is None else "laplace",
        converged=found.converged,
        reference=config.do_reference_gradient,
        header={
            "NOISE": (config.noise, "noise model"),
            "LIKELIHD": (config.likelihood, "distribution of a bin"),
            "NBINS": (len(data), "bins fitted"),
            "NSPOILT": (int(np.sum(data.weight == 0)), "bins among them that weigh nothing"),
            "NDETECT": (len(np.unique(data.binned.detector)), "detectors with bins in the fit"),
            "LOGPOST": (found.log_posterior, "log-posterior at the maximum"),
            "GRADNORM": (found.gradient_norm, "its whitened gradient (standard deviations)"),
            "STARTSEP": (found.second_start, "how far another start ended"),
            "NSTEPS": (found.n_steps, "steps of the optimiser"),
            "EXACTCUR": (approximation is not None and approximation.exact, "exact curvature (else Gauss-Newton)"),
            "SEED": (config.seed, "seed of all random numbers"),
            **{key: (importlib.metadata.version(name), f"version of {name}") for key, name in _VERSIONS.items()},
        },
    )


def _offsets(objective: Objective, found: MapResult, approximation: Laplace | None) -> Offsets | None:
    """Throughput of each detector and amplifier, relative to the product's model."""
    if found.throughput is None or approximation is None:
        return None
    camera, noise = objective.data.binned.camera, objective.noise
    # amplifiers are numbered by their own detector's columns; the array by the camera's most
    _, amp_nx = noise.amp_shape
    rows = []
    for d, number in enumerate(noise.detectors.tolist()):
        detector = camera[number]
        rows.append((number, -1, d, 0))
        for j in range(detector.amp_ny):
            rows += [(number, i + detector.amp_nx * j, d, 1 + i + amp_nx * j) for i in range(detector.amp_nx)]
    detector, amplifier, d, a = np.array(rows).T
    return Offsets(detector, amplifier, found.throughput[d, a], approximation.throughput_sd[d, a])


_VERSIONS = {"VBAYESFL": "bayesflat", "VPYMC": "pymc", "VPYTENS": "pytensor", "VNUMPY": "numpy"}
