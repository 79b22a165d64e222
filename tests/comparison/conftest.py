"""A sky and a dome that see the same detectors: their fits by the command line, and both ways to compare these."""

import pytest

from bayesflat.comparison.comparison import compare
from bayesflat.data.binned import BinnedFlat
from bayesflat.gradient.product import FlatGradient
from tests.helpers import fit_pair

FIT = ["-c", "radial_spline_nodes=0,20,35,45,52,60", "-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true",
       "-c", "centroid_max=2", "-q"]  # fmt: skip


@pytest.fixture(scope="package")
def folder(small_camera, tmp_path_factory):
    """Fits of a sky and a dome that see the same detectors, each beside its binned table; and the camera."""
    out = tmp_path_factory.mktemp("compare")
    fit_pair(small_camera, out, FIT)
    return out


@pytest.fixture(scope="package")
def products(folder):
    return (
        FlatGradient.read(folder / "sky" / "flat_gradient_reference.fits"),
        FlatGradient.read(folder / "dome" / "flat_gradient.fits"),
    )


@pytest.fixture(scope="package")
def tables(folder, small_camera):
    return tuple(BinnedFlat.read(folder / kind / "binned_image.fits", small_camera) for kind in ("sky", "dome"))


@pytest.fixture(scope="package")
def paired(products, tables):
    return compare(*products, binned=tables)


@pytest.fixture(scope="package")
def unpaired(products, small_camera):
    return compare(*products, camera=small_camera)
