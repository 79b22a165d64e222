"""The hierarchical likelihood in closed form: offsets, amplifiers, surfaces and shared patterns integrated out.

The log-residuals of detector d are ``r_d = U_d s_d + V_d c_v + e_d``: effects of its own ``s_d ~ N(0, D_v)``, a pattern
``c_v ~ N(0, Q_v)`` that the detectors of vendor v share, and white noise ``e_d ~ N(0, white / weight)``.  D and Q are
diagonal.  The columns of U and V come from one list of effects: the detector, its amplifiers, smooth surfaces over its
pixels (`bayesflat.model.smooth`), its rims.

With ``G = U'WU`` and ``t = U'Wr`` of each detector, everything is small matrices.  Woodbury's identity, once for the
own effects and once for the shared ones, gives determinant and quadratic form (Rasmussen & Williams 2006, A.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bayesflat.model.design import Design
from bayesflat.model.effects import Effects, Projected


@njit(cache=True, fastmath=True, error_model="numpy")
def _inverse_roots(gram, root, roots, log_determinant):
    """``M root``, with M the inverse of the Cholesky root of ``1 + root G root`` of each detector; log-determinants.

    A plain loop: at this size half the time of LAPACK's calls, one for each matrix.
    """
    n = root.shape[1]
    a = np.empty((n, n))
    for d in range(len(gram)):
        for i in range(n):
            for j in range(i + 1):
                a[i, j] = root[d, i] * gram[d, i, j] * root[d, j]
            a[i, i] += 1.0
        total = 0.0
        for i in range(n):
            for j in range(i):
                s = 0.0
                for k in range(j):
                    s += a[i, k] * a[j, k]
                a[i, j] = (a[i, j] - s) / a[j, j]
            s = 0.0
            for k in range(i):
                s += a[i, k] * a[i, k]
            a[i, i] = np.sqrt(a[i, i] - s)
            total += 2.0 * np.log(a[i, i])
        log_determinant[d] = total
        m = roots[d]
        for i in range(n):
            inverse = 1.0 / a[i, i]
            m[i, :] = 0.0
            for k in range(i):
                f = -a[i, k] * inverse
                for j in range(k + 1):
                    m[i, j] += f * m[k, j]
            m[i, i] = inverse
        for i in range(n):
            for j in range(i + 1):
                m[i, j] *= root[d, j]


@dataclass(frozen=True)
class ByVariances:
    """Derivatives by the variances of the effects and of white noise.

    Attributes
    ----------
    by_own, by_shared : numpy.ndarray, shapes (n_vendors, n_own) and (n_vendors, n_shared)
        Derivatives by the variances D and Q.
    by_white : float
        Derivative by the white variance.
    """

    by_own: NDArray[np.float64]
    by_shared: NDArray[np.float64]
    by_white: float


@dataclass(frozen=True)
class Marginal(ByVariances):
    """Log-likelihood of residuals and what follows from it.

    Attributes
    ----------
    log_likelihood : float
    by_residual : numpy.ndarray, shape (n_bins,)
        Its derivatives by the residuals: minus the inverse covariance times them.
    own : numpy.ndarray, shape (n_detectors, n_own)
        Conditional means of the own effects.
    shared : numpy.ndarray, shape (n_vendors, n_shared)
        Conditional means of the shared ones.
    """

    log_likelihood: float
    by_residual: NDArray[np.float64]
    own: NDArray[np.float64]
    shared: NDArray[np.float64]


@dataclass(frozen=True)
class Conditional:
    """A draw of the effects.

    Attributes
    ----------
    own : numpy.ndarray, shape (n_detectors, n_own)
    shared : numpy.ndarray, shape (n_vendors, n_shared)
    log_likelihood : numpy.ndarray, shape (n_detectors,)
        Of each detector's residuals, given the shared effects, its own ones integrated out.
    """

    own: NDArray[np.float64]
    shared: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]


class Covariance:
    """The covariance of the residuals at given variances, factored.

    Parameters
    ----------
    effects : Effects
    own, shared : numpy.ndarray, shapes (n_vendors, n_own) and (n_vendors, n_shared)
        Variances of the own and the shared effects, the own ones above 0.
    white : float
        Variance of a bin of weight 1.
    workspace : dict, optional
        Arrays to write into, taken over from an earlier covariance of the same effects, which is not valid any more.

    Attributes
    ----------
    own_of_each : numpy.ndarray, shape (n_detectors, n_own)
        Variances of the own effects: those of the vendor, but for what is odd.
    own_conditional : numpy.ndarray, shape (n_detectors, n_own, n_own)
        Covariance of the own effects given residuals and shared effects, over ``white``: ``(white D**-1 + G)**-1``.
    roots : numpy.ndarray, shape (n_detectors, n_own, n_own)
        ``own_conditional = roots' roots``.
    own_information : numpy.ndarray, shape (n_detectors, n_own, size)
        ``U_o' C**-1 U``, with U_o the own effects and C the covariance that they and white noise have.
    shared_information : numpy.ndarray, shape (n_vendors, n_shared, n_shared)
        ``U_s' C**-1 U_s`` of the shared effects, summed over the detectors of a vendor.
    shared_conditional : numpy.ndarray, shape (n_vendors, n_shared, n_shared)
        Covariance of the shared effects given the residuals.
    own_log_determinant, shared_log_determinant : numpy.ndarray, shapes (n_detectors,) and (n_vendors,)
        What own and shared effects add to the log-determinant of white noise alone.
    """

    def __init__(
        self, effects: Effects, own: NDArray, shared: NDArray, white: float, workspace: dict[str, NDArray] | None = None
    ) -> None:
        self.effects, self.own, self.shared, self.white = effects, own, shared, white
        self.own_of_each = own[effects.vendor] * effects.times**2
        gram, o, s = effects.gram, effects.own, effects.shared
        n, n_own, n_shared, size = effects.n_detectors, own.shape[1], shared.shape[1], effects.size
        workspace = {} if workspace is None else workspace
        if not workspace:
            # arrays of some MB: to ask the system for them anew each time costs as much as the numbers in them
            widths = {"roots": n_own, "own_conditional": n_own, "own_information": size, "product": n_shared}
            workspace.update({name: np.empty((n, n_own, width)) for name, width in widths.items()})
        self._workspace = workspace
        # B**-1 of B = 1 + root G root, with root = (D / white)**0.5
        self.roots = workspace["roots"]
        self.own_log_determinant = np.empty(n)
        _inverse_roots(gram, np.sqrt(self.own_of_each / white), self.roots, self.own_log_determinant)
        self.own_conditional = np.matmul(self.roots.transpose(0, 2, 1), self.roots, out=workspace["own_conditional"])
        # D**-1 own_conditional G: the same as U_o' C**-1 U, and no difference of large numbers
        self.own_information = np.matmul(self.own_conditional, gram[:, o], out=workspace["own_information"])
        self.own_information *= 1 / self.own_of_each[:, :, None]
        # and the same of the effects that are shared only
        rest = slice(n_own, None)
        of_rest = (gram[:, rest, rest] - gram[:, rest, o] @ self.own_conditional @ gram[:, o, rest]) / white
        information = np.empty((len(own), size, size))
        information[:, o] = self.by_vendor(self.own_information)
        information[:, rest, o] = information[:, o, rest].transpose(0, 2, 1)
        information[:, rest, rest] = self.by_vendor(of_rest)
        self.shared_information = information[:, s, s]
        root = np.sqrt(shared)
        scaled = np.eye(n_shared) + root[:, :, None] * self.shared_information * root[:, None, :]
        self.shared_conditional = root[:, :, None] * np.linalg.inv(scaled) * root[:, None, :]
        self.shared_log_determinant = np.linalg.slogdet(scaled)[1]

    @property
    def n_good(self) -> int:
        """Bins of weight above 0."""
        return int(self.effects.counts.sum())

    @property
    def log_white(self) -> NDArray[np.float64]:
        """Sum of the logs of the white variances of each detector's bins."""
        return self.effects.counts * np.log(self.white) - self.effects.log_weights

    @cached_property
    def by_detector(self) -> NDArray[np.float64]:
        """``U' covariance**-1 U`` of the own effects of each detector."""
        o, s = self.effects.own, self.effects.shared
        through = self.own_information[:, :, s]
        return self.own_information[:, :, o] - through @ self.shared_conditional[
            self.effects.vendor
        ] @ through.transpose(0, 2, 1)

    def by_vendor(self, x: NDArray) -> NDArray[np.float64]:
        """Sum over the detectors of each vendor."""
        one = (self.effects.vendor == np.arange(len(self.own))[:, None]).astype(float)
        return (one @ x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])

    def own_effects(self, t: NDArray, c: NDArray | None = None) -> NDArray[np.float64]:
        """Conditional means of the own effects, given the shared ones: shape (n_detectors, n_own).

        Parameters
        ----------
        t : numpy.ndarray, shape (n_detectors, n_own) or (n_detectors, size)
            ``U'Wr``, of which the own effects' part is used.
        c : numpy.ndarray, shape (n_vendors, n_shared), optional
            0 by default.
        """
        o, s = self.effects.own, self.effects.shared
        t = t[:, o]
        if c is not None:
            t = t - np.einsum("dij,dj->di", self.effects.gram[:, o, s], c[self.effects.vendor])
        return np.einsum("dij,dj->di", self.own_conditional, t)

    def marginal(self, r: NDArray) -> Marginal:
        """The log-likelihood of residuals of shape (n_bins,)."""
        effects, white, vendor = self.effects, self.white, self.effects.vendor
        o, s, gram = effects.own, effects.shared, effects.gram
        t = effects.project(r)
        own, c = self._conditional(t[:, o], self.by_vendor(t[:, s]) / white)
        # once more on what rounding left: gradients are small differences of large numbers
        left = t - np.einsum("dij,dj->di", gram, effects.all_effects(own, c))
        own_left = left[:, o] - white * own / self.own_of_each
        more = self._conditional(own_left, self.by_vendor(left[:, s]) / white - self._over_shared(c))
        own, c = own + more[0], c + more[1]
        by_residual, square_left = effects.weighted_rest(r, effects.all_effects(own, c))
        by_residual /= -white
        own_pull, shared_pull = own / self.own_of_each, self._over_shared(c)  # U' covariance**-1 r
        # what the effects leave of the residuals, and the effects themselves, each in its own sd: a sum of squares
        # cannot be negative, however absurd the scales that a sampler tries; differences would have no digits left
        quadratic = square_left / white + np.sum(own * own_pull) + np.sum(c * shared_pull)
        through = self.own_information[:, :, s]
        taken = np.matmul(through, self.shared_conditional[vendor], out=self._workspace["product"])
        in_own = self.by_vendor(
            (np.einsum("dii->di", self.own_information[:, :, o]) - np.einsum("dij,dij->di", taken, through))
            * effects.times**2
        )
        in_shared = np.einsum("vii->vi", self.shared_information) - np.einsum(
            "vij,vjk,vki->vi", self.shared_information, self.shared_conditional, self.shared_information
        )
        # the trace of covariance**-1 covariance counts the bins: what own and shared effects leave of it is white
        in_white = (self.n_good - np.sum(self.own * in_own) - np.sum(self.shared * in_shared)) / white
        log_determinant = self.log_white.sum() + self.own_log_determinant.sum() + self.shared_log_determinant.sum()
        return Marginal(
            log_likelihood=-0.5 * (quadratic + log_determinant + self.n_good * np.log(2 * np.pi)),
            by_residual=by_residual,
            by_own=0.5 * (self.by_vendor((own_pull * effects.times) ** 2) - in_own),
            by_shared=0.5 * (shared_pull**2 - in_shared),
            by_white=0.5 * (square_left / white**2 - in_white),
            own=own,
            shared=c,
        )

    def _conditional(self, of_own: NDArray, of_shared: NDArray) -> tuple[NDArray, NDArray]:
        """Own and shared effects for right sides of their normal equations."""
        o, s, gram = self.effects.own, self.effects.shared, self.effects.gram
        taken = self.by_vendor(np.einsum("dij,dj->di", gram[:, s, o], self.own_effects(of_own))) / self.white
        c = np.einsum("vij,vj->vi", self.shared_conditional, of_shared - taken)
        return self.own_effects(of_own, c), c

    def _over_shared(self, c: NDArray) -> NDArray[np.float64]:
        return np.divide(c, self.shared, out=np.zeros_like(c), where=self.shared > 0)

    def draw(self, r: NDArray, rng: np.random.Generator) -> Conditional:
        """Draw the effects, given residuals of shape (n_bins,)."""
        effects, white = self.effects, self.white
        o, s = effects.own, effects.shared
        t = effects.project(r)
        _, means = self._conditional(t[:, o], self.by_vendor(t[:, s]) / white)
        shared = np.stack(
            [rng.multivariate_normal(m, c, method="eigh") for m, c in zip(means, self.shared_conditional, strict=True)]
        )
        # the own effects' covariance is white k: a draw is white**0.5 times the root of k times normal numbers
        own = self.own_effects(t, shared)
        normal = np.einsum("dji,dj->di", self.roots, rng.normal(size=own.shape))
        log_likelihood = self.log_likelihood_given(r, shared, t)
        return Conditional(own + np.sqrt(white) * normal, shared, log_likelihood)

    def log_likelihood_given(self, r: NDArray, shared: NDArray, t: NDArray | None = None) -> NDArray[np.float64]:
        """Log-likelihood of each detector's residuals given the shared effects, its own ones integrated out.

        Parameters
        ----------
        r : numpy.ndarray, shape (n_bins,)
        shared : numpy.ndarray, shape (n_vendors, n_shared)
            Given these, detectors are independent.
        t : numpy.ndarray, shape (n_detectors, size), optional
            ``U'Wr``, where it is at hand.

        Returns
        -------
        numpy.ndarray, shape (n_detectors,)
        """
        effects = self.effects
        o, s = effects.own, effects.shared
        t = effects.project(r) if t is None else t
        c = shared[effects.vendor]
        # what the pattern leaves of U'Wr and of the sum of squares
        left = t - np.einsum("dij,dj->di", effects.gram[:, :, s], c)
        squares = effects.sum(r * r) - np.sum((t + left)[:, s] * c, axis=1)
        quadratic = (squares - np.sum(left[:, o] * self.own_effects(left), axis=1)) / self.white
        return -0.5 * (quadratic + self.log_white + self.own_log_determinant + effects.counts * np.log(2 * np.pi))

    def conditional_means(self, residuals: NDArray | Design | Projected) -> NDArray[np.float64]:
        """All effects, given residuals, for every column of an array of shape (n_bins, n): (n_detectors, size, n)."""
        o, s = self.effects.own, self.effects.shared
        t = self._projected(residuals).whole
        pull = self.by_vendor((t - self.effects.gram[:, :, o] @ (self.own_conditional @ t[:, o]))[:, s]) / self.white
        shared = (self.shared_conditional @ pull)[self.effects.vendor]
        x = np.zeros_like(t)
        x[:, o] = self.own_conditional @ (t[:, o] - self.effects.gram[:, o, s] @ shared)
        x[:, s] += shared
        return x

    def information(self, jacobian: NDArray | Design | Projected) -> NDArray[np.float64]:
        """``J' covariance**-1 J`` for derivatives of the residuals of shape (n_bins, n): shape (n, n)."""
        projected = self._projected(jacobian)
        alone, pull = self._alone_and_pull(projected)
        found = projected.gram - projected.product(projected.values[:, self.effects.own], alone)
        return found / self.white - np.tensordot(pull, self.shared_conditional @ pull, ([0, 1], [0, 1]))

    def _alone_and_pull(self, projected: Projected) -> tuple[NDArray, NDArray]:
        """Conditional means of the own effects without shared ones, (n_detectors, n_own, m), and ``U_s' C**-1 J``."""
        o, s, t = self.effects.own, self.effects.shared, projected.values
        alone = self.own_conditional @ t[:, o]
        rest = t[:, s] - self.effects.gram[:, s, o] @ alone
        return alone, projected.summed(rest, self.effects.vendor, len(self.own)) / self.white

    def by_log_determinant(
        self, jacobian: NDArray | Design | Projected, inverse: NDArray, information: NDArray
    ) -> ByVariances:
        """Derivatives by the variances of ``-log|J' covariance**-1 J + P| / 2``, whatever the constant P.

        Added to the log-likelihood, this makes it the restricted one (Patterson & Thompson 1971, Biometrika 58, 545):
        that of the variances alone, with what is linear integrated out.

        Parameters
        ----------
        jacobian : numpy.ndarray, shape (n_bins, n), Design or Projected
            Derivatives of the residuals by what is linear.
        inverse : numpy.ndarray, shape (n, n)
            Inverse of ``J' covariance**-1 J + P``.
        information : numpy.ndarray, shape (n, n)
            ``J' covariance**-1 J``, as `information` gives it.

        Notes
        -----
        The derivative by a variance, of ``covariance = ... + variance B B'``, is half the trace of ``inverse A A'``,
        with ``A = J' covariance**-1 B``.  All variances times these traces add up to the trace of ``inverse J'
        covariance**-1 J``, which gives that of white noise.
        """
        s, vendor = self.effects.shared, self.effects.vendor
        projected = self._projected(jacobian)
        alone, pull = self._alone_and_pull(projected)
        pattern = self.shared_conditional @ pull
        # A of own effects is that without shared ones, in few columns, less what passes through these
        direct, through = alone / self.own_of_each[:, :, None], self.own_information[:, :, s]
        columns, by_pattern = projected.columns, inverse @ pattern.transpose(0, 2, 1)
        squares = np.sum(direct @ inverse[columns[:, :, None], columns[:, None, :]] * direct, axis=2)
        squares -= 2 * np.sum(direct @ by_pattern[vendor[:, None], columns] * through, axis=2)
        squares += np.sum(through @ (pattern @ by_pattern)[vendor] * through, axis=2)
        shared = pull - self.shared_information @ pattern
        by_own = 0.5 * self.by_vendor(squares * self.effects.times**2)
        by_shared = 0.5 * np.einsum("vei,ij,vej->ve", shared, inverse, shared, optimize=True)
        total = 0.5 * np.sum(inverse * information)
        by_white = (total - np.sum(self.own * by_own) - np.sum(self.shared * by_shared)) / self.white
        return ByVariances(by_own, by_shared, float(by_white))

    def _projected(self, columns: NDArray | Design | Projected) -> Projected:
        return columns if isinstance(columns, Projected) else self.effects.projected(columns)
