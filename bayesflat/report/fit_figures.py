"""All plots of a fit, by what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bayesflat.inference.predictive import posterior_predictive
from bayesflat.report.plots_fit import plot_model_residual, plot_radial_model
from bayesflat.report.plots_uncertainty import plot_correlations, plot_offsets, plot_predictive

if TYPE_CHECKING:
    from bayesflat.inference.fitting import FitResult
    from bayesflat.inference.predictive import PredictiveCheck


def draw_figures(result: FitResult, scale: float | None = None) -> tuple[dict[str, Figure], PredictiveCheck | None]:
    """The plots of a fit, and the check that one of them shows.

    Parameters
    ----------
    result : FitResult
    scale : float, optional
        As for `plot_model_residual`.

    Returns
    -------
    figures : dict of str to matplotlib.figure.Figure
        ``model_residual`` and ``radial_model``; ``offsets`` where the product has them, ``correlation`` and
        ``predictive`` where it has errors.
    check : PredictiveCheck or None
    """
    gradient = result.gradient
    figures = {
        "model_residual": plot_model_residual(result.data, gradient, scale=scale),
        "radial_model": plot_radial_model(result.data, gradient),
    }
    if gradient.offsets is not None:
        figures["offsets"] = plot_offsets(result.data, gradient)
    check = None
    if result.laplace is not None:
        figures["correlation"] = plot_correlations(gradient)
        check = posterior_predictive(result)
        figures["predictive"] = plot_predictive(check)
    return figures, check
