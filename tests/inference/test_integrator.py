"""The two-stage step against exact dynamics, and against PyMC's leapfrog at the same cost."""

import numpy as np
import pytest
from pymc.blocking import RaveledVars
from pymc.step_methods.hmc.integration import CpuLeapfrogIntegrator
from pymc.step_methods.hmc.quadpotential import QuadPotentialFull

from bayesflat.inference.integrator import TwoStage

N = 200


class Normal:
    """What the integrators need of a compiled density: N(0, 1) in each of so many directions, or a quartic one."""

    dtype, _raveled_inputs = "float64", True

    def __init__(self, quartic=0.0):
        self._pytensor_function = lambda q: (-0.5 * q @ q - quartic * np.sum(q**4), -q - 4 * quartic * q**3)


def integrator(kind, quartic=0.0, n=N):
    return kind(QuadPotentialFull(np.eye(n)), Normal(quartic))


def start(method, rng, n=N):
    return method.compute_state(RaveledVars(rng.normal(size=n), ()), rng.normal(size=n))


def test_a_step_back_undoes_a_step(rng):
    method = integrator(TwoStage, quartic=0.1)
    before = start(method, rng)
    back = method.step(-0.7, method.step(0.7, before))
    for found, expected in ((back.q.data, before.q.data), (back.p, before.p)):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert back.energy == pytest.approx(before.energy, rel=1e-12)
    assert back.index_in_trajectory == 0


def test_a_step_keeps_volume(rng):
    """The determinant of its derivatives is 1, whatever the density."""
    method = integrator(TwoStage, quartic=0.3, n=2)
    x = rng.normal(size=4)

    def moved(x):
        end = method.step(0.8, method.compute_state(RaveledVars(x[:2], ()), x[2:]))
        return np.concatenate([end.q.data, end.p])

    jacobian = [(moved(x + 1e-6 * e) - moved(x - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    assert np.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-8)


def test_steps_follow_the_exact_orbit(rng):
    """A rotation of q and p; errors fall with the square of the step."""
    method, off = integrator(TwoStage), []
    before = start(method, rng)
    for n in (8, 16):
        state = before
        for _ in range(n):
            state = method.step(1.0 / n, state)
        q = np.cos(1.0) * before.q.data + np.sin(1.0) * before.p
        off.append(np.abs(state.q.data - q).max())
    assert off[0] / off[1] == pytest.approx(4.0, rel=0.1)
    assert off[1] < 1e-3


def test_energy_errors_are_far_below_those_of_the_leapfrog(rng):
    """At two evaluations a step, from points of the density, where the mean error decides what is accepted."""
    two, leapfrog = integrator(TwoStage), integrator(CpuLeapfrogIntegrator)
    errors = []
    for _ in range(200):
        before = start(two, rng)
        half = leapfrog.step(0.8, leapfrog.step(0.8, before))
        errors.append([two.step(1.6, before).energy - before.energy, half.energy - before.energy])
    ours, theirs = np.mean(errors, axis=0)
    assert 0 < ours < theirs / 10
