"""The product of a fit: `FlatGradient` with its estimates, from the MAP and what is known of the posterior."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bayesflat.config import FitConfig
from bayesflat.data.camera import is_built_in
from bayesflat.gradient.estimates import STATISTICS, Azimuth, Estimates, Offsets
from bayesflat.gradient.files import FIXED_METADATA
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.azimuth import azimuth
from bayesflat.inference.diagnostics import Diagnostics, diagnose, r_hat_and_ess
from bayesflat.inference.field import SmoothField, smooth_field
from bayesflat.inference.laplace import Laplace
from bayesflat.inference.map import MapResult
from bayesflat.inference.objective import Objective
from bayesflat.inference.projection import Projection
from bayesflat.model.prepare import FitData
from bayesflat.quantities import COMPARED, unit_of

if TYPE_CHECKING:
    import xarray as xr


def make_gradient(
    objective: Objective,
    config: FitConfig,
    found: MapResult,
    approximation: Laplace | None,
    projection: Projection | None,
    inputs: Sequence[dict[str, Any]],
) -> FlatGradient:
    """The product of a fit.

    Parameters
    ----------
    objective : Objective
    config : FitConfig
        To record: with the nodes of the product.
    found : MapResult
    approximation : Laplace or None
    projection : Projection or None
        Nodes and values that describe the curve; None where the values themselves were fitted.
    inputs : sequence of dict
        What the product records of where the bins come from.
    """
    data = objective.data
    if projection is not None:
        nodes, values = projection.nodes, projection.values
    else:
        nodes, values = data.nodes, found.parameters["radial_spline_values"]
    scalars = {"itl_ratio": float(found.parameters.get("itl_ratio", 1.0))}
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        x, y = found.parameters.get(name, (0.0, 0.0))
        scalars[f"{name}_x"], scalars[f"{name}_y"] = float(x), float(y)
    other = None if approximation is None else azimuth(objective, approximation)
    field = None if approximation is None else smooth_field(objective, approximation)
    return FlatGradient(
        radial_spline_nodes=nodes,
        radial_spline_values=values,
        **scalars,
        centroid_x=config.fp_centroid_x,
        centroid_y=config.fp_centroid_y,
        outer_gradient_radius=config.outer_gradient_radius,
        normalization_factor=data.normalization,
        metadata=_metadata(data.binned.instrument or data.binned.camera.name, data.binned.physical_filter),
        estimates=_estimates(objective, found, approximation, projection, _azimuth_cards(other) | _field_cards(field)),
        knots=None if data.radial is None else data.radial.spline.knots,
        bend_sd=_bend_sd(objective),
        offsets=_offsets(objective, approximation),
        azimuth=other,
        config={
            **config.model_dump(mode="json"),
            # a table may be anywhere, and on another machine
            **({} if is_built_in(data.binned.camera) else {"camera_table": data.binned.camera.to_lines()}),
            "inputs": list(inputs),
        },
    )


def with_draws(
    gradient: FlatGradient, objective: Objective, posterior: xr.DataTree, seed: int
) -> tuple[FlatGradient, Diagnostics]:
    """The product with statistics from draws in place of Laplace's; the MAP stays.

    Parameters
    ----------
    gradient : FlatGradient
        Of the same fit, without draws.
    objective : Objective
    posterior : xarray.DataTree
        As `bayesflat.inference.nuts.run_nuts` makes it, with ``radial_spline_values``.
    seed : int
        That the draws come from.

    Returns
    -------
    gradient : FlatGradient
    found : Diagnostics
    """
    group = posterior["posterior"].to_dataset()
    old = gradient.require_estimates()
    columns = {key: old.columns[key].copy() for key in STATISTICS}
    draws = np.zeros((len(old.names), group.sizes["chain"], group.sizes["draw"]))
    for row, (parameter, k, _, fixed) in enumerate(_rows(objective, len(gradient.radial_spline_nodes))):
        if parameter in group:
            draws[row] = group[parameter].values.reshape(*draws.shape[1:], -1)[..., k]
        else:
            draws[row] = fixed
    moving = columns["sd"] > 0
    flat = draws.reshape(len(draws), -1)
    columns["mean"], columns["sd"] = flat.mean(1), np.where(moving, flat.std(1, ddof=1), 0.0)
    columns["q05"], columns["q50"], columns["q95"] = np.quantile(flat, (0.05, 0.5, 0.95), axis=1)
    of_rows = r_hat_and_ess(np.moveaxis(draws[moving], 0, 2))
    for key, values in zip(("r_hat", "ess_bulk", "ess_tail"), of_rows, strict=True):
        columns[key][moving] = values
    covariance = np.where(moving[:, None] & moving[None, :], np.cov(flat), 0.0)
    found = diagnose(posterior, objective)
    header = old.header | {
        "NCHAINS": (draws.shape[1], "chains"),
        "NDRAWS": (draws.shape[2], "draws of each chain"),
        "SEEDNUTS": (seed, "seed of the draws"),
        "RHATMAX": (found.r_hat, "worst R-hat"),
        "ESSBULK": (found.ess_bulk, "least bulk ESS"),
        "ESSTAIL": (found.ess_tail, "least tail ESS"),
        "NDIVERG": (found.divergences, "divergent transitions"),
        "EBFMI": (found.bfmi, "least E-BFMI"),
        "VARVIZ": (importlib.metadata.version("arviz"), "version of arviz"),
    }
    estimates = replace(
        old, columns=columns, covariance=covariance, method="nuts", converged=old.converged and found.passed,
        header=header,
    )  # fmt: skip
    return replace(gradient, estimates=estimates), found


def _bend_sd(objective: Objective) -> NDArray[np.float64] | None:
    """As `FlatGradient` holds it; None where the prior is the user's own."""
    radial = objective.data.radial
    if radial is None or "log_radial" in objective.config.priors:
        return None
    return np.pad(np.sqrt(radial.bending), 1, constant_values=np.nan)


def _metadata(instrument: str, physical_filter: str) -> dict[str, Any]:
    """LSST's header cards of a product made now."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    named = {"instrument": instrument, "filter": physical_filter, "calibDate": now.isoformat()}
    return {
        **FIXED_METADATA,
        "INSTRUME": instrument,
        "FILTER": physical_filter,
        "CALIB_ID": " ".join(f"{key}={value}" for key, value in named.items() if value),
        "CALIBDATE": now.isoformat(),
        "CALIB_CREATION_DATE": now.date().isoformat(),
        "CALIB_CREATION_TIME": now.time().isoformat(),
    }


def _rows(objective: Objective, n_nodes: int) -> list[tuple[str, int, str, float]]:
    """Parameter and component of every row, its name, and its value where it is not fitted."""
    rows = [("radial_spline_values", k, f"radial_spline_values[{k}]", 0.0) for k in range(n_nodes)]
    rows.append(("itl_ratio", 0, "itl_ratio", 1.0))
    for name in ("centroid_delta", "gradient", "outer_gradient"):
        rows += [(name, k, f"{name}_{axis}", 0.0) for k, axis in enumerate("xy")]
    labels = objective.noise.coords().get("noise_scale")
    noise = objective.parameters[-1].name
    noise_names = [f"{noise}[{label}]" for label in labels] if labels else [noise]
    rows += [(noise, k, name, 0.0) for k, name in enumerate(noise_names)]
    radial = objective.data.radial
    n_knots = 0 if radial is None else radial.spline.size
    return rows + [("log_radial", k, f"log_radial[{k}]", 0.0) for k in range(n_knots)]


def _estimates(
    objective: Objective,
    found: MapResult,
    approximation: Laplace | None,
    projection: Projection | None,
    tested: dict[str, tuple[Any, str]],
) -> Estimates:
    """A row for every parameter; what is off or held fixed has an sd of 0."""
    data, config = objective.data, objective.config
    parameters = dict(found.parameters)
    if projection is not None:
        parameters["radial_spline_values"] = projection.values
    n_nodes = len(parameters["radial_spline_values"])
    rows = _rows(objective, n_nodes)
    names = tuple(name for _, _, name, _ in rows)
    point = np.array([np.ravel(parameters[p])[k] if p in parameters else fixed for p, k, _, fixed in rows])
    held = np.array([p not in parameters for p, *_ in rows])
    if config.do_constrain_zero:
        held[n_nodes - 1] = True
    covariance = np.where(held[:, None] | held[None, :], 0.0, np.nan)
    if approximation is not None:
        to_rows = _to_rows(rows, approximation.names, objective, projection)
        covariance = to_rows @ approximation.product @ to_rows.T
        covariance[held] = covariance[:, held] = 0.0
    sd = np.sqrt(np.diag(covariance))
    mean = point + 0 * sd
    if approximation is not None:
        centre = dict(approximation.mean)
        if projection is not None and data.radial is not None:
            centre["radial_spline_values"] = projection.of_draws(data.radial.spline, centre["log_radial"])
        free = np.array([np.ravel(centre[p])[k] if p in centre else fixed for p, k, _, fixed in rows])
        mean = np.where(held, point, free)
    columns = {key: np.full(len(rows), np.nan) for key in STATISTICS}
    columns |= {"map": point, "mean": mean, "sd": sd}
    columns |= {key: mean + norm.ppf(level) * sd for key, level in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95))}
    return Estimates(
        names=names,
        units=tuple(unit_of(name) for name in names),
        columns=columns,
        covariance=covariance,
        method="map" if approximation is None else "laplace",
        converged=found.converged,
        reference=config.do_reference_gradient,
        header={
            "NOISE": (config.noise, "noise model"),
            "LIKELIHD": (config.likelihood, "distribution of a bin"),
            "NBINS": (len(data), "bins fitted"),
            "RADIUSMX": (_reach(data, found), "largest radius of a bin (mm)"),
            **(
                {"GROUPS": (" / ".join(data.binned.groups), "whose throughputs ITL_RATIO is of")}
                if data.has_ratio
                else {}
            ),
            "NSPOILT": (int(np.sum(data.weight == 0)), "bins among them that weigh nothing"),
            "NDETECT": (len(np.unique(data.binned.detector)), "detectors with bins in the fit"),
            **_misfit(projection),
            **tested,
            "SMOOTH": (data.smooth, "scale of smooth fields (part of a side)"),
            "LOGPOST": (found.log_posterior, "log-posterior at the maximum"),
            "GRADNORM": (found.gradient_norm, "its whitened gradient (standard deviations)"),
            "STARTSEP": (found.second_start, "how far another start ended"),
            "NSTEPS": (found.n_steps, "steps of the optimiser"),
            **_worst_correlation(names, covariance),
            "EXACTCUR": (approximation is not None and approximation.exact, "exact curvature (else Gauss-Newton)"),
            "SEED": (config.seed, "seed of all random numbers"),
            **{key: (importlib.metadata.version(name), f"version of {name}") for key, name in _VERSIONS.items()},
        },
    )


def _to_rows(
    rows: list[tuple[str, int, str, float]],
    names: list[tuple[str, int]],
    objective: Objective,
    projection: Projection | None,
) -> NDArray[np.float64]:
    """From the parameters of Laplace's approximation to the rows of the product: shape (n_rows, n_parameters)."""
    at = {where: i for i, where in enumerate(names)}
    to_rows = np.zeros((len(rows), len(names)))
    for row, (parameter, k, _, _) in enumerate(rows):
        if (parameter, k) in at:
            to_rows[row, at[parameter, k]] = 1.0
    if projection is not None and objective.data.radial is not None:
        columns = [i for i, (name, _) in enumerate(names) if name == "log_radial"]
        to_rows[: len(projection.nodes), columns] = projection.by_coefficients(objective.data.radial.spline)
    return to_rows


def _misfit(projection: Projection | None) -> dict[str, tuple[Any, str]]:
    """The worst misfit of the nodes, within them."""
    if projection is None:
        return {}
    misfit, radius = projection.worst
    return {
        "NODEMISF": (misfit, "worst misfit of the nodes to the curve (mmag)"),
        "NODEMISR": (radius, "where (mm)"),
    }


def _azimuth_cards(other: Azimuth | None) -> dict[str, tuple[Any, str]]:
    return {
        "AZCHI2": (np.nan if other is None else other.chi2, "chi2 of what is neither radial nor planar"),
        "AZDOF": (0 if other is None else other.dof, "its degrees of freedom"),
        "AZPVAL": (np.nan if other is None else other.p_value, "its probability by chance"),
    }


def _field_cards(field: SmoothField | None) -> dict[str, tuple[Any, str]]:
    return {
        "FLDCHI2": (np.nan if field is None else field.chi2, "chi2 of a smooth field"),
        "FLDDOF": (0 if field is None else field.dof, "its degrees of freedom"),
        "FLDPVAL": (np.nan if field is None else field.p_value, "its probability by chance"),
        "FLDRMS": (np.nan if field is None else field.rms_mmag, "its rms, less that of noise (mmag)"),
    }


def _reach(data: FitData, found: MapResult) -> float:
    """The largest radius of a bin; beyond it the radial function is an extrapolation."""
    cx, cy = found.parameters.get("centroid_delta", (0.0, 0.0))
    return round(float(np.hypot(data.dx - cx, data.dy - cy).max()), 4)


def _worst_correlation(names: tuple[str, ...], covariance: np.ndarray) -> dict[str, tuple[Any, str]]:
    """The two scalars that are hardest to tell apart; all correlations are in COVARIANCE."""
    rows = [i for i, name in enumerate(names) if name in COMPARED and covariance[i, i] > 0]
    if len(rows) < 2:
        return {}
    sd = np.sqrt(np.diag(covariance)[rows])
    correlation = covariance[np.ix_(rows, rows)] / np.outer(sd, sd) - np.eye(len(rows))
    a, b = np.unravel_index(np.argmax(np.abs(correlation)), correlation.shape)
    return {
        "CORRMAX": (float(correlation[a, b]), "largest correlation of ratio, centroid, plane"),
        "CORRPAIR": (f"{names[rows[min(a, b)]]} {names[rows[max(a, b)]]}", "between these"),
    }


def _offsets(objective: Objective, approximation: Laplace | None) -> Offsets | None:
    """Throughput of each detector and amplifier, relative to the product's model."""
    if approximation is None or approximation.throughput_sd is None:
        return None
    throughputs = objective.throughputs(approximation.centre)
    if throughputs is None:
        return None
    detector, amplifier, row, column = throughputs.places.T
    mean = throughputs.conditional_mean[row, column]
    return Offsets(detector, amplifier, mean, approximation.throughput_sd[row, column])


_VERSIONS = {"VBAYESFL": "bayesflat", "VPYMC": "pymc", "VPYTENS": "pytensor", "VNUMPY": "numpy"}
