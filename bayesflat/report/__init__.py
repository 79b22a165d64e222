"""Numbers, figures and pages that show results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesflat.report.fit_page import fit_report as fit_report


def __getattr__(name: str) -> Any:
    if name == "fit_report":  # the page of a fit imports PyMC, which plots and numbers do not need
        from bayesflat.report.fit_page import fit_report

        return fit_report
    raise AttributeError(f"module 'bayesflat.report' has no attribute {name!r}")
