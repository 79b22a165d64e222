"""NUTS from the maximum, with the curvature there as its mass matrix; the posterior in product units as a DataTree."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
from numpy.typing import NDArray
from pymc.step_methods.step_sizes import DualAverageAdaptation
from threadpoolctl import threadpool_limits

from bayesflat.inference.laplace import Laplace
from bayesflat.inference.linalg import covariance_root
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Projection
from bayesflat.inference.skew import Stretched, stretched
from bayesflat.processes import begin_worker

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger(__name__)

# Seen through its curvature, the posterior is nearly N(0, 1) in each direction, whose orbits take 2 pi.  Trees of three
# steps of 0.8 span a third of one: draws are nearly independent, and so are their squares.  Trees of seven steps come
# back to where they started: twice the evaluations, and half as many effective draws in the tails; so do longer steps
DEPTH, STEP, TARGET_ACCEPT = 2, 0.8, 0.5


def run_nuts(
    model: pm.Model,
    objective: Objective,
    found: MapResult,
    approximation: Laplace,
    *,
    draws: int,
    tune: int,
    chains: int,
    cores: int,
    seed: int,
    progress: bool,
    projection: Projection | None = None,
) -> xr.DataTree:
    """Sample the posterior.

    Parameters
    ----------
    model : pymc.Model
    objective : Objective
        The same in NumPy: it brings the draws to product units.
    found : MapResult
    approximation : Laplace
        Its covariance is the inverse mass matrix; chains start from draws with that covariance about the maximum.
    draws, tune, chains : int
        Draws of each chain that are kept, and that are spent on the step size before.
    cores : int
        Processes.
    seed : int
        Of everything random.
    progress : bool
        Whether to show bars.
    projection : Projection, optional
        Nodes that describe the curve; ``radial_spline_values`` of the draws are by it.

    Returns
    -------
    xarray.DataTree
        ``posterior`` (product units; ``throughput`` of the detectors with hierarchical noise), ``unconstrained`` (the
        model's own coordinates ``z``), ``log_likelihood`` by detector, ``log_prior``, ``sample_stats``.  With
        hierarchical noise the vendors' shared patterns are drawn too: given these, detectors are independent.

    Raises
    ------
    KeyboardInterrupt
        Sampling was interrupted; no draws are kept.
    """
    rng = np.random.default_rng(seed)
    root = covariance_root(approximation.covariance)
    starts = [found.value + root @ rng.normal(size=len(found.value)) for _ in range(chains)]
    began = time.perf_counter()
    with threadpool_limits(1, "blas"), model, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of samples is too small")
        step = pm.NUTS(scaling=approximation.covariance, is_cov=True, max_treedepth=DEPTH, early_max_treedepth=DEPTH)
        step.step_adapt = _AtMost(STEP, TARGET_ACCEPT, gamma=0.05, k=0.75, t0=10)  # PyMC's own, but for the bound
        log.info("compiled in %.1f s", time.perf_counter() - began)
        began = time.perf_counter()
        coordinates = stretched(objective, found, approximation)
        step.integrator._logp_dlogp_func = RememberedDensity(step.integrator._logp_dlogp_func, coordinates)
        trace = pm.sample(
            draws=draws,
            tune=tune,
            chains=chains,
            cores=min(cores, chains),
            blas_cores=None,
            random_seed=rng.integers(2**31, size=chains).tolist(),
            initvals=[_constrained(objective, point) for point in starts],
            step=step,
            progressbar=progress,
            quiet=not progress,
            compute_convergence_checks=False,
        )
    if trace["posterior"].sizes["draw"] != draws or trace["posterior"].sizes["chain"] != chains:
        raise KeyboardInterrupt
    log.info("sampled in %.1f s", time.perf_counter() - began)
    points = _unconstrained(objective, trace["posterior"])
    z = coordinates.to_model(points)
    began = time.perf_counter()
    tree = posterior_tree(objective, z, int(rng.integers(2**31)), cores, projection)
    log.info("draws brought to product units in %.1f s", time.perf_counter() - began)
    # all trees reach the greatest depth, and should: not something to be warned of
    stats = trace["sample_stats"].to_dataset().drop_vars("reached_max_treedepth")
    stats["lp"] = stats["lp"] - np.log(coordinates.slopes(points)[0]).sum(axis=-1)  # of the model's coordinates
    tree["sample_stats"] = stats
    return tree


class _AtMost(DualAverageAdaptation):
    """The step size with the target acceptance, but no longer than the initial one."""

    def current(self, tune: bool) -> float:
        """Of the next tree."""
        return min(self._initial_step, super().current(tune))

    def stats(self) -> dict[str, float]:
        """For ``sample_stats``."""
        return {name: min(self._initial_step, value) for name, value in super().stats().items()}


class RememberedDensity:
    """The log-density with its gradient at the points that trees move among; the latest ones are remembered.

    PyMC asks again where a tree starts, a quarter of all calls.

    Parameters
    ----------
    function : callable
        Of the model's own coordinates and of their layout, as PyMC's integrator calls it.
    coordinates : Stretched
        The points that the trees move among.
    """

    def __init__(self, function: Callable, coordinates: Stretched) -> None:
        self.function, self.coordinates = function, coordinates
        self.known: dict[bytes, tuple] = {}

    def __call__(self, point: NDArray, layout) -> tuple:
        """From memory, where the point is one of the last tree or the start of it."""
        key = point.tobytes()
        with np.errstate(all="ignore"):  # a sampler in tuning tries extreme scales
            found = self.known.pop(key, None) or self._at(point, layout)
        self.known[key] = found  # the latest last
        if len(self.known) > 2 ** (DEPTH + 1):
            del self.known[next(iter(self.known))]
        return found

    def _at(self, point: NDArray, layout) -> tuple:
        """The density is that of the points: it has the derivatives of the coordinates in it."""
        value, gradient = self.function(self.coordinates.to_model(point), layout)
        slope, bend = self.coordinates.slopes(point)
        gradient = np.array(gradient)
        gradient[self.coordinates.here] = gradient[self.coordinates.here] * slope + bend
        return value + np.log(slope).sum(), gradient


def _constrained(objective: Objective, z: NDArray) -> dict[str, NDArray]:
    """A point in the form of PyMC's ``initvals``: by variable, in product units."""
    return {p.variable: p.from_value(z[objective.slices[p.name]]) for p in objective.parameters}


def _unconstrained(objective: Objective, posterior) -> NDArray[np.float64]:
    """The model's own coordinates of all draws: shape (chains, draws, n)."""
    parts = []
    for p in objective.parameters:
        values = posterior[p.variable].values
        flat = values.reshape(-1, *p.mu.shape)
        parts.append(np.array([p.to_value(v) for v in flat]).reshape(*values.shape[:2], p.size))
    return np.concatenate(parts, axis=2)


def posterior_tree(
    objective: Objective, z: NDArray, seed: int, cores: int = 1, projection: Projection | None = None
) -> xr.DataTree:
    """A DataTree of draws in the model's own coordinates, of shape (chains, draws, n); see `run_nuts`."""
    import arviz as az

    chains, draws, n = z.shape
    flat = z.reshape(-1, n)
    seeds = np.random.SeedSequence(seed).spawn(len(flat))
    parts = np.array_split(np.arange(len(flat)), max(1, cores))
    if cores > 1:
        global _OBJECTIVE
        _OBJECTIVE = objective  # inherited by the forked processes: too large to send
        try:
            with ProcessPoolExecutor(cores, mp_context=get_context("fork"), initializer=begin_worker) as pool:
                tasks = [pool.submit(_follow_draws, flat[i], [seeds[k] for k in i]) for i in parts]
                rows = [row for task in tasks for row in task.result()]
        finally:
            _OBJECTIVE = None
    else:
        rows = [_follow(objective, point, s) for point, s in zip(flat, seeds, strict=True)]
    shaped = {
        group: {
            name: np.array([row[group][name] for row in rows]).reshape(chains, draws, *np.shape(first))
            for name, first in rows[0][group].items()
        }
        for group in rows[0]
    }
    detectors = np.unique(objective.data.binned.detector)
    radial, nodes = objective.data.radial, objective.data.nodes
    if radial is not None and projection is not None:
        draws_of_nodes = projection.of_draws(radial.spline, shaped["posterior"]["log_radial"])
        shaped["posterior"] = {"radial_spline_values": draws_of_nodes} | shaped["posterior"]
        nodes = projection.nodes
    coords = {"node": nodes, "axis": ["x", "y"], "detector": detectors}
    coords["knot"] = [] if radial is None else radial.spline.places
    coords |= {"noise_scale": []} | objective.noise.coords() | objective.coords()
    dims = {
        "log_radial": ["knot"],
        "radial_spline_values": ["node"],
        "centroid_delta": ["axis"],
        "gradient": ["axis"],
        "outer_gradient": ["axis"],
        "log_noise_scales": ["noise_scale"],
        "throughput": ["detector"],
        "shared_pattern": ["vendor", "effect"],
        "value": ["detector"],
        "z": ["coordinate"],
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")
        tree = az.from_dict({"log_prior": shaped.pop("log_prior")})  # a number for each parameter, whatever its dims
        tree.update(az.from_dict(shaped | {"unconstrained": {"z": z}}, coords=coords, dims=dims).children)
    return tree


_OBJECTIVE: Objective | None = None


def _follow_draws(points: NDArray, seeds: list) -> list[dict]:
    """`_follow` of some draws, in a forked process."""
    objective = _OBJECTIVE
    if objective is None:
        raise RuntimeError("the process was not forked while draws were followed")
    with threadpool_limits(1, "blas"):
        return [_follow(objective, z, seed) for z, seed in zip(points, seeds, strict=True)]


def _follow(objective: Objective, z: NDArray, seed) -> dict[str, dict[str, NDArray]]:
    """What follows from a draw: product, log-likelihood of each detector, log-priors."""
    prior = {}
    for p in objective.parameters:
        if np.all(np.isfinite(p.sigma)):
            prior[p.name] = p.log_prior(p.from_value(z[objective.slices[p.name]]))
    # the pattern's own prior is a level of the likelihood: prior sensitivity is that of the parameters' priors
    drawn = objective.draw(z, np.random.default_rng(seed))
    shared = {} if drawn.shared is None else {"shared_pattern": drawn.shared}
    return {
        "posterior": drawn.product | shared,
        "log_likelihood": {"value": drawn.log_likelihood},
        "log_prior": prior,
    }


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
