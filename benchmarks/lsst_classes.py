"""LSST's classes without LSST's stack: from checkouts of its packages, with stand-ins for what these import."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import yaml


class PropertyList(dict):
    """Stands in for ``lsst.daf.base.PropertyList``: an ordered mapping, which YAML shows as LSST does."""

    def toDict(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self)


def _represent(dumper, data):
    """A tagged list of [name, type, value, comment]."""
    kinds = {type(None): "Undef", bool: "Bool", int: "Int", float: "Double", str: "String"}
    entries = [[key, kinds[type(value)], value, ""] for key, value in data.items()]
    return dumper.represent_sequence("lsst.daf.base.PropertyList", entries, flow_style=None)


def _construct(loader, node):
    return PropertyList({entry[0]: entry[2] for entry in loader.construct_sequence(node, deep=True)})


class _StandIn(types.ModuleType):
    """A module in which every name exists and none does anything."""

    __path__: tuple = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


STAND_INS = (
    "lsst",
    "lsst.afw",
    "lsst.afw.cameraGeom",
    "lsst.afw.image",
    "lsst.afw.math",
    "lsst.afw.table",
    "lsst.daf",
    "lsst.daf.base",
    "lsst.geom",
    "lsst.ip",
    "lsst.ip.isr",
    "lsst.ip.isr.isrMock",
    "lsst.cp",
    "lsst.cp.pipe",
    "lsst.pex",
    "lsst.pex.config",
    "lsst.pipe",
    "lsst.pipe.base",
    "lsst.utils",
    "lsst.utils.introspection",
    "astro_metadata_translator",
    "galsim",
    "lmfit",
)


def load_lsst(cp_pipe: Path, ip_isr: Path) -> tuple[type, type]:
    """LSST's ``FlatGradient`` and ``FlatGradientFitter``."""
    for name in STAND_INS:
        sys.modules[name] = _StandIn(name)
    for name in STAND_INS:
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    isr = sys.modules["lsst.ip.isr"]
    sys.modules["lsst.daf.base"].PropertyList = PropertyList
    # both name a calibration by the package that it is public in
    sys.modules["lsst.utils.introspection"].get_full_type_name = lambda obj: f"lsst.ip.isr.{type(obj).__name__}"
    sys.modules["lsst.utils"].doImport = lambda name: getattr(isr, name.rpartition(".")[2])
    yaml.add_representer(PropertyList, _represent)
    for loader in (yaml.CLoader, yaml.Loader):
        yaml.add_constructor("lsst.daf.base.PropertyList", _construct, Loader=loader)

    isr.IsrCalib = _load("lsst.ip.isr.calibType", ip_isr).IsrCalib
    isr.FlatGradient = _load("lsst.ip.isr.flatGradient", ip_isr).FlatGradient
    return isr.FlatGradient, _load("lsst.cp.pipe.utils", cp_pipe).FlatGradientFitter


def _load(name: str, checkout: Path) -> types.ModuleType:
    path = checkout.joinpath("python", *name.split(".")).with_suffix(".py")
    if not path.is_file():
        sys.exit(f"{path}: no such file; a checkout of LSST's package is needed")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
