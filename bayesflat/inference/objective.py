"""Minus the log-posterior in NumPy, with its gradient and curvature: what an optimiser needs, and PyMC is slow to give.

PyMC's own log-density has the last word (`bayesflat.inference.map`); tests hold this one to it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.model.design import Design
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.independent import IndependentNoise
from bayesflat.model.log_mean import LogMean
from bayesflat.model.marginal import Covariance, Marginal
from bayesflat.model.mean import Mean
from bayesflat.model.noise import FLOOR, NoiseModel
from bayesflat.model.parameters import Parameter
from bayesflat.model.prepare import FitData

log = logging.getLogger(__name__)

_LONGEST = 1.5  # step of a noise scale, in widths of its prior


@dataclass(frozen=True)
class Drawn:
    """A draw of the product, and of everything that hierarchical noise integrates out, given the parameters.

    Attributes
    ----------
    product : dict of str to numpy.ndarray
        The parameters as the product holds them; with hierarchical noise ``throughput`` of each detector.
    log_likelihood : numpy.ndarray, shape (n_detectors,)
        Of each detector's values, given the shared pattern.
    shared : numpy.ndarray, shape (n_vendors, n_shared), or None
        The vendors' shared patterns; hierarchical noise only.
    """

    product: dict[str, NDArray]
    log_likelihood: NDArray[np.float64]
    shared: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Throughputs:
    """Throughputs of detectors and amplifiers relative to the vendor's mean, when all parameters are known.

    Attributes
    ----------
    conditional_mean : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers)
        Of each detector (first) and its amplifiers.
    variance_of_means : numpy.ndarray, shape (n_vendors,)
        Variance of the log of each vendor's mean throughput.
    variance : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers)
        Variance of the log of each throughput.
    places : numpy.ndarray of int, shape (n, 4)
        Detector's id, amplifier (-1: the whole detector), and the row and column of the arrays above.
    """

    conditional_mean: NDArray[np.float64]
    variance_of_means: NDArray[np.float64]
    variance: NDArray[np.float64]
    places: NDArray[np.int64]


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
    start_distance : float
        How far another start lies from the first (widths of the priors).
    """

    start_distance: float

    def __init__(self, data: FitData, config: FitConfig, noise: NoiseModel, parameters: list[Parameter]) -> None:
        self.data = data
        self.noise = noise
        self.parameters = parameters
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

    @abstractmethod
    def log_mean(self, z: NDArray) -> NDArray[np.float64]:
        """Log of what each bin should read, shape (n_bins,)."""

    @abstractmethod
    def draw(self, z: NDArray, rng: np.random.Generator) -> Drawn:
        """What follows from a draw of the parameters, with all that is integrated out drawn too."""

    @abstractmethod
    def log_replicate(self, z: NDArray, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """Logs of new values at given parameters, shape (n_bins,); None where their mean is not positive everywhere.

        With independent noise a value may come out at zero or below: NaN, for such a bin would be cut.
        """

    def with_smoothing(self, smoothing: float) -> Objective:
        """The same with the kink of the likelihood rounded (units of the noise scale); itself where there is none."""
        return self

    def on_few_bins(self, most: int) -> Objective | None:
        """The objective of at most about ``most`` bins, to begin with; None where few bins would mislead.

        With hierarchical noise they may: a detector's surface then makes up for a wrong radial function.
        """
        return None

    def shortened(self, step: NDArray) -> NDArray[np.float64]:
        """A step of the optimiser, made shorter where it would go too far."""
        return step

    def vendor_ratios(self, product: dict[str, NDArray]) -> dict[str, tuple[float, float]]:
        """By vendor, the mean over its detectors of their median of data/model, and its sd; empty where not judged."""
        return {}

    def restricted(self, z: NDArray) -> NDArray[np.float64]:
        """Gradient of what is added to minus the log-posterior when the mean is integrated out; 0 if it is not."""
        return np.zeros_like(z)

    @property
    def linear(self) -> slice:
        """The parameters in which the residuals are linear, if there are any."""
        return slice(0, 0)

    def product_by_radial(self, z: NDArray) -> dict[str, NDArray]:
        """Derivatives of `product` by the linear parameters; empty where there are none."""
        return {}

    def throughputs(self, z: NDArray) -> Throughputs | None:
        """Throughputs of detectors and amplifiers at given parameters; None where the noise model has none."""
        return None

    def without_detector(self, number: int) -> Objective | None:
        """The objective of the other detectors; None where these tell nothing of it beyond the parameters."""
        return None

    @abstractmethod
    def log_likelihood_given(self, z: NDArray, shared: NDArray | None) -> NDArray[np.float64]:
        """Log-likelihood of each detector's values, given the parameters and the shared patterns."""

    def coords(self) -> dict[str, list[str]]:
        """Coordinates of what `draw` draws besides the parameters."""
        return {}

    def to_parameters(self, z: NDArray) -> dict[str, NDArray]:
        """Product units, by name."""
        return {p.name: p.from_value(z[self.slices[p.name]]) for p in self.parameters}

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
        return np.concatenate(rows)

    def _prior(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Minus the log-prior, its gradient, and its curvature without the bend of the transforms."""
        cost = 0.0
        gradient, curvature = np.zeros(self.size), np.zeros((self.size, self.size))
        for p in self.parameters:
            here = self.slices[p.name]
            pull = p.pull(p.from_value(z[here]))
            jacobian = p.pull_jacobian(p.transform.jacobian(z[here]))
            cost += 0.5 * float(pull @ pull)
            gradient[here] = jacobian.T @ pull
            curvature[here, here] = jacobian.T @ jacobian
        return cost, gradient, curvature


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

    def log_replicate(self, z: NDArray, rng: np.random.Generator) -> NDArray[np.float64] | None:
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


class HierarchicalObjective(Objective):
    """With hierarchical noise: Gauss-Newton is generalised least squares; the scales have Fisher's information."""

    # from far away the search ends where the detectors' scatter explains the gradients
    start_distance = 0.1

    def __init__(self, data: FitData, config: FitConfig, noise: HierarchicalNoise, parameters: list[Parameter]) -> None:
        super().__init__(data, config, noise, parameters)
        if data.radial is None:
            raise ValueError("hierarchical noise needs the knots and the prior of the radial function")
        self.noise: HierarchicalNoise = noise
        self.mean = LogMean(data, config, data.radial.spline)
        self._log_value = np.log(data.value)
        self._workspace: dict[str, NDArray] = {}  # for covariances that are not handed out

    def __call__(self, z: NDArray) -> float:
        """Minus the log-posterior; infinite where the mean is not positive."""
        parameters = self.to_parameters(z)
        residual = self._log_value - self.mean(parameters)
        if not np.all(np.isfinite(residual)):
            return np.inf
        found = self.noise.covariance(parameters["log_noise_scales"], self._workspace).marginal(residual)
        return float(self._prior(z)[0] - found.log_likelihood)

    def log_mean(self, z: NDArray) -> NDArray[np.float64]:
        """Log of what each bin should read, shape (n_bins,)."""
        return self.mean(self.to_parameters(z))

    def derivatives(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Cost, gradient and curvature; mean and scales know nothing of each other's curvature."""
        parameters = self.to_parameters(z)
        log_scales = parameters["log_noise_scales"]
        log_mean, design = self.mean.with_design(parameters)
        covariance = self.noise.covariance(log_scales, self._workspace)
        found = covariance.marginal(self._log_value - log_mean)
        cost, gradient, curvature = self._prior(z)
        n, chain = self.n_mean, self._chain(z)
        gradient[:n] += chain.T @ design.transposed(found.by_residual)
        curvature[:n, :n] += chain.T @ covariance.information(design) @ chain
        stretch = self.parameters[-1].transform.scale
        gradient[n:] -= stretch * self.noise.by_log_scales(covariance, found, log_scales)
        curvature[n:, n:] += np.outer(stretch, stretch) * self.noise.information(covariance, log_scales)
        return float(cost - found.log_likelihood), gradient, curvature

    def gradient(self, z: NDArray) -> tuple[NDArray, dict[str, NDArray]]:
        """The gradient (n,), without the curvature at a fraction of its cost, and `product` there."""
        parameters = self.to_parameters(z)
        log_scales = parameters["log_noise_scales"]
        log_mean, pull = self.mean.with_pull(parameters)
        covariance = self.noise.covariance(log_scales, self._workspace)
        found = covariance.marginal(self._log_value - log_mean)
        _, gradient, _ = self._prior(z)
        n = self.n_mean
        gradient[:n] += self._chain(z).T @ pull(found.by_residual)
        gradient[n:] -= self.parameters[-1].transform.scale * self.noise.by_log_scales(covariance, found, log_scales)
        return gradient, self._product(parameters, covariance, found)

    def draw(self, z: NDArray, rng: np.random.Generator) -> Drawn:
        """Draw the shared patterns and the detectors' own effects, given the parameters."""
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"], self._workspace)
        drawn = covariance.draw(self._log_value - self.mean(parameters), rng)
        throughput = self.noise.throughput(covariance.all_effects(drawn.own, drawn.shared))
        product = self.noise.relative_to_present(parameters, throughput)
        product["throughput"] = product["throughput"][:, 0]
        return Drawn(product, drawn.log_likelihood - self._log_values, drawn.shared)

    def log_replicate(self, z: NDArray, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """Logs of new values at given parameters, shape (n_bins,), with detectors, amplifiers and patterns drawn."""
        parameters = self.to_parameters(z)
        log_mean = self.mean(parameters)
        if not np.all(np.isfinite(log_mean)):
            return None
        covariance = self.noise.covariance(parameters["log_noise_scales"], self._workspace)
        effects, weight = covariance.effects, self.data.weight
        own = np.sqrt(covariance.own)[effects.vendor] * rng.standard_normal(
            (effects.n_detectors, covariance.own.shape[1])
        )
        shared = np.sqrt(covariance.shared) * rng.standard_normal(covariance.shared.shape)
        sd = np.sqrt(np.divide(covariance.white, weight, out=np.zeros(len(weight)), where=weight > 0))
        white = sd * rng.standard_normal(len(weight))
        return log_mean + effects.expand(covariance.all_effects(own, shared)) + white

    def shortened(self, step: NDArray) -> NDArray[np.float64]:
        """The step, with that of the noise scales shortened: far from the maximum, they would run away.

        The curvature has no terms that mix scales and other parameters, so the shortened step goes downhill too.
        """
        scales = slice(self.n_mean, None)
        longest = np.max(np.abs(step[scales]))
        step = step.copy()
        step[scales] *= min(1.0, _LONGEST / max(longest, 1e-300))
        return step

    def throughputs(self, z: NDArray) -> Throughputs:
        """Throughputs of detectors and amplifiers at given parameters."""
        parameters, covariance, found = self.effects(z)
        throughput = self._product(parameters, covariance, found)["throughput"]
        return Throughputs(throughput, *self.noise.spread(covariance, throughput), self.noise.places)

    def without_detector(self, number: int) -> HierarchicalObjective | None:
        """The objective of the other detectors; None where none of its vendor is left, whose pattern it shares."""
        others = self.data.select(self.data.binned.detector != number)
        noise = HierarchicalNoise(others)
        if noise.vendors != self.noise.vendors:
            log.warning("detector %d is the only one of its vendor: nothing predicts it", number)
            return None
        return HierarchicalObjective(others, self.config, noise, self.parameters)

    def coords(self) -> dict[str, list[str]]:
        """The vendors, of the shared patterns."""
        return {"vendor": self.noise.vendors}

    def log_likelihood_given(self, z: NDArray, shared: NDArray | None) -> NDArray[np.float64]:
        """Log-likelihood of each detector's values, given the parameters and the shared patterns (None: 0)."""
        if shared is None:
            shared = np.zeros((len(self.noise.vendors), self.noise.shared_scale.shape[1]))
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"], self._workspace)
        residual = self._log_value - self.mean(parameters)
        return covariance.log_likelihood_given(residual, shared) - self._log_values

    @property
    def _log_values(self) -> NDArray[np.float64]:
        """Sum of the logs of each detector's values: the density is that of the values, not of their logs."""
        return self.noise.effects.sum_good(self._log_value)

    def effects(self, z: NDArray) -> tuple[dict[str, NDArray], Covariance, Marginal]:
        """The parameters, the covariance of the log-residuals there, and what it makes of them."""
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"])
        return parameters, covariance, covariance.marginal(self._log_value - self.mean(parameters))

    def restricted(self, z: NDArray) -> NDArray[np.float64]:
        """Gradient of what is added to minus the log-posterior when the mean is integrated out.

        The log of the mean is nearly linear in its parameters; integrated out, they leave half the log-determinant of
        their curvature.
        """
        parameters, chain, n = self.to_parameters(z), self._chain(z), self.n_mean
        log_scales = parameters["log_noise_scales"]
        covariance = self.noise.covariance(log_scales, self._workspace)
        _, design = self.mean.with_design(parameters)
        curvature = chain.T @ covariance.information(design) @ chain + self._prior(z)[2][:n, :n]
        found = covariance.by_log_determinant(design, chain @ np.linalg.inv(curvature) @ chain.T)
        gradient = np.zeros_like(z)
        stretch = self.parameters[-1].transform.scale
        gradient[n:] = -stretch * self.noise.by_log_scales(covariance, found, log_scales)
        return gradient

    def vendor_ratios(self, product: dict[str, NDArray]) -> dict[str, tuple[float, float]]:
        """By vendor, the mean over its detectors of their median of data/model, and its sd."""
        effects = self.noise.effects
        good = effects.weight > 0
        ratio = np.exp(self._log_value - self.mean(product))
        medians = np.array(
            [np.median(ratio[good & (effects.detector == d)]) if effects.counts[d] else np.nan
             for d in range(effects.n_detectors)]
        )  # fmt: skip
        found = {}
        for v, name in enumerate(self.noise.vendors):
            here = medians[(effects.vendor == v) & np.isfinite(medians)]
            sd = float(np.std(here, ddof=1) / np.sqrt(len(here))) if len(here) > 1 else np.inf
            found[name] = float(np.mean(here)), sd
        return found

    @property
    def linear(self) -> slice:
        """The coefficients of the log of the radial function."""
        return self.slices["log_radial"]

    def product_by_radial(self, z: NDArray) -> dict[str, NDArray]:
        """Derivatives of `product` by the coefficients of the radial function, which residuals are linear in.

        Returns
        -------
        dict of str to numpy.ndarray
            By the names of `product`, with the coefficients as a last axis more.
        """
        parameters, covariance, found = self.effects(z)
        product = self._product(parameters, covariance, found)
        n = self.mean.spline.size
        _, design = self.mean.with_design({"log_radial": parameters["log_radial"]} | _centroid_of(parameters))
        of_spline = Design(design.first, design.banded, n, np.empty((len(self.data), 0)))
        by_effects = -covariance.conditional_means(of_spline)
        throughput = self.noise.throughput(covariance.all_effects(found.own, found.shared))
        logs = np.einsum("dak,dkn->dan", self.noise.by_effects(throughput), by_effects, optimize=True)
        vendor, vendors = self.noise.effects.vendor, range(len(self.noise.vendors))
        means = np.array([throughput[vendor == v, 0].mean() for v in vendors])
        by_means = np.array([(throughput[vendor == v, :1] * logs[vendor == v, 0]).mean(0) for v in vendors])
        by_means /= means[:, None]  # of their logs
        out = {name: np.zeros((*np.shape(value), n)) for name, value in product.items()}
        out["log_radial"] = np.eye(n) + by_means[-1]
        if "itl_ratio" in product:
            out["itl_ratio"] = float(product["itl_ratio"]) * (by_means[0] - by_means[-1])
        out["throughput"] = product["throughput"][:, :, None] * (logs - by_means[vendor][:, None, :])
        return out

    def product(self, z: NDArray) -> dict[str, NDArray]:
        """Parameters relative to the detectors present: ratio of the mean throughputs, level of those that are not ITL.

        Beside the parameters, ``throughput`` is that of each detector and amplifier, relative to its vendor's mean:
        shape (n_detectors, 1 + n_amplifiers), the detector first.
        """
        return self._product(*self.effects(z))

    def _product(self, parameters: dict, covariance: Covariance, found: Marginal) -> dict[str, NDArray]:
        throughput = self.noise.throughput(covariance.all_effects(found.own, found.shared))
        return self.noise.relative_to_present(parameters, throughput)


def _centroid_of(parameters: dict[str, NDArray]) -> dict[str, NDArray]:
    return {name: parameters[name] for name in ("centroid_delta",) if name in parameters}
