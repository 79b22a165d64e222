"""Stands in for LSST's defects; there is no class of gradients here."""

from types import SimpleNamespace

from bayesflat.data.defects import read_boxes


class Defects(list):
    """Defects, each with a box."""

    @classmethod
    def readFits(cls, path):
        return cls(_defect(box) for box in read_boxes(path))


def _defect(box):
    corner = {"getMinX": box.x0, "getMinY": box.y0, "getWidth": box.width, "getHeight": box.height}
    methods = SimpleNamespace(**{name: (lambda value=value: value) for name, value in corner.items()})
    return SimpleNamespace(getBBox=lambda: methods)
