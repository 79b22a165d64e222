"""The truth that a flat is simulated from: the light on the focal plane, and how much its detectors scatter.

Both differ from band to band; their defaults are LSSTCam's, of which other cameras get a larger or smaller copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.errors import InputError
from bayesflat.text import shown

if TYPE_CHECKING:
    from bayesflat.data.camera import Camera

KINDS = ("sky", "dome")

# ray-traced vignetting of LSSTCam (as in LSST's pseudo-flats) to 350 mm; the last point is the end of the light
_VIGNETTING = (
    (0.0, 200.0, 250.0, 275.0, 300.0, 310.0, 317.0, 325.0, 333.0, 340.0, 350.0, 368.0),
    (0.999, 0.986, 0.969, 0.949, 0.937, 0.910, 0.869, 0.796, 0.699, 0.609, 0.499, 0.0),
)

# Lab QE of LSSTCam's 189 science detectors through the measured filters.  All but the ratio in percent: scatter of the
# detectors, scatter of the amplifiers in a detector, the part of the latter that a vendor's detectors share (rms) and
# that part's change from the left to the right edge; pairs are ITL, E2V.
_BANDS = {
    "u": (0.905, (8.2, 5.1), 1.5, (0.9, 1.4), (-2.8, 3.0)),
    "g": (0.951, (1.9, 1.3), 0.4, (0.13, 0.24), (0.24, 0.64)),
    "r": (0.937, (1.6, 0.9), 0.3, (0.16, 0.07), (-0.45, 0.18)),
    "i": (1.001, (0.9, 1.0), 0.3, (0.07, 0.09), (-0.09, 0.24)),
    "z": (1.059, (1.6, 1.3), 0.4, (0.13, 0.13), (0.36, 0.27)),
    "y": (1.160, (8.8, 4.2), 0.5, (0.25, 0.10), (0.72, 0.20)),
}


_FILTERS = {  # in the i band, by camera
    "LSSTComCam": "i_06",
    "DECam": "i DECam SDSS c0003 7835.0 1470.0",
    "HSC": "HSC-I",
}


def default_filter(camera: Camera) -> str:
    """The physical filter that is simulated unless another is named: the camera's in the i band."""
    return _FILTERS.get(camera.name, "i_39")


def light_scale(camera: Camera) -> float:
    """Size of the light relative to LSSTCam's: 1 for LSSTComCam too, which sat on the same telescope."""
    return 1.0 if camera.name == "LSSTComCam" else camera.scale


def band_of(physical_filter: str) -> str:
    """Band of a physical filter, its first letter (``i`` of ``i_39`` and of ``HSC-I``).

    Raises
    ------
    InputError
        It is none of u g r i z y.
    """
    band = physical_filter.removeprefix("HSC-")[:1].lower()
    if band not in _BANDS:
        raise InputError(
            f"filter '{shown(physical_filter)}': its first letter must be a band, one of {', '.join(_BANDS)}"
        )
    return band


def band_itl_ratio(band: str) -> float:
    """Lab throughput of LSSTCam's ITL detectors over that of the others, of a band or physical filter."""
    return _BANDS[band_of(band)][0]


# ---- the light ----


@dataclass(frozen=True)
class Light:
    """The truth of the light on the focal plane.

    Attributes
    ----------
    radial : str or (nodes, values)
        ``lsstcam``, its ray-traced vignetting (monotone PCHIP, 0 from 368 mm on), or the nodes (mm) and values of an
        Akima spline, whose radius is clipped to the first and last node.
    bend : float
        The radial function is multiplied by ``1 + bend * (r / (scale * 350 mm))**2``.
    centroid : tuple of float
        Fixed pivot of the planes, from which `centroid_delta` counts (mm).
    centroid_delta : tuple of float
        Offset of the radial function's centre from the pivot (mm); moves no plane.
    gradient, outer_gradient : tuple of float
        Planes (1/mm), by which the light is divided; the outer one counts where the radius from the pivot is
        at least `outer_gradient_radius`.
    outer_gradient_radius : float
        mm.
    itl_ratio : float
        Throughput of ITL detectors over that of the others, before the detectors' own scatter.
    level : float
        Counts (electrons) where `evaluate` is 1.
    scale : float
        Size of the ray-traced vignetting and of the bend relative to LSSTCam's; given nodes are in mm whatever it is.

    Raises
    ------
    InputError
        A value that is not finite, an unknown name, or nodes that do not increase or do not match the values.
    """

    radial: str | tuple = "lsstcam"
    bend: float = 0.0
    centroid: tuple[float, float] = (0.0, 0.0)
    centroid_delta: tuple[float, float] = (0.0, 0.0)
    gradient: tuple[float, float] = (0.0, 0.0)
    outer_gradient: tuple[float, float] = (0.0, 0.0)
    outer_gradient_radius: float = 325.0
    itl_ratio: float = 1.0
    level: float = 20000.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.radial, str):
            try:
                nodes, values = (tuple(float(v) for v in array) for array in self.radial)
            except (TypeError, ValueError):
                raise InputError(
                    f"light: radial is {self.radial!r}; accepted are 'lsstcam' or nodes and values"
                ) from None
            if len(nodes) != len(values) or len(nodes) < 2:
                raise InputError(f"light: {len(nodes)} nodes and {len(values)} values; as many of each, at least 2")
            if not np.all(np.isfinite(nodes + values)) or np.any(np.diff(nodes) <= 0):
                raise InputError("light: radial nodes must be finite and increase, values must be finite")
            object.__setattr__(self, "radial", (nodes, values))
        elif self.radial != "lsstcam":
            raise InputError(f"light: radial is {self.radial!r}; accepted are 'lsstcam' or nodes and values")
        for name in ("centroid", "centroid_delta", "gradient", "outer_gradient"):
            pair = _as_numbers(getattr(self, name))
            if pair.shape != (2,) or not np.all(np.isfinite(pair)):
                raise InputError(f"light: {name} must be two finite numbers, x and y; it is {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(pair.tolist()))
        for name in ("bend", "outer_gradient_radius", "itl_ratio", "level", "scale"):
            number = _as_numbers(getattr(self, name))
            if number.shape != () or not np.isfinite(number):
                raise InputError(f"light: {name} must be a finite number; it is {getattr(self, name)!r}")
        if self.itl_ratio <= 0 or self.level <= 0 or self.scale <= 0:
            raise InputError(
                f"light: itl_ratio, level and scale must be above 0; they are {self.itl_ratio:g}, {self.level:g}, "
                f"{self.scale:g}"
            )

    @cached_property
    def _interpolator(self):
        from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

        if isinstance(self.radial, str):
            return PchipInterpolator(*_VIGNETTING)
        return Akima1DInterpolator(*self.radial, method="akima")

    def radial_function(self, r: ArrayLike) -> NDArray:
        """The radial function (relative) at a distance from the moved centre (mm), any shape."""
        of_nodes = self.scale if isinstance(self.radial, str) else 1.0
        r = np.clip(np.asarray(r, dtype=float) / of_nodes, self._interpolator.x[0], self._interpolator.x[-1])
        return self._interpolator(r) * (1.0 + self.bend * (r * of_nodes / self.scale / 350.0) ** 2)

    def evaluate(self, xf: ArrayLike, yf: ArrayLike, itl: ArrayLike) -> NDArray:
        """Light relative to `level`: ``radial * (itl_ratio if itl else 1) / plane / outer_plane``.

        Parameters
        ----------
        xf, yf : array_like of float
            Position on the focal plane (mm); any shapes that broadcast.
        itl : array_like of bool
            Whether the detector there is an ITL one.

        Raises
        ------
        InputError
            A gradient so large that a plane is not positive somewhere.
        """
        u, v = np.asarray(xf, dtype=float) - self.centroid[0], np.asarray(yf, dtype=float) - self.centroid[1]
        value = self.radial_function(np.hypot(u - self.centroid_delta[0], v - self.centroid_delta[1]))
        value = value * np.where(itl, self.itl_ratio, 1.0)
        if any(self.gradient):
            value /= _positive(1.0 + self.gradient[0] * u + self.gradient[1] * v, "gradient")
        if any(self.outer_gradient):
            plane = 1.0 + self.outer_gradient[0] * u + self.outer_gradient[1] * v
            value /= _positive(np.where(np.hypot(u, v) >= self.outer_gradient_radius, plane, 1.0), "outer_gradient")
        return value


def _as_numbers(value: Any) -> NDArray[np.float64]:
    """A number or a sequence of numbers as an array; NaN where it is neither."""
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)


def _positive(plane: NDArray, name: str) -> NDArray:
    if np.any(plane <= 0):
        raise InputError(f"light: {name} is too large, its plane is not positive all over the focal plane")
    return plane


def default_light(kind: str, physical_filter: str = "i_39", scale: float = 1.0) -> Light:
    """The light of a sky flat (no plane, centred) or of a dome flat (tilted, off centre, bent).

    Its lengths are LSSTCam's times ``scale``.
    """
    check_kind(kind)
    light = Light(itl_ratio=band_itl_ratio(physical_filter), outer_gradient_radius=325.0 * scale, scale=scale)
    if kind == "sky":
        return replace(light, level=5000.0)
    centroid, plane = (0.8 * scale, -0.5 * scale), (3e-5 / scale, -2e-5 / scale)
    return replace(light, bend=-0.005, centroid_delta=centroid, gradient=plane)


# ---- the noise ----


def _vendors(default: float = 0.0):
    return field(default=(default, default), metadata={"pair": True})


@dataclass(frozen=True)
class Noise:
    """Amplitudes of what scatters a flat; all are zero unless given.

    Pairs are (ITL, the rest); one number stands for both.  Amplitudes are standard deviations as a fraction of the
    response, unless said otherwise.

    Attributes
    ----------
    detector_scatter : pair of float
        Of the detectors' throughput.
    amplifier_scatter : pair of float
        Of the amplifiers within a detector, each detector its own.
    shared_amplifier, shared_smooth : pair of float
        Of the pattern that all detectors of a vendor share: amplifier by amplifier, and a smooth field.
    shared_slope : pair of float
        Change of the shared pattern from the left to the right edge (pixel x); may be negative.
    own_field : float
        Of a smooth field of each detector.
    field_scale : float
        Scale of the smooth fields (mm); the covariance at distance d is ``exp(-d**2 / (2 * field_scale**2))``.
    rim : float
        How much dimmer a detector is at its edge; fades by 1/e within 1 mm.
    dust : float
        Spots per cell of 1.28 mm x 1.28 mm: round, 0.5 to 5% dimmer in the middle, sigma 0.4 to 0.6 mm.
    white : float
        White noise of the mean over 1.28 mm x 1.28 mm (fraction of the value); drawn anew for each flat.
    dead_columns : int
        Dead columns per detector; in pixel images and defect tables only.

    Raises
    ------
    InputError
        An amplitude is negative, not finite, or so large (0.2 and more) that a response could become negative.
    """

    detector_scatter: tuple[float, float] = _vendors()
    amplifier_scatter: tuple[float, float] = _vendors()
    shared_amplifier: tuple[float, float] = _vendors()
    shared_smooth: tuple[float, float] = _vendors()
    shared_slope: tuple[float, float] = _vendors()
    own_field: float = 0.0
    field_scale: float = 15.0
    rim: float = 0.0
    dust: float = 0.0
    white: float = 0.0
    dead_columns: int = 0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.metadata.get("pair"):
                value = tuple(float(v) for v in value) if np.ndim(value) else (float(value),) * 2
                if len(value) != 2:
                    raise InputError(f"noise: {entry.name} must be one number or two (ITL, the rest); it is {value}")
                object.__setattr__(self, entry.name, value)
            elif _as_numbers(value).shape != ():
                raise InputError(f"noise: {entry.name} must be one number; it is {value!r}")
            if entry.name in ("field_scale", "dead_columns"):
                continue
            size = np.abs(value) if entry.name == "shared_slope" else np.asarray(value)
            if not np.all((size >= 0) & (size < 0.2)):
                raise InputError(f"noise: {entry.name} is {value}; amplitudes are fractions from 0 to below 0.2")
        if not (math.isfinite(self.field_scale) and self.field_scale > 0):
            raise InputError(f"noise: field_scale is {self.field_scale}; it must be above 0 mm")
        check_whole("noise: dead_columns", self.dead_columns, 0)

    @classmethod
    def none(cls) -> Noise:
        """No noise at all."""
        return cls()

    @classmethod
    def for_band(cls, band: str) -> Noise:
        """The noise of LSSTCam in a band (or physical filter), from its detectors' lab QE.

        The table's amplifier scatter includes the shared pattern, and that includes the slope (a variance of a
        twelfth of its square): each is taken out, and what is left of the shared pattern is half amplifiers and half
        smooth field, by variance.
        """
        _, detectors, amplifiers, shared, slope = _BANDS[band_of(band)]
        itl, rest = (0.01 * math.sqrt(max(0.0, s**2 - t**2 / 12) / 2) for s, t in zip(shared, slope, strict=True))
        own_itl, own_rest = (0.01 * math.sqrt(max(0.0, amplifiers**2 - s**2)) for s in shared)
        return cls(
            detector_scatter=(0.01 * detectors[0], 0.01 * detectors[1]),
            amplifier_scatter=(own_itl, own_rest),
            shared_amplifier=(itl, rest),
            shared_smooth=(itl, rest),
            shared_slope=(0.01 * slope[0], 0.01 * slope[1]),
            own_field=0.001,
            rim=0.002,
            dust=0.003,
            white=0.0005,
            dead_columns=2,
        )


# ---- what an option must be ----


def check_kind(kind: str) -> None:
    """`InputError` unless ``kind`` is ``sky`` or ``dome``."""
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; accepted are {' and '.join(KINDS)}")


def check_whole(name: str, value: int, least: int) -> None:
    """`InputError` unless the value is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number, {least} or more")
