"""Figures of a report, as Vega-Lite specs with embedded data, for the browser and for PNG files."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.report.figures import Chart, figures_off
from touchline.report.report import Report

SHOWN, FOLDED = "findings", "scores"
"""Sections of the figures of scores: the two that answer the question, and the others."""


def charts(report: Report) -> tuple[Chart, ...]:
    """Return the figures that the report has data for, in section order. Empty without the extra `report`."""
    return () if figures_off() else tuple(chart for chart in _drawn(report) if chart is not None)


def _drawn(report: Report) -> Iterator[Chart | None]:
    # These modules import altair, which may be missing.
    from touchline.report.charts.scores import contrasts, differences, scores
    from touchline.report.charts.training import estimates, training_loss, validation_loss
    from touchline.report.colors import inks

    colours = inks(report)
    own = report.analyses[0] if report.analyses else None
    for analysis in report.analyses:
        # The figure that answers the question is shown first: effects tested over seeds, else gains over the control.
        is_tested = any(contrast.test is not None for each in analysis.effects for contrast in each.contrasts)
        yield scores(report, analysis, colours, SHOWN if analysis is own else FOLDED)
        yield differences(report, analysis, colours, FOLDED if is_tested or analysis is not own else SHOWN)
        if analysis is own:
            yield contrasts(analysis, SHOWN if is_tested else FOLDED)
    yield training_loss(report, colours)
    yield validation_loss(report, colours)
    yield estimates(report, colours)
