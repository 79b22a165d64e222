"""The product: the large-scale gradients of a flat, evaluated in NumPy.

Nothing here needs PyMC: reading and applying a gradient starts in a blink.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.data.camera import Camera, get_camera
from bayesflat.errors import InputError, first_line
from bayesflat.gradient import files
from bayesflat.gradient.estimates import Azimuth, Estimates, Offsets
from bayesflat.gradient.spline import akima_basis

if TYPE_CHECKING:
    from astropy.table import QTable

    from bayesflat.gradient.curve import RadialCurve


# no flat is beyond these
_FARTHEST = 1e4  # mm, of nodes and pivots
_LARGEST = 1e30  # of values and ratios, and of one over them: corrected pixels are 32 bit floats
_STEEPEST = 1e3  # 1/mm


@dataclass(frozen=True)
class FlatGradient:
    """Large-scale gradients of a flat.

    Attributes
    ----------
    radial_spline_nodes, radial_spline_values : numpy.ndarray, shape (n_nodes,)
        Nodes (mm) and values of the radial function.
    itl_ratio : float
        Throughput of the ITL detectors over that of the others.
    centroid_x, centroid_y : float
        Fixed pivot of planes and centroid (mm).
    centroid_delta_x, centroid_delta_y : float
        Offset of the radial function's centre from the pivot (mm).
    gradient_x, gradient_y : float
        Planar gradient (1/mm); the plane divides the model.
    outer_gradient_x, outer_gradient_y, outer_gradient_radius : float
        A second plane (1/mm) where the radius from the pivot is at least so large (mm).
    normalization_factor : float
        What the flat was divided by before the fit.
    metadata : dict
        Header of the product.
    estimates : Estimates or None
        Uncertainties and diagnostics; None where a file has none.
    offsets : Offsets or None
        Throughput of detectors and amplifiers; None where a file has none, or the noise was independent.
    config : dict
        Configuration and inputs of the fit.
    knots : numpy.ndarray, shape (n + 4,), or None
        Of the fitted curve, a cubic B-spline in the log of the radial function, whose coefficients are the estimates
        ``log_radial[k]`` (mm).  Nodes and values are Akima's spline closest to it.  None where a file has none.
    bend_sd : numpy.ndarray, shape (n,), or None
        How smooth the curve was taken to be: prior standard deviation of the second derivative of the log of the radial
        function, about where each coefficient belongs (1/mm**2); NaN for the first and the last.
    azimuth : Azimuth or None
        What the flat has that is neither radial nor planar; None where a file has none, or the noise was independent.

    Raises
    ------
    ValueError
        Nodes and values differ in number, nodes do not ascend, or numbers are not finite, or none that a flat can have.
    """

    radial_spline_nodes: NDArray[np.float64]
    radial_spline_values: NDArray[np.float64]
    itl_ratio: float = 1.0
    centroid_x: float = 0.0
    centroid_y: float = 0.0
    centroid_delta_x: float = 0.0
    centroid_delta_y: float = 0.0
    gradient_x: float = 0.0
    gradient_y: float = 0.0
    outer_gradient_x: float = 0.0
    outer_gradient_y: float = 0.0
    outer_gradient_radius: float = 325.0
    normalization_factor: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict)
    estimates: Estimates | None = None
    offsets: Offsets | None = None
    config: dict[str, Any] = field(default_factory=dict)
    knots: NDArray[np.float64] | None = None
    bend_sd: NDArray[np.float64] | None = None
    azimuth: Azimuth | None = None

    def __post_init__(self) -> None:
        for name in ("radial_spline_nodes", "radial_spline_values"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=float))
        nodes, values = self.radial_spline_nodes, self.radial_spline_values
        if nodes.ndim != 1 or nodes.shape != values.shape:
            raise ValueError(f"{nodes.size} spline nodes but {values.size} values; they must be equal in number")
        if nodes.size < 2 or not np.all(np.diff(nodes) > 0):
            raise ValueError(f"spline nodes must ascend, at least 2 of them, got {nodes.tolist()}")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"spline values must be finite, got {values.tolist()}")

    def _check_numbers(self) -> None:
        """Refuse numbers that no flat has: a correction by them would be none, or NaN.

        What a fit that failed has found can be held and reported all the same; it is refused when it is read.
        """
        nodes, values = self.radial_spline_nodes, self.radial_spline_values
        if nodes[0] < 0 or nodes[-1] > _FARTHEST:
            raise ValueError(f"spline nodes are radii from 0 to {_FARTHEST:g} mm, got {nodes.tolist()}")
        if np.abs(values).max() > _LARGEST or values.max() < 1 / _LARGEST:
            raise ValueError(
                f"spline values must be positive somewhere, and at most {_LARGEST:g}, got {values.tolist()}"
            )
        for name in ("itl_ratio", "normalization_factor"):
            value = getattr(self, name)
            if not 1 / _LARGEST <= value <= _LARGEST:
                raise ValueError(f"{name} must be from {1 / _LARGEST:g} to {_LARGEST:g}, got {value!r}")
        if np.isnan(self.outer_gradient_radius):  # infinity is as good as no outer plane
            raise ValueError("outer_gradient_radius must be a number of mm, got nan")
        for name in ("centroid_x", "centroid_y"):
            value = getattr(self, name)
            if not abs(value) <= _FARTHEST:
                raise ValueError(f"{name} must be at most {_FARTHEST:g} mm, got {value!r}")
        for name in ("gradient_x", "gradient_y", "outer_gradient_x", "outer_gradient_y"):
            value = getattr(self, name)
            if not abs(value) <= _STEEPEST:
                raise ValueError(f"{name} must be at most {_STEEPEST:g}/mm, got {value!r}")
        last, x, y = self.radial_spline_nodes[-1], self.centroid_delta_x, self.centroid_delta_y
        if not np.hypot(x, y) <= last:
            raise ValueError(f"the centroid must lie within the last node ({last:g} mm), its offset is ({x!r}, {y!r})")

    def _check_estimates(self) -> None:
        """Raise `ValueError` unless the estimates have what is looked up in them."""
        if self.estimates is None:
            return
        n, name = len(self.radial_spline_nodes), "radial_spline_values"
        if self.knots is not None:
            n, name = len(self.knots) - 4, "log_radial"
            if "RADIUSMX" not in self.estimates.header:
                raise ValueError("header card RADIUSMX (how far bins reach) missing in PARAMETERS")
        names = set(self.estimates.names)
        missing = next((one for k in range(n) if (one := f"{name}[{k}]") not in names), None)
        if missing:
            raise ValueError(f"row {missing} missing in PARAMETERS")
        if self.bend_sd is not None and len(self.bend_sd) != n:
            raise ValueError(f"RADIAL has {len(self.bend_sd)} values of bend_sd, {n} are needed")

    @property
    def physical_filter(self) -> str:
        """Physical filter, empty where not known."""
        return str(self.metadata.get("FILTER") or "")

    @property
    def instrument(self) -> str:
        """Instrument, empty where not known."""
        return str(self.metadata.get("INSTRUME") or "")

    @property
    def camera(self) -> Camera:
        """The camera that the fit was of: from the table in the product, else by the name there, else LSSTCam.

        Raises
        ------
        InputError
            A product of an earlier version names a table that is not there.
        """
        table = self.config.get("camera_table")
        if table:
            return Camera.from_lines(table, "of the product")
        return get_camera(self.config.get("camera") or "lsstcam")

    @property
    def reach(self) -> float:
        """Radius to which the radial function is known (mm): that of the outermost bin of the fit, else the last node.

        Beyond the bins the function is a guess: it goes on as far as the last node only.
        """
        header = {} if self.estimates is None else self.estimates.header
        return float(min(self.radial_spline_nodes[-1], header.get("RADIUSMX", (np.inf, ""))[0]))

    @property
    def outermost_bin(self) -> float:
        """Radius of the outermost bin of the fit (mm), whatever the nodes; `reach` where the fit has left none."""
        if self.knots is None or self.estimates is None:
            return self.reach
        return float(self.estimates.header["RADIUSMX"][0])

    def require_estimates(self) -> Estimates:
        """`estimates`, for what cannot do without.

        Raises
        ------
        ValueError
            The product has none.
        """
        if self.estimates is None:
            raise ValueError("the product has no uncertainties (HDU PARAMETERS)")
        return self.estimates

    @property
    def curve(self) -> RadialCurve | None:
        """The fitted curve and what is known of it; None where the values at nodes were fitted, or nothing is known."""
        if self.knots is None or self.estimates is None:
            return None
        from bayesflat.gradient.curve import LogSpline, RadialCurve

        spline = LogSpline(self.knots)
        rows = [self.estimates.names.index(f"log_radial[{k}]") for k in range(spline.size)]
        columns, covariance = self.estimates.columns, self.estimates.covariance[np.ix_(rows, rows)]
        return RadialCurve(spline, columns["map"][rows], columns["mean"][rows], covariance)

    def compute_radial(self, radius: ArrayLike) -> NDArray[np.float64]:
        """Radial function: Akima's spline, clipped to the first and last node.

        Parameters
        ----------
        radius : array_like or Quantity
            Radius from the moved centroid (mm, or any length).

        Returns
        -------
        numpy.ndarray, of the shape of ``radius``
        """
        from scipy.interpolate import Akima1DInterpolator

        nodes = self.radial_spline_nodes
        spline = Akima1DInterpolator(nodes, self.radial_spline_values, method="akima")
        return spline(np.clip(_in_mm(radius, "radius"), nodes[0], nodes[-1]))

    def compute_radial_sd(self, radius: ArrayLike) -> NDArray[np.float64]:
        """Standard deviation of the radial function: that of the fitted curve, else of the spline's values.

        Parameters
        ----------
        radius : array_like or Quantity
            Radius from the moved centroid (mm, or any length).

        Returns
        -------
        numpy.ndarray, of the shape of ``radius``
            NaN where the product has no uncertainties.
        """
        radius = _in_mm(radius, "radius")
        if self.estimates is None:
            return np.full(radius.shape, np.nan)
        curve = self.curve
        if curve is not None:
            # beyond the nodes the value is that of the node
            rows = curve.spline.design(np.clip(radius.ravel(), *self.radial_spline_nodes[[0, -1]]))
            variance = np.einsum("ri,ij,rj->r", rows, curve.covariance, rows)
            return self.compute_radial(radius) * np.sqrt(np.maximum(variance, 0.0)).reshape(radius.shape)
        n = self.radial_spline_nodes.size
        basis = akima_basis(self.radial_spline_nodes, self.radial_spline_values, radius.ravel())
        covariance = self.estimates.covariance[:n, :n]
        variance = np.einsum("ri,ij,rj->r", basis, covariance, basis)
        # where a value is fixed, rounding may leave a negative variance
        return np.sqrt(np.maximum(variance, 0.0)).reshape(radius.shape)

    def radius(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Radius from the moved centroid (mm) of positions on the focal plane (mm, or Quantities of any length)."""
        dx = _in_mm(x, "x") - self.centroid_x - self.centroid_delta_x
        dy = _in_mm(y, "y") - self.centroid_y - self.centroid_delta_y
        return np.hypot(dx, dy)

    def compute_plane(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Planar gradient, times the outer one where that applies: 1 at the fixed pivot.

        Parameters
        ----------
        x, y : array_like or Quantity
            Focal-plane positions (mm, or any length).
        """
        dx = _in_mm(x, "x") - self.centroid_x
        dy = _in_mm(y, "y") - self.centroid_y
        plane = 1 + self.gradient_x * dx + self.gradient_y * dy
        outer = 1 + self.outer_gradient_x * dx + self.outer_gradient_y * dy
        return plane * np.where(np.hypot(dx, dy) >= self.outer_gradient_radius, outer, 1.0)

    def compute_model(self, x: ArrayLike, y: ArrayLike, is_itl: ArrayLike) -> NDArray[np.float64]:
        """What a normalized flat reads: ``radial * (itl_ratio if itl) / plane / outer_plane``.

        Parameters
        ----------
        x, y : array_like or Quantity
            Focal-plane positions (mm, or any length).
        is_itl : array_like of bool
            Whether each position is on an ITL detector.
        """
        ratio = np.where(np.asarray(is_itl, dtype=bool), self.itl_ratio, 1.0)
        return self.compute_radial(self.radius(x, y)) * ratio / self.compute_plane(x, y)

    def to_table(self) -> QTable:
        """LSST's table of the gradient: one row, with units.

        Returns
        -------
        astropy.table.QTable
            ``RADIAL_SPLINE_NODES`` (mm) and ``RADIAL_SPLINE_VALUES``, vectors of all nodes, and each scalar in a vector
            of length 1: lengths in mm, slopes in 1/mm. The header is in ``meta``.
        """
        return files.table_of(self._arguments())

    def write(self, path: str | Path, overwrite: bool = True) -> None:
        """Write FITS (everything), or LSST's YAML or ECSV (the gradient alone), by the ending of ``path``.

        The file appears whole or not at all.

        Parameters
        ----------
        path : path
        overwrite : bool
            Whether a file that is there may be replaced.

        Raises
        ------
        InputError
            Another ending; without ``overwrite``, a file that is there.
        """
        files.write(self._arguments(), path, overwrite)

    def _arguments(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def read(cls, path: str | Path) -> FlatGradient:
        """Read FITS, YAML or ECSV, our own or LSST's, with and without the outer gradient.

        Raises
        ------
        InputError
            No such file, another ending, or not a flat gradient.
        """
        arguments = files.read(path)
        try:
            product = cls(**arguments)
            product._check_numbers()
            product._check_estimates()
            return product
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: not a flat gradient; {first_line(error)}") from None


def _in_mm(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Lengths as numbers of mm: plain ones are taken for such, astropy's Quantities and columns are converted."""
    unit = getattr(values, "unit", None)
    if unit is None:
        return np.asarray(values, dtype=float)
    from astropy import units

    try:
        return np.asarray(units.Quantity(values).to_value(units.mm), dtype=float)
    except units.UnitConversionError:
        raise InputError(
            f"{name} is in {str(unit) or 'no unit'}; it must be a length, or plain numbers, which are mm"
        ) from None
