"""bayesflat: large-scale gradients of a wide-field camera's flats, as one PyMC model, with uncertainties.

A name is imported from its module when it is first used, so ``import bayesflat`` is cheap.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from bayesflat.moved import keep_old_names

if TYPE_CHECKING:  # the same names for type checkers and editors; a test holds them to `_HOMES`
    from bayesflat.commands.tables import comparison_lines as comparison_lines
    from bayesflat.comparison.comparison import Comparison as Comparison
    from bayesflat.comparison.comparison import compare as compare
    from bayesflat.config import FitConfig as FitConfig
    from bayesflat.config import NormalPrior as NormalPrior
    from bayesflat.config import RunConfig as RunConfig
    from bayesflat.data.binned import BinnedFlat as BinnedFlat
    from bayesflat.data.binning import bin_files as bin_files
    from bayesflat.data.binning import bin_focal_plane as bin_focal_plane
    from bayesflat.data.camera import Camera as Camera
    from bayesflat.data.camera import decam as decam
    from bayesflat.data.camera import get_camera as get_camera
    from bayesflat.data.camera import hsc as hsc
    from bayesflat.data.camera import lsstcam as lsstcam
    from bayesflat.data.camera import lsstcomcam as lsstcomcam
    from bayesflat.data.defects import Box as Box
    from bayesflat.data.defects import find_defects as find_defects
    from bayesflat.data.detector import Detector as Detector
    from bayesflat.data.finding import find_flats as find_flats
    from bayesflat.data.flats import Flat as Flat
    from bayesflat.data.flats import read_flat as read_flat
    from bayesflat.data.flats import read_flats as read_flats
    from bayesflat.errors import InputError as InputError
    from bayesflat.gradient.correction import apply_gradients as apply_gradients
    from bayesflat.gradient.correlations import strongest_correlations as strongest_correlations
    from bayesflat.gradient.estimates import Estimates as Estimates
    from bayesflat.gradient.estimates import Offsets as Offsets
    from bayesflat.gradient.product import FlatGradient as FlatGradient
    from bayesflat.inference.detectors import draw_detectors as draw_detectors
    from bayesflat.inference.fitting import build_model as build_model
    from bayesflat.inference.fitting import fit as fit
    from bayesflat.inference.fitting import sample as sample
    from bayesflat.inference.importance import laplace_draws as laplace_draws
    from bayesflat.inference.loo import compare_terms as compare_terms
    from bayesflat.inference.loo import leave_one_out as leave_one_out
    from bayesflat.inference.predictive import posterior_predictive as posterior_predictive
    from bayesflat.inference.predictive import prior_predictive as prior_predictive
    from bayesflat.inference.predictive import replicates as replicates
    from bayesflat.inference.result import FitResult as FitResult
    from bayesflat.report.comparison_page import comparison_report as comparison_report
    from bayesflat.report.figures import save_figure as save_figure
    from bayesflat.report.fit_page import fit_report as fit_report
    from bayesflat.report.plots_comparison import plot_comparison_map as plot_comparison_map
    from bayesflat.report.plots_comparison import plot_comparison_radial as plot_comparison_radial
    from bayesflat.report.plots_fit import plot_model_residual as plot_model_residual
    from bayesflat.report.plots_fit import plot_radial_model as plot_radial_model
    from bayesflat.report.plots_uncertainty import plot_correlations as plot_correlations
    from bayesflat.report.plots_uncertainty import plot_offsets as plot_offsets
    from bayesflat.report.plots_uncertainty import plot_predictive as plot_predictive
    from bayesflat.simulation.detectors import SimulatedDetectors as SimulatedDetectors
    from bayesflat.simulation.detectors import simulate_binned as simulate_binned
    from bayesflat.simulation.detectors import true_parameters as true_parameters
    from bayesflat.simulation.flats import simulate_focal_plane as simulate_focal_plane
    from bayesflat.simulation.truth import Light as Light
    from bayesflat.simulation.truth import Noise as Noise
    from bayesflat.simulation.truth import default_light as default_light

__version__ = importlib.metadata.version("bayesflat")

_HOMES = {
    "BinnedFlat": "data.binned",
    "Box": "data.defects",
    "Camera": "data.camera",
    "Comparison": "comparison.comparison",
    "Detector": "data.detector",
    "Estimates": "gradient.estimates",
    "FitConfig": "config",
    "FitResult": "inference.result",
    "Flat": "data.flats",
    "FlatGradient": "gradient.product",
    "InputError": "errors",
    "Light": "simulation.truth",
    "Noise": "simulation.truth",
    "NormalPrior": "config",
    "Offsets": "gradient.estimates",
    "RunConfig": "config",
    "SimulatedDetectors": "simulation.detectors",
    "apply_gradients": "gradient.correction",
    "bin_files": "data.binning",
    "bin_focal_plane": "data.binning",
    "build_model": "inference.fitting",
    "compare": "comparison.comparison",
    "compare_terms": "inference.loo",
    "comparison_lines": "commands.tables",
    "comparison_report": "report.comparison_page",
    "decam": "data.camera",
    "default_light": "simulation.truth",
    "draw_detectors": "inference.detectors",
    "find_defects": "data.defects",
    "find_flats": "data.finding",
    "fit": "inference.fitting",
    "fit_report": "report.fit_page",
    "get_camera": "data.camera",
    "hsc": "data.camera",
    "laplace_draws": "inference.importance",
    "leave_one_out": "inference.loo",
    "lsstcam": "data.camera",
    "lsstcomcam": "data.camera",
    "plot_comparison_map": "report.plots_comparison",
    "plot_comparison_radial": "report.plots_comparison",
    "plot_correlations": "report.plots_uncertainty",
    "plot_model_residual": "report.plots_fit",
    "plot_offsets": "report.plots_uncertainty",
    "plot_predictive": "report.plots_uncertainty",
    "plot_radial_model": "report.plots_fit",
    "posterior_predictive": "inference.predictive",
    "prior_predictive": "inference.predictive",
    "read_flat": "data.flats",
    "read_flats": "data.flats",
    "replicates": "inference.predictive",
    "sample": "inference.fitting",
    "save_figure": "report.figures",
    "simulate_binned": "simulation.detectors",
    "simulate_focal_plane": "simulation.flats",
    "strongest_correlations": "gradient.correlations",
    "true_parameters": "simulation.detectors",
}

__all__ = sorted(_HOMES)

keep_old_names()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesflat' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bayesflat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
