"""Figures at the top of the page."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.units import hours_unit
from touchline.report.facts import is_asked_about
from touchline.report.formatting import is_at_least, scale_of
from touchline.report.report import Report
from touchline.statistics.conclusions import Analysis


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Figure at the top of the page."""

    value: str
    """Value of the figure."""
    label: str
    """Label of the figure."""
    kind: str = ""
    """`bad` or `warn` if it needs attention."""
    run: str | None = None
    """Run of the figure."""


def cards(report: Report) -> tuple[Card, ...]:
    """Return the completed runs, the highest score and its difference from its control, the cost, and the warnings."""
    made = [Card(value=f"{report.completed:,}/{len(report.runs):,}", label="runs complete")]
    if report.analyses:
        made += _score_cards(report, report.analyses[0])
    hours = report.device_hours
    if not isinstance(hours, Missing):
        planned = report.device_hours_planned
        said = "" if isinstance(planned, Missing) else f"; predicted {planned.value:.3g}"
        made.append(
            Card(
                value=f"{'≥ ' if is_at_least(hours) else ''}{hours.value:.3g}",
                label=f"{hours_unit(report.device)}{said}",
            )
        )
    for weight, noun, kind in ((Severity.ERROR, "error", "bad"), (Severity.WARNING, "warning", "warn")):
        number = sum(issue.weight is weight for issue in report.issues)
        if number:
            made.append(Card(value=f"{number:,}", label=noun if number == 1 else f"{noun}s", kind=kind))
    return tuple(made)


def _score_cards(report: Report, analysis: Analysis) -> list[Card]:
    asked = {run.name for run in report.runs if is_asked_about(run)}
    scale = scale_of(analysis)
    best = max((s for s in analysis.scores if s.run in asked), key=lambda score: score.value, default=None)
    if best is None:
        return []
    made = [Card(value=scale.value(best.value), label=f"highest: {best.run}", run=best.run)]
    compared = next((each for each in analysis.comparisons if each.run == best.run), None)
    if compared is not None:
        found = compared.difference
        ends = scale.ends(found.low, found.high)
        made.append(Card(value=scale.difference(found.value), label=f"over its control, {ends}", run=best.run))
    return made
