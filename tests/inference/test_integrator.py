"""The step for nearly normal densities against exact dynamics, and against PyMC's leapfrog at the same cost."""

import numpy as np
import pytest
from pymc.blocking import RaveledVars
from pymc.step_methods.hmc.integration import CpuLeapfrogIntegrator
from pymc.step_methods.hmc.quadpotential import QuadPotentialFull

from bayesflat.inference.integrator import NearlyNormal

N = 200


class Density:
    """What the integrators need of a compiled density: N(0, C), with or without a quartic term."""

    dtype, _raveled_inputs = "float64", True

    def __init__(self, covariance, quartic=0.0):
        inverse = np.linalg.inv(covariance)
        self._pytensor_function = lambda q: (
            -0.5 * q @ inverse @ q - quartic * np.sum(q**4), -inverse @ q - 4 * quartic * q**3,
        )  # fmt: skip


def correlated(n):
    return np.eye(n) + 0.5 * np.ones((n, n)) / n


def nearly_normal(quartic=0.0, n=N):
    covariance = correlated(n)
    return NearlyNormal(QuadPotentialFull(covariance), covariance, Density(covariance, quartic))


def start(method, rng, n=N):
    """From N(0, C), position and velocity alike."""
    root = np.linalg.cholesky(correlated(n))
    momentum = np.linalg.solve(root.T, rng.normal(size=n))
    return method.compute_state(RaveledVars(root @ rng.normal(size=n), ()), momentum)


def test_a_step_back_undoes_a_step(rng):
    method = nearly_normal(quartic=0.1)
    before = start(method, rng)
    back = method.step(-0.7, method.step(0.7, before))
    for found, expected in ((back.q.data, before.q.data), (back.p, before.p)):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert back.energy == pytest.approx(before.energy, rel=1e-12)
    assert back.index_in_trajectory == 0


def test_a_step_keeps_volume(rng):
    """The determinant of its derivatives is 1, whatever the density."""
    method = nearly_normal(quartic=0.3, n=2)
    x = rng.normal(size=4)

    def moved(x):
        end = method.step(0.8, method.compute_state(RaveledVars(x[:2], ()), x[2:]))
        return np.concatenate([end.q.data, end.p])

    jacobian = [(moved(x + 1e-6 * e) - moved(x - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    assert np.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("angle", [0.4, 1.7, -2.5])
def test_orbits_of_the_normal_density_are_exact(angle, rng):
    """Position and velocity turn by the length of the step, however long it is, and the energy stays."""
    method = nearly_normal()
    before = start(method, rng)
    after = method.step(angle, before)
    velocity = correlated(N) @ before.p
    np.testing.assert_allclose(after.q.data, np.cos(angle) * before.q.data + np.sin(angle) * velocity, atol=1e-12)
    np.testing.assert_allclose(after.v, np.cos(angle) * velocity - np.sin(angle) * before.q.data, atol=1e-12)
    np.testing.assert_allclose(correlated(N) @ after.p, after.v, atol=1e-12)
    assert after.energy == pytest.approx(before.energy, rel=1e-12)


def test_steps_follow_the_orbit_of_another_density(rng):
    """What is not normal kicks: errors fall with the square of the step, against many small steps of the leapfrog."""
    method, off = nearly_normal(quartic=0.05), []
    small = CpuLeapfrogIntegrator(QuadPotentialFull(correlated(N)), Density(correlated(N), 0.05))
    before = start(method, rng)
    exact = before
    for _ in range(2000):
        exact = small.step(1.0 / 2000, exact)
    for n in (8, 16):
        state = before
        for _ in range(n):
            state = method.step(1.0 / n, state)
        off.append(np.abs(state.q.data - exact.q.data).max())
    assert off[0] / off[1] == pytest.approx(4.0, rel=0.1)
    assert off[1] < 1e-2


def test_energy_errors_are_far_below_those_of_the_leapfrog(rng):
    """At two evaluations a step, where the density is nearly normal: its mean error decides what is accepted."""
    ours = nearly_normal(quartic=0.002)
    leapfrog = CpuLeapfrogIntegrator(QuadPotentialFull(correlated(N)), Density(correlated(N), 0.002))
    errors = []
    for _ in range(200):
        before = start(ours, rng)
        half = leapfrog.step(0.9, leapfrog.step(0.9, before))
        errors.append([abs(ours.step(1.8, before).energy - before.energy), abs(half.energy - before.energy)])
    of_ours, of_leapfrog = np.mean(errors, axis=0)
    assert 0 < of_ours < of_leapfrog / 20
