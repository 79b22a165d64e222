"""The product: evaluated, read, written and applied, without PyMC."""

from bayesflat.gradient.product import SCALARS, STATISTICS, Estimates, FlatGradient, Offsets

__all__ = ["SCALARS", "STATISTICS", "Estimates", "FlatGradient", "Offsets"]
