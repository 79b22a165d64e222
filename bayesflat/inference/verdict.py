"""The verdict on a fit: good, look (with a reason that a scientist would act on), or unusable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesflat.data.grouped import medians_of
from bayesflat.gradient.estimates import Offsets
from bayesflat.gradient.product import FlatGradient
from bayesflat.inference.field import SmoothField
from bayesflat.inference.odd import find_odd
from bayesflat.inference.projection import Projection
from bayesflat.model.prepare import FitData
from bayesflat.quantities import TOLERANCE_MMAG, as_fraction

MISSED = "the spline through the nodes misses the fitted curve by"  # of which placing the nodes has warned already
MOSTLY = 0.5  # part of a detector's bins that are outliers, from which on it is named
_SAME_MEDIAN, _FEWEST = 2e-4, 5  # typical difference of the medians of flats normalized one by one; their number
_NAMED = 5  # detectors at most that are named


@dataclass(frozen=True)
class FitVerdict:
    """Whether a product can be used as it is.

    Attributes
    ----------
    word : str
        ``good``, ``look`` or ``unusable``.
    reasons : tuple of str
        Why it is not good.
    """

    word: str
    reasons: tuple[str, ...]


def judge_fit(
    data: FitData,
    gradient: FlatGradient,
    projection: Projection | None,
    failures: tuple[str, ...],
    tolerance_mmag: float = TOLERANCE_MMAG,
) -> FitVerdict:
    """The verdict.

    Parameters
    ----------
    data : FitData
    gradient : FlatGradient
        The product, with its estimates.
    projection : Projection or None
        Its nodes, where they describe a curve.
    failures : tuple of str
        What convergence or diagnostics of draws failed by; then nothing else counts but what may be the cause.
    tolerance_mmag : float
        Size from which on matters what the model has no term for (mmag).
    """
    same = _one_by_one(data)
    if failures:
        return FitVerdict("unusable", (*failures, same) if same else failures)
    header, config = gradient.require_estimates().header, gradient.config
    found = []
    if config.get("noise") == "independent":
        found.append("the errors take the bins for independent, which they are not: fit with noise = hierarchical")
    if same:
        found.append(same)
    other = gradient.azimuth
    tolerance = as_fraction(tolerance_mmag)
    field = SmoothField.of_cards(header)
    if other is not None and other.matters(tolerance):
        clearest = other.in_words(other.clearest(tolerance), gradient.outermost_bin)
        found.append(f"{clearest}: the model has no term for it")
    elif field.matters(tolerance_mmag):
        found.append(
            f"the flat has a smooth field of {field.rms_mmag:.1f} mmag rms that is neither radial nor planar "
            f"(p = {field.p_value:.1g}): the model has no term for it"
        )
    missed = None if projection is None else projection.missed
    if missed is not None:
        found.append(f"{MISSED} {missed[0]:.2g} mmag at {missed[1]:.0f} mm")
    found += _off(data, gradient)
    if config.get("noise") == "hierarchical" and not header["EXACTCUR"][0]:
        found.append("the errors are not from the exact curvature of the posterior: sample it (--sample)")
    return FitVerdict("look" if found else "good", tuple(found))


def _off(data: FitData, gradient: FlatGradient) -> list[str]:
    """Detectors and amplifiers that are off as a whole, and detectors of which outliers are the most."""
    found, camera, offsets = [], data.binned.camera, gradient.offsets
    if data.odd and offsets is not None and (is_odd := _is_odd(data, offsets)).any():
        read = [
            f"{camera[int(number)].name}{f' amplifier {amplifier}' if amplifier >= 0 else ''} ({m:.4f} ± {s:.4f})"
            for number, amplifier, m, s in zip(
                *(column[is_odd] for column in (offsets.detector, offsets.amplifier, offsets.mean, offsets.sd)),
                strict=True,
            )
        ]
        whole = offsets.amplifier < 0
        ids, mean, odd = offsets.detector[whole], offsets.mean[whole], is_odd[whole]
        itl = np.isin(ids, data.binned.detector[data.itl])
        level = mean[(~itl if (~itl).any() else itl) & ~odd].mean()
        others = f"the radial function is {100 * (level - 1):+.2f}%"
        if data.has_ratio:
            others = f"the ratio is {gradient.itl_ratio * mean[itl & ~odd].mean() / level:.5f}, and {others}"
        without = f"; without them {others}" if odd.any() else ""
        found.append(f"off as a whole: {_named(read)}{without}")
    numbers, index = np.unique(data.binned.detector, return_inverse=True)
    spoilt = np.bincount(index, data.weight == 0) / np.bincount(index)
    many = [f"{camera[int(number)].name} ({100 * part:.0f}%)" for number, part in
            zip(numbers[spoilt > MOSTLY], spoilt[spoilt > MOSTLY], strict=True)]  # fmt: skip
    if many:
        found.append(f"most bins are outliers in {_named(many)}")
    return found


def _is_odd(data: FitData, offsets: Offsets) -> NDArray[np.bool_]:
    """Which detectors and amplifiers a first fit found off, and are so in the end: shape (n_offsets,).

    At a steep rim a first fit can be wrong by more than some amplifiers differ.
    """
    of, itl = offsets.amplifier >= 0, np.isin(offsets.detector, data.binned.detector[data.itl])
    odd = find_odd(offsets.detector[of], offsets.amplifier[of], itl[of], np.log(offsets.mean[of]), fewest=1)
    names = zip(offsets.detector.tolist(), offsets.amplifier.tolist(), strict=True)
    return np.array([name in data.odd and name in odd for name in names])


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _one_by_one(data: FitData) -> str:
    """Flats of detectors that were each divided by their own median have no light of the focal plane in them."""
    index = np.unique(data.binned.detector, return_inverse=True)[1]
    medians = medians_of(index, data.value)
    typical = np.median(medians)
    # of detectors that lie across the edge of the light, only a part is left
    if len(medians) < _FEWEST or np.median(np.abs(medians - typical)) > _SAME_MEDIAN * typical:
        return ""
    return "all detectors have the same median: flats normalized one by one tell nothing of plane or vignetting"
