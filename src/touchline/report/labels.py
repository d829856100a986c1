"""Tables of a classification, label by label."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.units import percent
from touchline.report.table import Column, Figure, Table, table_of
from touchline.results.run_result import RunResult
from touchline.statistics.labels import LabelReport

_SUMMARY = ("accuracy", "majority baseline", "macro F1", "balanced accuracy", "no label read", "answers")
_LABEL = ("items", "read as it", "right", "precision", "recall", "F1")
MATRIX_LIMIT = 20
"""Maximum number of labels in a matrix. With more, its largest confusions are listed."""
_CONFUSION = (Column("right label"), Column("read as"), Column("answers", numeric=True))
NO_LABEL = "none"
_LISTED = 20


def classified(runs: Sequence[RunResult]) -> list[tuple[RunResult, LabelReport]]:
    """Return the runs that were scored as a classification."""
    return [(run, run.labels) for run in runs if run.labels is not None and run.labels.answers]


def summary_table(runs: Sequence[RunResult]) -> Table | None:
    """Return the scores of each run over all labels."""
    columns = (Column("run", code=True), *(Column(label, numeric=True) for label in _SUMMARY))
    return table_of(
        columns,
        [
            (
                run.name,
                *map(share, (found.accuracy, found.majority, found.macro_f1, found.balanced_accuracy)),
                *(found.unread, found.answers),
            )
            for run, found in classified(runs)
        ],
    )


def label_table(found: LabelReport) -> Table | None:
    """Return the scores of each label."""
    columns = (Column("label"), *(Column(label, numeric=True) for label in _LABEL))
    return table_of(
        columns,
        [
            (each.label, each.items, each.predicted, each.right, *map(share, (each.precision, each.recall, each.f1)))
            for each in found.labels
        ],
        by_run=False,
    )


def matrix_header(found: LabelReport) -> tuple[str, ...]:
    """Return the columns of a confusion matrix."""
    return ("right label", *(each.label for each in found.labels), NO_LABEL)


def confusion_table(found: LabelReport) -> Table | None:
    """Return the most frequent confusions."""
    names = [*(each.label for each in found.labels), NO_LABEL]
    wrong = [
        (each.label, names[column], number)
        for row, each in enumerate(found.labels)
        for column, number in enumerate(found.confusion[row])
        if number and column != row
    ]
    return table_of(_CONFUSION, sorted(wrong, key=lambda each: -each[2])[:_LISTED], by_run=False)


def share(value: float | None) -> Figure:
    """Return a share as a percentage, or `–` where it is not defined."""
    return Figure("–") if value is None else Figure(percent(value), value)
