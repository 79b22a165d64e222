"""Minus the log-posterior in NumPy with its slope and curvature, which the optimiser wants and PyMC gives dearly.

PyMC's own log-density has the last word (`bayesflat.inference.map`); tests hold this one to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.model.mean import Mean
from bayesflat.model.noise import FLOOR, IndependentNoise
from bayesflat.model.parameters import Parameter
from bayesflat.prepare import FitData


class IndependentObjective:
    """Minus the log-posterior with independent noise, but for constants, over the values of all parameters.

    Parameters
    ----------
    data : FitData
    config : FitConfig
    noise : IndependentNoise
    parameters : list of Parameter
        Those of the mean, then the noise's one.

    Attributes
    ----------
    smoothing : float
        Rounds the kink of Laplace's density (units of the noise scale); 0 where there is none.
    """

    def __init__(self, data: FitData, config: FitConfig, noise: IndependentNoise, parameters: list[Parameter]) -> None:
        self.data = data
        self.noise = noise
        self.parameters = parameters
        self.mean = Mean(data, config)
        self.smoothing = 0.0
        ends = np.cumsum([p.size for p in parameters])
        self.config = config
        self.slices = {p.name: slice(end - p.size, end) for p, end in zip(parameters, ends, strict=True)}
        self.size = int(ends[-1])

    def thinned(self, most: int) -> IndependentObjective:
        """The objective of every k-th bin, so that at most about ``most`` remain."""
        rows = slice(None, None, max(1, round(len(self.data) / most)))
        return IndependentObjective(self.data.select(rows), self.config, self.noise, self.parameters)

    def to_parameters(self, z: NDArray) -> dict[str, NDArray]:
        """Product units, by name; the radial values with the fixed zero."""
        found = {p.name: p.from_value(z[self.slices[p.name]]) for p in self.parameters}
        if self.config.do_constrain_zero:
            found["radial_spline_values"] = np.append(found["radial_spline_values"], 0.0)
        return found

    def __call__(self, z: NDArray) -> float:
        """Minus the log-posterior; infinite where the mean is not finite."""
        parameters = self.to_parameters(z)
        scale, _ = self._scale(parameters)
        residual = (self.data.value - self.mean(parameters)) / scale
        cost = self.noise.loss(residual, self.smoothing)[0].sum() + len(self.data) * np.log(scale)
        cost += self._prior(z)[0]
        return float(cost) if np.isfinite(cost) else np.inf

    def derivatives(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Cost, gradient (n,) and a positive definite stand-in for the curvature (n, n): Gauss and Newton's."""
        parameters = self.to_parameters(z)
        scale, relative = self._scale(parameters)
        mean, jacobian, columns = self.mean.with_jacobian(parameters)
        u = (self.data.value - mean) / scale
        loss, slope, bend = self.noise.loss(u, self.smoothing)
        cost, gradient, curvature = self._prior(z)
        # from product units to values: a small matrix, without the node that is fixed to zero
        chain = np.zeros((jacobian.shape[1], self.size - 1))
        for p in self.parameters[:-1]:
            first = columns[p.name].start
            chain[first : first + p.size, self.slices[p.name]] = p.transform.jacobian(z[self.slices[p.name]]) / scale
        n = self.size - 1
        gradient[:n] -= chain.T @ (jacobian.T @ slope)
        curvature[:n, :n] += chain.T @ (jacobian.T @ (jacobian * bend[:, None])) @ chain
        # the scale: d log(scale) / d value
        stretch = relative * self.parameters[-1].transform.scale
        gradient[n] += stretch * (len(u) - slope @ u)
        curvature[n, n] += stretch**2 * (slope @ u + bend @ (u * u))
        cost += loss.sum() + len(u) * np.log(scale)
        return float(cost), gradient, curvature

    def absolute_deviation(self, z: NDArray) -> float:
        """Sum of ``|value - mean|``: LSST's cost."""
        return float(np.abs(self.data.value - self.mean(self.to_parameters(z))).sum())

    def _scale(self, parameters: dict[str, NDArray]) -> tuple[float, float]:
        """Noise scale in units of the values, and d log(scale) / d log_noise_scale."""
        above = np.exp(float(parameters["log_noise_scale"]))
        return self.data.level * (FLOOR + above), above / (FLOOR + above)

    def _prior(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Minus the log-prior, its gradient, and its curvature without the bend of the transforms."""
        cost, gradient, curvature = 0.0, np.zeros(self.size), np.zeros((self.size, self.size))
        for p in self.parameters:
            here = self.slices[p.name]
            pull = np.ravel((p.from_value(z[here]) - p.mu) / p.sigma)
            jacobian = p.transform.jacobian(z[here]) / np.ravel(p.sigma)[:, None]
            cost += 0.5 * pull @ pull
            gradient[here] = jacobian.T @ pull
            curvature[here, here] = jacobian.T @ jacobian
        return cost, gradient, curvature
