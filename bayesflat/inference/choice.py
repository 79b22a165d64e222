"""What the choice of spline nodes adds to the errors of the radial function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_triangular

from bayesflat.inference.profile import smoothed
from bayesflat.inference.spline_fit import SplineFit


def choice_of_nodes(fit: SplineFit) -> NDArray[np.float64]:
    """Covariance that the values at nodes have beyond that of a fit to whose bins these nodes were given.

    Where the bins themselves have placed the nodes, the spline is no nearer to the truth than the smooth curve by which
    they were placed, but a posterior that takes them as given has smaller errors: few nodes leave it little freedom.
    What is added makes the covariance at the nodes no smaller than the curve's, in any direction.

    Parameters
    ----------
    fit : SplineFit
        With a positive spline.

    Returns
    -------
    numpy.ndarray, shape (n_nodes, n_nodes)
        Of the logs of the values; 0 where the value is held at 0.

    Notes
    -----
    With ``N`` the covariance of the logs at given nodes, ``N = L L'``, and ``S`` that of the curve there, the
    eigenvalues of ``L**-1 S L'**-1`` are the variances that the curve has where the given nodes have 1.  ``N`` plus
    the parts beyond 1 is the least covariance that shares these directions and is nowhere below ``N`` or ``S``.
    """
    found, free = fit.found, fit.free
    nodes, values = np.asarray(fit.nodes)[free], fit.values[free]
    at_nodes = CubicSpline(found.radius, np.eye(len(found.radius)))(np.clip(nodes, found.radius[0], found.radius[-1]))
    _, curve = smoothed(found.radius, found.log_radial, found.information)
    by_logs = fit.jacobian * values
    precision = by_logs.T @ found.information @ by_logs + np.eye(len(values))  # for nodes that no bin feels
    root = np.linalg.cholesky(np.linalg.inv(precision))
    half = solve_triangular(root, at_nodes, lower=True)
    variances, directions = np.linalg.eigh(half @ curve @ half.T)
    beyond = root @ (directions * np.sqrt(np.maximum(variances - 1.0, 0.0)))
    out = np.zeros((len(fit.nodes), len(fit.nodes)))
    out[free, free] = beyond @ beyond.T
    return out
