"""Leave one detector out: how well the others predict it, and which terms of the model improve the prediction.

At the noise scales of the maximum the model is normal and, but for the bend of the centroid, linear.  So the density of
a detector's values given all others is a ratio of two normal integrals, with and without that detector (Sundararajan &
Keerthi 2001, Neural Computation 13, 1103).  Patterns that a vendor's detectors share are among what is integrated out:
the other detectors tell of them.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bayesflat.config import FitConfig, checked
from bayesflat.data.binned import BinnedFlat
from bayesflat.errors import InputError
from bayesflat.inference.fitting import fit, fit_data
from bayesflat.inference.result import FitResult
from bayesflat.stages import within

log = logging.getLogger(__name__)

TERMS = ("do_fit_centroid", "do_fit_gradient", "do_fit_outer_gradient")
WITHIN = 2.0  # standard errors of the best, within which a model predicts as well


@dataclass(frozen=True)
class LeaveOneOut:
    """Predictive density of each detector, from the others.

    Attributes
    ----------
    detector : numpy.ndarray of int, shape (n_detectors,)
    elpd : numpy.ndarray, shape (n_detectors,)
        Log predictive density of its bins.
    """

    detector: NDArray[np.int64]
    elpd: NDArray[np.float64]

    @property
    def total(self) -> float:
        """Sum over the detectors."""
        return float(self.elpd.sum())


def leave_one_out(result: FitResult) -> LeaveOneOut:
    """How well the other detectors predict each one, at the noise scales of the maximum.

    Parameters
    ----------
    result : FitResult

    Raises
    ------
    InputError
        Independent noise, or a single detector.

    Notes
    -----
    With b the pull of all detectors and of the prior on what they share, and L the information (posterior precision),
    the integral over it is ``exp(b' L**-1 b / 2) / |L|**0.5`` times the likelihood where b was taken.  A detector that
    is left out takes its own pull and information from both.
    """
    require_scatter(result.config)
    detectors = np.unique(result.data.binned.detector)
    if len(detectors) < 2:
        raise InputError("one detector only: there is no other to predict it")
    with threadpool_limits(1, "blas"):
        found = result.objective.normal_equations(result.map.value)
        assert found is not None
        information = found.prior_information + found.information.sum(0)
        pull = found.prior_pull + found.pull.sum(0)
        every = _log_integral(information, pull)
        elpd = [
            log_likelihood + every - _log_integral(information - its_information, pull - its_pull)
            for its_information, its_pull, log_likelihood in zip(
                found.information, found.pull, found.log_likelihood, strict=True
            )
        ]
    return LeaveOneOut(detectors, np.array(elpd))


def _log_integral(information: NDArray, pull: NDArray) -> float:
    """Log of the integral of ``exp(pull' x - x' information x / 2)``, but for a constant."""
    root = np.linalg.cholesky(information)
    return float(0.5 * np.sum(np.linalg.solve(root, pull) ** 2) - np.sum(np.log(np.diag(root))))


def require_scatter(config: FitConfig) -> None:
    """Refuse a noise model in which detectors do not scatter: all of them would be far from what is predicted.

    Raises
    ------
    InputError
        ``noise = "independent"``.
    """
    if config.noise != "hierarchical":
        raise InputError(
            f"noise = {config.noise}: leaving detectors out needs to know how they scatter: use noise = hierarchical"
        )


def compare_terms(binned: BinnedFlat, config: FitConfig | None = None) -> Table:
    """Which of centroid, plane and outer plane a flat needs: each left out and put in, on the same bins.

    Parameters
    ----------
    binned : BinnedFlat
    config : FitConfig, optional
        Its own switches for the three terms do not matter.

    Returns
    -------
    astropy.table.Table
        A row for each combination, the best first: ``terms``, ``elpd`` (log predictive density of detectors left out,
        summed), ``elpd_diff`` to the best and its standard error ``dse``, ``enough`` (the combination with fewest terms
        within `WITHIN` errors of the best, and the better one of two with as many), ``converged``.

    Raises
    ------
    InputError
        Independent noise.
    """
    config = checked(config)
    require_scatter(config)
    everything = config.replace(**dict.fromkeys(TERMS, True))
    # the fullest model sets bins and weights, so that all see the same
    with within("all terms"):
        fullest = fit(binned, everything)
    # nodes only describe a curve: each curve has its own
    given = {"radial_spline_nodes": config.radial_spline_nodes}
    rows = []
    combinations = list(itertools.product((False, True), repeat=len(TERMS)))
    for number, switches in enumerate(combinations, start=1):
        chosen = dict(zip(TERMS, switches, strict=True))
        names = [name.removeprefix("do_fit_") for name, on in chosen.items() if on]
        shown = " + ".join(names) or "none"
        result = fullest
        if not all(switches):
            with within(f"terms {number} of {len(combinations)} ({shown})"):
                result = fit_data(fullest.data, fullest.config.replace(**given, **chosen), fullest.rough)
        rows.append((names, leave_one_out(result), result.converged))
        log.info("%s: elpd %.1f", shown, rows[-1][1].total)
    rows.sort(key=lambda row: -row[1].total)
    best = rows[0][1].elpd
    differences = [found.elpd - best for _, found, _ in rows]
    table = Table(
        {
            "terms": [" + ".join(names) or "none" for names, _, _ in rows],
            "elpd": [found.total for _, found, _ in rows],
            "elpd_diff": [d.sum() for d in differences],
            "dse": [np.sqrt(len(d) * np.var(d, ddof=1)) for d in differences],
            "converged": [converged for _, _, converged in rows],
        }
    )
    as_good = np.flatnonzero(table["elpd_diff"] >= -WITHIN * table["dse"])
    fewest = min(as_good, key=lambda k: (len(rows[k][0]), k))
    table.add_column(np.arange(len(table)) == fewest, name="enough", index=4)
    return table
