"""The flat as one random variable: its closed-form density and its draws as nodes of PyTensor's graph.

PyMC's `CustomDist` would do, but keeps the functions that it is given for as long as the process lives, and with them
the bins of every model; and it draws in NumPy in a way that PyTensor warns of.
"""

from __future__ import annotations

from threading import get_ident
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numba
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.distribution import _support_point
from pymc.logprob.abstract import _logprob
from pytensor.gradient import DisconnectedType
from pytensor.graph import Apply, Op
from pytensor.link.numba.dispatch.basic import get_numba_type, numba_funcify, numba_njit
from pytensor.link.numba.dispatch.random import numba_core_rv_funcify
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.variable import TensorVariable

from bayesflat.model.effects import Effects
from bayesflat.model.marginal import ByVariances, Covariance

NAME = "flat"  # of the observed variable


class ClosedForm(Protocol):
    """What density and draws need of a noise model: `bayesflat.model.hierarchical.HierarchicalNoise` has it."""

    effects: Effects

    def covariance(self, log_scales: NDArray, workspace: dict[str, NDArray] | None = None) -> Covariance:
        """Of the log-residuals."""

    def by_log_scales(self, covariance: Covariance, found: ByVariances, log_scales: NDArray) -> NDArray[np.float64]:
        """Derivatives by the logs of the scales."""

    def replicate(
        self, log_mean: NDArray, log_scales: NDArray, rng: np.random.Generator, slopes: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Logs of new values."""


class LogLikelihood(Op):
    """The closed form as one node of the graph: (residual, log_scales) -> log-likelihood and its derivatives."""

    __props__ = ()

    def __init__(self, noise: ClosedForm) -> None:
        self.noise = noise
        # of each thread: samplers run chains in threads of one process, and NumPy lets them take turns within a call
        self._workspaces: dict[int, dict[str, NDArray]] = {}

    def __getstate__(self):
        return self.__dict__ | {"_workspaces": {}}

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def make_node(self, *inputs: Any) -> Apply:
        """Inputs: residual, log_scales.  Outputs: the log-likelihood, and its derivatives by both."""
        residual, log_scales = (pt.as_tensor(one) for one in inputs)
        return Apply(self, [residual, log_scales], [pt.dscalar(), pt.dvector(), pt.dvector()])

    def perform(self, node, inputs, output_storage):
        """In NumPy."""
        residual, log_scales = inputs
        # a sampler in tuning tries extreme scales, and rejects what is not finite
        with np.errstate(all="ignore"):
            covariance = self.noise.covariance(log_scales, self._workspaces.setdefault(get_ident(), {}))
            found = covariance.marginal(residual)
            output_storage[0][0] = np.asarray(found.log_likelihood)
            output_storage[1][0] = found.by_residual
            output_storage[2][0] = self.noise.by_log_scales(covariance, found, log_scales)

    def pullback(self, inputs, outputs, cotangents):
        """The derivatives are outputs already."""
        if not all(isinstance(c.type, DisconnectedType) for c in cotangents[1:]):
            raise NotImplementedError("second derivatives of the closed form are taken by differences")
        return [cotangents[0] * outputs[1], cotangents[0] * outputs[2]]


class FlatRV(RandomVariable):
    """The values of all bins, which are not independent: (mean, log_scales) -> values.

    Parameters
    ----------
    noise : ClosedForm
        Its bins are those that are drawn.
    options
        As of `RandomVariable`.
    """

    name = NAME
    signature = "(n),(s)->(n)"
    dtype = "float64"
    _print_name = ("HierarchicalFlat", r"\operatorname{HierarchicalFlat}")
    __props__ = (*RandomVariable.__props__, "noise")  # type: ignore[assignment]

    def __init__(self, noise: ClosedForm, **options: Any) -> None:
        super().__init__(**options)
        self.noise = noise

    def rng_fn(self, rng, *args, **kwargs):
        """Draws in NumPy, of batches too."""
        mean, log_scales, size = args
        shape = np.broadcast_shapes(mean.shape[:-1], log_scales.shape[:-1]) if size is None else tuple(size)
        means = np.broadcast_to(mean, (*shape, mean.shape[-1]))
        scales = np.broadcast_to(log_scales, (*shape, log_scales.shape[-1]))
        out = np.empty(means.shape)
        for where in np.ndindex(shape):
            out[where] = np.exp(self.noise.replicate(np.log(means[where]), scales[where], rng))
        return out


@_logprob.register(FlatRV)
def _log_density(op, values, rng, size, mean, log_scales, **kwargs):
    """Of the values, not of their logs; all bins together."""
    (value,) = values
    good = op.noise.effects.weight > 0
    log_likelihood, _, _ = LogLikelihood(op.noise).make_node(pt.log(value) - pt.log(mean), log_scales).outputs
    return log_likelihood - pt.sum(pt.log(value[good]))


@_support_point.register(FlatRV)
def _typical(op, rv, rng, size, mean, log_scales):
    return pt.broadcast_to(mean, rv.shape)


def observe_flat(noise: ClosedForm, mean: TensorVariable, log_scales: TensorVariable, value: NDArray) -> TensorVariable:
    """Add the observed bins, ``flat``, to the model in context: not independent, with one log-density of them all.

    Parameters
    ----------
    noise : ClosedForm
        Of these bins.
    mean : TensorVariable, shape (n_bins,)
        What they should read.
    log_scales : TensorVariable, shape (n_scales,)
    value : numpy.ndarray, shape (n_bins,)
    """
    rng = pytensor.shared(np.random.default_rng())
    _, flat = FlatRV(noise).make_node(rng, None, pt.as_tensor(mean), pt.as_tensor(log_scales)).outputs
    return pm.modelcontext(None).register_rv(flat, NAME, observed=value, dims=("bin",))


# ---- in Numba ----
#
# Both run as they are: compiling them anew for each focal plane would gain nothing.  PyTensor's own way of doing so has
# the Op in the closure that Numba calls, and Numba unpickles what is there at each call: noise model, bins and all, in
# more time than the closed form takes.  So here the closure holds a number.

_AT_WORK: WeakValueDictionary[int, Any] = WeakValueDictionary()


@numba_funcify.register(LogLikelihood)
def _numba_log_likelihood(op, node, **kwargs):
    _AT_WORK[id(op)] = op
    number, returned = id(op), numba.types.Tuple([get_numba_type(output.type) for output in node.outputs])

    def in_python(residual, log_scales):
        outputs = [[None], [None], [None]]
        _AT_WORK[number].perform(None, (residual, log_scales), outputs)
        return tuple(output for (output,) in outputs)

    @numba_njit
    def perform(residual, log_scales):
        with numba.objmode(found=returned):
            found = in_python(residual, log_scales)
        return found

    return perform


@numba_core_rv_funcify.register(FlatRV)
def _numba_draw(op, node):
    _AT_WORK[id(op)] = op
    number = id(op)

    def in_python(rng, mean, log_scales):
        return _AT_WORK[number].rng_fn(rng, mean, log_scales, None)

    @numba_njit
    def draw(rng, mean, log_scales):
        with numba.objmode(found="float64[::1]"):
            found = in_python(rng, mean, log_scales)
        return found

    return draw, None  # nothing to keep on disk: it holds a number of this process
