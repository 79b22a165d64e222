"""Draws of the posterior without a chain: Laplace's approximation, put right by importance weights.

Where few detectors tell of the noise scales, their posterior is wide and skewed.  There the errors of everything depend
on what one takes for the scatter, and a normal density at its centre leaves that out.  So does it where few detectors
tell of the centroid, which bends the model.  So scales are drawn from a density that has their skewness, the centroid
from a wide one; then ratio and planes from their normal posterior, given these; and the radial function, in whose
coefficients the residuals are linear, from its posterior given all others, which is exactly normal.  This last step
needs no weights: they are those of the few parameters before it.  Pareto's k says how well they do (Vehtari et al.
2024, J. Mach. Learn. Res. 25, 72).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, multivariate_t
from threadpoolctl import threadpool_limits

from bayesflat.errors import InputError
from bayesflat.inference.chains import forked, in_blocks, known
from bayesflat.inference.coordinates import Coordinates
from bayesflat.inference.draws import cores_here, posterior_tree
from bayesflat.inference.groups import add_groups
from bayesflat.inference.laplace import loosely_known
from bayesflat.inference.linalg import covariance_root, curvature_root
from bayesflat.inference.objective import Objective
from bayesflat.model.disc import Disc

if TYPE_CHECKING:
    import xarray as xr

    from bayesflat.inference.result import FitResult

log = logging.getLogger(__name__)

MOST_K = 0.7  # above, weighted means do not settle
_FEWEST, _OF_NOTE = 100, 200
_SAME = 0.15  # Laplace's errors are right to this, as far as so few draws tell
CHAINS = 4  # into which independent draws are sorted, as tools for chains like them
_WIDER = 1.1  # than the posterior of the scales, in the coordinates of the fit
# some centroids are from Student's t with so many degrees of freedom, so much wider than they are thought to lie
_SOME, _WIDE, _DOF = 0.3, 2.5, 5
_FIRST = 0.25  # of all draws, before them: these tell where the centroids are


@dataclass(frozen=True)
class Weighted:
    """Draws with weights.

    Attributes
    ----------
    z : numpy.ndarray, shape (n, n_parameters)
        In the model's own coordinates.
    log_weight : numpy.ndarray, shape (n,)
        Smoothed and normalized.
    k : float
        Pareto's, of the raw weights.
    """

    z: NDArray[np.float64]
    log_weight: NDArray[np.float64]
    k: float

    @property
    def ess(self) -> float:
        """As many draws of equal weight tell as much."""
        return float(1.0 / np.sum(np.exp(2 * self.log_weight)))

    def resampled(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """As many draws of equal weight, in random order: each as often as its weight has it, to one."""
        n = len(self.z)
        edges = np.cumsum(np.exp(self.log_weight))
        places = (np.arange(n) + rng.uniform()) / n * edges[-1]
        return rng.permutation(self.z[np.searchsorted(edges, places)])


def weighted_draws(
    objective: Objective,
    best: NDArray,
    coordinates: Coordinates,
    covariance: NDArray,
    draws: int,
    rng: np.random.Generator,
    cores: int = 1,
) -> Weighted:
    """Draws of scales and centroid and, given these, of the rest, with their weights.

    Where few detectors tell of the centroid, it may be far from the maximum and its curvature: some draws are made
    first to see where it is.

    Parameters
    ----------
    objective : Objective
    best : numpy.ndarray, shape (n_parameters,)
        The maximum of the posterior, in the model's own coordinates.
    coordinates : Coordinates
        Of the fit: their last transform has the shape of the scales' posterior.
    covariance : numpy.ndarray, shape (n_parameters, n_parameters)
        Of Laplace's approximation.
    draws : int
    rng : numpy.random.Generator
    cores : int
        Processes; each draw has a seed of its own, so that they change nothing.

    Raises
    ------
    InputError
        A process was killed.
    """
    here = objective.slices.get("centroid_delta", slice(0, 0))
    centre, spread = best[here], covariance[here, here]
    with forked(cores, objective=objective, best=best, coordinates=coordinates) as pool:
        if len(centre):
            first = _drawn(objective, best, coordinates, centre, spread, rng.spawn(int(_FIRST * draws)), pool)
            weight, there = np.exp(first.log_weight), first.z[:, here]
            centre = weight @ there
            # kept as wide as it is thought to be where few draws count
            away = there - centre
            spread = (first.ess * (weight * away.T) @ away + spread) / (first.ess + 1.0)
        return _drawn(objective, best, coordinates, centre, spread, rng.spawn(draws), pool)


def _drawn(
    objective: Objective,
    best: NDArray,
    coordinates: Coordinates,
    centre: NDArray,
    spread: NDArray,
    rngs: Sequence[np.random.Generator],
    pool: Executor | None = None,
) -> Weighted:
    """A weighted draw of each generator, with centroids about a centre (of no size where none is fitted)."""
    from arviz_stats.base import array_stats

    about = centre, np.linalg.cholesky(spread)
    if pool is None:
        rows = _draw_some(objective, best, coordinates, about, rngs)
    else:
        rows = in_blocks(pool, partial(_draw_inherited, about), rngs)
    raw = np.array([log_weight for _, log_weight in rows])
    raw[~np.isfinite(raw)] = -np.inf
    smoothed, k = array_stats.psislw(raw.max() - raw)  # it takes minus their logs, as log-likelihoods come
    return Weighted(np.array([z for z, _ in rows]), smoothed - logsumexp(smoothed), float(k))


def _draw_inherited(about: tuple[NDArray, NDArray], rngs: Sequence[np.random.Generator]) -> list:
    """`_draw_some`, in a forked process."""
    return _draw_some(known("objective"), known("best"), known("coordinates"), about, rngs)


def _draw_some(
    objective: Objective,
    best: NDArray,
    coordinates: Coordinates,
    about: tuple[NDArray, NDArray],
    rngs: Sequence[np.random.Generator],
) -> list[tuple[NDArray[np.float64], float]]:
    """A draw of each generator, and the log of its weight; centroids are ``about`` a centre, with a root."""
    n = objective.n_mean
    everything, linear = np.arange(n), np.arange(n)[objective.linear]
    moved = everything[objective.slices.get("centroid_delta", slice(0, 0))]
    given = np.setdiff1d(everything, moved)
    rest = np.setdiff1d(given, linear)
    of_rest = np.searchsorted(given, rest)
    rows = []
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        for rng in rngs:
            scales, log_proposed = _drawn_scales(objective, coordinates, rng)
            z = np.append(best[:n], scales)
            if len(moved):
                step, log_density = _wide(len(moved), rng)
                z[moved] = about[0] + about[1] @ step
                log_proposed += log_density
            _, gradient, curvature = objective.by_mean(z)
            root = curvature_root(curvature[np.ix_(given, given)])
            z[given] -= _solved(root, gradient[given])
            inverse = solve_triangular(root, np.eye(len(given))[:, of_rest], lower=True)
            root_of_rest = covariance_root(inverse.T @ inverse)
            normal = rng.standard_normal(len(rest))
            z[rest] += root_of_rest @ normal
            log_proposed -= 0.5 * normal @ normal + np.linalg.slogdet(root_of_rest)[1]
            # the curve's curvature depends on scales and centroid alone
            log_density = _draw_linear(objective, z, curvature[np.ix_(linear, linear)], rng)
            rows.append((z, log_density - log_proposed))
    return rows


def _drawn_scales(
    objective: Objective, coordinates: Coordinates, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """Noise scales in the model's own coordinates, and the log of the density that they are drawn from."""
    scales = objective.parameters[-1]
    transform = coordinates.transforms[scales.name]
    normal = rng.standard_normal(scales.mu.shape)
    value, log_density = _WIDER * normal, -0.5 * np.sum(normal**2)
    if transform.shape:
        away = value @ transform.root.T if value.ndim else value * transform.root[0, 0]
        log_density -= np.sum(transform.shape.log_slope(away / transform.sd))
    return np.ravel(transform.to_model(value)), float(log_density)


def _wide(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """A step, normal or from a wide Student's t, and the log of the density of both together."""
    step = rng.standard_normal(n)
    if rng.uniform() < _SOME:
        step *= _WIDE / np.sqrt(rng.chisquare(_DOF) / _DOF)
    wide = multivariate_t(np.zeros(n), _WIDE**2 * np.eye(n), _DOF).logpdf(step)
    normal = multivariate_normal(np.zeros(n)).logpdf(step)
    return step, float(np.logaddexp(np.log1p(-_SOME) + normal, np.log(_SOME) + wide))


def _solved(root: NDArray, x: NDArray) -> NDArray[np.float64]:
    return solve_triangular(root, solve_triangular(root, x, lower=True), lower=True, trans="T")


def _draw_linear(objective: Objective, z: NDArray, curvature: NDArray, rng: np.random.Generator) -> float:
    """Draw the linear parameters given all others, in place; the log of the posterior of these others.

    Their ``curvature`` is the same whatever they are, and whatever planes and ratio are.
    """
    cost, gradient = objective.slope_by_mean(z)
    log_density = _log_jacobian(objective, z) - cost
    if len(curvature) and np.isfinite(log_density):
        linear = objective.linear
        root = curvature_root(curvature)
        pull = solve_triangular(root, gradient[linear], lower=True)
        log_density += 0.5 * pull @ pull - np.log(np.diag(root)).sum()
        z[linear] += solve_triangular(root, rng.standard_normal(len(root)) - pull, lower=True, trans="T")
    return float(log_density)


def _log_jacobian(objective: Objective, z: NDArray) -> float:
    """Log of the determinant of the parameters' derivatives by z, but for a constant: the draws have a density of z."""
    return sum(
        float(np.linalg.slogdet(p.transform.jacobian(z[objective.slices[p.name]]))[1])
        for p in objective.parameters
        if isinstance(p.transform, Disc)
    )


def laplace_draws(result: FitResult, draws: int = 1000, *, seed: int | None = None) -> xr.DataTree:
    """Draws of the posterior from Laplace's approximation with importance weights, for all of ArviZ's tools.

    Parameters
    ----------
    result : FitResult
    draws : int
        Number of draws, in multiples of 4.
    seed : int, optional
        By default the config's.

    Returns
    -------
    xarray.DataTree
        The layout of `bayesflat.sample`.  Where Pareto's k (``pareto_k`` of the attributes of ``posterior``) is below
        0.7, draws are resampled by their weights, and those of the posterior (``corrected`` is 1).  Else weights do not
        settle: the draws are those of the approximation, ``corrected`` is 0, and a warning says so.  ``sample_stats``
        has the log of the weight of each draw (``log_weight``; 0 where draws are resampled).

    Raises
    ------
    InputError
        ``likelihood = "laplace"``, which has no curvature.
    ValueError
        Fewer than 100 draws.
    """
    import xarray as xr

    began = time.perf_counter()
    seed = result.config.seed if seed is None else seed
    tree, found, corrected = _tree_of_draws(result, draws, seed)
    log_weight = np.zeros(len(found.z)) if corrected else found.log_weight
    of_draws = {"log_weight": (("chain", "draw"), log_weight.reshape(CHAINS, -1))}
    posterior = tree["posterior"].to_dataset()
    tree["sample_stats"] = xr.Dataset(of_draws, coords={"chain": posterior["chain"], "draw": posterior["draw"]})
    add_groups(
        tree, result.objective, result.map.value, seed, library="bayesflat", seconds=time.perf_counter() - began,
        pareto_k=round(found.k, 3), importance_ess=round(found.ess, 1), corrected=int(corrected),
    )  # fmt: skip
    return tree


def _tree_of_draws(result: FitResult, draws: int, seed: int) -> tuple[xr.DataTree, Weighted, bool]:
    """The posterior of weighted draws, the draws themselves, and whether weights settle: then they are resampled."""
    if result.laplace is None or result.coordinates is None:
        raise InputError("draws about the maximum need likelihood normal or student_t: laplace has no curvature there")
    if draws < _FEWEST:
        raise ValueError(f"draws is {draws}; weights need {_FEWEST} at least")
    objective, rng, cores = result.objective, np.random.default_rng([seed, 2]), cores_here()
    n = CHAINS * (draws // CHAINS)
    covariance = result.laplace.covariance
    found = weighted_draws(objective, result.map.value, result.coordinates, covariance, n, rng, cores)
    corrected = found.k < MOST_K
    z = found.resampled(rng) if corrected else found.z
    if not corrected:
        log.warning(
            "importance weights of Laplace's approximation do not settle (Pareto k %.2f, above %.1f): its errors stay "
            "as they are; sample the posterior instead (--sample)", found.k, MOST_K,
        )  # fmt: skip
    tree = posterior_tree(objective, z.reshape(CHAINS, -1, z.shape[1]), seed, cores, result.projection)
    return tree, found, corrected


def laplace_note(result: FitResult) -> str:
    """What Laplace's errors lack where few detectors tell of the scatter, by a few importance draws; else empty.

    Parameters
    ----------
    result : FitResult
        Without draws.
    """
    if result.laplace is None or not (loose := loosely_known(result.objective, result.laplace)):
        return ""
    known = ", ".join(f"{label} to a factor of {factor:.1f}" for label, factor in loose.items())
    begins = f"With few detectors their scatter is loosely known ({known}). "
    tree, found, corrected = _tree_of_draws(result, _OF_NOTE, result.config.seed)
    group = tree["posterior"].to_dataset()
    if not corrected:
        return begins + (
            f"Laplace's errors are not to be relied on, and importance weights do not settle (Pareto k "
            f"{found.k:.1f}): sample the posterior (--sample)."
        )
    ratios, same = [], True
    for name, label in (("itl_ratio", "ratio"), ("centroid_delta", "centroid"), ("gradient", "plane")):
        if name in group:
            drawn = group[name].std(("chain", "draw")).values
            rows = [f"{name}_{axis}" for axis in "xy"] if np.ndim(drawn) else [name]
            sd = [result.gradient.require_estimates()[row]["sd"] for row in rows]
            ratios.append(f"{label} {', '.join(f'{ratio:.1f}' for ratio in np.ravel(drawn / sd))}")
            same &= bool(np.all(np.abs(np.log(drawn / sd)) < _SAME))
    return begins + (
        f"Importance draws (Pareto k {found.k:.1f}) have errors that are so many times Laplace's: "
        f"{'; '.join(ratios)}. "
        + ("These may be used." if same else "--sample and bf.laplace_draws have the errors themselves.")
    )
