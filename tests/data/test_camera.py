"""Cameras: LSSTCam's geometry by hand, rotations, amplifiers and coarser pixels."""

from dataclasses import asdict

import numpy as np
import pytest

from bayesflat.data.camera import Camera, Detector, lsstcam, lsstcomcam
from tests.data.detectors import TILTED
from tests.helpers import message

CAMERA = lsstcam()

# id, name, physical type, purpose, x, y (mm), yaw (degrees): the corner rafts of LSSTCam
CORNERS = [
    (189, "R00_SG0", "ITL_G", "guider", -212.24, -258.74, 90),
    (190, "R00_SG1", "ITL_G", "guider", -258.74, -212.24, 180),
    (191, "R00_SW0", "ITL_WF", "wavefront", -214.25, -202.625, 180),
    (192, "R00_SW1", "ITL_WF", "wavefront", -214.25, -225.875, 0),
    (193, "R04_SG0", "ITL_G", "guider", 258.74, -212.24, 180),
    (194, "R04_SG1", "ITL_G", "guider", 212.24, -258.74, 270),
    (195, "R04_SW0", "ITL_WF", "wavefront", 202.625, -214.25, 270),
    (196, "R04_SW1", "ITL_WF", "wavefront", 225.875, -214.25, 90),
    (197, "R40_SG0", "ITL_G", "guider", -258.74, 212.24, 0),
    (198, "R40_SG1", "ITL_G", "guider", -212.24, 258.74, 90),
    (199, "R40_SW0", "ITL_WF", "wavefront", -202.625, 214.25, 90),
    (200, "R40_SW1", "ITL_WF", "wavefront", -225.875, 214.25, 270),
    (201, "R44_SG0", "ITL_G", "guider", 212.24, 258.74, 270),
    (202, "R44_SG1", "ITL_G", "guider", 258.74, 212.24, 0),
    (203, "R44_SW0", "ITL_WF", "wavefront", 214.25, 202.625, 0),
    (204, "R44_SW1", "ITL_WF", "wavefront", 214.25, 225.875, 180),
]


# ---- where LSSTCam's detectors are ----


@pytest.mark.parametrize(
    ("number", "name", "kind", "first", "last"),
    # pixel (0, 0)'s outer corner is pixel position (-0.5, -0.5); the other one (nx - 0.5, ny - 0.5)
    [
        # E2V, 4096 x 4004, reference pixel (2047.5, 2001.5): 20.48 and 20.02 mm to either side
        (94, "R22_S11", "E2V", (-20.48, -20.02), (20.48, 20.02)),
        # raft at (254, -127), CCD one column to the right of its middle: (296.25, -127)
        (68, "R14_S12", "E2V", (275.77, -147.02), (316.73, -106.98)),
        # ITL, 4072 x 4000, reference pixel (2036.5, 2000.5): 20.37, 20.01 mm before it and 20.35, 19.99 mm behind;
        # the raft at (-127, -254), the CCD at (-169.25, -296.25)
        (0, "R01_S00", "ITL", (-189.62, -316.26), (-148.90, -276.26)),
        # raft at (127, 254), CCD at (169.25, 296.25)
        (188, "R43_S22", "ITL", (148.88, 276.24), (189.60, 316.24)),
        # raft at (-254, 0), CCD (-254 - 42.25, 0 + 42.25)
        (78, "R20_S20", "ITL", (-316.62, 22.24), (-275.90, 62.24)),
        # guider, yaw 90 turns (u, v) into (-v, u): (-20.37, -20.01) into (20.01, -20.37), (20.35, 19.99) into ...
        (189, "R00_SG0", "ITL_G", (-192.23, -279.11), (-232.23, -238.39)),
        # wavefront, 4072 x 2000, reference pixel (2036.5, 1000.5), yaw 180: (u, v) into (-u, -v)
        (191, "R00_SW0", "ITL_WF", (-193.88, -192.615), (-234.60, -212.615)),
        # yaw 270: (u, v) into (v, -u)
        (195, "R04_SW0", "ITL_WF", (192.615, -193.88), (212.615, -234.60)),
        # yaw 0
        (202, "R44_SG1", "ITL_G", (238.37, 192.23), (279.09, 232.23)),
    ],
)
def test_corners_by_hand(number, name, kind, first, last):
    detector = CAMERA[number]
    assert detector is CAMERA[name]
    assert (detector.id, detector.name, detector.physical_type) == (number, name, kind)
    np.testing.assert_allclose(detector.pixel_to_focal_plane(-0.5, -0.5), first, rtol=0, atol=1e-10)
    end = detector.pixel_to_focal_plane(detector.nx - 0.5, detector.ny - 0.5)
    np.testing.assert_allclose(end, last, rtol=0, atol=1e-10)
    np.testing.assert_allclose(detector.corners()[[0, 2]], [first, last], rtol=0, atol=1e-10)


def test_every_science_detector():
    number = 0
    for i in range(5):
        for j in range(5):
            if {i, j} <= {0, 4}:
                continue
            for slot in range(9):
                a, b = divmod(slot, 3)
                detector = CAMERA[number]
                itl = f"R{i}{j}" in "R01 R02 R03 R10 R20 R41 R42 R43"
                assert detector.name == f"R{i}{j}_S{a}{b}"
                assert (detector.x, detector.y) == (
                    127.0 * (j - 2) + 42.25 * (b - 1),
                    127.0 * (i - 2) + 42.25 * (a - 1),
                )
                assert detector.yaw == 0
                assert detector.is_science
                assert detector.is_itl == itl
                assert (detector.nx, detector.ny) == ((4072, 4000) if itl else (4096, 4004))
                number += 1
    assert number == 189


def test_counts():
    assert len(CAMERA) == 205
    assert sorted(d.id for d in CAMERA) == list(range(205))
    science = CAMERA.science()
    assert len(science) == 189
    assert sum(d.physical_type == "ITL" for d in science) == sum(d.is_itl for d in science) == 72
    assert sum(d.physical_type == "E2V" for d in science) == 117
    assert [sum(d.purpose == p for d in CAMERA) for p in ("guider", "wavefront")] == [8, 8]


@pytest.mark.parametrize("corner", CORNERS, ids=lambda c: c[1])
def test_corner_rafts(corner):
    number, _, kind, _, x, y, yaw = corner
    d = CAMERA[number]
    assert (d.id, d.name, d.physical_type, d.purpose, d.x, d.y, d.yaw) == corner
    assert d.is_itl
    assert not d.is_science
    wavefront = kind == "ITL_WF"
    assert (d.nx, d.ny, d.amp_nx, d.amp_ny) == ((4072, 2000, 8, 1) if wavefront else (4072, 4000, 8, 2))
    # the same turn as a complex number; 10 um pixels
    px, py = np.array([0, 4071, 17.25]), np.array([3, 1999, 812.5])
    turned = x + 1j * y + (px - 2036.5 + 1j * (py - (1000.5 if wavefront else 2000.5))) * 0.01 * 1j ** (yaw // 90)
    xf, yf = d.pixel_to_focal_plane(px, py)
    np.testing.assert_allclose(xf + 1j * yf, turned, rtol=0, atol=1e-10)


def test_no_two_detectors_overlap():
    corners = np.array([d.corners() for d in CAMERA])
    low, high = corners.min(axis=1), corners.max(axis=1)
    gap = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(axis=-1)
    gap[np.diag_indices(len(gap))] = np.inf
    assert gap.min() > 0
    # the CCDs of a raft stand 42.25 mm apart, E2V ones are 40.96 mm wide
    assert gap[94, 95] == pytest.approx(1.29, abs=1e-10)


def test_corner_rafts_are_one_raft_turned():
    # R00 turned by 90 degrees is R04, then R44, R40
    for number, turned, then in zip(range(189, 193), (193, 194, 195, 196), (201, 202, 203, 204), strict=True):
        here, there, opposite = CAMERA[number], CAMERA[turned], CAMERA[then]
        assert (there.x, there.y, there.yaw) == (-here.y, here.x, (here.yaw + 90) % 360)
        assert (opposite.x, opposite.y, opposite.yaw) == (-here.x, -here.y, (here.yaw + 180) % 360)


def test_comcam():
    camera = lsstcomcam()
    assert [(d.id, d.name) for d in camera] == [(3 * a + b, f"R22_S{a}{b}") for a in range(3) for b in range(3)]
    assert [(d.x, d.y) for d in camera] == [(42.25 * b, 42.25 * a) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    assert all(d.is_itl and d.is_science and d.nx == 4072 and d.yaw == 0 for d in camera)
    np.testing.assert_allclose(camera["R22_S20"].pixel_to_focal_plane(-0.5, -0.5), (-62.62, 22.24), atol=1e-10)


# ---- rotations ----


def test_arbitrary_yaw_by_hand():
    # 30 degrees: cos = sqrt(3)/2, sin = 1/2; pixel (14, 8) is (0.4, 0.3) mm from the reference pixel
    detector = Detector(1, "A", "E2V", "science", 5.0, -2.0, 30.0, 20, 10, 0.1, 10.0, 5.0)
    xf, yf = detector.pixel_to_focal_plane(14, 8)
    assert xf == pytest.approx(5 + 0.4 * np.sqrt(0.75) - 0.3 * 0.5, abs=1e-13)
    assert yf == pytest.approx(-2 + 0.4 * 0.5 + 0.3 * np.sqrt(0.75), abs=1e-13)
    assert detector.pixel_to_focal_plane(10, 5) == (5.0, -2.0)


@pytest.mark.parametrize("yaw", [0, 90, 180, 270, 360, -90, 450, 37, -12.5, 1e-3, 300.2])
def test_inverse(yaw):
    detector = Detector(1, "A", "E2V", "science", -101.3, 55.0, float(yaw), 400, 240, 0.02, 197.5, 121.0)
    px, py = np.meshgrid(np.linspace(-5, 405, 23), np.linspace(-5, 245, 17))
    xf, yf = detector.pixel_to_focal_plane(px, py)
    angle = np.deg2rad(yaw)
    expected = -101.3 + 55.0j + (px - 197.5 + 1j * (py - 121.0)) * 0.02 * np.exp(1j * angle)
    np.testing.assert_allclose(xf + 1j * yf, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(detector.focal_plane_to_pixel(xf, yf), (px, py), rtol=0, atol=1e-9)


def test_quarter_turns_are_exact():
    # a cosine of 6e-17 would show where a position is a difference of large numbers
    detector = Detector(1, "A", "E2V", "science", 0.0, 0.0, 270.0, 400, 240, 1.0, 0.0, 0.0)
    assert detector.pixel_to_focal_plane(1e6, 0) == (0.0, -1e6)
    assert detector.focal_plane_to_pixel(0, 1e6) == (-1e6, 0.0)


# ---- amplifiers ----


@pytest.mark.parametrize(
    ("name", "px", "py", "expected"),
    [
        # E2V: 512 columns and 2002 rows each
        ("R22_S11", 0, 0, 0),
        ("R22_S11", 511, 2001, 0),
        ("R22_S11", 512, 2001, 1),
        ("R22_S11", 511.4, 0, 0),
        ("R22_S11", 511.5, 0, 1),
        ("R22_S11", 3583, 0, 6),
        ("R22_S11", 3584, 0, 7),
        ("R22_S11", 4095, 2001, 7),
        ("R22_S11", 0, 2002, 8),
        ("R22_S11", 1500, 2002, 10),
        ("R22_S11", 4095, 4003, 15),
        # ITL: 509 columns and 2000 rows
        ("R01_S00", 508, 1999, 0),
        ("R01_S00", 509, 1999, 1),
        ("R01_S00", 511, 0, 1),
        ("R01_S00", 1017, 0, 1),
        ("R01_S00", 1018, 2000, 10),
        ("R01_S00", 4071, 3999, 15),
        # wavefront: one row of eight
        ("R00_SW0", 508, 0, 0),
        ("R00_SW0", 509, 1999, 1),
        ("R00_SW0", 4071, 1999, 7),
        # beyond the edge: the amplifier at that edge
        ("R22_S11", -40, -1, 0),
        ("R22_S11", 5000, -1, 7),
        ("R22_S11", 5000, 5000, 15),
    ],
)
def test_amplifier(name, px, py, expected):
    assert CAMERA[name].amplifier(px, py) == expected


def test_amplifiers_of_a_128_pixel_bin_belong_to_its_centre():
    # bins start at 10: the fourth covers 394..521 (centre 457.5), the fifth 522..649; ITL's amplifier ends at 508
    centres = 10 + 128 * np.arange(5) + 63.5
    np.testing.assert_array_equal(CAMERA["R01_S00"].amplifier(centres, 73.5), [0, 0, 0, 0, 1])


def test_number_of_amplifiers():
    assert [CAMERA[n].n_amplifiers for n in ("R22_S11", "R01_S00", "R00_SG0", "R00_SW1")] == [16, 16, 16, 8]
    # 4 columns of 100 pixels, 3 rows of 80
    assert TILTED.n_amplifiers == 12
    np.testing.assert_array_equal(TILTED.amplifier([0, 99, 100, 399, 399], [0, 79, 80, 159, 160]), [0, 0, 5, 7, 11])


# ---- coarser pixels ----


@pytest.mark.parametrize("factor", [1, 2, 7, 16])
@pytest.mark.parametrize("detector", [TILTED, CAMERA["R22_S11"], CAMERA["R04_SW1"]], ids=lambda d: d.name)
def test_coarse_pixels_lie_where_their_blocks_do(detector, factor):
    coarse = detector.coarsened(factor)
    assert (coarse.nx, coarse.ny) == (detector.nx // factor, detector.ny // factor)
    assert coarse.pixel_size == pytest.approx(factor * detector.pixel_size, rel=1e-15)
    for column, row in [(0, 0), (3, 5), (coarse.nx - 1, coarse.ny - 1)]:
        pixels = np.arange(factor)
        block = detector.pixel_to_focal_plane(*np.meshgrid(column * factor + pixels, row * factor + pixels))
        expected = [np.mean(block[0]), np.mean(block[1])]
        np.testing.assert_allclose(coarse.pixel_to_focal_plane(column, row), expected, rtol=0, atol=1e-10)
    # the corner of pixel (0, 0) stays where it was
    np.testing.assert_allclose(coarse.corners()[0], detector.corners()[0], rtol=0, atol=1e-10)
    kept = set(asdict(coarse)) - {"nx", "ny", "pixel_size", "refpos_x", "refpos_y"}
    assert {k: asdict(coarse)[k] for k in kept} == {k: asdict(detector)[k] for k in kept}


def test_coarse_camera():
    camera = CAMERA.coarsened(8)
    assert (camera.name, len(camera)) == ("LSSTCam", 205)
    assert camera["R22_S11"] == CAMERA["R22_S11"].coarsened(8)
    assert camera["R22_S11"].nx == 512


@pytest.mark.parametrize("factor", [0, -1, 241])
def test_coarsening_that_does_not_fit(factor):
    assert (
        message(TILTED.coarsened, factor) == f"coarsening factor {factor} does not fit detector T7 of 400 x 240 pixels"
    )


# ---- a camera as a set ----


def test_membership_and_subset():
    assert 94 in CAMERA
    assert "R22_S11" in CAMERA
    assert 205 not in CAMERA
    assert "R22_S33" not in CAMERA
    assert [d.id for d in CAMERA.subset(["R22_S11", 3])] == [94, 3]


def test_unknown_detector():
    text = message(CAMERA.__getitem__, 205)
    assert text == "camera LSSTCam has no detector 205; it has 205, ids 0 to 204, names R01_S00 ..."
    assert "no detector R99_S00" in message(CAMERA.__getitem__, "R99_S00")


@pytest.mark.parametrize(("number", "name"), [(7, "other"), (8, "T7")])
def test_two_detectors_of_one_id_or_name(number, name):
    other = Detector(**{**asdict(TILTED), "id": number, "name": name})
    assert message(Camera, "Toy", [TILTED, other]) == f"camera Toy: detector {number} ({name}) is there twice"


def test_no_detectors():
    assert message(Camera, "Toy", []) == "camera Toy has no detectors"
