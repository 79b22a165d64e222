"""Draw the built-in cameras as they are in the tables: ``docs/images/cameras.png``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from bayesflat.data.camera import NAMED_CAMERAS, Camera
from bayesflat.report.figures import save_figure

OUT = Path(__file__).parent.parent / "docs" / "images" / "cameras.png"
COLOURS = {"ITL": "#f3c6e0", "": "#dfe8f2", "other": "#f2ecd9"}


def main() -> None:
    """Write the figure."""
    figure = Figure(figsize=(12, 12.4), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, NAMED_CAMERAS, strict=True):
        draw(axes, NAMED_CAMERAS[name]())
    save_figure(figure, OUT)


def draw(axes, camera: Camera) -> None:
    """Outlines of the detectors, filled by kind, each with its id and a dot in the corner of pixel (0, 0)."""
    corners = np.array([d.corners() for d in camera])
    kinds = ["other" if not d.is_science else "ITL" if d.is_itl and camera.name == "LSSTCam" else "" for d in camera]
    axes.add_collection(
        PolyCollection(list(corners), facecolors=[COLOURS[kind] for kind in kinds], edgecolors="0.3", linewidths=0.6)
    )
    first = corners[:, 0] + 0.08 * (corners.mean(axis=1) - corners[:, 0])
    axes.plot(*first.T, ".", color="#c02020", markersize=2.5)
    for detector, place in zip(camera, corners.mean(axis=1), strict=True):
        axes.text(*place, str(detector.id), ha="center", va="center", fontsize=5.5 if len(camera) > 9 else 9)
    reach = 1.04 * float(np.abs(corners).max())
    science = len(camera.science())
    title = f"{camera.name}: {science} science detectors" + (
        f", {len(camera) - science} others" * (science < len(camera))
    )
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    axes.set(xlabel="x on the focal plane (mm)", ylabel="y on the focal plane (mm)")


if __name__ == "__main__":
    main()
