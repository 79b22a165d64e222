"""Products with estimates, with a curve, and the endings of their files."""

from dataclasses import replace

import numpy as np
import pytest

from bayesflat.gradient.estimates import STATISTICS, Estimates
from tests.gradient.products import FULL, KNOTS, N_KNOTS, NODES, VALUES


@pytest.fixture(params=[".fits", ".yaml", ".ecsv"])
def ending(request):
    return request.param


@pytest.fixture
def estimates():
    names = [f"radial_spline_values[{i}]" for i in range(len(NODES))]
    names += ["itl_ratio", "centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y"]
    names += ["outer_gradient_x", "outer_gradient_y", "log_noise_scale"]
    n = len(names)
    rng = np.random.default_rng(1)
    columns = {key: rng.normal(size=n) for key in STATISTICS}
    for key in ("ess_bulk", "ess_tail", "r_hat"):
        columns[key] = np.full(n, np.nan)
    root = rng.normal(size=(n, n))
    units = [""] * (len(NODES) + 1) + ["mm"] * 2 + ["1/mm"] * 4 + [""]
    header = {"SEED": (17, "seed"), "LOGPOST": (-12.5, "log-posterior"), "GRADNORM": (np.nan, "gradient norm")}
    return Estimates(tuple(names), tuple(units), columns, root @ root.T, "laplace", True, False, header)


@pytest.fixture
def curved(estimates):
    """A product with a fitted curve: rows of the log of the radial function stand last, correlated with all others."""
    rng = np.random.default_rng(8)
    places = np.clip((KNOTS[1:-3] + KNOTS[2:-2] + KNOTS[3:-1]) / 3, 0, 355)
    best = np.log(np.interp(places, NODES, VALUES))
    n = len(estimates.names) + N_KNOTS
    root = 1e-3 * rng.normal(size=(n, n))
    columns = {key: np.append(column, np.full(N_KNOTS, np.nan)) for key, column in estimates.columns.items()}
    columns["map"][-N_KNOTS:] = best
    columns["mean"][-N_KNOTS:] = best + 1e-3
    with_curve = Estimates(
        (*estimates.names, *(f"log_radial[{k}]" for k in range(N_KNOTS))), (*estimates.units, *[""] * N_KNOTS), columns,
        root @ root.T, "laplace", True, False, {"RADIUSMX": (352.5, "largest radius of a bin (mm)")},
    )  # fmt: skip
    return replace(FULL, estimates=with_curve, knots=KNOTS)
