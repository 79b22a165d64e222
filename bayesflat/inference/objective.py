"""Minus the log-posterior in NumPy with its slope and curvature, which the optimiser wants and PyMC gives dearly.

PyMC's own log-density has the last word (`bayesflat.inference.map`); tests hold this one to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.model.marginal import Covariance, Marginal
from bayesflat.model.mean import Mean
from bayesflat.model.noise import FLOOR, NoiseModel
from bayesflat.model.parameters import Parameter
from bayesflat.model.prepare import FitData


class Objective(ABC):
    """Minus the log-posterior, but for constants, over the values of all parameters.

    Parameters
    ----------
    data : FitData
    config : FitConfig
    noise : NoiseModel
    parameters : list of Parameter
        Those of the mean, then the noise's one.

    Attributes
    ----------
    smoothing : float
        Rounds the kink of Laplace's density (units of the noise scale); 0 where there is none.
    """

    def __init__(self, data: FitData, config: FitConfig, noise: NoiseModel, parameters: list[Parameter]) -> None:
        self.data = data
        self.noise = noise
        self.parameters = parameters
        self.mean = Mean(data, config)
        self.smoothing = 0.0
        ends = np.cumsum([p.size for p in parameters])
        self.config = config
        self.slices = {p.name: slice(end - p.size, end) for p, end in zip(parameters, ends, strict=True)}
        self.size = int(ends[-1])
        self.n_mean = self.size - parameters[-1].size

    @abstractmethod
    def __call__(self, z: NDArray) -> float:
        """Minus the log-posterior; infinite where it has no value."""

    @abstractmethod
    def derivatives(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Cost, gradient (n,) and Gauss and Newton's stand-in for the curvature (n, n)."""

    @abstractmethod
    def gradient(self, z: NDArray) -> tuple[NDArray, dict[str, NDArray]]:
        """The gradient (n,), without the curvature at a fraction of its cost, and `product` there."""

    def to_parameters(self, z: NDArray) -> dict[str, NDArray]:
        """Product units, by name; the radial values with the fixed zero."""
        found = {p.name: p.from_value(z[self.slices[p.name]]) for p in self.parameters}
        if self.config.do_constrain_zero:
            found["radial_spline_values"] = np.append(found["radial_spline_values"], 0.0)
        return found

    def product(self, z: NDArray) -> dict[str, NDArray]:
        """The parameters as the product holds them."""
        return self.to_parameters(z)

    def _chain(self, z: NDArray) -> NDArray[np.float64]:
        """Derivatives of the mean's parameters in product units, in the order of `Mean`, by the values."""
        rows, first = [], 0
        for p in self.parameters[:-1]:
            block = np.zeros((p.size, self.n_mean))
            block[:, first : first + p.size] = p.transform.jacobian(z[self.slices[p.name]])
            rows.append(block)
            first += p.size
            if p.name == "radial_spline_values" and self.config.do_constrain_zero:
                rows.append(np.zeros((1, self.n_mean)))  # the node that is fixed to zero is not moved
        return np.concatenate(rows)

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


class IndependentObjective(Objective):
    """With independent noise."""

    def thinned(self, most: int) -> IndependentObjective:
        """The objective of every k-th bin, so that at most about ``most`` remain."""
        rows = slice(None, None, max(1, round(len(self.data) / most)))
        return IndependentObjective(self.data.select(rows), self.config, self.noise, self.parameters)

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


@dataclass(frozen=True)
class Drawn:
    """A draw of everything that hierarchical noise integrates out, given the parameters.

    Attributes
    ----------
    product : dict of str to numpy.ndarray
        The parameters as the product holds them; ``throughput`` of each detector.
    shared : numpy.ndarray, shape (n_vendors, n_shared)
        The vendors' shared patterns.
    log_likelihood : numpy.ndarray, shape (n_detectors,)
        Of each detector's values, given the shared pattern.
    """

    product: dict[str, NDArray]
    shared: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]


class HierarchicalObjective(Objective):
    """With hierarchical noise: Gauss-Newton is generalised least squares; the scales have Fisher's information."""

    def __init__(self, data: FitData, config: FitConfig, noise: NoiseModel, parameters: list[Parameter]) -> None:
        super().__init__(data, config, noise, parameters)
        self._room: dict[str, NDArray] = {}  # for covariances that are not handed out

    def __call__(self, z: NDArray) -> float:
        """Minus the log-posterior; infinite where the mean is not positive."""
        parameters = self.to_parameters(z)
        mean = self.mean(parameters)
        if not np.all(mean > 0):
            return np.inf
        found = self.noise.covariance(parameters["log_noise_scales"], self._room).of(np.log(self.data.value / mean))
        return float(self._prior(z)[0] - found.log_likelihood)

    def derivatives(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Cost, gradient and curvature; mean and scales know nothing of each other's curvature."""
        parameters = self.to_parameters(z)
        log_scales = parameters["log_noise_scales"]
        mean, jacobian = self.mean.with_jacobian(parameters)
        covariance = self.noise.covariance(log_scales, self._room)
        found = covariance.of(np.log(self.data.value / mean))
        cost, gradient, curvature = self._prior(z)
        n = self.n_mean
        relative = (jacobian / mean[:, None]) @ self._chain(z)
        gradient[:n] += found.by_residual @ relative
        curvature[:n, :n] += covariance.information(relative)
        stretch = self.parameters[-1].transform.scale
        gradient[n:] -= stretch * self.noise.by_log_scales(covariance, found, log_scales)
        curvature[n:, n:] += np.outer(stretch, stretch) * self.noise.information(covariance, log_scales)
        return float(cost - found.log_likelihood), gradient, curvature

    def gradient(self, z: NDArray) -> tuple[NDArray, dict[str, NDArray]]:
        """The gradient (n,), without the curvature at a fraction of its cost, and `product` there."""
        parameters = self.to_parameters(z)
        log_scales = parameters["log_noise_scales"]
        mean, pull = self.mean.with_pull(parameters)
        covariance = self.noise.covariance(log_scales, self._room)
        found = covariance.of(np.log(self.data.value / mean))
        _, gradient, _ = self._prior(z)
        n = self.n_mean
        gradient[:n] += self._chain(z).T @ pull(found.by_residual / mean)
        gradient[n:] -= self.parameters[-1].transform.scale * self.noise.by_log_scales(covariance, found, log_scales)
        return gradient, self._product(parameters, covariance, found)

    def draw(self, z: NDArray, rng: np.random.Generator) -> Drawn:
        """Draw the shared patterns and the detectors' own effects, given the parameters."""
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"], self._room)
        drawn = covariance.draw(np.log(self.data.value / self.mean(parameters)), rng)
        throughput = self.noise.throughput(covariance.all_effects(drawn.own, drawn.shared))
        product = self.noise.of_those_that_are_there(parameters, throughput)
        product["throughput"] = product["throughput"][:, 0]
        return Drawn(product, drawn.shared, drawn.log_likelihood - self._log_values)

    def log_likelihood_given(self, z: NDArray, shared: NDArray) -> NDArray[np.float64]:
        """Log-likelihood of each detector's values, given the parameters and the shared patterns."""
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"], self._room)
        residual = np.log(self.data.value / self.mean(parameters))
        return covariance.log_likelihood_given(residual, shared) - self._log_values

    @property
    def _log_values(self) -> NDArray[np.float64]:
        """Sum of the logs of each detector's values: the density is that of the values, not of their logs."""
        return self.noise.effects.sum_good(np.log(self.data.value))

    def effects(self, z: NDArray) -> tuple[dict[str, NDArray], Covariance, Marginal]:
        """The parameters, the covariance of the log-residuals there, and what it makes of them."""
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"])
        return parameters, covariance, covariance.of(np.log(self.data.value / self.mean(parameters)))

    def product(self, z: NDArray) -> dict[str, NDArray]:
        """The ratio is that of the detectors that are there, and the level that of the others (or of ITL alone).

        Beside the parameters, ``throughput`` is that of each detector and amplifier, relative to its vendor's mean:
        shape (n_detectors, 1 + n_amplifiers), the detector first.
        """
        return self._product(*self.effects(z))

    def _product(self, parameters: dict, covariance: Covariance, found: Marginal) -> dict[str, NDArray]:
        throughput = self.noise.throughput(covariance.all_effects(found.own, found.shared))
        return self.noise.of_those_that_are_there(parameters, throughput)
