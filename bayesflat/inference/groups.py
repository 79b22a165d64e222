"""ArviZ's groups beside the draws: priors, replicates, what was observed; labels, units, and where draws come from.

Replicates are kept as means by detector and by ring of log(value / mean at the maximum of the posterior): those of all
bins would be gigabytes (`bayesflat.replicates` makes some of these).
"""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayesflat.inference.means import group_means, groupings, usable
from bayesflat.inference.objective import Objective
from bayesflat.model.parameters import Parameter

if TYPE_CHECKING:
    import xarray as xr

PRIOR_DRAWS = 100
MOST_REPLICATES = 25  # of each chain
_MOST_TRIALS = 50  # of the prior, for each draw with a positive mean
_UNITS = {"centroid_delta": "mm", "gradient": "1/mm", "outer_gradient": "1/mm", "knot": "mm", "node": "mm"}
_UNITS |= {"ring": "mm", "x": "mm", "y": "mm"}
DIMS = {
    "log_radial": ["knot"],
    "radial_spline_values": ["node"],
    "radial_spline_free": ["free_node"],
    "centroid_delta": ["axis"],
    "gradient": ["axis"],
    "outer_gradient": ["axis"],
    "log_noise_scales": ["noise_scale"],
    "throughput": ["detector"],
    "shared_pattern": ["vendor", "effect"],
    "value": ["detector"],
    "detector_mean": ["detector"],
    "ring_mean": ["ring"],
    "z": ["coordinate"],
    "flat": ["bin"],
}


def add_groups(
    tree: xr.DataTree, objective: Objective, best: NDArray, seed: int, *, library: str, seconds: float, **facts: Any
) -> None:
    """Add prior, replicates, observed means, labels, units and provenance to a tree of draws.

    Parameters
    ----------
    tree : xarray.DataTree
        As `bayesflat.inference.draws.make_tree` makes it.
    objective : Objective
    best : numpy.ndarray, shape (n_parameters,)
        The maximum of the posterior, in the model's own coordinates.
    seed : int
        Of the draws; what is added has a seed that follows from it.
    library : str
        That made the draws.
    seconds : float
        How long it took.
    facts
        Further attributes of the posterior.
    """
    rng = np.random.default_rng([seed, 1])
    used, reference = usable(objective.data), objective.log_mean(best)
    (_, detector, of_detector), (_, ring, of_ring) = list(groupings(objective.data, used))[:2]
    coords = {"detector": detector.astype(int), "ring": ring}

    def means(logs: NDArray) -> dict[str, NDArray]:
        left = (logs - reference)[used]
        return {
            "detector_mean": group_means(of_detector, len(detector), left),
            "ring_mean": group_means(of_ring, len(ring), left),
        }

    data = objective.data
    tree["observed_data"] = as_dataset(means(_logs(data.value)), coords, [])
    tree["constant_data"] = as_dataset(
        {
            "n_bins": np.bincount(of_detector, minlength=len(detector)),
            "x": np.array([data.binned.camera[int(number)].x for number in detector]),
            "y": np.array([data.binned.camera[int(number)].y for number in detector]),
            "n_bins_of_ring": np.bincount(of_ring, minlength=len(ring)),
        },
        coords, [], {"n_bins": ["detector"], "x": ["detector"], "y": ["detector"], "n_bins_of_ring": ["ring"]},
    )  # fmt: skip
    z, slopes = tree["unconstrained"].to_dataset()["z"].values, objective.shared_slopes(best)
    kept = np.unique(np.linspace(0, z.shape[1] - 1, min(z.shape[1], MOST_REPLICATES)).astype(int))
    nothing = np.full(len(data), np.nan)

    def replicated(point: NDArray) -> dict[str, NDArray]:
        """Means at once: logs of all bins of all replicates would be half a gigabyte."""
        logs = objective.log_replicate(point, rng, slopes)
        return means(nothing if logs is None else logs)

    found = [[replicated(point) for point in of_chain[kept]] for of_chain in z]
    tree["posterior_predictive"] = as_dataset(_stacked(found), coords | {"draw": kept})
    if all(np.all(np.isfinite(p.sigma)) for p in objective.parameters):
        points = [(point, means(logs)) for point, logs in islice(_prior_draws(objective, rng), PRIOR_DRAWS)]
        if points:
            of_prior = {"knot": _knots(objective), "node": data.nodes, "free_node": data.nodes[:-1], "axis": ["x", "y"]}
            of_prior |= objective.noise.coords()
            tree["prior"] = as_dataset(_stacked([[objective.to_parameters(point) for point, _ in points]]), of_prior)
            tree["prior_predictive"] = as_dataset(_stacked([[row for _, row in points]]), coords)
    label(tree, objective)
    versions = {f"{name}_version": importlib.metadata.version(name) for name in ("bayesflat", "pymc", "arviz")}
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    of_tree = versions | {"created_at": now, "creation_library": "bayesflat", "seed": seed}
    of_tree["creation_library_version"] = versions["bayesflat_version"]
    tree.attrs |= of_tree
    of_tree |= {"inference_library": library, "inference_library_version": importlib.metadata.version(library)}
    for group in ("posterior", "sample_stats"):
        if group in tree.children:
            tree[group].attrs |= of_tree | {"sampling_time": round(seconds, 3)} | facts


def label(tree: xr.DataTree, objective: Objective) -> None:
    """Names beside the numbers of detectors, and units, of all groups."""
    camera = objective.data.binned.camera
    for node in tree.children.values():
        for name, values in node.variables.items():
            if name in _UNITS:
                values.attrs["units"] = _UNITS[str(name)]
            elif name in node.data_vars and values.dtype.kind == "f":
                values.attrs.setdefault("units", "")
        if "detector" in node.coords:
            names = [camera[int(number)].name for number in node.to_dataset()["detector"].values]
            node.coords["detector_name"] = ("detector", names)


def _logs(value: NDArray) -> NDArray[np.float64]:
    return np.log(value, out=np.full(len(value), np.nan), where=value > 0)


def _knots(objective: Objective) -> NDArray[np.float64]:
    radial = objective.data.radial
    return np.zeros(0) if radial is None else radial.spline.places


def draw_prior(parameters: Iterable[Parameter], rng: np.random.Generator) -> NDArray[np.float64]:
    """One draw from the priors, in the model's own coordinates: shape (n_parameters,)."""
    return np.concatenate([p.to_value(p.draw(rng)) for p in parameters])


def _prior_draws(objective: Objective, rng: np.random.Generator) -> Iterable[tuple[NDArray, NDArray]]:
    """Draws of the priors that have a positive mean everywhere, and the logs of a replicate of each."""
    for _ in range(_MOST_TRIALS * PRIOR_DRAWS):
        z = draw_prior(objective.parameters, rng)
        logs = objective.log_replicate(z, rng)
        if logs is not None:
            yield z, logs


def _stacked(rows: list[list[dict[str, NDArray]]]) -> dict[str, NDArray]:
    """By name, from chains of draws of such: shape (chains, draws, ...)."""
    return {name: np.array([[row[name] for row in of_chain] for of_chain in rows]) for name in rows[0][0]}


def as_dataset(
    values: dict[str, NDArray],
    coords: dict[str, Any],
    sample_dims: list[str] | None = None,
    dims: dict[str, list[str]] | None = None,
) -> xr.Dataset:
    """A dataset with these dimensions; those of draws are chain and draw, or none."""
    import arviz as az

    return az.dict_to_dataset(
        values, coords=coords, dims=DIMS | (dims or {}), sample_dims=sample_dims, check_conventions=False
    )
