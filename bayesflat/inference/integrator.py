"""A step of Hamiltonian dynamics for densities that are nearly a known normal one: that one's orbits are exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymc.blocking import RaveledVars
from pymc.step_methods.hmc.integration import CpuLeapfrogIntegrator, State
from pymc.step_methods.hmc.quadpotential import QuadPotentialFull


class NearlyNormal(CpuLeapfrogIntegrator):
    """Kick, turn, kick, turn, kick: with two evaluations a step.

    The potential is that of N(0, C), with C the inverse of the mass matrix, and what is left.  The former turns
    position and velocity in circles, all at the same rate, exactly; the latter alone kicks.  So the error of the energy
    is that of what is not normal, however long the step (Shahbaba et al. 2014, Stat. Comput. 24, 339).  With kicks at
    the ends alone, a quarter of a circle would see nothing of a width that is off: it goes with twice the angle.

    Parameters
    ----------
    potential : QuadPotentialFull
    covariance : numpy.ndarray, shape (n, n)
        Its own: C.
    function : callable
        PyMC's log-density with gradient.
    """

    def __init__(self, potential: QuadPotentialFull, covariance: NDArray, function) -> None:
        super().__init__(potential, function)
        self._inverse = np.linalg.inv(covariance)

    def _step(self, epsilon: float, state: State) -> State:
        q, p, gradient, where = state.q.data, state.p, state.q_grad, state.q.point_map_info
        half, pull = 0.5 * epsilon, self._inverse @ q
        for _ in range(2):
            p = p + 0.5 * half * (gradient + pull)
            v = self._potential.velocity(p)
            q, p = np.cos(half) * q + np.sin(half) * v, np.cos(half) * p - np.sin(half) * pull
            log_density, gradient = self._logp_dlogp_func(q, where)
            pull = self._inverse @ q
            p = p + 0.5 * half * (gradient + pull)
        energy = self._potential.velocity_energy(p, v) - log_density
        index = state.index_in_trajectory + int(np.sign(epsilon))
        return State(RaveledVars(q, where), p, v, gradient, energy, log_density, index)
