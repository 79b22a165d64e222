"""Effects that the model does not know, for the benchmark of verdicts: what each multiplies the bins of a dome by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.binned import BinnedFlat
from bayesflat.simulation.truth import Light

RIM = 350.0  # mm
DETECTOR, AMPLIFIER = 100, 5  # those that are off: neither ITL nor at the rim


@dataclass(frozen=True)
class Bins:
    """The bins of a dome, and the light that it was simulated with."""

    binned: BinnedFlat
    light: Light

    @property
    def x(self) -> NDArray[np.float64]:
        """Across the focal plane (mm)."""
        return self.binned.xf

    @property
    def y(self) -> NDArray[np.float64]:
        """Along it (mm)."""
        return self.binned.yf

    @property
    def r(self) -> NDArray[np.float64]:
        """Radius (mm)."""
        return np.hypot(self.x, self.y)

    @property
    def theta(self) -> NDArray[np.float64]:
        """Azimuth from x (radians)."""
        return np.arctan2(self.y, self.x)

    @property
    def raft(self) -> NDArray[np.int64]:
        """Number of the raft: LSSTCam numbers nine detectors in each."""
        return self.binned.detector // 9

    def vignetting(self) -> NDArray[np.float64]:
        """The radial function."""
        return np.maximum(self.light.radial_function(self.r), 1e-9)


def _elliptical(b: Bins, mm: float) -> NDArray:
    return b.light.radial_function(b.r + mm * b.r / RIM * np.cos(2 * b.theta)) / b.vignetting()


def _doughnuts(b: Bins, depth: float) -> NDArray:
    """Shadows of dust on the filter: fifteen rings of 5 to 8 mm, half a per cent of the area."""
    out, rng = np.ones_like(b.x), np.random.default_rng(1)
    for radius, angle in zip(300 * np.sqrt(rng.uniform(size=15)), rng.uniform(0, 2 * np.pi, 15), strict=True):
        away = np.hypot(b.x - radius * np.cos(angle), b.y - radius * np.sin(angle))
        out[(away > 5) & (away < 8)] = 1 - depth
    return out


def _one_by_one(b: Bins, _: float) -> NDArray:
    medians = np.ones(int(b.binned.detector.max()) + 1)
    for number in np.unique(b.binned.detector):
        medians[number] = np.median(b.binned.value[b.binned.detector == number])
    return 1 / medians[b.binned.detector]


# the strength is a fraction of the flat, at the rim where the effect grows with the radius; of ``elliptical`` mm there
KINDS: dict[str, Callable[[Bins, float], NDArray]] = {
    "none": lambda b, s: np.ones_like(b.x),
    "ghost off centre": lambda b, s: 1 + s * np.exp(-0.5 * ((np.hypot(b.x - 60, b.y + 40) - 120) / 25) ** 2),
    "ghost concentric": lambda b, s: 1 + s * np.exp(-0.5 * ((b.r - 120) / 25) ** 2),
    "rim shadow": lambda b, s: np.where((b.r > 330) & (np.abs(b.theta - 0.7) < 0.5), 1 - s, 1.0),
    "smooth field": lambda b, s: 1 + s * np.sin(b.x / 90 + 0.3) * np.cos(b.y / 110),
    "quadrupole": lambda b, s: 1 + s * (b.r / RIM) ** 2 * np.cos(2 * (b.theta - 0.5)),
    "coma": lambda b, s: 1 + s * (3 * (b.r / RIM) ** 3 - 2 * b.r / RIM) * np.cos(b.theta - 1.0),
    "elliptical": _elliptical,
    "outer plane": lambda b, s: 1 + np.where(b.r > 325, s * b.x / RIM, 0.0),
    "half plane": lambda b, s: np.where(b.x > 0, 1 + s, 1.0),
    "detector": lambda b, s: np.where(b.binned.detector == DETECTOR, 1 + s, 1.0),
    "amplifier": lambda b, s: np.where((b.binned.detector == DETECTOR) & (b.binned.amplifier == AMPLIFIER), 1 + s, 1.0),
    "raft": lambda b, s: np.where(b.raft == 12, 1 + s, 1.0),
    "rafts": lambda b, s: 1 + s * np.random.default_rng(2).normal(size=30)[b.raft],
    "colour by vendor": lambda b, s: 1 + np.where(b.binned.itl, s * b.x / RIM, 0.0),
    "one vendor": lambda b, s: np.where(b.binned.itl, 1 + s, 1.0),
    "doughnuts": _doughnuts,
    "pedestal": lambda b, s: 1 + s / b.vignetting(),
    "stray light": lambda b, s: 1 + s * b.x / RIM / b.vignetting(),
    "dead raft": lambda b, s: np.where(b.raft == 7, np.nan, 1.0),
    "normalized one by one": _one_by_one,
}


@dataclass(frozen=True)
class Case:
    """An effect, its strength, and the right words.

    ``-``: not judged, where a single flat cannot tell, for its detectors scatter as much or the effect looks like
    vignetting; and comparisons of flats that are not flats of a focal plane.
    """

    kind: str
    strength: float
    fit: str
    compare: str


CASES = {
    "none": Case("none", 0.0, "good", "agree"),
    "ghost off centre 2%": Case("ghost off centre", 0.02, "look", "differ"),
    "ghost concentric 2%": Case("ghost concentric", 0.02, "-", "differ"),
    "rim shadow 5%": Case("rim shadow", 0.05, "look", "differ"),
    "smooth field 0.3%": Case("smooth field", 0.003, "-", "differ"),
    "quadrupole 0.3%": Case("quadrupole", 0.003, "-", "differ"),
    "quadrupole 1%": Case("quadrupole", 0.01, "look", "differ"),
    "coma 0.5%": Case("coma", 0.005, "look", "differ"),
    "elliptical by 1 mm": Case("elliptical", 1.0, "look", "differ"),
    "outer plane 1%": Case("outer plane", 0.01, "-", "differ"),
    "half plane 0.5%": Case("half plane", 0.005, "-", "differ"),
    "detector -30%": Case("detector", -0.3, "look", "agree"),
    "amplifier -10%": Case("amplifier", -0.1, "look", "agree"),
    "raft -10%": Case("raft", -0.1, "-", "differ"),
    "rafts 0.5%": Case("rafts", 0.005, "-", "differ"),
    "colour by vendor 1%": Case("colour by vendor", 0.01, "-", "differ"),
    "one vendor 1%": Case("one vendor", 0.01, "-", "differ"),
    "doughnuts 1%": Case("doughnuts", 0.01, "-", "agree"),
    "pedestal 1%": Case("pedestal", 0.01, "-", "differ"),
    "stray light 1%": Case("stray light", 0.01, "-", "differ"),
    "dead raft": Case("dead raft", 0.0, "good", "agree"),
    "normalized one by one": Case("normalized one by one", 0.0, "look", "-"),
}
# strengths of curves of detection
CURVES = {
    "ghost off centre": (0.001, 0.002, 0.005, 0.01, 0.02),
    "rim shadow": (0.005, 0.01, 0.02, 0.05),
    "smooth field": (0.0005, 0.001, 0.002, 0.003),
    "quadrupole": (0.001, 0.002, 0.003, 0.005, 0.01),
    "coma": (0.0005, 0.001, 0.002, 0.005),
    "elliptical": (0.05, 0.1, 0.3, 1.0),
    "half plane": (0.001, 0.002, 0.005, 0.01),
    "rafts": (0.0005, 0.001, 0.002, 0.005),
}


def curve_cases() -> dict[str, Case]:
    """All points of the curves, by name; none has a right word."""
    return {f"{kind} {s:g}": Case(kind, s, "-", "-") for kind, strengths in CURVES.items() for s in strengths}


def factor(case: Case, binned: BinnedFlat, light: Light) -> NDArray[np.float64]:
    """What the case multiplies the bins by, shape (n_bins,); NaN where it leaves none."""
    return KINDS[case.kind](Bins(binned, light), case.strength)
