"""A data repository for each module that asks for it, as its tests put things there."""

import pytest
from lsst.daf import butler as daf_butler

from tests.rubin.repositories import DOME, LATER, SKY, Repository, simulate


@pytest.fixture(scope="module")
def repo(small_camera, tmp_path_factory):
    """Dome flats of two filters, of i_39 for two dates, sky flats, defects in both forms."""
    folder = tmp_path_factory.mktemp("repository")
    small_camera.write(folder / "camera.ecsv")
    repo = Repository(folder / "repo", small_camera)
    first = simulate(folder / "first", small_camera, DOME)
    repo.add_simulation("dome/first", first, "i_39", defects=True)
    repo.add_simulation("dome/second", simulate(folder / "second", small_camera, LATER), "i_39")
    repo.add_simulation("sky/first", simulate(folder / "sky", small_camera, SKY, kind="sky"), "i_39")
    repo.add_simulation("dome/first", simulate(folder / "r", small_camera, DOME, physical_filter="r_57"), "r_57")
    repo.certify("calib", "flat_uncorrected", "dome/first", "2026-01-01", "2026-02-01")
    repo.certify("calib", "flat_uncorrected", "dome/second", "2026-02-01", None)
    repo.certify("calib", "defects", "defects", None, None)
    tagged = [ref for ref in repo.refs("flat_uncorrected", "dome/second") if ref.dataId["detector"] != 24]
    repo.butler.collections.register("tagged", daf_butler.CollectionType.TAGGED)
    repo.butler.registry.associate("tagged", tagged)
    repo.butler.collections.register("chain", daf_butler.CollectionType.CHAINED)
    repo.butler.collections.redefine_chain("chain", ["tagged", "dome/first", "defects"])
    return repo


@pytest.fixture(scope="module")
def asking(repo):
    """The options that every command needs."""
    return ["--butler", str(repo.path), "--camera", str(repo.path.with_name("camera.ecsv"))]
