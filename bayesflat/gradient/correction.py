"""Correct a dome flat: on large scales it gets the shape of the reference (sky), the detectors stay as they are.

LSST's arithmetic (``CpFlatApplyGradientsTask``): times the dome's planes, divided by the ratio of the dome's radial
function to the reference's, each about its own centroid, divided by the dome's normalization.  The reference's plane
and normalization are not used, and the throughput ratio of the vendors stays in.  Unlike LSST's, the variance is scaled
too, and pixels beyond the reach of a radial function are flagged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from bayesflat.data.camera import Camera, Detector
from bayesflat.data.flats import Flat
from bayesflat.data.instruments import usual_name
from bayesflat.errors import InputError
from bayesflat.gradient.piecewise import interval
from bayesflat.gradient.product import FlatGradient

log = logging.getLogger(__name__)

_RIM = 0.85  # part of the reach of the bins, from which on a detector's centre is at the rim
ROWS = 64  # of pixels that are corrected at a time: factors of so many stay in the cache


@dataclass(frozen=True)
class Correction:
    """What a detector's flat is multiplied by.

    Attributes
    ----------
    factor : numpy.ndarray of float32, shape (ny, nx)
        1 where there is no correction.
    nowhere : numpy.ndarray of bool, shape (ny, nx)
        Pixels beyond the last node of either radial function, beyond the bins that it was fitted to (where the product
        says how far these reach), or where one of them, or a plane, is not positive.
    """

    factor: NDArray[np.float32]
    nowhere: NDArray[np.bool_]


def check_products(
    gradient: FlatGradient, reference: FlatGradient, physical_filter: str = "", instrument: str = ""
) -> None:
    """Refuse products that do not belong together.

    Parameters
    ----------
    gradient, reference : FlatGradient
        Of the dome and of the sky flat.
    physical_filter, instrument : str
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
        ("instrument", [usual_name(name) for name in (gradient.instrument, reference.instrument, instrument)]),
        ("filter", [gradient.physical_filter, reference.physical_filter, physical_filter]),
    ):
        known = [value for value in values if value]
        if len(set(known)) > 1:
            raise InputError(f"the {what}s differ: {' and '.join(sorted(set(known)))}; they must be the same")


def check_centroids(camera: Camera, *products: FlatGradient) -> None:
    """Refuse products whose radial function has its centre outside the focal plane.

    Raises
    ------
    InputError
        It is farther from the origin than any corner of a science detector.
    """
    for product in products:
        x = product.centroid_x + product.centroid_delta_x
        y = product.centroid_y + product.centroid_delta_y
        if np.hypot(x, y) > camera.radius:
            what = "reference" if product.estimates is not None and product.estimates.reference else "gradient"
            raise InputError(
                f"the {what}'s centroid ({x:g}, {y:g}) mm lies outside the focal plane of {camera.name}, which ends at "
                f"{camera.radius:.0f} mm"
            )


def check_usable(
    gradient: FlatGradient, reference: FlatGradient, force: bool, option: str = "--force (in Python force=True)"
) -> None:
    """Refuse products of fits that did not converge or are unusable; with ``force`` only warn.

    Parameters
    ----------
    gradient, reference : FlatGradient
    force : bool
    option : str
        What sets ``force``, for the message.

    Raises
    ------
    InputError
        One of them is, without ``force``.
    """
    for name, product in (("--gradient", gradient), ("--reference", reference)):
        if product.estimates is None:
            continue
        unusable = product.estimates.header.get("VERDICT", ("", ""))[0] == "unusable"
        if product.estimates.converged and not unusable:
            continue
        what = "is unusable (VERDICT)" if unusable else "is of a fit that did not converge (CONVERGD = F)"
        if not force:
            raise InputError(f"{name} {what}; {option} applies it all the same")
        log.warning("%s %s; it was applied all the same", name, what)


def apply_gradients(flat: Flat, gradient: FlatGradient, reference: FlatGradient, *, force: bool = False) -> Flat:
    """Correct the flat of one detector.

    Parameters
    ----------
    flat : Flat
    gradient : FlatGradient
        Of the dome flat that this is a part of.
    reference : FlatGradient
        Of the sky flat.
    force : bool
        Whether to apply products that did not converge or are unusable.

    Returns
    -------
    Flat
        The image corrected, in its own type where that is a floating one; NaN, and bad where there is a mask, where
        a radial function says nothing.

    Raises
    ------
    InputError
        As `check_products`, `check_usable` and `require_most`.
    """
    check_products(gradient, reference, flat.physical_filter, flat.instrument)
    check_usable(gradient, reference, force)
    image = flat.image.copy() if flat.image.dtype.kind == "f" else flat.image.astype(np.float32)
    bad = None if flat.bad is None else flat.bad.copy()
    flags = None if bad is None else bad.view(np.uint8)
    correct_planes(
        flat.detector, gradient, reference, [(image, 1)], None if flags is None else lambda: flags, 1, np.nan,
        flat.path or flat.detector.name,
    )  # fmt: skip
    return replace(flat, image=image, bad=bad)


def correct_planes(
    detector: Detector,
    gradient: FlatGradient,
    reference: FlatGradient,
    planes: Sequence[tuple[NDArray, int]],
    mask: Callable[[], NDArray] | None,
    bit: int | None,
    empty: float,
    where: str,
) -> bool:
    """Correct the pixels of a detector in place: image, uncertainty, and mask.

    Parameters
    ----------
    detector : Detector
    gradient, reference : FlatGradient
        Of the dome and of the sky flat.
    planes : sequence of (numpy.ndarray, int)
        The image, which comes first, and what goes with a power of its factor: 2 for a variance.
    mask : callable or None
        Returns the mask, of integers; only called where a pixel is to be flagged.
    bit : int or None
        What flags a pixel without data in it; None where it has no such plane.
    empty : float
        What pixels become that the products say nothing of.
    where : str
        What messages call the flat.

    Returns
    -------
    bool
        Whether the mask has changed.

    Raises
    ------
    InputError
        As `require_most`.
    """
    flags, lost = None, 0
    for rows, correction in corrections(detector, gradient, reference):
        nowhere = correction.nowhere
        if nowhere.any():
            if mask is not None and bit is not None:
                flags = mask() if flags is None else flags
                lost += count_good(planes[0][0][rows], nowhere & ((flags[rows] & flags.dtype.type(bit)) == 0))
                flags[rows][nowhere] |= flags.dtype.type(bit)
            else:
                lost += count_good(planes[0][0][rows], nowhere)
        for plane, power in planes:
            with np.errstate(all="ignore"):  # a damaged pixel may hold anything
                plane[rows] *= correction.factor**power
            plane[rows][nowhere] = empty
    if lost:
        among = None if flags is None or bit is None else (flags & flags.dtype.type(bit)) == 0
        require_most(lost, count_good(planes[0][0], among), where, detector, gradient, reference)
    return flags is not None


def count_good(pixels: NDArray, among: NDArray[np.bool_] | None = None) -> int:
    """Number of pixels that read something, of all or among some of them."""
    good = (pixels > 0) & np.isfinite(pixels)
    return int(np.count_nonzero(good if among is None else good & among))


def require_most(lost: int, left: int, where: str, detector: Detector, *products: FlatGradient) -> None:
    """Refuse a correction that leaves less than half of a detector that is not at the rim of the light.

    Parameters
    ----------
    lost, left : int
        Good pixels that the correction says nothing of, and those that stay good.
    where : str
        What the message calls the flat.
    detector : Detector
        Of those at the rim, much may lie beyond the bins.
    *products : FlatGradient

    Raises
    ------
    InputError
        More are lost than left.
    """
    centre = detector.pixel_to_focal_plane(detector.nx / 2, detector.ny / 2)
    # from the middle of the focal plane: the products' own centres may be what is wrong
    at_rim = float(np.hypot(*centre)) > _RIM * min(product.reach for product in products)
    if lost > left and not at_rim:
        raise InputError(
            f"{where}: the correction would leave {left} of {lost + left} good pixels; of the others the products say "
            "nothing (beyond nodes or bins, or not positive). Are they products of this camera?"
        )


def compute_correction(detector: Detector, gradient: FlatGradient, reference: FlatGradient) -> Correction:
    """``plane * outer_plane * reference radial / dome radial / normalization`` at each pixel of a detector.

    Parameters
    ----------
    detector : Detector
    gradient, reference : FlatGradient
        Of the dome and of the sky flat.
    """
    return next(corrections(detector, gradient, reference, detector.ny))[1]


def corrections(
    detector: Detector, gradient: FlatGradient, reference: FlatGradient, n_rows: int = ROWS
) -> Iterator[tuple[slice, Correction]]:
    """The correction of a detector, some of its rows at a time; each is overwritten by the next.

    Parameters
    ----------
    detector : Detector
    gradient, reference : FlatGradient
        Of the dome and of the sky flat.
    n_rows : int
        Rows at a time.

    Yields
    ------
    rows : slice
    correction : Correction
        Of these rows.
    """
    # the corners (0, 0), (1, 0), (0, 1) tell the whole map from pixels to the focal plane
    xf, yf = detector.pixel_to_focal_plane(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    to_focal_plane = np.array([[xf[0], xf[1] - xf[0], xf[2] - xf[0]], [yf[0], yf[1] - yf[0], yf[2] - yf[0]]])
    terms = (
        to_focal_plane, *_radial(gradient), *_radial(reference), (gradient.centroid_x, gradient.centroid_y),
        (gradient.gradient_x, gradient.gradient_y), (gradient.outer_gradient_x, gradient.outer_gradient_y),
        gradient.outer_gradient_radius, gradient.normalization_factor,
    )  # fmt: skip
    shape = (min(n_rows, detector.ny), detector.nx)
    factor, nowhere = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    for first in range(0, detector.ny, shape[0]):
        rows = slice(first, min(first + shape[0], detector.ny))
        part = Correction(factor[: rows.stop - first], nowhere[: rows.stop - first])
        _correct(first, *terms, part.factor, part.nowhere)
        yield rows, part


def _radial(product: FlatGradient) -> tuple[tuple[float, float], NDArray, NDArray, float]:
    """Centre, nodes, and cubics (lowest power first) of the radial function, and the radius to which it is known."""
    nodes = product.radial_spline_nodes
    cubics = Akima1DInterpolator(nodes, product.radial_spline_values, method="akima").c[::-1].T
    centre = product.centroid_x + product.centroid_delta_x, product.centroid_y + product.centroid_delta_y
    # beyond the bins the function is a guess: at a moved centroid's rim a flat corrected by it is lopsided, and the
    # centroid of a refit off by many of its errors
    return centre, nodes, np.ascontiguousarray(cubics), product.reach


@njit(cache=True, error_model="numpy")
def _evaluate(x0, step_x, y0, step_y, centre, nodes, cubics, reach, radius, values):
    """A radial function along a row of pixels, 0 beyond its reach."""
    x0, y0 = x0 - centre[0], y0 - centre[1]
    for i in range(len(radius)):
        x, y = x0 + step_x * i, y0 + step_y * i
        # hypot guards against overflows that millimetres do not have
        radius[i] = np.sqrt(x * x + y * y)
    first, last = nodes[0], len(nodes) - 2
    k = start = 0
    while start < len(radius):
        k = interval(nodes, radius[start], k)
        low, high = nodes[k] if k > 0 else 0.0, nodes[k + 1] if k < last else np.inf
        stop = start + 1
        while stop < len(radius) and low <= radius[stop] < high:
            stop += 1
        # pixels in the same interval
        r, value = radius[start:stop], values[start:stop]
        c0, c1, c2, c3 = cubics[k]
        for i in range(len(r)):
            t = max(r[i], first) - nodes[k]
            found = c0 + t * (c1 + t * (c2 + t * c3))
            value[i] = found if r[i] <= reach else 0.0
        start = stop


@njit(cache=True, error_model="numpy")
def _correct(
    first, to_focal_plane, dome_centre, dome_nodes, dome_cubics, dome_reach, sky_centre, sky_nodes, sky_cubics,
    sky_reach, pivot, plane, outer, outer_radius, normalization, factor, nowhere,
):  # fmt: skip
    """Factors of the rows from ``first`` on."""
    n_rows, nx = factor.shape
    largest = np.finfo(np.float32).max
    radius, dome, sky = np.empty(nx), np.empty(nx), np.empty(nx)
    step_x, step_y = to_focal_plane[0, 1], to_focal_plane[1, 1]
    for j in range(n_rows):
        x0 = to_focal_plane[0, 0] + to_focal_plane[0, 2] * (first + j)
        y0 = to_focal_plane[1, 0] + to_focal_plane[1, 2] * (first + j)
        _evaluate(x0, step_x, y0, step_y, dome_centre, dome_nodes, dome_cubics, dome_reach, radius, dome)
        _evaluate(x0, step_x, y0, step_y, sky_centre, sky_nodes, sky_cubics, sky_reach, radius, sky)
        for i in range(nx):
            dx, dy = x0 - pivot[0] + step_x * i, y0 - pivot[1] + step_y * i
            planes = 1.0 + plane[0] * dx + plane[1] * dy
            planes *= 1.0 + outer[0] * dx + outer[1] * dy if np.sqrt(dx * dx + dy * dy) >= outer_radius else 1.0
            found = planes * sky[i] / (dome[i] * normalization)
            # NaN and infinity are no factors either
            known = (dome[i] > 0.0) & (sky[i] > 0.0) & (found > 0.0) & (found < largest)
            factor[j, i] = found if known else 1.0
            nowhere[j, i] = not known
