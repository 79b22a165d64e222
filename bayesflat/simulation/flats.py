"""Pixel flats with a known truth: one detector's image in memory, and a folder of flats, defects and their truth."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from bayesflat.data.camera import Camera, lsstcam
from bayesflat.errors import InputError
from bayesflat.files import ROWS, naming, nearest_folder, owned_folder
from bayesflat.processes import in_processes
from bayesflat.simulation.detectors import CELL, VIGNETTED_RADIUS, SimulatedDetectors, true_parameters
from bayesflat.simulation.layouts import MASK_PLANES, About, DetectorImage, flat_hdus, join
from bayesflat.simulation.truth import (
    KINDS,
    Light,
    Noise,
    check_kind,
    check_whole,
    default_filter,
    default_light,
    light_scale,
)
from bayesflat.stages import stage
from bayesflat.text import check_name

PARTLY_VIGNETTED_RADIUS = 317.0  # mm, on LSSTCam
_DEAD = (0.0, np.nan, 1.5)  # what dead columns hold, in turn; in levels of the light
_BLOCK = 2**20  # pixels that are worked on at once
CONTENTS = ("truth.json", "camera.ecsv", "defects", "flats")


def detector_image(
    detectors: SimulatedDetectors,
    light: Light,
    key: int | str,
    *,
    kind: str = "sky",
    coarse: int = 1,
    vignetted_radius: float | None = None,
) -> DetectorImage:
    """Flat of one detector, pixel by pixel.

    Parameters
    ----------
    detectors : SimulatedDetectors
        Their response, in full resolution.
    light : Light
        The truth of the light, taken at the centre of each pixel.
    key : int or str
        Id or name of the detector.
    kind : str
        ``sky`` or ``dome``: chooses the white noise that is drawn, nothing else.
    coarse : int
        Makes pixels this many times as large, ``nx // coarse`` by ``ny // coarse`` of them.
    vignetted_radius : float, optional
        Pixels beyond it are 0.0 and flagged NO_DATA and VIGNETTED, by default those beyond 350 mm; those beyond 317 mm
        are PARTLY_VIGNETTED.  Both are scaled to other cameras than LSSTCam.

    Raises
    ------
    InputError
        An option that is not accepted, a factor larger than the detector, a detector that the camera lacks.
    """
    check_kind(kind)
    check_whole("coarse", coarse, 1)
    scale = light_scale(detectors.camera)
    if vignetted_radius is None:
        vignetted_radius = VIGNETTED_RADIUS * scale
    full = detectors.camera[key]
    detector = full.coarsened(coarse)
    white = np.float32(detectors.noise.white * CELL / detector.pixel_size)
    rng = detectors.rng(5, KINDS.index(kind), detector.id)
    px = np.arange(detector.nx)
    image = np.empty((detector.ny, detector.nx), dtype=np.float32)
    variance = np.empty_like(image)
    mask = np.zeros(image.shape, dtype=np.int32)
    step = max(1, _BLOCK // detector.nx)
    for start in range(0, detector.ny, step):  # in blocks of rows, to keep a full detector small in memory
        rows = slice(start, start + step)
        py = np.arange(detector.ny)[rows]
        xf, yf = detector.pixel_to_focal_plane(px, py[:, None])
        value = detectors.response_at(key, px * coarse + (coarse - 1) / 2, py * coarse + (coarse - 1) / 2, coarse)
        value *= light.evaluate(xf, yf, detector.is_itl)
        value *= light.level
        random = rng.standard_normal(value.shape, dtype=np.float32)
        image[rows] = value * (1.0 + white * random)
        variance[rows] = (white * value) ** 2
        radius = np.hypot(xf, yf)
        mask[rows][radius > PARTLY_VIGNETTED_RADIUS * scale] |= 1 << MASK_PLANES["PARTLY_VIGNETTED"]
        beyond = radius > vignetted_radius
        mask[rows][beyond] |= 1 << MASK_PLANES["NO_DATA"] | 1 << MASK_PLANES["VIGNETTED"]
    defects = detectors.defects(key, coarse)
    for number, (x0, y0, width, height) in enumerate(defects):
        image[y0 : y0 + height, x0 : x0 + width] = _DEAD[number % len(_DEAD)] * light.level
    dark = mask & (1 << MASK_PLANES["NO_DATA"]) != 0
    image[dark] = variance[dark] = 0.0
    return DetectorImage(detector, image, mask, variance, defects)


def simulate_focal_plane(
    camera: Camera, light: Light, noise: Noise, seed: int, *, science_only: bool = True, **options
) -> Iterator[DetectorImage]:
    """The flats of all (science) detectors of a camera, one at a time; ``options`` are those of `detector_image`."""
    camera = camera.science() if science_only else camera
    detectors = SimulatedDetectors(camera, noise, seed)
    for detector in camera:
        yield detector_image(detectors, light, detector.id, **options)


def write_simulation(
    out: str | Path,
    *,
    kind: str = "sky",
    coarse: int = 1,
    seed: int = 0,
    physical_filter: str | None = None,
    camera: Camera | None = None,
    light: Light | None = None,
    noise: Noise | None = None,
    science_only: bool = True,
    compress: bool = False,
    mef: bool = False,
    overwrite: bool = False,
    processes: int = 1,
) -> dict:
    """Write flats, defect tables, the camera and the truth into a folder; they appear whole or not at all.

    ``flats/<instrument>_<filter>_<detector>_<kind>.fits`` as that camera's files are (`bayesflat.simulation.layouts`),
    ``defects/<detector>.fits`` (regions, even ids) or ``.ecsv`` (boxes, odd ids), ``camera.ecsv`` (of the coarse
    pixels) and ``truth.json``: the dict that is returned.

    Parameters
    ----------
    out : str or Path
        Folder, made if need be.
    kind : str
        ``sky`` or ``dome``.
    coarse : int
        Factor by which pixels are larger than the camera's.
    seed : int
        The same seed gives sky and dome the same detectors.
    physical_filter : str, optional
        Its first letter is the band, which sets the defaults of light and noise; by default the camera's i.
    camera : Camera, optional
        In full resolution; LSSTCam if not given.
    light, noise : Light, Noise, optional
        `default_light` of kind, filter and camera, and `Noise.for_band`, if not given.
    science_only : bool
        Leave out guider and wavefront detectors.
    compress : bool
        Compress the planes in tiles (GZIP_2, without loss).
    mef : bool
        Write one file with an HDU a detector.
    overwrite : bool
        Replace a simulation that is there already.
    processes : int
        Processes to work with, each of which holds one detector.

    Returns
    -------
    dict
        The names of `true_parameters`, with ``level``, ``kind``, ``seed`` and what else describes the simulation.

    Raises
    ------
    InputError
        An option that is not accepted, or a folder that holds such files already.
    """
    check_kind(kind)
    check_whole("coarse", coarse, 1)
    check_whole("processes", processes, 1)
    camera = lsstcam() if camera is None else camera
    physical_filter = physical_filter or default_filter(camera)
    check_name(physical_filter, "the filter", "simulation")
    light = default_light(kind, physical_filter, light_scale(camera)) if light is None else light
    noise = Noise.for_band(physical_filter) if noise is None else noise
    camera = camera.science() if science_only else camera
    small = camera.coarsened(coarse)
    detectors = SimulatedDetectors(camera, noise, seed)
    for detector in camera:  # a light that is not positive somewhere must show before anything is written
        x, y = detector.corners().T
        light.evaluate(x, y, detector.is_itl)
    out = Path(out).absolute()
    check_folder(out, overwrite)
    truth = _truth(light, detectors, kind=kind, coarse=int(coarse), physical_filter=physical_filter)

    out.parent.mkdir(parents=True, exist_ok=True)
    with owned_folder(out.parent) as temporary, naming(out, temporary / "new"):
        new = temporary / "new"  # a folder of its own, since a temporary one is closed to others
        for name in ("flats", "defects"):
            (new / name).mkdir(parents=True)
        about = About(camera.name, physical_filter, kind, detectors.seed)
        write = partial(_write_detector, new, detectors, light, about, coarse=coarse, compress=compress, mef=mef)
        tasks = {d.id: (d.id,) for d in camera}
        with closing(in_processes(write, tasks, processes, "writing flats")) as results:  # ends the pool on errors too
            at = stage("writing flats", len(camera))
            for _ in results:
                at.advance()
        if mef:
            join([_flat_path(new, about, d.name) for d in camera], _flat_path(new, about))
        small.write(new / "camera.ecsv")
        (new / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
        _put_in_place(new, out, temporary / "old")
    return truth


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds a simulation, unless it may be replaced, or what is no simulation."""
    nearest_folder(out)
    present = [name for name in CONTENTS if (out / name).exists()]
    if present and not overwrite:
        raise InputError(f"{out}: holds {', '.join(present)} already; give another folder, or overwrite")
    if present and "truth.json" not in present:
        raise InputError(f"{out}: holds {', '.join(present)} but no truth.json, so no simulation; not overwritten")


def _put_in_place(new: Path, out: Path, old: Path) -> None:
    """Move the new contents to ``out``; what they replace goes to ``old``.

    The truth goes first and comes last: a folder with a truth.json is a whole simulation.
    """
    if not out.exists():
        os.rename(new, out)
        return
    old.mkdir()
    for name in CONTENTS:
        if (out / name).exists():
            shutil.move(out / name, old / name)
    for name in reversed(CONTENTS):
        os.rename(new / name, out / name)


def _truth(light: Light, detectors: SimulatedDetectors, **what) -> dict:
    """The contents of truth.json; its radial function is what a fit means by it, before normalization."""
    truth = true_parameters(light, detectors)
    radius = np.arange(0.0, 350.1, 5.0) * light_scale(detectors.camera)
    truth |= what
    truth |= {
        "seed": detectors.seed,
        "instrument": detectors.camera.name,
        "level": light.level,
        "centroid_x": light.centroid[0],
        "centroid_y": light.centroid[1],
        "outer_gradient_radius": light.outer_gradient_radius,
        "radial_function": {
            "radius": radius.tolist(),
            "value": (light.radial_function(radius) * truth["group_throughput"]).tolist(),
        },
        "light": asdict(light),
        "noise": asdict(detectors.noise),
    }
    if not isinstance(light.radial, str):
        truth["radial_spline_nodes"] = list(light.radial[0])
    truth["detector_throughput"] = {str(key): value for key, value in truth["detector_throughput"].items()}
    return truth


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", text)


def _flat_path(folder: Path, about: About, *detector: str) -> Path:
    return folder / "flats" / (_file_name("_".join((about.camera, about.filter, *detector, about.kind))) + ".fits")


def _write_detector(
    folder: Path,
    detectors: SimulatedDetectors,
    light: Light,
    about: About,
    key: int,
    *,
    coarse: int,
    compress: bool,
    mef: bool,
) -> None:
    """Write one detector's flat, or what it is to be in a file of all, and its defect table."""
    flat = detector_image(detectors, light, key, kind=about.kind, coarse=coarse)
    hdus = flat_hdus(flat, about, compress=compress, mef=mef)
    hdus.writeto(_flat_path(folder, about, flat.detector.name))
    _write_defects(folder / "defects", flat, about.camera)


def _write_defects(folder: Path, flat: DetectorImage, camera: str) -> None:
    """The defect table: FITS regions for even ids, boxes in ECSV for odd ones, as both are about."""
    from astropy.table import Table

    detector = flat.detector
    x0, y0, width, height = flat.defects.T
    meta = {"OBSTYPE": "defects", "INSTRUME": camera, "DETECTOR": detector.id, "DET_NAME": detector.name}
    name = _file_name(detector.name)
    if detector.id % 2:
        columns = {"x0": x0, "y0": y0, "width": width, "height": height}
        Table(columns, meta=meta | {ROWS: len(x0)}).write(folder / f"{name}.ecsv", format="ascii.ecsv")
        return
    columns = {  # FITS regions count from 1, and name a box by its centre
        "X": x0 + (width - 1) / 2 + 1.0,
        "Y": y0 + (height - 1) / 2 + 1.0,
        "SHAPE": np.full(len(x0), "BOX", dtype="U8"),
        "R": np.column_stack([width, height]).astype(float),
        "ROTANG": np.zeros(len(x0)),
    }
    Table(columns, meta=meta).write(folder / f"{name}.fits", format="fits")
