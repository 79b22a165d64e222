"""The scalars of a fit: names, labels and units."""

from __future__ import annotations

import math
from dataclasses import dataclass

# mm: LSSTCam's vignetting is steep from here on, and nearly all detectors lie within; where its flats are compared
REFERENCE_RADIUS = 310.0
FARTHEST = 420.0  # mm: neither bins nor nodes of LSSTCam lie beyond
REFERENCE_PART = 0.85  # of the largest radius of a bin: where flats of smaller and larger cameras are compared
SHOWN_RADII = (0.0, 200.0, 300.0, REFERENCE_RADIUS, 330.0)  # mm, of LSSTCam's radial function in tables and pages
SHOWN_PARTS = (0.0, 0.5, 0.75, 0.9)  # of the largest radius of a bin: the same for smaller and larger cameras
MMAG = 2500.0 / math.log(10.0)  # mmag per unit of a small relative difference
TOLERANCE_MMAG = 2.0  # mmag: Rubin's share for the uniformity of throughput


@dataclass(frozen=True)
class Quantity:
    """A scalar of the product.

    Attributes
    ----------
    label : str
        For tables, pages and plots.
    unit : str
        Unit in the product, empty for a ratio.
    shown_unit : str
        Unit in which it is shown.
    scale : float
        Multiplies the product's number for that unit.
    """

    label: str
    unit: str
    shown_unit: str
    scale: float

    @classmethod
    def ratio(cls, label: str) -> Quantity:
        """Without a unit."""
        return cls(label, "", "", 1.0)

    @classmethod
    def length(cls, label: str) -> Quantity:
        """In mm."""
        return cls(label, "mm", "mm", 1.0)

    @classmethod
    def slope(cls, label: str) -> Quantity:
        """In 1/mm, shown in millionths of it."""
        return cls(label, "1/mm", "10⁻⁶/mm", 1e6)


QUANTITIES = {
    "itl_ratio": Quantity.ratio("ITL ratio"),
    "centroid_delta_x": Quantity.length("centroid x"),
    "centroid_delta_y": Quantity.length("centroid y"),
    "gradient_x": Quantity.slope("plane x"),
    "gradient_y": Quantity.slope("plane y"),
    "outer_gradient_x": Quantity.slope("outer plane x"),
    "outer_gradient_y": Quantity.slope("outer plane y"),
}
SCALARS = tuple(QUANTITIES)
# the scalars that a comparison of sky and dome reports
COMPARED = SCALARS[:5]


def as_fraction(mmag: float) -> float:
    """By what part of itself a flat that is so much fainter (mmag) is lower."""
    return 1 - 10 ** (-0.4e-3 * mmag)


def reference_radius(reach: float) -> float:
    """Radius at which flats are compared (mm), from the largest radius of a bin."""
    return REFERENCE_RADIUS if REFERENCE_RADIUS < reach < FARTHEST else round(REFERENCE_PART * reach, 1)


def shown_radii(reach: float) -> tuple[float, ...]:
    """Radii at which radial functions are shown (mm), none of them beyond the largest radius of a bin."""
    if SHOWN_RADII[-1] <= reach < FARTHEST:
        return SHOWN_RADII
    return tuple(min(float(f"{part * reach:.2g}"), reach) for part in SHOWN_PARTS)


def unit_of(name: str) -> str:
    """Unit of a parameter in the product; empty for one that is not a scalar above."""
    return QUANTITIES[name].unit if name in QUANTITIES else ""


def label_of(name: str, groups: tuple[str, str] = ("ITL", "")) -> str:
    """Label of a scalar, the ratio's with the name of a camera's own groups; any other name stays as it is."""
    if name == "itl_ratio" and groups[0] != "ITL":
        return f"ratio {' / '.join(groups)}"
    return QUANTITIES[name].label if name in QUANTITIES else name


def long_label(name: str, groups: tuple[str, str]) -> str:
    """Label of a scalar; the throughput ratio says between which groups of detectors."""
    return f"throughput ratio {' / '.join(groups)}" if name == "itl_ratio" else QUANTITIES[name].label
