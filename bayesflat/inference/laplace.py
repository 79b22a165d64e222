"""Laplace's approximation: a normal posterior with the exact curvature at its maximum, in product units too."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bayesflat.inference.choice import scaled_choice
from bayesflat.inference.linalg import curvature_root
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective

log = logging.getLogger(__name__)

# whitened, one step fits all parameters; so small that the curvature is that at the maximum itself, so large that the
# gradient's rounding (1e-9 or so) does not show
_STEP = 1e-2


@dataclass(frozen=True)
class Laplace:
    """The normal approximation of the posterior.

    Attributes
    ----------
    covariance : numpy.ndarray, shape (n, n)
        Of the model's own coordinates.
    names : list of (str, int)
        Parameter and component of each row of ``product``, in product units.
    product : numpy.ndarray, shape (m, m)
        Covariance of the parameters as the product holds them: with what the choice of nodes adds.
    throughput_sd : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers), or None
        Of the relative throughput of each detector (first) and its amplifiers; hierarchical noise only.
    exact : bool
        Whether the curvature is the exact one; where that is not positive definite (at a kink of the Akima spline) it
        is Gauss's and Newton's.
    """

    covariance: NDArray[np.float64]
    names: list[tuple[str, int]]
    product: NDArray[np.float64]
    throughput_sd: NDArray[np.float64] | None
    exact: bool


def laplace(objective: Objective, found: MapResult, choice: NDArray | None = None) -> Laplace:
    """Curvature at the maximum, and what follows from it.

    The curvature is taken by central differences of the exact gradient along directions in which the posterior has
    unit width.  The same steps give the derivatives of the product.  With hierarchical noise the level and the ratio
    are relative to the detectors present: the scatter of their throughputs at given parameters is added.

    Parameters
    ----------
    objective : Objective
    found : MapResult
    choice : numpy.ndarray, shape (n_nodes,), optional
        `Rough.choice`, which is added in product units.
    """
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        z, root = found.value, curvature_root(found.curvature)
        directions = np.linalg.inv(root)  # rows: whitened unit steps
        bends, slopes_along = [], []
        for direction in directions:
            (up, product_up), (down, product_down) = (objective.gradient(z + s * _STEP * direction) for s in (1, -1))
            bends.append((up - down) / (2 * _STEP))
            slopes_along.append((_flat(product_up) - _flat(product_down)) / (2 * _STEP))
        whitened = np.array(bends) @ directions.T  # curvature in whitened coordinates
        whitened = 0.5 * (whitened + whitened.T)
        exact = bool(np.isfinite(whitened).all() and np.linalg.eigvalsh(whitened)[0] > 0)
        if not exact:
            log.warning(
                "the exact curvature at the maximum is not positive definite (a kink of the spline): "
                "uncertainties are from Gauss's and Newton's instead"
            )
            whitened = np.eye(len(z))
        inverse = np.linalg.inv(whitened)
        slopes = np.array(slopes_along).T  # (m, n) by whitened coordinates
        names = [(name, k) for name, value in found.parameters.items() for k in range(np.size(value))]
        m = len(names)
        covariance = slopes[:m] @ inverse @ slopes[:m].T
        if choice is not None:
            rows = [i for i, (name, _) in enumerate(names) if name == "radial_spline_values"]
            covariance[rows, rows] += scaled_choice(choice, found.parameters["radial_spline_values"])
        throughput_sd = None
        throughputs = objective.throughputs(z)
        if throughputs is not None:
            throughput = throughputs.conditional_mean
            covariance += _from_mean_throughputs(names, found.parameters, throughputs.variance_of_means)
            variance = np.einsum("ij,jk,ik->i", slopes[m:], inverse, slopes[m:], optimize=True)
            throughput_sd = np.sqrt(variance.reshape(throughput.shape) + throughput**2 * throughputs.variance)
        return Laplace(
            covariance=directions.T @ inverse @ directions,
            names=names,
            product=0.5 * (covariance + covariance.T),
            throughput_sd=throughput_sd,
            exact=exact,
        )


def _flat(product: dict[str, NDArray]) -> NDArray[np.float64]:
    """Parameters first, then throughputs."""
    values = [np.ravel(value) for name, value in product.items() if name != "throughput"]
    return np.concatenate([*values, np.ravel(product.get("throughput", []))])


def _from_mean_throughputs(names, product, of_means: NDArray) -> NDArray[np.float64]:
    """Covariance from the vendors' mean throughputs, which scale the radial function and the ratio."""
    by_means = np.zeros((len(names), len(of_means)))
    for row, (name, k) in enumerate(names):
        if name == "radial_spline_values":
            by_means[row, -1] = product[name][k]
        elif name == "itl_ratio":
            by_means[row] = float(product[name]), -float(product[name])
    return by_means * of_means @ by_means.T
