"""The normal posterior of the log-ratio of a dome flat and a sky flat, from two products without their bins.

Both flats are of the same detectors, whose throughputs are the largest part of the uncertainty of each product.  They
cancel in the difference, but two posteriors do not show that.  The errors here are therefore too large;
`bayesflat.comparison.ratio` uses the bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import Akima1DInterpolator
from scipy.linalg import block_diag

from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.gradient.spline import akima_basis
from bayesflat.quantities import SCALARS

_MANY = 10_000  # rows of derivatives that are treated at a time
_LEAST = 1e-12  # smallest argument of a log, where a radial function is zero

# mean, shape (m,), and its derivatives by the posterior's parameters, shape (m, n)
Linear = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Posterior:
    """The log of dome/sky, linear in parameters that are jointly normal.

    Attributes
    ----------
    covariance : numpy.ndarray, shape (n, n)
        Covariance of the parameters; NaN where a product has no uncertainties.
    scalars : dict of str to (float, numpy.ndarray)
        Dome minus sky of each scalar of the product, in product units: mean, and derivatives by the parameters, (n,).
    log_radial : callable
        From radius (mm, shape (m,)) to mean and derivatives, shapes (m,) and (m, n), of the log of the ratio of the
        radial functions, each about its own centroid and relative to its centre.
    log_ratio : callable
        From ``xf, yf, itl`` (mm, mm, bool; shapes (m,)) to mean and derivatives of the log of the ratio of the whole
        models.
    centre : (float, numpy.ndarray)
        Log of the ratio of the normalized radial functions at the centre, and its derivatives, (n,).
    log_surface : callable or None
        From ``xf, yf`` to the mean of the part of the log-ratio that is a smooth surface; paired only.
    """

    covariance: NDArray[np.float64]
    scalars: dict[str, tuple[float, NDArray[np.float64]]]
    log_radial: Callable[[ArrayLike], Linear]
    log_ratio: Callable[[ArrayLike, ArrayLike, ArrayLike], Linear]
    centre: tuple[float, NDArray[np.float64]]
    log_surface: Callable[[NDArray, NDArray], NDArray[np.float64]] | None = None

    def sd(self, rows: NDArray) -> NDArray[np.float64]:
        """Standard deviations of quantities from their derivatives: (m, n) to (m,)."""
        parts = (rows[k : k + _MANY] for k in range(0, len(rows), _MANY))
        variance = [np.einsum("mi,mi->m", part @ self.covariance, part) for part in parts]
        return np.sqrt(np.maximum(np.concatenate(variance), 0.0))

    def relative_to(self, radius: float) -> Posterior:
        """The same, relative to the radial functions at a radius (mm) in place of the centre, where no bin may be."""
        (shift,), (row,) = self.log_radial(np.array([radius]))

        def moved(found: Linear) -> Linear:
            return found[0] - shift, found[1] - row

        return replace(
            self,
            log_radial=lambda radii: moved(self.log_radial(radii)),
            log_ratio=lambda x, y, itl: moved(self.log_ratio(x, y, itl)),
            centre=(self.centre[0] + float(shift), self.centre[1] + row),
        )


def unpaired(sky: FlatGradient, dome: FlatGradient) -> Posterior:
    """The difference of two posteriors that are taken as independent.

    Parameters
    ----------
    sky, dome : FlatGradient
        With the same pivot; nodes may differ.  Posterior means are used where a product has them, else its values.

    Returns
    -------
    Posterior
        Its parameters are those of the dome, then those of the sky.
    """
    products = [_at_mean(product) for product in (dome, sky)]
    covariances = [parameter_covariance(product) for product in products]
    covariance = block_diag(*covariances)
    n, first = len(covariance), len(covariances[0])

    def difference(parts: list[Linear]) -> Linear:
        (mean_dome, rows_dome), (mean_sky, rows_sky) = parts
        return mean_dome - mean_sky, np.hstack([rows_dome, -rows_sky])

    scalars = {}
    for k, name in enumerate(SCALARS):
        row = np.zeros(n)
        row[first - len(SCALARS) + k], row[n - len(SCALARS) + k] = 1.0, -1.0
        scalars[name] = (getattr(products[0], name) - getattr(products[1], name), row)
    centre, centre_rows = difference([_log_radial(p, np.zeros(1), relative=False) for p in products])
    return Posterior(
        covariance=covariance,
        scalars=scalars,
        log_radial=lambda radius: difference([_log_radial(p, np.atleast_1d(radius)) for p in products]),
        log_ratio=lambda x, y, itl: difference([_log_model(p, x, y, itl) for p in products]),
        centre=(float(centre[0]), centre_rows[0]),
    )


def parameter_covariance(product: FlatGradient) -> NDArray[np.float64]:
    """Covariance of a product's radial function and `SCALARS`, in this order; NaN where it is not known.

    The radial function is that of the fitted curve, by its coefficients, or else of the values at nodes.
    """
    curve = product.curve
    if curve is not None:
        radial = [f"log_radial[{k}]" for k in range(curve.spline.size)]
    else:
        radial = [f"radial_spline_values[{k}]" for k in range(len(product.radial_spline_nodes))]
    names = [*radial, *SCALARS]
    if product.estimates is None:
        return np.full((len(names), len(names)), np.nan)
    missing = [name for name in names if name not in product.estimates.names]
    if missing:
        raise InputError(f"a product has no row {missing[0]} in PARAMETERS; it cannot be compared")
    rows = [product.estimates.names.index(name) for name in names]
    return product.estimates.covariance[np.ix_(rows, rows)]


def log_radial_slope(product: FlatGradient, radius: NDArray) -> NDArray[np.float64]:
    """Derivative of the log of the radial function (1/mm): of the curve, or else of the spline, 0 beyond its nodes."""
    curve = product.curve
    if curve is not None:
        return curve.spline.slope(curve.mean, radius)
    nodes = product.radial_spline_nodes
    spline = Akima1DInterpolator(nodes, product.radial_spline_values, method="akima")
    inside = (radius >= nodes[0]) & (radius <= nodes[-1])
    at = np.clip(radius, nodes[0], nodes[-1])
    return np.where(inside, spline(at, 1), 0.0) / np.maximum(spline(at), _LEAST)


def _at_mean(product: FlatGradient) -> FlatGradient:
    """The product with posterior means in place of the maximum of the posterior, where it has them."""
    if product.estimates is None or not np.all(np.isfinite(product.estimates.columns["mean"])):
        return product
    mean = dict(zip(product.estimates.names, product.estimates.columns["mean"].tolist(), strict=True))
    values = [mean[f"radial_spline_values[{k}]"] for k in range(len(product.radial_spline_nodes))]
    return replace(product, radial_spline_values=np.array(values), **{name: mean[name] for name in SCALARS})


def _log_radial(product: FlatGradient, radius: NDArray, relative: bool = True) -> Linear:
    """Log of the radial function, relative to its centre or not, and derivatives by the product's parameters."""
    at = np.append(np.asarray(radius, dtype=float), 0.0)
    curve = product.curve
    if curve is not None:
        log_radial, by_radial = curve.spline.evaluate(curve.mean, at), curve.spline.design(at)
    else:
        radial = np.maximum(product.compute_radial(at), _LEAST)
        log_radial = np.log(radial)
        by_radial = akima_basis(product.radial_spline_nodes, product.radial_spline_values, at) / radial[:, None]
    rows = np.hstack([by_radial, np.zeros((len(at), len(SCALARS)))])
    if not relative:
        return log_radial[:-1], rows[:-1]
    return log_radial[:-1] - log_radial[-1], rows[:-1] - rows[-1]


def _log_model(product: FlatGradient, x: ArrayLike, y: ArrayLike, itl: ArrayLike) -> Linear:
    """Log of the model relative to the radial function's centre, and derivatives by the product's parameters."""
    x, y, itl = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(itl, dtype=bool)
    radius = product.radius(x, y)
    mean, rows = _log_radial(product, radius)
    mean = mean + np.where(itl, np.log(product.itl_ratio), 0.0) - np.log(product.compute_plane(x, y))
    dx, dy = x - product.centroid_x, y - product.centroid_y
    slope = log_radial_slope(product, radius) / np.maximum(radius, 1e-9)
    beyond = np.hypot(dx, dy) >= product.outer_gradient_radius
    plane = 1 + product.gradient_x * dx + product.gradient_y * dy
    outer = 1 + product.outer_gradient_x * dx + product.outer_gradient_y * dy
    columns = {
        "itl_ratio": itl / product.itl_ratio,
        "centroid_delta_x": -slope * (dx - product.centroid_delta_x),
        "centroid_delta_y": -slope * (dy - product.centroid_delta_y),
        "gradient_x": -dx / plane,
        "gradient_y": -dy / plane,
        "outer_gradient_x": np.where(beyond, -dx / outer, 0.0),
        "outer_gradient_y": np.where(beyond, -dy / outer, 0.0),
    }
    rows[:, -len(SCALARS) :] = np.column_stack([columns[name] for name in SCALARS])
    return mean, rows
