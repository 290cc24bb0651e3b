"""Reports: one self-contained HTML file for a run, and the verdict in words. No torch, no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.reports.dashboard import write_study as write_study
    from nas.reports.front import UNITS as UNITS
    from nas.reports.front import objective_text as objective_text
    from nas.reports.judge import Estimate as Estimate
    from nas.reports.judge import FinalTest as FinalTest
    from nas.reports.judge import Verdict as Verdict
    from nas.reports.judge import verdict as verdict
    from nas.reports.page import recipe_text as recipe_text
    from nas.reports.page import report_html as report_html
    from nas.reports.page import seconds_text as seconds_text
    from nas.reports.page import write_report as write_report

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Estimate": "nas.reports.judge",
        "FinalTest": "nas.reports.judge",
        "UNITS": "nas.reports.front",
        "Verdict": "nas.reports.judge",
        "objective_text": "nas.reports.front",
        "recipe_text": "nas.reports.page",
        "report_html": "nas.reports.page",
        "seconds_text": "nas.reports.page",
        "verdict": "nas.reports.judge",
        "write_report": "nas.reports.page",
        "write_study": "nas.reports.dashboard",
    },
)
