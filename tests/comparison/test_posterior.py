"""The difference of two posteriors: derivatives against finite differences of the products, errors propagated anew."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.stats import norm

from bayesflat.comparison.differences import Difference
from bayesflat.comparison.posterior import parameter_covariance, unpaired
from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import MMAG, SCALARS

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


# ---- products with a fitted curve ----


def with_curve(gradient, edges, rng):
    """The product with a curve whose mean is a per mille or so off its nodes, and correlated with everything."""
    knots = np.concatenate([np.full(3, edges[0]), edges, np.full(3, edges[-1])])
    places = np.clip((knots[1:-3] + knots[2:-2] + knots[3:-1]) / 3, knots[0], knots[-1])
    best = np.log(np.interp(places, gradient.radial_spline_nodes, gradient.radial_spline_values))
    old, n = gradient.estimates, len(places)
    m = len(old.names)
    root = np.zeros((m + n, m + n))
    root[:m, :m] = np.linalg.cholesky(old.covariance)
    root[m:, m:] = 1e-3 * rng.normal(size=(n, n))
    root[m:, :m] = 3e-4 * rng.normal(size=(n, m))
    columns = {key: np.append(column, np.full(n, np.nan)) for key, column in old.columns.items()}
    columns["map"][m:], columns["mean"][m:] = best, best + 1e-3 * rng.normal(size=n)
    covariance = root @ root.T
    columns["sd"] = np.sqrt(np.diag(covariance))
    names = (*old.names, *(f"log_radial[{k}]" for k in range(n)))
    return replace(gradient, knots=knots, estimates=Estimates(names, ("",) * (m + n), columns, covariance, "laplace",
                                                              True, False))  # fmt: skip


@pytest.fixture
def curved(pair, rng):
    """One whose curve reaches beyond all positions, and one that is evaluated beyond its last knot."""
    return (
        with_curve(pair[0], [0.0, 10.0, 22.0, 35.0, 43.0, 49.0, 66.0], rng),
        with_curve(pair[1], [4.0, 20.0, 38.0, 47.0], rng),
    )


def of_curve(gradient, point):
    """Logs of the radial function at two radii and of the model at the positions, relative to the centre, by hand."""
    n = len(gradient.knots) - 4
    mean = dict(zip(gradient.estimates.names, point, strict=True))
    spline = BSpline(gradient.knots, point[-n:], 3)

    def log_radial(radius):
        at = np.clip(radius, gradient.knots[0], gradient.knots[-1])
        return spline(at) + (radius - at) * spline(at, 1)

    x, y = POSITIONS[0] - 1.0, POSITIONS[1] + 2.0
    radius = np.hypot(x - mean["centroid_delta_x"], y - mean["centroid_delta_y"])
    outer = np.where(np.hypot(x, y) >= 40.0, 1 + mean["outer_gradient_x"] * x + mean["outer_gradient_y"] * y, 1.0)
    model = log_radial(radius) + np.where(ITL, np.log(mean["itl_ratio"]), 0.0)
    model -= np.log(1 + mean["gradient_x"] * x + mean["gradient_y"] * y) + np.log(outer)
    centre = log_radial(0.0)
    return np.concatenate([log_radial(np.array([10.0, 58.0])) - centre, model - centre, [centre]])


def test_the_curve_stands_for_the_radial_function_where_there_is_one(curved):
    sky, dome = curved
    found = unpaired(sky, dome)
    wanted, covariance = 0.0, 0.0
    for sign, p in ((1, dome), (-1, sky)):
        mean, sd = p.estimates.columns["mean"], p.estimates.columns["sd"]
        steps = 1e-3 * np.diag(sd)
        jacobian = np.array([(of_curve(p, mean + step) - of_curve(p, mean - step)) / (2e-3 * s)
                             for step, s in zip(steps, sd, strict=True)]).T  # fmt: skip
        wanted = wanted + sign * of_curve(p, mean)
        covariance = covariance + jacobian @ p.estimates.covariance @ jacobian.T
    parts = found.log_radial([10.0, 58.0]), found.log_ratio(*POSITIONS, ITL), found.centre
    mean = np.concatenate([np.atleast_1d(part[0]) for part in parts])
    rows = np.vstack([part[1] for part in parts])
    np.testing.assert_allclose(mean, wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows @ found.covariance @ rows.T, covariance, rtol=1e-4, atol=1e-7 * covariance.max())
    for name in SCALARS:
        row = found.scalars[name][1]
        of_both = np.hypot(*(p.estimates[name]["sd"] for p in (sky, dome)))
        assert found.sd(row[None])[0] == pytest.approx(of_both, rel=1e-12)


def test_one_product_may_have_a_curve_and_the_other_not(pair, curved):
    """As ours and LSST's: each enters in its own way."""
    radius = [5.0, 30.0, 45.0]
    values, sds = {}, {}
    for name, products in (("mixed", (curved[0], pair[1])), ("nodes", pair)):
        found = unpaired(*products)
        values[name], rows = found.log_radial(radius)
        sds[name] = found.sd(rows)
    of_sky = _sky_part(curved[0], radius), _sky_part(pair[0], radius)
    np.testing.assert_allclose(values["mixed"] - values["nodes"], of_sky[1][0] - of_sky[0][0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(sds["mixed"] ** 2 - sds["nodes"] ** 2, of_sky[0][1] - of_sky[1][1], rtol=1e-8)


def _sky_part(sky, radius):
    """Mean and variance of the sky's part alone."""
    found = unpaired(sky, sky)
    n = len(found.covariance) // 2
    mean, rows = found.log_radial(radius)
    assert np.all(mean == 0)
    alone = np.hstack([np.zeros((len(rows), n)), rows[:, n:]])
    at_mean = found.sd(alone) ** 2
    flat = FlatGradient([0.0, 35.0, 80.0], [1.0, 1.0, 1.0], centroid_x=1.0, centroid_y=-2.0)
    return unpaired(flat, sky).log_radial(radius)[0], at_mean


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
