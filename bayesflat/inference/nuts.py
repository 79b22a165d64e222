"""NUTS from the maximum, with the curvature there as its mass matrix, in rounds until the draws suffice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
from numpy.typing import NDArray
from pymc.step_methods.step_sizes import DualAverageAdaptation
from threadpoolctl import threadpool_limits

from bayesflat.inference.chains import Chains, as_arrays, forked
from bayesflat.inference.coordinates import Coordinates
from bayesflat.inference.diagnostics import diagnose
from bayesflat.inference.draws import followed, make_tree, sample_stats
from bayesflat.inference.integrator import NearlyNormal
from bayesflat.inference.linalg import covariance_root
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Projection
from bayesflat.stages import stage

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger(__name__)

# In the fit's coordinates the posterior is nearly N(0, 1) in each direction, whose orbits take 2 pi.  After a quarter
# of one a draw knows nothing of the last, and after somewhat more its mean tells more than that of independent ones: a
# tree is one step of that length.  Where scales are loosely known, the posterior may be far narrower than its curvature
# says; then so many steps of half that length, and of half of that, go about as far: greatest depth of a tree, and
# length of a step
LEVELS, TARGET_ACCEPT = ((1, 1.8), (2, 0.8), (3, 0.4)), 0.5
_FIRST_ROUND, _ROUND = 200, 100  # draws of each chain
_REMEMBERED = 2 ** (LEVELS[-1][0] + 2)  # points of the deepest tree, two a step


def run_nuts(
    model: pm.Model,
    objective: Objective,
    coordinates: Coordinates,
    *,
    draws: int,
    tune: int,
    chains: int,
    cores: int,
    seed: int,
    projection: Projection | None = None,
) -> xr.DataTree:
    """Sample the posterior, in rounds until the draws pass the gates of `diagnose`.

    Parameters
    ----------
    model : pymc.Model
        In these coordinates.
    objective : Objective
        The same in NumPy: it brings the draws to product units.
    coordinates : Coordinates
        Their covariance is the inverse mass matrix; chains start from draws with that covariance about the maximum.
    draws, tune, chains : int
        Draws of each chain that are kept at most, and that are spent on the step size before.
    cores : int
        Processes.
    seed : int
        Of everything random.
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
    InputError
        A process was killed.
    """
    rng = np.random.default_rng(seed)
    root = covariance_root(coordinates.covariance)
    starts = [coordinates.as_point(root @ rng.normal(size=len(root))) for _ in range(chains)]
    began = time.perf_counter()
    with threadpool_limits(1, "blas"):
        function = model.logp_dlogp_function(ravel_inputs=True)
        function.trust_input = True
        log.info("compiled in %.1f s", time.perf_counter() - began)
        began = time.perf_counter()
        for depth, length in LEVELS:
            with model:
                step = pm.NUTS(
                    scaling=coordinates.covariance, is_cov=True, max_treedepth=depth, early_max_treedepth=depth,
                    logp_dlogp_func=function,
                )  # fmt: skip
            step.step_adapt = _AtMost(length, TARGET_ACCEPT, gamma=0.05, k=0.75, t0=10)  # PyMC's own, but for the bound
            step.integrator = NearlyNormal(step.potential, coordinates.covariance, function)
            step.integrator._logp_dlogp_func = RememberedDensity(step.integrator._logp_dlogp_func)
            run = Chains(step, starts, rng.integers(2**31, size=chains).tolist(), tune)
            seeds = np.random.SeedSequence(int(rng.integers(2**31)))
            with forked(min(cores, chains), step=step, objective=objective) as pool:
                tree = _in_rounds(
                    run, objective, coordinates, projection, draws, seeds, pool, (depth, length) == LEVELS[-1]
                )
            if tree is not None:
                log.info("sampled in %.1f s", time.perf_counter() - began)
                return tree
            log.info("divergent transitions: begun anew with steps half as long")
    raise AssertionError("the last time draws are kept")


def _in_rounds(
    run: Chains,
    objective: Objective,
    coordinates: Coordinates,
    projection: Projection | None,
    draws: int,
    seeds: np.random.SeedSequence,
    pool: Executor | None,
    last: bool,
) -> xr.DataTree | None:
    """Draws until they suffice, or ``draws`` of each chain; None as soon as one diverges, if not the ``last`` time."""
    rows: list[list[dict]] = [[] for _ in run.chains]
    parts: list[NDArray] = []
    stats: list[dict[str, NDArray]] = []
    n_draws, at = 0, stage("sampling")
    while True:
        n = min(_ROUND if parts else _FIRST_ROUND, draws - n_draws)
        found = run.advance(n, pool, at.advance, strict=not last)
        if found is None:
            return None
        drawn, of_steps = found
        parts.append(coordinates.to_model(as_arrays(drawn, coordinates.names)))
        stats.append(of_steps)
        for of_chain, z in zip(rows, parts[-1], strict=True):
            of_chain += followed(objective, z, seeds.spawn(len(z)), pool)
        n_draws += n
        tree = make_tree(objective, np.concatenate(parts, axis=1), rows, projection)
        tree["sample_stats"] = sample_stats(stats)
        judged = diagnose(tree, objective)
        least = min(judged.ess_bulk, judged.ess_tail)
        at.say(f"round {len(parts)}, {n_draws} draws of each chain, R-hat {judged.r_hat:.3f}, ESS {least:.0f}")
        if judged.enough or n_draws == draws:
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
    """The log-density with its gradient, of the latest points from memory.

    PyMC asks again where a tree starts, a quarter of all calls.

    Parameters
    ----------
    function : callable
        Of a point and its layout, as PyMC's integrator calls it.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.known: dict[bytes, tuple] = {}

    def __call__(self, point: NDArray, layout) -> tuple:
        """From memory, where the point is one of the last tree or the start of it."""
        key = point.tobytes()
        found = self.known.pop(key, None)
        if found is None:
            with np.errstate(all="ignore"):  # a sampler in tuning tries extreme scales
                value, gradient = self.function(point, layout)
            found = value, np.array(gradient)
        self.known[key] = found  # the latest last
        if len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]
        return found
