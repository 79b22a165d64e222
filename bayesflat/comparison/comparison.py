"""Comparison of sky and dome: whether they differ, where, and by how much in magnitudes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.comparison.differences import LEVELS, DetectorDifference, Difference
from bayesflat.comparison.judgement import Verdict, areas_beyond, judge
from bayesflat.comparison.posterior import Posterior, log_radial_slope, unpaired
from bayesflat.comparison.tied import tied_gradient
from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.model.prepare import FitData, prepare
from bayesflat.quantities import COMPARED, MMAG, TOLERANCE_MMAG, reference_radius
from bayesflat.stages import stage

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bayesflat.comparison.ratio import Paired
    from bayesflat.inference.result import FitResult

log = logging.getLogger(__name__)

ZONES = (317.0, 350.0)  # mm: where vignetting begins on LSSTCam, and where its flats end
_STEP = 1.0  # mm between the radii of the radial difference
_SAME_CENTRE = 0.01  # largest relative difference of a table's centre and its product's normalization
_ACROSS = 8  # positions along a detector's side, without bins


@dataclass(frozen=True)
class Comparison:
    """The differences of dome and sky.

    Attributes
    ----------
    method : str
        ``paired`` (the ratio of the flats, bin by bin, in which the detectors cancel) or ``unpaired`` (the difference
        of two posteriors, which is conservative).
    differences : dict of str to Difference
        Differences of `COMPARED`, in product units; the tolerance of each changes the flat by ``rope_mmag`` at
        ``radius``.
    radius : float
        Radius of reference (mm).
    rope_mmag : float
        Tolerance (mmag).
    at_radius : Difference
        Difference of the radial functions at ``radius`` (mmag).
    grid : numpy.ndarray, shape (n,)
        Radii (mm).
    radial : dict of str to numpy.ndarray, shape (n,)
        ``mean``, ``sd``, ``q05``, ``q95`` of ``-2.5 log10(dome / sky)`` of the radial functions, each about its own
        centroid and normalized at its centre (mmag), or at the innermost bin where the middle has none.
    positions : BinnedFlat
        Positions of the map: the bins, or a grid on each detector; its values have no meaning.
    map_mmag, map_sd : numpy.ndarray, shape (n_positions,)
        ``-2.5 log10(dome / sky)`` of the whole models, relative to the centre, and its sd.
    measured_mmag : numpy.ndarray or None, shape (n_positions,)
        The same of the bins themselves; paired only.
    dome_centre : tuple of float
        Centre of the dome's radial function on the focal plane, from this comparison (mm).
    detectors : list of DetectorDifference
    notes : list of str
        Warnings.
    converged : bool
        Whether both fits, and the fit of the ratio, converged.
    n_bins, n_spoilt : int
        Bins in the fit of the ratio, and outliers among them, which have weight 0.
    noise : dict of str to float
        Noise scales of the ratio (standard deviations of the log-ratio), by effect.
    instrument, physical_filter : str
    tolerances : dict of str to float
        Tolerance of each of `COMPARED`, in product units.
    verdict : Verdict
    parts_mmag : dict of str to float
        Rms over the area of what `bayesflat.apply_gradients` corrects (``corrected``: radial functions, planes,
        centroids) and of what it leaves (``ratio``, ``surface``, ``detectors``); those that are not known are absent.
    tied : FlatGradient or None
        The dome's gradient, from the sky's gradient and the ratio of the flats; paired only.
    """

    method: str
    differences: dict[str, Difference]
    radius: float
    rope_mmag: float
    at_radius: Difference
    grid: NDArray[np.float64]
    radial: dict[str, NDArray[np.float64]]
    positions: BinnedFlat
    map_mmag: NDArray[np.float64]
    map_sd: NDArray[np.float64]
    measured_mmag: NDArray[np.float64] | None
    dome_centre: tuple[float, float]
    detectors: list[DetectorDifference]
    notes: list[str]
    converged: bool
    verdict: Verdict
    parts_mmag: dict[str, float]
    n_bins: int = 0
    n_spoilt: int = 0
    noise: dict[str, float] = field(default_factory=dict)
    instrument: str = ""
    physical_filter: str = ""
    tolerances: dict[str, float] = field(default_factory=dict)
    tied: FlatGradient | None = None

    @property
    def left_over(self) -> str:
        """What a correction leaves, part by part (mmag rms); empty where nothing is known of it."""
        left = ("ratio", "surface", "detectors")
        return ", ".join(f"{name} {self.parts_mmag[name]:.2g}" for name in left if name in self.parts_mmag)


def compare(
    sky: FitResult | FlatGradient,
    dome: FitResult | FlatGradient,
    *,
    binned: tuple[BinnedFlat, BinnedFlat] | None = None,
    camera: Camera | None = None,
    rope_mmag: float = TOLERANCE_MMAG,
    radius: float | None = None,
) -> Comparison:
    """Compare the posteriors of a sky and a dome flat.

    With the bins of both (two results, or products with their binned tables) the comparison is paired: the ratio of the
    flats is fitted bin by bin.  Without them it is the difference of the two posteriors.

    Parameters
    ----------
    sky, dome : FitResult or FlatGradient
    binned : (BinnedFlat, BinnedFlat), optional
        Binned tables of sky and dome, for products.
    camera : Camera, optional
        For two products without bins; by default the one that the sky's product names.
    rope_mmag : float
        Tolerance (mmag).
    radius : float, optional
        Radius at which planes, centroids and radial functions are judged in magnitudes (mm); by default 310 mm, or
        0.85 of the largest common radius of a smaller or larger camera than LSSTCam.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Products of different filters, instruments or pivots; sky and dome swapped; flats without a common bin; a
        tolerance that is not positive; a radius beyond the reach of a product.
    """
    sky_product, sky_data = _parts(sky)
    dome_product, dome_data = _parts(dome)
    notes = check_pair(sky_product, dome_product)
    if not rope_mmag > 0:
        raise InputError(f"rope: the tolerance must be above 0 mmag, got {rope_mmag:g}")
    reach = min(sky_product.reach, dome_product.reach)
    if radius is not None and not 0 < radius <= reach:
        raise InputError(f"radius: {radius:g} mm; must be above 0 and at most {reach:g} mm, which both products know")
    at = radius or reference_radius(reach)
    if binned is not None:
        sky_data, dome_data = (
            prepare(bins, config_of(p).replace(noise="hierarchical", likelihood="normal"))
            for bins, p in zip(binned, (sky_product, dome_product), strict=True)
        )
        for name, data, p in (("sky", sky_data, sky_product), ("dome", dome_data, dome_product)):
            if not abs(data.normalization / p.normalization_factor - 1) < _SAME_CENTRE:
                raise InputError(
                    f"the {name}'s binned table does not belong to its product: the centre reads "
                    f"{data.normalization:.6g}, the product was normalized by {p.normalization_factor:.6g}"
                )
        # beyond the bins of a fit, vignetting or masks may cut bins
        sky_data, dome_data = (
            data.select(p.radius(data.binned.xf, data.binned.yf) <= p.outermost_bin + 1e-3)
            for data, p in ((sky_data, sky_product), (dome_data, dome_product))
        )
    converged = all(p.estimates is None or p.estimates.converged for p in (sky_product, dome_product))
    found: Paired | None = None
    if sky_data is not None and dome_data is not None:
        from bayesflat.comparison.ratio import fit_ratio
        from bayesflat.comparison.ratio_mean import SkyCurve

        stage("ratio of the flats")
        config = config_of(sky_product).scaled_to(sky_data.binned.camera.scale)
        found = fit_ratio(
            sky_data, dome_data, config, curve=SkyCurve.of_product(sky_product),
            itl_ratio=sky_product.itl_ratio, outer=config_of(dome_product).do_fit_outer_gradient,
        )  # fmt: skip
        posterior, positions = found.posterior, found.data.binned
        known = sky_product.radius(positions.xf, positions.yf) <= reach
        reach = min(reach, float(dome_product.radius(positions.xf, positions.yf)[known].max()))
        converged &= found.converged
        if not found.converged:
            notes.append("the fit of the ratio did not converge")
    else:
        posterior = unpaired(sky_product, dome_product)
        positions = _places(sky_product, dome_product, camera or sky_product.camera)
        notes.append(
            "unpaired: the two products are treated as independent, although the flats have the same detectors; the "
            "errors are too large. Give the binned tables for a paired comparison"
        )
    for text in notes:
        log.warning("%s", text)
    # where a hole is in the middle, nodes begin at its edge
    inner = max(float(p.radial_spline_nodes[0]) for p in (sky_product, dome_product))
    if inner > 0:
        posterior = posterior.relative_to(inner)
    comparison = _compared(posterior, found, sky_product, positions, at, (inner, reach), rope_mmag, notes, converged)
    if found is None:
        return comparison
    outermost = np.hypot(positions.xf - comparison.dome_centre[0], positions.yf - comparison.dome_centre[1]).max()
    tied = tied_gradient(sky_product, dome_product, posterior, float(outermost), converged)
    return replace(comparison, tied=tied)


def check_pair(sky: FlatGradient, dome: FlatGradient) -> list[str]:
    """Check that two products can be compared, and return warnings about them.

    Raises
    ------
    InputError
        Sky and dome are swapped, or filters, instruments or pivots differ.
    """
    kinds = [None if p.estimates is None else p.estimates.reference for p in (sky, dome)]
    if kinds == [False, True]:
        raise InputError("the first is a dome's gradient (REFGRAD = F), the second a reference (T): are they swapped?")
    for what in ("physical_filter", "instrument"):
        known = sorted({getattr(p, what) for p in (sky, dome)} - {""})
        if len(known) > 1:
            raise InputError(f"the {what.split('_')[-1]}s differ: {' and '.join(known)}; they must be the same")
    pivots = [(p.centroid_x, p.centroid_y) for p in (sky, dome)]
    if pivots[0] != pivots[1]:
        raise InputError(f"the pivots of planes and centroids differ: {pivots[0]} and {pivots[1]} mm")
    notes = []
    for name, product in (("sky", sky), ("dome", dome)):
        if product.estimates is None:
            notes.append(f"the {name}'s product has no uncertainties (no HDU PARAMETERS)")
        elif not product.estimates.converged:
            notes.append(f"the {name}'s fit did not converge (CONVERGD = F)")
    if kinds in ([True, True], [False, False]):
        notes.append(f"both products are {'references' if kinds[0] else 'gradients of a dome'} by their headers")
    return notes


def zones_of(camera: Camera) -> tuple[tuple[float, float], tuple[str, str, str]]:
    """The radii at which the zones of a camera end (mm), and the zones' names: `ZONES`, scaled to the camera."""
    inner, outer = (camera.scale * radius for radius in ZONES)
    return (inner, outer), (f"inside {inner:.3g}", f"{inner:.3g}-{outer:.3g}", "beyond")


def config_of(product: FlatGradient) -> FitConfig:
    """The configuration of a fit that a product records; fields that it does not record have their defaults."""
    fields = set(FitConfig.model_fields) - {"priors"}  # which an earlier version may have named otherwise
    known = {key: value for key, value in product.config.items() if key in fields and value is not None}
    pivot = {"fp_centroid_x": product.centroid_x, "fp_centroid_y": product.centroid_y}
    return FitConfig.make(known | pivot, "the product's CONFIG")


def _parts(given: FitResult | FlatGradient) -> tuple[FlatGradient, FitData | None]:
    """Product and data."""
    if not isinstance(given, FlatGradient) and not (hasattr(given, "gradient") and hasattr(given, "data")):
        raise InputError(f"compare: a FitResult or a FlatGradient is needed, got {type(given).__name__}")
    return (given, None) if isinstance(given, FlatGradient) else (given.gradient, given.data)


def _places(sky: FlatGradient, dome: FlatGradient, camera: Camera) -> BinnedFlat:
    """A grid of positions on each science detector, within the reach of both products."""
    share = (np.arange(_ACROSS) + 0.5) / _ACROSS
    xs, ys, numbers = [], [], []
    for detector in camera.science():
        px, py = np.meshgrid(share * detector.nx - 0.5, share * detector.ny - 0.5)
        xf, yf = (p.ravel() for p in detector.pixel_to_focal_plane(px, py))
        known = np.ones(len(xf), dtype=bool)
        for product in (sky, dome):
            radius = product.radius(xf, yf)
            known &= (radius <= product.reach) & (product.compute_radial(radius) > 0)
        xs.append(xf[known])
        ys.append(yf[known])
        numbers.append(np.full(int(known.sum()), detector.id))
    x, y, number = np.concatenate(xs), np.concatenate(ys), np.concatenate(numbers)
    if not len(x):
        raise InputError(f"camera {camera.name}: no detector lies where both products know the light")
    itl = np.isin(number, [d.id for d in camera if d.is_itl])
    columns: dict[str, ArrayLike] = {"xf": x, "yf": y, "value": np.ones(len(x)), "detector": number, "itl": itl}
    return BinnedFlat.from_columns(columns, camera, instrument=sky.instrument, physical_filter=sky.physical_filter)


def _compared(
    posterior: Posterior, found: Paired | None, sky: FlatGradient, positions: BinnedFlat, at: float,
    known: tuple[float, float], rope: float, notes: list[str], converged: bool,
) -> Comparison:  # fmt: skip
    """The comparison that follows from a posterior of the log-ratio, within the radii (mm) that both products know."""
    inner, reach = known
    # relative change of the flat at the radius per unit of each quantity
    slope = abs(float(log_radial_slope(sky, np.array([at]))[0]))
    per_unit = {"itl_ratio": 1 / sky.itl_ratio, "centroid_delta": slope, "gradient": at}
    differences, tolerances = {}, {}
    for name in COMPARED:
        difference, row = posterior.scalars[name]
        unit = MMAG * per_unit[name.removesuffix("_x").removesuffix("_y")]
        tolerances[name] = float(rope / unit) if unit > 0 else np.inf
        differences[name] = Difference.normal(float(difference), float(posterior.sd(row[None])[0]), tolerances[name])
    grid = np.unique(np.append(np.arange(inner, reach, _STEP), [at, reach]))
    log_radial, radial_rows = posterior.log_radial(grid)
    radial = _in_mmag(log_radial, posterior.sd(radial_rows))
    k = int(np.searchsorted(grid, at))
    at_radius = Difference.normal(float(radial["mean"][k]), float(radial["sd"][k]), rope)
    mean, rows = posterior.log_ratio(positions.xf, positions.yf, positions.itl)
    of_map = _in_mmag(mean, posterior.sd(rows))
    measured = None
    if found is not None:
        # relative to the centre, as the model is; the level there comes from the fit
        centre = float(np.median((found.log_ratio - mean)[found.data.weight > 0]))
        measured = -MMAG * (found.log_ratio - centre)
    detectors = _by_detector(posterior, positions, mean, rows, sky, measured, None if found is None else found.data)
    offsets = {d.detector: d.found_mmag - d.mean_mmag for d in detectors}
    of_detectors = np.array([offsets[number] for number in positions.detector.tolist()])
    areas, sure = areas_beyond(posterior, (mean, rows), of_detectors, rope)
    return Comparison(
        method="unpaired" if found is None else "paired",
        differences=differences, radius=float(at), rope_mmag=float(rope), at_radius=at_radius, grid=grid, radial=radial,
        positions=positions, map_mmag=of_map["mean"], map_sd=of_map["sd"], measured_mmag=measured,
        dome_centre=_dome_centre(posterior, sky),
        detectors=detectors, notes=notes, converged=converged,
        verdict=judge(grid, radial["mean"], radial["sd"], areas, sure, rope, converged),
        parts_mmag=_parts_mmag(posterior, positions, mean, of_detectors, sky),
        n_bins=0 if found is None else len(found.data),
        n_spoilt=0 if found is None else int(np.sum(found.data.weight == 0)),
        noise={} if found is None else found.scales,
        instrument=sky.instrument, physical_filter=sky.physical_filter, tolerances=tolerances,
    )  # fmt: skip


def _parts_mmag(
    posterior: Posterior, positions: BinnedFlat, mean: NDArray, of_detectors: NDArray, sky: FlatGradient
) -> dict[str, float]:
    """Rms over the positions of what a correction removes and of what it leaves (mmag)."""
    ratio = np.log1p(posterior.scalars["itl_ratio"][0] / sky.itl_ratio)
    of_ratio = np.where(positions.itl, ratio, 0.0)
    parts = {"corrected": mean - of_ratio, "ratio": of_ratio}
    if posterior.log_surface is not None:
        parts["surface"] = posterior.log_surface(positions.xf, positions.yf)
        parts["corrected"] = parts["corrected"] - parts["surface"]
        parts["detectors"] = of_detectors / MMAG
    return {name: float(MMAG * np.sqrt(np.mean(part**2))) for name, part in parts.items() if np.any(part)}


def _dome_centre(posterior: Posterior, sky: FlatGradient) -> tuple[float, float]:
    x, y = (
        getattr(sky, f"centroid_{axis}") + getattr(sky, f"centroid_delta_{axis}")
        + float(posterior.scalars[f"centroid_delta_{axis}"][0])
        for axis in "xy"
    )  # fmt: skip
    return x, y


def _in_mmag(mean: NDArray, sd: NDArray) -> dict[str, NDArray]:
    """A natural log of dome/sky and its sd in mmag, with quantiles."""
    mean, sd = -MMAG * mean, MMAG * sd
    return {"mean": mean, "sd": sd} | {key: mean + level * sd for key, level in LEVELS.items()}


def _by_detector(
    posterior: Posterior,
    positions: BinnedFlat,
    mean: NDArray,
    rows: NDArray,
    sky: FlatGradient,
    measured: NDArray | None,
    data: FitData | None,
) -> list[DetectorDifference]:
    """Means of the log-ratio over the positions of each detector, as fitted and as measured."""
    out = []
    radii, names = zones_of(positions.camera)
    for number in np.unique(positions.detector).tolist():
        here = np.flatnonzero(positions.detector == number)
        detector = positions.camera[number]
        centre = np.hypot(*(detector.corners().mean(axis=0) - (sky.centroid_x, sky.centroid_y)))
        zone = names[int(np.searchsorted(radii, centre))]
        sd = float(MMAG * posterior.sd(rows[here].mean(axis=0)[None])[0])
        fitted, found = float(-MMAG * mean[here].mean()), np.nan
        if measured is not None and data is not None:
            good = here[data.weight[here] > 0]  # the model of bins that are not good is not theirs alone
            if len(good):
                found = fitted + float(np.mean(measured[good] + MMAG * mean[good]))
        out.append(DetectorDifference(number, detector.name, fitted, sd, found, zone))
    return out
