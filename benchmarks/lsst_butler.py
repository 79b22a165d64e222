"""Put a product into a data repository as LSST's ``FlatGradient``, and get it back: as LSST's class, and with all HDUs.

LSST's class is loaded from a checkout of ``lsst/ip_isr`` that the user brings; what it imports beside NumPy, SciPy,
astropy and what PyPI has is replaced by stand-ins.

    python -P benchmarks/lsst_butler.py --ip-isr ip_isr

Exit status 1 if any number differs.
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
from lsst.daf.butler import Butler, Config, DatasetType

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


def main() -> int:
    """Run the comparison; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ip-isr", type=Path, required=True, help="checkout of lsst/ip_isr")
    theirs = load(parser.parse_args().ip_isr)
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
    return int(max(worst.values()) > 1e-12)


if __name__ == "__main__":
    sys.exit(main())
