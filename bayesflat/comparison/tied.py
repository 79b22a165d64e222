"""The dome's gradient tied to the sky's: the sky's product times what the ratio of the flats says.

Two fits of their own differ by what each makes of the detectors at its own radii.  The ratio of the flats, in which
detectors cancel, is known much better.  A dome corrected by this gradient therefore has the sky's shape as well as the
bins can tell.
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
        Of fits of their own; the dome's normalization and metadata are kept.
    posterior : Posterior
        Of the ratio; what it says of the sky's product is taken as independent of it.
    reach : float
        Radius of the outermost bin (mm), from the dome's centroid.
    converged : bool

    Returns
    -------
    FlatGradient
        With the sky's uncertainties and those of the ratio; without those of the noise.
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
    columns = {key: np.full(size, np.nan) for key in STATISTICS} | {"map": point, "mean": point + 0 * sd, "sd": sd}
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
