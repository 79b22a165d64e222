"""The parameters: priors, and the change of scale that shows optimisers and samplers numbers of order one.

Every parameter is a PyMC variable in product units (1/mm, mm, ...).  A transform maps it to the *value* that is moved
inside: zero at the centre of the default prior and one at its width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import ArrayLike, NDArray
from pymc.distributions.transforms import Transform
from pytensor.tensor.variable import TensorVariable

from bayesflat.config import FitConfig, NormalPrior
from bayesflat.errors import InputError
from bayesflat.model.coordinates import Whitened
from bayesflat.model.disc import Disc, NormalInDisc, draw_in_disc
from bayesflat.model.prepare import FitData
from bayesflat.model.radial import SIGMA_LOG_RADIAL, RadialPrior
from bayesflat.model.start import Start

# widths of the default priors
SIGMA_RADIAL = 0.3  # of the level, about the medians around the nodes
SIGMA_RATIO = 0.2
RIM_GRADIENT = 0.1  # what a plane does at the outermost bin: DESI's flats tilt by up to 0.12
RIM_OUTER_GRADIENT = 0.03
SIGMA_CENTROID = 1 / 3  # of centroid_max
_LOG_RADIAL_STEP = 0.01  # of a coefficient of the log of the radial function, in the coordinates that are moved


class Scaled(Transform):
    """``parameter = loc + scale * value``; works on NumPy arrays and on PyTensor's."""

    name = "scaled"
    ndim_supp = 0

    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        self.loc = np.asarray(loc, dtype=float)
        self.scale = np.asarray(scale, dtype=float)

    def forward(self, value, *inputs):
        """Parameter to value."""
        return (value - self.loc) / self.scale

    def backward(self, value, *inputs):
        """Value to parameter."""
        return self.loc + self.scale * value

    def log_jac_det(self, value, *inputs):
        """A constant."""
        return pt.zeros_like(value) + np.log(self.scale)

    def jacobian(self, value: NDArray) -> NDArray:
        """Derivatives of the parameter by the value, shape (size, size)."""
        return np.diag(np.broadcast_to(self.scale, np.shape(value)).ravel())


class ScaledVector(Scaled):
    """The same for a vector whose components have one density together."""

    ndim_supp = 1

    def log_jac_det(self, value, *inputs):
        """A constant."""
        return (pt.zeros_like(value) + np.log(self.scale)).sum(axis=-1)


@dataclass(frozen=True)
class Parameter:
    """A scalar or vector parameter of the model.

    Attributes
    ----------
    name : str
        Name in the config and in the product.
    mu, sigma : numpy.ndarray
        Its normal prior (product units); ``sigma`` is infinite where the prior is flat.
    root : numpy.ndarray, shape (m, size), or None
        Root of the precision of a prior whose components are correlated; ``sigma`` then has the widths alone.
    transform : Scaled or Disc
        Between the parameter and the value that is moved.
    dims : str or None
        Dimension of a vector, None for a scalar.
    variable : str
        Name of the PyMC variable.
    """

    name: str
    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    transform: Scaled | Disc
    dims: str | None
    variable: str
    root: NDArray[np.float64] | None = None

    @property
    def size(self) -> int:
        """Number of components."""
        return self.mu.size

    @property
    def value_name(self) -> str:
        """Name of the value variable in PyMC's points."""
        return f"{self.variable}_{self.transform.name}__"

    def add(self, whitened: Whitened | None = None) -> TensorVariable:
        """Add the variable to the model in context, in coordinates of a fit where they are given."""
        options: dict[str, Any] = {"dims": self.dims} if self.dims else {}
        prior, arguments, root, signature = self._prior
        if whitened is None:
            return prior(self.variable, *arguments, transform=self.transform, **root, **options)
        start = whitened.backward(np.zeros(self.mu.shape))
        # samplers start at the fit.  PyMC refuses to clone models with initial values, and clones them to condition on
        # draws or other data: so the start is what the distribution says to be typical of it
        return pm.CustomDist(
            self.variable, *arguments, transform=whitened, class_name=prior.__name__,
            dist=lambda *given: prior.dist(*given[:-1], size=given[-1], **root),
            support_point=lambda *_: pt.as_tensor(start), signature=signature, **options,
        )  # fmt: skip

    @property
    def _prior(self) -> tuple[Any, tuple[ArrayLike, ...], dict[str, NDArray], str | None]:
        """Distribution, its arguments, the root of the covariance where components are correlated, and signature."""
        if self.root is not None:
            return pm.MvNormal, (self.mu,), {"chol": self._covariance_root}, "(n)->(n)"
        if np.all(np.isinf(self.sigma)):
            return pm.Flat, (), {}, None
        if isinstance(self.transform, Disc):
            return NormalInDisc, (self.mu, self.sigma, self.transform.radius), {}, "(n),(n),()->(n)"
        return pm.Normal, (self.mu, self.sigma), {}, None

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Of the prior, shape (size, size)."""
        if self.root is None:
            return np.diag(np.ravel(self.sigma) ** 2)
        inverse = np.linalg.inv(self.root.T @ self.root)
        return 0.5 * (inverse + inverse.T)

    @cached_property
    def _covariance_root(self) -> NDArray[np.float64]:
        return np.linalg.cholesky(self.covariance)

    @cached_property
    def _log_determinant(self) -> float:
        """Of the inverse of the covariance."""
        root = np.diag(1 / np.ravel(self.sigma)) if self.root is None else self.root
        return float(np.linalg.slogdet(root.T @ root)[1])

    def pull(self, parameter: NDArray) -> NDArray[np.float64]:
        """The prior is ``exp(-pull**2 / 2)``: distances from its centre in its own widths."""
        away = np.ravel(parameter - self.mu)
        return away / np.ravel(self.sigma) if self.root is None else self.root @ away

    def pull_jacobian(self, jacobian: NDArray) -> NDArray[np.float64]:
        """Derivatives of `pull`, from those of the parameter: shape (m, n)."""
        return jacobian / np.ravel(self.sigma)[:, None] if self.root is None else self.root @ jacobian

    def log_prior(self, parameter: NDArray) -> NDArray[np.float64]:
        """Log-density of the prior; of a flat one 0."""
        if not np.all(np.isfinite(self.sigma)):
            return np.zeros(())
        square = np.sum(self.pull(parameter) ** 2)
        return np.asarray(0.5 * (self._log_determinant - square - self.size * np.log(2 * np.pi)))

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A draw from the prior (product units)."""
        normal = rng.standard_normal(self.mu.shape)
        if self.root is not None:
            return self.mu + self._covariance_root @ normal
        if isinstance(self.transform, Disc):
            return draw_in_disc(self.mu, self.sigma, self.transform.radius, rng)
        return self.mu + self.sigma * normal

    def to_value(self, parameter: ArrayLike) -> NDArray[np.float64]:
        """Parameter (product units) to value, shape (size,)."""
        return np.ravel(self.transform.forward(np.asarray(parameter, dtype=float)))

    def from_value(self, value: NDArray) -> NDArray[np.float64]:
        """Value, shape (size,), to parameter in its own shape (product units)."""
        return np.asarray(self.transform.backward(np.reshape(value, self.mu.shape)))


def make_parameter(
    name: str,
    config: FitConfig,
    mu: ArrayLike,
    sigma: ArrayLike,
    *,
    dims: str | None = None,
    variable: str | None = None,
    disc: float | None = None,
) -> Parameter:
    """A parameter with the config's prior, or else the default one.

    Parameters
    ----------
    name : str
        Name in the config.
    config : FitConfig
    mu, sigma : array_like
        Centre and width of the default prior (product units); they set the value's scale too.
    dims : str, optional
        Dimension of a vector.
    variable : str, optional
        Name of the PyMC variable where it differs from ``name``.
    disc : float, optional
        The parameter is a position within this distance of the origin.

    Raises
    ------
    InputError
        The config's ``mu`` or ``sigma`` has not as many components as the parameter, or ``mu`` lies beyond the disc.
    """
    mu = np.asarray(mu, dtype=float)
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float), mu.shape)
    prior = config.priors.get(name)
    prior_mu, prior_sigma = mu, sigma
    if prior == "flat":
        prior_sigma = np.full(mu.shape, np.inf)
    elif isinstance(prior, NormalPrior):
        if prior.mu is not None:
            prior_mu = _components(f"priors.{name}.mu", prior.mu, mu.shape)
        prior_sigma = _components(f"priors.{name}.sigma", prior.sigma, mu.shape)
    if disc and np.hypot(*prior_mu) >= disc:
        raise InputError(f"priors.{name}.mu: {prior_mu.tolist()} lies beyond centroid_max = {disc:g} mm")
    # a prior narrower than the default sets the scale; a wider one does not, for then the data do
    scale = np.minimum(sigma, prior_sigma)
    transform = Disc(scale.min(), disc) if disc else Scaled(prior_mu, scale)
    return Parameter(name, prior_mu, prior_sigma, transform, dims, variable or name)


def _components(where: str, given: float | list[float], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """One number for all components, or one for each."""
    size = int(np.prod(shape))
    if isinstance(given, list) and len(given) != size:
        raise InputError(
            f"{where}: {len(given)} numbers for {size} component{'s' if size > 1 else ''}; give one or {size}"
        )
    return np.array(np.broadcast_to(np.ravel(given), (size,)).reshape(shape), dtype=float)


def mean_parameters(data: FitData, config: FitConfig, start: Start) -> list[Parameter]:
    """The parameters of the mean that are fitted, in the order in which the model holds them."""
    rim = data.rim
    parameters = [_radial_parameter(data.radial, config) if data.radial is not None else _nodes(data, config, start)]
    if data.has_ratio:
        parameters.append(make_parameter("itl_ratio", config, start.itl_ratio, SIGMA_RATIO))
    if config.do_fit_centroid:
        width = SIGMA_CENTROID * config.centroid_max
        parameters.append(
            make_parameter("centroid_delta", config, np.zeros(2), width, dims="axis", disc=config.centroid_max)
        )
    if config.do_fit_gradient:
        parameters.append(make_parameter("gradient", config, np.zeros(2), RIM_GRADIENT / rim, dims="axis"))
    if config.do_fit_outer_gradient:
        parameters.append(make_parameter("outer_gradient", config, np.zeros(2), RIM_OUTER_GRADIENT / rim, dims="axis"))
    return parameters


def _radial_parameter(prior: RadialPrior, config: FitConfig) -> Parameter:
    """The coefficients of the log of the radial function."""
    if "log_radial" in config.priors:
        return make_parameter("log_radial", config, prior.mean, SIGMA_LOG_RADIAL, dims="knot")
    width = np.full(prior.spline.size, SIGMA_LOG_RADIAL)
    transform = ScaledVector(prior.mean, _LOG_RADIAL_STEP)
    return Parameter("log_radial", prior.centre, width, transform, "knot", "log_radial", prior.root)


def _nodes(data: FitData, config: FitConfig, start: Start) -> Parameter:
    """The values at the nodes of Akima's spline."""
    values, constrained = start.radial_spline_values, config.do_constrain_zero
    return make_parameter(
        "radial_spline_values",
        config,
        values[:-1] if constrained else values,
        SIGMA_RADIAL * data.level,
        dims="free_node" if constrained else "node",
        variable="radial_spline_free" if constrained else None,
    )
