"""The difference of two posteriors: derivatives against finite differences of the products, errors propagated anew."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from bayesflat.comparison.comparison import MMAG, Difference
from bayesflat.comparison.posterior import parameter_covariance, unpaired
from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import SCALARS

SKY_NODES, SKY_VALUES = [0.0, 15.0, 30.0, 42.0, 50.0, 60.0], [1.01, 0.99, 0.95, 0.83, 0.62, 0.33]
DOME_NODES, DOME_VALUES = [0.0, 20.0, 35.0, 45.0, 62.0], [0.99, 0.97, 0.9, 0.74, 0.3]
POSITIONS = np.array([[3.0, 4.0], [-20.0, 11.0], [31.0, -30.0], [-5.0, -44.0], [47.0, 3.0]]).T
ITL = np.array([True, False, True, False, True])


def product(nodes, values, rng, **fields):
    """A product with correlated errors of every scalar and value, whose means differ from the MAP."""
    names = tuple(f"radial_spline_values[{k}]" for k in range(len(nodes))) + SCALARS
    root = (
        rng.normal(size=(len(names), len(names))) * np.r_[np.full(len(nodes) + 1, 1e-3), 0.02, 0.02, np.full(4, 1e-5)]
    )
    covariance = root.T @ root / len(names)
    gradient = FlatGradient(nodes, values, centroid_x=1.0, centroid_y=-2.0, outer_gradient_radius=40.0, **fields)
    point = np.array([*values, *(getattr(gradient, name) for name in SCALARS)])
    columns = {key: np.full(len(names), np.nan) for key in STATISTICS}
    columns |= {"map": point, "mean": point + 0.3 * np.sqrt(np.diag(covariance)), "sd": np.sqrt(np.diag(covariance))}
    estimates = Estimates(names, ("",) * len(names), columns, covariance, "laplace", True, False)
    return replace(gradient, estimates=estimates)


@pytest.fixture
def pair(rng):
    sky = product(SKY_NODES, SKY_VALUES, rng, itl_ratio=0.93, centroid_delta_x=0.3, gradient_y=2e-5)
    dome = product(DOME_NODES, DOME_VALUES, rng, itl_ratio=0.9, centroid_delta_x=-0.5, centroid_delta_y=0.8,
                   gradient_x=2e-4, outer_gradient_x=1e-4, outer_gradient_y=-3e-5)  # fmt: skip
    return sky, dome


def at_mean(gradient, steps=0.0):
    """The product whose parameters are its posterior's means, moved by some steps."""
    point = gradient.estimates.columns["mean"] + steps
    n = len(gradient.radial_spline_nodes)
    scalars = dict(zip(SCALARS, point[n:].tolist(), strict=True))
    return replace(gradient, radial_spline_values=point[:n], **scalars)


def log_model(gradient):
    """Log of the model, relative to the centre of the radial function, as the product evaluates it."""
    return np.log(gradient.compute_model(*POSITIONS, ITL) / gradient.compute_radial(0.0))


def log_radial(gradient):
    return np.log(gradient.compute_radial([0.0, 10.0, 33.0, 41.0, 58.0]) / gradient.compute_radial(0.0))


def centre(gradient):
    return np.log(gradient.compute_radial([0.0]))


def propagated(gradient, function):
    """Mean and covariance of a function of the product, from derivatives by central differences."""
    sd = gradient.estimates.columns["sd"]
    columns = []
    for k in range(len(sd)):
        step = np.zeros(len(sd))
        step[k] = 1e-4 * sd[k]
        columns.append((function(at_mean(gradient, step)) - function(at_mean(gradient, -step))) / (2e-4 * sd[k]))
    jacobian = np.array(columns).T
    return function(at_mean(gradient)), jacobian @ gradient.estimates.covariance @ jacobian.T


def test_means_and_errors_are_those_of_two_independent_posteriors(pair):
    sky, dome = pair
    found = unpaired(sky, dome)
    at_centre, row = found.centre
    for function, (mean, rows) in (
        (log_model, found.log_ratio(*POSITIONS, ITL)),
        (log_radial, found.log_radial([0.0, 10.0, 33.0, 41.0, 58.0])),
        (centre, (np.array([at_centre]), row[None])),
    ):
        (of_sky, covariance_sky), (of_dome, covariance_dome) = (propagated(p, function) for p in (sky, dome))
        np.testing.assert_allclose(mean, of_dome - of_sky, rtol=0, atol=1e-12)
        wanted = covariance_sky + covariance_dome
        np.testing.assert_allclose(rows @ found.covariance @ rows.T, wanted, rtol=1e-5, atol=1e-9 * np.max(wanted))
        np.testing.assert_allclose(found.sd(rows), np.sqrt(np.maximum(np.diag(wanted), 0.0)), rtol=1e-5, atol=1e-12)
    for name in SCALARS:
        mean, row = found.scalars[name]
        rows = [p.estimates[name] for p in (sky, dome)]
        assert mean == pytest.approx(rows[1]["mean"] - rows[0]["mean"], abs=1e-15)
        assert found.sd(row[None])[0] == pytest.approx(np.hypot(rows[0]["sd"], rows[1]["sd"]), rel=1e-12)


def test_products_without_uncertainties_have_means_only(pair):
    sky, dome = pair
    found = unpaired(replace(sky, estimates=None), dome)
    assert np.all(np.isnan(parameter_covariance(replace(sky, estimates=None))))
    mean, row = found.scalars["itl_ratio"]
    assert mean == pytest.approx(dome.estimates["itl_ratio"]["mean"] - 0.93, abs=1e-15)
    assert np.isnan(found.sd(row[None])[0])


@pytest.mark.parametrize(("mean", "sd", "tolerance"), [(1.5, 0.8, 2.0), (-2.5, 0.4, 2.0), (0.0, 3.0, 0.5)])
def test_probabilities_are_areas_of_the_normal_density(mean, sd, tolerance):
    x = np.linspace(mean - 12 * sd, mean + 12 * sd, 400_001)
    density = norm.pdf(x, mean, sd) * (x[1] - x[0])
    found = Difference.normal(mean, sd, tolerance)
    assert found.p_rope == pytest.approx(density[np.abs(x) > tolerance].sum(), abs=1e-4)
    assert found.tail == pytest.approx(2 * min(density[x > 0].sum(), density[x < 0].sum()), abs=1e-4)
    assert density[x < found.q05].sum() == pytest.approx(0.05, abs=1e-4)
    assert density[x < found.q95].sum() == pytest.approx(0.95, abs=1e-4)


def test_a_difference_that_is_known_exactly_or_not_at_all():
    same, other = Difference.normal(0.0, 0.0, 1.0), Difference.normal(2.0, 0.0, 1.0)
    assert (same.tail, same.p_rope, other.tail, other.p_rope) == (1.0, 0.0, 0.0, 1.0)
    unknown = Difference.normal(2.0, np.nan, 1.0)
    assert unknown.mean == 2.0
    assert np.isnan([unknown.sd, unknown.q05, unknown.tail, unknown.p_rope]).all()


def test_magnitudes():
    assert pytest.approx(-2500 * np.log10(1.001), rel=1e-3) == -MMAG * 1e-3
