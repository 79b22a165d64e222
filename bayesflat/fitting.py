"""Fit a binned focal plane: from the bins to the product."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesflat.binned import BinnedFlat
from bayesflat.config import FitConfig
from bayesflat.gradient import SCALARS, STATISTICS, Estimates, FlatGradient
from bayesflat.gradient_files import FIXED_METADATA
from bayesflat.inference.map import MapResult, find_map, spoilt_bins
from bayesflat.model.build import build_model
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
    model : pymc.Model
        The model itself, for all that PyMC can do with it.
    map : MapResult
        The maximum of the posterior, and how it was judged.
    gradient : FlatGradient
        The product.
    """

    data: FitData
    config: FitConfig
    model: pm.Model
    map: MapResult
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
    _warn(data, config)
    log.info(
        "fitting %d bins of %d detectors, %s noise (%s)",
        len(data),
        len(np.unique(data.binned.detector)),
        config.noise,
        config.likelihood,
    )
    if config.noise == "hierarchical":
        spoilt = spoilt_bins(data, config)
        log.info("%d bins are spoilt by dust or defects and weigh nothing", spoilt.sum())
        data = replace(data, weight=(~spoilt).astype(float))
    model = build_model(data, config)
    found = find_map(model, data, config)
    labels = model.coords.get("noise_scale", ())
    log.log(logging.INFO if found.converged else logging.WARNING, "%s", found.message)
    return FitResult(data, config, model, found, _gradient(data, config, found, labels, inputs))


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
    data: FitData, config: FitConfig, found: MapResult, labels: Sequence[str], inputs: Sequence[dict[str, Any]]
) -> FlatGradient:
    """The product of a fit."""
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
        estimates=_estimates(data, config, found, scalars, labels),
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


def _estimates(
    data: FitData, config: FitConfig, found: MapResult, scalars: dict[str, float], labels: Sequence[str]
) -> Estimates:
    """A row for every parameter: the MAP, and nothing of its uncertainty yet; what is held fixed has an sd of 0."""
    values = found.parameters["radial_spline_values"]
    rows = {f"radial_spline_values[{i}]": float(value) for i, value in enumerate(values)}
    rows |= {name: scalars[name] for name in SCALARS}
    noise = {name: value for name, value in found.parameters.items() if name.startswith("log_noise_scale")}
    rows |= {label: value for name in noise for label, value in _labelled(name, noise[name], labels)}
    fitted = {name.removesuffix("_x").removesuffix("_y") for name in rows}
    fitted = fitted & set(found.parameters) | {name for name in rows if name.startswith(("radial", "log_noise_scale"))}
    if config.do_constrain_zero:
        fitted.discard(f"radial_spline_values[{len(values) - 1}]")
    known = np.array([name.removesuffix("_x").removesuffix("_y") not in fitted for name in rows])
    point = np.array(list(rows.values()))
    columns = {key: np.full(len(rows), np.nan) for key in STATISTICS} | {"map": point}
    columns["sd"] = np.where(known, 0.0, np.nan)
    for key in ("mean", "q05", "q50", "q95"):
        columns[key] = np.where(known, point, np.nan)
    covariance = np.where(known[:, None] | known[None, :], 0.0, np.nan)
    return Estimates(
        names=tuple(rows),
        units=tuple(_UNITS.get(name, "") for name in rows),
        columns=columns,
        covariance=covariance,
        method="map",
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
            "SEED": (config.seed, "seed of all random numbers"),
            **{key: (importlib.metadata.version(name), f"version of {name}") for key, name in _VERSIONS.items()},
        },
    )


def _labelled(name: str, value: np.ndarray, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Rows of a noise parameter: its name, or one with each of its labels."""
    if np.ndim(value) == 0:
        return [(name, float(value))]
    return [(f"{name}[{label}]", float(v)) for label, v in zip(labels, value, strict=True)]


_VERSIONS = {"VBAYESFL": "bayesflat", "VPYMC": "pymc", "VPYTENS": "pytensor", "VNUMPY": "numpy"}
