"""Diagnostics of chains: what passes, what fails, and what the draws say of Laplace."""

import re
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import xarray as xr

from bayesflat.inference import diagnostics
from bayesflat.inference.diagnostics import compare_with_laplace, diagnose


def judged(rng, *, energy=None, divergences=0, knots=None, **draws):
    """`diagnose` of a model with the scalars a and b, or with coefficients whose mean is the radial function."""
    values = {name: rng.normal(size=(2, 500)) for name in "ab"} | draws
    names, radial = list(values), None
    if knots is not None:
        values["log_radial"], radial = (
            knots,
            SimpleNamespace(
                spline=SimpleNamespace(design=lambda radii: np.full((len(radii), knots.shape[-1]), 1 / knots.shape[-1]))
            ),
        )
        names = [*names, "log_radial"]
    energy = rng.normal(size=(2, 500)) if energy is None else energy
    diverging = np.arange(1000).reshape(2, 500) < divergences
    tree = az.from_dict({"posterior": values, "sample_stats": {"energy": energy, "diverging": diverging}})
    data = SimpleNamespace(radial=radial, radius=np.array([0.0, 50.0]))
    objective = SimpleNamespace(data=data, parameters=[SimpleNamespace(name=name) for name in names])
    return diagnose(tree, objective)


def wandering(rng, memory):
    """Two chains that forget slowly, with unit variance."""
    out = rng.normal(size=(2, 500))
    for k in range(1, 500):
        out[:, k] = memory * out[:, k - 1] + np.sqrt(1 - memory**2) * out[:, k]
    return out


def test_good_chains_pass(rng):
    a, b = rng.normal(size=(2, 2, 500))
    found = judged(rng, a=a, b=b)
    assert found.passed
    assert found.r_hat == max(float(az.rhat(x)) for x in (a, b))
    assert found.ess_bulk == min(float(az.ess(x)) for x in (a, b))
    assert found.ess_tail == min(float(az.ess(xr.DataArray(x, dims=("chain", "draw")), method="tail")) for x in (a, b))
    assert found.bfmi == pytest.approx(2.0, rel=0.2)  # independent draws


def test_bad_chains_fail_and_say_what_to_try(rng):
    apart = rng.normal(size=(2, 500)) + np.array([[0.0], [0.4]])
    # bold in some stretches and timid in others: the middle is met often, the tails seldom
    bursts = rng.normal(size=(2, 500)) * np.exp(2 * wandering(rng, 0.98))
    for given, message in (
        ({"b": apart}, "R-hat of b is 1.0"),
        ({"a": wandering(rng, 0.8)}, "bulk ESS of a is "),
        ({"a": bursts}, "tail ESS of a is "),
        ({"divergences": 3}, "3 divergent transitions"),
        # a random walk hardly moves from draw to draw
        ({"energy": np.cumsum(rng.normal(size=(2, 500)), axis=1)}, "E-BFMI is 0.0"),
    ):
        found = judged(rng, **given)
        assert not found.passed
        assert any(message in text for text in found.failures), message
        assert all("try" in text for text in found.failures)


def test_coefficients_are_judged_by_r_hat_alone(rng):
    """Two that differ from chain to chain, one up and one down: their mean, the radial function, is well known."""
    knots = rng.normal(size=(2, 500, 3))
    assert judged(rng, knots=knots).passed
    knots[1] += [0.5, -0.5, 0.0]
    found = judged(rng, knots=knots)
    (text,) = found.failures
    assert re.match(r"R-hat of log_radial\[[01]\] is 1\.0\d\d, above 1.02", text)
    assert found.r_hat < 1.01
    slow = np.stack([wandering(rng, 0.9), np.zeros((2, 500))], axis=-1)
    slow[..., 1] = rng.normal(size=(2, 500)) * 20 - slow[..., 0]
    found = judged(rng, knots=slow)
    assert not any("ESS" in text for text in found.failures)


def test_laplace_and_draws_are_compared():
    names = ["fine", "shifted", "wide", "held"]
    zeros, ones = np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0])
    found = compare_with_laplace(names, zeros, ones, np.array([0.4, 0.6, 0.0, 0.0]), np.array([1.0, 1.0, 1.5, 0.0]))
    assert found == [
        "shifted: the MAP is 0.6 sd from the median of the draws",
        "wide: the sd of the draws is 1.50 times Laplace's",
    ]
    assert diagnostics.SD_RATIO == (0.7, 1.4)
