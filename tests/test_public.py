"""The public face: names under `bayesflat`, their types, and import paths of earlier versions."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import bayesflat as bf
from bayesflat.moved import MOVED


def test_type_checkers_see_every_public_name_in_its_own_module():
    tree = ast.parse(Path(bf.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name: line.module for line in block.body for name in line.names}
    assert sorted(seen) == bf.__all__
    for name, module in seen.items():
        assert getattr(bf, name) is getattr(importlib.import_module(module), name)
        assert getattr(bf, name).__module__ == module  # not a name that another module imports


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("truth", "Light", "Light"),
        ("truth", "default_light", "default_light"),
        ("simulate", "Detectors", "SimulatedDetectors"),
        ("simulate", "true_parameters", "true_parameters"),
        ("simulate_files", "simulate_focal_plane", "simulate_focal_plane"),
        ("summary", "comparison_lines", "comparison_lines"),
        ("plots", "plot_radial_model", "plot_radial_model"),
        ("plots_compare", "plot_comparison_map", "plot_comparison_map"),
        ("plots_uncertainty", "plot_offsets", "plot_offsets"),
        ("correlations", "strongest", "strongest_correlations"),
    ],
)
def test_import_paths_that_notebooks_used_still_work_and_name_the_new_one(old, name, new):
    module = importlib.import_module(f"bayesflat.{old}")
    with pytest.warns(DeprecationWarning, match=rf"bayesflat\.{old}\.{name} is now bayesflat\.{MOVED[old]}\.{new};"):
        found = getattr(module, name)
    assert found is getattr(bf, new)


def test_old_import_paths_have_no_other_names():
    with pytest.raises(ImportError, match=r"cannot import name 'Candle' from 'bayesflat\.truth'"):
        from bayesflat.truth import Candle  # noqa: F401


def test_names_of_the_report_and_the_gradient_stay():
    from bayesflat.gradient import Estimates, FlatGradient
    from bayesflat.report import fit_report

    assert (Estimates, FlatGradient, fit_report) == (bf.Estimates, bf.FlatGradient, bf.fit_report)
    with pytest.raises(AttributeError, match=r"module 'bayesflat\.report' has no attribute 'comparison'"):
        importlib.import_module("bayesflat.report").comparison
