"""Headers as instruments write them: detector, filter and instrument come out, or what is wrong is said."""

import logging
import os

import numpy as np
import pytest
from astropy.io import fits

from bayesflat.data.binning import bin_files
from bayesflat.data.camera import Camera, Detector, decam, hsc, lsstcam, lsstcomcam
from bayesflat.data.flats import find_flats, read_flat_header, read_flats
from bayesflat.data.headers import check_instrument
from bayesflat.data.instruments import INSTRUMENTS, instruments_called, usual_name
from tests.helpers import complaint, message
from tests.mosaics import FILTER, SHAPE


def small(camera, keys):
    """Some detectors of a camera with few pixels."""
    return Camera(camera.name, [camera[key].coarsened(64) for key in keys])


def table(name, detectors):
    return Camera(name, [Detector(k, n, "X", "science", 40.0 * k, 0.0, 0.0, **SHAPE) for k, n in detectors])


def single(path, camera, key, cards, own=(), name=None):
    """A file of one detector: cards of the primary header, and those of the image where it is an extension."""
    detector = camera[key]
    data = np.ones((detector.ny, detector.nx), np.float32)
    header = fits.Header()
    for keyword, value in cards.items():
        header[f"HIERARCH {keyword}" if " " in keyword else keyword] = value
    if not own and name is None:
        fits.PrimaryHDU(data, header).writeto(path)
        return path
    image = fits.ImageHDU(data, name=name)
    for keyword, value in dict(own).items():
        image.header[f"HIERARCH {keyword}" if " " in keyword else keyword] = value
    fits.HDUList([fits.PrimaryHDU(header=header), image]).writeto(path)
    return path


DECAM = small(decam(), ["S29", "N31", "FS3"])
HSC = small(hsc(), [0, 42, 103])
LSST = small(lsstcam(), ["R01_S12", "R22_S11"])
COMCAM = small(lsstcomcam(), range(9))
MEGAPRIME = table("MegaPrime", [(0, "ccd00"), (35, "ccd35")])
OMEGACAM = table("OmegaCAM", [(65, "ESO_CCD_#65"), (96, "ESO_CCD_#96")])
KMTNET = table("KMTNet", [(1, "K"), (2, "M"), (3, "T"), (4, "N")])
SERIAL = {"DETECTOR": "S3-06_123195-15-3"}

HEADERS = {
    "DECam": (DECAM, "N31", {"INSTRUME": "DECam", "FILTER": FILTER}, {**SERIAL, "CCDNUM": 62, "DETPOS": "N31"}),
    "DECam in lower case, position alone": (DECAM, "N31", {"INSTRUME": "decam", "FILTER": FILTER}, {"DETPOS": "N31"}),
    "DECam, stale cards": (
        DECAM, "S29", {"INSTRUME": "DECam", "FILTER": "old", "CCDNUM": 62, "DETPOS": "N31", **SERIAL},
        {"FILTER": FILTER, "CCDNUM": 1, "DETPOS": "S29", "DATASEC": "[57:2104,51:4146]", "NEXTEND": 70},
    ),
    "DECam from LSST's pipelines": (
        DECAM, "N31",
        {"LSST BUTLER DATAID DETECTOR": 62, "LSST BUTLER DATAID PHYSICAL_FILTER": FILTER, "INSTRUME": "DECam",
         "CCDNUM": 1, **SERIAL},
        {},
    ),
    "HSC": (HSC, 42, {"INSTRUME": "Hyper Suprime-Cam", "FILTER01": "HSC-g", "DET-ID": 42, "T_CCDSN": "088"}, {}),
    "HSC from LSST's pipelines": (
        HSC, 42,
        {"LSST BUTLER DATAID INSTRUMENT": "HSC", "LSST BUTLER DATAID DETECTOR": 42,
         "LSST BUTLER DATAID PHYSICAL_FILTER": "HSC-G", "INSTRUME": "Hyper Suprime-Cam", "FILTER01": "HSC-g"},
        {},
    ),
    "LSSTCam, raft and slot": (
        LSST, "R22_S11", {"INSTRUME": "lsstCam", "FILTER": "i_39", "RAFTBAY": "R22", "CCDSLOT": "S11"}, {},
    ),
    "ComCam": (COMCAM, 5, {"INSTRUME": "comCam", "FILTER": "i_06", "RAFTBAY": "R22", "CCDSLOT": "S12"}, {}),
    "MegaPrime": (
        MEGAPRIME, 35, {"INSTRUME": "MegaPrime", "FILTER": "r.MP9601", "DETECTOR": "MegaCam"}, {"EXTNAME": "ccd35"},
    ),
    "OmegaCAM": (
        OMEGACAM, 96, {"INSTRUME": "OMEGACAM", "ESO INS FILT1 NAME": "r_SDSS", "ESO INS FILT1 ID": "ESO#844"},
        {"EXTNAME": "ESO_CCD_#96", "ESO DET CHIP1 ID": "ESO_CCD_#96"},
    ),
    "OmegaCAM without EXTNAME": (
        OMEGACAM, 96, {"INSTRUME": "OMEGACAM", "ESO INS FILT1 NAME": "r_SDSS"}, {"ESO DET CHIP ID": "ESO_CCD_#96"},
    ),
    "KMTNet": (KMTNET, "T", {"INSTRUME": "KMTS", "FILTER": "V"}, {"EXTNAME": "T"}),
}  # fmt: skip
FILTERS = {"DECam": FILTER, "HSC": "HSC-G", "LSSTCam": "i_39", "LSSTComCam": "i_06", "MegaPrime": "r.MP9601",
           "OmegaCAM": "r_SDSS", "KMTNet": "V"}  # fmt: skip


@pytest.mark.parametrize("style", HEADERS)
def test_headers_as_instruments_write_them(tmp_path, style):
    camera, key, cards, own = HEADERS[style]
    path = single(tmp_path / "flat.fits", camera, key, cards, own)
    assert read_flat_header(path, camera) == (camera[key], FILTERS[camera.name], camera.name)
    if own:  # the same as one of several
        with fits.open(path) as hdus:
            image, header = hdus[1].copy(), hdus[0].header.copy()
        other = next(d for d in camera if d.is_science and d.id != camera[key].id)
        second = fits.ImageHDU(np.ones((other.ny, other.nx), np.float32), name=other.name)
        fits.HDUList([fits.PrimaryHDU(header=header), second, image]).writeto(tmp_path / "several.fits")
        found = {flat.detector.id: flat for flat in read_flats(tmp_path / "several.fits", camera)}
        assert set(found) == {other.id, camera[key].id}
        assert found[camera[key].id].physical_filter == FILTERS[camera.name]


def test_filters_with_blanks_tildes_and_other_signs(tmp_path):
    for k, name in enumerate((FILTER, "SDSSr_65mm~empty", "empty~g_6", "W-S-I+", "r.MP9601", "a,b", "#5")):
        path = single(tmp_path / f"{k}.fits", KMTNET, "K", {"FILTER": name, "DETECTOR": 1})
        assert read_flat_header(path, KMTNET)[1] == name
        assert read_flat_header(path, KMTNET, name)[1] == name
        assert f"FILTER is {name}, but --physical-filter is other" in message(read_flat_header, path, KMTNET, "other")


def test_long_values(tmp_path):
    """HIERARCH cards whose value goes on in CONTINUE, as cfitsio writes them."""
    path = single(tmp_path / "x.fits", KMTNET, "K", {"DETECTOR": 1, "FILTER": "V"})
    name = "a filter with a name that is much too long for one card, and even for the next one after it, as some are"
    lines = [f"HIERARCH ESO INS FILT1 NAME = '{name[:40]}&'", f"CONTINUE  '{name[40:90]}&'", f"CONTINUE  '{name[90:]}'"]
    content = path.read_bytes()
    odd = b"".join(line.ljust(80).encode() for line in (*lines, "END"))
    path.write_bytes(content.replace(b"END".ljust(80 * 4), odd, 1))
    (flat,) = read_flats(path, KMTNET, filter_key="ESO INS FILT1 NAME")
    assert flat.physical_filter == name


def test_keys_that_the_user_names(tmp_path):
    cards = {"DETECTOR": 1, "CHIP": 3, "FILTER": "V", "BAND": "R"}
    path = single(tmp_path / "x_K_.fits", KMTNET, "K", cards)
    (flat,) = read_flats(path, KMTNET, detector_key="CHIP", filter_key="BAND")
    assert (flat.detector.name, flat.physical_filter) == ("T", "R")

    def read(**keys):
        return list(read_flats(path, KMTNET, **keys))

    assert "no card CCD (--detector-key) that names a detector of KMTNet" in message(read, detector_key="CCD")
    assert "no card FILT (--filter-key) in the headers" in message(read, filter_key="FILT")
    assert "BAND is R, camera KMTNet has no such detector" in message(read, detector_key="BAND")
    assert list(bin_files([path], KMTNET, bin_factor=25, detector_boundary=0, detector_key="CHIP").detector) == [3] * 4


def test_the_only_detector_of_a_camera_needs_no_name(tmp_path):
    camera = table("OneCCD", [(1, "the one")])
    path = single(tmp_path / "x.fits", camera, 1, {"FILTER": "V"})
    assert read_flat_header(path, camera)[0].id == 1


# ---- instruments ----


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("LSSTComCam", "LSSTComCam"), ("ComCam", "LSSTComCam"), ("comCam", "LSSTComCam"), ("lsstCam", "LSSTCam"),
        ("hyper suprime-cam", "HSC"), ("DECAM", "DECam"), ("OMEGACAM", "OmegaCAM"), ("Other", "Other"), ("", ""),
        ("LSST_CAMERA", "LSST_CAMERA"),  # of two instruments
    ],
)  # fmt: skip
def test_aliases(name, usual):
    assert usual_name(name) == usual


def test_names_are_those_of_one_instrument_but_for_lab_data():
    names = {name for one in INSTRUMENTS for name in (one.name, *one.aliases)}
    assert {name for name in names if len(instruments_called(name)) > 1} == {"LSST_CAMERA"}


@pytest.mark.parametrize("name", ["LSSTComCam", "ComCam", "comCam", "HSC", "Hyper Suprime-Cam", "LATISS", "DECam"])
def test_another_cameras_flat_is_refused(tmp_path, name):
    """LSSTCam has a detector 5 too."""
    path = single(tmp_path / "x.fits", LSST, "R01_S12", {"INSTRUME": name, "FILTER": "i_39", "DETECTOR": 5})
    assert f"x.fits: is of {name}, the camera is LSSTCam" in message(read_flat_header, path, LSST)


def test_a_camera_that_is_known_by_name_only_says_which(tmp_path):
    assert "--camera lsstcomcam takes it" in message(check_instrument, "comCam", LSST, "x")
    assert "--camera hsc takes it" in message(check_instrument, "Hyper Suprime-Cam", DECAM, "x")
    assert "give --camera its table" in message(check_instrument, "OMEGACAM", DECAM, "x")
    check_instrument("LSST_CAMERA", LSST, "x")
    check_instrument("LSST_CAMERA", COMCAM, "x")
    check_instrument("whatever", table("Own", [(1, "A")]), "x")


def test_a_filter_that_the_camera_does_not_have_is_said(tmp_path, caplog):
    for name, said in (("i_39", False), ("empty~g_6", False), ("i_40", True)):
        caplog.clear()
        path = single(
            tmp_path / f"{name}.fits", LSST, "R01_S12", {"FILTER": name, "DETECTOR": 5, "INSTRUME": "LSSTCam"}
        )
        with caplog.at_level(logging.WARNING):
            bin_files([path], LSST, bin_factor=10, detector_boundary=0)
        assert (f"filter {name} is none of LSSTCam that is known; it has u_24" in caplog.text) == said
    path = single(tmp_path / "g.fits", DECAM, "S29", {"FILTER": "g", "CCDNUM": 1, "INSTRUME": "DECam"})
    caplog.clear()
    bin_files([path], DECAM, bin_factor=10, detector_boundary=0)
    assert "filter g is none of DECam that is known" in caplog.text


# ---- which files ----


def test_a_flat_that_links_lead_to_is_one(tmp_path):
    cards = {"FILTER": FILTER, "CCDNUM": 1, "INSTRUME": "DECam"}
    path = single(tmp_path / "a.fits", DECAM, "S29", cards)
    os.symlink(path, tmp_path / "b.fits")
    os.symlink(tmp_path, tmp_path / "again")
    assert find_flats([tmp_path, tmp_path / "again", f"{tmp_path}/*.fits"]) == [path]
    binned = bin_files(find_flats([tmp_path]), DECAM, bin_factor=10, detector_boundary=0)
    assert set(binned.detector) == {1}
    os.link(path, tmp_path / "c.fits")
    text = message(bin_files, find_flats([tmp_path]), DECAM, bin_factor=10)
    assert "c.fits: detector 1 (S29) is also in" in text


def test_keys_do_not_go_with_a_repository(tmp_path, capsys):
    for command in ("fit", "apply"):
        for option in ("--detector-key", "--filter-key"):
            arguments = [command, "--butler", tmp_path, "--collections", "x", "-o", tmp_path / "out", option, "KEY"]
            assert f"{option}: with --butler, data ids say" in complaint(arguments, capsys)


def test_a_camera_of_another_name_is_said_once(tmp_path, caplog):
    path = single(tmp_path / "x.fits", KMTNET, "K", {"DETECTOR": 1, "FILTER": "V", "INSTRUME": "KMTS"})
    for name, said in (("kmtnet", 0), ("mine", 1)):
        caplog.clear()
        bin_files([path], Camera(name, list(KMTNET)), bin_factor=10)
        assert caplog.text.count("is of KMTNet, the camera is mine") == said
