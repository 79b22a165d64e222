"""Numbers, figures and pages that show results; nothing is decided here."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "fit_report":  # a page needs matplotlib, which numbers do not
        from bayesflat.report.fit_page import fit_report

        return fit_report
    raise AttributeError(f"module 'bayesflat.report' has no attribute {name!r}")
