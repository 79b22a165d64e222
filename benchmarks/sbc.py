"""Simulation-based calibration of NUTS: parameters from the priors, bins from the model, ranks of the truth.

    python benchmarks/sbc.py -o docs/images -j 2

Where sampling is right, the rank of the truth among independent draws of the posterior is uniform (Talts et al. 2018,
arXiv:1804.06788), whatever the posterior's shape.  The ranks' ECDF is held to a band within which it stays at all ranks
at once (Säilynoja et al. 2022, Stat. Comput. 32, 32).  Unlike in a fit, no bin is cut and no prior knows the data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from results import CODE, parser, run
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

import bayesflat
from bayesflat.config import FitConfig
from bayesflat.data.camera import Camera, Detector
from bayesflat.gradient.curve import LogSpline
from bayesflat.gradient.spline import spread_knots
from bayesflat.inference.estimates import make_gradient
from bayesflat.inference.fitting import sample
from bayesflat.inference.hierarchical import HierarchicalObjective
from bayesflat.inference.laplace import laplace
from bayesflat.inference.map import End, find_map, make_objective, newton
from bayesflat.inference.projection import Curve, fit_nodes
from bayesflat.inference.result import FitResult
from bayesflat.model.build import build_model
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.prepare import FitData, prepare
from bayesflat.model.radial import RadialPrior
from bayesflat.report.plots_fit import save_figure
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise

SAME = 0.05  # difference in log-posterior
KEPT = 99  # draws that are left after thinning; a rank is one of KEPT + 1
LEVEL = 0.99  # of the band, for all ranks and all quantities at once
SETTINGS = {
    "noise": "hierarchical",
    "do_normalize_center": False,
    "min_flat_value": 1e-9,
    "max_flat_value": 1e9,
    "do_fit_centroid": True,
    "do_fit_gradient": True,
    "centroid_max": 5.0,
}
PRIORS = {
    "itl_ratio": {"mu": 1.0, "sigma": 0.05},
    "centroid_delta": {"mu": [0.0, 0.0], "sigma": 1.0},
    "gradient": {"mu": [0.0, 0.0], "sigma": 1e-3},
}
SIGMA_LOG_SCALE = 0.5
NODES = np.array([0.0, 12.0, 24.0, 34.0, 45.0])  # of the product, which are no matter here
# the prior of the radial function, which in a fit is set from the bins: about a vignetting, with some bends of its own
SPLINE = LogSpline(spread_knots(0.0, 48.0, 6, 120))
RADIAL = RadialPrior(
    SPLINE,
    mean=np.interp(SPLINE.places, [0.0, 12.0, 24.0, 34.0, 45.0], np.log([1.0, 0.97, 0.9, 0.8, 0.65])),
    bending=np.full(SPLINE.size - 2, 5e-4**2),
)
GROUPS = {
    "radial function and ratio": ("log_radial", "itl_ratio"),
    "centroid and plane": ("centroid_delta", "gradient"),
    "noise scales": ("log_noise_scales",),
    "relative to the detectors present": ("product", "throughput"),
}


# ---- ranks ----


def rank(truth: ArrayLike, draws: ArrayLike) -> NDArray[np.int64]:
    """How many draws lie below the truth; draws along the first axis."""
    return np.sum(np.asarray(draws) < np.asarray(truth), axis=0)


def thinned(draws: NDArray, kept: int = KEPT) -> NDArray:
    """That many draws, evenly spaced, of an array whose first axes are chain and draw."""
    flat = draws.reshape(-1, *draws.shape[2:])
    return flat[np.linspace(0, len(flat) - 1, kept).round().astype(int)]


def ecdf_counts(ranks: ArrayLike, n_ranks: int) -> NDArray[np.int64]:
    """How many ranks are at most 0, 1, ..., n_ranks - 2 (all are at most the last)."""
    return np.cumsum(np.bincount(ranks, minlength=n_ranks))[:-1]


@cache
def ecdf_band(
    n: int, n_ranks: int, level: float, n_simulations: int = 20_000, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least and greatest counts of `ecdf_counts` within which uniform ranks stay, all at once, with a probability.

    At each rank the count is binomial; the tail probability at which to cut it, the same everywhere, is found by
    simulation.

    Parameters
    ----------
    n : int
        Number of replicates.
    n_ranks : int
        Ranks are 0 .. n_ranks - 1.
    level : float
        Probability.
    n_simulations, seed : int
        Of sets of n uniform ranks.

    Returns
    -------
    low, high : numpy.ndarray of int, shape (n_ranks - 1,)
    """
    share = np.arange(1, n_ranks)[:, None] / n_ranks
    counts = np.arange(n + 1)
    tails = 2 * np.minimum(binom.cdf(counts, n, share), binom.sf(counts - 1, n, share))
    rng = np.random.default_rng(seed)
    least = np.empty(n_simulations)
    for part in np.array_split(np.arange(n_simulations), max(1, n_simulations // 2000)):
        drawn = rng.multinomial(n, np.full(n_ranks, 1 / n_ranks), size=len(part)).cumsum(axis=1)[:, :-1]
        least[part] = tails[np.arange(n_ranks - 1), drawn].min(axis=1)
    cut = np.sort(least)[int((1 - level) * n_simulations)]
    accepted = tails >= cut * (1 - 1e-9)
    return accepted.argmax(axis=1), n - accepted[:, ::-1].argmax(axis=1)


def outside(ranks: ArrayLike, n_ranks: int, level: float) -> bool:
    """Whether the ECDF of ranks leaves the band."""
    counts = ecdf_counts(ranks, n_ranks)
    low, high = ecdf_band(len(np.asarray(ranks)), n_ranks, level, max(20_000, int(20 / (1 - level))))
    return bool(np.any((counts < low) | (counts > high)))


# ---- one replicate ----


def small_camera() -> Camera:
    """Six detectors of 20 mm, three of each vendor, with four amplifiers each."""
    common = {"purpose": "science", "yaw": 0.0, "nx": 200, "ny": 200, "pixel_size": 0.1}
    common |= {"refpos_x": 99.5, "refpos_y": 99.5, "amp_nx": 2, "amp_ny": 2}
    detectors = [
        Detector(
            id=3 * j + i,
            name=f"R{j}{i}_S00",
            physical_type="ITL" if (i + j) % 2 else "E2V",
            x=21.0 * (i - 1),
            y=21.0 * (j - 0.5),
            **common,
        )
        for j in range(2)
        for i in range(3)
    ]
    return Camera("SixCam", detectors)


def empty_data() -> tuple[FitData, FitConfig, HierarchicalNoise]:
    """Bins of 8 x 8 to a detector with no values yet, the config with all its priors, and the noise model."""
    binned = simulate_binned(small_camera(), Light(radial=([0, 50], [1, 1])), Noise.none(), 0, bin_factor=25,
                             detector_boundary=0)  # fmt: skip
    binned = replace(binned, value=np.ones(len(binned)))
    data = replace(prepare(binned, FitConfig(**SETTINGS)), radial=RADIAL)
    noise = HierarchicalNoise(data)
    usual = make_objective(data, FitConfig(**SETTINGS), noise).parameters[-1]
    scales = {"mu": usual.mu.tolist(), "sigma": SIGMA_LOG_SCALE}  # whose default priors know nothing of the data
    return data, FitConfig(**SETTINGS, priors=PRIORS | {"log_noise_scales": scales}), noise


def draw_data(seed: int) -> tuple[HierarchicalObjective, dict[str, NDArray]]:
    """Parameters from the priors, effects and bins from the noise model.

    Returns
    -------
    objective : HierarchicalObjective
        Of the bins that were drawn.
    truth : dict of str to numpy.ndarray
        By parameter; further ``product itl_ratio``, ``product log_radial`` and ``throughput``, which are
        those of the detectors that were drawn.
    """
    rng = np.random.default_rng([seed, 78])
    data, config, noise = empty_data()
    objective = make_objective(data, config, noise)
    truth = {p.name: p.draw(rng) for p in objective.parameters}
    covariance, effects = noise.covariance(truth["log_noise_scales"]), noise.effects
    own = rng.normal(0.0, np.sqrt(covariance.own[effects.vendor]))
    drawn = effects.all_effects(own, rng.normal(0.0, np.sqrt(covariance.shared)))
    log_residual = effects.expand(drawn) + np.sqrt(covariance.white) * rng.standard_normal(len(data))
    value = np.exp(objective.mean(truth) + log_residual)
    data = replace(prepare(replace(data.binned, value=value), config), radial=RADIAL)
    if len(data) != len(value) or not np.all(data.weight == 1):
        raise AssertionError("a bin was cut: the model that is fitted is not the one that was drawn from")
    product = noise.relative_to_present(truth, noise.throughput(drawn))
    truth["product itl_ratio"] = product["itl_ratio"]
    truth["product log_radial"] = product["log_radial"]
    truth["throughput"] = product["throughput"][:, 0]
    return make_objective(data, config, noise), truth


def descend(objective: HierarchicalObjective, start: NDArray) -> End:
    """The maximum that Newton's steps come to; steps that go too far are taken back."""
    with np.errstate(all="ignore"):
        return newton(objective, start, 1e-2)


def replicate(seed: int) -> dict[str, Any]:
    """Draw, fit, sample and rank: a row of the results."""
    import arviz as az

    began = time.perf_counter()
    objective, truth = draw_data(seed)
    model = build_model(objective.data, objective.config, objective.noise)
    found = find_map(model, objective)
    of_truth = np.concatenate([p.to_value(truth[p.name]) for p in objective.parameters])
    from_truth = descend(objective, of_truth).cost
    approximation = laplace(objective, found)
    radius = np.hypot(objective.data.dx, objective.data.dy)
    curve = Curve.of_bins(SPLINE, found.parameters["log_radial"], radius, objective.data.weight)
    nodes = fit_nodes(curve, NODES)
    gradient = make_gradient(objective, objective.config, found, approximation, nodes, ())
    result = FitResult(objective.data, objective.config, objective, found, approximation, gradient, nodes)
    sampled = sample(result, cores=1, seed=seed)
    tree = sampled.posterior
    z = tree["unconstrained"]["z"].values
    draws = [objective.to_parameters(point) for point in thinned(z)]
    posterior = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    for name in ("itl_ratio", "log_radial"):
        posterior[f"product {name}"] = thinned(tree["posterior"][name].values)
    posterior["throughput"] = thinned(tree["posterior"]["throughput"].values)
    ranks = {}
    for name, value in truth.items():
        found_ranks = np.ravel(rank(value, posterior[name])).tolist()
        ranks |= dict(zip(_labels(name, objective.noise.labels, len(found_ranks)), found_ranks, strict=True))
    return {
        "seed": seed,
        "setup": setup(),
        "code": CODE,
        "seconds": time.perf_counter() - began,
        "converged": found.converged,
        "message": found.message,
        "below_descent_from_truth": bool(objective(found.value) > from_truth + SAME),
        "ess": float(az.ess(tree["unconstrained"].to_dataset())["z"].min()),
        "divergences": int(tree["sample_stats"]["diverging"].sum()),
        "draws": int(tree["posterior"].sizes["draw"]),
        "passed": bool(sampled.diagnostics.passed),
        "ranks": ranks,
    }


def _labels(name: str, scales: Sequence[str], size: int) -> list[str]:
    """Names of the components."""
    if name == "log_noise_scales":
        return [f"{name}[{scale}]" for scale in scales]
    return [name] if size == 1 else [f"{name}[{k}]" for k in range(size)]


def setup() -> dict[str, Any]:
    """What results must have in common to be counted together."""
    defaults = FitConfig()
    sampler = {"draws": defaults.draws, "tune": defaults.tune, "chains": defaults.chains, "kept": KEPT}
    priors = PRIORS | {"log_noise_scales": SIGMA_LOG_SCALE}
    return {"version": bayesflat.__version__, "config": SETTINGS, "priors": priors, "sampler": sampler}


# ---- all of them ----


def gather(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.int64]]:
    """Ranks of each quantity over the replicates."""
    return {name: np.array([row["ranks"][name] for row in rows]) for name in rows[0]["ranks"]}


def each_level(n_quantities: int) -> float:
    """Level of the band of one quantity, with which all of them stay inside with a probability of `LEVEL` or more."""
    return 1 - (1 - LEVEL) / n_quantities


def summary_table(ranks: Mapping[str, NDArray]) -> tuple[Table, bool]:
    """The summary to print, and whether every quantity is inside its band."""
    n, level = len(next(iter(ranks.values()))), each_level(len(ranks))
    table = Table(title=f"Simulation-based calibration, {n} replicates")
    for name in ("quantity", "mean rank", "largest ECDF difference", ""):
        table.add_column(name, justify="left" if name in ("quantity", "") else "right")
    good = True
    share = np.arange(1, KEPT + 1) / (KEPT + 1)
    for name, found in ranks.items():
        difference = ecdf_counts(found, KEPT + 1) / n - share
        out = outside(found, KEPT + 1, level)
        good &= not out
        worst = difference[np.argmax(np.abs(difference))]
        table.add_row(
            name.replace("[", r"\["), f"{found.mean() / KEPT:.3f}", f"{worst:+.3f}",
            "[red]OUTSIDE[/]" if out else "[green]inside[/]",
        )  # fmt: skip
    return table, good


def plot_sbc(ranks: Mapping[str, NDArray]) -> Figure:
    """Differences of the ranks' ECDF from that of uniform ranks, in panels, with the simultaneous bands."""
    n, n_ranks = len(next(iter(ranks.values()))), KEPT + 1
    share = np.arange(n_ranks + 1) / n_ranks
    figure = Figure(figsize=(11.0, 7.6), facecolor="white", layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    bands = [
        (each_level(len(ranks)), "0.92", f"{100 * LEVEL:.0f}% band for all {len(ranks)} quantities at once"),
        (LEVEL, "0.83", f"{100 * LEVEL:.0f}% band for one"),
    ]
    for panel, (title, names) in zip(panels, GROUPS.items(), strict=True):
        for level, shade, label in bands:
            low, high = ecdf_band(n, n_ranks, level, max(20_000, int(20 / (1 - level))))
            edges = [np.r_[0, bound, n] / n - share for bound in (low, high)]
            panel.fill_between(share, *edges, color=shade, lw=0, label=label)
        panel.axhline(0.0, color="0.4", lw=0.9)
        shown = [name for name in ranks if name.split("[")[0].split(" ")[0] in names]
        for k, name in enumerate(shown):
            difference = np.r_[0, ecdf_counts(ranks[name], n_ranks), n] / n - share
            out = outside(ranks[name], n_ranks, bands[0][0])
            style = {"color": "#d7191c", "lw": 2.0, "zorder": 4} if out else {"color": _hue(k, len(shown)), "lw": 1.1}
            panel.plot(share, difference, label=name if out else None, **style)
        panel.set_title(f"{title} ({len(shown)})", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
        amiss = [line for line in panel.lines if line.get_zorder() == 4]
        if amiss:
            panel.legend(handles=amiss, fontsize=8, frameon=False, loc="upper right")
    figure.legend(handles=panels[0].collections, fontsize=9, frameon=False, loc="outside upper center", ncols=2)
    panels[0].set_xlim(0, 1)
    figure.supxlabel(f"rank of the truth among {KEPT} draws, as a fraction", fontsize=11)
    figure.supylabel(f"ECDF of {n} replicates minus uniform", fontsize=11)
    return figure


def _hue(k: int, n: int):
    """A colour of its own for each line."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.05 + 0.85 * k / max(1, n - 1))


def main() -> int:
    options = parser(__doc__, "sbc.jsonl").parse_args()
    path = options.results or options.o.resolve().parent / "sbc.jsonl"
    rows, failed = run(replicate, range(options.seed, options.seed + options.n), (), path, setup(), options.j)
    if not rows:
        return 1
    ranks, console = gather(rows), Console()
    table, good = summary_table(ranks)
    console.print(table, width=max(console.width, 90))
    ess, divergences = (np.array([row[key] for row in rows]) for key in ("ess", "divergences"))
    below = sum(row["below_descent_from_truth"] for row in rows)
    console.print(
        f"a descent from the truth ends higher than the fit in {below} of {len(rows)} replicates (all are counted)",
        highlight=False,
    )
    console.print(
        f"{sum(not row['converged'] for row in rows)} of {len(rows)} fits did not converge (all are counted); "
        f"{failed} failed; {divergences.sum()} divergences; least ESS {np.median(ess):.0f} (median), "
        f"below {KEPT} in {np.sum(ess < KEPT)}; "
        f"{np.median([row['draws'] for row in rows]):.0f} draws a chain (median); "
        f"gates failed in {sum(not row['passed'] for row in rows)}; "
        f"{np.median([row['seconds'] for row in rows]):.1f} s a replicate (median)",
        highlight=False,
    )
    options.o.mkdir(parents=True, exist_ok=True)
    save_figure(plot_sbc(ranks), Path(options.o) / "sbc.png")
    console.print(f"{options.o / 'sbc.png'} and {path} written", highlight=False)
    return 0 if good and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
