"""Two parts of the section on trainings: predicted against measured values, and packing of the examples."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from touchline.core.markup import escape, table
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.report import tables
from touchline.report.chart import Chart
from touchline.report.formatting import bare, count, join_names
from touchline.report.markup import figures
from touchline.report.report import EstimateRow, PackingRow, Report
from touchline.report.table import to_markdown

_ESTIMATES_TOLD = 60
"""Maximum number of rows in the table of estimates. With more, it shows those that missed and a count of the others."""


def estimates_part(report: Report, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield the number of intervals that contain the measured value, by quantity, then the estimates."""
    if not report.estimates:
        return
    yield "### Estimate against actual\n"
    if all(isinstance(row.measured, Missing) for row in report.estimates):
        yield f"n/a (nothing was measured yet): {count(len(report.estimates), 'estimate')} in [plan.json](plan.json).\n"
        return
    runs = {run.name: run for run in report.runs}
    by_quantity: dict[str, list[EstimateRow]] = {}
    for row in report.estimates:
        by_quantity.setdefault(row.quantity, []).append(row)
    yield table(
        ("what", "estimates", "interval held", "measured ÷ planned, median"),
        [
            (
                name,
                str(sum(isinstance(row.predicted, Quantity) for row in rows)),
                _held(rows),
                _median_ratio(rows),
            )
            for name, rows in by_quantity.items()
        ],
        right=(1, 2, 3),
    )
    shown = [row for row in report.estimates if len(report.estimates) <= _ESTIMATES_TOLD or row.inside is False]
    if estimates := tables.estimates(shown[:_ESTIMATES_TOLD], runs):
        yield to_markdown(estimates)
    if len(shown) < len(report.estimates):
        yield f"{len(report.estimates) - len(shown):,} estimates that held, or could not be judged, are not listed.\n"
    yield from figures(charts, "estimates")


def _held(rows: Sequence[EstimateRow]) -> str:
    judged = [row for row in rows if row.inside is not None]
    return f"{sum(bool(row.inside) for row in judged)} of {len(judged)}" if judged else "- (none can be judged)"


def _median_ratio(rows: Sequence[EstimateRow]) -> str:
    ratios = [
        row.measured.value / row.predicted.value
        for row in rows
        if row.inside is not None
        and isinstance(row.predicted, Quantity)
        and isinstance(row.measured, Quantity)
        and row.predicted.value > 0
    ]
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def packing_part(report: Report) -> Iterator[str]:
    """Yield packing by run, and the advice for the next plan."""
    if not report.packing:
        return
    yield "### Packing\n"
    counted = any(
        isinstance(value, Quantity)
        for row in report.packing
        for value in (row.density, row.efficiency, row.examples_per_second)
    )
    if not counted:
        yield _uncounted(report.packing)
        return
    if found := tables.packing(report):
        yield to_markdown(found)
    yield "Efficiency: share of the computed positions that hold a token.\n"
    if report.packing_advice:
        yield "For the next plan:\n"
        yield "\n".join(f"- {escape(line)}" for line in report.packing_advice) + "\n"


def _uncounted(rows: Sequence[PackingRow]) -> str:
    """Return which runs were packed, if nothing else is known."""
    ways = {"yes": "Packed", "no": "Not packed"}
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.packed, []).append(row.run)
    told = [f"{escape(ways.get(packed, packed))}: {escape(join_names(runs))}." for packed, runs in names.items()]
    return f"{' '.join(told)} No log says how the examples lay in rows.\n"


def memory_cell(value: Measured, told: bool) -> str:
    """Return a memory value with its kind, unless the table's heading already has it."""
    kind = "" if told or isinstance(value, Missing) or value.kind is None else f" ({value.kind})"
    return escape(bare(value, 3)) + kind
