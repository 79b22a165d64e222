"""A step of Hamiltonian dynamics for densities that are nearly a known normal one: that one's orbits are exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymc.blocking import RaveledVars
from pymc.step_methods.hmc.integration import CpuLeapfrogIntegrator, State
from pymc.step_methods.hmc.quadpotential import QuadPotentialFull


class NearlyNormal(CpuLeapfrogIntegrator):
    """Half a kick, a turn, half a kick: with one evaluation a step.

    The potential is that of N(0, C), with C the inverse of the mass matrix, and what is left.  The former turns
    position and velocity in circles, all at the same rate, exactly; the latter alone kicks.  So the error of the energy
    is that of what is not normal, however long the step (Shahbaba et al. 2014, Stat. Comput. 24, 339).

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
        q, where = state.q.data, state.q.point_map_info
        pull = self._inverse @ q
        p = state.p + 0.5 * epsilon * (state.q_grad + pull)
        v = self._potential.velocity(p)
        q, p = np.cos(epsilon) * q + np.sin(epsilon) * v, np.cos(epsilon) * p - np.sin(epsilon) * pull
        log_density, gradient = self._logp_dlogp_func(q, where)
        p += 0.5 * epsilon * (gradient + self._inverse @ q)
        energy = self._potential.velocity_energy(p, v) - log_density
        index = state.index_in_trajectory + int(np.sign(epsilon))
        return State(RaveledVars(q, where), p, v, gradient, energy, log_density, index)
