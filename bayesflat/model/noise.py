"""What a noise model is: how the bins scatter about the mean.  The mean itself knows nothing of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pytensor.tensor.variable import TensorVariable

from bayesflat.config import FitConfig
from bayesflat.model.parameters import Parameter
from bayesflat.model.prepare import FitData
from bayesflat.model.start import Start

# Noise scales do not fall below this fraction of the level, so that data without noise have a maximum too
FLOOR = 5e-5


class NoiseModel(ABC):
    """A noise model has parameters of its own and adds the likelihood to the model in context.

    Attributes
    ----------
    has_kink : bool
        Whether the log-density has a kink, where its gradient jumps.
    """

    has_kink = False

    def coords(self) -> dict[str, list[str]]:
        """Coordinates that its variables need."""
        return {}

    @abstractmethod
    def parameters(self, data: FitData, config: FitConfig, start: Start) -> list[Parameter]:
        """Its parameters, in the order of the product's rows."""

    @abstractmethod
    def add(self, parameters: dict[str, TensorVariable], mean: TensorVariable, data: FitData) -> None:
        """Add the likelihood to the model in context.

        Parameters
        ----------
        parameters : dict of str to TensorVariable
            Its own parameters, by name.
        mean : TensorVariable, shape (n_bins,)
            What the model expects of ``data.value``.
        data : FitData
        """
