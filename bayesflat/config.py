"""The configuration of a fit: LSST's field names, validated, from Python, TOML and ``key=value``."""

from __future__ import annotations

import difflib
import itertools
import logging
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from bayesflat.errors import InputError
from bayesflat.quantities import TOLERANCE_MMAG
from bayesflat.text import check_name


def _not_boolean(value: Any) -> Any:
    """Numbers only: pydantic would take ``true`` for 1."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


Number = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_not_boolean)]

# of CpFlatFitGradientsTask in August 2025 (mm)
LSST_NODES = [0.0, 200.0, 250.0, 300.0, 310.0, 320.0, 330.0, 340.0, 350.0, 360.0, 368.0]
PRIOR_NAMES = (
    "log_radial",
    "radial_spline_values",
    "itl_ratio",
    "centroid_delta",
    "gradient",
    "outer_gradient",
    "log_noise_scale",
    "log_noise_scales",
)


# lengths that fit LSSTCam (mm); for other cameras they are multiplied by the camera's scale where they are not set
SCALED = ("centroid_max", "outer_gradient_radius")

# fields of earlier versions, and why they are gone
RETIRED = {"radial_spline_nodes_placed": "nodes describe the fitted curve and do not change its errors"}

log = logging.getLogger(__name__)


class _Strict(BaseModel):
    # instances too: pydantic's own model_copy(update=...) puts in anything
    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, revalidate_instances="always"
    )


class NormalPrior(_Strict):
    """A normal prior in the parameter's own units; ``mu`` and ``sigma`` are one number or one a component.

    Without ``mu`` it is centred where the default prior is.
    """

    dist: Literal["normal"] = "normal"
    mu: Number | list[Number] | None = None
    sigma: Number | list[Number]

    @field_validator("sigma")
    @classmethod
    def _positive(cls, sigma):
        if min(sigma if isinstance(sigma, list) else [sigma], default=0.0) <= 0:
            raise ValueError("Input should be greater than 0")
        return sigma


class Connections(_Strict):
    """Dataset type names, as LSST's connections."""

    camera: str = "camera"
    input_flats: str = "flat_uncorrected"
    input_defects: str | None = "defects"
    output_gradient: str = "flat_gradient"
    output_reference_gradient: str = "flat_gradient_reference"
    model_residual_plot: str = "gradient_model_residual_plot"
    radial_model_plot: str = "gradient_radial_model_plot"
    # those of apply
    input_flat: str = "flat_uncorrected"
    gradient: str = "flat_gradient"
    reference_gradient: str = "flat_gradient_reference"
    output_flat: str = "flat"


class FitConfig(_Strict):
    """What a fit does.  Fields named as in LSST's ``CpFlatFitGradientsConfig`` mean the same there; lengths are in mm.

    Raises
    ------
    InputError
        From `make` and `read`: an unknown key (the nearest known one is named), or a value of
        the wrong type or range.
    """

    bin_factor: Whole = Field(128, ge=1, description="side of a bin (pixels)")
    detector_boundary: Whole = Field(10, ge=0, description="width of the rim of a detector that is left out (pixels)")
    mask_planes: list[str] = Field(["NO_DATA"], description="mask planes whose pixels are left out")
    do_use_non_science_detectors: bool = Field(False, description="use guider and wavefront detectors too")

    fp_centroid_x: Number = Field(0.0, description="pivot of plane and centroid, x (mm)")
    fp_centroid_y: Number = Field(0.0, description="pivot of plane and centroid, y (mm)")
    do_normalize_center: bool = Field(True, description="divide by the median value at the centre")
    normalize_center_radius: Number = Field(25.0, gt=0, description="radius of the central region (mm)")
    min_flat_value: Number = Field(0.05, description="lowest value used, relative to the centre")
    max_flat_value: Number = Field(1.5, description="highest value used, relative to the centre")

    radial_spline_nodes: list[Number] | Literal["auto", "lsst"] = Field(
        "auto",
        description='radii of the spline nodes of the product, ascending (mm); "auto": placed where the fitted curve '
        'needs them; "lsst": those of LSST\'s task of August 2025',
    )
    radial_spline_nodes_initial: list[Number] | None = Field(
        None, description="independent noise: nodes for the starting values only (mm); unset: the nodes themselves"
    )
    do_constrain_zero: bool = Field(False, description="hold the radial function at the last node of the product at 0")
    do_fit_centroid: bool = Field(False, description="fit the centroid of the radial function")
    centroid_max: Number = Field(
        10.0, gt=0, description="largest distance of the centroid from the pivot (mm); other cameras: scaled"
    )
    do_fit_gradient: bool = Field(False, description="fit a planar gradient")
    do_fit_outer_gradient: bool = Field(False, description="fit a second plane beyond outer_gradient_radius")
    outer_gradient_radius: Number = Field(
        325.0, ge=0, description="where the outer plane begins (mm); other cameras: scaled"
    )

    noise: Literal["independent", "hierarchical"] = Field("hierarchical", description="noise model")
    likelihood: Literal["normal", "student_t", "laplace"] | None = Field(
        None, description="distribution of a bin; unset: student_t, or with hierarchical noise normal, its only one"
    )
    priors: dict[str, NormalPrior | Literal["flat"]] = Field(
        {}, description='priors.NAME = {dist = "normal", mu = ..., sigma = ...} or "flat"'
    )

    fit_gtol: Number = Field(1e-10, gt=0, description="gradient norm at which a pass of the optimiser ends (whitened)")
    fit_eps: Number = Field(1e-8, gt=0, description="has no use here: gradients are exact")
    seed: Whole = Field(0, ge=0, description="seed of all random numbers; recorded in the product")

    tolerance_mmag: Number = Field(
        TOLERANCE_MMAG, gt=0, description="size from which on it matters what the model has no term for (mmag)"
    )

    draws: Whole = Field(2000, ge=1, description="most draws of each chain that NUTS keeps; it ends where they suffice")
    tune: Whole = Field(50, ge=1, description="draws before, spent on the step size")
    chains: Whole = Field(4, ge=1, description="chains")

    do_reference_gradient: bool = Field(False, description="the product is the reference (sky)")
    fixed_model_residual_plot_scale: Number | None = Field(
        None, gt=0, description="half width of the residual map's scale (fraction); none: from the data"
    )
    saveLogOutput: bool = Field(True, description="write fit.log")
    connections: Connections = Field(Connections(), description="dataset type names")

    @field_validator("radial_spline_nodes", "radial_spline_nodes_initial")
    @classmethod
    def _nodes(cls, nodes):
        if nodes is None or isinstance(nodes, str):
            return nodes
        if len(nodes) < 3:
            raise ValueError(f"needs at least 3 nodes, got {len(nodes)}")
        for a, b in itertools.pairwise(nodes):
            if b <= a:
                raise ValueError(f"nodes must ascend, got {a:g} before {b:g}")
        if nodes[0] < 0:
            raise ValueError(f"nodes are radii and start at 0 or above, got {nodes[0]:g}")
        return nodes

    @field_validator("mask_planes", mode="before")
    @classmethod
    def _mask_planes(cls, planes):
        return [planes] if isinstance(planes, str) else planes

    @field_validator("priors", mode="before")
    @classmethod
    def _priors(cls, priors):
        if isinstance(priors, Mapping):
            for name in priors:
                if name not in PRIOR_NAMES:
                    raise ValueError(f"no parameter {name!r}{_nearest(name, PRIOR_NAMES)}; {', '.join(PRIOR_NAMES)}")
        return priors

    @model_validator(mode="after")
    def _consistent(self):
        only = "normal" if self.noise == "hierarchical" else None
        if only and self.likelihood not in (None, only):
            raise ValueError(
                f"likelihood must be {only} with noise = {self.noise}, got {self.likelihood!r}; "
                "the others go with noise = independent"
            )
        if self.likelihood is None:
            # not by assignment, which would validate again
            self.__dict__["likelihood"] = only or "student_t"
        if self.min_flat_value >= self.max_flat_value:
            raise ValueError(
                f"min_flat_value ({self.min_flat_value:g}) must be below max_flat_value ({self.max_flat_value:g})"
            )
        fitted = self.noise == "independent" and self.radial_spline_nodes != "auto"
        if self.do_fit_centroid and fitted and self.centroid_max >= self.nodes[-1]:
            raise ValueError(
                f"centroid_max ({self.centroid_max:g} mm) must be below the last node "
                f"({self.nodes[-1]:g} mm): with noise = independent, bins are used out to their difference"
            )
        unused = {"hierarchical": "radial_spline_values", "independent": "log_radial"}[self.noise]
        if unused in self.priors:
            used = {"hierarchical": "log_radial", "independent": "radial_spline_values"}[self.noise]
            raise ValueError(
                f"priors.{unused} is no parameter with noise = {self.noise}; the radial function is priors.{used}"
            )
        if self.priors.get("log_radial") == "flat":
            raise ValueError(
                "priors.log_radial: a flat prior leaves the curve undetermined beyond the bins; give sigma"
            )
        return self

    @property
    def nodes(self) -> list[float]:
        """The nodes that are given (mm).

        Raises
        ------
        ValueError
            None are: they are automatic.
        """
        if self.radial_spline_nodes == "auto":
            raise ValueError("radial_spline_nodes = auto: there are none yet")
        return LSST_NODES if self.radial_spline_nodes == "lsst" else self.radial_spline_nodes

    def scaled_to(self, scale: float) -> Self:
        """The same, with the lengths of `SCALED` that are not set multiplied by a camera's scale (rounded)."""
        found = {
            name: float(f"{scale * getattr(self, name):.3g}") for name in SCALED if name not in self.model_fields_set
        }
        return self.replace(**found) if scale != 1.0 and found else self

    def replace(self, **fields: Any) -> Self:
        """The same configuration with other values of some fields, all of it checked.

        Fields that are not set keep their defaults, such as the `likelihood` that goes with another `noise`.

        Parameters
        ----------
        **fields
            New values, as for the class itself.

        Raises
        ------
        InputError
            A field that is not known (the nearest known one is named), or a value of the wrong type or range.
        """
        return self.make(self._given() | fields)

    def _given(self) -> dict[str, Any]:
        """What was put in, checked or not: fields that were set, that differ from their defaults, or do not exist."""
        known = type(self).model_fields
        return {
            name: value
            for name, value in vars(self).items()
            if name in self.model_fields_set
            or name not in known
            or (name != "likelihood" and value != known[name].default)  # it follows from the noise
        }

    @classmethod
    def make(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """A config from a mapping, with mistakes as one clear line."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(f"{where}: {_explain(cls, error)}") from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a TOML file, such as the ``config.toml`` of an earlier fit; warns of fields that are retired."""
        return cls.make(without_retired(read_toml(path), str(path)), str(path))

    def to_toml(self) -> str:
        """The whole configuration as TOML; fields without a value are left out."""
        return tomlkit.dumps(self.model_dump(exclude_none=True))


def checked(config: FitConfig | None) -> FitConfig:
    """A configuration all of whose fields are checked, whichever way they were put in; the default one for None.

    Raises
    ------
    InputError
        Something else than a configuration, or as `FitConfig.make`.
    """
    if config is None:
        return FitConfig()
    if not isinstance(config, FitConfig):
        raise InputError(f"config: must be a FitConfig, got {type(config).__name__}: bf.FitConfig(...) makes one")
    return config.replace()


class RunConfig(FitConfig):
    """Configuration of the command line: that of the fit, camera and filter."""

    camera: str = Field("lsstcam", description="lsstcam, lsstcomcam, decam, hsc or a camera table")
    physical_filter: str | None = Field(None, description="physical filter, where the input does not say")
    detector_key: str | None = Field(
        None, description="header card that names the detector; A+B joins two; unset: as known of the instrument"
    )
    filter_key: str | None = Field(
        None, description="header card that names the filter; unset: as known of the instrument"
    )

    @field_validator("physical_filter")
    @classmethod
    def _fits_into_headers(cls, name):
        return name if name is None else check_name(name, "the filter", "physical filter")


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read TOML, with mistakes as `InputError`."""
    try:
        # editors put a mark at the beginning, which TOML does not know
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config {path}: not TOML ({error})") from None


def without_retired(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values without fields that earlier versions had, of which a warning tells."""
    for key in RETIRED:
        if key in values:
            log.warning("%s: %s has no meaning any more (%s)", where, key, RETIRED[key])
    return {key: value for key, value in values.items() if key not in RETIRED}


def merge_overrides(values: Mapping[str, Any], overrides: Iterable[str], option: str = "-c") -> dict[str, Any]:
    """Put ``key=value`` texts over a mapping; nested keys with dots, later ones win.

    A value is a list (``0,200,300`` or ``[0, 200, 300]``), a boolean in any case, ``none``, or anything else
    that TOML knows; what is none of these is text.
    """
    result = _copy(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"{option} {text}: needs the form key=value")
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            inner = place.get(parent)
            place[parent] = inner if isinstance(inner, dict) else {}
            place = place[parent]
        place[last] = _parse(value.strip())
    return result


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _parse(text: str) -> Any:
    """The value that a text on the command line stands for."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # TOML needs a digit on both sides of the point; Python and the shell do not
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
            return float(text)
        if "," in text and not text.startswith(("[", "{")):
            return [_parse(part.strip()) for part in text.split(",") if part.strip()]
        return text
    return value if not isinstance(value, float) or math.isfinite(value) else text


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


# where a field takes this or that, pydantic's place of a mistake names which it tried
_ALTERNATIVE = re.compile(r"NormalPrior|literal\[.*\]|list\[.*\]")


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    """The first mistake in one line: the key, what was found, what is accepted."""
    # a key that is not known explains best why another one is missing
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"] if not _ALTERNATIVE.fullmatch(str(part))]
    if first["type"] in ("model_type", "literal_error") and path[0] == "priors" and len(path) == 2:
        return f'priors.{path[1]}: needs {{dist = "normal", mu = ..., sigma = ...}} or "flat", got {first["input"]!r}'
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        owner = cls
        nested: dict[str, type[BaseModel]] = {"connections": Connections, "priors": NormalPrior}
        for part in path[:-1]:
            owner = nested.get(part, owner)
        known = owner.model_fields
        hint = _nearest(path[-1], known) or f"; known keys: {', '.join(known)}"
        return f"unknown key {key!r}{hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[:1].lower() + message[1:]}, got {first['input']!r}"
