"""Correct a dome flat: on large scales it gets the shape of the reference (sky), the detectors stay as they are.

LSST's arithmetic (``CpFlatApplyGradientsTask``): times the dome's planes, divided by the ratio of the dome's radial
function to the reference's, each about its own centroid, divided by the dome's normalization.  The reference's plane
and normalization are not used, and the throughput ratio of the vendors stays in.  Unlike LSST's, the variance is scaled
too, and pixels that a radial function says nothing of are flagged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from bayesflat.camera import Detector
from bayesflat.errors import InputError
from bayesflat.flats import Flat
from bayesflat.gradient import FlatGradient
from bayesflat.piecewise import interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Correction:
    """What a detector's flat is multiplied by.

    Attributes
    ----------
    factor : numpy.ndarray of float32, shape (ny, nx)
        1 where there is no correction.
    nowhere : numpy.ndarray of bool, shape (ny, nx)
        Pixels beyond the last node of either radial function, beyond the bins that it was fitted to (where the product
        says how far these reach), or where one of them is not positive.
    """

    factor: NDArray[np.float32]
    nowhere: NDArray[np.bool_]


def check_products(gradient: FlatGradient, reference: FlatGradient, physical_filter: str = "") -> None:
    """Refuse products that do not belong together.

    Parameters
    ----------
    gradient, reference : FlatGradient
        Of the dome and of the sky flat.
    physical_filter : str
        Of the flat that is to be corrected, where known.

    Raises
    ------
    InputError
        Dome and reference are swapped (where the products say which they are), or filters or instruments differ.
    """
    for name, product, wanted in (("--gradient", gradient, False), ("--reference", reference, True)):
        if product.estimates is not None and product.estimates.reference != wanted:
            kinds = ("a dome's gradient (REFGRAD = F)", "a reference (REFGRAD = T)")
            raise InputError(f"{name} is {kinds[not wanted]}, it must be {kinds[wanted]}; are the two swapped?")
    for what, values in (
        ("filter", (gradient.physical_filter, reference.physical_filter, physical_filter)),
        ("instrument", (gradient.instrument, reference.instrument)),
    ):
        known = [value for value in values if value]
        if len(set(known)) > 1:
            raise InputError(f"the {what}s differ: {' and '.join(sorted(set(known)))}; they must be the same")


def warn_of_unconverged(gradient: FlatGradient, reference: FlatGradient) -> None:
    """Warn where a product is of a fit that did not converge."""
    for name, product in (("--gradient", gradient), ("--reference", reference)):
        if product.estimates is not None and not product.estimates.converged:
            log.warning("%s is of a fit that did not converge (CONVERGD = F)", name)


def apply_gradients(flat: Flat, gradient: FlatGradient, reference: FlatGradient) -> Flat:
    """Correct the flat of one detector.

    Parameters
    ----------
    flat : Flat
    gradient : FlatGradient
        Of the dome flat that this is a part of.
    reference : FlatGradient
        Of the sky flat.

    Returns
    -------
    Flat
        The image corrected, in its own type where that is a floating one; NaN, and bad where there is a mask, where
        a radial function says nothing.

    Raises
    ------
    InputError
        As `check_products`.
    """
    check_products(gradient, reference, flat.physical_filter)
    warn_of_unconverged(gradient, reference)
    correction = compute_correction(flat.detector, gradient, reference)
    image = corrected(flat.image, correction.factor)
    image[correction.nowhere] = np.nan
    bad = None if flat.bad is None else flat.bad | correction.nowhere
    return replace(flat, image=image, bad=bad)


def corrected(image: NDArray, factor: NDArray, times: int = 1) -> NDArray:
    """Pixels times a power of their factor, in the image's own type where that is a floating one, else in float32."""
    kind = image.dtype.newbyteorder("=") if image.dtype.kind == "f" else np.dtype(np.float32)
    pixels = image.astype(kind)
    for _ in range(times):
        pixels *= factor
    return pixels


def compute_correction(detector: Detector, gradient: FlatGradient, reference: FlatGradient) -> Correction:
    """``plane * outer_plane * reference radial / dome radial / normalization`` at each pixel of a detector.

    Parameters
    ----------
    detector : Detector
    gradient, reference : FlatGradient
        Of the dome and of the sky flat.
    """
    # the corners (0, 0), (1, 0), (0, 1) tell the whole map from pixels to the focal plane
    xf, yf = detector.pixel_to_focal_plane(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    to_focal_plane = np.array([[xf[0], xf[1] - xf[0], xf[2] - xf[0]], [yf[0], yf[1] - yf[0], yf[2] - yf[0]]])
    shape = (detector.ny, detector.nx)
    factor, nowhere = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    _correct(
        to_focal_plane, *_radial(gradient), *_radial(reference), (gradient.centroid_x, gradient.centroid_y),
        (gradient.gradient_x, gradient.gradient_y), (gradient.outer_gradient_x, gradient.outer_gradient_y),
        gradient.outer_gradient_radius, gradient.normalization_factor, factor, nowhere,
    )  # fmt: skip
    return Correction(factor, nowhere)


def _radial(product: FlatGradient) -> tuple[tuple[float, float], NDArray, NDArray, float]:
    """Centre, nodes, and cubics (lowest power first) of the radial function, and the radius to which it is known."""
    nodes = product.radial_spline_nodes
    cubics = Akima1DInterpolator(nodes, product.radial_spline_values, method="akima").c[::-1].T
    centre = product.centroid_x + product.centroid_delta_x, product.centroid_y + product.centroid_delta_y
    # beyond the bins the function is a guess: at a moved centroid's rim a flat corrected by it is lopsided, and the
    # centroid of a refit off by many of its errors
    known = np.inf if product.estimates is None else product.estimates.header.get("RADIUSMX", (np.inf, ""))[0]
    return centre, nodes, np.ascontiguousarray(cubics), float(min(nodes[-1], known))


@njit(cache=True)
def _distance(x, y):
    """As ``hypot``, which guards against overflows that millimetres do not have."""
    return np.sqrt(x * x + y * y)


@njit(cache=True)
def _evaluate(cubics, nodes, r, k):
    """The cubic of interval k at r."""
    t = r - nodes[k]
    return cubics[k, 0] + t * (cubics[k, 1] + t * (cubics[k, 2] + t * cubics[k, 3]))


@njit(cache=True)
def _correct(
    to_focal_plane, dome_centre, dome_nodes, dome_cubics, dome_reach, sky_centre, sky_nodes, sky_cubics, sky_reach,
    pivot, plane, outer, outer_radius, normalization, factor, nowhere,
):  # fmt: skip
    """One pass over the pixels: a full-size detector has 16 million, and reading it takes no longer."""
    kd = ks = 0
    for j in range(factor.shape[0]):
        for i in range(factor.shape[1]):
            x = to_focal_plane[0, 0] + to_focal_plane[0, 1] * i + to_focal_plane[0, 2] * j
            y = to_focal_plane[1, 0] + to_focal_plane[1, 1] * i + to_focal_plane[1, 2] * j
            rd = max(_distance(x - dome_centre[0], y - dome_centre[1]), dome_nodes[0])
            rs = max(_distance(x - sky_centre[0], y - sky_centre[1]), sky_nodes[0])
            kd, ks = interval(dome_nodes, rd, kd), interval(sky_nodes, rs, ks)
            dome, sky = _evaluate(dome_cubics, dome_nodes, rd, kd), _evaluate(sky_cubics, sky_nodes, rs, ks)
            beyond = rd > dome_reach or rs > sky_reach
            if beyond or not dome > 0.0 or not sky > 0.0:
                factor[j, i] = 1.0
                nowhere[j, i] = True
                continue
            dx, dy = x - pivot[0], y - pivot[1]
            value = (1.0 + plane[0] * dx + plane[1] * dy) * sky / (dome * normalization)
            if _distance(dx, dy) >= outer_radius:
                value *= 1.0 + outer[0] * dx + outer[1] * dy
            factor[j, i] = value
            nowhere[j, i] = False
