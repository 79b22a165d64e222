"""Stands in for LSST's cameras: the methods that `bayesflat.Camera.from_lsst` uses."""

from types import SimpleNamespace


class _Values(SimpleNamespace):
    """Attributes as methods: ``values.getX()`` is ``values.x``."""

    def __getattr__(self, name):
        for prefix in ("get", "as"):
            if name.startswith(prefix) and name != prefix:
                key = name[len(prefix) :]
                value = self.__dict__[key[0].lower() + key[1:]]
                return lambda: value
        raise AttributeError(name)


def _box(x0, y0, nx, ny):
    return _Values(minX=x0, minY=y0, width=nx, height=ny)


def _detector(d):
    step_x, step_y = d.nx // d.amp_nx, d.ny // d.amp_ny
    boxes = [_box(i * step_x, j * step_y, step_x, step_y) for j in range(d.amp_ny) for i in range(d.amp_nx)]
    return _Values(
        id=d.id, name=d.name, physicalType=d.physical_type, type=f"DetectorType.{d.purpose.upper()}",
        bBox=_box(0, 0, d.nx, d.ny), pixelSize=_Values(x=d.pixel_size, y=d.pixel_size),
        orientation=_Values(
            fpPosition=_Values(x=d.x, y=d.y), referencePoint=_Values(x=d.refpos_x, y=d.refpos_y),
            yaw=_Values(degrees=d.yaw),
        ),
        amplifiers=[_Values(bBox=one) for one in boxes],
    )  # fmt: skip


class Camera(list):
    """A camera of ours as LSST's code has it."""

    def __init__(self, camera):
        super().__init__(_detector(d) for d in camera)
        self.name = camera.name

    def getName(self):
        return self.name

    def __reduce__(self):
        return _restore, (list(self), self.name)


def _restore(detectors, name):
    camera = Camera.__new__(Camera)
    camera.extend(detectors)
    camera.name = name
    return camera
