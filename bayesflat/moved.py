"""Import paths of earlier versions that notebooks and documentation used; they still work, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

MOVED = {
    "correlations": "gradient.correlations",
    "plots": "report.plots_fit",
    "plots_compare": "report.plots_comparison",
    "plots_uncertainty": "report.plots_uncertainty",
    "simulate": "simulation.detectors",
    "simulate_files": "simulation.flats",
    "summary": "commands.tables",
    "truth": "simulation.truth",
}
_RENAMED = {"Detectors": "SimulatedDetectors", "strongest": "strongest_correlations"}


class _MovedModule(ModuleType):
    """A module at its old path, which imports the new one on the first access."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        old = self.__name__.removeprefix("bayesflat.")
        new = _RENAMED.get(name, name)
        value = getattr(importlib.import_module(f"bayesflat.{MOVED[old]}"), new)
        warnings.warn(
            f"bayesflat.{old}.{name} is now bayesflat.{MOVED[old]}.{new}; public names are attributes of bayesflat",
            DeprecationWarning,
            stacklevel=2,
        )
        return value


def keep_old_names() -> None:
    """Let ``from bayesflat.truth import Light`` work as before."""
    for old in MOVED:
        sys.modules.setdefault(f"bayesflat.{old}", _MovedModule(f"bayesflat.{old}"))
