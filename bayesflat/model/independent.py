"""Independent noise: every bin scatters on its own, as in LSST's fitter; for comparison with it."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.tensor.variable import TensorVariable

from bayesflat.model.noise import FLOOR, NoiseModel
from bayesflat.model.parameters import make_parameter
from bayesflat.model.prepare import FitData

STUDENT_T_NU = 4.0


def _observed(data: FitData) -> TensorVariable:
    # shared, not a constant: constants of this size defeat the compilation cache
    return pm.Data("observed", data.value, dims="bin")


class IndependentNoise(NoiseModel):
    """Every bin scatters on its own, with one scale: ``noise_scale = FLOOR + exp(log_noise_scale)`` of the level.

    Subclasses name the distribution, once for PyMC and once in NumPy for the optimiser.

    Attributes
    ----------
    LOG_NORM : float
        The constant of the negative log-density of ``u = (value - mean) / scale`` that `loss` leaves out.
    """

    LOG_NORM: float

    def parameters(self, data, config, start):
        """The log of the one scale."""
        return [make_parameter("log_noise_scale", config, np.log(start.scatter), 2.0)]

    def add(self, parameters, mean, data):
        """One scale, and the observed bins."""
        scale = pm.Deterministic("noise_scale", FLOOR + pt.exp(parameters["log_noise_scale"]))
        self.likelihood(mean, data.level * scale, data)

    @abstractmethod
    def likelihood(self, mean: TensorVariable, scale: TensorVariable, data: FitData) -> None:
        """Add the observed bins, dims ``bin``."""

    @abstractmethod
    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        """Random ``u``."""

    @abstractmethod
    def loss(self, u: NDArray, smoothing: float) -> tuple[NDArray, NDArray, NDArray]:
        """Negative log-density of ``u = (value - mean) / scale`` but for constants and the scale, and how it bends.

        Returns
        -------
        loss, slope, bend : numpy.ndarray, shape (n_bins,)
            The loss, its first and its second derivative.
        """


class NormalNoise(IndependentNoise):
    """Gaussian bins."""

    LOG_NORM = 0.5 * math.log(2 * math.pi)

    def likelihood(self, mean, scale, data):
        """pm.Normal."""
        pm.Normal("flat", mean, scale, observed=_observed(data), dims="bin")

    def draw(self, shape, rng):
        """Normal numbers."""
        return rng.standard_normal(shape)

    def loss(self, u, smoothing):
        """Half the square."""
        return 0.5 * u**2, u, np.ones_like(u)


class StudentTNoise(IndependentNoise):
    """Student-t bins with four degrees of freedom: dust and bad bins weigh little."""

    LOG_NORM = (
        math.lgamma(STUDENT_T_NU / 2) - math.lgamma((STUDENT_T_NU + 1) / 2) + 0.5 * math.log(STUDENT_T_NU * math.pi)
    )

    def likelihood(self, mean, scale, data):
        """pm.StudentT."""
        pm.StudentT("flat", nu=STUDENT_T_NU, mu=mean, sigma=scale, observed=_observed(data), dims="bin")

    def draw(self, shape, rng):
        """Student-t numbers."""
        return rng.standard_t(STUDENT_T_NU, shape)

    def loss(self, u, smoothing):
        """(nu + 1)/2 log(1 + u**2/nu)."""
        nu = STUDENT_T_NU
        square = u * u
        slope = (nu + 1) * u / (nu + square)
        return 0.5 * (nu + 1) * np.log1p(square / nu), slope, (nu + 1) * (nu - square) / (nu + square) ** 2


class LaplaceNoise(IndependentNoise):
    """Bins with Laplace's distribution: with flat priors the maximum minimises the sum of absolute deviations.

    That density has a kink where a bin is met exactly, so the optimiser needs it smoothed: ``|d|`` becomes
    ``sqrt(d**2 + smoothing**2)``, tightened step by step; in the model as built ``smoothing`` is negligible.
    """

    LOG_NORM = math.log(2)
    has_kink = True
    NEGLIGIBLE = 1e-12  # of the level

    def likelihood(self, mean, scale, data):
        """Laplace with a rounded tip."""
        smoothing = self.NEGLIGIBLE * data.level

        def logp(value, mean, scale):
            return -pt.log(2 * scale) - pt.sqrt((value - mean) ** 2 + smoothing**2) / scale

        def draws(mean, scale, size):
            return pm.Laplace.dist(mean, scale, size=size)

        pm.CustomDist("flat", mean, scale, logp=logp, dist=draws, observed=_observed(data), dims="bin")

    def draw(self, shape, rng):
        """Laplace's numbers."""
        return rng.laplace(size=shape)

    def loss(self, u, smoothing):
        """sqrt(u**2 + smoothing**2)."""
        rounded = np.sqrt(u * u + smoothing**2)
        return rounded, u / rounded, smoothing**2 / rounded**3
