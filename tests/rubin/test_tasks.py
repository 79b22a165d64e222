"""The tasks themselves: configurations, connections, what is put, and how a fit ends that did not converge."""

import json
import logging
import subprocess
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import AnnotatedPartialOutputsError, InMemoryDatasetHandle, Struct

from bayesflat.config import FitConfig, NormalPrior, RunConfig
from bayesflat.data.defects import Box
from bayesflat.data.exposures import boxes_from_lsst, flat_from_lsst
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import _warn
from bayesflat.rubin.tasks import ApplyFlatGradientsConfig, CompareFlatGradientsConfig, FitFlatGradientsConfig
from bayesflat.rubin.tasks.config import LEFT_OUT, run_config
from bayesflat.rubin.tasks.fit import FitFlatGradientsTask, UnconvergedFitError
from bayesflat.rubin.tasks.products import storable
from tests.helpers import NODES, VALUES, message


def fit_config(**fields):
    config = FitFlatGradientsConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    return config


# ---- configurations ----


def test_every_field_of_a_fit_is_there_with_its_default():
    config = fit_config()
    names = [name for name in RunConfig.model_fields if name not in LEFT_OUT]
    assert set(LEFT_OUT) - set(RunConfig.model_fields) == set()
    assert set(names) <= set(config.toDict())
    found, wanted = run_config(config), RunConfig()
    assert found == wanted
    assert found.model_fields_set.isdisjoint({"centroid_max", "outer_gradient_radius"})  # scaled to the camera
    for name in names:
        assert RunConfig.model_fields[name].description in type(config)._fields[name].doc


# LSST's defaults in August 2025 and later, of the types that its configurations have
THEIRS = {
    "bin_factor": 128, "detector_boundary": 10, "do_constrain_zero": True, "do_fit_centroid": False,
    "do_fit_gradient": False, "do_fit_outer_gradient": False, "do_normalize_center": True,
    "do_reference_gradient": False, "do_use_non_science_detectors": False, "fit_eps": 1e-8, "fit_gtol": 1e-10,
    "fixed_model_residual_plot_scale": None, "fp_centroid_x": 0.0, "fp_centroid_y": 0.0, "max_flat_value": 1.5,
    "min_flat_value": 0.05, "normalize_center_radius": 25.0, "outer_gradient_radius": 325.0,
    "radial_spline_nodes": [0.0, 200.0, 250.0, 300.0, 310.0, 320.0, 330.0, 340.0, 350.0, 360.0, 368.0],
    "radial_spline_nodes_initial": [0.0, 100.0, 200.0, 250.0, 275.0, 317.0],
}  # fmt: skip


def test_fields_of_lsst_are_taken():
    found = run_config(fit_config(**THEIRS))
    assert {name: getattr(found, name) for name in THEIRS} == THEIRS
    assert "outer_gradient_radius" in found.model_fields_set


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"fit_eps": 1e-6}, "fit_eps has no use"),
        ({"radial_spline_nodes_initial": [0.0, 100.0, 317.0]}, "radial_spline_nodes_initial has no use with noise"),
        ({}, None),
    ],
)
def test_fields_of_lsst_without_a_meaning_here_warn(fields, warned, caplog):
    with caplog.at_level(logging.WARNING):
        _warn(run_config(fit_config(**fields)))
    assert [warned in one.message for one in caplog.records] == ([True] if warned else [])


def test_priors_are_json_or_what_pipetask_makes_of_it():
    priors = {"gradient": {"dist": "normal", "sigma": 1e-5}, "itl_ratio": "flat"}
    for given in (priors, json.dumps(priors)):
        config = run_config(fit_config(priors=given))
        assert config.priors == {"gradient": NormalPrior(sigma=1e-5), "itl_ratio": "flat"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bin_factor": 0}, "config: bin_factor: input should be greater than or equal to 1, got 0"),
        ({"radial_spline_nodes": [0.0, 200.0, 100.0]}, "nodes must ascend, got 200 before 100"),
        ({"min_flat_value": 2.0}, "config: min_flat_value (2) must be below max_flat_value (1.5)"),
        ({"priors": '{"gradent": "flat"}'}, "no parameter 'gradent'; did you mean 'gradient'?"),
        ({"priors": "gradient"}, "priors: must be JSON, got 'gradient'"),
        ({"likelihood": "laplace"}, "likelihood must be normal with noise = hierarchical, got 'laplace'"),
        ({"camera": "nowhere"}, "camera nowhere: no such file; accepted are lsstcam, lsstcomcam, decam, hsc"),
    ],
)
def test_wrong_values(fields, said):
    assert said in message(fit_config(**fields).validate)


def test_a_value_of_another_type():
    with pytest.raises(FieldValidationError, match=r"Value 12\.5 is of incorrect type float\. Expected type int"):
        fit_config(bin_factor=12.5)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_comparison_needs_a_tolerance(value):
    config = CompareFlatGradientsConfig()
    config.rope_mmag = value
    assert message(config.validate) == f"rope_mmag: must be above 0, got {value}"


# ---- connections ----


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({}, {"output_reference_gradient"}),
        ({"do_reference_gradient": True}, {"output_gradient"}),
        ({"camera": "lsstcam"}, {"output_reference_gradient", "camera"}),
        ({"use_defects": False}, {"output_reference_gradient", "input_defects"}),
        ({"noise": "independent"}, {"output_reference_gradient", "offsets_plot"}),
        (
            {"noise": "independent", "likelihood": "laplace"},
            {"output_reference_gradient", "offsets_plot", "correlation_plot", "predictive_plot"},
        ),
    ],
)
def test_what_is_not_made_or_needed_is_no_connection(fields, gone):
    config = fit_config(**fields)
    every = set(config.ConnectionsClass.allConnections)
    assert every - set(config.ConnectionsClass(config=config).allConnections) == gone


def test_connections_are_those_of_lsst():
    """Names, dimensions and storage classes of ``cpFlatGradients.py`` in LSST's cp_pipe."""
    by_filter, by_detector = {"instrument", "physical_filter"}, {"instrument", "detector", "physical_filter"}
    fit = {
        "camera": ("camera", {"instrument"}, "Camera", True),
        "input_flats": ("flat_uncorrected", by_detector, "ExposureF", True),
        "input_defects": ("defects", {"instrument", "detector"}, "Defects", True),
        "output_reference_gradient": ("flat_gradient_reference", by_filter, "IsrCalib", True),
        "output_gradient": ("flat_gradient", by_filter, "IsrCalib", False),
        "model_residual_plot": ("gradient_model_residual_plot", by_filter, "Plot", False),
        "radial_model_plot": ("gradient_radial_model_plot", by_filter, "Plot", False),
    }
    apply = {
        "camera": ("camera", {"instrument"}, "Camera", True),
        "input_flat": ("flat_uncorrected", by_detector, "ExposureF", True),
        "reference_gradient": ("flat_gradient_reference", by_filter, "IsrCalib", True),
        "gradient": ("flat_gradient", by_filter, "IsrCalib", False),
        "output_flat": ("flat", by_detector, "ExposureF", True),
    }
    for config, wanted in ((FitFlatGradientsConfig, fit), (ApplyFlatGradientsConfig, apply)):
        connections = config.ConnectionsClass.allConnections
        for name, expected in wanted.items():
            one = connections[name]
            assert (one.name, set(one.dimensions), one.storageClass, one.isCalibration) == expected


# ---- what goes in and out ----


def test_flats_as_lsst_has_them(small_camera):
    """Bit numbers are those of the mask's own planes."""
    image = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    mask = np.zeros((200, 200), dtype=np.int32)
    mask[3, 4], mask[5, 6] = 1 << 7, 1 << 2
    exposure = SimpleNamespace(
        image=SimpleNamespace(array=image),
        mask=SimpleNamespace(array=mask, getMaskPlaneDict=lambda: {"NO_DATA": 7, "BAD": 2}),
    )
    flat = flat_from_lsst(exposure, small_camera[3], "i_39", "SmallCam", ["NO_DATA"], "flat")
    assert np.argwhere(flat.bad).tolist() == [[3, 4]]
    np.testing.assert_array_equal(flat.image, image)
    said = message(flat_from_lsst, exposure, small_camera[3], "i_39", "SmallCam", ["SAT"], "flat 3")
    assert said == "flat 3: mask plane SAT is not in it; it has NO_DATA, BAD"


def test_flats_that_are_in_memory_alone(small_camera):
    """A task of another one's: handles without a repository."""
    image = np.full((200, 200), 7.0, dtype=np.float32)
    mask = SimpleNamespace(array=np.zeros((200, 200), dtype=np.int32), getMaskPlaneDict=lambda: {"NO_DATA": 7})
    exposure = SimpleNamespace(image=SimpleNamespace(array=image), mask=mask)
    box = SimpleNamespace(getMinX=lambda: 0, getMinY=lambda: 0, getWidth=lambda: 5, getHeight=lambda: 6)
    where = {"instrument": "SmallCam", "detector": 3, "physical_filter": "i_39"}
    flats = {3: InMemoryDatasetHandle(exposure, dataId=where, copy=False)}
    defects = {3: InMemoryDatasetHandle([SimpleNamespace(getBBox=lambda: box)], dataId=where, copy=False)}
    config = fit_config(bin_factor=20, detector_boundary=0)
    binned, inputs = FitFlatGradientsTask(config=config)._bin(small_camera, run_config(config), flats, defects)
    assert (binned.n_pixels.sum(), set(binned.value), inputs) == (40_000 - 30, {7.0}, [])
    assert (binned.instrument, binned.physical_filter) == ("SmallCam", "i_39")


def test_defects_as_lsst_has_them():
    box = SimpleNamespace(getMinX=lambda: 3, getMinY=lambda: 4, getWidth=lambda: 5, getHeight=lambda: 6)
    assert boxes_from_lsst([SimpleNamespace(getBBox=lambda: box)], "defects") == [Box(3, 4, 5, 6)]
    assert message(boxes_from_lsst, [1], "defects 7").startswith("defects 7: list is neither lsst.ip.isr.Defects nor")


class PropertyList(dict):
    def toDict(self):
        return dict(self)


class Theirs:
    """What the product needs of LSST's ``FlatGradient``."""

    def __init__(self):
        self.header = PropertyList()

    def setParameters(self, **parameters):
        self.__dict__.update(parameters)

    def getMetadata(self):
        return self.header

    def calibInfoFromDict(self, metadata):
        self.info = metadata


def test_with_the_stack_the_product_is_lsst_class_and_its_file_ours(monkeypatch, tmp_path):
    product = FlatGradient(
        np.array(NODES), VALUES, itl_ratio=0.9, centroid_delta_x=0.5, gradient_y=1e-5, normalization_factor=3.0,
        metadata={"FILTER": "i_39", "INSTRUME": "SmallCam"}, config={"bin_factor": 128},
    )  # fmt: skip
    assert storable(product) is product
    module = types.ModuleType("lsst.ip.isr")
    module.FlatGradient = Theirs
    monkeypatch.setitem(sys.modules, "lsst.ip", types.ModuleType("lsst.ip"))
    monkeypatch.setitem(sys.modules, "lsst.ip.isr", module)
    stored = storable(product)
    assert isinstance(stored, Theirs)
    assert (stored.itlRatio, stored.centroidDeltaX, stored.gradientY, stored.normalizationFactor) == (0.9, 0.5, 1e-5, 3)
    np.testing.assert_array_equal(stored.radialSplineValues, VALUES)
    stored.getMetadata()["LSST BUTLER ID"] = "1234"  # as Butler does when it writes
    path = str(tmp_path / "product.fits")
    assert stored.writeFits(path) == path
    back = FlatGradient.read(path)
    assert back.config == {"bin_factor": 128}  # an HDU that LSST's class does not have
    assert (back.metadata["LSST BUTLER ID"], back.metadata["CALIBCLS"]) == ("1234", "lsst.ip.isr.FlatGradient")


class Quantum:
    """A quantum's access to data, which remembers what was put."""

    def get(self, refs):
        return refs

    def put(self, struct, refs):
        self.struct = struct


@pytest.mark.parametrize("do_raise", [True, False])
def test_a_fit_that_did_not_converge_is_put_and_annotated(monkeypatch, do_raise):
    task = FitFlatGradientsTask(config=fit_config(do_raise_unconverged=do_raise))
    summary = {"converged": False, "message": "gradient norm 3", "verdict": "unusable", "n_bins": 7, "n_detectors": 2}
    struct = Struct(fit_summary=summary)
    monkeypatch.setattr(task, "run", lambda **inputs: struct)
    quantum = Quantum()
    if do_raise:
        with pytest.raises(AnnotatedPartialOutputsError) as caught:
            task.runQuantum(quantum, {"input_flats": []}, [])
        assert isinstance(caught.value.__cause__, UnconvergedFitError)
        assert task.metadata["failure"]["message"] == "gradient norm 3"
        assert task.metadata["failure"]["metadata"]["n_bins"] == 7
    else:
        task.runQuantum(quantum, {"input_flats": []}, [])
    assert quantum.struct is struct


# ---- without the extra ----


def test_a_missing_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("bayesflat.rubin.tasks")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lsst.pipe.base", None)
    with pytest.raises(ImportError) as caught:
        import bayesflat.rubin.tasks  # noqa: F401
    assert str(caught.value) == "bayesflat.rubin.tasks needs lsst-pipe-base; pip install 'bayesflat[pipelines]'"


def test_nothing_else_imports_the_pipelines():
    code = "import sys, bayesflat.cli, bayesflat.rubin.fit; print([n for n in sys.modules if n.startswith('lsst')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert FitConfig().noise == "hierarchical"
