"""Laplace's approximation: a normal posterior with the exact curvature at its centre, in product units too."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bayesflat.inference.linalg import curvature_root
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective

log = logging.getLogger(__name__)

# whitened, one step fits all parameters: so small that the curvature is that at the centre itself, so large that the
# gradient's rounding (1e-9 or so) does not show; both are less than 1e-4 of the curvature
_STEP = 3e-5
# steps to the restricted maximum, and where they end (standard deviations): it need not be met exactly
_RESTRICTED_STEPS, _RESTRICTED_NEAR = 12, 0.02


@dataclass(frozen=True)
class Laplace:
    """The normal approximation of the posterior.

    Attributes
    ----------
    centre : numpy.ndarray, shape (n,)
        Its mean, in the model's own coordinates.  With hierarchical noise the scales are those of the restricted
        likelihood: at the maximum of the posterior, where the mean follows the bins best, they are somewhat too small.
    covariance : numpy.ndarray, shape (n, n)
        Of the model's own coordinates.
    mean : dict of str to numpy.ndarray
        The parameters at the centre, as the product holds them.
    names : list of (str, int)
        Parameter and component of each row of ``product``, in product units.
    product : numpy.ndarray, shape (m, m)
        Covariance of the parameters as the product holds them.
    throughput_sd : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers), or None
        Of the relative throughput of each detector (first) and its amplifiers; hierarchical noise only.
    exact : bool
        Whether the curvature is the exact one; where that is not positive definite (with independent noise, at a kink
        of Akima's spline) it is Gauss's and Newton's.
    """

    centre: NDArray[np.float64]
    covariance: NDArray[np.float64]
    mean: dict[str, NDArray]
    names: list[tuple[str, int]]
    product: NDArray[np.float64]
    throughput_sd: NDArray[np.float64] | None
    exact: bool


def laplace(objective: Objective, found: MapResult) -> Laplace:
    """Centre and curvature, and what follows from them.

    The centre is the maximum of the posterior, with noise scales of the restricted likelihood (REML).

    Along the coefficients of the radial function's log, in which the residuals are linear, curvature and derivatives of
    the product are known in closed form.  Along all other parameters they are differences of the exact gradient.  With
    hierarchical noise the level and the ratio are relative to the detectors present: the scatter of their throughputs
    at given parameters is added.

    Parameters
    ----------
    objective : Objective
    found : MapResult
    """
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        z, gauss = _restricted(objective, found)
        names = [(name, k) for name, value in found.parameters.items() for k in range(np.size(value))]
        m, n = len(names), len(z)
        linear = objective.linear
        curvature = np.zeros((n, n))
        curvature[linear, linear] = gauss[linear, linear]
        slopes = _slopes_along_linear(objective, z)
        # directions in which the posterior has unit width, given the linear parameters
        rest = np.setdiff1d(np.arange(n), np.arange(n)[linear])
        directions = np.linalg.inv(curvature_root(gauss[np.ix_(rest, rest)]))
        bends, slopes_along = [], []
        gradient, product = objective.gradient(z)
        for direction in directions:
            moved = z.copy()
            moved[rest] += _STEP * direction
            ahead, product_ahead = objective.gradient(moved)
            bends.append((ahead - gradient) / _STEP)
            slopes_along.append((_flat(product_ahead) - _flat(product)) / _STEP)
        back = np.linalg.inv(directions)  # from derivatives along the directions to those by the parameters
        columns = back @ np.array(bends)
        curvature[rest] = columns
        curvature[:, rest] = columns.T
        curvature[np.ix_(rest, rest)] = 0.5 * (columns[:, rest] + columns[:, rest].T)
        slopes[:, rest] = (back @ np.array(slopes_along)).T
        root = curvature_root(gauss)
        whitened = np.linalg.solve(root, np.linalg.solve(root, curvature).T)
        whitened = 0.5 * (whitened + whitened.T)
        exact = bool(np.isfinite(whitened).all() and np.linalg.eigvalsh(whitened)[0] > 0)
        if not exact:
            log.warning(
                "the exact curvature is not positive definite: uncertainties are from Gauss's and Newton's instead"
            )
            whitened = np.eye(n)
        unwhiten = np.linalg.inv(root)
        inverse = unwhiten.T @ np.linalg.inv(whitened) @ unwhiten
        covariance = slopes[:m] @ inverse @ slopes[:m].T
        throughput_sd = None
        throughputs = objective.throughputs(z)
        if throughputs is not None:
            throughput = throughputs.conditional_mean
            covariance += _from_mean_throughputs(names, objective.product(z), throughputs.variance_of_means)
            variance = np.einsum("ij,jk,ik->i", slopes[m:], inverse, slopes[m:], optimize=True)
            throughput_sd = np.sqrt(variance.reshape(throughput.shape) + throughput**2 * throughputs.variance)
        mean = {name: value for name, value in objective.product(z).items() if name != "throughput"}
        return Laplace(
            centre=z,
            mean=mean,
            covariance=0.5 * (inverse + inverse.T),
            names=names,
            product=0.5 * (covariance + covariance.T),
            throughput_sd=throughput_sd,
            exact=exact,
        )


LOOSE = 0.5  # sd of the log of a detectors' scatter, beyond which a normal approximation is not to be relied on


def loosely_known(objective: Objective, approximation: Laplace) -> dict[str, float]:
    """Scatters of detectors that are hardly known, each with the factor to which it is; empty for many detectors."""
    scales = objective.parameters[-1]
    labels = objective.noise.coords().get("noise_scale", [])
    covariance = approximation.covariance[objective.slices[scales.name], objective.slices[scales.name]]
    sd = np.ravel(scales.transform.scale) * np.sqrt(np.diag(covariance))
    return {
        label: float(np.exp(width))
        for label, width in zip(labels, sd, strict=False)
        if label.startswith("detector") and width > LOOSE
    }


def _restricted(objective: Objective, found: MapResult) -> tuple[NDArray, NDArray]:
    """The maximum of the posterior with scales for which the mean is integrated out, and the curvature there."""
    z, best, nearest, part = found.value, (found.value, found.curvature), np.inf, 1.0
    for _ in range(_RESTRICTED_STEPS):
        added = objective.restricted(z)
        if not np.any(added):
            break
        _, gradient, curvature = objective.derivatives(z)
        root = curvature_root(curvature)
        slope = np.linalg.solve(root, gradient + added)
        distance = float(np.linalg.norm(slope))
        if distance < nearest:
            best, nearest = (z, curvature), distance
        else:  # Fisher's information is less than the scales' curvature: whole steps go too far
            part *= 0.5
        if distance < _RESTRICTED_NEAR:
            break
        z = z - part * np.linalg.solve(root.T, slope)
    return best


def _slopes_along_linear(objective: Objective, z: NDArray) -> NDArray[np.float64]:
    """Derivatives of the product by the linear parameters, in the order of `_flat`; 0 by all others: (m, n)."""
    product = _flat(objective.product(z))
    slopes = np.zeros((len(product), len(z)))
    by_radial = objective.product_by_radial(z)
    if by_radial:
        n = by_radial["log_radial"].shape[-1]
        parts = [by_radial[name].reshape(-1, n) for name in by_radial if name != "throughput"]
        scale = np.diag(objective.parameters[0].transform.jacobian(z[objective.linear]))
        slopes[:, objective.linear] = np.concatenate([*parts, by_radial["throughput"].reshape(-1, n)]) * scale
    return slopes


def _flat(product: dict[str, NDArray]) -> NDArray[np.float64]:
    """Parameters first, then throughputs."""
    values = [np.ravel(value) for name, value in product.items() if name != "throughput"]
    return np.concatenate([*values, np.ravel(product.get("throughput", []))])


def _from_mean_throughputs(
    names: list[tuple[str, int]], product: dict[str, NDArray], of_means: NDArray
) -> NDArray[np.float64]:
    """Covariance from the vendors' mean throughputs, which scale the radial function and the ratio."""
    by_means = np.zeros((len(names), len(of_means)))
    for row, (name, _) in enumerate(names):
        if name == "log_radial":
            by_means[row, -1] = 1.0
        elif name == "itl_ratio":
            by_means[row] = float(product[name]), -float(product[name])
    return by_means * of_means @ by_means.T
