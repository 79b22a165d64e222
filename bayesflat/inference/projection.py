"""From the fitted curve to the nodes of LSST's product: Akima's spline as close to the curve as it can be at the bins.

The posterior is that of the curve.  Nodes, given or placed, only describe it: they change no other number of a fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.spline import akima_basis
from bayesflat.quantities import MMAG

log = logging.getLogger(__name__)

_CELL = 0.25  # mm, over which bins are taken together
_STEPS, _SETTLED, _ROUGHLY = 60, 1e-11, 1e-3
_RIDGE = 1e-7  # part of all weight that keeps a node that no bin feels on the curve
# automatic nodes: until the misfit is below this (mmag), or this part of the curve's sd; and what is warned of
_GOOD, CLEAR, _GOOD_SD = 0.1, 0.5, 0.3
_FIRST, MOST = 8, 80  # number of nodes
_NEAREST = 0.5  # mm between nodes, at least
_BEYOND = 3  # nodes beyond the outermost bin that continue the curve to where the light ends
_DARK, _DARK_NEAREST = 1.5, 10.0  # of the reach, at most, and mm beyond it, at least: where it ends


@dataclass(frozen=True)
class Curve:
    """The radial function where there are bins.

    Attributes
    ----------
    spline : LogSpline
    coefficients : numpy.ndarray, shape (n,)
        Of its log, in the product's level.
    radius, weight : numpy.ndarray, shape (n_cells,)
        Mean radius of the bins of a ring (mm), and how many they are.
    sd : numpy.ndarray, shape (n_cells,)
        Of the curve relative to its level (mmag); NaN where not known.
    outer : float
        Radius of the outermost bin (mm).
    """

    spline: LogSpline
    coefficients: NDArray[np.float64]
    radius: NDArray[np.float64]
    weight: NDArray[np.float64]
    sd: NDArray[np.float64]
    outer: float

    @classmethod
    def of_bins(
        cls,
        spline: LogSpline,
        coefficients: NDArray,
        radius: NDArray,
        weight: NDArray,
        covariance: NDArray | None = None,
    ) -> Curve:
        """The curve at the radii of weighted bins.

        Parameters
        ----------
        spline : LogSpline
        coefficients : numpy.ndarray, shape (n,)
        radius, weight : numpy.ndarray, shape (n_bins,)
        covariance : numpy.ndarray, shape (n, n), optional
            Of the coefficients.
        """
        cell = (radius / _CELL).astype(np.int64)
        total = np.bincount(cell, weight)
        there = np.flatnonzero(total > 0)
        at = np.bincount(cell, weight * radius)[there] / total[there]
        sd = np.full(len(at), np.nan)
        if covariance is not None:
            # the level, which scales all values alike, is not a matter of nodes
            rows = spline.design(at)
            rows = rows - total[there] @ rows / total.sum()
            sd = MMAG * np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, covariance, rows), 0.0))
        return cls(spline, coefficients, at, total[there], sd, float(radius.max()))

    def __call__(self, radius: NDArray) -> NDArray[np.float64]:
        """The radial function at radii (mm)."""
        return np.exp(self.spline.evaluate(self.coefficients, np.asarray(radius, dtype=float)))


@dataclass(frozen=True)
class Projection:
    """Nodes and the values there.

    Attributes
    ----------
    nodes, values : numpy.ndarray, shape (n_nodes,)
        mm, and the radial function.
    places, curve : numpy.ndarray, shape (n_places,)
        Radii (mm) at which the curve determines the values, and the curve there.
    gain : numpy.ndarray, shape (n_nodes, n_places)
        Derivatives of the values by relative changes of the curve at these places.
    misfit : numpy.ndarray, shape (n_cells,)
        Akima's spline over the curve, less 1 (mmag), at ``radius``.
    radius : numpy.ndarray, shape (n_cells,)
        Within the nodes (mm).
    sd : numpy.ndarray, shape (n_cells,)
        Of the curve there, as `Curve.sd`.
    """

    nodes: NDArray[np.float64]
    values: NDArray[np.float64]
    places: NDArray[np.float64]
    curve: NDArray[np.float64]
    gain: NDArray[np.float64]
    misfit: NDArray[np.float64]
    radius: NDArray[np.float64]
    sd: NDArray[np.float64]

    @property
    def worst(self) -> tuple[float, float]:
        """Largest misfit (mmag), and its radius (mm)."""
        k = int(np.argmax(np.abs(self.misfit)))
        return float(np.abs(self.misfit[k])), float(self.radius[k])

    @property
    def missed(self) -> tuple[float, float] | None:
        """Misfit that is clear of the curve's error and matters (mmag), where it is worst, and its radius (mm)."""
        excess = self.excess(CLEAR)
        k = int(np.argmax(excess))
        return (float(np.abs(self.misfit[k])), float(self.radius[k])) if excess[k] > 1.0 else None

    def excess(self, bearable: float) -> NDArray[np.float64]:
        """Misfit over the larger of ``bearable`` (mmag) and a part of the curve's sd: shape (n_cells,)."""
        return np.abs(self.misfit) / np.fmax(bearable, _GOOD_SD * self.sd)

    def of_draws(self, spline: LogSpline, coefficients: NDArray) -> NDArray[np.float64]:
        """Values at the nodes (..., n_nodes) of draws of the coefficients (..., n): linear in the curves."""
        change = np.exp(coefficients @ spline.design(self.places).T) / self.curve - 1.0
        return self.values + change @ self.gain.T

    def by_coefficients(self, spline: LogSpline) -> NDArray[np.float64]:
        """Derivatives of the values by the coefficients of the log of the curve: shape (n_nodes, n)."""
        return self.gain @ spline.design(self.places)


def project(curve: Curve, config: FitConfig) -> Projection:
    """The nodes of the config, or automatic ones, and the values there.

    Warns where Akima's spline misses the curve by more than `CLEAR` and more than its error lets be seen, and where
    given nodes do not hold all bins.
    """
    automatic = config.radial_spline_nodes == "auto"
    if automatic:
        found = place_nodes(curve, config.do_constrain_zero)
        log.info("%d spline nodes placed, misfit at most %.2f mmag (%.0f mm)", len(found.nodes), *found.worst)
    else:
        found = fit_nodes(curve, np.asarray(config.nodes), config.do_constrain_zero)
        _warn_of_ends(curve, found.nodes)
    if found.missed is not None:
        log.warning(
            "radial_spline_nodes: Akima's spline through %d nodes misses the fitted radial function by %.2g mmag at "
            "%.0f mm%s",
            len(found.nodes), *found.missed,
            "" if automatic else '; "auto" places nodes where they are needed',
        )  # fmt: skip
    return found


def _warn_of_ends(curve: Curve, nodes: NDArray) -> None:
    """Warn of given nodes outside which there are bins: the product holds the first and the last value there."""
    first, last = float(curve.radius[0]), curve.outer
    if nodes[-1] < last:
        log.warning(
            "radial_spline_nodes end at %g mm and bins at %.1f mm: the product's radial function is constant from "
            "there on",
            nodes[-1], last,
        )  # fmt: skip
    if nodes[0] > first:
        log.warning(
            "radial_spline_nodes begin at %g mm and bins at %.1f mm: the product's radial function is constant up to "
            "there",
            nodes[0], first,
        )  # fmt: skip


def fit_nodes(curve: Curve, nodes: NDArray, held: bool = False, settled: float = _SETTLED) -> Projection:
    """Values at given nodes for which Akima's spline is closest to the curve.

    They minimise the sum over the bins of ``(akima / curve - 1)**2``, by Gauss's and Newton's steps from the curve.

    Parameters
    ----------
    curve : Curve
    nodes : numpy.ndarray, shape (n_nodes,)
        mm, ascending; bins beyond the last one are left out.
    held : bool
        Whether the last value is held at 0.
    settled : float
        Steps end where one gains less than this part of the cost.
    """
    inside = (curve.radius <= nodes[-1]) & (curve.radius >= nodes[0])
    inside = inside if inside.any() else np.ones(len(curve.radius), dtype=bool)
    radius, weight = curve.radius[inside], curve.weight[inside] / curve.weight[inside].sum()
    at_bins, at_nodes = curve(radius), curve(nodes)
    free = slice(0, len(nodes) - 1) if held else slice(0, len(nodes))
    values = at_nodes.copy()
    values[free.stop :] = 0.0

    def misfit(v: NDArray) -> tuple[float, NDArray, NDArray]:
        basis = akima_basis(nodes, v, radius)
        off = basis @ v / at_bins - 1.0  # a spline of twice the values is twice the spline
        away = v[free] / at_nodes[free] - 1.0
        return float(weight @ off**2 + _RIDGE * away @ away), off, basis[:, free] / at_bins[:, None]

    cost, off, jacobian = misfit(values)
    for _ in range(_STEPS):
        curvature, pull = _normal_equations(jacobian, weight, at_nodes[free])
        away = values[free] / at_nodes[free] - 1.0
        step = np.linalg.solve(curvature, -pull @ np.concatenate([off, away]))
        for halvings in range(8):
            new = values.copy()
            new[free] += step * 0.5**halvings
            ahead, off_there, jacobian_there = misfit(new)
            if ahead < cost:
                break
        else:
            break
        gained = cost - ahead
        cost, values, off, jacobian = ahead, new, off_there, jacobian_there
        if gained < settled * cost:
            break
    curvature, pull = _normal_equations(jacobian, weight, at_nodes[free])
    places = np.concatenate([radius, nodes[free]])
    gain = np.zeros((len(nodes), len(places)))
    gain[free] = np.linalg.solve(curvature, pull)
    return Projection(nodes, values, places, curve(places), gain, MMAG * off, radius, curve.sd[inside])


def _normal_equations(jacobian: NDArray, weight: NDArray, at_nodes: NDArray) -> tuple[NDArray, NDArray]:
    """Curvature of half the cost, and what takes relative misfits, at bins and nodes, to its slope."""
    weighted = jacobian.T * weight
    ridge = _RIDGE / at_nodes
    return weighted @ jacobian + np.diag(ridge / at_nodes), np.hstack([weighted, np.diag(ridge)])


def place_nodes(curve: Curve, constrained: bool = False) -> Projection:
    """Insert nodes where the misfit is worst, until it is small or there are `MOST` of them.

    One node lies beyond the outermost bin.  With ``constrained`` nodes there continue the curve, and it is 0 where the
    light would end, falling on as it does at the rim.
    """
    first = 0.0 if curve.radius[0] < 0.05 * curve.outer else float(np.floor(curve.radius[0]))
    outer = np.ceil(curve.outer + 1.0)
    nodes = np.round(np.append(np.linspace(first, curve.outer, _FIRST - 1)[:-1], outer), 2)
    if constrained:
        end = _dark(curve)
        nodes = np.append(nodes, np.round(np.linspace(outer, end, _BEYOND + 1)[1:], 2))
    found = fit_nodes(curve, nodes, constrained, _ROUGHLY)
    while len(nodes) < MOST:
        where = _room(nodes, found.radius, found.excess(_GOOD), curve.outer)
        if where is None:
            break
        nodes = np.sort(np.append(nodes, where))
        found = fit_nodes(curve, nodes, constrained, _ROUGHLY)
    return fit_nodes(curve, nodes, constrained)


def _room(nodes: NDArray, radius: NDArray, excess: NDArray, outer: float) -> float | None:
    """Where to insert a node: at the worst place, or in the middle of its interval if a node is there already."""
    for k in np.argsort(-excess):
        if excess[k] <= 1.0:
            return None
        right = int(np.clip(np.searchsorted(nodes, radius[k], side="right"), 1, len(nodes) - 1))
        low, high = nodes[right - 1], min(nodes[right], outer)
        if high - low < 2 * _NEAREST:
            continue
        return round(float(np.clip(radius[k], low + (high - low) / 3, high - (high - low) / 3)), 2)
    return None


def _dark(curve: Curve) -> float:
    """Where the light would end, falling on as it does at the rim (mm)."""
    slope = float(curve.spline.slope(curve.coefficients, np.array([curve.outer]))[0])
    nearest = curve.outer + _DARK_NEAREST
    farthest = max(nearest, _DARK * curve.outer)
    return float(np.clip(curve.outer - 1 / slope if slope < 0 else np.inf, nearest, farthest))
