"""Predictive checks: do flats drawn from the model look like the one that was fitted?

Replicates are drawn from the model, their own detectors, amplifiers and patterns included, and their means by detector,
radius and azimuth are compared with the data's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig, checked
from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.inference.groups import as_dataset, draw_prior
from bayesflat.inference.map import make_objective
from bayesflat.inference.means import group_means, groupings, usable
from bayesflat.inference.objective import Objective
from bayesflat.inference.ready import make_ready
from bayesflat.model.prepare import FitData, prepare

if TYPE_CHECKING:
    import xarray as xr

    from bayesflat.inference.result import FitResult

QUANTILES = (0.05, 0.5, 0.95)
_MOST_TRIALS = 50  # of the prior, for each draw with a positive mean


@dataclass(frozen=True)
class Groups:
    """A statistic of groups of bins, of the data and of the replicates.

    Attributes
    ----------
    name : str
        ``detector``, ``radius`` or ``azimuth``.
    at : numpy.ndarray, shape (n_groups,)
        Id of the detector, centre of the ring (mm from the pivot) or of the sector (degrees, from x to y); groups
        without bins are left out.
    n_bins : numpy.ndarray of int, shape (n_groups,)
    observed : numpy.ndarray, shape (n_groups,)
        The statistic of the data.
    low, median, high : numpy.ndarray, shape (n_groups,)
        5%, 50% and 95% of the replicates.
    p_value : numpy.ndarray, shape (n_groups,)
        Two-sided: twice the part of the replicates beyond the data, on the side where fewer are.
    """

    name: str
    at: NDArray[np.float64]
    n_bins: NDArray[np.int64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    median: NDArray[np.float64]
    high: NDArray[np.float64]
    p_value: NDArray[np.float64]

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Which groups lie outside the 90% interval of the replicates."""
        return (self.observed < self.low) | (self.observed > self.high)


@dataclass(frozen=True)
class PredictiveCheck:
    """The data against replicates of the model.

    Attributes
    ----------
    kind : str
        ``posterior``: means of log(value / mean at the maximum).  ``prior``: means of log(value).
    n_draws : int
        Replicates.
    n_skipped : int
        Draws of the parameters that gave none, because their mean was not positive somewhere.
    detector, radius, azimuth : Groups
    """

    kind: str
    n_draws: int
    n_skipped: int
    detector: Groups
    radius: Groups
    azimuth: Groups

    @property
    def outside(self) -> float:
        """Share of all groups outside the 90% interval of the replicates."""
        return float(np.mean(np.concatenate([g.outside for g in (self.detector, self.radius, self.azimuth)])))


def posterior_predictive(
    result: FitResult, draws: int = 100, seed: int | None = None, *, z: NDArray | None = None
) -> PredictiveCheck:
    """Compare the residuals of a fit with those of replicates drawn from its posterior.

    Detectors, amplifiers and patterns are drawn anew; slopes that all detectors of a vendor share stay as they are, for
    their prior is wider than any camera's.

    Parameters
    ----------
    result : FitResult
    draws : int
        Number of replicates.
    seed : int, optional
        By default the one of the fit.
    z : numpy.ndarray, shape (n, n_parameters), optional
        Draws of the parameters in the model's own coordinates; replicates use ``draws`` of them, or all if there are
        fewer.  By default draws from the normal approximation of the posterior.

    Returns
    -------
    PredictiveCheck

    Raises
    ------
    ValueError
        The fit has no normal approximation and no draws are given, or draws of another number of parameters.
    InputError
        No draw has a positive mean.
    """
    objective, rng = result.objective, _rng(draws, result.config.seed if seed is None else seed)
    if z is not None:
        z = np.asarray(z, dtype=float)
        if z.ndim != 2 or z.shape[1] != objective.size:
            raise ValueError(f"z has the shape {z.shape}; the model has {objective.size} parameters, one a column")
        points = rng.permutation(z)
    elif result.laplace is not None:
        points = rng.multivariate_normal(result.laplace.centre, result.laplace.covariance, size=draws, method="eigh")
    else:
        raise ValueError("the fit has no normal approximation of its posterior; give draws of the parameters as z")
    best = result.map.value
    slopes = objective.shared_slopes(best)
    return _check("posterior", objective, points, draws, rng, objective.log_mean(best), slopes)


def prior_predictive(
    binned: BinnedFlat | FitData, config: FitConfig, draws: int = 100, seed: int = 0
) -> PredictiveCheck:
    """Compare a flat with replicates drawn from the priors.

    Defaults of the priors are centred on medians of the flat, however; that of the radial function on a first fit.

    Parameters
    ----------
    binned : BinnedFlat or FitData
        As it comes, or as it was prepared (``result.data``).
    config : FitConfig
    draws : int
        Number of replicates.
    seed : int

    Returns
    -------
    PredictiveCheck

    Raises
    ------
    InputError
        A prior is flat, or hardly any draw has a positive mean.
    """
    config = checked(config)
    data = prepare(binned, config) if isinstance(binned, BinnedFlat) else binned
    rng = _rng(draws, seed)
    data, config, _ = make_ready(data, config)
    objective = make_objective(data, config)
    for parameter in objective.parameters:
        if np.any(np.isinf(parameter.sigma)):
            raise InputError(f"priors.{parameter.name}: a flat prior has no draws; give a normal one")
    points = (draw_prior(objective.parameters, rng) for _ in range(_MOST_TRIALS * draws))
    return _check("prior", objective, points, draws, rng, np.zeros(len(data)))


def replicates(result: FitResult, draws: int = 100, seed: int | None = None) -> xr.DataTree:
    """Replicated flats, bin by bin: for ArviZ's predictive plots of one's own.

    Parameters
    ----------
    result : FitResult
        With draws (`bayesflat.sample`); else they come from its normal approximation.
    draws : int
        Number of flats.
    seed : int, optional
        By default the one of the fit.

    Returns
    -------
    xarray.DataTree
        ``flat`` in ``posterior_predictive`` and ``observed_data`` (values divided by the normalization), and in
        ``constant_data`` ``dx`` and ``dy`` (mm from the pivot), ``detector`` and ``weight`` of each bin.

    Raises
    ------
    ValueError
        No draws, and no normal approximation.
    """
    import xarray as xr

    objective, data = result.objective, result.data
    rng = np.random.default_rng(result.config.seed if seed is None else seed)
    if result.posterior is not None:
        z = rng.permutation(result.posterior["unconstrained"].to_dataset()["z"].values.reshape(-1, objective.size))[
            :draws
        ]
    elif result.laplace is not None:
        z = rng.multivariate_normal(result.laplace.centre, result.laplace.covariance, draws, method="eigh")
    else:
        raise ValueError("the fit has no normal approximation of its posterior, and no draws")
    slopes, nothing = objective.shared_slopes(result.map.value), np.full(len(data), np.nan)
    logs = [objective.log_replicate(point, rng, slopes) for point in z]
    flats = np.exp(np.array([nothing if one is None else one for one in logs]))
    coords = {"bin": np.arange(len(data))}
    of_bins = {"dx": data.dx, "dy": data.dy, "detector": data.binned.detector, "weight": data.weight}
    tree = xr.DataTree()
    tree["posterior_predictive"] = as_dataset({"flat": flats[None]}, coords)
    tree["observed_data"] = as_dataset({"flat": data.value}, coords, [])
    tree["constant_data"] = as_dataset(of_bins, coords, [], {name: ["bin"] for name in of_bins})
    for name in ("dx", "dy"):
        tree["constant_data"][name].attrs["units"] = "mm"
    return tree


def _rng(draws: int, seed: int) -> np.random.Generator:
    if draws < 2:
        raise ValueError(f"draws is {draws}; quantiles need 2 at least")
    return np.random.default_rng(seed)


def _check(
    kind: str,
    objective: Objective,
    points: Iterable[NDArray],
    draws: int,
    rng: np.random.Generator,
    reference: NDArray,
    slopes: NDArray | None = None,
) -> PredictiveCheck:
    """Replicates at the points, until there are as many as wanted."""
    data = objective.data
    used = usable(data)
    grouped = list(groupings(data, used))
    logs = np.log(data.value, out=np.full(len(data), np.nan), where=used)
    observed = [group_means(index, len(at), (logs - reference)[used]) for _, at, index in grouped]
    replicated: list[list[NDArray]] = []
    skipped = 0
    for z in points:
        replicate = objective.log_replicate(z, rng, slopes)
        found = None
        if replicate is not None:
            residual = (replicate - reference)[used]
            found = [group_means(index, len(at), residual) for _, at, index in grouped]
        if found is None or not all(np.all(np.isfinite(means)) for means in found):
            skipped += 1
            continue
        replicated.append(found)
        if len(replicated) == draws:
            break
    if len(replicated) < 2:
        raise InputError(
            f"the mean is not positive everywhere in {skipped} draws from the {kind}: there is no replicate"
        )
    groups = {}
    for (name, at, index), seen, means in zip(grouped, observed, zip(*replicated, strict=True), strict=True):
        means = np.array(means)
        low, median, high = np.quantile(means, QUANTILES, axis=0)
        # the data count as one of the replicates, so that no p-value is 0
        beyond = np.minimum((means <= seen).sum(0), (means >= seen).sum(0))
        p_value = np.minimum(1.0, 2.0 * (1 + beyond) / (1 + len(means)))
        groups[name] = Groups(name, at, np.bincount(index, minlength=len(at)), seen, low, median, high, p_value)
    return PredictiveCheck(kind, len(replicated), skipped, **groups)
