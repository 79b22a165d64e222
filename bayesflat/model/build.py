"""The model, in one place: what a flat's bins should read, with priors and noise, as a `pymc.Model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from bayesflat.config import FitConfig
from bayesflat.model.akima import akima
from bayesflat.model.coordinates import Whitened
from bayesflat.model.hierarchical import HierarchicalNoise
from bayesflat.model.independent import LaplaceNoise, NormalNoise, StudentTNoise
from bayesflat.model.noise import NoiseModel
from bayesflat.model.parameters import mean_parameters
from bayesflat.model.prepare import FitData, require_noise
from bayesflat.model.radial import log_spline
from bayesflat.model.start import estimate

_INDEPENDENT: dict[str | None, Callable[[], NoiseModel]] = {
    "normal": NormalNoise,
    "student_t": StudentTNoise,
    "laplace": LaplaceNoise,
}


def noise_model(data: FitData, config: FitConfig) -> NoiseModel:
    """The noise model that the config names, for these bins.

    Raises
    ------
    InputError
        The bins are ready for another noise model.
    """
    require_noise(data, config)
    return HierarchicalNoise(data) if config.noise == "hierarchical" else _INDEPENDENT[config.likelihood]()


def build_model(
    data: FitData,
    config: FitConfig,
    noise: NoiseModel | None = None,
    coordinates: Mapping[str, Whitened] | None = None,
) -> pm.Model:
    """The model of a binned focal plane.

    ``value = radial(radius) * (itl_ratio if itl else 1) / plane / outer_plane``, with the radius counted from the moved
    centroid and both planes 1 at the fixed pivot.  Variables are in product units: ``log_radial`` (dims ``knot``; the
    coefficients of a cubic B-spline in the log of the radial function), ``itl_ratio``, ``centroid_delta`` (mm),
    ``gradient`` and ``outer_gradient`` (1/mm; dims ``axis``), and the noise model's own.  Terms that are off are
    absent.

    With independent noise the radial function is Akima's spline through ``radial_spline_values`` (dims ``node``); with
    ``do_constrain_zero`` the values at the free nodes are the variable ``radial_spline_free``.

    Parameters
    ----------
    data : FitData
        With its nodes, or with knots and prior of the radial function, in place.
    config : FitConfig
    noise : NoiseModel, optional
        That of these bins, where it is at hand: making it takes a moment.
    coordinates : mapping of str to Whitened, optional
        Coordinates of a fit, by the name of the parameter, in which samplers move.

    Returns
    -------
    pymc.Model
        With coords ``knot`` or ``node`` (mm), ``axis`` and ``bin``.

    Raises
    ------
    InputError
        A prior with the wrong number of components.
    """
    noise = noise or noise_model(data, config)
    with pm.Model(coords=coords_of(data, noise)) as model:
        observe(add_expected_values(data, config, coordinates), data, config, noise, coordinates)
    return model


def coords_of(data: FitData, noise: NoiseModel) -> dict[str, Any]:
    """Coordinates of the model of these bins."""
    coords = {"axis": ["x", "y"], "bin": np.arange(len(data))} | noise.coords()
    if data.radial is not None:
        return coords | {"knot": data.radial.spline.places}
    return coords | {"node": data.nodes, "free_node": data.nodes[:-1]}


def add_expected_values(
    data: FitData, config: FitConfig, coordinates: Mapping[str, Whitened] | None = None
) -> TensorVariable:
    """Add the parameters of the mean to the model in context, with their priors; what the bins should read, (n_bins,).

    Arguments are those of `build_model`.
    """
    coordinates, start = coordinates or {}, estimate(data, config)
    parameters = {p.name: p.add(coordinates.get(p.name)) for p in mean_parameters(data, config, start)}
    if data.radial is None and config.do_constrain_zero:
        parameters["radial_spline_values"] = pm.Deterministic(
            "radial_spline_values", pt.concatenate([parameters["radial_spline_values"], np.zeros(1)]), dims="node"
        )
    return expected_values(parameters, data, config)


def observe(
    mean: TensorVariable,
    data: FitData,
    config: FitConfig,
    noise: NoiseModel,
    coordinates: Mapping[str, Whitened] | None = None,
) -> None:
    """Add the noise's parameters and the observed bins, ``flat``, to the model in context.

    Parameters
    ----------
    mean : TensorVariable, shape (n_bins,)
        What the bins should read.
    data, config, noise, coordinates
        As for `build_model`.
    """
    coordinates, start = coordinates or {}, estimate(data, config)
    scales = {p.name: p.add(coordinates.get(p.name)) for p in noise.parameters(data, config, start)}
    noise.add(scales, mean, data)


def expected_values(parameters: dict[str, TensorVariable], data: FitData, config: FitConfig) -> TensorVariable:
    """What each bin should read, shape (n_bins,); `bayesflat.model.mean` and `log_mean` are the same in NumPy.

    Parameters
    ----------
    parameters : dict of str to TensorVariable
        By name; terms that are off are absent.
    data : FitData
    config : FitConfig
    """
    dx, dy = pm.Data("dx", data.dx, dims="bin"), pm.Data("dy", data.dy, dims="bin")
    if "centroid_delta" in parameters:
        centroid = parameters["centroid_delta"]
        square = (dx - centroid[0]) ** 2 + (dy - centroid[1]) ** 2
        # the root has no derivative where a bin lies on the centroid; where() differentiates both branches
        apart = square > 0
        radius = pt.where(apart, pt.sqrt(pt.where(apart, square, 1.0)), 0.0)
    else:
        radius = pm.Data("radius", data.radius, dims="bin")

    if data.radial is not None:
        mean = pt.exp(log_spline(data.radial.spline, parameters["log_radial"], radius))
    else:
        mean = akima(data.nodes, parameters["radial_spline_values"], radius)
    if "itl_ratio" in parameters:
        mean *= 1 + (parameters["itl_ratio"] - 1) * pm.Data("itl", data.itl.astype(float), dims="bin")
    if "gradient" in parameters:
        gradient = parameters["gradient"]
        mean /= 1 + gradient[0] * dx + gradient[1] * dy
    if "outer_gradient" in parameters:
        gradient = parameters["outer_gradient"]
        beyond = pm.Data("beyond", (data.radius >= config.outer_gradient_radius).astype(float), dims="bin")
        mean /= 1 + beyond * (gradient[0] * dx + gradient[1] * dy)
    return mean
