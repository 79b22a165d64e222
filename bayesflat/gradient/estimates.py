"""What is known of a gradient beside its numbers: uncertainties, throughputs, and what it does not describe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_IN_WORDS = {
    "coma": "the flat has coma",
    "quadrupole": "the flat has a quadrupole",
    "trefoil": "the flat has a threefold pattern",
    "tetrafoil": "the flat has a fourfold pattern",
    "rim 1": "the rim is lopsided",
    "rim 2": "the rim is elliptical",
    "rim 3": "the rim has three corners",
}
STATISTICS = ("map", "mean", "sd", "q05", "q50", "q95", "ess_bulk", "ess_tail", "r_hat")


@dataclass(frozen=True)
class Estimates:
    """Statistics of every parameter, and diagnostics of the fit: the rows of ``PARAMETERS`` and ``COVARIANCE``.

    Attributes
    ----------
    names, units : tuple of str, length n
        ``radial_spline_values[0]`` ..., the scalars, the noise model's, then ``log_radial[0]`` ....
    columns : dict of str to numpy.ndarray, shape (n,)
        ``map``, ``mean``, ``sd``, ``q05``, ``q50``, ``q95``, ``ess_bulk``, ``ess_tail``, ``r_hat``; NaN: not known.
    covariance : numpy.ndarray, shape (n, n)
    method : str
        What the statistics come from: ``map`` (nothing was computed), ``laplace`` or ``nuts``.
    converged : bool
    reference : bool
        Whether this is a reference gradient (sky).
    header : dict
        Diagnostics, seed and versions: FITS keyword to (value, comment).

    Raises
    ------
    ValueError
        The covariance has another size, or a name is there twice.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    columns: dict[str, NDArray[np.float64]]
    covariance: NDArray[np.float64]
    method: str
    converged: bool
    reference: bool
    header: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.names)
        if self.covariance.shape != (n, n):
            has = " x ".join(map(str, self.covariance.shape)) or "no"
            raise ValueError(f"COVARIANCE has {has} values, {n} x {n} are needed for the rows of PARAMETERS")
        if len(set(self.names)) < n:
            raise ValueError("a name stands twice in PARAMETERS")

    def __getitem__(self, name: str) -> dict[str, float]:
        """The row of a parameter, as statistic to number."""
        try:
            row = self.names.index(name)
        except ValueError:
            raise KeyError(f"no parameter {name!r}; there are {', '.join(self.names)}") from None
        return {key: float(column[row]) for key, column in self.columns.items()}


@dataclass(frozen=True)
class Offsets:
    """Throughput of detectors and amplifiers relative to the model of a `FlatGradient`: the rows of ``OFFSETS``.

    Attributes
    ----------
    detector : numpy.ndarray of int, shape (n,)
    amplifier : numpy.ndarray of int, shape (n,)
        -1: the detector as a whole.
    mean, sd : numpy.ndarray, shape (n,)
        The detectors of a vendor have a mean of 1; an amplifier's throughput contains its detector's.
    """

    detector: NDArray[np.int64]
    amplifier: NDArray[np.int64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


@dataclass(frozen=True)
class Azimuth:
    """What a flat has that is neither radial nor planar: the rows of ``AZIMUTH``.

    Attributes
    ----------
    term : tuple of str, length n
        ``coma``, ``quadrupole``, ``trefoil``, ``tetrafoil``, ``rim 1`` ....
    m : numpy.ndarray of int, shape (n,)
        Periods around the circle.
    amplitude, sd : numpy.ndarray, shape (n,)
        As a fraction of the flat at the outermost radius.
    phase : numpy.ndarray, shape (n,)
        Angle from the x axis of the focal plane at which the flat is brightest (degrees; the first such angle).
    p : numpy.ndarray, shape (n,)
        Probability of so large an amplitude by chance.
    chi2 : float
        Of all terms together.
    dof : int
        Its degrees of freedom.
    """

    term: tuple[str, ...]
    m: NDArray[np.int64]
    amplitude: NDArray[np.float64]
    sd: NDArray[np.float64]
    phase: NDArray[np.float64]
    p: NDArray[np.float64]
    chi2: float
    dof: int

    @property
    def p_value(self) -> float:
        """Probability of so large a chi-squared by chance."""
        from scipy.special import gammaincc  # applying a gradient does not wait for it

        return float(gammaincc(0.5 * self.dof, 0.5 * self.chi2)) if self.dof else 1.0

    def clearest(self, least: float = 0.0) -> int:
        """The term that stands out most from its error, of those with an amplitude above ``least``."""
        return int(np.argmax(np.where(self.amplitude > least, self.amplitude / self.sd, -1.0)))

    def matters(self, least: float, most_p: float = 1e-3) -> bool:
        """Whether chance is unlikely, for all terms together and for one whose amplitude is above ``least``."""
        return bool(self.p_value < most_p and np.any((self.p < most_p) & (self.amplitude > least)))

    def in_words(self, term: int, radius: float) -> str:
        """One of the terms in plain words; ``radius`` is the outermost one (mm)."""
        size, error = 100 * self.amplitude[term], 100 * self.sd[term]
        digits = max(0, 1 - int(np.floor(np.log10(error))))
        return (
            f"{_IN_WORDS[self.term[term]]}: {size:.{digits}f} ± {error:.{digits}f}% at {radius:.0f} mm, brightest at "
            f"{self.phase[term]:.0f} degrees"
        )
