"""A position within a disc: its transform to the plane, and a normal distribution that is truncated at the edge.

PyMC's normal distribution knows nothing of the disc when it draws.
"""

from __future__ import annotations

import numba
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import ArrayLike, NDArray
from pymc.distributions.distribution import _support_point
from pymc.distributions.transforms import Transform
from pymc.logprob.abstract import _logprob
from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.dispatch.random import numba_core_rv_funcify
from pytensor.tensor.random.op import RandomVariable
from scipy.stats import truncnorm


class Disc(Transform):
    """Maps the plane to the open disc of a radius: ``c = scale * v / sqrt(1 + (scale/radius)**2 |v|**2)``.

    Near the centre it is a mere change of scale; the edge of the disc is at infinity, so that a prior truncated there
    needs no wall for a sampler to run into.
    """

    name = "disc"
    ndim_supp = 1

    def __init__(self, scale: float, radius: float) -> None:
        self.scale = float(scale)
        self.radius = float(radius)

    def forward(self, value, *inputs):
        """Position in the disc to a point of the plane."""
        return value / self.scale / (1 - (value**2).sum() / self.radius**2) ** 0.5

    def backward(self, value, *inputs):
        """Point of the plane to a position in the disc."""
        return self.scale * value / (1 + (self.scale / self.radius) ** 2 * (value**2).sum()) ** 0.5

    def log_jac_det(self, value, *inputs):
        """``2 log(scale) - 2 log(1 + (scale/radius)**2 |v|**2)``: radial stretch to the power 3/2, tangential 1/2."""
        k = (self.scale / self.radius) ** 2
        return 2 * np.log(self.scale) - 2 * pt.log(1 + k * (value**2).sum(axis=-1))

    def jacobian(self, value: NDArray) -> NDArray:
        """Derivatives of the position by the point, shape (2, 2)."""
        k = (self.scale / self.radius) ** 2
        q = 1 + k * (value**2).sum()
        return self.scale * (np.eye(2) / q**0.5 - k * np.outer(value, value) / q**1.5)


def draw_in_disc(mu: NDArray, sigma: NDArray, radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A position from a normal distribution that is truncated at a distance from the origin: shape (2,).

    Draws come from the square about the disc first, so that a wide prior takes no longer than a narrow one.
    """
    while True:
        low, high = (-radius - mu) / sigma, (radius - mu) / sigma
        place = truncnorm.rvs(low, high, mu, sigma, random_state=rng)
        if np.hypot(*place) < radius:
            return place


class NormalInDiscRV(RandomVariable):
    """Draws of `NormalInDisc`."""

    name = "normal_in_disc"
    signature = "(n),(n),()->(n)"
    dtype = "float64"
    _print_name = ("NormalInDisc", r"\operatorname{NormalInDisc}")

    @classmethod
    def rng_fn(cls, rng, mu, sigma, radius, size):
        """Draws in NumPy, of batches too."""
        shape = np.broadcast_shapes(mu.shape[:-1], sigma.shape[:-1], np.shape(radius)) if size is None else tuple(size)
        mu, sigma = (np.broadcast_to(one, (*shape, one.shape[-1])) for one in (mu, sigma))
        radius = np.broadcast_to(radius, shape)
        out = np.empty(mu.shape)
        for where in np.ndindex(shape):
            out[where] = draw_in_disc(mu[where], sigma[where], float(radius[where]), rng)
        return out


class NormalInDisc(pm.Distribution):
    """A normal distribution of a position that is nearer to the origin than a radius; independent in x and y.

    Its density is not normalized for what is cut off, a constant.
    """

    rv_op = NormalInDiscRV()

    @classmethod
    def dist(cls, mu: ArrayLike, sigma: ArrayLike, radius: ArrayLike, **kwargs):
        """Of centre and widths, of shape (2,), and radius."""
        return super().dist([pt.as_tensor(one) for one in (mu, sigma, radius)], **kwargs)


@_logprob.register(NormalInDiscRV)
def _log_density(op, values, rng, size, mu, sigma, radius, **kwargs):
    (value,) = values
    return pt.sum(pm.logp(pm.Normal.dist(mu, sigma), value), axis=-1)


@_support_point.register(NormalInDiscRV)
def _typical(op, rv, rng, size, mu, sigma, radius):
    return pt.broadcast_to(mu, rv.shape)


@numba_core_rv_funcify.register(NormalInDiscRV)
def _numba_draw(op, node):
    @numba_njit
    def draw(rng, mu, sigma, radius):
        with numba.objmode(found="float64[::1]"):
            found = draw_in_disc(mu, sigma, float(radius), rng)
        return found

    return draw
