"""Tables of the page beside the scores: labels of a classification, a task's own metrics, kept evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.report.labels import MATRIX_LIMIT, classified, confusion_table, label_table, matrix_header
from touchline.report.page.cells import Cell, Column, PageTable, TableRow, page_table, plain, table_of
from touchline.report.report import Report
from touchline.statistics.labels import LabelReport

_SHADES = 8
_RUNS_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLabels:
    """Tables of a run's classification."""

    run: str
    """Name of the run."""
    labels: PageTable | None
    """Scores by label."""
    confusion: PageTable | None
    """Most frequent confusions."""


def run_labels(report: Report) -> list[RunLabels]:
    """Return the labels and confusions of each run."""
    return [
        RunLabels(
            run=run.name,
            labels=page_table(label_table(found)),
            confusion=_matrix(found) if len(found.labels) <= MATRIX_LIMIT else page_table(confusion_table(found)),
        )
        for run, found in classified(report.runs)[:_RUNS_SHOWN]
    ]


def _matrix(found: LabelReport) -> PageTable | None:
    """Return the confusion matrix. Each cell is shaded by its share of the row."""
    rows = []
    for place, (each, row) in enumerate(zip(found.labels, found.confusion, strict=True)):
        cells = [
            Cell(
                text=f"{number:,}",
                sort=number,
                kind=f"{'hit' if place == column else 'miss'} h{round(_SHADES * number / max(each.items, 1))}",
            )
            for column, number in enumerate(row)
        ]
        rows.append(TableRow(cells=(plain(each.label), *cells)))
    columns = [Column(label=name, numeric=place > 0) for place, name in enumerate(matrix_header(found))]
    return table_of(columns, rows)
