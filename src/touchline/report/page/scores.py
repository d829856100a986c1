"""Tables of the page beside the scores: labels of a classification, a task's own metrics, kept evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchline.report.colors import CONTROL
from touchline.report.evaluations import HEADER, METRIC_HEADER, evaluation_rows, has_several, metric_rows
from touchline.report.labels import (
    CONFUSION_HEADER,
    LABEL_HEADER,
    MATRIX_LIMIT,
    SUMMARY_HEADER,
    classified,
    confusions,
    label_rows,
    matrix_header,
    summary_rows,
)
from touchline.report.page.cells import Cell, Column, PageTable, TableRow, plain, table_of
from touchline.report.page.details import Inks
from touchline.report.report import Report
from touchline.statistics.labels import LabelReport

_SHADES = 8
_RUNS_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLabels:
    """The tables of one run of a classification."""

    run: str
    """The run."""
    labels: PageTable | None
    """Its labels."""
    confusion: PageTable | None
    """What was taken for what."""


def label_summary(report: Report, inks: Inks) -> PageTable | None:
    """Scores of each run over all labels."""
    return _of(SUMMARY_HEADER, list(summary_rows(report.runs)), inks, texts=1)


def run_labels(report: Report) -> list[RunLabels]:
    """Labels and confusions of each run."""
    return [
        RunLabels(
            run=run.name,
            labels=_of(LABEL_HEADER, list(label_rows(found)), {}, texts=1),
            confusion=_matrix(found) if len(found.labels) <= MATRIX_LIMIT else _listed(found),
        )
        for run, found in classified(report.runs)[:_RUNS_SHOWN]
    ]


def metrics(report: Report, inks: Inks) -> PageTable | None:
    """The metrics that tasks of the user's own declare."""
    return _of(METRIC_HEADER, list(metric_rows(report.runs)), inks, texts=5)


def evaluations(report: Report, inks: Inks) -> PageTable | None:
    """Every evaluation with its decoding, where some are by other settings."""
    return _of(HEADER, list(evaluation_rows(report.runs)), inks, texts=4) if has_several(report.runs) else None


def _matrix(found: LabelReport) -> PageTable | None:
    """The confusion matrix, the share of its row shading each cell."""
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


def _listed(found: LabelReport) -> PageTable | None:
    return _of(
        CONFUSION_HEADER, [(right, read, f"{number:,}") for right, read, number in confusions(found)], {}, texts=2
    )


def _of(header: Sequence[str], rows: Sequence[Sequence[str]], inks: Inks, *, texts: int) -> PageTable | None:
    """A table whose first columns are texts, and whose other cells are numbers where they read as such."""
    made = []
    for row in rows:
        run = row[0] if inks else None
        first = plain(row[0]) if run is None else Cell(text=row[0], ink=inks.get(row[0], CONTROL).number)
        made.append(TableRow(run=run, cells=(first, *(_cell(text) for text in row[1:]))))
    numeric = [place >= texts and any(_number(row[place]) is not None for row in rows) for place in range(len(header))]
    columns = [
        Column(label=name[:1].upper() + name[1:], numeric=is_numeric)
        for name, is_numeric in zip(header, numeric, strict=True)
    ]
    return table_of(columns, made)


def _cell(text: str) -> Cell:
    return Cell(text=text, sort=_number(text))


def _number(text: str) -> float | None:
    try:
        return float(text.removesuffix("%").replace(",", "").strip())
    except ValueError:
        return None
