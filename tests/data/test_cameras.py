"""Built-in cameras against published positions, groups of detectors, and cameras of LSST's code."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from bayesflat.data.camera import Camera, Detector, decam, get_camera, hsc, lsstcam, lsstcomcam
from tests.helpers import message

# ---- DECam ----

# columns of CCDs from left to right, each from the bottom (CTIO's map of the focal plane in pixel orientation; in the
# images' DETSEC, columns are 2048 pixels apart and rows 4096)
COLUMNS = (
    "S29 S30 S31", "S25 S26 S27 S28", "S20 S21 S22 S23 S24", "S14 S15 S16 S17 S18 S19", "S8 S9 S10 S11 S12 S13",
    "S1 S2 S3 S4 S5 S6 S7", "N1 N2 N3 N4 N5 N6 N7", "N8 N9 N10 N11 N12 N13", "N14 N15 N16 N17 N18 N19",
    "N20 N21 N22 N23 N24", "N25 N26 N27 N28", "N29 N30 N31",
)  # fmt: skip


def test_decam_is_where_the_nominal_map_has_it():
    camera, number = decam(), 0
    for column, names in enumerate(COLUMNS):
        for row, name in enumerate(names.split()):
            number += 1
            detector = camera[name]
            assert (detector.id, detector.purpose, detector.yaw) == (number, "science", pytest.approx(0, abs=0.11))
            # 2048 and 4096 pixels of 15 um with gaps of 3.0 and 2.3 mm (CTIO); cold and as measured, off by 0.5 mm
            x = (column - 5.5) * (2048 * 0.015 + 3.0)
            y = (row - (len(names.split()) - 1) / 2) * (4096 * 0.015 + 2.3)
            np.testing.assert_allclose((detector.x, detector.y), (x, y), atol=0.5)
            centre = detector.pixel_to_focal_plane(1023.5, 2047.5)
            np.testing.assert_allclose(centre, (detector.x, detector.y), atol=1e-12)
    assert number == len(camera.science()) == 62


@pytest.mark.parametrize(
    ("name", "number", "first", "last"),
    [  # obs_decam: N4 at (16.908, -0.018) turned by 0.003 degrees, S29 at (-185.592, -63.748) by -0.01, S7
        ("N4", 35, (1.548 + 0.0016, -30.738 - 0.0008), (32.268 - 0.0016, 30.702 + 0.0008)),
        ("S29", 1, (-200.952 - 0.0054, -94.468 + 0.0027), (-170.232 + 0.0054, -33.028 - 0.0027)),
        ("S7", 31, (-32.258 + 0.0123, 160.548 - 0.0062), (-1.538 - 0.0123, 221.988 + 0.0062)),
    ],
)  # fmt: skip
def test_decam_corners_by_hand(name, number, first, last):
    detector = decam()[number]
    assert detector is not decam()[name]  # every call makes a camera of its own
    assert detector == decam()[name]
    np.testing.assert_allclose(detector.corners()[[0, 2]], [first, last], rtol=0, atol=2e-4)


def test_decam_focus_and_guide_ccds():
    camera = decam()
    focus = {d.name: d.id for d in camera if d.purpose == "focus"}
    assert focus == {"FS3": 63, "FS4": 64, "FS2": 65, "FS1": 66, "FN1": 67, "FN2": 68, "FN3": 69, "FN4": 70}
    assert [d.id for d in camera if d.purpose == "guider"] == [71, 72, 73, 74]
    assert all((d.nx, d.ny) == (2048, 2048) for d in camera if not d.is_science)
    assert (camera["FN3"].x, camera["FN3"].y) == (219.804, 15.9725)


def test_decam_amplifiers():
    # two halves, left and right: 1024 columns each
    detector = decam()["N4"]
    np.testing.assert_array_equal(detector.amplifier([0, 1023, 1024, 2047], [0, 4095, 0, 4095]), [0, 0, 1, 1])


# ---- HSC ----


def test_hsc_counts_and_sizes():
    camera = hsc()
    assert [d.id for d in camera] == list(range(112))
    assert [d.id for d in camera if d.purpose == "focus"] == list(range(104, 112))
    assert all((d.nx, d.ny, d.pixel_size) == (2048, 4176, 0.015) for d in camera)
    np.testing.assert_array_equal(camera[49].amplifier([0, 511, 512, 1024, 2047], 7), [0, 0, 1, 2, 3])


def test_hsc_is_where_the_nominal_grid_has_it():
    # columns of 31.85 mm (30.72 and a gap of 1.1), counted from the middle one, which holds CCDs 46 to 53
    numbers = {7: [range(4)], 3: [range(22, 30)], 0: [range(46, 54)], -3: [range(70, 78)], -7: [range(96, 100)]}
    camera = hsc()
    for column, (ids,) in numbers.items():
        for row, detector in enumerate(camera[number] for number in ids):
            assert detector.x == pytest.approx(31.85 * column, abs=0.1)
            assert row == 0 or detector.y - camera[detector.id - 1].y == pytest.approx(65.5, abs=2.0)
            # CCDs of the left side and the lower half have pixel (0, 0) below and left, the others above and right
            upright = column < -3 or (abs(column) <= 3 and row < 4)
            corner = np.array(detector.pixel_to_focal_plane(0, 0)) - (detector.x, detector.y)
            np.testing.assert_allclose(corner, np.array((-15.35, -31.31)) * (1 if upright else -1), atol=0.05)
            assert upright or detector.name[0] == "1"


@pytest.mark.parametrize(
    ("number", "name", "pixel", "place"),
    [  # obs_subaru: offsets of 0.015 mm times the numbers there
        (49, "0_12", (1023.5, 2087.5), (0.0042, -28.8864)),
        (50, "1_12", (1023.5, 2087.5), (0.0105, 34.8822)),
        # turned by 90 and 270 degrees: 1024 pixels to the right are 15.36 mm up, or down
        (102, "0_35", (2047.5, 2087.5), (-143.8776 - 0.008, -214.35315 + 15.36)),
        (100, "0_31", (2047.5, 2087.5), (143.8239 - 0.003, -214.3374 - 15.36)),
        (111, "0_48", (-0.5, -0.5), (-254.79825 - 15.36, 102.1104 - 31.32)),
    ],
)
def test_hsc_places(number, name, pixel, place):
    detector = hsc()[number]
    assert detector.name == name
    np.testing.assert_allclose(detector.pixel_to_focal_plane(*pixel), place, rtol=0, atol=1e-3)


@pytest.mark.parametrize("make", [decam, hsc, lsstcomcam])
def test_no_two_detectors_overlap(make):
    corners = np.array([d.corners() for d in make()])
    low, high = corners.min(axis=1), corners.max(axis=1)
    gap = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(axis=-1)
    gap[np.diag_indices(len(gap))] = np.inf
    assert gap.min() > 0.9


def test_cameras_by_name(tmp_path):
    assert (get_camera("DECam").name, get_camera("hsc").name) == ("DECam", "HSC")
    decam().write(tmp_path / "c.ecsv")
    assert list(Camera.read(tmp_path / "c.ecsv")) == list(decam())


# ---- sizes ----


def test_scale():
    # S7's outer corner, (-32.246, 221.994) by hand above: 224.3 mm, where LSSTCam's light ends at 350
    assert decam().radius == pytest.approx(np.hypot(32.2702, 221.9818), abs=1e-3)
    assert decam().scale == pytest.approx(224.315 / 350, abs=1e-5)
    # a part, and coarser pixels, which end earlier, are still of that camera
    assert decam().subset([35]).scale == decam().coarsened(9).scale == decam().scale
    assert lsstcam().scale == lsstcam().subset([94]).scale == 1.0
    # raft R22: 62.6 mm along x, 62.26 along y
    assert lsstcomcam().scale == pytest.approx(np.hypot(62.62, 62.26) / 350, abs=1e-12)
    own = Camera("Own", [Detector(1, "A", "CCD", "science", 30.0, 40.0, 0.0, 1, 1, 1e-9, 0.0, 0.0)])
    assert own.scale == pytest.approx(50 / 350, abs=1e-9)


# ---- groups ----


def two_groups(*groups, **first):
    """A camera of detectors with these groups, in a row."""
    detectors = [
        Detector(k, f"D{k}", "CCD", "science", 10.0 * k, 0.0, 0.0, 90, 90, 0.1, 44.5, 44.5, group=group)
        for k, group in enumerate(groups)
    ]
    return Camera("Own", [replace(detectors[0], **first), *detectors[1:]])


def test_a_column_makes_two_groups(tmp_path):
    camera = two_groups("thin", "deep", "thin")
    assert [d.is_itl for d in camera] == [False, True, False]  # the first in the alphabet
    camera.write(tmp_path / "c.ecsv")
    assert Table.read(tmp_path / "c.ecsv")["group"].tolist() == ["thin", "deep", "thin"]
    assert list(Camera.read(tmp_path / "c.ecsv")) == list(camera)
    # parts keep what the whole camera has set
    assert [d.is_itl for d in camera.subset([1])] == [True]
    assert [d.is_itl for d in camera.coarsened(2).subset([0, 2])] == [False, False]


def test_itl_is_first_whatever_the_alphabet_says():
    assert [d.is_itl for d in two_groups("ITL", "E2V")] == [True, False]
    # a group beats the physical type
    assert [d.is_itl for d in two_groups("deep", "thin", physical_type="ITL")] == [True, False]
    assert [d.is_itl for d in two_groups("thin", "deep", physical_type="ITL")] == [False, True]


def test_one_group_and_none():
    assert [d.is_itl for d in two_groups("deep", "deep")] == [False, False]
    assert [d.is_itl for d in two_groups("", "", physical_type="ITL 3800")] == [True, False]


def test_groups_that_do_not_make_two():
    assert message(two_groups, "a", "b", "c") == "camera Own: the groups are a, b, c; at most two can be told apart"
    assert message(two_groups, "a", "") == "camera Own: detector 1 (D1) has no group; others have"
    # a guider needs none
    assert len(two_groups("", "a", purpose="guider")) == 2


# ---- LSST's code ----


class Pair:
    """A point, or an extent."""

    def __init__(self, x, y):
        self._x, self._y = x, y

    def getX(self):
        return self._x

    def getY(self):
        return self._y


def box(x0, y0, nx, ny):
    of = {"getMinX": x0, "getMinY": y0, "getWidth": nx, "getHeight": ny}
    return SimpleNamespace(**{name: (lambda value=value: value) for name, value in of.items()})


def stand_in(d, **changes):
    """A detector with the methods of LSST's."""
    step_x, step_y = d.nx // d.amp_nx, d.ny // d.amp_ny
    boxes = [box(i * step_x, j * step_y, step_x, step_y) for j in range(d.amp_ny) for i in range(d.amp_nx)]
    orientation = SimpleNamespace(
        getFpPosition=lambda: Pair(d.x, d.y),
        getReferencePoint=lambda: Pair(d.refpos_x, d.refpos_y),
        getYaw=lambda: SimpleNamespace(asDegrees=lambda: d.yaw),
    )
    of = {
        "getId": d.id, "getName": d.name, "getPhysicalType": d.physical_type,
        "getType": f"DetectorType.{d.purpose.upper()}", "getBBox": box(0, 0, d.nx, d.ny),
        "getPixelSize": Pair(d.pixel_size, d.pixel_size), "getOrientation": orientation,
        "getAmplifiers": [SimpleNamespace(getBBox=lambda one=one: one) for one in boxes],
    } | changes  # fmt: skip
    return SimpleNamespace(**{name: (lambda value=value: value) for name, value in of.items()})


class LsstCamera(list):
    def getName(self):
        return "LSSTCam"


def test_a_camera_of_lsst_code_is_the_same():
    ours = lsstcam()
    theirs = Camera.from_lsst(LsstCamera(stand_in(d) for d in ours))
    assert theirs.name == "LSSTCam"
    assert list(theirs) == list(ours)
    assert list(Camera.from_lsst(LsstCamera(map(stand_in, hsc())))) == list(hsc())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"getBBox": box(5, 0, 4096, 4004)}, "its pixels are counted from (5, 0); (0, 0) is accepted"),
        ({"getPixelSize": Pair(0.01, 0.015)}, "pixels of 0.01 x 0.015 mm; they must be square"),
        (
            {"getAmplifiers": [SimpleNamespace(getBBox=lambda: box(0, 0, 3000, 4004)),
                               SimpleNamespace(getBBox=lambda: box(3000, 0, 1096, 4004))]},
            "its 2 amplifiers do not divide 4096 x 4004 pixels evenly in columns and rows",
        ),
    ],
)  # fmt: skip
def test_what_lsst_cameras_must_be_like(changes, expected):
    camera = LsstCamera([stand_in(lsstcam()["R22_S11"], **changes)])
    assert message(Camera.from_lsst, camera) == f"detector R22_S11: {expected}"


def test_a_detector_without_amplifiers_has_one():
    camera = Camera.from_lsst(LsstCamera([stand_in(lsstcam()[94], getAmplifiers=[])]))
    assert (camera[94].amp_nx, camera[94].amp_ny) == (1, 1)


def test_something_else_than_a_camera():
    assert message(Camera.from_lsst, [1, 2]).startswith("list: no camera as lsst.afw.cameraGeom has them (")
