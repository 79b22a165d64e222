"""Hierarchical noise: detectors, amplifiers and smooth patterns scatter many bins together.

The log of value over mean is normal, with a covariance that `bayesflat.model.marginal` treats in closed form.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bayesflat.model.effects import Effects
from bayesflat.model.likelihood import observe_flat
from bayesflat.model.marginal import ByVariances, Covariance
from bayesflat.model.noise import FLOOR, NoiseModel
from bayesflat.model.parameters import make_parameter
from bayesflat.model.prepare import FitData
from bayesflat.model.smooth import DEGREE, modes, scale_of, surface_terms, times_of

RIM_WIDTH = 1.0  # mm, within which a detector's rim fades
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
        self.effects, names = _effects(data, self.detectors, index, vendor, self.amp_shape, self.times)
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
        self.shared_labels = _shared_labels(self.amp_shape, self.times)

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
                _means(length, n, most, detector.pixel_size, field, times)
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


def _effects(
    data: FitData,
    detectors: NDArray,
    index: NDArray,
    vendor: NDArray,
    amp_shape: tuple[int, int],
    times_long: tuple[int, int],
) -> tuple[Effects, list[str]]:
    """The effects on the bins, and the name of each: its scale's, but for the vendor."""
    camera = data.binned.camera
    amp_ny, amp_nx = amp_shape
    # functions of column and row, in the order of `_functions`
    one, linear, smooth = 0, 1, 2
    amps_x, amps_y = (3 + DEGREE * times for times in times_long)
    rims_x, rims_y = amps_x + amp_nx, amps_y + amp_ny
    names, terms = ["detector"], [(one, one)]
    names += ["amplifier"] * (amp_nx * amp_ny)
    terms += [(amps_x + i, amps_y + j) for j in range(amp_ny) for i in range(amp_nx)]
    names += [f"surface {degree}" for _, _, degree in surface_terms(times_long)]
    terms += [(smooth + i, smooth + j) for i, j, _ in surface_terms(times_long)]
    n_own = len(terms)
    names += ["slope"] * 2 + ["rim"] * 4
    terms += [(linear, one), (one, linear)]
    terms += [(rims_x + k, one) for k in range(2)] + [(one, rims_y + k) for k in range(2)]

    order = np.argsort(index, kind="stable")
    rows_of = np.split(order, np.searchsorted(index[order], np.arange(1, len(detectors))))
    # functions of columns and of rows, and which of them each bin has
    tables: tuple[list[NDArray], list[NDArray]] = ([], [])
    which = np.empty((2, len(data)), dtype=np.int64)
    # detectors are much alike: where functions begin that were made before, and positions told apart before
    known: dict[tuple, int] = {}
    told_apart: dict[bytes, tuple[NDArray, ...]] = {}
    for number, rows in zip(detectors, rows_of, strict=True):
        detector = camera[int(number)]
        field = data.smooth * max(detector.nx, detector.ny) / max(times_long)
        pixels = detector.focal_plane_to_pixel(data.binned.xf[rows], data.binned.yf[rows])
        for axis, (length, n, most) in enumerate(
            ((detector.nx, detector.amp_nx, amp_nx), (detector.ny, detector.amp_ny, amp_ny))
        ):
            # columns and rows are told apart to a thousandth of a pixel
            rounded = np.round(pixels[axis], 3)
            if (whole := rounded.tobytes()) not in told_apart:
                told_apart[whole] = np.unique(rounded, return_index=True, return_inverse=True)
            at, first, which_here = told_apart[whole]
            key = (axis, length, n, field, detector.pixel_size, at.tobytes())
            if key not in known:
                known[key] = sum(len(functions) for functions in tables[axis])
                edge = pixels[axis][first] + 0.5
                functions = _functions(
                    edge, length, n, most, data.bin_size, detector.pixel_size, field, times_long[axis]
                )
                tables[axis].append(functions)
            which[axis, rows] = which_here + known[key]
    x, y = (np.concatenate(functions) for functions in tables)
    times = np.ones((len(detectors), n_own))
    for (number, amplifier), more in data.odd.items():
        # the array counts columns of amplifiers as the camera's widest detector has them
        j, i = divmod(amplifier, camera[number].amp_nx)
        times[detectors == number, 0 if amplifier < 0 else 1 + i + amp_nx * j] = more
    effects = Effects(
        index, which[0], which[1], x, y, np.array(terms), slice(0, n_own),
        slice(1, len(terms)), data.weight, vendor, times,
    )  # fmt: skip
    return effects, names


def _shared_labels(amp_shape: tuple[int, int], times: tuple[int, int]) -> list[str]:
    """Labels of the effects of `_effects` but for the first; surfaces by their degrees along x and y."""
    labels = [f"amplifier {name}" for name in amplifier_names(*amp_shape)]
    labels += [f"surface x{i} y{j}" for i, j, _ in surface_terms(times)]
    return [*labels, "slope x", "slope y", *(f"rim {end} {axis}" for axis in "xy" for end in ("low", "high"))]


def amplifier_names(rows: int, columns: int) -> list[str]:
    """``C00`` ... by row and column, counted from the corner of pixel (0, 0): in the order of the effects."""
    return [f"C{row}{column}" for row in range(rows) for column in range(columns)]


def _functions(
    edge: NDArray,
    length: int,
    n_amplifiers: int,
    most: int,
    size: float,
    pixel_size: float,
    field: float,
    times: int,
) -> NDArray[np.float64]:
    """Functions of the column, or the row: 1, a slope of rms 1, smooth modes, the share in each amplifier, two rims.

    ``edge`` counts pixels from the detector's edge; ``field`` is the scale of smooth fields (pixels), and
    the side is so many ``times`` the shorter one.
    """
    u = 2 * edge / length - 1
    amplifier = np.clip(np.floor(edge * n_amplifiers / length), 0, n_amplifiers - 1)
    shares = np.zeros((most, len(edge)))
    for k in range(n_amplifiers):
        first, last = length * k / n_amplifiers, length * (k + 1) / n_amplifiers
        if size > 0:
            inside = np.minimum(edge + size / 2, last) - np.maximum(edge - size / 2, first)
            shares[k] = np.clip(inside, 0.0, None) / size
        else:
            shares[k] = amplifier == k
    shares /= np.maximum(shares.sum(0), 1e-9)  # a bin may overhang
    width = RIM_WIDTH / pixel_size
    rims = [np.exp(-distance / width) - width / length for distance in (edge, length - edge)]
    smooth = modes(u, field / length, times)
    return np.stack([np.ones_like(u), np.sqrt(3) * u, *smooth, *shares, *rims], axis=1)


@lru_cache(maxsize=16)  # the same for all detectors of a kind
def _means(
    length: int, n_amplifiers: int, most: int, pixel_size: float, field: float, times: int
) -> NDArray[np.float64]:
    """Means of `_functions` over each amplifier's extent: shape (most, n_functions)."""
    steps = 40
    edge = (np.arange(n_amplifiers * steps) + 0.5) * length / (n_amplifiers * steps)
    functions = _functions(edge, length, n_amplifiers, most, 0.0, pixel_size, field, times)
    out = np.zeros((most, functions.shape[1]))
    out[:n_amplifiers] = functions.reshape(n_amplifiers, steps, -1).mean(1)
    return out
