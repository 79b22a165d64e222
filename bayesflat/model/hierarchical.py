"""Hierarchical noise: detectors, amplifiers and smooth patterns scatter many bins together.

The log of value over mean is normal, with a covariance that `bayesflat.model.marginal` treats in closed form.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bayesflat.model.likelihood import observe_flat
from bayesflat.model.marginal import ByVariances, Covariance
from bayesflat.model.noise import FLOOR, NoiseModel
from bayesflat.model.parameters import make_parameter
from bayesflat.model.prepare import FitData
from bayesflat.model.response import effects_of, means_of, shared_labels
from bayesflat.model.smooth import scale_of, surface_terms, times_of

SIGMA_LOG_SCALE, SIGMA_LOG_SHARED = 1.5, 1.0  # what is shared is drawn but once for each vendor
# A slope that all detectors of a vendor have looks like a plane within each of them.  A scale that is fitted would
# shrink it, and the plane would take what is missing; this one is wide: LSSTCam's u has 0.9% (3% from edge to edge).
SHARED_SLOPE = 1e-2
_FIXED = -1  # where its scale stands: after those that are fitted


def _part_of_degree(name: str, times: tuple[int, int]) -> float:
    """Size of a surface's terms relative to degree 0: smooth fields have less of the higher degrees; else 1."""
    return 0.5 ** (int(name.split()[1]) / max(times)) if name.startswith("surface") else 1.0


def _shared_label(name: str, vendor: str) -> str:
    """Label of the scale of a shared effect; slopes and rims are too few for a scale of each vendor."""
    kind = name.split()[0]
    return f"shared {kind}" if kind in ("slope", "rim") else f"shared {kind} {vendor}"


def _typical(label: str, times: tuple[int, int]) -> float:
    """Size of a scale, as a fraction: where its prior is centred."""
    of_kind = {"white": 5e-4, "detector": 1e-2, "amplifier": 3e-3, "shared": 1e-3, "surface": 5e-4}
    return of_kind[label.split()[0]] * _part_of_degree(label, times)


class HierarchicalNoise(NoiseModel):
    """Detector offsets with a scatter per vendor, amplifier offsets, a surface, and vendors' shared patterns.

    The one parameter is a vector, ``log_noise_scales``: white noise, then the standard deviations of the effects.

    Attributes
    ----------
    effects : Effects
        The detector; its amplifiers, by the share of a bin that lies in each; a smooth
        surface, of rms 1 a term; and, shared only, slopes along x and y and the four rims.
    detectors : numpy.ndarray of int, shape (n_detectors,)
        Ids, in the order of the effects.
    vendors : list of str
        ``itl``, ``rest``, or both.
    times : (int, int)
        How many times their shorter side the detectors are long, in x and in y.
    labels : list of str, length n_scales
        What each scale belongs to.
    shared_labels : list of str, length n_shared
        What each effect is that a vendor's detectors share.
    """

    def __init__(self, data: FitData) -> None:
        self.camera, self.smooth = data.binned.camera, data.smooth
        self.detectors, index = np.unique(data.binned.detector, return_inverse=True)
        itl = np.zeros(len(self.detectors), dtype=bool)
        itl[index] = data.itl
        # vendors that have detectors, numbered from 0
        vendors, vendor = np.unique(~itl, return_inverse=True)
        self.vendors = ["rest" if other else "itl" for other in vendors]
        self.amp_shape = tuple(
            max(getattr(self.camera[int(number)], name) for number in self.detectors) for name in ("amp_ny", "amp_nx")
        )
        sides = [(self.camera[int(number)].nx, self.camera[int(number)].ny) for number in self.detectors]
        self.times = times_of(*np.transpose(sides))
        self.effects, names = effects_of(data, self.detectors, index, vendor, self.amp_shape, self.times)
        self.labels = ["white"]
        n_own = self.effects.own.stop
        # index of the scale of each effect, by vendor
        self.own_scale = np.array(
            [[self._scale(f"detector {v}" if name == "detector" else name) for name in names[:n_own]]
             for v in self.vendors]
        )  # fmt: skip
        self.shared_scale = np.array(
            [[self._scale(_shared_label(name, v)) for name in names[self.effects.shared]] for v in self.vendors]
        )
        self.shared_size = np.array([_part_of_degree(name, self.times) for name in names[self.effects.shared]])
        self.shared_labels = shared_labels(self.amp_shape, self.times)

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """Which shared effects have a scale that is not fitted, by vendor: shape (n_vendors, n_shared)."""
        return self.shared_scale == _FIXED

    @property
    def n_amplifiers(self) -> int:
        """Amplifiers of the detector that has most."""
        return self.amp_shape[0] * self.amp_shape[1]

    def _scale(self, label: str) -> int:
        if label == "shared slope":
            return _FIXED
        if label not in self.labels:
            self.labels.append(label)
        return self.labels.index(label)

    def parameters(self, data, config, start):
        """The logs of all scales."""
        mu, sigma = self.typical_scales()
        return [make_parameter("log_noise_scales", config, mu, sigma, dims="noise_scale")]

    def typical_scales(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres and widths of the priors of the scales' logs."""
        shared = np.array([label.startswith("shared") for label in self.labels])
        mu = np.log([_typical(label, self.times) for label in self.labels])
        return mu, np.where(shared, SIGMA_LOG_SHARED, SIGMA_LOG_SCALE)

    def smoothness(self, log_scales: NDArray) -> float:
        """`FitData.smooth` of the surfaces that the scales describe."""
        first = self.labels.index("surface 0")
        of_degrees = log_scales[first : first + 1 + surface_terms(self.times)[-1][2]]
        return scale_of(np.exp(2 * of_degrees), self.smooth, self.times)

    def coords(self):
        """The scales' names."""
        return {"noise_scale": self.labels}

    def add(self, parameters, mean, data):
        """The bins, observed together: they are not independent, so there is one log-density of all of them."""
        observe_flat(self, mean, parameters["log_noise_scales"], data.value)

    def replicate(
        self, log_mean: NDArray, log_scales: NDArray, rng: np.random.Generator, slopes: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Logs of new values, shape (n_bins,), with detectors, amplifiers and patterns drawn; outliers have no noise.

        Parameters
        ----------
        log_mean : numpy.ndarray, shape (n_bins,)
        log_scales : numpy.ndarray, shape (n_scales,)
        rng : numpy.random.Generator
        slopes : numpy.ndarray, shape (n_vendors, n_shared), optional
            Shared slopes (`fixed`), which are drawn too by default.
        """
        effects, weight = self.effects, self.effects.weight
        of_own, of_shared, of_white = self.variances(log_scales)
        own = np.sqrt(of_own)[effects.vendor] * effects.times
        own = own * rng.standard_normal(own.shape)
        shared = np.sqrt(of_shared) * rng.standard_normal(of_shared.shape)
        if slopes is not None:
            shared = np.where(self.fixed, slopes, shared)
        sd = np.sqrt(np.divide(of_white, weight, out=np.zeros(len(weight)), where=weight > 0))
        white = sd * rng.standard_normal(len(weight))
        return log_mean + effects.expand(effects.all_effects(own, shared)) + white

    def variances(self, log_scales: NDArray) -> tuple[NDArray, NDArray, float]:
        """Of the own effects and the shared ones by vendor, (n_vendors, n_own) and (n_vendors, n_shared); white."""
        squares = np.append(np.exp(2 * log_scales), SHARED_SLOPE**2)
        white = (FLOOR + np.exp(log_scales[0])) ** 2
        return squares[self.own_scale], squares[self.shared_scale] * self.shared_size**2, float(white)

    def covariance(self, log_scales: NDArray, workspace: dict[str, NDArray] | None = None) -> Covariance:
        """The covariance of the log-residuals; ``workspace`` as for `Covariance`."""
        return Covariance(self.effects, *self.variances(log_scales), workspace)

    def by_log_scales(self, covariance: Covariance, found: ByVariances, log_scales: NDArray) -> NDArray[np.float64]:
        """From derivatives by the variances to those by the logs of the scales, shape (n_scales,)."""
        out = np.zeros(len(self.labels) + 1)
        np.add.at(out, self.own_scale, 2 * covariance.own * found.by_own)
        np.add.at(out, self.shared_scale, 2 * covariance.shared * found.by_shared)
        out[0] = found.by_white * 2 * (FLOOR + np.exp(log_scales[0])) * np.exp(log_scales[0])
        return out[:_FIXED]

    def information(self, covariance: Covariance, log_scales: NDArray) -> NDArray[np.float64]:
        """Fisher information of the logs of the scales, but for what passes between detectors: (n_scales, n_scales).

        ``tr(C**-1 C_g C**-1 C_h) / 2`` with ``C_g`` the derivative of the covariance by the log of scale g.
        """
        n = len(self.labels)
        out = np.zeros((n, n))
        vendor = self.effects.vendor
        for v in range(len(self.vendors)):
            times = self.effects.times[vendor == v]
            square = ((times[:, :, None] * covariance.by_detector[vendor == v] * times[:, None, :]) ** 2).sum(0)
            total = covariance.shared_information[v]
            of_vendor = (total - total @ covariance.shared_conditional[v] @ total) ** 2
            for scale, variance, weight in (
                (self.own_scale[v], covariance.own[v], square),
                (self.shared_scale[v], covariance.shared[v], of_vendor),
            ):
                of = np.zeros((n + 1, len(scale)))
                of[scale, np.arange(len(scale))] = variance
                out += 2 * of[:_FIXED] @ weight @ of[:_FIXED].T
        taken = np.einsum(
            "dij,dji->", self.effects.gram[:, self.effects.own, self.effects.own], covariance.own_conditional
        )
        free = covariance.n_good - taken
        out[0] = out[:, 0] = 0.0
        out[0, 0] = 2 * free * (np.exp(log_scales[0]) / (FLOOR + np.exp(log_scales[0]))) ** 2
        return out

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """What each effect adds to the log of the throughput of each amplifier.

        Shape (n_detectors, n_amplifiers, size): means of the effects over the amplifiers' areas; amplifiers that a
        detector does not have are zero.
        """
        out = np.zeros((len(self.detectors), self.n_amplifiers, self.effects.size))
        amp_ny, amp_nx = self.amp_shape
        x_of, y_of = self.effects.terms.T
        for d, number in enumerate(self.detectors):
            detector = self.camera[int(number)]
            field = self.smooth * max(detector.nx, detector.ny) / max(self.times)
            mx, my = (
                means_of(length, n, most, detector.pixel_size, field, times)
                for length, n, most, times in zip(
                    (detector.nx, detector.ny), (detector.amp_nx, detector.amp_ny), (amp_nx, amp_ny), self.times,
                    strict=True,
                )
            )  # fmt: skip
            of_amplifiers = my[:, None, y_of] * mx[None, :, x_of]  # (amp_ny, amp_nx, size)
            here = out[d].reshape(amp_ny, amp_nx, -1)
            here[: detector.amp_ny, : detector.amp_nx] = of_amplifiers[: detector.amp_ny, : detector.amp_nx]
        return out

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """Share of each amplifier in the area of its detector: (n_detectors, n_amplifiers), 0 where there is none."""
        there = self.areas.any(-1)
        return there / there.sum(1, keepdims=True)

    @property
    def places(self) -> NDArray[np.int64]:
        """Where in arrays like `throughput`'s each detector and amplifier stands: shape (n, 4).

        Columns are the detector's id, the amplifier (-1: the whole detector), and row and column of the array.
        """
        _, amp_nx = self.amp_shape  # the array counts columns of amplifiers as the camera's widest detector has them
        rows = []
        for d, number in enumerate(self.detectors.tolist()):
            detector = self.camera[number]
            rows.append((number, -1, d, 0))
            for j in range(detector.amp_ny):
                rows += [(number, i + detector.amp_nx * j, d, 1 + i + amp_nx * j) for i in range(detector.amp_nx)]
        return np.array(rows)

    def throughput(self, x: NDArray) -> NDArray[np.float64]:
        """Throughput of each detector (first) and its amplifiers: shape (n_detectors, 1 + n_amplifiers).

        A detector's is the mean of its amplifiers', which is more than what the mean of their logs gives.

        Parameters
        ----------
        x : numpy.ndarray, shape (n_detectors, size)
            The effects.
        """
        of_amplifiers = np.exp(np.einsum("dak,dk->da", self.areas, x))
        return np.column_stack([(self.share * of_amplifiers).sum(1), of_amplifiers])

    def by_effects(self, throughput: NDArray) -> NDArray[np.float64]:
        """Derivatives of the logs of throughputs by the effects: (n_detectors, 1 + n_amplifiers, size).

        Parameters
        ----------
        throughput : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers)
            Relative to any constant of the detector.
        """
        part = self.share * throughput[:, 1:]
        of_detectors = np.einsum("da,dak->dk", part / part.sum(1, keepdims=True), self.areas)
        return np.concatenate([of_detectors[:, None], self.areas], axis=1)

    def relative_to_present(self, parameters: dict[str, NDArray], throughput: NDArray) -> dict[str, NDArray]:
        """Parameters as the product holds them, and ``throughput`` relative to the vendor's mean.

        The offsets of the model do not sum to zero.  Here the level becomes the mean response of the detectors that
        are not ITL (of the ITL ones where all are), and the ratio becomes that of the two means.
        """
        vendor = self.effects.vendor
        means = np.array([throughput[vendor == v, 0].mean() for v in range(len(self.vendors))])
        level = means[-1]  # "itl" comes before "rest"
        out = parameters | {"log_radial": parameters["log_radial"] + np.log(level)}
        if "itl_ratio" in parameters:
            out["itl_ratio"] = parameters["itl_ratio"] * means[0] / level
        return out | {"throughput": throughput / means[vendor][:, None]}

    def spread(self, covariance: Covariance, throughput: NDArray) -> tuple[NDArray, NDArray]:
        """Variances that are left when all parameters are known.

        Returns
        -------
        of_means : numpy.ndarray, shape (n_vendors,)
            Of the log of each vendor's mean throughput.
        of_each : numpy.ndarray, shape (n_detectors, 1 + n_amplifiers)
            Of the log of the throughput of each detector and amplifier.
        """
        effects, areas = self.effects, self.by_effects(throughput)
        o, s, vendor = effects.own, effects.shared, effects.vendor
        of_own = areas[:, :, o]
        k = covariance.own_conditional * covariance.white
        own = np.einsum("dai,dij,daj->da", of_own, k, of_own, optimize=True)
        # the own effects take back part of what the shared pattern adds
        by_pattern = areas[:, :, s] - of_own @ covariance.own_conditional @ effects.gram[:, o, s]
        shared = np.einsum(
            "dai,dij,daj->da", by_pattern, covariance.shared_conditional[vendor], by_pattern, optimize=True
        )
        of_means = np.empty(len(self.vendors))
        for v in range(len(self.vendors)):
            share = throughput[vendor == v, 0] / throughput[vendor == v, 0].sum()
            pattern = share @ by_pattern[vendor == v, 0]
            of_means[v] = share**2 @ own[vendor == v, 0] + pattern @ covariance.shared_conditional[v] @ pattern
        return of_means, own + shared
