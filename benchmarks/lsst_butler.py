"""Put a product into a data repository as LSST's ``FlatGradient``, and get it back: as LSST's class, and with all HDUs.

LSST's class is loaded from a checkout of ``lsst/ip_isr`` that the user brings; what it imports beside NumPy, SciPy,
astropy and what PyPI has is replaced by stand-ins.  With a checkout of ``lsst/cp_pipe``, the quantum graph of its
``cpFlatCorrectedLSST.yaml`` is built too, with our classes in the place of LSST's and without its other tasks.

    python -P benchmarks/lsst_butler.py --ip-isr ip_isr --cp-pipe cp_pipe

Exit status 1 if any number differs, or quanta are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import types
from pathlib import Path

import lsst
import numpy as np
import yaml
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.pipe.base import Pipeline
from lsst.pipe.base.all_dimensions_quantum_graph_builder import AllDimensionsQuantumGraphBuilder

from bayesflat.config import FitConfig
from bayesflat.data.camera import lsstcam
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.fitting import fit
from bayesflat.rubin.tasks.products import storable
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Noise, default_light

FORMATTER = "bayesflat.formatters.GradientFormatter"


class PropertyList(dict):
    """Stands in for ``lsst.daf.base.PropertyList``."""

    def toDict(self):
        """A plain dict."""
        return dict(self)


def load(ip_isr: Path) -> type:
    """LSST's ``FlatGradient``, where it is looked for: in ``lsst.ip.isr``."""
    for name in ("lsst.daf.base", "lsst.ip", "lsst.ip.isr", "astro_metadata_translator"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules["lsst.daf.base"].PropertyList = PropertyList
    sys.modules["astro_metadata_translator"].merge_headers = None
    lsst.ip, lsst.ip.isr = sys.modules["lsst.ip"], sys.modules["lsst.ip.isr"]
    for module, name in (("calibType", "IsrCalib"), ("flatGradient", "FlatGradient")):
        path = ip_isr / "python" / "lsst" / "ip" / "isr" / f"{module}.py"
        spec = importlib.util.spec_from_file_location(f"lsst.ip.isr.{module}", path)
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded
        spec.loader.exec_module(loaded)
        setattr(lsst.ip.isr, name, getattr(loaded, name))
    return lsst.ip.isr.FlatGradient


SWAPPED = """
description: LSST's pipeline with other classes
imports:
  - location: {location}
    exclude: [{others}]
tasks:
  cpFlatFitGradients:
    class: bayesflat.rubin.tasks.FitFlatGradientsTask
    config: {{do_fit_gradient: true, do_fit_centroid: true}}
  cpFlatApplyGradients:
    class: bayesflat.rubin.tasks.ApplyFlatGradientsTask
"""


def build_graph(cp_pipe: Path, folder: Path) -> dict[str, int]:
    """Number of quanta by label, for two filters of three detectors; datasets are entries without files."""
    location = cp_pipe.resolve() / "pipelines" / "_ingredients" / "cpFlatCorrectedLSST.yaml"
    others = set(yaml.safe_load(location.read_text())["tasks"]) - {"cpFlatFitGradients", "cpFlatApplyGradients"}
    (folder / "swapped.yaml").write_text(SWAPPED.format(location=location, others=", ".join(sorted(others))))
    butler = Butler.from_config(str(folder), writeable=True)
    filters, detectors = ("i_39", "r_57"), (93, 94, 95)
    add = butler.registry.insertDimensionData
    add("physical_filter", {"instrument": "LSSTCam", "name": "r_57", "band": "r"})
    for number in detectors:
        add("detector", {"instrument": "LSSTCam", "id": number, "full_name": f"R22_S1{number - 93}"})
    by_filter = [{"physical_filter": name} for name in filters]
    both = [{"physical_filter": name, "detector": number} for name in filters for number in detectors]
    for name, storage_class, data_ids in (
        ("camera", "Camera", [{}]),
        ("defects", "Defects", [{"detector": number} for number in detectors]),
        ("flat_uncorrected", "ExposureF", both),
        ("flat_gradient_reference", "IsrCalib", by_filter),
    ):
        dimensions = ("instrument", *data_ids[0])
        kind = DatasetType(name, dimensions, storage_class, universe=butler.dimensions, isCalibration=True)
        butler.registry.registerDatasetType(kind)
        butler.registry.insertDatasets(kind, [{"instrument": "LSSTCam", **one} for one in data_ids], run="run")
    graph = Pipeline.from_uri(str(folder / "swapped.yaml")).to_graph()
    builder = AllDimensionsQuantumGraphBuilder(
        graph, butler, where="instrument = 'LSSTCam'", input_collections=["run"], output_run="out"
    )
    built = builder.finish(attach_datastore_records=False).assemble()
    return {label: len(quanta) for label, quanta in built.quanta_by_task.items()}


def main() -> int:
    """Run the comparison; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ip-isr", type=Path, required=True, help="checkout of lsst/ip_isr")
    parser.add_argument("--cp-pipe", type=Path, help="checkout of lsst/cp_pipe")
    arguments = parser.parse_args()
    theirs = load(arguments.ip_isr)
    camera = lsstcam()
    binned = simulate_binned(camera, default_light("dome"), Noise(white=0.0005), 1, bin_factor=512, detector_boundary=0)
    config = FitConfig(noise="independent", do_fit_centroid=True, do_fit_gradient=True)
    ours = fit(binned, config).gradient
    with tempfile.TemporaryDirectory() as folder:
        repo = Butler.makeRepo(folder, Config({"datastore": {"formatters": {"IsrCalib": FORMATTER}}}))
        butler = Butler.from_config(repo, writeable=True)
        add = butler.registry.insertDimensionData
        add("instrument", {"name": "LSSTCam", "class_name": "lsst.obs.lsst.LsstCam", "detector_max": 300,
                           "visit_max": 1, "exposure_max": 1})  # fmt: skip
        add("physical_filter", {"instrument": "LSSTCam", "name": "i_39", "band": "i"})
        dimensions = ("instrument", "physical_filter")
        butler.registry.registerDatasetType(
            DatasetType("flat_gradient", dimensions, "IsrCalib", universe=butler.dimensions)
        )
        butler.collections.register("run")
        data_id = {"instrument": "LSSTCam", "physical_filter": "i_39"}
        ref = butler.put(storable(ours), "flat_gradient", data_id, run="run")
        got = Butler.from_config(folder).get("flat_gradient", data_id, collections="run")
        back = FlatGradient.read(butler.getURI(ref).ospath)
        quanta = build_graph(arguments.cp_pipe, Path(folder)) if arguments.cp_pipe else None
    assert type(got) is theirs, type(got)
    x, y = np.random.default_rng(1).uniform(-250, 250, (2, 1000))
    itl = np.arange(1000) % 2 == 0
    worst = {
        "LSST's class: model": np.abs(got.computeFullModel(x, y, itl) / ours.compute_model(x, y, itl) - 1).max(),
        "LSST's class: normalization": abs(got.normalizationFactor / ours.normalization_factor - 1),
        "our product: covariance": np.abs(back.estimates.covariance - ours.estimates.covariance).max(),
        "our product: MAP": np.abs(back.estimates.columns["map"] - ours.estimates.columns["map"]).max(),
    }
    for name, value in worst.items():
        print(f"{name}: largest difference {value:.1e}")
    wrong = max(worst.values()) > 1e-12
    if quanta is not None:
        print(f"quanta of cpFlatCorrectedLSST.yaml: {quanta}")
        wrong |= quanta != {"cpFlatFitGradients": 2, "cpFlatApplyGradients": 6}
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
