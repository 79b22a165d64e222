"""bayesflat: large-scale gradients of a wide-field camera's flats, as one PyMC model, with uncertainties.

What is heavy is imported where it is used, so ``import bayesflat`` is cheap.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from bayesflat.moved import keep_old_names

__version__ = importlib.metadata.version("bayesflat")

_HOMES = {
    "BinnedFlat": "data.binned",
    "Box": "data.defects",
    "Camera": "data.camera",
    "Comparison": "comparison.comparison",
    "Detector": "data.camera",
    "Estimates": "gradient.estimates",
    "FitConfig": "config",
    "FitResult": "inference.fitting",
    "Flat": "data.flats",
    "FlatGradient": "gradient.product",
    "InputError": "errors",
    "NormalPrior": "config",
    "Offsets": "gradient.estimates",
    "RunConfig": "config",
    "apply_gradients": "gradient.correction",
    "bin_files": "data.binning",
    "bin_focal_plane": "data.binning",
    "build_model": "inference.fitting",
    "compare": "comparison.comparison",
    "compare_terms": "inference.loo",
    "find_defects": "data.defects",
    "find_flats": "data.flats",
    "fit": "inference.fitting",
    "get_camera": "data.camera",
    "leave_one_out": "inference.loo",
    "lsstcam": "data.camera",
    "lsstcomcam": "data.camera",
    "posterior_predictive": "inference.predictive",
    "prior_predictive": "inference.predictive",
    "read_flat": "data.flats",
    "sample": "inference.fitting",
    "simulate_binned": "simulation.detectors",
}

__all__ = sorted(_HOMES)

keep_old_names()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesflat' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bayesflat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
