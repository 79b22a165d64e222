"""A self-contained page of text, tables and charts: one HTML file that needs no network.

Whoever has something to show makes parts, each a piece of HTML, with `paragraph`, `table`, `folded` and the charts
`maps`, `profile`, `densities` and `matrix`, gathers them in `section` and hands these to `render` with a `Verdict`.
All that is given as text is escaped here.  Charts are data: the script in ``page.html.in`` draws them.
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
    """What the page says in a sentence.

    Attributes
    ----------
    state : str
        ``good``, ``differ``, ``doubtful`` or ``bad``.
    sentences : tuple of str
        The first stands out.
    advice : tuple of str
        What to try or to look at.
    note : str
        How to read the sentences.
    """

    state: str
    sentences: tuple[str, ...]
    advice: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Layer:
    """Something to show over the focal plane.

    Attributes
    ----------
    title, unit : str
    values : sequence of float, or of numpy.ndarray of shape (n_y, n_x)
        One for each detector: a number, or cells that divide it evenly, from the corner of pixel (0, 0); NaN: nothing.
    scale : tuple of float
        Values at the ends of the colours.
    diverging : bool
        Whether the middle of the scale stands out.
    note : str
        What one should see.
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
        Edges of a band about it.
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
    """A table; columns ``numbers`` are aligned to the right."""

    def cells(row: Sequence[Any], tag: str) -> str:
        return "".join(
            f'<{tag} class="number">{text(cell)}</{tag}>' if k in numbers else f"<{tag}>{text(cell)}</{tag}>"
            for k, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    legend = f"<caption>{text(caption)}</caption>" if caption else ""
    head = f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{legend}{head}<tbody>\n{body}\n</tbody></table></div>'


def preformatted(words: str) -> str:
    """Text with its lines as they are."""
    return f"<pre>{text(words)}</pre>"


def folded(summary: str, *parts: str) -> str:
    """Parts that are shown when one asks for them."""
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
    """Two maps of the focal plane side by side, each of which shows any of the layers.

    Parameters
    ----------
    detectors : sequence of Detector
    groups : sequence of str
        What each detector's outline tells: two groups at most, and ``""`` for detectors without bins.
    facts : sequence of mapping
        What is shown of each when one points at it, as label to text.
    layers : sequence of Layer
        The first two are shown at first.
    marks : sequence of (float, float, str)
        Places to mark (mm), with what they are.
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
    """Cells as whole numbers of a step, which take little room."""
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
    """Panels above each other over one x.

    Parameters
    ----------
    x_label : str
    panels : sequence of (str, sequence of Series, (float, float))
        Label, what is drawn, and limits of each.
    lines : array_like
        Where thin vertical lines stand.
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
        ``label``, ``unit``, ``text``; ``x`` and ``y`` of the curve, ``low`` and ``high`` of its interval, ``map``; and,
        if there is another curve, ``other`` with ``x`` and ``y``.
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
    """JSON that may stand inside a page: what is not finite is null, and no text ends the script that it stands in."""
    found = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        found = found.replace(character, f"\\u{ord(character):04x}")
    return found


def _finite(data: Any) -> Any:
    """Plain Python, None for numbers that JSON does not have."""
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not math.isfinite(data) else data


# ---- the page ----


def render(title: str, subtitle: str, verdict: Verdict, sections: Sequence[str]) -> str:
    """The whole page.

    Parameters
    ----------
    title, subtitle : str
    verdict : Verdict
    sections : sequence of str
        As `section` makes them.

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
    # in one go: what comes from users is not searched for places to fill
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], template)
