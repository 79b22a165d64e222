"""Minus the log-posterior with hierarchical noise, where all but parameters and noise scales is integrated out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bayesflat.config import FitConfig
from bayesflat.data.grouped import medians_of
from bayesflat.inference.objective import Drawn, NormalEquations, Objective, Throughputs
from bayesflat.inference.scales import lengthened
from bayesflat.model.design import Design
from bayesflat.model.effects import Projected
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.log_mean import LogMean
from bayesflat.model.marginal import Covariance, Marginal
from bayesflat.model.parameters import Parameter
from bayesflat.model.prepare import FitData


class _Latest[T]:
    """A function of a vector that remembers its last result: a search asks for cost and gradient in turn."""

    def __init__(self, function: Callable[[NDArray], T]) -> None:
        self.function = function
        self.key: bytes | None = None

    def __call__(self, x: NDArray) -> T:
        key = x.tobytes()
        if key != self.key:
            self.key = None  # what the function writes into may belong to the last result
            self.value = self.function(x)
            self.key = key
        return self.value


class HierarchicalObjective(Objective):
    """With hierarchical noise: Gauss-Newton is generalised least squares; the scales have Fisher's information."""

    # from far away the search ends where the detectors' scatter explains the gradients
    start_distance = 0.1

    def __init__(self, data: FitData, config: FitConfig, noise: HierarchicalNoise, parameters: list[Parameter]) -> None:
        super().__init__(data, config, noise, parameters)
        if data.radial is None:
            raise ValueError("hierarchical noise needs the knots and the prior of the radial function")
        self.noise: HierarchicalNoise = noise
        self.mean = LogMean(data, config, data.radial.spline)
        self._log_value = np.log(data.value)
        self._workspace: dict[str, NDArray] = {}  # for covariances that are not handed out, one at a time
        self._covariance = _Latest(self._covariance_at)
        self._mean = _Latest(self._mean_at)
        self._log_mean = _Latest(self._log_mean_at)
        self._projected = _Latest(self._projected_at)
        self._marginal = _Latest(self._marginal_at)

    def _covariance_at(self, log_scales: NDArray) -> Covariance:
        return self.noise.covariance(log_scales, self._workspace)

    def _mean_at(self, z: NDArray) -> tuple[NDArray, Design]:
        """Log of the mean and its derivatives, of the values of all parameters but the scales."""
        return self.mean.with_design(self.to_parameters(np.append(z, np.zeros(self.size - self.n_mean))))

    def _log_mean_at(self, z: NDArray) -> NDArray[np.float64]:
        """The same without derivatives."""
        return self.mean(self.to_parameters(np.append(z, np.zeros(self.size - self.n_mean))))

    def _projected_at(self, z: NDArray) -> Projected:
        return self.noise.effects.projected(self._mean(z)[1])

    def _marginal_at(self, z: NDArray) -> Marginal:
        log_mean, _ = self._mean(z[: self.n_mean])
        return self._covariance(self._log_scales(z)).marginal(self._log_value - log_mean)

    def _log_scales(self, z: NDArray) -> NDArray[np.float64]:
        scales = self.parameters[-1]
        return scales.from_value(z[self.slices[scales.name]])

    def __call__(self, z: NDArray) -> float:
        """Minus the log-posterior; infinite where the mean is not positive."""
        if not np.all(np.isfinite(self.log_mean(z))):
            return np.inf
        return float(self._prior(z)[0] - self._marginal(z).log_likelihood)

    def log_mean(self, z: NDArray) -> NDArray[np.float64]:
        """Log of what each bin should read, shape (n_bins,)."""
        return self._mean(z[: self.n_mean])[0]

    def derivatives(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """Cost, gradient and curvature; mean and scales know nothing of each other's curvature."""
        found = self._marginal(z)
        cost, gradient, curvature = self._prior(z)
        gradient += self._pull(z)
        n, chain, log_scales = self.n_mean, self._chain(z), self._log_scales(z)
        covariance = self._covariance(log_scales)
        curvature[:n, :n] += chain.T @ covariance.information(self._projected(z[:n])) @ chain
        stretch = self.parameters[-1].transform.scale
        curvature[n:, n:] += np.outer(stretch, stretch) * self.noise.information(covariance, log_scales)
        return float(cost - found.log_likelihood), gradient, curvature

    def by_mean(self, z: NDArray) -> tuple[float, NDArray, NDArray]:
        """`derivatives` by the parameters of the mean alone, without what the scales' cost."""
        n, chain = self.n_mean, self._chain(z)
        information = self._covariance(self._log_scales(z)).information(self._projected(z[:n]))
        return *self.slope_by_mean(z), self._prior(z)[2][:n, :n] + chain.T @ information @ chain

    def slope_by_mean(self, z: NDArray) -> tuple[float, NDArray]:
        """The same without the curvature."""
        n, (cost, gradient, _) = self.n_mean, self._prior(z)
        found = self._marginal(z)
        return float(cost - found.log_likelihood), gradient[:n] + self._pull_of_mean(z)

    def gradient(self, z: NDArray) -> tuple[NDArray, dict[str, NDArray]]:
        """The gradient (n,), without the curvature at a fraction of its cost, and `product` there."""
        product = self._product(self.to_parameters(z), self._covariance(self._log_scales(z)), self._marginal(z))
        return self._prior(z)[1] + self._pull(z), product

    def _pull(self, z: NDArray) -> NDArray[np.float64]:
        """Gradient of minus the log-likelihood."""
        log_scales = self._log_scales(z)
        by_scales = self.noise.by_log_scales(self._covariance(log_scales), self._marginal(z), log_scales)
        return np.concatenate([self._pull_of_mean(z), -self.parameters[-1].transform.scale * by_scales])

    def _pull_of_mean(self, z: NDArray) -> NDArray[np.float64]:
        return self._chain(z).T @ self._mean(z[: self.n_mean])[1].transposed(self._marginal(z).by_residual)

    def draw(self, z: NDArray, rng: np.random.Generator) -> Drawn:
        """Draw the shared patterns and the detectors' own effects, given the parameters."""
        parameters = self.to_parameters(z)
        covariance = self._covariance(self._log_scales(z))
        # draws of a chain that stays where it is are worked out once
        drawn = covariance.draw(self._log_value - self._log_mean(z[: self.n_mean]), rng)
        throughput = self.noise.throughput(self.noise.effects.all_effects(drawn.own, drawn.shared))
        product = self.noise.relative_to_present(parameters, throughput)
        product["throughput"] = product["throughput"][:, 0]
        return Drawn(product, drawn.log_likelihood - self._log_values, drawn.shared)

    def shared_slopes(self, z: NDArray) -> NDArray[np.float64]:
        """Conditional means of the slopes that the detectors of a vendor share, 0 for all other shared effects."""
        return np.where(self.noise.fixed, self._marginal(z).shared, 0.0)

    def log_replicate(
        self, z: NDArray, rng: np.random.Generator, slopes: NDArray | None = None
    ) -> NDArray[np.float64] | None:
        """Logs of new values at given parameters, shape (n_bins,), with detectors, amplifiers and patterns drawn."""
        log_mean = self.mean(self.to_parameters(z))
        if not np.all(np.isfinite(log_mean)):
            return None
        return self.noise.replicate(log_mean, self._log_scales(z), rng, slopes)

    def shortened(self, step: NDArray) -> NDArray[np.float64]:
        """The step, with those of the noise scales as long as variances ask for: see `lengthened`."""
        scales, stretch = slice(self.n_mean, None), self.parameters[-1].transform.scale
        step = step.copy()
        step[scales] = lengthened(stretch * step[scales]) / stretch
        return step

    def throughputs(self, z: NDArray) -> Throughputs:
        """Throughputs of detectors and amplifiers at given parameters."""
        parameters, covariance, found = self.effects(z)
        throughput = self._product(parameters, covariance, found)["throughput"]
        return Throughputs(throughput, *self.noise.spread(covariance, throughput), self.noise.places)

    def coords(self) -> dict[str, list[str]]:
        """The vendors, and the effects that their detectors share."""
        return {"vendor": self.noise.vendors, "effect": self.noise.shared_labels}

    def log_likelihood_given(self, z: NDArray, shared: NDArray | None) -> NDArray[np.float64]:
        """Log-likelihood of each detector's values, given the parameters and the shared patterns (None: 0)."""
        if shared is None:
            shared = np.zeros((len(self.noise.vendors), self.noise.shared_scale.shape[1]))
        residual = self._log_value - self.mean(self.to_parameters(z))
        return self._covariance(self._log_scales(z)).log_likelihood_given(residual, shared) - self._log_values

    @cached_property
    def _log_values(self) -> NDArray[np.float64]:
        """Sum of the logs of each detector's values: the density is that of the values, not of their logs."""
        return self.noise.effects.sum_good(self._log_value)

    def effects(self, z: NDArray) -> tuple[dict[str, NDArray], Covariance, Marginal]:
        """The parameters, the covariance of the log-residuals there, and what it makes of them."""
        parameters = self.to_parameters(z)
        covariance = self.noise.covariance(parameters["log_noise_scales"])
        return parameters, covariance, covariance.marginal(self._log_value - self.mean(parameters))

    def score(self, z: NDArray, terms: NDArray) -> tuple[NDArray, NDArray]:
        """Score and information of further terms of the log of the mean; see `Objective.score`."""
        n, chain = self.n_mean, self._chain(z)
        gradient = self.gradient(z)[0][:n]
        plain, found = self._mean(z[:n])[1], self._marginal(z)
        wide = Design(plain.first, plain.banded, plain.n_banded, np.hstack([plain.dense, terms]))
        information = self._covariance(self._log_scales(z)).information(wide)
        cross = chain.T @ information[: len(chain), len(chain) :]
        curvature = chain.T @ information[: len(chain), : len(chain)] @ chain + self._prior(z)[2][:n, :n]
        taken = np.linalg.solve(curvature, np.column_stack([cross, gradient]))
        score = -terms.T @ found.by_residual + cross.T @ taken[:, -1]
        return score, information[len(chain) :, len(chain) :] - cross.T @ taken[:, :-1]

    def normal_equations(self, z: NDArray) -> NormalEquations:
        """What each detector tells of the parameters of the mean and of the shared patterns; see `NormalEquations`."""
        n, covariance, residual = self.n_mean, self._covariance(self._log_scales(z)), self._log_value - self.log_mean(z)
        chain, design, effects = self._chain(z), self._mean(z[: self.n_mean])[1], self.noise.effects
        o, s, gram, root = effects.own, effects.shared, effects.gram, np.sqrt(covariance.shared)
        by_mean, t = self._projected(z[:n]).whole @ chain, effects.project(residual)
        n_shared, weighted = root.shape[1], effects.weight * residual
        size = n + root.size
        information, pull = np.zeros((effects.n_detectors, size, size)), np.zeros((effects.n_detectors, size))
        for d, v in enumerate(effects.vendor):
            rows, columns = effects.detector == d, np.r_[:n, n + n_shared * v : n + n_shared * (v + 1)]
            here = Design(design.first[rows], design.banded[rows], design.n_banded, design.dense[rows])
            # what weights make of mean and patterns among themselves, and of these and the own effects
            cross = root[v][:, None] * by_mean[d, s]
            of_patterns = root[v][:, None] * gram[d, s, s] * root[v]
            plain = np.block([[chain.T @ here.gram(effects.weight[rows]) @ chain, cross.T], [cross, of_patterns]])
            of_own = np.hstack([by_mean[d, o], gram[d, o, s] * root[v]])
            taken = covariance.own_conditional[d] @ of_own
            information[d][np.ix_(columns, columns)] = (plain - of_own.T @ taken) / covariance.white
            straight = np.append(chain.T @ here.transposed(weighted[rows]), root[v] * t[d, s])
            pull[d, columns] = (straight - taken.T @ t[d, o]) / covariance.white
        _, gradient, curvature = self._prior(z)
        prior, pull_of_prior = np.eye(size), np.zeros(size)
        prior[:n, :n], pull_of_prior[:n] = curvature[:n, :n], -gradient[:n]
        return NormalEquations(information, pull, self.log_likelihood_given(z, None), prior, pull_of_prior)

    def restricted(self, z: NDArray) -> NDArray[np.float64]:
        """Gradient of what is added to minus the log-posterior when the mean is integrated out.

        The log of the mean is nearly linear in its parameters; integrated out, they leave half the log-determinant of
        their curvature.
        """
        chain, n, log_scales = self._chain(z), self.n_mean, self._log_scales(z)
        covariance, projected = self._covariance(log_scales), self._projected(z[:n])
        information = covariance.information(projected)
        curvature = chain.T @ information @ chain + self._prior(z)[2][:n, :n]
        found = covariance.by_log_determinant(projected, chain @ np.linalg.inv(curvature) @ chain.T, information)
        gradient = np.zeros_like(z)
        stretch = self.parameters[-1].transform.scale
        gradient[n:] = -stretch * self.noise.by_log_scales(covariance, found, log_scales)
        return gradient

    def vendor_ratios(self, product: dict[str, NDArray]) -> dict[str, tuple[float, float]]:
        """By vendor, the mean over its detectors of their median of data/model, and its sd."""
        effects = self.noise.effects
        ratio = np.where(effects.weight > 0, np.exp(self._log_value - self.mean(product)), np.nan)
        medians = medians_of(effects.detector, ratio, effects.n_detectors)
        found = {}
        for v, name in enumerate(self.noise.vendors):
            here = medians[(effects.vendor == v) & np.isfinite(medians)]
            sd = float(np.std(here, ddof=1) / np.sqrt(len(here))) if len(here) > 1 else np.inf
            found[name] = float(np.mean(here)), sd
        return found

    @property
    def linear(self) -> slice:
        """The coefficients of the log of the radial function."""
        return self.slices["log_radial"]

    def product_by_radial(self, z: NDArray) -> dict[str, NDArray]:
        """Derivatives of `product` by the coefficients of the radial function, which residuals are linear in.

        Returns
        -------
        dict of str to numpy.ndarray
            By the names of `product`, with the coefficients as a last axis more.
        """
        parameters, covariance, found = self.effects(z)
        product = self._product(parameters, covariance, found)
        n = self.linear.stop
        by_effects = -covariance.conditional_means(self._projected(z[: self.n_mean]))[:, :, :n]
        throughput = self.noise.throughput(self.noise.effects.all_effects(found.own, found.shared))
        logs = np.einsum("dak,dkn->dan", self.noise.by_effects(throughput), by_effects, optimize=True)
        vendor, vendors = self.noise.effects.vendor, range(len(self.noise.vendors))
        means = np.array([throughput[vendor == v, 0].mean() for v in vendors])
        by_means = np.array([(throughput[vendor == v, :1] * logs[vendor == v, 0]).mean(0) for v in vendors])
        by_means /= means[:, None]  # of their logs
        out = {name: np.zeros((*np.shape(value), n)) for name, value in product.items()}
        out["log_radial"] = np.eye(n) + by_means[-1]
        if "itl_ratio" in product:
            out["itl_ratio"] = float(product["itl_ratio"]) * (by_means[0] - by_means[-1])
        out["throughput"] = product["throughput"][:, :, None] * (logs - by_means[vendor][:, None, :])
        return out

    def product(self, z: NDArray) -> dict[str, NDArray]:
        """Parameters relative to the detectors present: ratio of the mean throughputs, level of those that are not ITL.

        Beside the parameters, ``throughput`` is that of each detector and amplifier, relative to its vendor's mean:
        shape (n_detectors, 1 + n_amplifiers), the detector first.
        """
        return self._product(*self.effects(z))

    def _product(self, parameters: dict, covariance: Covariance, found: Marginal) -> dict[str, NDArray]:
        throughput = self.noise.throughput(self.noise.effects.all_effects(found.own, found.shared))
        return self.noise.relative_to_present(parameters, throughput)
