"""Fit a binned focal plane: from the bins to the product."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bayesflat.config import FitConfig, checked
from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.gradient.correlations import strongest_correlations
from bayesflat.gradient.product import FlatGradient
from bayesflat.gradient.spline import akima_basis
from bayesflat.inference.diagnostics import compare_with_laplace
from bayesflat.inference.estimates import make_gradient, with_draws
from bayesflat.inference.laplace import Laplace, laplace, loosely_known
from bayesflat.inference.map import MapResult, find_map, make_objective
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Curve, Projection, project
from bayesflat.inference.ready import make_ready
from bayesflat.inference.result import FitResult
from bayesflat.inference.rough import Rough
from bayesflat.inference.verdict import MISSED, judge_fit
from bayesflat.model import build
from bayesflat.model.prepare import FitData, prepare
from bayesflat.quantities import COMPARED, reference_radius
from bayesflat.stages import shown, stage

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr


log = logging.getLogger(__name__)


def build_model(binned: BinnedFlat | FitData, config: FitConfig) -> pm.Model:
    """The model of a binned focal plane, for all that PyMC can do with it.

    Parameters
    ----------
    binned : BinnedFlat or FitData
        A focal plane, or one that is normalized and cut already (``result.data``).
    config : FitConfig

    Returns
    -------
    pymc.Model
        As `bayesflat.model.build.build_model` describes it.

    Raises
    ------
    InputError
        As `fit`; or a prior with the wrong number of components.
    """
    config = checked(config)
    data = prepare(binned, config) if isinstance(binned, BinnedFlat) else binned
    data, config, _ = make_ready(data, config)
    return build.build_model(data, config)


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
        No good bin at the centre, no bin left after the cuts, bins as large as the detectors, a prior of the wrong
        size, or a configuration with fields that were put in unchecked and are wrong.
    """
    config = checked(config)
    data = prepare(binned, config)
    log.info(
        "fitting %d bins of %d detectors, %s noise (%s)",
        len(data),
        len(np.unique(data.binned.detector)),
        config.noise,
        config.likelihood,
    )
    _warn(config)
    data, config, rough = make_ready(data, config)
    return fit_data(data, config, rough, inputs=inputs)


def fit_data(
    data: FitData, config: FitConfig, rough: Rough | None = None, *, inputs: Sequence[dict[str, Any]] = ()
) -> FitResult:
    """Fit bins that are normalized, cut and weighed already, as `fit` leaves them in its result.

    Parameters
    ----------
    data : FitData
        With knots and smoothness of the radial function, or with nodes (independent noise).
    config : FitConfig
    rough : Rough, optional
        Where to begin.
    inputs : sequence of dict, optional
        What the product records of where the bins come from.
    """
    noise = build.noise_model(data, config)
    stage("maximum")
    model = build.build_model(data, config, noise)
    objective = make_objective(data, config, noise)
    found = find_map(model, objective, rough)
    log.log(logging.INFO if found.converged else logging.WARNING, "%s", found.message)
    stage("errors")
    approximation = None if config.likelihood == "laplace" else laplace(objective, found)
    if approximation is not None and (loose := loosely_known(objective, approximation)):
        log.info(
            "few detectors tell of their scatter (%s), and Laplace's errors may be off: sample the posterior "
            "(--sample), or see bf.laplace_draws",
            ", ".join(f"{label} to a factor of {factor:.1f}" for label, factor in loose.items()),
        )
    stage("nodes")
    projection = _projected(objective, found, approximation)
    if projection is not None:
        config = config.replace(radial_spline_nodes=projection.nodes.tolist())
    stage("score tests")
    gradient = make_gradient(objective, config, found, approximation, projection, inputs)
    if "CORRMAX" in gradient.require_estimates().header:
        pairs = [f"{one} and {other} ({value:+.2f})" for one, other, value in strongest_correlations(gradient)]
        log.info("hardest to tell apart, by their correlation: %s", ", ".join(pairs))
    gradient = _judged(gradient, data, projection, () if found.converged else (found.message,), config.tolerance_mmag)
    return FitResult(data, config, objective, found, approximation, gradient, projection, rough)


def _judged(
    gradient: FlatGradient,
    data: FitData,
    projection: Projection | None,
    failures: Sequence[str],
    tolerance_mmag: float,
) -> FlatGradient:
    """The product with its verdict in the header and the reasons in its config; both are logged."""
    found, other = judge_fit(data, gradient, projection, tuple(failures), tolerance_mmag), gradient.azimuth
    if other is not None:
        log.info(
            "neither radial nor planar: chi-squared %.1f of %d terms (p = %.2g)", other.chi2, other.dof, other.p_value
        )
    for reason in found.reasons if not failures else ():  # what failed is said already
        log.log(logging.INFO if reason.startswith(MISSED) else logging.WARNING, "%s", reason)
    log.info("verdict: %s", found.word)
    estimates = gradient.require_estimates()
    header = estimates.header | {"VERDICT": (found.word, "good, look (reasons in CONFIG) or unusable")}
    config = {**gradient.config, "verdict_reasons": list(found.reasons)}
    return replace(gradient, estimates=replace(estimates, header=header), config=config)


def _projected(objective: Objective, found: MapResult, approximation: Laplace | None) -> Projection | None:
    """Nodes that describe the fitted curve; None where the values at nodes were fitted themselves."""
    data = objective.data
    if data.radial is None:
        return None
    cx, cy = found.parameters.get("centroid_delta", (0.0, 0.0))
    radius = np.hypot(data.dx - cx, data.dy - cy)
    covariance = None
    if approximation is not None:
        rows = [i for i, (name, _) in enumerate(approximation.names) if name == "log_radial"]
        covariance = approximation.product[np.ix_(rows, rows)]
    curve = Curve.of_bins(data.radial.spline, found.parameters["log_radial"], radius, data.weight, covariance)
    return project(curve, objective.config)


def sample(
    result: FitResult,
    *,
    draws: int | None = None,
    tune: int | None = None,
    chains: int | None = None,
    cores: int | None = None,
    seed: int | None = None,
    progress: bool = False,
    sampler: Literal["pymc", "nutpie"] = "pymc",
) -> FitResult:
    """Sample the posterior of a fit with NUTS.

    Parameters
    ----------
    result : FitResult
        A converged fit: chains start about its maximum and are scaled by the curvature there.
    draws, tune, chains : int, optional
        Draws kept of each chain at most, draws spent on the step size before, and chains; by default the config's.
        nutpie keeps as many as are asked for, by default 500 after 500.
    cores : int, optional
        Processes; by default as many as there are cores, at most one a chain.
    seed : int, optional
        By default the config's.
    progress : bool
        Whether to show how far it is.
    sampler : {"pymc", "nutpie"}
        PyMC's steps, in rounds until the draws suffice, or nutpie with its defaults.

    Returns
    -------
    FitResult
        With ``posterior`` and ``diagnostics``; the product's statistics come from the draws, its MAP stays.  Look at
        ``converged`` before using it.

    Raises
    ------
    InputError
        ``likelihood = "laplace"``, whose posterior has kinks that NUTS cannot follow; an unknown sampler, or one
        that is not installed.
    KeyboardInterrupt
        Sampling was interrupted; nothing is kept.
    """
    from bayesflat.inference.draws import cores_here
    from bayesflat.inference.groups import add_groups
    from bayesflat.inference.nutpie import require_nutpie, run_nutpie
    from bayesflat.inference.nuts import run_nuts

    if sampler not in ("pymc", "nutpie"):
        raise InputError(f"sampler {sampler!r} is not known: pymc or nutpie")
    if result.laplace is None:
        raise InputError("NUTS needs likelihood normal or student_t: laplace has kinks where gradients jump")
    given: dict[str, Any] = {"draws": draws, "tune": tune, "chains": chains, "seed": seed}
    given = {key: value for key, value in given.items() if value is not None}
    if sampler == "nutpie":
        require_nutpie()
        given = {"draws": 500, "tune": 500} | given
    config = checked(result.config).replace(**given)
    log.info("sampling %d chains of %d draws after %d of tuning", config.chains, config.draws, config.tune)
    stage("preparing to sample")
    coordinates = result.coordinates
    assert coordinates is not None
    model = build.build_model(result.data, result.config, result.objective.noise, coordinates.transforms)
    options: dict[str, Any] = {name: getattr(config, name) for name in ("draws", "tune", "chains", "seed")}
    options |= {"cores": cores or cores_here(), "projection": result.projection}
    began = time.perf_counter()
    if sampler == "nutpie":
        posterior = run_nutpie(model, result.objective, progress=progress, **options)
    else:
        with shown() if progress else nullcontext():
            posterior = run_nuts(model, result.objective, coordinates, **options)
    add_groups(
        posterior, result.objective, result.map.value, config.seed, library=sampler,
        seconds=time.perf_counter() - began, tuning_steps=config.tune,
    )  # fmt: skip
    gradient, found = with_draws(result.gradient, result.objective, posterior, config.seed)
    for text in found.failures:
        log.warning("%s", text)
    for text in _compared(result.gradient, gradient, posterior):
        log.warning("%s", text)
    gradient = replace(gradient, config={**gradient.config, **config.model_dump(mode="json")})
    failures = () if result.map.converged else (result.map.message,)
    failures = (*failures, *found.failures)
    gradient = _judged(gradient, result.data, result.projection, failures, result.config.tolerance_mmag)
    return replace(result, config=config, gradient=gradient, posterior=posterior, diagnostics=found)


def _compared(before: FlatGradient, after: FlatGradient, posterior: xr.DataTree) -> list[str]:
    """Laplace against NUTS for ratio, centroid, plane and the radial function far out."""
    names = list(COMPARED)
    estimates = before.require_estimates()
    rows = [estimates.names.index(name) for name in names]
    old, new = estimates.columns, after.require_estimates().columns
    best, sd0, q50, sd1 = old["map"][rows], old["sd"][rows], new["q50"][rows], new["sd"][rows]
    radius = reference_radius(before.reach)
    basis = akima_basis(before.radial_spline_nodes, before.radial_spline_values, np.array([radius]))[0]
    radial = np.sum(posterior["posterior"].to_dataset()["radial_spline_values"].values * basis, axis=-1)
    return compare_with_laplace(
        [*names, f"radial function at {radius:g} mm"],
        np.append(best, basis @ before.radial_spline_values),
        np.append(sd0, before.compute_radial_sd(radius)),
        np.append(q50, np.median(radial)),
        np.append(sd1, radial.std()),
    )


def _warn(config: FitConfig) -> None:
    """Warn of settings that do not do what their names promise."""
    if "fit_eps" in config.model_fields_set and config.fit_eps != FitConfig.model_fields["fit_eps"].default:
        log.warning("fit_eps has no use: gradients are exact, not finite differences")
    if config.radial_spline_nodes_initial is not None and config.noise == "hierarchical":
        log.warning("radial_spline_nodes_initial has no use with noise = hierarchical: no values at nodes are fitted")
    if config.do_fit_outer_gradient:
        log.warning("LSST's present class ignores the outer gradient; only that of August 2025 evaluates it")
