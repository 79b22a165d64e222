"""From draws of the model's own coordinates to the posterior in product units, as a DataTree."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bayesflat.inference.chains import forked, in_blocks, known
from bayesflat.inference.groups import DIMS
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Projection

if TYPE_CHECKING:
    import xarray as xr

# ArviZ's names of what PyMC's and nutpie's steps tell
_STATS = {
    "model_logp": "lp", "logp": "lp", "mean_tree_accept": "acceptance_rate", "depth": "tree_depth",
    "tree_size": "n_steps",
}  # fmt: skip


def posterior_tree(
    objective: Objective, z: NDArray, seed: int, cores: int = 1, projection: Projection | None = None
) -> xr.DataTree:
    """A DataTree of draws in the model's own coordinates, of shape (chains, draws, n), without ``sample_stats``.

    See `run_nuts`.
    """
    seeds = np.random.SeedSequence(seed)
    with forked(cores, objective=objective) as pool:
        rows = [followed(objective, of_chain, seeds.spawn(len(of_chain)), pool) for of_chain in z]
    return make_tree(objective, z, rows, projection)


def make_tree(objective: Objective, z: NDArray, rows: list[list[dict]], projection: Projection | None) -> xr.DataTree:
    """Draws of the coordinates, and what `_follow` makes of each, by chain."""
    import arviz as az

    shaped = {
        group: {name: np.array([[row[group][name] for row in of_chain] for of_chain in rows]) for name in members}
        for group, members in rows[0][0].items()
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")
        tree = az.from_dict({"log_prior": shaped.pop("log_prior")})  # a number for each parameter, whatever its dims
        tree.update(az.from_dict(shaped | {"unconstrained": {"z": z}}, coords=coords, dims=DIMS).children)
    return tree


def sample_stats(rounds: list[dict[str, NDArray]]) -> xr.Dataset:
    """PyMC's statistics of the steps, with ArviZ's names."""
    import arviz as az

    whole = {
        _STATS.get(name, name): np.concatenate([of_round[name] for of_round in rounds], axis=1) for name in rounds[0]
    }
    # all trees reach the greatest depth, and should: not something to be warned of
    whole.pop("reached_max_treedepth", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")
        return az.from_dict({"sample_stats": whole})["sample_stats"].to_dataset()


def followed(objective: Objective, z: NDArray, seeds: list, pool: Executor | None) -> list[dict]:
    """`_follow` of draws of shape (n, size), each with a seed of its own."""
    if pool is None:
        return [_follow(objective, point, seed) for point, seed in zip(z, seeds, strict=True)]
    return in_blocks(pool, _follow_inherited, z, seeds)


def _follow_inherited(points: NDArray, seeds: list) -> list[dict]:
    """`_follow` of some draws, in a forked process."""
    with threadpool_limits(1, "blas"):
        return [_follow(known("objective"), z, seed) for z, seed in zip(points, seeds, strict=True)]


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
