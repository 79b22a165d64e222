"""The tasks' configurations: fields of LSST's kind, made from those of `bayesflat.config.RunConfig`."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lsst.pex.config import ChoiceField, Config, Field, ListField
from pydantic.fields import FieldInfo

from bayesflat.config import SCALED, RunConfig
from bayesflat.data.camera import Camera, get_camera
from bayesflat.errors import InputError

BUTLER = "butler"  # the camera is the repository's

# what the framework has itself, what the data id says, and what draws need, which have no storage class
LEFT_OUT = (
    "connections", "saveLogOutput", "camera", "physical_filter", "detector_key", "filter_key", "draws", "tune",
    "chains",
)  # fmt: skip


class _JsonField(Field):
    """A text in JSON, which may be given as the mapping that it stands for: so pipetask reads ``-c key={...}``."""

    def __set__(self, instance, value, at=None, label="assignment") -> None:
        super().__set__(instance, json.dumps(value) if isinstance(value, dict) else value, at, label)


def _type_of(annotation: Any) -> tuple[Any, bool]:
    """What a field holds, and whether it may be unset: a list where it takes a list or a word."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    kinds = [_type_of(one)[0] for one in get_args(annotation)]
    lists = [one for one in kinds if get_origin(one) is list]
    return (lists or [one for one in kinds if one is not type(None)])[0], True


def _field(name: str, info: FieldInfo) -> Field:
    """The field of LSST's kind."""
    kind, optional = _type_of(info.annotation)
    doc, default = str(info.description), info.default
    if name in SCALED:  # whether a field was set is lost where a configuration is written to a file
        return Field(f"{doc}; unset: {default:g}, scaled", float, default=None, optional=True)
    if get_origin(kind) is Literal:
        return ChoiceField(doc, str, {one: one for one in get_args(kind)}, default=default, optional=optional)
    if get_origin(kind) is list:
        item = _type_of(get_args(kind)[0])[0]
        if isinstance(default, str):
            doc, default = f"{doc}; unset: {default}", None
        return ListField(doc, item, default=default, optional=optional)
    if get_origin(kind) is dict:
        return _JsonField(f"in JSON: {doc}", str, default=json.dumps(default))
    return Field(doc, kind, default=default, optional=optional)


def fields_like(names: Iterable[str]) -> type[Config]:
    """A configuration with the fields of `RunConfig` that are named, to inherit from."""
    fields = {name: _field(name, RunConfig.model_fields[name]) for name in names}
    return type(Config)("FieldsOfBayesflat", (Config,), {**fields, "__module__": __name__})


FitFields = fields_like(name for name in RunConfig.model_fields if name not in LEFT_OUT)


def run_config(config: Config, **more: Any) -> RunConfig:
    """The configuration of a fit, checked.

    Parameters
    ----------
    config : lsst.pex.config.Config
        With the fields of `FitFields`.
    **more
        Values of fields that the task's configuration lacks.

    Raises
    ------
    InputError
        A value that is not accepted.
    """
    values: dict[str, Any] = {}
    for name, field in FitFields._fields.items():
        value = getattr(config, name)
        if value is None:
            continue
        values[name] = list(value) if isinstance(field, ListField) else value
    try:
        values["priors"] = json.loads(config.priors)
    except ValueError as error:
        raise InputError(f"priors: must be JSON, got {config.priors!r} ({error})") from None
    return RunConfig.make(values | more)


def check_camera(config: Any) -> None:
    """Refuse a camera that there is not.

    Raises
    ------
    InputError
    """
    if config.camera != BUTLER:
        get_camera(config.camera)


def camera_field() -> Field:
    """Where a task has its camera from."""
    return Field[str](
        doc="butler (the dataset of the connection), lsstcam, lsstcomcam, decam, hsc or a camera table", default=BUTLER
    )


def geometry_of(name: str, camera: Any) -> Camera:
    """The camera that is configured; ``camera`` is the repository's, an ``lsst.afw.cameraGeom.Camera``."""
    return Camera.from_lsst(camera) if name == BUTLER else get_camera(name)
