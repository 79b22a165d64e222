"""Leave one detector out: how well the others predict it, and which terms of the model improve the prediction.

Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry 2017) over draws of the posterior, of NUTS or of Laplace's
approximation; where it fails for a detector, the others are fitted again.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import logsumexp

from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.inference.draws import cores_here, posterior_tree
from bayesflat.inference.fitting import FitResult, fit, fit_data
from bayesflat.inference.linalg import covariance_root
from bayesflat.inference.map import newton

log = logging.getLogger(__name__)

BAD_K = 0.7
_NEAR = 0.05  # whitened gradient norm at which a refit ends
TERMS = ("do_fit_centroid", "do_fit_gradient", "do_fit_outer_gradient")


@dataclass(frozen=True)
class LeaveOneOut:
    """Predictive density of each detector, from the others.

    Attributes
    ----------
    detector : numpy.ndarray of int, shape (n_detectors,)
    elpd : numpy.ndarray, shape (n_detectors,)
        Log predictive density of its bins.
    pareto_k : numpy.ndarray, shape (n_detectors,)
        Reliability of the importance sampling: above 0.7 it is not.
    refitted : numpy.ndarray of bool, shape (n_detectors,)
        Where the others were fitted again instead.
    """

    detector: NDArray[np.int64]
    elpd: NDArray[np.float64]
    pareto_k: NDArray[np.float64]
    refitted: NDArray[np.bool_]

    @property
    def total(self) -> float:
        """Sum over the detectors."""
        return float(self.elpd.sum())


def leave_one_out(result: FitResult, *, draws: int = 400, refit: bool = True, seed: int | None = None) -> LeaveOneOut:
    """How well the other detectors predict each one.

    Parameters
    ----------
    result : FitResult
        With draws of `sample`; else draws of Laplace's approximation are used, corrected for what it is not.
    draws : int
        Of Laplace's approximation, and for each detector that is refitted.
    refit : bool
        Whether to fit the other detectors again where Pareto's k is above 0.7 (hierarchical noise only).
    seed : int, optional
        By default the config's.

    Raises
    ------
    InputError
        ``likelihood = "laplace"`` without draws, or a single detector.
    """
    import arviz as az

    seed = result.config.seed if seed is None else seed
    detectors = np.unique(result.data.binned.detector)
    if len(detectors) < 2:
        raise InputError("one detector only: there is no other to predict it")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")
        if result.posterior is not None:
            found = az.loo(result.posterior, pointwise=True)
        else:
            tree, log_p, log_q = _laplace_draws(result, draws, seed)
            found = az.loo_approximate_posterior(tree, log_p, log_q, pointwise=True)
    elpd, k = np.array(found.elpd_i, dtype=float).ravel(), np.array(found.pareto_k, dtype=float).ravel()
    refitted = np.zeros(len(k), dtype=bool)
    if refit:
        for d in np.flatnonzero(~(k <= BAD_K)):
            value = log_density_from_others(result, int(detectors[d]), draws, seed + 1 + int(d))
            if value is not None:
                elpd[d], refitted[d] = value, True
    return LeaveOneOut(detectors, elpd, k, refitted)


def _laplace_draws(result: FitResult, draws: int, seed: int):
    """Draws of Laplace's approximation as a DataTree, and their log-densities in the posterior and in it."""
    if result.laplace is None:
        raise InputError("likelihood = laplace has no curvature to draw from: use normal or student_t")
    rng = np.random.default_rng(seed)
    covariance = result.laplace.covariance
    normal = rng.normal(size=(draws, len(covariance)))
    z = result.laplace.centre + normal @ covariance_root(covariance).T
    log_q = -0.5 * np.sum(normal**2, axis=1)
    log_p = -np.array([result.objective(point) for point in z])
    tree = posterior_tree(result.objective, z[None], int(rng.integers(2**31)), cores_here())
    return tree, log_p - log_p.max(), log_q - log_q.max()


def log_density_from_others(result: FitResult, detector: int, draws: int, seed: int) -> float | None:
    """Log predictive density of a detector from a fit of the others; None where none is left of its vendor."""
    full = result.objective
    reduced = full.without_detector(detector)
    if reduced is None:
        return None
    end = newton(reduced, result.map.value, _NEAR)
    rng = np.random.default_rng(seed)
    root = covariance_root(np.linalg.inv(reduced.derivatives(end.z)[2]))
    row = int(np.searchsorted(np.unique(full.data.binned.detector), detector))
    found = []
    for _ in range(draws):
        z = end.z + root @ rng.normal(size=len(end.z))
        found.append(full.log_likelihood_given(z, reduced.draw(z, rng).shared)[row])
    log.info("detector %d: the others fitted again", detector)
    return float(logsumexp(found) - np.log(draws))


def compare_terms(binned: BinnedFlat, config: FitConfig | None = None, *, draws: int = 400) -> Table:
    """Which of centroid, plane and outer plane a flat needs: each left out and put in, on the same bins.

    Parameters
    ----------
    binned : BinnedFlat
    config : FitConfig, optional
        Its own switches for the three terms do not matter.
    draws : int
        Of Laplace's approximation of each.

    Returns
    -------
    astropy.table.Table
        A row for each combination, the best first: ``terms``, ``elpd`` (log predictive density of detectors left out,
        summed), ``elpd_diff`` to the best and its standard error ``dse``, ``bad_k`` (detectors whose importance
        sampling failed), ``converged``.
    """
    config = config or FitConfig()
    everything = config.model_copy(update=dict.fromkeys(TERMS, True))
    # the fullest model sets bins and weights, so that all see the same
    fullest = fit(binned, everything)
    rows = []
    # with hierarchical noise nodes only describe a curve: each curve has its own
    given = {} if fullest.data.radial is None else {"radial_spline_nodes": config.radial_spline_nodes}
    for switches in itertools.product((False, True), repeat=len(TERMS)):
        chosen = dict(zip(TERMS, switches, strict=True))
        result = fullest
        if not all(switches):
            result = fit_data(fullest.data, fullest.config.model_copy(update=given | chosen), fullest.rough)
        names = [name.removeprefix("do_fit_") for name, on in chosen.items() if on]
        rows.append((" + ".join(names) or "none", leave_one_out(result, draws=draws, refit=False), result.converged))
        log.info("%s: elpd %.1f", rows[-1][0], rows[-1][1].total)
    rows.sort(key=lambda row: -row[1].total)
    best = rows[0][1].elpd
    differences = [found.elpd - best for _, found, _ in rows]
    return Table(
        {
            "terms": [name for name, _, _ in rows],
            "elpd": [found.total for _, found, _ in rows],
            "elpd_diff": [d.sum() for d in differences],
            "dse": [np.sqrt(len(d) * np.var(d, ddof=1)) for d in differences],
            "bad_k": [int(np.sum(~(found.pareto_k <= BAD_K))) for _, found, _ in rows],
            "converged": [converged for _, _, converged in rows],
        }
    )
