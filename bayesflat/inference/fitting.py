"""Fit a binned focal plane: from the bins to the product."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.gradient.correlations import strongest_correlations
from bayesflat.gradient.product import FlatGradient
from bayesflat.gradient.spline import akima_basis
from bayesflat.inference.choice import scaled_choice
from bayesflat.inference.diagnostics import Diagnostics, compare_with_laplace
from bayesflat.inference.estimates import make_gradient, with_draws
from bayesflat.inference.laplace import Laplace, laplace
from bayesflat.inference.map import MapResult, find_map, make_objective
from bayesflat.inference.nodes import on_nodes, with_nodes, without_a_node
from bayesflat.inference.objective import Objective
from bayesflat.inference.rough import Rough, rough_fit
from bayesflat.model import build
from bayesflat.model.prepare import FitData, prepare
from bayesflat.quantities import COMPARED, REFERENCE_RADIUS

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

log = logging.getLogger(__name__)

_FEWEST_AT_NODE = 10
_FEWEST_IN_DETECTOR = 4  # bins, in the typical one
_MOST_NODES_LEFT_OUT = 5  # of automatic ones, where a fit ends on a kink


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
    rough : Rough or None
        Where the search began.
    posterior : xarray.DataTree or None
        The draws of `sample`.
    diagnostics : Diagnostics or None
        Diagnostics of the draws.
    """

    data: FitData
    config: FitConfig
    model: pm.Model
    objective: Objective
    map: MapResult
    laplace: Laplace | None
    gradient: FlatGradient
    rough: Rough | None = None
    posterior: xr.DataTree | None = None
    diagnostics: Diagnostics | None = None

    @property
    def converged(self) -> bool:
        """Whether the maximum was found, and the draws passed their diagnostics where there are any."""
        return self.map.converged and (self.diagnostics is None or self.diagnostics.passed)

    @property
    def message(self) -> str:
        """What the maximum was judged by."""
        return self.map.message

    @property
    def verdict(self) -> str:
        """What convergence was judged by, and what to try where it failed."""
        return "; ".join([self.map.message, *(self.diagnostics.failures if self.diagnostics else ())])


def build_model(binned: BinnedFlat | FitData, config: FitConfig) -> pm.Model:
    """The model of a binned focal plane, for all that PyMC can do with it.

    Parameters
    ----------
    binned : BinnedFlat or FitData
        A focal plane, or one that is normalized and cut already (``result.data``).
    config : FitConfig
        With ``radial_spline_nodes = "auto"`` the nodes are placed first.

    Returns
    -------
    pymc.Model
        Variables in product units: ``radial_spline_values`` (dims ``node``), ``itl_ratio``, ``centroid_delta`` (mm),
        ``gradient`` and ``outer_gradient`` (1/mm; dims ``axis``), and the noise model's own.  Terms that are off are
        absent.  With ``do_constrain_zero`` the values at the free nodes are the variable ``radial_spline_free``.

    Raises
    ------
    InputError
        As `fit`; or a prior with the wrong number of components.
    """
    data = prepare(binned, config) if isinstance(binned, BinnedFlat) else binned
    if config.radial_spline_nodes == "auto":
        data, config, _ = with_nodes(data, config)
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
        No good bin at the centre, no bin left after the cuts, bins as large as the detectors, or a prior of the wrong
        size.
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
    automatic = config.radial_spline_nodes == "auto"
    if not (config.noise == "hierarchical" or automatic or config.radial_spline_nodes_placed):
        _warn(data, config)
        return fit_data(data, config, inputs=inputs)
    _check_bins_per_detector(data)
    rough = rough_fit(data, config)
    beyond = int(np.sum(~rough.inside))
    if beyond:
        log.info("%d of %d bins left out: beyond the full rings about the centroid", beyond, len(data))
    data = data.select(rough.inside)
    data = replace(data, dropped=data.dropped | {"beyond the full rings about the centroid": beyond})
    if automatic:
        data, config, rough = with_nodes(data, config, rough)
    else:
        rough = on_nodes(rough, data.nodes, config)
    _warn(data, config)
    if config.noise == "hierarchical":
        log.info("%d bins are outliers (dust, defects) and weigh nothing", rough.outlier.sum())
        data = replace(data, weight=(~rough.outlier).astype(float), smooth=rough.smooth)
    search = _Search.of(data, config, rough)
    for _ in range(_MOST_NODES_LEFT_OUT if automatic else 0):
        if search.found.converged:
            break
        fewer = without_a_node(data, config, rough, *search.radial_at_the_end())
        if fewer is None:
            break
        data, config, rough = fewer
        search = _Search.of(data, config, rough)
    return _finish(search, rough, inputs)


@dataclass(frozen=True)
class _Search:
    """Where the search for the maximum ended."""

    model: pm.Model
    objective: Objective
    found: MapResult

    @classmethod
    def of(cls, data: FitData, config: FitConfig, rough: Rough | None) -> _Search:
        noise = build.noise_model(data, config)
        model = build.build_model(data, config, noise)
        objective = make_objective(data, config, noise)
        return cls(model, objective, find_map(model, objective, rough))

    def radial_at_the_end(self) -> tuple[NDArray, NDArray]:
        """Values at the nodes, and the covariance of the free ones, both in the model's level."""
        objective, z = self.objective, self.found.value
        radial = next(p for p in objective.parameters if p.name == "radial_spline_values")
        here = objective.slices[radial.name]
        jacobian = radial.transform.jacobian(z[here])
        covariance = jacobian @ np.linalg.pinv(self.found.curvature)[here, here] @ jacobian.T
        return objective.to_parameters(z)[radial.name], covariance


def fit_data(
    data: FitData, config: FitConfig, rough: Rough | None = None, *, inputs: Sequence[dict[str, Any]] = ()
) -> FitResult:
    """Fit bins that are normalized, cut and weighed already, as `fit` leaves them in its result.

    Parameters
    ----------
    data : FitData
    config : FitConfig
        With its nodes in place.
    rough : Rough, optional
        Where to begin, and what the choice of the nodes adds to the errors.
    inputs : sequence of dict, optional
        What the product records of where the bins come from.
    """
    return _finish(_Search.of(data, config, rough), rough, inputs)


def _finish(search: _Search, rough: Rough | None, inputs: Sequence[dict[str, Any]]) -> FitResult:
    """What follows from a maximum: uncertainties and the product."""
    objective, found = search.objective, search.found
    config = objective.config
    log.log(logging.INFO if found.converged else logging.WARNING, "%s", found.message)
    choice = None if rough is None else rough.choice
    approximation = None if config.likelihood == "laplace" else laplace(objective, found, choice)
    gradient = make_gradient(objective, found, approximation, inputs)
    if "CORRMAX" in gradient.require_estimates().header:
        pairs = [f"{one} and {other} ({value:+.2f})" for one, other, value in strongest_correlations(gradient)]
        log.info("hardest to tell apart, by their correlation: %s", ", ".join(pairs))
    return FitResult(objective.data, config, search.model, objective, found, approximation, gradient, rough)


def sample(
    result: FitResult,
    *,
    draws: int | None = None,
    tune: int | None = None,
    chains: int | None = None,
    cores: int | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> FitResult:
    """Sample the posterior of a fit with NUTS.

    Parameters
    ----------
    result : FitResult
        A converged fit: chains start about its maximum and are scaled by the curvature there.
    draws, tune, chains : int, optional
        Draws kept of each chain, draws spent on the step size before, and chains; by default the config's.
    cores : int, optional
        Processes; by default as many as there are cores, at most one a chain.
    seed : int, optional
        By default the config's.
    progress : bool
        Whether to show bars.

    Returns
    -------
    FitResult
        With ``posterior`` and ``diagnostics``; the product's statistics come from the draws, its MAP stays.  Look at
        ``converged`` before using it.

    Raises
    ------
    InputError
        ``likelihood = "laplace"``, whose posterior has kinks that NUTS cannot follow.
    KeyboardInterrupt
        Sampling was interrupted; nothing is kept.
    """
    from bayesflat.inference.nuts import cores_here, run_nuts

    if result.laplace is None:
        raise InputError("NUTS needs likelihood normal or student_t: laplace has kinks where gradients jump")
    given = {"draws": draws, "tune": tune, "chains": chains, "seed": seed}
    config = type(result.config)(
        **{**result.config.model_dump(), **{key: value for key, value in given.items() if value is not None}}
    )
    log.info("sampling %d chains of %d draws after %d of tuning", config.chains, config.draws, config.tune)
    posterior = run_nuts(
        result.model, result.objective, result.map, result.laplace, draws=config.draws, tune=config.tune,
        chains=config.chains, cores=cores or cores_here(), seed=config.seed, progress=progress,
    )  # fmt: skip
    choice = None if result.rough is None else result.rough.choice
    gradient, found = with_draws(result.gradient, result.objective, posterior, config.seed, choice)
    for text in found.failures:
        log.warning("%s", text)
    for text in _compared(result.gradient, gradient, posterior, choice):
        log.warning("%s", text)
    gradient = replace(gradient, config={**gradient.config, **config.model_dump(mode="json")})
    return replace(result, config=config, gradient=gradient, posterior=posterior, diagnostics=found)


def _compared(before: FlatGradient, after: FlatGradient, posterior: xr.DataTree, choice: NDArray | None) -> list[str]:
    """Laplace against NUTS for ratio, centroid, plane and the radial function far out, all at given nodes."""
    names = list(COMPARED)
    estimates = before.require_estimates()
    rows = [estimates.names.index(name) for name in names]
    old, new = estimates.columns, after.require_estimates().columns
    best, sd0, q50, sd1 = old["map"][rows], old["sd"][rows], new["q50"][rows], new["sd"][rows]
    outer = before.radial_spline_nodes[-2]
    radius = REFERENCE_RADIUS if outer > REFERENCE_RADIUS else 0.85 * outer
    basis = akima_basis(before.radial_spline_nodes, before.radial_spline_values, np.array([radius]))[0]
    radial = np.sum(posterior["posterior"]["radial_spline_values"].values * basis, axis=-1)
    added = 0.0 * basis if choice is None else scaled_choice(choice, before.radial_spline_values)
    return compare_with_laplace(
        [*names, f"radial function at {radius:g} mm"],
        np.append(best, basis @ before.radial_spline_values),
        np.append(sd0, np.sqrt(before.compute_radial_sd(radius) ** 2 - basis**2 @ added)),
        np.append(q50, np.median(radial)),
        np.append(sd1, radial.std()),
    )


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
