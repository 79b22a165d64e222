"""Minus the log-posterior in NumPy, with its gradient and curvature: what an optimiser needs, and PyMC is slow to give.

PyMC's own log-density has the last word (`bayesflat.inference.map`); tests hold this one to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.model.noise import NoiseModel
from bayesflat.model.parameters import Parameter
from bayesflat.model.prepare import FitData


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


@dataclass(frozen=True)
class NormalEquations:
    """What the detectors tell, one by one, of what they have in common: n values of the mean and of shared patterns.

    The logs of a detector's values are normal about what is linear in these, at given noise scales.  All is relative to
    the parameters at which it was made and patterns of 0, which count in their own standard deviations.

    Attributes
    ----------
    information : numpy.ndarray, shape (n_detectors, n, n)
    pull : numpy.ndarray, shape (n_detectors, n)
        Gradient of each detector's log-likelihood.
    log_likelihood : numpy.ndarray, shape (n_detectors,)
    prior_information : numpy.ndarray, shape (n, n)
    prior_pull : numpy.ndarray, shape (n,)
    """

    information: NDArray[np.float64]
    pull: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    prior_information: NDArray[np.float64]
    prior_pull: NDArray[np.float64]


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

    def by_mean(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """`derivatives` by the parameters of the mean alone: cost, (n_mean,) and (n_mean, n_mean)."""
        cost, gradient, curvature = self.derivatives(z)
        return cost, gradient[: self.n_mean], curvature[: self.n_mean, : self.n_mean]

    def slope_by_mean(self, z: NDArray) -> tuple[float, NDArray]:
        """The same without the curvature, at a fraction of its cost."""
        return self(z), self.gradient(z)[0][: self.n_mean]

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
    def log_replicate(
        self, z: NDArray, rng: np.random.Generator, slopes: NDArray | None = None
    ) -> NDArray[np.float64] | None:
        """Logs of new values at given parameters, shape (n_bins,); None where their mean is not positive everywhere.

        With independent noise a value may come out at zero or below: NaN, for such a bin would be cut.  ``slopes`` are
        those of `shared_slopes`; by default they are drawn too.
        """

    def shared_slopes(self, z: NDArray) -> NDArray[np.float64] | None:
        """Slopes that the detectors of a vendor share, as the data have them, where they have a scale of no parameter.

        With hierarchical noise of shape (n_vendors, n_shared), 0 for all other shared effects; else None.
        """
        return None

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

    def score(self, z: NDArray, terms: NDArray) -> tuple[NDArray, NDArray] | None:
        """Score and information of further terms of the log of the mean, with the parameters of the mean free.

        Parameters
        ----------
        z : numpy.ndarray, shape (n,)
        terms : numpy.ndarray, shape (n_bins, k)

        Returns
        -------
        score : numpy.ndarray, shape (k,)
        information : numpy.ndarray, shape (k, k)
            Or None where the likelihood takes correlated bins for independent ones.
        """
        return None

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

    def normal_equations(self, z: NDArray) -> NormalEquations | None:
        """What each detector tells of parameters and patterns; None where the noise model has no scatter of theirs."""
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
