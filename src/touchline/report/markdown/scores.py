"""Tables of RESULTS.md beside the scores: labels of a classification, a task's own metrics, kept evaluations."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.markup import code, escape, table
from touchline.report.evaluations import HEADER, METRIC_HEADER, evaluation_rows, has_several, metric_rows
from touchline.report.formatting import count
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
from touchline.report.report import Report
from touchline.statistics.labels import LabelReport

_RUNS_SHOWN = 12


def more_about_scores(report: Report) -> Iterator[str]:
    """Give the tables that this report has."""
    yield from _labels(report)
    if rows := list(metric_rows(report.runs)):
        yield "### Metrics as the tasks declare them\n"
        yield table(METRIC_HEADER, [(code(row[0]), *map(escape, row[1:])) for row in rows], right=(5,))
        yield "Computed by Inspect. Intervals and tests above are of the mean of the primary score over the items.\n"
    if has_several(report.runs):
        yield "### Evaluations by decoding\n"
        yield table(
            HEADER, [(code(row[0]), *map(escape, row[1:])) for row in evaluation_rows(report.runs)], right=(4, 5)
        )
        yield "Comparisons use those marked yes and never mix two decodings; the others stay with logs and scores.\n"


def _labels(report: Report) -> Iterator[str]:
    found = classified(report.runs)
    if not found:
        return
    yield "### Labels\n"
    rows = [(code(row[0]), *row[1:]) for row in summary_rows(report.runs)]
    yield table(SUMMARY_HEADER, rows, right=tuple(range(1, len(SUMMARY_HEADER))))
    yield (
        "Majority baseline: what the most frequent label scores as the answer to all. Macro F1 and balanced accuracy: "
        "mean F1 and mean recall over the labels that items have, each label counting alike. An answer from which no "
        "label can be read counts as wrong.\n"
    )
    for run, labels in found[:_RUNS_SHOWN]:
        yield f"#### {code(run.name)}\n"
        yield table(
            LABEL_HEADER,
            [tuple(map(escape, row)) for row in label_rows(labels)],
            right=tuple(range(1, len(LABEL_HEADER))),
        )
        yield from _confusion(labels)
    if len(found) > _RUNS_SHOWN:
        yield f"The tables of {count(len(found) - _RUNS_SHOWN, 'more run')} are in report.html.\n"


def _confusion(labels: LabelReport) -> Iterator[str]:
    if len(labels.labels) > MATRIX_LIMIT:
        yield "Most frequent confusions:\n"
        rows = [(escape(right), escape(read), f"{number:,}") for right, read, number in confusions(labels)]
        yield table(CONFUSION_HEADER, rows, right=(2,))
        return
    yield "Confusion matrix, right label by row and label that was read by column:\n"
    header = matrix_header(labels)
    yield table(
        [escape(name) for name in header],
        [
            (escape(each.label), *(f"{number:,}" for number in row))
            for each, row in zip(labels.labels, labels.confusion, strict=True)
        ],
        right=tuple(range(1, len(header))),
    )
