"""Numbers in the report of a fit: by detector, over radius, and the effect of its errors on the flat."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.camera import Detector
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData
from bayesflat.quantities import shown_radii as radii_within

CELLS = 16  # largest number of cells along a side of a detector in a map
STEPS = 90  # largest number of steps of the radial profile
FEWEST = 8  # smallest number of bins in a step of running percentiles
BAND = 1.645  # half width of the central 90% of a normal distribution (standard deviations)
TERMS = {"centroid": "centroid_delta", "plane": "gradient", "outer plane": "outer_gradient"}


def effects(data: FitData, gradient: FlatGradient) -> dict[str, float]:
    """The largest change of the flat that one standard deviation of each quantity causes (fraction).

    Returns
    -------
    dict
        ``throughput ratio``, ``centroid``, ``plane`` and ``outer plane`` where they were fitted, and
        ``radial function``; NaN where the product has no uncertainty.  The x and y components are added in quadrature.
    """
    estimates = gradient.require_estimates()
    r = np.linspace(min(gradient.radial_spline_nodes[0], gradient.reach), gradient.reach, 400)  # where bins are
    radial, sd = gradient.compute_radial(r), gradient.compute_radial_sd(r)
    lit = radial > 0
    slope = float(np.max(np.abs(np.gradient(radial, r))[lit] / radial[lit], initial=0.0))
    # planes are relative to the pivot, the radial function to the centroid; both radii are about the same at the rim
    rim = float(data.radius.max())
    found = {}
    if data.has_ratio:
        found["throughput ratio"] = estimates["itl_ratio"]["sd"] / gradient.itl_ratio
    for name, most in (("centroid", slope), ("plane", rim), ("outer plane", rim)):
        sd_x, sd_y = (estimates[f"{TERMS[name]}_{axis}"]["sd"] for axis in "xy")
        if sd_x != 0.0 and sd_y != 0.0:
            found[name] = float(np.hypot(sd_x, sd_y) * most)
    found["radial function"] = float(np.max(sd[lit] / radial[lit], initial=0.0))
    return found


def shown_radii(gradient: FlatGradient) -> NDArray[np.float64]:
    """Radii at which the radial function is shown (mm): none where no bin is."""
    return np.unique(np.maximum(radii_within(gradient.reach), gradient.radial_spline_nodes[0]))


@dataclass(frozen=True)
class DetectorRow:
    """Residuals and throughput of one detector.

    Attributes
    ----------
    detector : Detector
    rows : numpy.ndarray of int, shape (n_bins,)
        Its bins in the fit.
    group : str
        Name of its group; empty without bins.
    n_outliers : int
        Bins of weight 0.
    residual, rms : float
        Mean of data/model - 1 over the bins of nonzero weight, and the rms about it; NaN without such bins.
    offset, offset_sd : float
        Throughput relative to the vendor's mean, less 1, and its standard deviation; NaN where not known.
    """

    detector: Detector
    rows: NDArray[np.intp]
    group: str
    n_outliers: int
    residual: float
    rms: float
    offset: float
    offset_sd: float

    @property
    def n_bins(self) -> int:
        """Number of bins in the fit."""
        return len(self.rows)


def detector_rows(data: FitData, gradient: FlatGradient) -> list[DetectorRow]:
    """Residuals and throughputs of the detectors that have bins, and of the other science detectors.

    Returns
    -------
    list of DetectorRow
        In the order of the camera.
    """
    binned, offsets = data.binned, gradient.offsets
    residual = residuals(data, gradient)
    throughput = {}
    if offsets is not None:
        whole = offsets.amplifier < 0
        of_detectors = zip(offsets.detector[whole].tolist(), offsets.mean[whole], offsets.sd[whole], strict=True)
        throughput = {number: (float(mean - 1.0), float(sd)) for number, mean, sd in of_detectors}
    groups = binned.groups
    order = np.argsort(binned.detector, kind="stable")
    present, first = np.unique(binned.detector[order], return_index=True)
    parts = dict(zip(present.tolist(), np.split(order, first[1:]), strict=True))
    found = []
    for detector in binned.camera:
        rows = parts.get(detector.id, np.array([], dtype=np.intp))
        if not len(rows) and not detector.is_science:
            continue
        used = residual[rows][(data.weight[rows] > 0) & np.isfinite(residual[rows])]
        offset, offset_sd = throughput.get(detector.id, (math.nan, math.nan))
        found.append(
            DetectorRow(
                detector=detector,
                rows=rows,
                group=groups[0 if binned.itl[rows[0]] else 1] if len(rows) else "",
                n_outliers=int(np.sum(data.weight[rows] == 0)),
                residual=float(used.mean()) if len(used) else math.nan,
                rms=float(used.std()) if len(used) else math.nan,
                offset=offset,
                offset_sd=offset_sd,
            )
        )
    return found


def residuals(data: FitData, gradient: FlatGradient) -> NDArray[np.float64]:
    """Data/model - 1; NaN where the model is not positive."""
    model = gradient.compute_model(data.binned.xf, data.binned.yf, data.itl)
    return np.divide(data.value, model, out=np.full(len(data), np.nan), where=model > 0) - 1.0


def cells(detector: Detector, xf: NDArray, yf: NDArray, values: NDArray, most: int = CELLS) -> NDArray[np.float64]:
    """Means of bins in cells that divide a detector evenly.

    Along a side there are at most ``most`` cells, and no more than there are bins.

    Returns
    -------
    numpy.ndarray, shape (n_y, n_x)
        Cell (0, 0) is at pixel (0, 0); NaN where there is no bin.
    """
    px, py = detector.focal_plane_to_pixel(xf, yf)
    # positions of bins in one row differ by rounding
    n_x, n_y = (max(1, min(most, len(np.unique(np.round(p))))) for p in (px, py))
    column = np.clip(((px + 0.5) * n_x / detector.nx).astype(int), 0, n_x - 1)
    row = np.clip(((py + 0.5) * n_y / detector.ny).astype(int), 0, n_y - 1)
    ok = np.isfinite(values)
    sums, counts = (
        np.bincount((column + n_x * row)[ok], weights, n_x * n_y).reshape(n_y, n_x) for weights in (values[ok], None)
    )
    return np.divide(sums, counts, out=np.full((n_y, n_x), np.nan), where=counts > 0)


@dataclass(frozen=True)
class RadialProfile:
    """Residuals over radius, corrected for the throughputs of amplifiers or detectors.

    Attributes
    ----------
    radius : numpy.ndarray, shape (n,)
        Median radius of the bins in each step, from the centroid (mm); NaN where a step has fewer than `FEWEST`.
    low, median, high : numpy.ndarray, shape (n,)
        Percentiles 16, 50 and 84 of the residuals (fraction) of the bins of nonzero weight.
    freed : str
        Whose throughputs were corrected for: those of ``amplifiers``, or, where the product has none, those of
        ``detectors``, from their means of data / model.
    """

    radius: NDArray[np.float64]
    low: NDArray[np.float64]
    median: NDArray[np.float64]
    high: NDArray[np.float64]
    freed: str


def radial_profile(data: FitData, gradient: FlatGradient) -> RadialProfile:
    """Residuals over radius, corrected for throughputs, whose scatter would hide an error of the radial function."""
    radius, adjusted = adjusted_values(data, gradient)
    throughput = throughput_of_bins(data, gradient)
    freed = "detectors" if throughput is None else "amplifiers"
    if throughput is None:
        of_detector = {row.detector.id: 1.0 + row.residual for row in detector_rows(data, gradient)}
        throughput = np.array([of_detector[detector] for detector in data.binned.detector.tolist()])
    radial = gradient.compute_radial(radius)
    residual = np.divide(adjusted / throughput, radial, out=np.full(len(data), np.nan), where=radial > 0) - 1.0
    edges = np.linspace(0.0, radius.max(), int(np.clip(len(data) // 40, 8, STEPS)) + 1)
    used = data.weight > 0
    at, low, median, high = running_percentiles(radius[used], residual[used], edges)
    return RadialProfile(at, low, median, high, freed)


def throughput_of_bins(data: FitData, gradient: FlatGradient) -> NDArray[np.float64] | None:
    """Throughput of the amplifier of each bin, its detector's included; None where the product has none."""
    binned, offsets = data.binned, gradient.offsets
    if offsets is None:
        return None
    keys = zip(offsets.detector.tolist(), offsets.amplifier.tolist(), strict=True)
    of_place = dict(zip(keys, offsets.mean.tolist(), strict=True))
    places = zip(binned.detector.tolist(), binned.amplifier.tolist(), strict=True)
    return np.array([of_place.get(place, np.nan) for place in places])


# ---- statistics ----


def adjusted_values(data: FitData, gradient: FlatGradient) -> tuple[NDArray, NDArray]:
    """Radius from the centroid (mm), and values corrected for planes and throughput ratio."""
    binned = data.binned
    adjusted = data.value * gradient.compute_plane(binned.xf, binned.yf)
    return gradient.radius(binned.xf, binned.yf), adjusted / np.where(binned.itl, gradient.itl_ratio, 1.0)


def running_percentiles(
    x: NDArray, y: NDArray, edges: NDArray, percentiles: Sequence[float] = (16.0, 50.0, 84.0)
) -> tuple[NDArray, ...]:
    """Percentiles of y between the edges.

    Returns
    -------
    x, percentiles... : numpy.ndarray, shape (len(edges) - 1,)
        The median of x and the percentiles of y in each step; NaN where it holds fewer than `FEWEST` finite y.
    """
    finite = np.isfinite(y)
    order = np.argsort(x[finite])
    x, y = x[finite][order], y[finite][order]
    result = np.full((1 + len(percentiles), len(edges) - 1), np.nan)
    bounds = np.searchsorted(x, edges)
    bounds[-1] = np.searchsorted(x, edges[-1], side="right")  # the last step includes its upper edge
    for step, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop - start >= FEWEST:
            result[0, step] = np.median(x[start:stop])
            result[1:, step] = np.percentile(y[start:stop], percentiles)
    return tuple(result)


def robust_rms(values: NDArray) -> float:
    """1.4826 times the median absolute deviation, which is the rms of a normal distribution."""
    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite - np.median(finite)))) if len(finite) else math.nan


def half_width(deviations: NDArray, percentile: float) -> float:
    """Half width of symmetric limits that contain a percentage of the deviations; at least 1e-6."""
    finite = np.abs(deviations[np.isfinite(deviations)])
    return max(float(np.percentile(finite, percentile)) if len(finite) else 0.0, 1e-6)


def nice(value: float) -> float:
    """Smallest round number that is not below a value, for the end of a scale."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        step * power for step in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0) if step * power >= 0.999 * value
    )
