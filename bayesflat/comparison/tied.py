"""The dome's gradient tied to the sky's: the sky's product times the fitted ratio of the flats.

Two independent fits differ by errors that the scatter of the detectors causes in each.  The ratio of the flats, in
which the detectors cancel, has much smaller errors.  A dome corrected by this gradient therefore has the shape of the
sky within the errors of the ratio.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import norm

from bayesflat.comparison.posterior import Posterior, parameter_covariance
from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import SCALARS, unit_of


def tied_gradient(
    sky: FlatGradient, dome: FlatGradient, posterior: Posterior, reach: float, converged: bool
) -> FlatGradient:
    """The dome's gradient, at the sky's nodes.

    Parameters
    ----------
    sky, dome : FlatGradient
        Products of two fits; the dome's normalization and metadata are kept.
    posterior : Posterior
        Posterior of the ratio, which is taken as independent of the sky's product.
    reach : float
        Radius of the outermost bin (mm), from the dome's centroid.
    converged : bool

    Returns
    -------
    FlatGradient
        With the uncertainties of the sky and of the ratio, and without noise parameters.
    """
    nodes = sky.radial_spline_nodes
    n, size = len(nodes), len(nodes) + len(SCALARS)
    log_d, rows = posterior.log_radial(nodes)
    centre, of_centre = posterior.centre
    factor = np.exp(log_d + centre)
    values = sky.radial_spline_values * factor
    scalars = {name: getattr(sky, name) + float(posterior.scalars[name][0]) for name in SCALARS}
    by_sky = np.diag(np.concatenate([factor, np.ones(len(SCALARS))]))
    by_ratio = np.zeros((size, len(posterior.covariance)))
    by_ratio[:n] = values[:, None] * (rows + of_centre)
    for k, name in enumerate(SCALARS):
        by_ratio[n + k] = posterior.scalars[name][1]
    covariance = by_sky @ parameter_covariance(sky) @ by_sky + by_ratio @ posterior.covariance @ by_ratio.T
    covariance = 0.5 * (covariance + covariance.T)
    point = np.concatenate([values, [scalars[name] for name in SCALARS]])
    sd = np.sqrt(np.diag(covariance))
    mean = point + 0 * sd  # NaN where the sd is not known
    columns = {key: np.full(size, np.nan) for key in STATISTICS} | {"map": point, "mean": mean, "sd": sd}
    columns |= {key: point + norm.ppf(p) * sd for key, p in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95))}
    names = tuple(f"radial_spline_values[{k}]" for k in range(n)) + SCALARS
    units = tuple(unit_of(name) for name in names)
    header = {
        "RADIUSMX": (round(reach, 4), "largest radius of a bin (mm)"),
        "TIEDTO": (str(sky.metadata.get("CALIB_ID", "")), ""),  # an id leaves no room for a comment
    }
    placed = bool(sky.config.get("radial_spline_nodes_placed", False))
    config = dome.config | {"radial_spline_nodes": nodes.tolist(), "radial_spline_nodes_placed": placed}
    return replace(
        dome, radial_spline_nodes=nodes, radial_spline_values=values, **scalars,
        outer_gradient_radius=sky.outer_gradient_radius,
        estimates=Estimates(names, units, columns, covariance, "laplace", converged, False, header),
        offsets=None, config=config,
    )  # fmt: skip
