"""Six filters by BPS, with Parsl on this machine, in the shipped configuration; products are those of one process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from lsst.daf.butler import Butler

from bayesflat.gradient.product import FlatGradient
from tests.rubin.pipelines import PIPELINES, QUICK, STANDINS, PipelineRepository, butler, run_pipeline, standing_in
from tests.rubin.repositories import DOME, SKY, simulate

FILTERS = ("u_24", "g_6", "r_57", "i_39", "z_20", "y_10")


@pytest.fixture(scope="module")
def repo(small_camera, tmp_path_factory):
    """Dome flats of six filters, and certified references of all of them."""
    folder = tmp_path_factory.mktemp("bps")
    camera = small_camera.subset([5 * j + i for j in (1, 2, 3) for i in (0, 1, 2, 4)])
    with standing_in():
        repo = PipelineRepository(folder / "repo", camera, FILTERS)
        for number, name in enumerate(FILTERS):
            light = DOME | {"centroid_delta": (0.1 * number, -0.1)}
            flats = simulate(folder / f"dome_{name}", camera, light, physical_filter=name, seed=number)
            repo.add_simulation("dome", flats, name, defects=number == 0)
            sky = simulate(folder / f"sky_{name}", camera, SKY, kind="sky", physical_filter=name, seed=number)
            repo.add_sky("sky", sky, name)
        label = "cpFlatFitGradientsReference"
        done = run_pipeline(repo, PIPELINES / "flatGradientsReference.yaml", "sky,defects,camera", "u/sky", label, "-d",
                            "instrument='SmallCam'")  # fmt: skip
        assert done.exit_code == 0, done.output
        done = butler("certify-calibrations", repo.path, "u/sky", "calib", "flat_gradient_reference")
        assert done.exit_code == 0, done.output
        yield repo


def read(repo, collection, physical_filter):
    here = Butler.from_config(str(repo.path))
    (ref,) = here.query_datasets("flat_gradient", collection, where="instrument='SmallCam' AND physical_filter=:name",
                                 bind={"name": physical_filter})  # fmt: skip
    return FlatGradient.read(here.getURI(ref).ospath)


@pytest.mark.slow
def test_six_filters_by_bps_are_those_of_one_process(repo, tmp_path):
    inputs = "dome,defects,camera,calib"
    config = yaml.safe_load((PIPELINES / "bps" / "parsl.yaml").read_text())
    config["payload"] |= {
        "butlerConfig": str(repo.path), "inCollection": inputs, "output": "u/bps", "dataQuery": "instrument='SmallCam'",
    }  # fmt: skip
    config["extraQgraphOptions"] = " ".join(f"-c cpFlatFitGradients:{key}={value}" for key, value in QUICK.items())
    config["site"]["local"]["cores"] = 2
    (tmp_path / "parsl.yaml").write_text(yaml.safe_dump(config))
    paths = [str(STANDINS), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PWD": str(tmp_path)}
    here["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), here["PATH"]])
    done = subprocess.run(["bps", "submit", "parsl.yaml"], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    serial = run_pipeline(repo, PIPELINES / "flatGradients.yaml", inputs, "u/serial", "cpFlatFitGradients", "-d",
                          "instrument='SmallCam'")  # fmt: skip
    assert serial.exit_code == 0, serial.output
    for name in FILTERS:
        ours, theirs = read(repo, "u/serial", name), read(repo, "u/bps", name)
        for key, column in ours.estimates.columns.items():
            np.testing.assert_allclose(theirs.estimates.columns[key], column, rtol=1e-10, atol=1e-18, err_msg=key)
        assert theirs.config["inputs"] == ours.config["inputs"]
    counts = {"flat": 72, "flat_gradient_comparison_summary": 6, "flat_gradient_fit_summary": 6}
    for name, number in counts.items():
        assert len(repo.butler.query_datasets(name, "u/bps", limit=None)) == number
