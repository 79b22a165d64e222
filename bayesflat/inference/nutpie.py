"""Sampling with nutpie, for those who prefer it: as many draws as are asked for, in the same coordinates."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
from threadpoolctl import threadpool_limits

from bayesflat.errors import InputError
from bayesflat.inference.chains import forked
from bayesflat.inference.draws import followed, make_tree, sample_stats
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Projection

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger(__name__)


def require_nutpie() -> None:
    """Raise an `InputError` where nutpie is not installed."""
    if importlib.util.find_spec("nutpie") is None:
        raise InputError("nutpie is not installed: pip install 'bayesflat[nutpie]', or use the sampler pymc")


def run_nutpie(
    model: pm.Model,
    objective: Objective,
    *,
    draws: int,
    tune: int,
    chains: int,
    cores: int,
    seed: int,
    progress: bool,
    projection: Projection | None = None,
) -> xr.DataTree:
    """Sample the posterior with nutpie and its defaults; chains run in threads.

    Parameters
    ----------
    model : pymc.Model
        In coordinates of a fit.
    objective : Objective
        The same in NumPy: it brings the draws to product units.
    draws, tune, chains : int
        Draws of each chain that are kept, and that are spent on step size and mass matrix before.
    cores : int
        Threads; then processes.
    seed : int
        Of everything random.
    progress : bool
        Whether to show a bar.
    projection : Projection, optional
        As for `bayesflat.inference.nuts.run_nuts`.

    Returns
    -------
    xarray.DataTree
        As `bayesflat.inference.nuts.run_nuts` returns it.

    Raises
    ------
    KeyboardInterrupt
        Nothing is kept of a run that was interrupted.
    """
    rng = np.random.default_rng(seed)
    with threadpool_limits(1, "blas"), warnings.catch_warnings(), np.errstate(all="ignore"), model:
        warnings.filterwarnings("ignore", message="The number of samples is too small")
        drawn = pm.sample(
            draws=draws, tune=tune, chains=chains, cores=cores, random_seed=int(rng.integers(2**31)),
            nuts_sampler="nutpie", progressbar=progress, quiet=not progress, compute_convergence_checks=False,
        )  # fmt: skip
    found = drawn["posterior"].to_dataset()
    if found.sizes["draw"] < draws:
        raise KeyboardInterrupt
    parts = [found[p.variable].values.reshape(chains, draws, *p.mu.shape) for p in objective.parameters]
    z = np.array(
        [[np.concatenate([p.to_value(part[chain, draw]) for p, part in zip(objective.parameters, parts, strict=True)])
          for draw in range(draws)] for chain in range(chains)]
    )  # fmt: skip
    seeds = np.random.SeedSequence(int(rng.integers(2**31)))
    with forked(cores, objective=objective) as pool:
        rows = [followed(objective, of_chain, seeds.spawn(draws), pool) for of_chain in z]
    tree = make_tree(objective, z, rows, projection)
    tree["sample_stats"] = sample_stats(
        [{k: v.values for k, v in drawn["sample_stats"].data_vars.items() if v.ndim == 2 and v.dtype != object}]
    )
    return tree
