"""Names that notebooks and documentation taught before modules stood in packages; they go on working, and say so."""

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


class _MovedModule(ModuleType):
    """Stands for a module at its old place, and imports the new one when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        old = self.__name__.removeprefix("bayesflat.")
        value = getattr(importlib.import_module(f"bayesflat.{MOVED[old]}"), name)
        warnings.warn(
            f"bayesflat.{old} is now bayesflat.{MOVED[old]}; what is public there is an attribute of bayesflat itself",
            DeprecationWarning,
            stacklevel=2,
        )
        return value


def keep_old_names() -> None:
    """Let ``from bayesflat.truth import Light`` work as before."""
    for old in MOVED:
        sys.modules.setdefault(f"bayesflat.{old}", _MovedModule(f"bayesflat.{old}"))
