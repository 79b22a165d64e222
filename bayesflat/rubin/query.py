"""A query of a data repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Query:
    """What the command line selects in a repository.

    Attributes
    ----------
    repo : str
    collections : sequence of str
    physical_filters : sequence of str
        Empty: all that there are flats of.
    dates : sequence of str
        ISO 8601, for CALIBRATION collections.
    instrument : str or None
    where : str
    output_run : str or None
        RUN collection for the results.
    """

    repo: str
    collections: Sequence[str]
    physical_filters: Sequence[str] = ()
    dates: Sequence[str] = ()
    instrument: str | None = None
    where: str = ""
    output_run: str | None = None
