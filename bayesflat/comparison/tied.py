"""The dome's gradient tied to the sky's: the sky's product times the fitted ratio of the flats.

Two independent fits differ by errors that the scatter of the detectors causes in each.  The ratio of the flats, in
which the detectors cancel, has much smaller errors.  A dome corrected by this gradient therefore has the shape of the
sky within the errors of the ratio.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import norm

from bayesflat.comparison.posterior import Posterior
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
    nodes, curve = sky.radial_spline_nodes, sky.curve
    centre, of_centre = posterior.centre
    log_d, rows = posterior.log_radial(nodes)
    factor = np.exp(log_d + centre)
    values = sky.radial_spline_values * factor
    scalars = {name: getattr(sky, name) + float(posterior.scalars[name][0]) for name in SCALARS}
    names = [f"radial_spline_values[{k}]" for k in range(len(nodes))] + list(SCALARS)
    point = np.concatenate([values, [scalars[name] for name in SCALARS]])
    by_sky = np.concatenate([factor, np.ones(len(SCALARS))])  # derivatives
    by_ratio = np.vstack([values[:, None] * (rows + of_centre), [posterior.scalars[name][1] for name in SCALARS]])
    if curve is not None:
        # coefficients that take the log of the ratio at as many places
        places, size = curve.spline.places, curve.spline.size
        log_d, rows = posterior.log_radial(places)
        to_coefficients = np.linalg.inv(curve.spline.design(places))
        names += [f"log_radial[{k}]" for k in range(size)]
        point = np.concatenate([point, curve.best + to_coefficients @ (log_d + centre)])
        by_sky = np.concatenate([by_sky, np.ones(size)])
        by_ratio = np.vstack([by_ratio, to_coefficients @ (rows + of_centre)])
    of_sky, from_best = np.full((len(names), len(names)), np.nan), np.zeros(len(names))
    if sky.estimates is not None:
        at = [sky.estimates.names.index(name) for name in names]
        of_sky = sky.estimates.covariance[np.ix_(at, at)]
        from_best = (sky.estimates.columns["mean"] - sky.estimates.columns["map"])[at]
    covariance = by_sky[:, None] * of_sky * by_sky + by_ratio @ posterior.covariance @ by_ratio.T
    covariance = 0.5 * (covariance + covariance.T)
    sd = np.sqrt(np.diag(covariance))
    mean = point + by_sky * from_best + 0 * sd  # NaN where the sd is not known
    columns = {key: np.full(len(names), np.nan) for key in STATISTICS} | {"map": point, "mean": mean, "sd": sd}
    columns |= {key: mean + norm.ppf(p) * sd for key, p in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95))}
    units = tuple(unit_of(name) for name in names)
    header = {
        "RADIUSMX": (round(reach, 4), "largest radius of a bin (mm)"),
        "TIEDTO": (str(sky.metadata.get("CALIB_ID", "")), ""),  # an id leaves no room for a comment
    }
    # what the fit of the dome was judged by is not of this gradient
    config = {key: value for key, value in dome.config.items() if key != "verdict_reasons"}
    config["radial_spline_nodes"] = nodes.tolist()
    return replace(
        dome, radial_spline_nodes=nodes, radial_spline_values=values, **scalars,
        outer_gradient_radius=sky.outer_gradient_radius,
        estimates=Estimates(tuple(names), units, columns, covariance, "laplace", converged, False, header),
        offsets=None, azimuth=None, config=config, knots=sky.knots, bend_sd=sky.bend_sd,
    )  # fmt: skip
