"""Correcting dome flats: the arithmetic against a formula of the tests' own, files, and what is refused."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from scipy.interpolate import Akima1DInterpolator

import bayesflat
from bayesflat.cli import run
from bayesflat.data.flats import Flat, read_flat
from bayesflat.errors import InputError
from bayesflat.gradient.correction import apply_gradients, compute_correction
from bayesflat.gradient.estimates import STATISTICS, Estimates
from bayesflat.gradient.product import FlatGradient
from tests.helpers import NODES, VALUES, complaint

NODES = np.array(NODES)
DOME = {
    "itl_ratio": 0.9, "centroid_x": 1.0, "centroid_y": -2.0, "centroid_delta_x": 0.8, "centroid_delta_y": -0.6,
    "gradient_x": 2e-4, "gradient_y": -1e-4, "outer_gradient_x": 3e-4, "outer_gradient_y": 1e-4,
    "outer_gradient_radius": 40.0, "normalization_factor": 20000.0,
}  # fmt: skip
SKY = {"itl_ratio": 0.91, "centroid_delta_x": -0.3, "centroid_delta_y": 0.4, "gradient_x": 9e-4,
       "normalization_factor": 5000.0}  # fmt: skip


def product(reference, values=VALUES, nodes=NODES, **fields):
    names = tuple(f"radial_spline_values[{k}]" for k in range(len(nodes)))
    columns = {key: np.zeros(len(nodes)) for key in STATISTICS}
    estimates = Estimates(names, ("",) * len(names), columns, np.eye(len(nodes)), "laplace", True, reference)
    metadata = {"FILTER": "i_39", "INSTRUME": "SmallCam"}
    return FlatGradient(nodes, values, estimates=estimates, metadata=metadata, **fields)


def dome(**fields):
    return product(False, **(DOME | fields))


def sky(**fields):
    return product(True, VALUES * (1 + 2e-5 * NODES**2), **(SKY | fields))


def derived(detector, nodes, dome_values, sky_values):
    """The correction from the design's formula, pixel by pixel, with SciPy's spline."""
    py, px = np.mgrid[: detector.ny, : detector.nx]
    yaw = np.radians(detector.yaw)
    u, v = (px - detector.refpos_x) * detector.pixel_size, (py - detector.refpos_y) * detector.pixel_size
    x = np.cos(yaw) * u - np.sin(yaw) * v + detector.x
    y = np.sin(yaw) * u + np.cos(yaw) * v + detector.y
    radial_dome = Akima1DInterpolator(nodes, dome_values)(np.hypot(x - 1.8, y + 2.6))
    radial_sky = Akima1DInterpolator(nodes, sky_values)(np.hypot(x + 0.3, y - 0.4))
    plane = 1 + 2e-4 * (x - 1) - 1e-4 * (y + 2)
    outer = np.where(np.hypot(x - 1, y + 2) >= 40, 1 + 3e-4 * (x - 1) + 1e-4 * (y + 2), 1.0)
    return plane * outer * radial_sky / radial_dome / 20000


@pytest.mark.parametrize("key", [0, 6, 12, 19])  # a corner, the rotated one, the middle, an edge
def test_pixels_are_those_of_the_formula(small_camera, key, rng):
    detector = small_camera[key]
    factor = derived(detector, NODES, VALUES, VALUES * (1 + 2e-5 * NODES**2))
    image = rng.uniform(1e3, 2e4, (200, 200)).astype(np.float32)
    there = np.isfinite(factor)
    image[~there] = 0.0  # vignetted
    found = apply_gradients(Flat(image, None, detector, "i_39"), dome(), sky())
    np.testing.assert_allclose(found.image[there], (image * factor)[there], rtol=1e-6)
    assert np.all(np.isnan(found.image[~there]))
    assert found.image.dtype == np.float32
    assert bayesflat.apply_gradients is apply_gradients


def test_no_correction_where_a_radial_function_is_unknown(small_camera):
    """Beyond the last node of either product, each about its own centroid, and where one falls to 0."""
    detector = small_camera[0]
    py, px = np.mgrid[:200, :200]
    x, y = detector.pixel_to_focal_plane(px, py)
    short = NODES <= 52
    for one, other, beyond in (
        (dome(values=VALUES[short], nodes=NODES[short]), sky(), np.hypot(x - 1.8, y + 2.6) > NODES[short][-1]),
        (dome(), product(True, VALUES[short], NODES[short], **SKY), np.hypot(x + 0.3, y - 0.4) > NODES[short][-1]),
    ):
        found = compute_correction(detector, one, other)
        outside = (np.hypot(x - 1.8, y + 2.6) > NODES[-1]) | (np.hypot(x + 0.3, y - 0.4) > NODES[-1])
        assert 100 < np.sum(beyond) < 39_900
        np.testing.assert_array_equal(found.nowhere, beyond | outside)
        assert np.all(found.factor[found.nowhere] == 1.0)
    dark = np.where(NODES == 45.0, 0.0, VALUES)
    assert 45.0 in NODES
    found = compute_correction(detector, dome(values=dark), sky())
    zero = Akima1DInterpolator(NODES, dark)(np.hypot(x - 1.8, y + 2.6)) <= 0
    assert zero.any()
    assert np.all(found.nowhere[zero])
    assert np.all(np.isfinite(found.factor))


def test_no_correction_beyond_the_bins_of_a_fit(small_camera):
    """Where the products record the largest radius of a bin, each about its own centroid."""
    detector = small_camera[0]
    py, px = np.mgrid[:200, :200]
    x, y = detector.pixel_to_focal_plane(px, py)
    radius = {"dome": np.hypot(x - 1.8, y + 2.6), "sky": np.hypot(x + 0.3, y - 0.4)}
    beyond = (radius["dome"] > 53.5) | (radius["sky"] > 52.0)
    products = [dome(), sky()]
    for one, reach in zip(products, (53.5, 52.0), strict=True):
        one.estimates.header["RADIUSMX"] = (reach, "")
    np.testing.assert_array_equal(compute_correction(detector, *products).nowhere, beyond)


# ---- files ----


@pytest.fixture
def products(tmp_path):
    dome().write(tmp_path / "dome.fits")
    sky().write(tmp_path / "sky.fits")
    return ["--gradient", str(tmp_path / "dome.fits"), "--reference", str(tmp_path / "sky.fits")]


@pytest.fixture
def camera_table(small_camera, tmp_path):
    small_camera.write(tmp_path / "camera.ecsv")
    return ["--camera", str(tmp_path / "camera.ecsv")]


def lsst_file(path, detector, rng, compress=True, mask=True):
    """As LSST's pipelines lay out an exposure: cards of all kinds, compressed planes, archive tables behind."""
    primary = fits.Header()
    primary["HIERARCH LSST BUTLER DATAID DETECTOR"] = detector.id
    primary["HIERARCH LSST BUTLER DATAID PHYSICAL_FILTER"] = "i_39"
    primary["HIERARCH LSST BUTLER DATAID INSTRUMENT"] = "SmallCam"
    primary["OBSTYPE"] = ("flat", "what it is")
    primary["EXPTIME"] = (1.5e-3, "[s] exposure")
    primary["HIERARCH CPP_INPUT_0"] = 2026010100001
    primary["HISTORY"] = "made for a test"
    primary["COMMENT"] = "a comment"
    image_cards = fits.Header([("BUNIT", "electron"), ("CTYPE1", "RA---TAN"), ("CRPIX1", 100.5), ("CD1_1", -5.5e-5),
                               ("LTV1", -0.0), ("INHERIT", True)])  # fmt: skip
    planes = fits.Header([("MP_BAD", 0), ("HIERARCH MP_NO_DATA", 8), ("HIERARCH MP_VIGNETTED", 9)])
    image = rng.uniform(1e4, 2e4, (detector.ny, detector.nx)).astype(np.float32)
    image[3, 4] = np.nan
    image[:40, :40] = 0.0  # as if vignetted
    bits = rng.integers(0, 2, image.shape).astype(np.int32)
    parts = [("IMAGE", image, image_cards)] + [("MASK", bits, planes)] * mask
    parts.append(("VARIANCE", image * np.float32(0.5), fits.Header([("BUNIT", "electron2")])))
    hdus = [fits.PrimaryHDU(header=primary)]
    for name, data, cards in parts:
        if compress:
            tile = (1, detector.nx)
            hdus.append(fits.CompImageHDU(data, cards, name=name, compression_type="GZIP_2", quantize_level=0.0,
                                          tile_shape=tile))  # fmt: skip
        else:
            hdus.append(fits.ImageHDU(data, cards, name=name))
    for name in ("ARCHIVE_INDEX", "FilterLabel"):
        table = np.array([(1, b"abc", [1.5, 2.5])], dtype=[("id", "i4"), ("name", "S8"), ("blob", "f8", 2)])
        archive = fits.BinTableHDU(table, name=name)
        archive.header["AR_NAME"] = (name, "archive")
        hdus.append(archive)
    fits.HDUList(hdus).writeto(path)
    return image, bits


@pytest.mark.parametrize("compress", [True, False])
def test_all_but_the_pixels_comes_through(tmp_path, small_camera, products, camera_table, rng, compress):
    """Card by card and HDU by HDU, as they lie in the files."""
    detector = small_camera[0]
    path = tmp_path / "flat_R00_S00.fits"
    image, bits = lsst_file(path, detector, rng, compress)
    before = path.read_bytes()
    arguments = ["apply", str(path), "-o", str(tmp_path / "out"), *products, *camera_table, "-q"]
    assert run(arguments) == 0
    assert path.read_bytes() == before
    target = tmp_path / "out" / "flat_R00_S00.fits"
    assert [p.name for p in (tmp_path / "out").iterdir()] == [target.name]

    new = ("CPPGRAD", "CPPGRSUM", "CPPREF", "CPPRFSUM", "CPPBY")
    sizes = ("PCOUNT", "TFORM1", "TFORM2", "THEAP", "ZTILE", "TFIELDS")  # of the compressed bytes
    with (
        fits.open(path, disable_image_compression=True) as one,
        fits.open(target, disable_image_compression=True) as other,
    ):
        assert [h.name for h in one] == [h.name for h in other]
        for left, right in zip(one, other, strict=True):
            cards = [[str(c) for c in h.header.cards if c.keyword not in (*new, *sizes)] for h in (left, right)]
            assert cards[0] == cards[1]
            if left.name in ("ARCHIVE_INDEX", "FilterLabel"):
                assert left.data.tobytes() == right.data.tobytes()

    factor = derived(detector, NODES, VALUES, VALUES * (1 + 2e-5 * NODES**2))
    nowhere = ~np.isfinite(factor)
    assert 0 < nowhere.sum() < 0.8 * nowhere.size
    with fits.open(target) as hdus:
        good = ~nowhere & np.isfinite(image)
        np.testing.assert_allclose(hdus["IMAGE"].data[good], (image * factor)[good], rtol=1e-6)
        np.testing.assert_allclose(hdus["VARIANCE"].data[good], (0.5 * image * factor**2)[good], rtol=1e-6)
        assert np.isnan(hdus["IMAGE"].data[3, 4]) or nowhere[3, 4]
        np.testing.assert_array_equal(hdus["MASK"].data, bits | np.where(nowhere, 1 << 8, 0))
        assert np.all(hdus["IMAGE"].data[nowhere] == 0)
        assert [hdus[name].data.dtype.kind for name in ("IMAGE", "VARIANCE", "MASK")] == ["f", "f", "i"]
        header = hdus[0].header
        assert (header["CPPGRAD"], header["CPPREF"]) == ("dome.fits", "sky.fits")
        assert len(header["CPPGRSUM"]) == 64


def test_without_a_mask_pixels_without_a_correction_are_nan(tmp_path, small_camera, products, camera_table, rng):
    lsst_file(tmp_path / "a_R00_S00.fits", small_camera[0], rng, compress=False, mask=False)
    assert run(["apply", str(tmp_path / "a_R00_S00.fits"), "-o", str(tmp_path / "out"), *products, *camera_table]) == 0
    nowhere = compute_correction(small_camera[0], dome(), sky()).nowhere
    with fits.open(tmp_path / "out" / "a_R00_S00.fits") as hdus:
        assert np.all(np.isnan(hdus["IMAGE"].data[nowhere]))
        assert np.all(np.isnan(hdus["VARIANCE"].data[nowhere]))
        assert np.isfinite(hdus["IMAGE"].data[~nowhere]).sum() >= (~nowhere).sum() - 1


def test_corrected_flats_are_not_corrected_again(tmp_path, small_camera, products, camera_table, rng, capsys):
    lsst_file(tmp_path / "a.fits", small_camera[12], rng)
    options = [*products, *camera_table, "-q"]
    assert run(["apply", str(tmp_path / "a.fits"), "-o", str(tmp_path / "out"), *options]) == 0
    again = ["apply", tmp_path / "out" / "a.fits", "-o", tmp_path / "again", *options]
    assert "was corrected before (card CPPGRSUM)" in complaint(again, capsys)
    assert not (tmp_path / "again").exists()
    into_itself = ["apply", tmp_path / "a.fits", "-o", tmp_path, "--overwrite", *options]
    assert "holds the flat a.fits that is to be corrected" in complaint(into_itself, capsys)
    (tmp_path / "b").mkdir()
    lsst_file(tmp_path / "b" / "a.fits", small_camera[11], rng)
    both = ["apply", tmp_path / "a.fits", tmp_path / "b" / "a.fits", "-o", tmp_path / "two", *options]
    assert "have the same name" in complaint(both, capsys)
    assert "holds a.fits already" in complaint(["apply", tmp_path / "b", "-o", tmp_path / "out", *options], capsys)


def test_products_that_do_not_belong_together(tmp_path, small_camera, camera_table, rng, capsys):
    lsst_file(tmp_path / "a.fits", small_camera[12], rng)
    for name, one in (("dome", dome()), ("sky", sky())):
        one.write(tmp_path / f"{name}.fits")
    command = ["apply", tmp_path / "a.fits", "-o", tmp_path / "out", *camera_table, "-q"]
    swapped = [*command, "--gradient", tmp_path / "sky.fits", "--reference", tmp_path / "dome.fits"]
    assert "--gradient is a reference (REFGRAD = T)" in complaint(swapped, capsys)
    other = FlatGradient(NODES, VALUES, metadata={"FILTER": "r_57"})  # as LSST's: it does not say which it is
    with pytest.raises(InputError, match="the filters differ: i_39 and r_57"):
        apply_gradients(Flat(np.ones((200, 200)), None, small_camera[0], "i_39"), dome(), other)
    other = FlatGradient(NODES, VALUES, metadata={"INSTRUME": "LSSTCam"})
    with pytest.raises(InputError, match="the instruments differ: LSSTCam and SmallCam"):
        apply_gradients(Flat(np.ones((200, 200)), None, small_camera[0]), dome(), other)
    assert not (tmp_path / "out").exists()


def test_unconverged_products_are_warned_of_once(tmp_path, small_camera, camera_table, rng, caplog):
    one = dome()
    replace(one, estimates=replace(one.estimates, converged=False)).write(tmp_path / "dome.fits")
    sky().write(tmp_path / "sky.fits")
    for key in (11, 12):
        lsst_file(tmp_path / f"{key}.fits", small_camera[key], rng)
    products = ["--gradient", str(tmp_path / "dome.fits"), "--reference", str(tmp_path / "sky.fits")]
    flats = [str(tmp_path / f"{key}.fits") for key in (11, 12)]
    assert run(["apply", *flats, "-o", str(tmp_path / "out"), *products, *camera_table, "--force"]) == 0
    assert caplog.text.count("--gradient is of a fit that did not converge") == 1
    assert "--reference is of" not in caplog.text


def test_long_ids_are_recorded_whole(tmp_path, small_camera, camera_table, rng):
    names = {}
    for name, one in (("dome", dome()), ("sky", sky())):
        names[name] = f"instrument=SmallCam filter=i_39 calibDate=2026-11-22T01:02:03 of the {name}, and longer still"
        replace(one, metadata={**one.metadata, "CALIB_ID": names[name]}).write(tmp_path / f"{name}.fits")
    lsst_file(tmp_path / "a.fits", small_camera[12], rng)
    products = ["--gradient", str(tmp_path / "dome.fits"), "--reference", str(tmp_path / "sky.fits")]
    assert run(["apply", str(tmp_path / "a.fits"), "-o", str(tmp_path / "out"), *products, *camera_table, "-q"]) == 0
    header = fits.getheader(tmp_path / "out" / "a.fits")
    assert (header["CPPGRAD"], header["CPPREF"]) == (names["dome"], names["sky"])
    assert header["CPPGRSUM"] == hashlib.sha256((tmp_path / "dome.fits").read_bytes()).hexdigest()


def test_processes_do_the_same(tmp_path, small_camera, products, camera_table, rng):
    (tmp_path / "flats").mkdir()
    for key in (0, 7, 12):
        lsst_file(tmp_path / "flats" / f"f_{small_camera[key].name}.fits", small_camera[key], rng)
    for processes in ("1", "2"):
        out = str(tmp_path / processes)
        assert run(["apply", str(tmp_path / "flats"), "-o", out, "-j", processes, *products, *camera_table, "-q"]) == 0
    for path in sorted((tmp_path / "1").iterdir()):
        with fits.open(path) as one, fits.open(tmp_path / "2" / path.name) as other:
            for name in ("IMAGE", "MASK", "VARIANCE"):
                np.testing.assert_array_equal(one[name].data, other[name].data)
    assert len(list((tmp_path / "2").iterdir())) == 3


# ---- products that are no use ----


@pytest.mark.parametrize("mask", [True, False])
def test_a_correction_that_leaves_less_than_half_of_a_detector_is_refused(
    tmp_path, small_camera, products, camera_table, rng, capsys, mask
):
    """The centre is off by as much as the nodes reach: 1 mm of the detector is within them."""
    dome(centroid_delta_x=-59.0, centroid_x=-5.0).write(tmp_path / "dome.fits")
    lsst_file(tmp_path / "a_R22_S00.fits", small_camera[12], rng, compress=False, mask=mask)
    err = complaint(["apply", tmp_path / "a_R22_S00.fits", "-o", tmp_path / "out", *products, *camera_table], capsys)
    with fits.open(tmp_path / "a_R22_S00.fits") as hdus:
        image = hdus["IMAGE"].data
        good = (image > 0) & ((hdus["MASK"].data & (1 << 8)) == 0 if mask else True)
    nowhere = compute_correction(small_camera[12], FlatGradient.read(tmp_path / "dome.fits"), sky()).nowhere
    assert f"would leave {np.sum(good & ~nowhere)} of {np.sum(good)} good pixels" in err
    assert not (tmp_path / "out").exists()
    flat = Flat(image, None, small_camera[12], "i_39")
    with pytest.raises(InputError, match="R22_S00: the correction would leave"):
        apply_gradients(flat, FlatGradient.read(tmp_path / "dome.fits"), sky())


@pytest.mark.parametrize(("which", "word"), [("dome", "gradient"), ("sky", "reference")])
def test_a_centroid_outside_the_focal_plane_is_refused(
    tmp_path, small_camera, products, camera_table, rng, capsys, which, word
):
    """The farthest corner is at 52 * sqrt(2) = 73.5 mm; nodes may reach farther."""
    {"dome": dome, "sky": sky}[which](centroid_x=500.0, centroid_y=-3.0).write(tmp_path / f"{which}.fits")
    lsst_file(tmp_path / "a_R22_S00.fits", small_camera[12], rng, compress=False)
    err = complaint(["apply", tmp_path / "a_R22_S00.fits", "-o", tmp_path / "out", *products, *camera_table], capsys)
    assert err.startswith(f"bayesflat: the {word}'s centroid (")
    assert err.endswith("mm lies outside the focal plane of SmallCam, which ends at 74 mm")
    assert not (tmp_path / "out").exists()


def test_no_correction_where_a_plane_is_not_positive(small_camera):
    """A plane of 0.06/mm from the middle is 0 at 16.7 mm."""
    detector = small_camera[13]
    py, px = np.mgrid[:200, :200]
    x, _ = detector.pixel_to_focal_plane(px, py)
    steep = dome(gradient_x=-0.06, gradient_y=0.0, centroid_x=0.0, centroid_y=0.0)
    found = compute_correction(detector, steep, sky())
    np.testing.assert_array_equal(found.nowhere, 1 - 0.06 * x <= 0)
    assert np.all(found.factor > 0)


@pytest.mark.parametrize("bit", [True, 32, -1, "8"])
def test_a_plane_that_is_no_bit_is_refused(tmp_path, small_camera, products, camera_table, rng, capsys, bit):
    """T would be bit 1, of another plane."""
    path = tmp_path / "a_R22_S00.fits"
    lsst_file(path, small_camera[12], rng, compress=False)
    with fits.open(path, mode="update") as hdus:
        hdus["MASK"].header["MP_NO_DATA"] = bit
    said = f"{path}: MP_ bit numbers of MASK must be 0 to 31, one is {bit!r}"
    assert complaint(["apply", path, "-o", tmp_path / "out", *products, *camera_table], capsys) == f"bayesflat: {said}"
    with pytest.raises(InputError, match=re.escape(said)):
        read_flat(path, small_camera)


def test_pixels_of_random_bytes_are_corrected_in_silence(small_camera, rng):
    """Signalling NaN, infinities and the largest numbers are a damaged flat's business; warnings are errors here."""
    image = rng.uniform(900, 1100, (200, 200)).astype(np.float32)
    odd = np.array([0x7FA00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF], dtype=np.uint32).view(np.float32)
    image[100, 100:104] = odd
    found = apply_gradients(Flat(image, None, small_camera[12], "i_39"), dome(), sky()).image
    image[100, 100:104] = 1000.0
    expected = apply_gradients(Flat(image, None, small_camera[12], "i_39"), dome(), sky()).image
    there = np.ones(image.shape, dtype=bool)
    there[100, 100:104] = False
    np.testing.assert_array_equal(found[there], expected[there])
    assert np.isnan(found[100, 100])
    assert (found[100, 101], found[100, 102]) == (np.inf, -np.inf)
