"""What the choice of spline nodes by the bins adds to the errors of the radial function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from bayesflat.inference.profile import smoothed
from bayesflat.inference.spline_fit import SplineFit


def choice_of_nodes(fit: SplineFit) -> NDArray[np.float64]:
    """Variance that the values at nodes have beyond that of a fit to which these nodes are given.

    Where the bins themselves have placed the nodes, a posterior that takes them as given claims too much: few nodes
    leave it little freedom, and what made them few was those bins.  The smooth curve by which nodes are placed needs
    none, and says how far the spline may be from the truth.  Each node's value gets an independent error, such that
    along the profile the errors become as large as that, as nearly as a spline of these nodes allows.

    Parameters
    ----------
    fit : SplineFit
        Of the profile itself, with a positive spline.

    Returns
    -------
    numpy.ndarray, shape (n_nodes,)
        Of the logs of the values; 0 where the value is held at 0.

    Notes
    -----
    By the curve's posterior, of mean m and covariance S, the mean square of spline f less truth at a radius is
    ``S + (f - m)**2``.  The given nodes account for ``J N J'`` of it, with J the derivatives of the log of the spline
    by the logs of its values, and N the covariance of these.  The variances w are the least squares solution, relative
    to S, of ``J**2 w`` = what is left, without negative ones (Lawson & Hanson 1974, Solving Least Squares Problems).
    """
    found, values = fit.found, fit.values[fit.free]
    curve, covariance = smoothed(found.radius, found.log_radial, found.information)
    by_logs = fit.jacobian * values
    precision = by_logs.T @ found.information @ by_logs + np.eye(len(values))  # for nodes that no bin feels
    given = np.einsum("ri,ir->r", by_logs, np.linalg.solve(precision, by_logs.T))
    scale = np.diag(covariance)
    left = scale + (fit.log_radial - curve) ** 2 - given
    out = np.zeros(len(fit.nodes))
    out[fit.free] = nnls(by_logs**2 / scale[:, None], left / scale)[0]
    return out


def scaled_choice(choice: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Variances of the values, from those of their logs: shape (n_nodes,)."""
    return choice * values**2
