"""LSST's tasks for ``pipetask`` and BPS, drop-ins for ``cpFlatFitGradients`` and ``cpFlatApplyGradients``.

Importing this needs ``lsst-pipe-base``: the extra ``pipelines``, or LSST's stack.
"""

try:
    import lsst.pipe.base  # noqa: F401
except ImportError:
    raise ImportError("bayesflat.rubin.tasks needs lsst-pipe-base; pip install 'bayesflat[pipelines]'") from None

from bayesflat.rubin.tasks.apply import ApplyFlatGradientsConfig, ApplyFlatGradientsTask
from bayesflat.rubin.tasks.compare import CompareFlatGradientsConfig, CompareFlatGradientsTask
from bayesflat.rubin.tasks.fit import FitFlatGradientsConfig, FitFlatGradientsTask

__all__ = [
    "ApplyFlatGradientsConfig",
    "ApplyFlatGradientsTask",
    "CompareFlatGradientsConfig",
    "CompareFlatGradientsTask",
    "FitFlatGradientsConfig",
    "FitFlatGradientsTask",
]
