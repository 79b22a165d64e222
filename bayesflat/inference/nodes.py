"""Spline nodes placed where the data need them.

A rough fit condenses the bins into a fine profile of the radial function with its covariance; to that, Akima splines
are compared without looking at the bins again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from threadpoolctl import threadpool_limits

from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.inference.choice import choice_of_nodes
from bayesflat.inference.profile import smoothed
from bayesflat.inference.rough import Rough, rough_fit
from bayesflat.inference.spline_fit import SplineFit
from bayesflat.model.prepare import FitData

log = logging.getLogger(__name__)

_NUMBERS = (5, 8, 12, 18, 26, 36, 50, 60)  # of nodes that are tried, without the last
# the cost of nodes, in chi-squared: of one, whose variance it adds; and of each unit by which draws of the normal
# approximation miss the spline, where Akima's weights are noise
_NODE, _BENT = 1.0, 40.0
_GAIN, _GAIN_OF_ALL = 0.3, 2.0  # for which a node is moved, and for which all are tried once more
_TURN = 4.0  # standard deviations: where a spline turns less, an optimiser may meet a kink within the noise
_PATIENCE = 2  # numbers in a row that are no better, before no more are tried
_FAR = 20.0  # nodes so few that chi-squared per point of the profile is beyond are not moved
_SMOOTH, _EVEN = 0.01, 0.06  # of the density of nodes: how far it is smoothed (part of the range), and its least
# Akima's weights have kinks, and chi-squared lesser minima between them: given nodes are fitted from several starts
_STARTS, _ASIDE, _SEED = 30, 0.02, 0
# structure is well above the noise this many standard deviations of chi-squared beyond its mean
_CLEAR = 10.0


def with_nodes(data: FitData, config: FitConfig, found: Rough | None = None) -> tuple[FitData, FitConfig, Rough]:
    """Place the nodes of ``radial_spline_nodes = "auto"``.

    Parameters
    ----------
    data : FitData
    config : FitConfig
    found : Rough, optional
        The rough fit of these bins, where it is at hand; else it is made, and bins beyond the full rings are left out.

    Returns
    -------
    data : FitData
        With the nodes.
    config : FitConfig
        With the nodes in place of ``auto``, and marked as placed.
    found : Rough
        With the values at the nodes, and what their choice adds to the errors.
    """
    if found is None:
        found = rough_fit(data, config)
        data = data.select(found.inside)
    with threadpool_limits(1, "blas"):  # many small matrices, over which threads would only wait for each other
        fit = place_nodes(found, float(data.nodes[-1]), config.do_constrain_zero)  # provisional but the last
        return _on(data, config, found, fit)


def _on(data: FitData, config: FitConfig, found: Rough, fit: SplineFit) -> tuple[FitData, FitConfig, Rough]:
    """All three with the nodes of a spline that was fitted to the profile."""
    placed = {"radial_spline_nodes": list(fit.nodes), "radial_spline_nodes_placed": True}
    config = config.model_copy(update=placed)
    return replace(data, nodes=np.array(fit.nodes)), config, _with_values(found, fit, config)


def _with_values(found: Rough, fit: SplineFit, config: FitConfig) -> Rough:
    """The rough fit with a spline's values, and what the choice of its nodes adds to hierarchical noise's errors."""
    # independent noise is there for comparison: what it leaves out, it leaves out
    counts = config.radial_spline_nodes_placed and config.noise == "hierarchical"
    parameters = found.parameters | {"radial_spline_values": fit.values}
    return replace(found, parameters=parameters, choice=choice_of_nodes(fit) if counts else None)


def without_a_node(
    data: FitData, config: FitConfig, found: Rough, values: NDArray, covariance: NDArray
) -> tuple[FitData, FitConfig, Rough] | None:
    """Leave out the node at which the spline turns least, for a fit that ran onto a kink of Akima's weights there.

    Parameters
    ----------
    data, config, found
        As `with_nodes` returns them.
    values : numpy.ndarray, shape (n_nodes,)
        The radial function where the fit ended.
    covariance : numpy.ndarray, shape (n_free, n_free)
        Of the free ones, from the first on.

    Returns
    -------
    tuple or None
        The same without that node; None where the spline turns clearly at all of them, or is not positive without it.
    """
    turns = _turns(data.nodes, values, covariance)
    k = int(np.argmin(turns))
    if not turns[k] < _TURN or len(data.nodes) <= _NUMBERS[0]:
        return None
    fit = SplineFit(found, np.delete(data.nodes, k + 1).tolist(), config.do_constrain_zero)
    if not np.isfinite(fit.chi_squared):
        return None
    log.info("no maximum was found: trying without the spline node at %.2f mm", data.nodes[k + 1])
    return _on(data, config, found, fit)


def _turns(nodes: NDArray, values: NDArray, covariance: NDArray) -> NDArray[np.float64]:
    """By how many standard deviations the slope changes at each inner node."""
    slopes = np.diff(np.eye(len(nodes)), axis=0) / np.diff(nodes)[:, None]
    change = np.diff(slopes, axis=0)
    of_free = change[:, : len(covariance)]
    variance = np.einsum("ki,ij,kj->k", of_free, covariance, of_free)  # below 0 where a fit ended on a kink: no turn
    return np.abs(change @ values) / np.sqrt(np.where(variance > 0, variance, np.inf))


def place_nodes(found: Rough, least: float, constrained: bool) -> SplineFit:
    """Place nodes whose Akima spline follows a profile as well as the data can tell.

    They are placed by the profile without its noise.  They begin spread by the root of the second derivative, to which
    the error of a spline of slopes goes, and are moved one by one, and left out, while that helps.  Several numbers are
    tried.

    Parameters
    ----------
    found : Rough
    least : float
        Least radius of the last node (mm), beyond the profile.
    constrained : bool
        Whether the function is 0 there.

    Returns
    -------
    SplineFit
        The nodes, to a hundredth of a mm, and the radial function at them.

    Raises
    ------
    InputError
        No spline is positive wherever there are bins.
    """
    smooth = replace(found, log_radial=smoothed(found.radius, found.log_radial, found.information)[0])
    spread = _spread(smooth)
    last = _dark(smooth, least) if constrained else least
    numbers = [number for number in _NUMBERS if number <= max(_NUMBERS[0], len(found.radius) // 2)]
    best: SplineFit | None = None
    best_cost, worse = np.inf, 0
    for number in numbers:
        fit = SplineFit(smooth, [*spread(number), last], constrained, least=least)
        if fit.chi_squared > _FAR * len(found.radius) and number < numbers[-1]:
            continue
        fit = _pruned(_moved(_pruned(_moved(fit))))
        placed = SplineFit(found, [round(node, 2) for node in fit.nodes], constrained, start=fit.values)
        cost = _without_bend(fit) + _BENT * placed.bent  # which is that of the fit to come
        log.debug("%d of %d nodes: chi-squared %.0f, cost %.0f", len(fit.nodes), number, fit.chi_squared, cost)
        if best is None or cost < best_cost:
            best, best_cost, worse = placed, cost, 0
            continue
        worse += 1
        if worse == _PATIENCE:
            break
    if best is None or not np.isfinite(best.chi_squared):
        raise InputError('radial_spline_nodes = "auto": no spline that is positive follows the bins; give the nodes')
    if not np.isfinite(best_cost):
        log.warning(
            'radial_spline_nodes = "auto": the radial function is not clearly above 0 wherever there are bins, and how '
            "well the %d nodes suit it cannot be told; raise min_flat_value, or give the nodes",
            len(best.nodes),
        )
    log.info(
        "%d spline nodes placed, chi-squared %.0f of %d points of the profile",
        len(best.nodes), best.chi_squared, len(found.radius),
    )  # fmt: skip
    return best


def _dark(found: Rough, least: float) -> float:
    """Where the light would end, falling on as it does at the rim (mm)."""
    end, value = found.radius[-1], np.exp(found.log_radial)
    inner = min(np.searchsorted(found.radius, 0.98 * end), len(value) - 2)
    slope = (value[inner] - value[-1]) / (end - found.radius[inner])
    return float(np.clip(end + value[-1] / slope if slope > 0 else np.inf, least, 1.5 * least))


def _spread(found: Rough) -> Callable[[int], list[float]]:
    """Any number of nodes, dense where the radial function bends; without the last."""
    first, end = found.radius[0], found.outer
    at = np.linspace(first, end, 400)
    bend = np.abs(CubicSpline(found.radius, np.exp(found.log_radial))(at, 2))
    bend = gaussian_filter1d(bend, 400 * _SMOOTH, mode="nearest")
    density = np.sqrt(bend / bend.max()) + _EVEN
    share = cumulative_trapezoid(density, at, initial=0.0)
    gap = _gap(found)
    start = 0.0 if first < 0.05 * end else float(np.floor(first))

    def nodes(number: int) -> list[float]:
        inner = np.interp(np.linspace(0, share[-1], number), share, at)
        # no nearer to each other than the points of the profile, between which it says nothing
        apart = inner - gap * np.arange(number)
        inner = np.minimum(np.maximum.accumulate(apart), end - gap * (number - 1)) + gap * np.arange(number)
        return [start, *map(float, inner[1:])]

    return nodes


def _gap(found: Rough) -> float:
    """Distance of the points of the profile."""
    return 1.001 * float(np.median(np.diff(found.radius)))


def _cost(fit: SplineFit) -> float:
    """What nodes are judged by: misfit, number, and how far Akima's weights bend the posterior."""
    return _without_bend(fit) + _BENT * fit.bent


def _without_bend(fit: SplineFit) -> float:
    return fit.chi_squared + _NODE * len(fit.nodes)


def _pruned(fit: SplineFit) -> SplineFit:
    """Without the nodes that gain too little."""
    while len(fit.nodes) > _NUMBERS[0]:
        without = [fit.with_nodes(fit.nodes[:k] + fit.nodes[k + 1 :]) for k in range(1, len(fit.nodes) - 1)]
        best = fit
        for other in sorted(without, key=_without_bend):  # whose bend is looked at where it may matter
            if _without_bend(other) >= _cost(best):
                break
            best = min(best, other, key=_cost)
        if best is fit:
            break
        fit = best
    return fit


def _moved(fit: SplineFit) -> SplineFit:
    """Move nodes one by one, by ever smaller steps, while that helps."""
    gap = _gap(fit.found)
    for part in (0.4, 0.2, 0.1, 0.05):
        for _ in range(3):
            before = _cost(fit)
            for k in range(1, len(fit.nodes)):
                for place in _places(fit, k, part, gap):
                    moved = fit.with_nodes([*fit.nodes[:k], place, *fit.nodes[k + 1 :]])
                    wanted = _cost(fit) - _GAIN
                    if _without_bend(moved) < wanted and _cost(moved) < wanted:
                        fit = moved
                        break
            if _cost(fit) > before - _GAIN_OF_ALL:
                break
    return fit


def _places(fit: SplineFit, k: int, part: float, gap: float) -> list[float]:
    """Where node k could go: part of the way to its neighbours."""
    left, here = fit.nodes[k - 1 : k + 1]
    if k + 1 < len(fit.nodes):
        right = fit.nodes[k + 1]
        least, most = left + gap, min(right - gap, fit.found.outer)
        wanted = here + part * (right - here), here - part * (here - left)
    else:
        # where a function ends that falls to 0 sets its slope at the rim
        least, most = (fit.least, 1.5 * fit.least) if fit.constrained else (here, here)
        wanted = here + part * (here - left), here - part * (here - left)
    return [place for place in wanted if least <= place <= most and place != here]


def on_nodes(found: Rough, nodes: NDArray, config: FitConfig) -> Rough:
    """The rough fit with values at given nodes; warns, with figures, where their Akima spline cannot follow the bins.

    Parameters
    ----------
    found : Rough
    nodes : numpy.ndarray, shape (n_nodes,)
        mm.
    config : FitConfig
        Whether the function is 0 at the last one, and whether bins have placed them.

    Raises
    ------
    InputError
        Bins have placed the nodes, but no spline through them is positive wherever there are bins.
    """
    constrained = config.do_constrain_zero
    fits = [SplineFit(found, list(nodes), constrained)]
    rng = np.random.default_rng(_SEED)
    for _ in range(_STARTS):
        start = fits[0].values * (1 + _ASIDE * rng.standard_normal(len(nodes)))
        fits.append(SplineFit(found, list(nodes), constrained, start=start))
    fit = min(fits, key=lambda fit: fit.chi_squared)
    if np.isfinite(fit.chi_squared):
        found = _with_values(found, fit, config)
    elif config.radial_spline_nodes_placed:
        raise InputError(
            "radial_spline_nodes: no spline through the nodes that were placed is positive wherever there are bins; "
            'let "auto" place them anew'
        )
    _warn_of_misfit(found, nodes, fit)
    return found


def _warn_of_misfit(found: Rough, nodes: NDArray, fit: SplineFit) -> None:
    chi, log_radial = fit.chi_squared, fit.log_radial
    n = len(found.radius)
    seen = found.radius <= nodes[-1]
    if not chi > n + _CLEAR * np.sqrt(2 * n):
        return
    # what is left, smoothed a little: single points of the profile are noisy, and anticorrelated
    off = 100 * np.expm1(np.convolve(found.log_radial - log_radial, np.full(3, 1 / 3), mode="same"))[seen][1:-1]
    worst = np.argmax(np.abs(off))
    log.warning(
        "radial_spline_nodes cannot follow the flat: up to %.2f%% is left at %.0f mm (rms %.2f%%), chi-squared %.0f "
        'of %d; "auto" places nodes where they are needed',
        np.abs(off[worst]),
        found.radius[seen][1:-1][worst],
        np.sqrt(np.mean(off**2)),
        chi,
        n,
    )
