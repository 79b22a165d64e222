"""From the binned focal plane to the numbers that are fitted: normalization and cuts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.data.binned import BinnedFlat
from bayesflat.data.grouped import rows_of
from bayesflat.errors import InputError
from bayesflat.model.smooth import TYPICAL

if TYPE_CHECKING:
    from bayesflat.model.radial import RadialPrior

log = logging.getLogger(__name__)

# fewer bins than this at the centre cannot give a median that a dead bin leaves alone
_FEWEST_AT_CENTRE = 3
_DEAD = 0.05  # of the brighter half


@dataclass(frozen=True)
class FitData:
    """The bins that are fitted, and what the model needs to know of them.

    Attributes
    ----------
    binned : BinnedFlat
        The bins that passed the cuts, values as they were.
    value : numpy.ndarray, shape (n_bins,)
        Their values divided by ``normalization``.
    dx, dy : numpy.ndarray, shape (n_bins,)
        Position from the fixed pivot (mm).
    nodes : numpy.ndarray, shape (n_nodes,)
        Nodes of Akima's spline (mm) whose values are fitted, with independent noise; none with hierarchical noise.
    normalization : float
        What the values were divided by.
    level : float
        Typical value at the centre after that: 1, or the median there if nothing is normalized.
    has_ratio : bool
        Whether there are both ITL and other detectors.
    dropped : dict of str to int
        Bins left out, by reason.
    weight : numpy.ndarray, shape (n_bins,)
        Weight of a bin in hierarchical noise: 1, or 0 for outliers such as dust and defects.
    bin_size : float
        Side of the bins (pixels), from their distances; 0 where no two bins of a detector lie in a row.
    smooth : float
        Scale of the smooth fields that hierarchical noise describes (part of a detector's shorter side).
    radial : RadialPrior or None
        Knots and prior of the log of the radial function, with hierarchical noise; None until a first fit has set them.
    odd : dict of (int, int) to float
        Detectors (amplifier -1) and amplifiers that are off as a whole: how many times the scatter of their vendor's
        others they have in hierarchical noise.
    """

    binned: BinnedFlat
    value: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    nodes: NDArray[np.float64]
    normalization: float
    level: float
    dropped: dict[str, int]
    weight: NDArray[np.float64]
    bin_size: float
    smooth: float = TYPICAL
    radial: RadialPrior | None = None
    odd: dict[tuple[int, int], float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.value)

    def select(self, rows: NDArray | slice) -> FitData:
        """The same with some of the bins."""
        return replace(
            self,
            binned=self.binned.select(rows),
            value=self.value[rows],
            dx=self.dx[rows],
            dy=self.dy[rows],
            weight=self.weight[rows],
        )

    @property
    def rim(self) -> float:
        """Radius at which the widths of the priors of planes hold (mm)."""
        return float(self.nodes[-1] if len(self.nodes) else self.radius.max())

    @property
    def radius(self) -> NDArray[np.float64]:
        """Radius from the fixed pivot (mm), shape (n_bins,)."""
        return np.hypot(self.dx, self.dy)

    @property
    def is_odd(self) -> NDArray[np.bool_]:
        """Whether a bin belongs to a detector or an amplifier that is off as a whole, shape (n_bins,)."""
        found, detector, of_bin = np.zeros(len(self), dtype=bool), self.binned.detector, self.binned.amplifier
        for number, amplifier in self.odd:
            found |= (detector == number) & ((of_bin == amplifier) | (amplifier < 0))
        return found

    @property
    def itl(self) -> NDArray[np.bool_]:
        """Whether a bin belongs to an ITL detector, shape (n_bins,)."""
        return self.binned.itl

    @property
    def has_ratio(self) -> bool:
        """Whether there is a throughput ratio: both ITL and other detectors have bins."""
        return bool(self.itl.any() and not self.itl.all())


def prepare(binned: BinnedFlat, config: FitConfig) -> FitData:
    """Normalize and cut.

    The normalization is the median of the good bins within ``normalize_center_radius`` of the pivot.

    With independent noise, where the values at nodes are fitted, bins are used out to the last node, less
    ``centroid_max`` where the centroid is fitted: then no centroid that the prior allows moves a bin beyond the last
    node, where the clipped radial function would pull the centroid.  With nodes still to be placed (``auto``) all bins
    are kept.

    Raises
    ------
    InputError
        No good bin at the centre, the centre not positive, or no bin left after the cuts.
    """
    config = config.scaled_to(binned.camera.scale)
    dx = binned.xf - config.fp_centroid_x
    dy = binned.yf - config.fp_centroid_y
    radius = np.hypot(dx, dy)
    science = np.ones(len(binned), dtype=bool)
    if not config.do_use_non_science_detectors:
        science = ~np.isin(binned.detector, [d.id for d in binned.camera if not d.is_science])
    finite = np.isfinite(binned.value)

    centre = _central_value(binned.value, science & finite & (radius <= config.normalize_center_radius), config)
    normalization = centre if config.do_normalize_center else 1.0
    relative = np.divide(binned.value, centre, where=finite, out=np.full(len(binned), np.nan))
    cuts = {
        "not a science detector": science,
        "not finite": finite,
        f"below min_flat_value ({config.min_flat_value:g})": ~(relative < config.min_flat_value),
        f"above max_flat_value ({config.max_flat_value:g})": ~(relative > config.max_flat_value),
    }
    usable = np.logical_and.reduce(list(cuts.values()))
    nodes = np.empty(0)
    if config.noise == "independent":
        nodes = np.asarray(
            _provisional_nodes(radius[usable].max(initial=1.0), config)
            if config.radial_spline_nodes == "auto"
            else config.nodes
        )
        reach = nodes[-1] - (config.centroid_max if config.do_fit_centroid else 0.0)
        cuts[f"beyond {reach:g} mm"] = radius <= reach
    keep = np.ones(len(binned), dtype=bool)
    dropped = {}
    for reason, passed in cuts.items():
        dropped[reason] = int(np.sum(keep & ~passed))
        keep &= passed
    if not keep.any():
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items() if n)
        raise InputError(f"no bin of {len(binned)} is left to fit: {reasons}")
    for reason, n in dropped.items():
        if n:
            log.info("%d of %d bins left out: %s", n, len(binned), reason)
    kept = binned.select(keep)
    return FitData(
        binned=kept,
        value=binned.value[keep] / normalization,
        dx=dx[keep],
        dy=dy[keep],
        nodes=nodes,
        normalization=float(normalization),
        level=float(centre / normalization),
        dropped=dropped,
        weight=np.ones(int(keep.sum())),
        bin_size=_bin_size(kept),
    )


def _provisional_nodes(reach: float, config: FitConfig) -> list[float]:
    """Nodes that hold all bins within a radius (mm), until better ones are placed."""
    return [0.0, 0.5 * reach, float(np.ceil(reach + (config.centroid_max if config.do_fit_centroid else 0.0)))]


def require_noise(data: FitData, config: FitConfig) -> None:
    """Refuse bins that are ready for another noise model than the config's.

    Raises
    ------
    InputError
        Hierarchical noise without a first fit of the radial function, or independent noise with one.
    """
    if (config.noise == "hierarchical") != (data.radial is not None):
        other = "hierarchical" if data.radial is not None else "independent"
        raise InputError(
            f"noise = {config.noise}, but these bins are ready for {other} noise: fit the binned flat anew"
        )


def _bin_size(binned: BinnedFlat) -> float:
    """Side of the bins (pixels): the least distance between columns or rows of bins of a detector."""
    least = np.inf
    for number, rows in rows_of(binned.detector).items():
        for pixels in binned.camera[number].focal_plane_to_pixel(binned.xf[rows], binned.yf[rows]):
            steps = np.diff(np.unique(np.round(pixels, 3)))
            least = min(least, steps.min(initial=np.inf))
    return float(least) if np.isfinite(least) else 0.0


def _central_value(value: NDArray, centre: NDArray, config: FitConfig) -> float:
    """Median over the central region, dead bins left out."""
    where = (
        f"within normalize_center_radius = {config.normalize_center_radius:g} mm of "
        f"({config.fp_centroid_x:g}, {config.fp_centroid_y:g})"
    )
    central = value[centre]
    # dead bins read zero or below; so many may be dead that the plain median is one of them
    alive = central[central > 0]
    if len(alive) == 0:
        raise InputError(f"no good bin {where} to normalize by; move the pivot, or enlarge the radius")
    # and others may be nearly dead: leave out what is far below the brighter half
    alive = alive[alive >= _DEAD * np.median(alive[alive >= np.median(alive)])]
    if len(alive) < _FEWEST_AT_CENTRE:
        log.warning("only %d good bins %s: the normalization, their median, is not reliable", len(alive), where)
    return float(np.median(alive))
