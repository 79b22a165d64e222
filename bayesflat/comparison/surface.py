"""A smooth surface over the focal plane: what the ratio of two flats has that is neither radial nor planar.

The detectors cancel in the ratio, so that a pattern of a part in a thousand is seen, which the scatter of the
detectors hides in a single flat.  Without a term of its own it would bias the throughput ratio of the vendors, whose
detectors lie in patches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bayesflat.model.zernike import zernike

DEGREE = 8  # details of a quarter of the radius
SCALES = np.geomspace(1e-6, 3e-2, 80)  # prior sd of a coefficient: those that are tried


class Surface:
    """Zernike's polynomials without those of a circle or a plane, made orthogonal to other columns on the bins.

    Of what is left of a polynomial, radial function, plane and centroid explain nothing; so their errors stay as they
    are.

    Parameters
    ----------
    others : callable
        From positions (mm, mm) to the columns that explain as much as they can: shape (n, m).
    x, y, weight : numpy.ndarray, shape (n_bins,)
        The bins: positions on the focal plane (mm).
    centre : tuple of float
        Centre of the polynomials (mm); the outermost bin is at the edge of their disc.

    Attributes
    ----------
    columns : numpy.ndarray, shape (n_bins, size)
        At the bins, where they are asked for again and again.
    """

    def __init__(
        self, others: Callable[[NDArray, NDArray], NDArray], x: NDArray, y: NDArray, weight: NDArray,
        centre: tuple[float, float],
    ) -> None:  # fmt: skip
        self.others, self.centre = others, centre
        self.edge = float(np.hypot(x - centre[0], y - centre[1])[weight > 0].max())
        polynomials, of_others = self._polynomials(x, y), others(x, y)
        scale = np.sqrt(np.mean(of_others**2, axis=0))
        scale[scale == 0] = 1.0  # a coefficient that no bin feels
        scaled = of_others / scale
        gram = scaled.T @ (weight[:, None] * scaled)
        gram[np.diag_indices_from(gram)] += 1e-9 * len(x)
        self.taken = np.linalg.solve(gram, scaled.T @ (weight[:, None] * polynomials)) / scale[:, None]
        self.bins, self.columns = (x, y), polynomials - of_others @ self.taken

    def __call__(self, x: NDArray, y: NDArray) -> NDArray[np.float64]:
        """The columns at positions on the focal plane: shape (n, size), of rms about 1 over the disc."""
        if x is self.bins[0] and y is self.bins[1]:
            return self.columns
        return self._polynomials(x, y) - self.others(x, y) @ self.taken

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.taken.shape[1]

    def _polynomials(self, x: NDArray, y: NDArray) -> NDArray[np.float64]:
        return zernike(x - self.centre[0], y - self.centre[1], self.edge, DEGREE)
