"""Tables of RESULTS.md beside the scores: labels of a classification, a task's own metrics, kept evaluations."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.markup import code, escape, table
from touchline.report.evaluations import evaluation_table, has_several, metric_table
from touchline.report.formatting import count
from touchline.report.labels import (
    MATRIX_LIMIT,
    classified,
    confusion_table,
    label_table,
    matrix_header,
    summary_table,
)
from touchline.report.report import Report
from touchline.report.table import to_markdown
from touchline.statistics.labels import LabelReport

_RUNS_SHOWN = 12


def more_about_scores(report: Report) -> Iterator[str]:
    """Yield the tables that this report has."""
    yield from _labels(report)
    if metrics := metric_table(report.runs):
        yield "### Metrics as the tasks declare them\n"
        yield to_markdown(metrics)
        yield "Computed by Inspect. Intervals and tests above are of the mean of the primary score over the items.\n"
    if has_several(report.runs) and (evaluations := evaluation_table(report.runs)):
        yield "### Evaluations by decoding\n"
        yield to_markdown(evaluations)
        yield "Comparisons use those marked yes and never mix two decodings; the others stay with logs and scores.\n"


def _labels(report: Report) -> Iterator[str]:
    summary = summary_table(report.runs)
    if summary is None:
        return
    found = classified(report.runs)
    yield "### Labels\n"
    yield to_markdown(summary)
    yield (
        "Majority baseline: what the most frequent label scores as the answer to all. Macro F1 and balanced accuracy: "
        "mean F1 and mean recall over the labels that items have, each label counting alike. An answer from which no "
        "label can be read counts as wrong.\n"
    )
    for run, labels in found[:_RUNS_SHOWN]:
        yield f"#### {code(run.name)}\n"
        if each := label_table(labels):
            yield to_markdown(each)
        yield from _confusion(labels)
    if len(found) > _RUNS_SHOWN:
        yield f"The tables of {count(len(found) - _RUNS_SHOWN, 'more run')} are in report.html.\n"


def _confusion(labels: LabelReport) -> Iterator[str]:
    if len(labels.labels) > MATRIX_LIMIT:
        if confusions := confusion_table(labels):
            yield "Most frequent confusions:\n"
            yield to_markdown(confusions)
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
