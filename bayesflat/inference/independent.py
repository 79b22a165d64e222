"""Minus the log-posterior with independent noise, where the values at the nodes of Akima's spline are fitted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.inference.objective import Drawn, Objective
from bayesflat.model.independent import IndependentNoise
from bayesflat.model.mean import Mean
from bayesflat.model.noise import FLOOR
from bayesflat.model.parameters import Parameter
from bayesflat.model.prepare import FitData


class IndependentObjective(Objective):
    """With independent noise.

    Parameters
    ----------
    data, config, noise, parameters
        As of `Objective`.
    smoothing : float
        Rounds the kink of Laplace's density (units of the noise scale).
    """

    start_distance = 0.3

    def __init__(
        self,
        data: FitData,
        config: FitConfig,
        noise: IndependentNoise,
        parameters: list[Parameter],
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(data, config, noise, parameters)
        self.noise: IndependentNoise = noise
        self.mean = Mean(data, config)
        self.smoothing = smoothing

    def to_parameters(self, z: NDArray) -> dict[str, NDArray]:
        """Product units, by name; the radial values with the fixed zero."""
        found = super().to_parameters(z)
        if self.config.do_constrain_zero:
            found["radial_spline_values"] = np.append(found["radial_spline_values"], 0.0)
        return found

    def _chain(self, z: NDArray) -> NDArray[np.float64]:
        """As of `Objective`, with a row of zeros for the node that is fixed to zero."""
        chain = super()._chain(z)
        n = self.parameters[0].size
        return np.insert(chain, n, 0.0, axis=0) if self.config.do_constrain_zero else chain

    def log_mean(self, z: NDArray) -> NDArray[np.float64]:
        """Log of what each bin should read, shape (n_bins,)."""
        return np.log(self.mean(self.to_parameters(z)))

    def with_smoothing(self, smoothing: float) -> IndependentObjective:
        """The same with the kink of the likelihood rounded (units of the noise scale)."""
        if not self.noise.has_kink:
            return self
        return IndependentObjective(self.data, self.config, self.noise, self.parameters, smoothing)

    def on_few_bins(self, most: int) -> IndependentObjective:
        """The objective of every k-th bin, so that at most about ``most`` remain."""
        rows = slice(None, None, max(1, round(len(self.data) / most)))
        return IndependentObjective(self.data.select(rows), self.config, self.noise, self.parameters, self.smoothing)

    def __call__(self, z: NDArray) -> float:
        """Minus the log-posterior; infinite where the mean is not finite."""
        parameters = self.to_parameters(z)
        scale, _ = self._scale(parameters)
        residual = (self.data.value - self.mean(parameters)) / scale
        cost = self.noise.loss(residual, self.smoothing)[0].sum() + len(self.data) * np.log(scale)
        cost += self._prior(z)[0]
        return float(cost) if np.isfinite(cost) else np.inf

    def derivatives(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Cost, gradient (n,) and Gauss and Newton's stand-in for the curvature (n, n)."""
        parameters = self.to_parameters(z)
        scale, relative = self._scale(parameters)
        mean, jacobian = self.mean.with_jacobian(parameters)
        u = (self.data.value - mean) / scale
        loss, slope, bend = self.noise.loss(u, self.smoothing)
        cost, gradient, curvature = self._prior(z)
        chain = self._chain(z) / scale
        n = self.size - 1
        gradient[:n] -= chain.T @ (jacobian.T @ slope)
        curvature[:n, :n] += chain.T @ (jacobian.T @ (jacobian * bend[:, None])) @ chain
        # the scale: d log(scale) / d value
        stretch = relative * self.parameters[-1].transform.scale
        gradient[n] += stretch * (len(u) - slope @ u)
        curvature[n, n] += stretch**2 * (slope @ u + bend @ (u * u))
        cost += loss.sum() + len(u) * np.log(scale)
        return float(cost), gradient, curvature

    def gradient(self, z: NDArray) -> tuple[NDArray, dict[str, NDArray]]:
        """The gradient (n,), without the curvature at a fraction of its cost, and `product` there."""
        parameters = self.to_parameters(z)
        scale, relative = self._scale(parameters)
        mean, pull = self.mean.with_pull(parameters)
        u = (self.data.value - mean) / scale
        _, slope, _ = self.noise.loss(u, self.smoothing)
        _, gradient, _ = self._prior(z)
        gradient[: self.n_mean] -= self._chain(z).T @ pull(slope) / scale
        gradient[-1] += relative * self.parameters[-1].transform.scale * (len(u) - slope @ u)
        return gradient, parameters

    def draw(self, z: NDArray, rng: np.random.Generator) -> Drawn:
        """The parameters, and the log-likelihood of each detector's values: nothing is integrated out."""
        return Drawn(self.to_parameters(z), self.log_likelihood_by_detector(z))

    def log_replicate(
        self, z: NDArray, rng: np.random.Generator, slopes: NDArray | None = None
    ) -> NDArray[np.float64] | None:
        """Logs of new values at given parameters, shape (n_bins,); NaN where a value is not positive."""
        parameters = self.to_parameters(z)
        mean = self.mean(parameters)
        if not np.all(mean > 0):
            return None
        value = mean + self._scale(parameters)[0] * self.noise.draw(mean.shape, rng)
        return np.log(value, out=np.full(len(value), np.nan), where=value > 0)

    def log_likelihood_given(self, z: NDArray, shared: NDArray | None) -> NDArray[np.float64]:
        """Log-likelihood of each detector's values, given the parameters; there are no shared patterns."""
        return self.log_likelihood_by_detector(z)

    def log_likelihood_by_detector(self, z: NDArray) -> NDArray[np.float64]:
        """Log-likelihood of each detector's values, in the order of their ids."""
        parameters = self.to_parameters(z)
        scale, _ = self._scale(parameters)
        loss = self.noise.loss((self.data.value - self.mean(parameters)) / scale, 1e-12)[0]  # not smoothed
        _, index = np.unique(self.data.binned.detector, return_inverse=True)
        return -np.bincount(index, loss + self.noise.LOG_NORM + np.log(scale))

    def _scale(self, parameters: dict[str, NDArray]) -> tuple[float, float]:
        """Noise scale in units of the values, and d log(scale) / d log_noise_scale."""
        above = np.exp(float(parameters["log_noise_scale"]))
        return self.data.level * (FLOOR + above), above / (FLOOR + above)
