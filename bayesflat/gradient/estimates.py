"""Uncertainties and diagnostics of the parameters of a gradient, and throughputs of detectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    columns: dict[str, NDArray[np.float64]]
    covariance: NDArray[np.float64]
    method: str
    converged: bool
    reference: bool
    header: dict[str, tuple[Any, str]] = field(default_factory=dict)

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
