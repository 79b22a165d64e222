"""The maximum of the posterior: found with Newton's steps, judged on PyMC's own log-density.

Newton's steps with Gauss's curvature do not depend on the scales and correlations of the parameters.
A second start must come to the same maximum, and the gradient of PyMC's log-density must vanish there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pymc as pm
import pytensor
from numpy.typing import NDArray
from pymc.pytensorf import gradient, join_nonshared_inputs
from pytensor.compile.mode import OPT_NONE, Mode
from pytensor.link.vm import VMLinker
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.hierarchical import HierarchicalObjective
from bayesflat.inference.independent import IndependentObjective
from bayesflat.inference.linalg import curvature_root, whitened_norm
from bayesflat.inference.objective import Objective
from bayesflat.inference.rough import Rough
from bayesflat.model.build import noise_model
from bayesflat.model.noise import NoiseModel
from bayesflat.model.parameters import mean_parameters
from bayesflat.model.prepare import FitData
from bayesflat.model.start import estimate
from bayesflat.stages import stage

log = logging.getLogger(__name__)

# Whitened, the posterior is about N(0, 1): a gradient of 5e-3 there is half a hundredth of a standard deviation
TOLERANCE = 5e-3
# two starts agree when they end within this distance, in standard deviations ...
AGREEMENT = 0.05
# ... or, where the likelihood has a kink and no curvature, within this part of the absolute deviation
COST_AGREEMENT = 1e-6
_MOST_STARTS = 8
_AT_THE_EDGE = 0.98
# the mean of a vendor's data/model may differ from 1 by so many of its sd, and by this besides
_MOST_SD, _MOST_OFF = 5.0, 5e-3
_MOST_STEPS = 100
# tightening of a smoothed absolute deviation, in units of the noise scale
_SMOOTHING = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
_FEW_BINS = 15_000
_ROUGH, _FINE, _NEAR = 0.3, 0.2 * AGREEMENT, 3.0
_OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "hierarchical": HierarchicalObjective,
    "independent": IndependentObjective,
}
# For a handful of evaluations neither compiling nor rewriting the graph pays
PLAIN = Mode(VMLinker(use_cloop=False, c_thunks=False), OPT_NONE)


@dataclass(frozen=True)
class MapResult:
    """The maximum a posteriori.

    Attributes
    ----------
    parameters : dict of str to numpy.ndarray
        Product units, by name; terms that are off are absent.
    throughput : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers), or None
        Conditional means of the throughput of each detector (first) and its amplifiers, relative to the vendor's mean;
        hierarchical noise only.
    value : numpy.ndarray, shape (n,)
        The same in the model's own coordinates.
    curvature : numpy.ndarray, shape (n, n)
        Gauss-Newton curvature of minus the log-posterior there.
    log_posterior : float
        PyMC's, without the transforms' Jacobians.
    gradient_norm : float
        Of PyMC's log-density, whitened; NaN for ``likelihood = "laplace"``, whose gradient does not vanish.
    second_start : float
        Distance to the end of another start, in standard deviations; for ``laplace`` the relative difference in the
        sum of absolute deviations.
    n_steps, n_evaluations : int
        Newton's steps over all starts; evaluations of PyMC's log-density.
    converged : bool
    message : str
        What convergence was judged by.
    """

    parameters: dict[str, NDArray]
    throughput: NDArray | None
    value: NDArray
    curvature: NDArray
    log_posterior: float
    gradient_norm: float
    second_start: float
    n_steps: int
    n_evaluations: int
    converged: bool
    message: str


def find_map(model: pm.Model, objective: Objective, rough: Rough | None = None) -> MapResult:
    """Maximise the posterior.

    Parameters
    ----------
    model : pymc.Model
        As `build_model` makes it of the objective's data and config.
    objective : Objective
        As `make_objective` makes it.  In its config, ``fit_gtol`` is the whitened gradient norm at which Newton's
        steps end, ``seed`` that of the second start.
    rough : Rough, optional
        Where to begin; by default with medians.

    Raises
    ------
    InputError
        Fewer bins than parameters.
    """
    # the products are of tall thin matrices: threads gain little alone, and on a busy machine wait for each other
    # and where a step goes too far, numbers overflow before it is refused
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        return _find_map(model, objective, rough)


def _find_map(model: pm.Model, objective: Objective, rough: Rough | None) -> MapResult:
    began = time.perf_counter()
    data, config = objective.data, objective.config
    if len(data) < objective.size:
        raise InputError(
            f"{len(data)} bins are left to fit {objective.size} parameters; there must be as many at least"
        )
    first = _first_start(objective, rough)
    kinked = objective.noise.has_kink
    rng = np.random.default_rng(config.seed)

    ends: list[End] = []
    while len(ends) < _MOST_STARTS:
        # two independent starts; where these disagree, further ones near the better one, until one returns to it
        near = len(ends) > 1
        z = first if not ends else _other_start(objective, ends[0].z if near else first, rng, near)
        ends.append(_descend(objective, z, kinked))
        log.debug("start %d: cost %.6f after %d steps", len(ends), ends[-1].cost, ends[-1].steps)
        ends.sort(key=lambda end: end.cost)
        if len(ends) > 1:
            apart = _apart(ends[0], ends[1], len(data) if kinked else None)
            if apart < (COST_AGREEMENT if kinked else AGREEMENT):
                break
    agree = apart < (COST_AGREEMENT if kinked else AGREEMENT)
    # starts are compared before their last digits
    best = newton(objective.with_smoothing(_SMOOTHING[-1]), ends[0], config.fit_gtol)

    log.info("maximum found in %.2f s", time.perf_counter() - began)
    stage("certificate of the maximum")
    density = compile_density(model)
    z, curvature, evaluations, norm = best.z, objective.derivatives(best.z)[2], 1, np.nan
    value, slope = density(z)
    if not kinked:
        root = curvature_root(curvature)
        norm = whitened_norm(root, slope)
        if not norm < TOLERANCE and np.isfinite(slope).all():
            z, value, norm, evaluations = _polish(density, z, root)
            curvature = objective.derivatives(z)[2]
    converged = bool(agree and np.isfinite(value) and (kinked or norm < TOLERANCE))
    judged = f"another start ended {apart:.1e} {'of the absolute deviation' if kinked else 'sd'} away" + (
        "" if kinked else f", whitened gradient norm {norm:.1e}"
    )
    found = objective.product(z)
    throughput = found.pop("throughput", None)
    itl, _ = objective.data.binned.groups
    for vendor, (ratio, sd) in objective.vendor_ratios(found).items():
        if not abs(ratio - 1.0) < _MOST_SD * sd + _MOST_OFF:
            converged = False
            judged += (
                f"; the model does not describe the {itl + ' detectors' if vendor == 'itl' else 'detectors'}: their "
                f"data/model is {ratio:.3f} on average"
            )
    if np.hypot(*found.get("centroid_delta", (0.0, 0.0))) > _AT_THE_EDGE * config.centroid_max:
        converged = False
        judged += "; the centroid ran to centroid_max: the bins do not constrain it, so leave it out"
    return MapResult(
        parameters=found,
        throughput=throughput,
        value=z,
        curvature=curvature,
        log_posterior=-value,
        gradient_norm=norm,
        second_start=apart,
        n_steps=sum(end.steps for end in ends) + best.steps,
        n_evaluations=evaluations,
        converged=converged,
        message=("converged: " if converged else "not converged: ") + judged,
    )


def compile_density(model: pm.Model) -> Callable[[NDArray], tuple[float, NDArray]]:
    """Minus PyMC's log-density with its gradient, of all values in one vector, without the transforms' Jacobians."""
    # where each node of the graph was made is of no use, and takes a third of the time
    with pytensor.config.change_flags(traceback__limit=0):
        (log_density,), z = join_nonshared_inputs(model.initial_point(), [model.logp(jacobian=False)], model.value_vars)
        cost = -log_density
        function = pytensor.function([z], [cost, gradient(cost, [z])], mode=PLAIN, trust_input=True)

    def density(point: NDArray) -> tuple[float, NDArray]:
        value, slope = function(np.ascontiguousarray(point, dtype=float))
        return float(value), np.asarray(slope)

    return density


@dataclass(frozen=True)
class End:
    """The end of a descent: point, cost and gradient there, the curvature as the steps found it, and their number."""

    z: NDArray
    cost: float
    gradient: NDArray
    curvature: NDArray
    steps: int


def make_objective(data: FitData, config: FitConfig, noise: NoiseModel | None = None) -> Objective:
    """The objective of these bins."""
    start = estimate(data, config)
    noise = noise or noise_model(data, config)
    parameters = mean_parameters(data, config, start) + noise.parameters(data, config, start)
    return _OBJECTIVES[config.noise](data, config, noise, parameters)


def _first_start(objective: Objective, rough: Rough | None) -> NDArray:
    """The robust picture, or a rough fit; terms that are not known start at their priors' centre."""
    data = objective.data
    start = estimate(data, objective.config)
    known: dict[str, NDArray] = {
        "radial_spline_values": start.radial_spline_values,
        "itl_ratio": np.asarray(start.itl_ratio),
        "log_noise_scale": np.log(np.asarray(start.scatter)),
    }
    if rough is not None:
        known |= rough.parameters
    z = np.zeros(objective.size)
    for p in objective.parameters:
        if p.name in known:
            z[objective.slices[p.name]] = p.to_value(np.ravel(known[p.name])[: p.size].reshape(p.mu.shape))
    return z


def _other_start(objective: Objective, first: NDArray, rng: np.random.Generator, near: bool) -> NDArray:
    """Another start: everything moved by a third of its scale and the noise enlarged, or a tenth of that if ``near``.

    The radial values move by half a per cent (a twentieth): enough to change the signs of the changes of slope, on
    which Akima's weights depend with a kink, so that there are maxima beside each other.
    """
    far = objective.start_distance
    z = first + rng.normal(0.0, 0.03 if near else far, len(first))
    scale = slice(objective.n_mean, None)
    if "radial_spline_values" in objective.slices:
        radial = objective.slices["radial_spline_values"]
        z[radial] = first[radial] + 0.05 * (z[radial] - first[radial])
    z[scale] = first[scale] + (0.1 if near else far / 0.3)
    return z


def _descend(objective: Objective, z: NDArray, kinked: bool) -> End:
    """Newton's way down: first on a few of the bins, then on all; with a kink, for ever less smoothing."""
    steps = 0
    few = objective.on_few_bins(_FEW_BINS)
    if few is not None:
        end = newton(few.with_smoothing(_SMOOTHING[0]), z, _ROUGH)
        z, steps = end.z, end.steps
    for smoothing in _SMOOTHING if kinked else (0.0,):
        end = newton(objective.with_smoothing(smoothing), z, _ROUGH if smoothing > _SMOOTHING[-1] else _FINE)
        z, steps = end.z, steps + end.steps
    return replace(end, steps=steps)


def newton(objective: Objective, start: NDArray | End, tolerance: float) -> End:
    """Newton's steps with halving, until the whitened gradient falls below the tolerance or no step helps.

    Near the end Gauss's curvature, which knows nothing of the residuals, is corrected by what the steps find (BFGS).

    Parameters
    ----------
    objective : Objective
    start : numpy.ndarray, shape (n,), or End
        A point, or the end of earlier steps of the same objective, which these go on from.
    tolerance : float
    """
    if isinstance(start, End):
        z, cost, gradient, curvature = start.z, start.cost, start.gradient, start.curvature
    else:
        z, (cost, gradient, curvature) = start, objective.derivatives(start)
    if not (np.isfinite(curvature).all() and np.isfinite(gradient).all()):
        return End(z, np.inf, np.zeros_like(z), np.eye(len(z)), 0)
    steps = 0
    while steps < _MOST_STEPS:
        root = curvature_root(curvature)
        norm = whitened_norm(root, gradient)
        if norm < tolerance:
            break
        plain = -cho_solve((root, True), gradient)
        step = objective.shortened(plain)
        # of scales that are hard to tell apart, what is shortened one by one may lead uphill
        found = _step(objective, z, cost, gradient, step if gradient @ step < 0 else plain)
        if found is None:
            break
        new, cost_there = found
        corrected = None
        if norm < _NEAR:
            ahead, _ = objective.gradient(new)
            moved, turned = new - z, ahead - gradient
            corrected = _corrected(curvature, moved, turned) if turned @ moved > 0 else None
        if corrected is None or not np.isfinite(corrected).all():
            _, ahead, corrected = objective.derivatives(new)
        if not (np.isfinite(corrected).all() and np.isfinite(ahead).all()):
            break
        steps += 1
        z, cost, gradient, curvature = new, cost_there, ahead, corrected
        # below this, rounding hides the gain in cost: go on only while the gradient still shrinks
        if norm < TOLERANCE and whitened_norm(root, gradient) > 0.9 * norm:
            break
    return End(z, cost, gradient, curvature, steps)


def _corrected(curvature: NDArray, moved: NDArray, turned: NDArray) -> NDArray:
    """The BFGS update: the curvature that explains how the gradient turned, and else changes least."""
    pull = curvature @ moved
    return curvature - np.outer(pull, pull) / (moved @ pull) + np.outer(turned, turned) / (turned @ moved)


def _step(objective, z, cost, gradient, step) -> tuple[NDArray, float] | None:
    """Where the longest of the steps 1, 1/2, 1/4 ... that gains enough (Armijo) ends, and the cost there, or None."""
    expected = gradient @ step
    rounding = 1e-14 * max(abs(cost), len(objective.data))
    for halvings in range(25):
        new = z + step * 0.5**halvings
        cost_there = objective(new)
        if cost_there <= cost + 1e-4 * 0.5**halvings * expected + rounding:
            return new, cost_there
    return None


def _apart(a: End, b: End, n_kinked: int | None) -> float:
    """How far two ends lie apart: in standard deviations, or for kinked bins in the sum of absolute deviations.

    Minus Laplace's log-posterior is that sum over the scale, and the scale is their mean: in units of the sum, the
    difference between two posteriors is that over the number of bins.
    """
    if n_kinked:
        return abs(a.cost - b.cost) / n_kinked
    return float(np.linalg.norm(curvature_root(a.curvature).T @ (a.z - b.z)))


def _polish(density, z: NDArray, root: NDArray) -> tuple[NDArray, float, float, int]:
    """L-BFGS on PyMC's own log-density in whitened coordinates."""

    def whitened(w):
        if not np.isfinite(w).all():
            return np.inf, np.zeros_like(w)
        value, gradient = density(z + solve_triangular(root, w, lower=True, trans="T"))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return np.inf, np.zeros_like(w)
        return value, solve_triangular(root, gradient, lower=True)

    found = minimize(
        whitened,
        np.zeros(len(z)),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 20, "maxiter": 200, "ftol": 0.0, "gtol": 0.1 * TOLERANCE},
    )
    if not np.isfinite(found.x).all() or not np.isfinite(found.fun):
        return z, float(density(z)[0]), np.inf, int(found.nfev) + 1
    end = z + solve_triangular(root, found.x, lower=True, trans="T")
    return end, float(found.fun), float(np.linalg.norm(found.jac)), int(found.nfev) + 1
