"""What instruments are called, and which header cards of theirs name detector and filter: one table.

astro_metadata_translator, which knows such things too, was not taken: it translates headers of raw exposures, lacks
LSST's own cameras, OmegaCAM and KMTNet, does not say what the HDUs of a processed file hold, and needs lsst-utils and
lsst-resources.  What it and LSST's obs packages say of DECam, HSC and MegaPrime is what stands here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# cards that LSST's pipelines write, for every instrument; they go first
LSST_DETECTOR = "LSST BUTLER DATAID DETECTOR"
LSST_FILTER = "LSST BUTLER DATAID PHYSICAL_FILTER"
LSST_INSTRUMENT = "LSST BUTLER DATAID INSTRUMENT"
INSTRUMENT_KEYS = (LSST_INSTRUMENT, "INSTRUME")

# cards of instruments that are not in the table, and of known ones behind their own.
# DETECTOR_ID, FILTER_ID and ARCHIVE_ID_* look alike but number the archive HDUs: never read them
DETECTOR_KEYS = ("DETNAME", "DETECTOR", "DET-ID", "CCDNUM", "DETPOS", "RAFTBAY+CCDSLOT")
FILTER_KEYS = ("FILTER",)
LAST_RESORT = "EXTNAME"


@dataclass(frozen=True)
class Instrument:
    """What one instrument writes into its headers.

    Attributes
    ----------
    name : str
        As LSST's data ids have it.
    aliases : tuple of str
        Other names in ``INSTRUME``; letter case, blanks and punctuation never matter.
    detector_keys : tuple of str
        Cards that hold a detector's id (a number) or name (text), the best first. ``A+B`` joins two with an underscore.
    filter_keys : tuple of str
        Cards that hold the physical filter, the best first.
    filters : tuple of str
        Physical filters that it has, where known.
    upper_case : bool
        Whether headers write filters in any letter case, and data ids in upper case.
    not_science : str
        Regular expression for the names of HDUs that hold no science detector.
    """

    name: str
    aliases: tuple[str, ...] = ()
    detector_keys: tuple[str, ...] = ()
    filter_keys: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    upper_case: bool = False
    not_science: str = ""

    def is_called(self, name: str) -> bool:
        """Whether a name is one of this instrument's."""
        return _plain(name) in {_plain(one) for one in (self.name, *self.aliases)}

    def has_filter(self, name: str) -> bool:
        """Whether it has a filter, alone or together with others (``a~b``); True where its filters are not known."""
        return not self.filters or any(part in self.filters for part in (name, *name.split("~")))


# ---- physical filters: lsst/obs_lsst, filters.py; lsst/obs_decam, decamFilters.py; lsst/obs_subaru, hscFilters.py ----

_LSSTCAM_FILTERS = (
    "u_24", "g_6", "r_57", "i_39", "z_20", "y_10", "ph_5", "ef_43", "empty", "none", "unknown",
)  # fmt: skip
_COMCAM_FILTERS = (
    "u_02", "u_05", "u_06", "g_01", "g_07", "r_03", "i_06", "z_02", "z_03", "y_04", "empty", "none", "unknown",
)  # fmt: skip
_DECAM_FILTERS = (
    "u DECam c0006 3500.0 1000.0",
    "g DECam SDSS c0001 4720.0 1520.0",
    "r DECam SDSS c0002 6415.0 1480.0",
    "i DECam SDSS c0003 7835.0 1470.0",
    "z DECam SDSS c0004 9260.0 1520.0",
    "Y DECam c0005 10095.0 1130.0",
    "VR DECam c0007 6300.0 2600.0",
    "N964 DECam c0008 9645.0 94.0",
    "N708 DECam c0012 7080.0 400.0",
    "solid plate 0.0 0.0",
)
_HSC_FILTERS = (
    "HSC-G", "HSC-R", "HSC-R2", "HSC-I", "HSC-I2", "HSC-Z", "HSC-Y", "W-S-G+", "W-S-R+", "W-S-I+", "W-S-Z+", "W-S-ZR",
    "ENG-R1", "SH", "PH", "NONE", "NB0387", "NB0400", "NB0468", "NB0515", "NB0527", "NB0656", "NB0718", "NB0816",
    "NB0921", "NB0926", "NB0973", "NB1010", "IB0945",
)  # fmt: skip

INSTRUMENTS = (
    Instrument(
        "LSSTCam",
        aliases=("LSST_CAMERA", "LSSTCam-imSim", "LSSTCam-PhoSim", "LSSTCamSim"),
        detector_keys=("DETNAME", "DETECTOR", "RAFTBAY+CCDSLOT"),
        filters=_LSSTCAM_FILTERS,
    ),
    Instrument(
        "LSSTComCam",
        aliases=("ComCam", "LSST_CAMERA", "LSSTComCamSim"),  # LSST_CAMERA: lab data of either
        detector_keys=("DETNAME", "DETECTOR", "RAFTBAY+CCDSLOT"),
        filters=_COMCAM_FILTERS,
    ),
    Instrument(
        "DECam",
        detector_keys=("CCDNUM", "DETPOS"),  # DETECTOR is a serial number in files as the camera writes them
        filter_keys=("FILTER",),
        filters=_DECAM_FILTERS,
        not_science="[FG][NS][1-4]",  # focus and guide CCDs
    ),
    Instrument(
        "HSC",
        aliases=("Hyper Suprime-Cam",),
        detector_keys=("DET-ID",),
        filter_keys=("FILTER01", "FILTER"),
        filters=_HSC_FILTERS,
        upper_case=True,
    ),
    # DETECTOR is MegaCam in every HDU; EXTNAME is the CCD's name, ccd00 to ccd39
    Instrument("MegaPrime", aliases=("MegaCam",), detector_keys=("EXTNAME",), filter_keys=("FILTER",)),
    Instrument(
        "OmegaCAM",
        detector_keys=("EXTNAME", "ESO DET CHIP ID", "ESO DET CHIP1 ID"),  # ESO_CCD_#65 to #96
        filter_keys=("ESO INS FILT1 NAME", "ESO INS FILT NAME", "FILTER"),
    ),
    Instrument("KMTNet", aliases=("KMTC", "KMTS", "KMTA")),
)


def instruments_called(name: str) -> list[Instrument]:
    """Those of the table that have such a name: none, one, or those that share it."""
    return [one for one in INSTRUMENTS if name and one.is_called(name)]


def usual_name(name: str) -> str:
    """The name as LSST's data ids have it, where it is one of the table; else the name itself."""
    found = instruments_called(name)
    return found[0].name if len(found) == 1 else name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
