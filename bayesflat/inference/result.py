"""A fitted focal plane: its model, its estimates, and what a user does with them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bayesflat.config import FitConfig
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.coordinates import Coordinates, coordinates_of
from bayesflat.inference.diagnostics import Diagnostics
from bayesflat.inference.laplace import Laplace
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Projection
from bayesflat.inference.rough import Rough
from bayesflat.inference.shown import as_html, as_text, heading, summary_rows, summary_table
from bayesflat.inference.verdict import FitVerdict
from bayesflat.model import build
from bayesflat.model.prepare import FitData

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr
    from astropy.table import QTable
    from pytensor.tensor.variable import TensorVariable

    from bayesflat.model.coordinates import Whitened


def _public(name: str) -> Any:
    """A public function of the package that stands above this one, such as a plot: looked up when it is called."""
    return getattr(importlib.import_module("bayesflat"), name)


@dataclass(frozen=True, repr=False)
class FitResult:
    """A fitted focal plane.

    Attributes
    ----------
    data : FitData
        The bins that were fitted.
    config : FitConfig
        As it was used: with the nodes that were placed.
    objective : Objective
        Minus the log-posterior in NumPy.
    map : MapResult
        The maximum of the posterior, and how it was judged.
    laplace : Laplace or None
        The normal approximation of the posterior; None for ``likelihood = "laplace"``, which has no curvature.
    gradient : FlatGradient
        The product.
    projection : Projection or None
        The nodes of the product, which describe the fitted curve; None where values at nodes were fitted.
    rough : Rough or None
        Where the search began.
    posterior : xarray.DataTree or None
        The draws of `sample`.
    diagnostics : Diagnostics or None
        Diagnostics of the draws.
    """

    data: FitData
    config: FitConfig
    objective: Objective
    map: MapResult
    laplace: Laplace | None
    gradient: FlatGradient
    projection: Projection | None = None
    rough: Rough | None = None
    posterior: xr.DataTree | None = None
    diagnostics: Diagnostics | None = None

    @cached_property
    def model(self) -> pm.Model:
        """The model itself, for all that PyMC can do with it; variables are in product units.

        What samplers move is such that the posterior is nearly N(0, 1) in each variable (but for ``likelihood =
        "laplace"``, which has no curvature).  `sample` does not know what is added to it.
        """
        return build.build_model(self.data, self.config, self.objective.noise, self._transforms)

    @cached_property
    def coordinates(self) -> Coordinates | None:
        """What samplers move; None where there is no curvature."""
        return coordinates_of(self.objective, self.map, self.laplace) if self.laplace else None

    @property
    def _transforms(self) -> dict[str, Whitened] | None:
        return None if self.coordinates is None else self.coordinates.transforms

    def add_expected_values(self) -> TensorVariable:
        """Add the parameters of the mean to the PyMC model in context, as `model` has them, for a model of one's own.

        Returns
        -------
        TensorVariable, shape (n_bins,)
            What each bin of ``data`` should read, over the normalization.
        """
        return build.add_expected_values(self.data, self.config, self._transforms)

    def observe(self, mean: TensorVariable) -> None:
        """Add noise scales and the observed ``flat`` to the PyMC model in context, as `model` has them.

        Parameters
        ----------
        mean : TensorVariable, shape (n_bins,)
            What each bin of ``data`` should read, over the normalization.
        """
        build.observe(mean, self.data, self.config, self.objective.noise, self._transforms)

    @property
    def converged(self) -> bool:
        """Whether the maximum was found, and the draws passed their diagnostics where there are any."""
        return self.map.converged and (self.diagnostics is None or self.diagnostics.passed)

    @property
    def message(self) -> str:
        """What the maximum was judged by."""
        return self.map.message

    @property
    def judgement(self) -> FitVerdict:
        """Good, look or unusable, and why; the product has it too."""
        word = str(self.gradient.require_estimates().header["VERDICT"][0])
        return FitVerdict(word, tuple(self.gradient.config["verdict_reasons"]))

    @property
    def verdict(self) -> str:
        """What convergence was judged by, and what to try where it failed."""
        return "; ".join([self.map.message, *(self.diagnostics.failures if self.diagnostics else ())])

    def summary(self) -> QTable:
        """Statistics of what was fitted, a column with its unit for each: see `shown.summary_table`.

        Returns
        -------
        astropy.table.QTable
            A row for each of map, mean, sd, q05, q50, q95 (column ``statistic``); a column for each scalar that was
            fitted, and ``radial_200`` for the radial function at 200 mm and so on.  ``result.summary().loc["sd"]`` is a
            row.
        """
        return summary_table(self.gradient)

    def __repr__(self) -> str:
        return as_text(*self._words)

    def _repr_html_(self) -> str:
        return as_html(*self._words)

    @property
    def _words(self) -> tuple[str, str, list[tuple[str, str, str]]]:
        verdict = ": ".join(part for part in (self.judgement.word, "; ".join(self.judgement.reasons)) if part)
        rows = summary_rows(self.gradient, self.data.binned.groups)
        return heading(self.data, self.config, self.gradient), verdict, rows

    def plot_model_residual(self, *, scale: float | None = None) -> Any:
        """Data, model and their ratio over the focal plane: `bayesflat.plot_model_residual`."""
        return _public("plot_model_residual")(self.data, self.gradient, scale=scale)

    def plot_radial_model(self) -> Any:
        """The radial function over the bins, and the residuals: `bayesflat.plot_radial_model`."""
        return _public("plot_radial_model")(self.data, self.gradient)

    def plot_offsets(self) -> Any:
        """Throughputs of detectors and amplifiers: `bayesflat.plot_offsets`; hierarchical noise only."""
        if self.gradient.offsets is None:
            raise InputError(f"noise = {self.config.noise}: the fit has no throughputs of detectors")
        return _public("plot_offsets")(self.data, self.gradient)

    def plot_correlations(self) -> Any:
        """Which parameters are hard to tell apart: `bayesflat.plot_correlations`."""
        self._require_errors()
        return _public("plot_correlations")(self.gradient)

    def plot_predictive(self, draws: int = 100) -> Any:
        """Residuals against those of replicated flats: `bayesflat.plot_predictive`."""
        self._require_errors()
        return _public("plot_predictive")(_public("posterior_predictive")(self, draws))

    def _require_errors(self) -> None:
        if self.laplace is None:
            raise InputError(f"likelihood = {self.config.likelihood}: the fit has no errors to plot")
