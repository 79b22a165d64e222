"""Detectors and amplifiers, which the model integrates out, for draws of any model with our ``flat``.

PyMC's own samplers draw parameters and noise scales.  Given these, the detectors' effects are normal: here they are
drawn, and with them what ArviZ needs to leave a detector out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pymc as pm
import pytensor
from numpy.typing import NDArray

from bayesflat.errors import InputError
from bayesflat.inference.map import PLAIN
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.likelihood import NAME, FlatRV
from bayesflat.model.response import amplifier_names

if TYPE_CHECKING:
    import xarray as xr


def draw_detectors(model: pm.Model, draws: xr.DataTree, *, amplifiers: bool = False, seed: int = 0) -> xr.DataTree:
    """Draws of PyMC's samplers, with detectors drawn too and the log-likelihood of each detector.

    Parameters
    ----------
    model : pymc.Model
        That was sampled: ``result.model``, or one whose bins were added by ``result.observe``.
    draws : xarray.DataTree
        As `pymc.sample` returns it, with ``posterior``.
    amplifiers : bool
        Whether to keep the amplifiers' throughputs.
    seed : int
        Of the detectors.

    Returns
    -------
    xarray.DataTree
        A copy of ``draws``.  ``posterior`` has in addition ``throughput`` (dims ``detector``: relative to the mean of
        its vendor's detectors), ``vendor_throughput`` (``vendor``: that mean, relative to the model's
        parameters), ``shared_pattern`` (``vendor``, ``effect``) and, where asked for, ``amplifier_throughput``
        (``detector``, ``amplifier``; NaN where there is none).  ``log_likelihood`` is that of each detector's values
        (``value``), given the shared pattern: so are detectors independent, and may be left out (`arviz.loo`).  It
        takes the place of what `pymc.compute_log_likelihood` has found, which is one number for all bins.

    Raises
    ------
    InputError
        The model has no bins that scatter together, or draws are of another model.

    Notes
    -----
    The ratio of the product, of the detectors that are there, is the model's ``itl_ratio`` times the first of
    ``vendor_throughput`` over the last; its radial function is the model's times the last.
    """
    import arviz as az
    import xarray as xr

    flat = model.named_vars.get(NAME)
    if flat is None or flat.owner is None or not isinstance(flat.owner.op, FlatRV):
        raise InputError(
            f"the model has no {NAME!r} with hierarchical noise: with independent noise detectors do not scatter, and "
            "pymc.compute_log_likelihood has the bins one by one"
        )
    noise = cast(HierarchicalNoise, flat.owner.op.noise)
    posterior = draws["posterior"].to_dataset()
    missing = [v.name for v in model.free_RVs if v.name not in posterior]
    if missing:
        raise InputError(f"the draws are of another model: they have no {', '.join(missing)}")
    places = pytensor.function(model.free_RVs, flat.owner.inputs[2:], mode=PLAIN, on_unused_input="ignore")
    value = model.rvs_to_values[flat].eval()
    logs, sums = np.log(value), noise.effects.sum_good(np.log(value))
    n_chains, n_draws = posterior.sizes["chain"], posterior.sizes["draw"]
    rng = np.random.default_rng(seed)
    rows = []
    for chain in range(n_chains):
        for draw in range(n_draws):
            mean, log_scales = places(*(posterior[v.name].values[chain, draw].astype(v.dtype) for v in model.free_RVs))
            rows.append(_drawn(noise, logs - np.log(mean), log_scales, sums, rng))
    shaped = {name: np.array([row[name] for row in rows]).reshape(n_chains, n_draws, *rows[0][name].shape)
              for name in rows[0]}  # fmt: skip
    if not amplifiers:
        del shaped["amplifier_throughput"]
    coords = {
        "detector": noise.detectors, "vendor": noise.vendors, "effect": noise.shared_labels,
        "amplifier": amplifier_names(*noise.amp_shape), "chain": posterior["chain"].values,
        "draw": posterior["draw"].values,
    }  # fmt: skip
    dims = {
        "throughput": ["detector"], "vendor_throughput": ["vendor"], "shared_pattern": ["vendor", "effect"],
        "amplifier_throughput": ["detector", "amplifier"], "value": ["detector"],
    }  # fmt: skip
    names = xr.DataArray([noise.camera[int(number)].name for number in noise.detectors], dims="detector")
    likelihood = az.dict_to_dataset({"value": shaped.pop("value")}, coords=coords, dims=dims)
    more = az.dict_to_dataset(shaped, coords=coords, dims=dims)
    out = draws.copy()
    out["posterior"] = posterior.merge(more.assign_coords(detector_name=names), combine_attrs="override")
    out["log_likelihood"] = likelihood.assign_coords(detector_name=names)
    return out


def _drawn(
    noise: HierarchicalNoise, residual: NDArray, log_scales: NDArray, sums: NDArray, rng: np.random.Generator
) -> dict[str, NDArray]:
    """What follows from a draw of the parameters; ``sums`` are those of the logs of each detector's values."""
    drawn = noise.covariance(log_scales).draw(residual, rng)
    throughput = noise.throughput(noise.effects.all_effects(drawn.own, drawn.shared))
    vendor = noise.effects.vendor
    means = np.array([throughput[vendor == v, 0].mean() for v in range(len(noise.vendors))])
    relative = throughput / means[vendor][:, None]
    return {
        "throughput": relative[:, 0],
        "vendor_throughput": means,
        "shared_pattern": drawn.shared,
        "amplifier_throughput": np.where(noise.share > 0, relative[:, 1:], np.nan),
        "value": drawn.log_likelihood - sums,
    }
