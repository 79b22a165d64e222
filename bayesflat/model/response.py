"""The effects of a detector's response: its bins as functions of the pixel column and row."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.grouped import rows_of
from bayesflat.model.effects import Effects
from bayesflat.model.prepare import FitData
from bayesflat.model.smooth import DEGREE, modes, surface_terms

RIM_WIDTH = 1.0  # mm, within which a detector's rim fades


def effects_of(
    data: FitData,
    detectors: NDArray,
    index: NDArray,
    vendor: NDArray,
    amp_shape: tuple[int, int],
    times_long: tuple[int, int],
) -> tuple[Effects, list[str]]:
    """The effects on the bins, and the name of each: its scale's, but for the vendor.

    Parameters
    ----------
    data : FitData
    detectors : numpy.ndarray of int, shape (n_detectors,)
        Ids.
    index : numpy.ndarray of int, shape (n_bins,)
        Which of them a bin belongs to.
    vendor : numpy.ndarray of int, shape (n_detectors,)
    amp_shape : (int, int)
        Rows and columns of amplifiers, of the detector that has most.
    times_long : (int, int)
        How many times their shorter side the detectors are long, in x and in y.
    """
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

    # functions of columns and of rows, and which of them each bin has
    tables: tuple[list[NDArray], list[NDArray]] = ([], [])
    which = np.empty((2, len(data)), dtype=np.int64)
    # detectors are much alike: where functions begin that were made before, and positions told apart before
    known: dict[tuple, int] = {}
    told_apart: dict[bytes, tuple[NDArray, ...]] = {}
    for number, rows in zip(detectors, rows_of(index).values(), strict=True):
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


def shared_labels(amp_shape: tuple[int, int], times: tuple[int, int]) -> list[str]:
    """Labels of the effects of `effects_of` but for the first; surfaces by their degrees along x and y."""
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
def means_of(
    length: int, n_amplifiers: int, most: int, pixel_size: float, field: float, times: int
) -> NDArray[np.float64]:
    """Means of `_functions` over each amplifier's extent: shape (most, n_functions)."""
    steps = 40
    edge = (np.arange(n_amplifiers * steps) + 0.5) * length / (n_amplifiers * steps)
    functions = _functions(edge, length, n_amplifiers, most, 0.0, pixel_size, field, times)
    out = np.zeros((most, functions.shape[1]))
    out[:n_amplifiers] = functions.reshape(n_amplifiers, steps, -1).mean(1)
    return out
