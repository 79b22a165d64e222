"""The product: evaluated, read, written and applied, without PyMC."""

from bayesflat.gradient.estimates import STATISTICS, Estimates, Offsets
from bayesflat.gradient.product import FlatGradient
from bayesflat.quantities import SCALARS

__all__ = ["SCALARS", "STATISTICS", "Estimates", "FlatGradient", "Offsets"]
