"""Binning: brute-force means over the good pixels, true positions, and the checks over a set of files."""

import logging
import weakref

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.binning import bin_files, bin_flat, bin_focal_plane
from bayesflat.data.camera import Camera, Detector
from bayesflat.data.defects import Box
from bayesflat.data.flats import Flat, read_flat, read_flat_header
from bayesflat.errors import InputError
from tests.helpers import message

CAMERA = Camera(
    "Toy",
    [
        Detector(8, "R22_S12", "ITL", "science", 40.0, 3.0, 90.0, 60, 48, 0.5, 29.5, 23.5),
        Detector(4, "R22_S11", "E2V", "science", 0.0, -2.0, 0.0, 64, 50, 0.5, 31.5, 24.5),
        Detector(5, "R22_S10", "E2V", "science", -40.0, 0.0, 30.0, 64, 50, 0.5, 31.5, 24.5, 4, 1),
        Detector(9, "R00_SG0", "ITL_G", "guider", 0.0, 50.0, 180.0, 60, 48, 0.5, 29.5, 23.5),
    ],
)
SCIENCE = (4, 5, 8)


def random_flat(number, *, holes=True, seed=0, **more):
    """A flat whose neighbouring pixels differ much, so that a pixel too many or too few shows."""
    rng = np.random.default_rng([number, seed])
    detector = CAMERA[number]
    image = rng.normal(1000.0, 200.0, (detector.ny, detector.nx)).astype(np.float32)
    bad = None
    if holes:
        image[rng.random(image.shape) < 0.05] = np.nan
        image[3, 20], image[20, 4] = np.inf, -np.inf
        bad = rng.random(image.shape) < 0.1
    return Flat(image, bad, detector, **{"physical_filter": "r", "instrument": "Toy", "path": f"f{number}"} | more)


def brute_force(flat, boxes, b, boundary):
    """Rows (px, py, mean, n) of the bins, pixel by pixel, in Python's own numbers."""
    rows = []
    ny, nx = flat.image.shape
    y0 = boundary
    while y0 + b <= ny - boundary:
        x0 = boundary
        while x0 + b <= nx - boundary:
            values = []
            for y in range(y0, y0 + b):
                for x in range(x0, x0 + b):
                    in_box = any(q.x0 <= x < q.x0 + q.width and q.y0 <= y < q.y0 + q.height for q in boxes)
                    flagged = flat.bad is not None and flat.bad[y, x]
                    if np.isfinite(flat.image[y, x]) and not flagged and not in_box:
                        values.append(float(flat.image[y, x]))
            if values:
                centre_x = np.mean(np.arange(x0, x0 + b))
                centre_y = np.mean(np.arange(y0, y0 + b))
                rows.append((centre_x, centre_y, sum(values) / len(values), len(values)))
            x0 += b
        y0 += b
    return np.array(rows)


# ---- one detector ----


@pytest.mark.parametrize("number", SCIENCE)
@pytest.mark.parametrize(("b", "boundary"), [(8, 3), (7, 0), (1, 20), (5, 10), (20, 2)])
@pytest.mark.parametrize("holes", [False, True])
def test_bins_against_brute_force(number, b, boundary, holes):
    flat = random_flat(number, holes=holes)
    boxes = [Box(-3, 10, 9, 6), Box(20, 20, 17, 9), Box(58, 40, 90, 90)] if holes else []
    before = None if flat.bad is None else flat.bad.copy()
    bins = bin_flat(flat, boxes, b, boundary)
    expected = brute_force(flat, boxes, b, boundary)
    np.testing.assert_array_equal(bins["n_pixels"], expected[:, 3])
    np.testing.assert_allclose(bins["value"], expected[:, 2], rtol=1e-13)

    d = flat.detector
    angle = np.radians(d.yaw)
    u, v = (expected[:, 0] - d.refpos_x) * 0.5, (expected[:, 1] - d.refpos_y) * 0.5
    np.testing.assert_allclose(bins["xf"], d.x + u * np.cos(angle) - v * np.sin(angle), atol=1e-12)
    np.testing.assert_allclose(bins["yf"], d.y + u * np.sin(angle) + v * np.cos(angle), atol=1e-12)

    column = [min(int((x + 0.5) / (d.nx / d.amp_nx)), d.amp_nx - 1) for x in expected[:, 0]]
    row = [int(d.amp_ny == 2 and y + 0.5 >= d.ny / 2) for y in expected[:, 1]]
    np.testing.assert_array_equal(bins["amplifier"], np.array(column) + d.amp_nx * np.array(row))
    assert set(bins["detector"]) == {number}
    assert set(bins["itl"]) == {number == 8}
    if before is not None:
        np.testing.assert_array_equal(flat.bad, before)  # the caller's mask is not touched


def test_mean_is_not_a_mean_of_means():
    image = np.zeros((50, 64), dtype=np.float32)
    image[0, :4] = 8.0
    image[1:4, :4] = 2.0
    image[0, 1:4] = np.nan  # one good pixel of 8, twelve of 2
    bins = bin_flat(Flat(image, None, CAMERA[4]), (), 4, 0)
    assert bins["value"][0] == (8.0 + 12 * 2.0) / 13
    assert bins["n_pixels"][0] == 13


def test_position_of_the_first_bin_by_hand():
    # pixels 2, 3, 4, 5 have their middle at 3.5; 90 degrees turn (-26, -20) pixels of 0.5 mm into (+10, -13) mm
    bins = bin_flat(random_flat(8, holes=False), (), 4, 2)
    assert (bins["xf"][0], bins["yf"][0]) == (40.0 + 10.0, 3.0 - 13.0)


def test_boundary_pixels_and_remainder_are_left_out():
    detector = CAMERA[4]
    image = np.full((50, 64), 1e6, dtype=np.float32)
    image[3 : 3 + 40, 3 : 3 + 50] = 1.0  # (50 - 6) // 10 = 4 bins by (64 - 6) // 10 = 5
    bins = bin_flat(Flat(image, None, detector), (), 10, 3)
    assert bins["value"].tolist() == [1.0] * 20


def test_bin_without_good_pixel_is_dropped_and_only_that():
    flat = random_flat(4, holes=False)
    bins = bin_flat(flat, [Box(10, 10, 10, 10)], 10, 0)
    whole = bin_flat(flat, (), 10, 0)
    keep = np.arange(30) != 7  # six bins a row: second row, second column
    for name, column in bins.items():
        np.testing.assert_array_equal(column, whole[name][keep])


def test_sums_are_in_double_precision():
    image = np.full((50, 64), 1.0e7, dtype=np.float32)
    image[::2] += 1.0
    bins = bin_flat(Flat(image, None, CAMERA[4]), (), 48, 0)
    assert bins["value"].tolist() == [1.0e7 + 0.5]


def test_integer_and_big_endian_images():
    data = np.random.default_rng(1).integers(0, 60000, (50, 64))
    expected = bin_flat(Flat(data.astype(float), None, CAMERA[4]), (), 8, 1)["value"]
    for dtype in (">u2", "<i4", ">f4", ">f8"):
        np.testing.assert_array_equal(bin_flat(Flat(data.astype(dtype), None, CAMERA[4]), (), 8, 1)["value"], expected)


@pytest.mark.parametrize(
    ("b", "boundary", "part"),
    [
        (0, 0, "bin_factor is 0"),
        (-1, 0, "1 or more"),
        (2.5, 0, "whole number"),
        (51, 0, "at most 50"),
        (31, 10, "at most 30"),
        (4, -1, "detector_boundary is -1"),
        (1, 25, "at most 0"),
    ],
)
def test_bins_that_do_not_fit(b, boundary, part):
    assert part in message(bin_flat, random_flat(4), (), b, boundary)


# ---- the focal plane ----


def test_focal_plane_is_its_detectors_in_order():
    flats = [random_flat(number) for number in (8, 4, 5, 9)]
    defects = {5: [Box(0, 0, 30, 30)], 4: []}
    binned = bin_focal_plane(iter(flats), CAMERA, defects, bin_factor=8, detector_boundary=2)
    parts = [bin_flat(flats[1], (), 8, 2), bin_flat(flats[2], defects[5], 8, 2), bin_flat(flats[0], (), 8, 2)]
    for name in parts[0]:
        np.testing.assert_array_equal(getattr(binned, name), np.concatenate([part[name] for part in parts]))
    assert (binned.instrument, binned.physical_filter) == ("Toy", "r")
    everything = bin_focal_plane(flats, CAMERA, bin_factor=8, detector_boundary=2, use_non_science=True)
    assert set(everything.detector) == {4, 5, 8, 9}


def test_flats_are_not_kept():
    alive = []

    def one_at_a_time():
        for number in SCIENCE:
            flat = random_flat(number)
            assert not any(reference() is not None for reference in alive)
            alive.append(weakref.ref(flat))
            yield flat
            del flat

    assert set(bin_focal_plane(one_at_a_time(), CAMERA, bin_factor=8).detector) == set(SCIENCE)


@pytest.mark.parametrize(
    ("second", "part"),
    [
        ({"number": 4, "path": "second"}, "detector 4"),
        ({"number": 5, "path": "second", "physical_filter": "g"}, "filter is g, that of f4 is r"),
        ({"number": 5, "path": "second", "instrument": "Other"}, "instrument is Other, that of f4 is Toy"),
    ],
)
def test_flats_that_do_not_go_together(second, part):
    unknown = random_flat(8, instrument="", physical_filter="")  # says neither, and so agrees with all
    text = message(bin_focal_plane, [unknown, random_flat(4), random_flat(**second)], CAMERA, bin_factor=8)
    assert part in text
    assert "second" in text
    assert "f4" in text


def test_nothing_to_bin(caplog):
    assert "no flats" in message(bin_focal_plane, [], CAMERA)
    assert "do_use_non_science_detectors" in message(bin_focal_plane, [random_flat(9)], CAMERA, bin_factor=8)
    dark = random_flat(4)
    dark.bad[:] = True
    assert "not one good pixel" in message(bin_focal_plane, [dark], CAMERA, bin_factor=8)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert set(bin_focal_plane([dark, random_flat(5)], CAMERA, bin_factor=8).detector) == {5}
    (record,) = caplog.records
    assert "f4" in record.getMessage()
    assert "R22_S11" in record.getMessage()


def test_flat_of_another_camera():
    other = Camera("Other", [CAMERA[4].coarsened(2), CAMERA[5]])
    assert "f4: its detector R22_S11 is not one of camera Other" in message(bin_focal_plane, [random_flat(4)], other)


# ---- files ----


def write(folder, flat, name=None, **cards):
    header = fits.Header({"DETECTOR": flat.detector.id, "FILTER": "r", "INSTRUME": "Toy"} | cards)
    lossless = {"compression_type": "GZIP_2", "quantize_level": 0.0}
    hdus = [fits.PrimaryHDU(header=header), fits.CompImageHDU(flat.image, name="IMAGE", **lossless)]
    if flat.bad is not None:
        mask = fits.CompImageHDU(flat.bad.astype(np.int32) << flat.detector.id, name="MASK", **lossless)
        mask.header["HIERARCH MP_NO_DATA"] = flat.detector.id
        hdus.append(mask)
    path = folder / (name or f"{flat.detector.id}.fits")
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path, random_flat(number)) for number in (8, 9, 5, 4)]


def test_files_give_what_flats_in_memory_give_however_many_processes(files):
    defects = {5: [Box(0, 0, 30, 30)]}
    memory = bin_focal_plane([random_flat(n) for n in SCIENCE], CAMERA, defects, bin_factor=8, detector_boundary=2)
    for processes in (1, 2):
        done = []
        binned = bin_files(
            files, CAMERA, defects=defects, bin_factor=8, detector_boundary=2, processes=processes,
            progress=lambda done=done: done.append(1),
        )  # fmt: skip
        for name in ("xf", "yf", "value", "n_pixels", "amplifier", "detector", "itl"):
            np.testing.assert_array_equal(getattr(binned, name), getattr(memory, name))
        assert (binned.instrument, binned.physical_filter) == ("Toy", "r")
        assert len(done) == 4


def test_options_reach_the_reader(tmp_path):
    path = write(tmp_path, random_flat(4), FILTER="")
    assert "--physical-filter" in message(bin_files, [path], CAMERA, bin_factor=8)
    assert bin_files([path], CAMERA, bin_factor=8, physical_filter="z").physical_filter == "z"
    flat = random_flat(4)
    for planes, bad in ((("NO_DATA",), flat.bad), ((), None)):
        binned = bin_files([path], CAMERA, bin_factor=8, physical_filter="z", mask_planes=planes)
        expected = brute_force(Flat(flat.image, bad, flat.detector), (), 8, 10)
        np.testing.assert_array_equal(binned.n_pixels, expected[:, 3])
        np.testing.assert_allclose(binned.value, expected[:, 2], rtol=1e-13)
    guider = write(tmp_path, random_flat(9))
    assert set(bin_files([guider], CAMERA, bin_factor=8, use_non_science=True).detector) == {9}
    assert "1 flats is of a science" in message(bin_files, [guider], CAMERA, bin_factor=8)


def test_sets_are_checked_before_any_pixel_is_read(tmp_path, files, monkeypatch):
    monkeypatch.setattr("bayesflat.data.binning.read_hdus", lambda *args: pytest.fail("pixels were read"))
    twin = write(tmp_path, random_flat(4), "twin.fits")
    other_filter = write(tmp_path, random_flat(4), "filter.fits", FILTER="g")
    other_camera = write(tmp_path, random_flat(4), "camera.fits", INSTRUME="Other")
    unknown = write(tmp_path, random_flat(4), "unknown.fits", DETECTOR=300)
    text = message(bin_files, [*files, twin], CAMERA, bin_factor=8)
    assert "twin.fits" in text
    assert "4.fits" in text
    text = message(bin_files, [*files[:3], other_filter], CAMERA, bin_factor=8)
    assert "filter.fits: its filter is g" in text
    assert "8.fits is r" in text
    text = message(bin_files, [*files[:3], other_camera], CAMERA, bin_factor=8)
    assert "camera.fits: its instrument is Other" in text
    assert "unknown.fits: DETECTOR is 300" in message(bin_files, [*files[:3], unknown], CAMERA, bin_factor=8)
    assert "at most 28" in message(bin_files, files, CAMERA, bin_factor=29)
    assert "processes is 0" in message(bin_files, files, CAMERA, bin_factor=8, processes=0)
    assert "no flats" in message(bin_files, [], CAMERA)


@pytest.mark.parametrize("processes", [1, 2])
def test_damaged_file_is_named_whoever_read_it(tmp_path, files, processes):
    content = files[2].read_bytes()
    with fits.open(files[2]) as hdus:
        start = hdus["IMAGE"].fileinfo()["datLoc"]
    # the headers stay whole, the compressed pixels do not
    files[2].write_bytes(content[: start + 400] + b"\x55" * 4000 + content[start + 4400 :])
    assert read_flat_header(files[2], CAMERA)[0].id == 5
    with pytest.raises(InputError, match=r"5\.fits"):
        read_flat(files[2], CAMERA)
    assert "5.fits" in message(bin_files, files, CAMERA, bin_factor=8, processes=processes)


def test_interrupt_ends_the_work(files, monkeypatch):
    shut = []
    import concurrent.futures as futures

    class Pool(futures.ProcessPoolExecutor):
        def shutdown(self, *args, **kwargs):
            shut.append(kwargs)
            super().shutdown(*args, **kwargs)

    def interrupt():
        if not shut:
            interrupted.append(1)
            if len(interrupted) == 2:  # the first is the guider's, before the pool is there
                raise KeyboardInterrupt

    interrupted = []
    monkeypatch.setattr("bayesflat.processes.ProcessPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        bin_files(files, CAMERA, bin_factor=8, processes=2, progress=interrupt)
    assert shut == [{"cancel_futures": True}]
    assert len(interrupted) == 2
