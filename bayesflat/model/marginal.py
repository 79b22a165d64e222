"""The hierarchical likelihood in closed form: offsets, amplifiers, surfaces and shared patterns integrated out.

The log-residuals of detector d are ``r_d = U_d (s_d + c_v) + e_d``: effects of its own ``s_d ~ N(0, D_v)``, a pattern
``c_v ~ N(0, Q_v)`` that the detectors of vendor v share, and white noise ``e_d ~ N(0, white / weight)``.  D and Q are
diagonal in the columns of ``U``: the detector, its amplifiers, polynomials over its pixels.

With ``G = U'WU`` and ``t = U'Wr`` of each detector, everything is small matrices.  Woodbury's identity, once for the
own effects and once for the shared ones, gives determinant and quadratic form (Rasmussen & Williams 2006, A.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Effects:
    """Which effects act on which bins.

    Attributes
    ----------
    detector : numpy.ndarray of int, shape (n_bins,)
        Index of the detector, 0 .. n_detectors - 1.
    amplifier : numpy.ndarray of int, shape (n_bins,)
    surface : numpy.ndarray, shape (n_bins, n_surface)
        Polynomials over the detector's pixels.
    weight : numpy.ndarray, shape (n_bins,)
        0 for spoilt bins.
    vendor : numpy.ndarray of int, shape (n_detectors,)
    n_amplifiers : int
    """

    detector: NDArray[np.int64]
    amplifier: NDArray[np.int64]
    surface: NDArray[np.float64]
    weight: NDArray[np.float64]
    vendor: NDArray[np.int64]
    n_amplifiers: int

    @property
    def size(self) -> int:
        """Effects of a detector: itself, its amplifiers, its surface."""
        return 1 + self.n_amplifiers + self.surface.shape[1]

    def project(self, r: NDArray) -> NDArray[np.float64]:
        """``U'Wr`` of each detector: shape (n_detectors, size)."""
        out = np.zeros((len(self.vendor), self.size))
        _project(self.detector, self.amplifier, self.surface, self.weight * r, self.n_amplifiers, out)
        return out

    def project_columns(self, jacobian: NDArray) -> NDArray[np.float64]:
        """`project` of every column of an array of shape (n_bins, n): shape (n_detectors, size, n)."""
        out = np.zeros((len(self.vendor), self.size, jacobian.shape[1]))
        _project_columns(
            self.detector, self.amplifier, self.surface, self.weight, self.n_amplifiers,
            np.ascontiguousarray(jacobian), out,
        )  # fmt: skip
        return out

    def expand(self, x: NDArray) -> NDArray[np.float64]:
        """``U x`` at the bins, of coefficients of shape (n_detectors, size)."""
        out = np.empty(len(self.detector))
        _expand(self.detector, self.amplifier, self.surface, x, self.n_amplifiers, out)
        return out

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """``U'WU`` of each detector: shape (n_detectors, size, size)."""
        out = np.zeros((len(self.vendor), self.size, self.size))
        _gram(self.detector, self.amplifier, self.surface, self.weight, self.n_amplifiers, out)
        return out


@njit(cache=True)
def _project(detector, amplifier, surface, wr, n_amplifiers, out):
    for i in range(len(detector)):
        row = out[detector[i]]
        row[0] += wr[i]
        row[1 + amplifier[i]] += wr[i]
        for k in range(surface.shape[1]):
            row[1 + n_amplifiers + k] += wr[i] * surface[i, k]


@njit(cache=True)
def _project_columns(detector, amplifier, surface, weight, n_amplifiers, jacobian, out):
    n = jacobian.shape[1]
    for i in range(len(detector)):
        block = out[detector[i]]
        for p in range(n):
            wj = weight[i] * jacobian[i, p]
            block[0, p] += wj
            block[1 + amplifier[i], p] += wj
        for k in range(surface.shape[1]):
            wu = weight[i] * surface[i, k]
            for p in range(n):
                block[1 + n_amplifiers + k, p] += wu * jacobian[i, p]


@njit(cache=True)
def _expand(detector, amplifier, surface, x, n_amplifiers, out):
    for i in range(len(detector)):
        row = x[detector[i]]
        total = row[0] + row[1 + amplifier[i]]
        for k in range(surface.shape[1]):
            total += row[1 + n_amplifiers + k] * surface[i, k]
        out[i] = total


@njit(cache=True)
def _gram(detector, amplifier, surface, weight, n_amplifiers, out):
    size = out.shape[1]
    u = np.zeros(size)
    for i in range(len(detector)):
        u[: 1 + n_amplifiers] = 0.0
        u[0] = 1.0
        u[1 + amplifier[i]] = 1.0
        u[1 + n_amplifiers :] = surface[i]
        block = out[detector[i]]
        for j in range(size):
            if u[j] != 0.0:
                wu = weight[i] * u[j]
                for k in range(size):
                    block[j, k] += wu * u[k]


@dataclass(frozen=True)
class Marginal:
    """Log-likelihood of residuals and what follows from it.

    Attributes
    ----------
    log_likelihood : float
    by_residual : numpy.ndarray, shape (n_bins,)
        Its derivatives by the residuals: minus the inverse covariance times them.
    by_own, by_shared : numpy.ndarray, shape (n_vendors, size)
        Derivatives by the variances D and Q.
    by_white : float
        Derivative by the white variance.
    own : numpy.ndarray, shape (n_detectors, size)
        Conditional means of the own effects.
    shared : numpy.ndarray, shape (n_vendors, size)
        Conditional means of the shared ones.
    """

    log_likelihood: float
    by_residual: NDArray[np.float64]
    by_own: NDArray[np.float64]
    by_shared: NDArray[np.float64]
    by_white: float
    own: NDArray[np.float64]
    shared: NDArray[np.float64]


class Covariance:
    """The covariance of the residuals at given variances, factored.

    Parameters
    ----------
    effects : Effects
    own, shared : numpy.ndarray, shape (n_vendors, size)
        Variances of the own and the shared effects.
    white : float
        Variance of a bin of weight 1.
    """

    def __init__(self, effects: Effects, own: NDArray, shared: NDArray, white: float) -> None:
        self.effects, self.own, self.shared, self.white = effects, own, shared, white
        gram, vendor = effects.gram, effects.vendor
        n_vendors, size = own.shape
        # own effects: K = (white D**-1 + G)**-1, by way of B = 1 + root(D / white) G root(D / white)
        root = np.sqrt(own[vendor] / white)
        b = root[:, :, None] * gram * root[:, None, :]
        b[:, np.arange(size), np.arange(size)] += 1.0
        self.k = root[:, :, None] * np.linalg.inv(b) * root[:, None, :]
        self.gk = gram @ self.k
        self.a = (gram - self.gk @ gram) / white  # U' C**-1 U of each detector, own effects alone
        good = effects.weight > 0
        self.n_good = int(good.sum())
        self.log_determinant = self.n_good * np.log(white) - np.log(effects.weight[good]).sum()
        self.log_determinant += np.linalg.slogdet(b)[1].sum()
        # shared effects, vendor by vendor
        self.total = np.stack([self.a[vendor == v].sum(0) for v in range(n_vendors)])
        q = np.sqrt(shared)
        e = np.eye(size) + q[:, :, None] * self.total * q[:, None, :]
        self.kq = q[:, :, None] * np.linalg.inv(e) * q[:, None, :]
        self.log_determinant += np.linalg.slogdet(e)[1].sum()
        # U' covariance**-1 U: of a detector, and of a vendor's detectors summed
        self.by_detector = self.a - self.a @ self.kq[vendor] @ self.a
        self.by_vendor = self.total - self.total @ self.kq @ self.total

    def _sum(self, x: NDArray) -> NDArray[np.float64]:
        """Sum over the detectors of each vendor."""
        return np.stack([x[self.effects.vendor == v].sum(0) for v in range(len(self.own))])

    def of(self, r: NDArray) -> Marginal:
        """The log-likelihood of residuals of shape (n_bins,)."""
        effects, white, vendor = self.effects, self.white, self.effects.vendor
        t = effects.project(r)
        h = (t - np.einsum("dij,dj->di", self.gk, t)) / white
        pull = self._sum(h)
        c = np.einsum("vij,vj->vi", self.kq, pull)
        quadratic = (effects.weight @ (r * r) - np.einsum("di,dij,dj->", t, self.k, t)) / white - np.sum(pull * c)
        s = np.einsum("dij,dj->di", self.k, t - np.einsum("dij,dj->di", effects.gram, c[vendor]))
        rest = r - effects.expand(s + c[vendor])
        own_pull = h - np.einsum("dij,dj->di", self.a, c[vendor])
        shared_pull = pull - np.einsum("vij,vj->vi", self.total, c)
        # tr(W**-1 covariance**-1): own part, then what the shared pattern takes off
        ik = np.eye(effects.size) - self.gk
        trace = (self.n_good - np.einsum("dii->", self.gk)) / white
        trace -= np.einsum("dij,dji->", self.kq[vendor], ik @ effects.gram @ ik.transpose(0, 2, 1)) / white**2
        return Marginal(
            log_likelihood=-0.5 * (quadratic + self.log_determinant + self.n_good * np.log(2 * np.pi)),
            by_residual=-effects.weight * rest / white,
            by_own=0.5 * self._sum(own_pull**2 - np.einsum("dii->di", self.by_detector)),
            by_shared=0.5 * (shared_pull**2 - np.einsum("vii->vi", self.by_vendor)),
            by_white=0.5 * (effects.weight @ (rest * rest) / white**2 - trace),
            own=s,
            shared=c,
        )

    def information(self, jacobian: NDArray) -> NDArray[np.float64]:
        """``J' covariance**-1 J`` for derivatives of the residuals of shape (n_bins, n): shape (n, n)."""
        t = self.effects.project_columns(jacobian)
        h = (t - self.gk @ t) / self.white
        pull = self._sum(h)
        found = (jacobian.T @ (jacobian * self.effects.weight[:, None])) / self.white
        found -= np.einsum("dip,dij,djq->pq", t, self.k, t, optimize=True) / self.white
        return found - np.einsum("vip,vij,vjq->pq", pull, self.kq, pull, optimize=True)
