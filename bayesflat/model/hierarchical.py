"""Hierarchical noise: detectors, amplifiers and smooth patterns scatter many bins together.

The log of value over mean is normal, with a covariance that `bayesflat.model.marginal` treats in closed form.
"""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.polynomial.legendre import legval
from numpy.typing import NDArray
from pytensor.gradient import DisconnectedType
from pytensor.graph import Apply, Op

from bayesflat.model.marginal import Covariance, Effects
from bayesflat.model.noise import FLOOR, NoiseModel
from bayesflat.model.parameters import make_parameter
from bayesflat.prepare import FitData

DEGREE = 4  # of a detector's surface
SIGMA_LOG_SCALE = 1.5
# typical sizes, as fractions: where the priors of the scales are centred
_TYPICAL = {"white": 5e-4, "detector": 1e-2, "amplifier": 3e-3, "surface": 1e-3, "shared": 1e-3}
_POWERS = [(i, total - i) for total in range(1, DEGREE + 1) for i in range(total + 1)]


class HierarchicalNoise(NoiseModel):
    """Detector offsets with a scatter per vendor, amplifier offsets, a quartic surface, and vendors' shared patterns.

    The one parameter is a vector, ``log_noise_scales``: white noise, then the standard deviations of the effects.

    Attributes
    ----------
    effects : Effects
    detectors : numpy.ndarray of int, shape (n_detectors,)
        Ids, in the order of the effects.
    labels : list of str, length n_scales
        What each scale belongs to.
    """

    def __init__(self, data: FitData) -> None:
        self.detectors, index = np.unique(data.binned.detector, return_inverse=True)
        camera = data.binned.camera
        itl = np.zeros(len(self.detectors), dtype=bool)
        itl[index] = data.itl
        # vendors that are there, numbered from 0
        vendors, vendor = np.unique(~itl, return_inverse=True)
        self.vendors = ["rest" if other else "itl" for other in vendors]
        surface = np.empty((len(data), len(_POWERS)))
        for d, number in enumerate(self.detectors):
            rows, detector = index == d, camera[int(number)]
            px, py = detector.focal_plane_to_pixel(data.binned.xf[rows], data.binned.yf[rows])
            surface[rows] = _surface((2 * px + 1) / detector.nx - 1, (2 * py + 1) / detector.ny - 1)
        n_amplifiers = max(camera[int(number)].n_amplifiers for number in self.detectors)
        self.effects = Effects(index, data.binned.amplifier, surface, data.weight, vendor, n_amplifiers)
        self.labels = ["white"]
        # which scale rules which column of the effects, own and shared; -1: none
        self.own_scale = np.full((len(self.vendors), self.effects.size), -1)
        self.shared_scale = self.own_scale.copy()
        amplifiers, degrees = slice(1, 1 + n_amplifiers), np.array([i + j for i, j in _POWERS])
        columns = 1 + n_amplifiers + np.arange(len(_POWERS))
        for v, name in enumerate(self.vendors):
            self.own_scale[v, 0] = self._add(f"detector {name}")
        self.own_scale[:, amplifiers] = self._add("amplifier")
        for degree in (1, 2, 3, 4):
            self.own_scale[:, columns[degrees == degree]] = self._add(f"surface {degree}")
        for v, name in enumerate(self.vendors):
            self.shared_scale[v, amplifiers] = self._add(f"shared amplifier {name}")
            self.shared_scale[v, columns] = self._add(f"shared surface {name}")

    def _add(self, label: str) -> int:
        self.labels.append(label)
        return len(self.labels) - 1

    def parameters(self, data, config, start):
        """The logs of all scales."""
        typical = np.log([_TYPICAL[label.split()[0]] for label in self.labels])
        return [make_parameter("log_noise_scales", config, typical, SIGMA_LOG_SCALE, dims="noise_scale")]

    def coords(self):
        """The scales' names."""
        return {"noise_scale": self.labels}

    def add(self, parameters, mean, data):
        """The closed form, as a potential: bins are not independent, so there is no density of a bin."""
        residual = pt.log(data.value) - pt.log(mean)
        log_likelihood = LogLikelihood(self)(residual, parameters["log_noise_scales"])[0]
        # of the values, not of their logs
        pm.Potential("value", log_likelihood - np.sum(np.log(data.value[data.weight > 0])))

    def covariance(self, log_scales: NDArray) -> Covariance:
        """The covariance of the log-residuals."""
        squares = np.append(np.exp(2 * log_scales), 0.0)  # the last is what -1 points to
        white = (FLOOR + np.exp(log_scales[0])) ** 2
        return Covariance(self.effects, squares[self.own_scale], squares[self.shared_scale], white)

    def by_log_scales(self, covariance: Covariance, found, log_scales: NDArray) -> NDArray[np.float64]:
        """Derivatives of the log-likelihood by the logs of the scales, shape (n_scales,)."""
        out = np.zeros(len(self.labels) + 1)
        np.add.at(out, self.own_scale, 2 * covariance.own * found.by_own)
        np.add.at(out, self.shared_scale, 2 * covariance.shared * found.by_shared)
        out[0] = found.by_white * 2 * (FLOOR + np.exp(log_scales[0])) * np.exp(log_scales[0])
        return out[:-1]

    def information(self, covariance: Covariance, log_scales: NDArray) -> NDArray[np.float64]:
        """Fisher information of the logs of the scales, but for what passes between detectors: (n_scales, n_scales).

        ``tr(C**-1 C_g C**-1 C_h) / 2`` with ``C_g`` the derivative of the covariance by the log of scale g.
        """
        n = len(self.labels)
        out = np.zeros((n, n))
        vendor = self.effects.vendor
        for v in range(len(self.vendors)):
            square = (covariance.by_detector[vendor == v] ** 2).sum(0)
            for scale, variance, weight in (
                (self.own_scale[v], covariance.own[v], square),
                (self.shared_scale[v], covariance.shared[v], covariance.by_vendor[v] ** 2),
            ):
                of = np.zeros((n + 1, len(scale)))
                of[scale, np.arange(len(scale))] = variance
                out += 2 * (of @ weight @ of.T)[:n, :n]
        free = covariance.n_good - np.einsum("dii->", covariance.gk)
        out[0] = out[:, 0] = 0.0
        out[0, 0] = 2 * free * (np.exp(log_scales[0]) / (FLOOR + np.exp(log_scales[0]))) ** 2
        return out

    def throughput(self, found) -> NDArray[np.float64]:
        """Relative throughput of each detector: its offset and the mean of its amplifiers', own and shared."""
        x = found.own + found.shared[self.effects.vendor]
        return np.exp(x[:, 0] + x[:, 1 : 1 + self.effects.n_amplifiers].mean(axis=1))


def _surface(u: NDArray, v: NDArray) -> NDArray[np.float64]:
    """Legendre polynomials over the detector, of rms 1: shape (n_bins, n_surface)."""
    one = np.eye(DEGREE + 1)
    pu = [np.sqrt(2 * i + 1) * legval(u, one[i]) for i in range(DEGREE + 1)]
    pv = [np.sqrt(2 * i + 1) * legval(v, one[i]) for i in range(DEGREE + 1)]
    return np.stack([pu[i] * pv[j] for i, j in _POWERS], axis=1)


class LogLikelihood(Op):
    """The closed form as one node of the graph: (residual, log_scales) -> log-likelihood and its derivatives."""

    __props__ = ()

    def __init__(self, noise: HierarchicalNoise) -> None:
        self.noise = noise

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def make_node(self, residual, log_scales):
        """Outputs: the log-likelihood, and what it gains by each residual and each log-scale."""
        inputs = [pt.as_tensor(residual), pt.as_tensor(log_scales)]
        return Apply(self, inputs, [pt.dscalar(), pt.dvector(), pt.dvector()])

    def perform(self, node, inputs, output_storage):
        """In NumPy."""
        residual, log_scales = inputs
        covariance = self.noise.covariance(log_scales)
        found = covariance.of(residual)
        output_storage[0][0] = np.asarray(found.log_likelihood)
        output_storage[1][0] = found.by_residual
        output_storage[2][0] = self.noise.by_log_scales(covariance, found, log_scales)

    def pullback(self, inputs, outputs, cotangents):
        """The derivatives are outputs already."""
        if not all(isinstance(c.type, DisconnectedType) for c in cotangents[1:]):
            raise NotImplementedError("second derivatives of the closed form are taken by differences")
        return [cotangents[0] * outputs[1], cotangents[0] * outputs[2]]
