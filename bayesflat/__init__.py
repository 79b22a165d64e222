"""bayesflat: large-scale gradients of a wide-field camera's flats, as one PyMC model, with uncertainties.

What is heavy is imported where it is used, so ``import bayesflat`` is cheap.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

__version__ = importlib.metadata.version("bayesflat")

_HOMES = {
    "BinnedFlat": "binned",
    "Box": "defects",
    "Camera": "camera",
    "Comparison": "comparison",
    "Detector": "camera",
    "Estimates": "gradient",
    "FitConfig": "config",
    "FitResult": "fitting",
    "Flat": "flats",
    "FlatGradient": "gradient",
    "InputError": "errors",
    "NormalPrior": "config",
    "Offsets": "gradient",
    "RunConfig": "config",
    "apply_gradients": "apply",
    "bin_files": "binning",
    "bin_focal_plane": "binning",
    "build_model": "model.build",
    "compare": "comparison",
    "compare_terms": "loo",
    "find_defects": "defects",
    "find_flats": "flats",
    "fit": "fitting",
    "get_camera": "camera",
    "leave_one_out": "loo",
    "lsstcam": "camera",
    "lsstcomcam": "camera",
    "posterior_predictive": "predictive",
    "prior_predictive": "predictive",
    "read_flat": "flats",
    "sample": "fitting",
    "simulate_binned": "simulate",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesflat' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bayesflat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
