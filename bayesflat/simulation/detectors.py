"""Focal planes with a known truth: the response of the detectors, and what a flat looks like through it.

A flat is ``level * light * response``, plus white noise.  The light (`bayesflat.simulation.truth.Light`) differs
between a sky and a dome flat; the response (`SimulatedDetectors`) belongs to camera and seed, so both of one seed show
the same detectors.
Each term of the response is a sum of products of a function of x and one of y, whose mean over a rectangle is known in
closed form: bins and pixels of any size are means of the same field, and no pixel needs to be made to get a bin.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.data.binned import BinnedFlat
from bayesflat.data.camera import Camera, Detector
from bayesflat.errors import InputError
from bayesflat.simulation.truth import KINDS, Light, Noise, check_kind, check_whole, light_scale

VIGNETTED_RADIUS = 350.0  # mm; LSSTCam's production flats hold no data beyond it
CELL = 1.28  # mm: the side of a bin of 128 pixels of 0.01 mm, by which white noise and dust are counted
RIM_WIDTH = 1.0  # mm, over which the dimmer rim fades by 1/e
DUST_SIGMA = (0.4, 0.6)  # mm
DUST_DEPTH = (0.005, 0.05)  # at the middle of a spot
N_WAVES = 64  # of a smooth random field


# ---- the detectors ----


class _Draw(NamedTuple):
    """What was drawn for one detector; positions in mm from the corner of pixel (0, 0)."""

    offset: float
    gains: NDArray  # (amp_ny, amp_nx)
    waves: NDArray  # (4, n): wave numbers in x and y (1/mm), cosine and sine amplitudes
    slope: float
    rim: float
    columns: NDArray  # (dead_columns, 2): column in pixels, amplifier row
    spots: NDArray  # (4, n): x, y, sigma, depth


class SimulatedDetectors:
    """The response of a camera's detectors: the same for sky and dome, for any subset and any order of detectors.

    Everything lies at physical positions within the detector, so that a coarse image shows the same detector as one
    with all pixels; give the camera in its full resolution, therefore.

    Parameters
    ----------
    camera : Camera
        Any number of detectors.
    noise : Noise
        Amplitudes (`Noise.white` is not a matter of the response).
    seed : int
        0 or more.
    """

    def __init__(self, camera: Camera, noise: Noise, seed: int) -> None:
        check_whole("seed", seed, 0)
        self.camera = camera
        self.noise = noise
        self.seed = int(seed)

    def rng(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each stream, so that no draw depends on what else is drawn."""
        key = tuple(number % 2**32 for number in stream)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _draw(self, detector: Detector) -> _Draw:
        noise, vendor = self.noise, 0 if detector.is_itl else 1
        rng, shared = self.rng(1, detector.id), self.rng(0, vendor)
        amplifiers = (detector.amp_ny, detector.amp_nx)
        width, height = detector.nx * detector.pixel_size, detector.ny * detector.pixel_size
        # order matters: what has a fixed number of draws first, so that the options stay independent of one another
        offset = 1.0 + noise.detector_scatter[vendor] * rng.standard_normal()
        own = _waves(rng, noise.own_field, noise.field_scale)
        common = _waves(shared, noise.shared_smooth[vendor], noise.field_scale)
        gains = 1.0 + noise.shared_amplifier[vendor] * shared.standard_normal(amplifiers)
        gains *= 1.0 + noise.amplifier_scatter[vendor] * rng.standard_normal(amplifiers)
        dust = self.rng(2, detector.id)
        count = dust.poisson(noise.dust * width * height / CELL**2)
        low, high = zip((0.0, width), (0.0, height), DUST_SIGMA, DUST_DEPTH, strict=True)
        spots = dust.uniform(low, high, size=(count, 4)).T
        dead = self.rng(3, detector.id).integers(0, [detector.nx, detector.amp_ny], size=(noise.dead_columns, 2))
        waves = np.hstack([own, common])
        return _Draw(offset, gains, waves, noise.shared_slope[vendor], noise.rim, dead, spots)

    def amplifier_gains(self, key: int | str) -> NDArray:
        """Gain of each amplifier ``column + amp_nx * row``, own and shared, without the detector's offset."""
        return self._draw(self.camera[key]).gains.ravel()

    def response_at(self, key: int | str, px: ArrayLike, py: ArrayLike, size: float = 1.0) -> NDArray:
        """Mean response over squares of `size` pixels whose centres form a grid.

        A square that straddles amplifiers gets their mean weighted by area, as the mean of its pixels would.

        Parameters
        ----------
        key : int or str
            Id or name of the detector.
        px, py : array_like, shapes (n_x,) and (n_y,)
            The grid's axes: pixel positions, zero at the centre of the first pixel.
        size : float
            Side of the squares, above 0 (pixels).

        Returns
        -------
        numpy.ndarray, shape (n_y, n_x)
            Relative; 1 without noise.
        """
        detector = self.camera[key]
        pixel = detector.pixel_size
        x, y = (np.atleast_1d(np.asarray(p, dtype=float) + 0.5) * pixel for p in (px, py))
        return _cell_means(self._draw(detector), detector, x, y, size * pixel, size * pixel)

    def response(self, key: int | str, coarse: int = 1) -> NDArray:
        """Mean response of each pixel of the detector coarsened by that factor: (ny // coarse, nx // coarse)."""
        return self.response_at(key, *_pixel_axes(self.camera[key], coarse), size=coarse)

    def throughput(self, key: int | str) -> float:
        """Mean response over the whole area of the detector (relative).

        Dead columns and dust are left out: they affect single bins, not the throughput of the detector.
        """
        detector = self.camera[key]
        axes, sizes = [], []
        for pixels, amplifiers in ((detector.nx, detector.amp_nx), (detector.ny, detector.amp_ny)):
            length = pixels * detector.pixel_size
            n = amplifiers * max(1, round(length / amplifiers / CELL))  # cells within amplifiers
            axes.append((np.arange(n) + 0.5) * length / n)
            sizes.append(length / n)
        clean = self._draw(detector)._replace(spots=np.zeros((4, 0)))
        return float(_cell_means(clean, detector, axes[0], axes[1], sizes[0], sizes[1]).mean())

    def dust(self, key: int | str) -> NDArray[np.float64]:
        """Spots of dust: x, y and sigma (mm from the corner of pixel (0, 0)), and depth in the middle: shape (4, n)."""
        return self._draw(self.camera[key]).spots

    def defects(self, key: int | str, coarse: int = 1) -> NDArray[np.int64]:
        """Dead columns as boxes ``x0, y0, width, height`` in coarsened pixels: shape (n, 4).

        A dead column runs over the height of its amplifier; any coarse pixel that it touches is dead.
        """
        detector = self.camera[key]
        nx, ny = detector.nx // coarse, detector.ny // coarse
        column, row = self._draw(detector).columns.T
        bottom = np.minimum(row * detector.ny // detector.amp_ny // coarse, ny - 1)
        top = np.minimum(-(-((row + 1) * detector.ny // detector.amp_ny) // coarse), ny)
        column = np.minimum(column // coarse, nx - 1)
        return np.column_stack([column, bottom, np.ones_like(column), top - bottom])


def _waves(rng: np.random.Generator, rms: float, scale: float) -> NDArray:
    """Random waves whose sum is a stationary field of that rms with a Gaussian covariance of that scale (mm)."""
    k = rng.standard_normal((2, N_WAVES)) / scale
    return np.vstack([k, rng.standard_normal((2, N_WAVES)) * rms / math.sqrt(N_WAVES)])


def _cell_means(draw: _Draw, detector: Detector, x: NDArray, y: NDArray, dx: float, dy: float) -> NDArray:
    """Mean response over rectangles of dx by dy mm centred on the grid x, y (mm from the corner): (n_y, n_x).

    The mean of each term is exact; the mean of their product is taken as the product of their means.
    """
    width, height = detector.nx * detector.pixel_size, detector.ny * detector.pixel_size
    kx, ky, cosine, sine = (row[:, None] for row in draw.waves)
    cos_x, sin_x, cos_y, sin_y = np.cos(kx * x), np.sin(kx * x), np.cos(ky * y), np.sin(ky * y)
    damping = np.sinc(kx * dx / (2 * np.pi)) * np.sinc(ky * dy / (2 * np.pi))  # of a wave, by taking means
    cosine, sine = cosine * damping, sine * damping
    # cosine * cos(kx x + ky y) + sine * sin(kx x + ky y), in factors of y and of x
    along_y = np.vstack([cosine * cos_y + sine * sin_y, sine * cos_y - cosine * sin_y])
    value = along_y.T @ np.vstack([cos_x, sin_x])
    value += 1.0 + draw.slope * (x / width - 0.5)
    if np.any(draw.gains != 1.0):
        share_x, share_y = _shares(x, dx, width, detector.amp_nx), _shares(y, dy, height, detector.amp_ny)
        value *= 1.0 + share_y @ (draw.gains - 1.0) @ share_x.T
    if draw.rim:
        rim_x, rim_y = _rim_mean(x, dx, width), _rim_mean(y, dy, height)
        value *= np.outer(1.0 - draw.rim * rim_y, 1.0 - draw.rim * rim_x)
    if draw.spots.size:
        x0, y0, sigma, depth = (row[:, None] for row in draw.spots)
        value *= 1.0 - (depth * _spot_mean(y - y0, dy, sigma)).T @ _spot_mean(x - x0, dx, sigma)
    return value * draw.offset


def _shares(x: NDArray, dx: float, length: float, n: int) -> NDArray:
    """Share of each cell that lies in each of n amplifiers: (cells, n)."""
    edges = length * np.arange(n + 1) / n
    overlap = np.minimum(x[:, None] + dx / 2, edges[1:]) - np.maximum(x[:, None] - dx / 2, edges[:-1])
    return np.clip(overlap, 0.0, None) / dx


def _spot_mean(d: NDArray, dx: float, sigma: NDArray) -> NDArray:
    """Mean of ``exp(-d**2 / (2 sigma**2))`` over d - dx/2 .. d + dx/2."""
    from scipy.special import erf

    s = math.sqrt(2.0) * sigma
    return math.sqrt(math.pi) / 2 * s / dx * (erf((d + dx / 2) / s) - erf((d - dx / 2) / s))


def _rim_mean(x: NDArray, dx: float, length: float) -> NDArray:
    """Mean over each cell of a rim that is 1 at either edge and fades inwards."""
    from_left, from_right = x - dx / 2, length - x - dx / 2
    fading = np.exp(-from_left / RIM_WIDTH) + np.exp(-from_right / RIM_WIDTH)
    return fading * RIM_WIDTH / dx * -math.expm1(-dx / RIM_WIDTH)


def _pixel_axes(detector: Detector, coarse: int) -> tuple[NDArray, NDArray]:
    """Centres of the coarsened pixels in x and in y, in pixels of the detector as it is."""
    check_whole("coarse", coarse, 1)
    small = detector.coarsened(coarse)
    x, y = (np.arange(n) * coarse + (coarse - 1) / 2 for n in (small.nx, small.ny))
    return x, y


# ---- the truth, and a binned focal plane ----


def true_parameters(light: Light, detectors: SimulatedDetectors) -> dict:
    """What a fit should find, with the product's names.

    The throughputs that were drawn are part of the truth: the radial function is the mean response of the detectors
    that are not ITL (of the ITL ones where all are), and the ratio is that of the two means.

    Parameters
    ----------
    light : Light
        The truth of the light.
    detectors : SimulatedDetectors
        Its camera's detectors are those that count.

    Returns
    -------
    dict
        ``itl_ratio`` (1 where there is one group only), ``centroid_delta_x/y`` (mm), ``gradient_x/y`` and
        ``outer_gradient_x/y`` (1/mm); ``radial_spline_values[i]`` where an unbent spline is the truth, in the unit of
        `Light.radial_function` times ``group_throughput``.  Further ``group_throughput``, the factor between
        `Light.radial_function` and the radial function in a fit's sense, and ``detector_throughput``, by id.
    """
    throughput = {d.id: detectors.throughput(d.id) for d in detectors.camera}
    itl = [throughput[d.id] for d in detectors.camera if d.is_itl]
    rest = [throughput[d.id] for d in detectors.camera if not d.is_itl]
    group = float(np.mean(rest)) if rest else float(np.mean(itl)) * light.itl_ratio
    truth: dict[str, Any] = {}
    if not isinstance(light.radial, str) and not light.bend:
        truth |= {f"radial_spline_values[{i}]": value * group for i, value in enumerate(light.radial[1])}
    truth["itl_ratio"] = light.itl_ratio * float(np.mean(itl)) / group if itl and rest else 1.0
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        truth |= {f"{name}_{axis}": value for axis, value in zip("xy", getattr(light, name), strict=True)}
    return truth | {"group_throughput": group, "detector_throughput": throughput}


def simulate_binned(
    camera: Camera,
    light: Light,
    noise: Noise,
    seed: int,
    *,
    kind: str = "sky",
    bin_factor: int = 128,
    detector_boundary: int = 10,
    vignetted_radius: float | None = None,
    science_only: bool = True,
    physical_filter: str = "",
) -> BinnedFlat:
    """A binned focal plane without making its pixels.

    The response is its mean over each bin (over straddled amplifiers, too), the light that of the bin's centre.  The
    centre of a bin that starts at pixel i is ``i + (bin_factor - 1) / 2``, and the first starts at the boundary.
    Dead columns are taken as masked; `n_pixels` does not count them out.

    Parameters
    ----------
    camera : Camera
        Any number of detectors.
    light, noise : Light, Noise
        The truth.
    seed : int
        Of detectors and noise.
    kind : str
        ``sky`` or ``dome``; both have the same detectors, and differ in the white noise that is drawn.
    bin_factor, detector_boundary : int
        Side of a bin, and what is left out along the edges (pixels).
    vignetted_radius : float, optional
        Bins whose centre lies beyond it are left out (mm from the focal plane's origin); by default 350 mm, scaled to
        other cameras than LSSTCam.
    science_only : bool
        Leave out guider and wavefront detectors.
    physical_filter : str
        Recorded in the result.

    Raises
    ------
    InputError
        An option that is not accepted, or no bin left.
    """
    check_kind(kind)
    check_whole("bin_factor", bin_factor, 1)
    check_whole("detector_boundary", detector_boundary, 0)
    if vignetted_radius is None:
        vignetted_radius = VIGNETTED_RADIUS * light_scale(camera)
    camera = camera.science() if science_only else camera
    detectors = SimulatedDetectors(camera, noise, seed)
    parts: dict[str, list[NDArray]] = {name: [] for name in ("xf", "yf", "value", "detector", "itl", "amplifier")}
    for detector in camera:
        n_x, n_y = (max(0, (n - 2 * detector_boundary) // bin_factor) for n in (detector.nx, detector.ny))
        px, py = (detector_boundary + np.arange(n) * bin_factor + (bin_factor - 1) / 2 for n in (n_x, n_y))
        grid_x, grid_y = np.meshgrid(px, py)
        xf, yf = detector.pixel_to_focal_plane(grid_x, grid_y)
        keep = np.hypot(xf, yf) <= vignetted_radius
        if not keep.any():
            continue
        # in its own camera's mm, so that a coarsened camera gets the noise that it should
        white = noise.white * CELL / (bin_factor * detector.pixel_size)
        random = detectors.rng(4, KINDS.index(kind), detector.id).standard_normal(keep.shape)
        value = detectors.response_at(detector.id, px, py, size=bin_factor) * (1.0 + white * random)
        parts["xf"].append(xf[keep])
        parts["yf"].append(yf[keep])
        parts["value"].append(value[keep])
        parts["detector"].append(np.full(keep.sum(), detector.id, dtype=np.int64))
        parts["itl"].append(np.full(keep.sum(), detector.is_itl))
        parts["amplifier"].append(detector.amplifier(grid_x, grid_y)[keep])
    if not parts["value"]:
        raise InputError(
            f"camera {camera.name}: no bin of {bin_factor} pixels within {vignetted_radius:g} mm on its detectors"
        )
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    # relative numbers first: without noise the product is then exactly the light times the level
    columns["value"] = columns["value"] * light.evaluate(columns["xf"], columns["yf"], columns["itl"]) * light.level
    n_pixels = np.full(len(columns["value"]), int(bin_factor) ** 2, dtype=np.int64)
    return BinnedFlat(
        camera=camera, n_pixels=n_pixels, instrument=camera.name, physical_filter=physical_filter, run="", **columns
    )
