"""Which quantities a fit can hardly tell apart: correlations of the scalars and of the radial function far out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayesflat.gradient.product import FlatGradient
from bayesflat.gradient.spline import akima_basis
from bayesflat.quantities import REFERENCE_RADIUS, SCALARS

RADII = (REFERENCE_RADIUS, 330.0)  # mm
INNER = (0.85, 0.95)  # of what the bins reach, for cameras that end before these


def correlations(gradient: FlatGradient, radii: Sequence[float] = RADII) -> tuple[list[str], NDArray[np.float64]]:
    """Correlations of the scalars that were fitted and of the radial function at a few radii.

    Parameters
    ----------
    gradient : FlatGradient
        With uncertainties.
    radii : sequence of float
        Radii (mm); those beyond the nodes are left out.  If all are, two near the last node but one stand for them.

    Returns
    -------
    names : list of str, length n
        Scalars as in the product, then ``radial at 310 mm`` ...
    correlation : numpy.ndarray, shape (n, n)

    Raises
    ------
    ValueError
        The product has no uncertainties, or nothing in it was fitted.
    """
    estimates = gradient.estimates
    if estimates is None or not np.all(np.isfinite(estimates.covariance)):
        raise ValueError("the product has no uncertainties (COVARIANCE): there are no correlations")
    nodes = gradient.radial_spline_nodes
    inside = np.array([r for r in radii if nodes[0] <= r <= gradient.reach])
    if not len(inside):
        inside = np.array(INNER) * min(nodes[-2], gradient.reach)
    scalars = [name for name in SCALARS if name in estimates.names]
    names = scalars + [f"radial at {r:.4g} mm" for r in inside]
    # all of them are linear in the parameters, near the fit
    to = np.zeros((len(names), len(estimates.names)))
    for row, name in enumerate(scalars):
        to[row, estimates.names.index(name)] = 1.0
    curve = gradient.curve
    if curve is not None:
        first = estimates.names.index("log_radial[0]")
        to[len(scalars) :, first : first + curve.spline.size] = curve.spline.design(inside)
    else:
        to[len(scalars) :, : len(nodes)] = akima_basis(nodes, gradient.radial_spline_values, inside)
    covariance = to @ estimates.covariance @ to.T
    variance = np.diag(covariance)
    # at a node whose value is fixed, the variance of the radial function is rounding
    rounding = 1e-12 * np.diag(estimates.covariance)[: len(nodes)].max()
    fitted = variance > np.where(np.arange(len(names)) < len(scalars), 0.0, rounding)
    if not fitted.any():
        raise ValueError("the product has no uncertainties (COVARIANCE is 0): there are no correlations")
    sd = np.sqrt(variance[fitted])
    correlation = covariance[np.ix_(fitted, fitted)] / np.outer(sd, sd)
    return [name for name, there in zip(names, fitted, strict=True) if there], correlation


def strongest_correlations(gradient: FlatGradient, most: int = 3) -> list[tuple[str, str, float]]:
    """The pairs of `correlations` that are hardest to tell apart.

    Pairs of two radial values are left out: they are correlated because the radial function is smooth.

    Parameters
    ----------
    gradient : FlatGradient
        With uncertainties.
    most : int
        Number of pairs.

    Returns
    -------
    list of (str, str, float)
        Names and correlation, the strongest first.
    """
    names, found = correlations(gradient)
    pairs = [
        (names[i], names[j], float(found[i, j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if not names[i].startswith("radial")
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))[:most]
