"""A self-contained page of text, tables and charts: one HTML file that needs no network.

`paragraph`, `table`, `folded` and the charts `maps`, `profile`, `densities` and `matrix` return pieces of HTML.
`section` collects them, and `render` makes a page from sections and a `Verdict`.  All text is escaped here.  Charts are
embedded as data, and the script in ``page.html.in`` draws them.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesflat.data.camera import Detector

TEMPLATE = "page.html.in"
_STATES = {
    "good": ("✓", "good"),
    "differ": ("≠", "they differ"),
    "doubtful": ("!", "look twice"),
    "bad": ("✗", "do not use"),
}


@dataclass(frozen=True)
class Verdict:
    """The verdict at the top of a page.

    Attributes
    ----------
    state : str
        ``good``, ``differ``, ``doubtful`` or ``bad``.
    sentences : tuple of str
        The first is shown in bold.
    advice : tuple of str
        Advice on what to look at or to try.
    note : str
        Explanation of the sentences.
    """

    state: str
    sentences: tuple[str, ...]
    advice: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Layer:
    """A map over the focal plane.

    Attributes
    ----------
    title, unit : str
    values : sequence of float or numpy.ndarray of shape (n_y, n_x)
        For each detector a number, or cells that divide it evenly, cell (0, 0) at pixel (0, 0).  NaN is left blank.
    scale : tuple of float
        Values at the ends of the colour scale.
    diverging : bool
        Whether the colour scale is diverging.
    note : str
        Explanation below the map.
    """

    title: str
    unit: str
    values: Sequence[float | NDArray]
    scale: tuple[float, float]
    diverging: bool = True
    note: str = ""


@dataclass(frozen=True)
class Series:
    """A line, points or a band over x.

    Attributes
    ----------
    name : str
    x, y : array_like
    low, high : array_like, optional
        Edges of a band about the line.
    look : str
        ``model``, ``data``, ``nodes`` (points), ``zero`` or ``tolerance``.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    look: str = "model"


# ---- text ----


def text(value: Any) -> str:
    """Any text as HTML."""
    return html.escape(str(value))


# ---- parts ----


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph."""
    return f'<p class="{text(kind)}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[int] = (), caption: str = "") -> str:
    """A table; columns ``numbers`` are aligned to the right.  On a narrow screen, many columns become lines."""
    many = len(head) > 3

    def cells(row: Sequence[Any], tag: str) -> str:
        found = []
        for k, cell in enumerate(row):
            kind = ' class="number"' if k in numbers else ""
            label = f' data-head="{text(head[k])}"' if many and tag == "td" else ""
            found.append(f"<{tag}{kind}{label}>{text(cell)}</{tag}>")
        return "".join(found)

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    legend = f"<caption>{text(caption)}</caption>" if caption else ""
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    kind = ' class="many"' if many else ""
    return f'<div class="wide"><table{kind}>{legend}{top}<tbody>\n{body}\n</tbody></table></div>'


def preformatted(words: str) -> str:
    """Text with its line breaks."""
    return f"<pre>{text(words)}</pre>"


def folded(summary: str, *parts: str) -> str:
    """Parts that are hidden until the summary is clicked."""
    return f"<details><summary>{text(summary)}</summary>{''.join(parts)}</details>"


def section(heading: str, *parts: str) -> str:
    """A section of the page."""
    name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    return f'<section id="{name}"><h2>{text(heading)}</h2>\n' + "\n".join(parts) + "\n</section>"


# ---- charts ----


def maps(
    detectors: Sequence[Detector],
    groups: Sequence[str],
    facts: Sequence[Mapping[str, str]],
    layers: Sequence[Layer],
    *,
    marks: Sequence[tuple[float, float, str]] = (),
    caption: str = "",
) -> str:
    """Two maps of the focal plane side by side, each with a menu of the layers.

    Parameters
    ----------
    detectors : sequence of Detector
    groups : sequence of str
        Group of each detector, which its outline shows: at most two groups, and ``""`` for detectors without bins.
    facts : sequence of mapping
        Label to text, shown for a detector when the pointer is over it.
    layers : sequence of Layer
        The first two are shown initially.
    marks : sequence of (float, float, str)
        Positions to mark (mm), and their names.
    caption : str
    """
    data = {
        "detectors": [
            {
                "name": d.name,
                "group": group,
                "corners": np.round(d.corners(), 4).tolist(),
                "facts": [[key, value] for key, value in fact.items()],
            }
            for d, group, fact in zip(detectors, groups, facts, strict=True)
        ],
        "groups": sorted({group for group in groups if group}),
        "layers": [_layer(layer) for layer in layers],
        "marks": [{"x": x, "y": y, "name": name} for x, y, name in marks],
    }
    return _chart("maps", data, caption)


def _layer(layer: Layer) -> dict[str, Any]:
    """A layer as plain data; cells are integer multiples of a step, to keep the page small."""
    result = {
        "title": layer.title,
        "unit": layer.unit,
        "scale": list(layer.scale),
        "diverging": layer.diverging,
        "note": layer.note,
    }
    if not any(isinstance(value, np.ndarray) for value in layer.values):
        return result | {"values": list(layer.values)}
    step = float(f"{(layer.scale[1] - layer.scale[0]) / 500:.0e}")
    cells = [
        {
            "nx": value.shape[1],
            "v": [round(v / step) if math.isfinite(v) else None for v in value.ravel().tolist()],
        }
        if isinstance(value, np.ndarray)
        else None
        for value in layer.values
    ]
    return result | {"step": step, "cells": cells}


def profile(
    x_label: str,
    panels: Sequence[tuple[str, Sequence[Series], tuple[float, float]]],
    *,
    lines: ArrayLike = (),
    caption: str = "",
) -> str:
    """Panels above each other with a common x axis.

    Parameters
    ----------
    x_label : str
    panels : sequence of (str, sequence of Series, (float, float))
        Label, series and limits of each y axis.
    lines : array_like
        Positions of thin vertical lines.
    caption : str
    """
    data = {
        "x": x_label,
        "panels": [
            {
                "label": label,
                "range": list(limits),
                "series": [
                    {
                        "name": s.name,
                        "look": s.look,
                        "x": np.asarray(s.x, dtype=float).tolist(),
                        "y": np.asarray(s.y, dtype=float).tolist(),
                    }
                    | (
                        {}
                        if s.low is None
                        else {"low": np.asarray(s.low).tolist(), "high": np.asarray(s.high).tolist()}
                    )
                    for s in series
                ],
            }
            for label, series, limits in panels
        ],
        "lines": np.asarray(lines, dtype=float).tolist(),
    }
    return _chart("profile", data, caption)


def densities(items: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Marginal densities, side by side.

    Parameters
    ----------
    items : sequence of mapping
        ``label``, ``unit``, ``text``; ``x`` and ``y`` of the curve; ``low`` and ``high`` of its interval; ``map``; and
        optionally ``other``, another curve with ``x`` and ``y``.
    caption : str
    """
    return _chart("densities", {"items": list(items)}, caption)


def matrix(labels: Sequence[str], values: NDArray, caption: str = "") -> str:
    """A matrix of numbers between -1 and 1."""
    return _chart("matrix", {"labels": list(labels), "values": np.asarray(values).tolist()}, caption)


def _chart(kind: str, data: Mapping[str, Any], caption: str) -> str:
    legend = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="chart {kind}" data-kind="{kind}"><div class="drawing"></div>{legend}'
        f'<script type="application/json">{embedded(data)}</script></figure>'
    )


def embedded(data: Any) -> str:
    """JSON to embed in a page: numbers that are not finite are null, and no text can end the enclosing script."""
    options: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    try:
        found = json.dumps(data, **options)  # maps are large, and mostly plain numbers
    except (TypeError, ValueError):
        found = json.dumps(_finite(data), **options)
    for character in "<>&\u2028\u2029":
        found = found.replace(character, f"\\u{ord(character):04x}")
    return found


def _finite(data: Any) -> Any:
    """Plain Python objects, with None for numbers that are not finite."""
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not math.isfinite(data) else data


# ---- the page ----


def render(title: str, subtitle: str, verdict: Verdict, sections: Sequence[str]) -> str:
    """A whole page.

    Parameters
    ----------
    title, subtitle : str
    verdict : Verdict
    sections : sequence of str
        From `section`.

    Returns
    -------
    str
        HTML.
    """
    mark, word = _STATES[verdict.state]
    first, *rest = verdict.sentences
    advice = "".join(f"<li>{text(item)}</li>" for item in verdict.advice)
    headings = re.findall(r'^<section id="([^"]*)"><h2>(.*?)</h2>', "\n".join(sections), re.M)
    body = [
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p></header>",
        f'<div class="verdict {verdict.state}" role="note"><span class="mark" aria-label="{word}">{mark}</span><div>',
        f"<p><strong>{text(first)}</strong></p>",
        *(paragraph(sentence) for sentence in rest),
        paragraph(verdict.note, "quiet") if verdict.note else "",
        f"<h2>What to look at, and to try</h2><ul>{advice}</ul>" if advice else "",
        "</div></div>",
        "<nav>" + " ".join(f'<a href="#{name}">{heading}</a>' for name, heading in headings) + "</nav>",
        *sections,
    ]
    parts = {"title": text(title), "body": "\n".join(body)}
    template = files("bayesflat.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    # in a single pass, so that text from users is not searched for placeholders
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], template)
