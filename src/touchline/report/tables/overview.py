"""Overview of a report: its bottom line, all runs in brief, and its warnings."""

from __future__ import annotations

from touchline.core.finding import Severity
from touchline.core.table import Section, present
from touchline.core.units import plural
from touchline.report.report import Report
from touchline.report.tables.runs import runs_table

_ISSUES = 5


def overview(report: Report) -> tuple[Section, ...]:
    """Return what a notebook shows of a report."""
    heavy = [issue for issue in report.issues if issue.weight is not Severity.INFO]
    more = (f"and {plural(len(heavy) - _ISSUES, 'more warning')}",) if len(heavy) > _ISSUES else ()
    warnings = tuple(f"{issue.subject}: {issue.title}. {issue.text}" for issue in heavy[:_ISSUES])
    return (
        Section(title="", paragraphs=tuple(each.text for each in report.headline)),
        Section(title="All runs", tables=present(runs_table(report, brief=True))),
        Section(title="Warnings", lines=(*warnings, *more)),
    )
