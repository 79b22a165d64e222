"""The folders of compiled code, without which nothing can be fitted: can they be written, and what moves them?"""

from __future__ import annotations

import tempfile

from bayesflat.errors import InputError, first_line


def check_caches() -> None:
    """Load what compiles code, before there is work to lose.

    Raises
    ------
    InputError
        The cache of PyTensor or Numba cannot be written, as where the home folder cannot.
    """
    try:
        import pytensor

        for folder in (pytensor.config.base_compiledir, pytensor.config.compiledir):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except (OSError, ValueError) as error:
        raise InputError(
            f"PyTensor's cache of compiled code cannot be written ({first_line(error)}); "
            "the variable PYTENSOR_FLAGS=base_compiledir=FOLDER puts it elsewhere"
        ) from None
    try:
        import bayesflat.inference.fitting  # noqa: F401
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        raise InputError(
            f"Numba's cache of compiled code cannot be written ({first_line(error)}); "
            "the variable NUMBA_CACHE_DIR=FOLDER puts it elsewhere"
        ) from None
