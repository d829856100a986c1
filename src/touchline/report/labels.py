"""A classification, label by label: the cells of its tables, for RESULTS.md and the page alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.report.formatting import percent
from touchline.results.run_result import RunResult
from touchline.statistics.labels import LabelReport

SUMMARY_HEADER = ("run", "accuracy", "majority baseline", "macro F1", "balanced accuracy", "no label read", "answers")
LABEL_HEADER = ("label", "items", "read as it", "right", "precision", "recall", "F1")
MATRIX_LIMIT = 20
"""A matrix of more labels is no picture; its largest confusions are listed."""
CONFUSION_HEADER = ("right label", "read as", "answers")
NO_LABEL = "none"
_LISTED = 20


def classified(runs: Sequence[RunResult]) -> list[tuple[RunResult, LabelReport]]:
    """Return the runs that were scored on a classification."""
    return [(run, run.labels) for run in runs if run.labels is not None and run.labels.answers]


def summary_rows(runs: Sequence[RunResult]) -> Iterator[tuple[str, ...]]:
    """Give the scores of each run over all labels."""
    for run, found in classified(runs):
        yield (
            run.name,
            percent(found.accuracy),
            percent(found.majority),
            share(found.macro_f1),
            share(found.balanced_accuracy),
            f"{found.unread:,}",
            f"{found.answers:,}",
        )


def label_rows(found: LabelReport) -> Iterator[tuple[str, ...]]:
    """Give the scores of each label."""
    for each in found.labels:
        counts = (f"{each.items:,}", f"{each.predicted:,}", f"{each.right:,}")
        yield each.label, *counts, share(each.precision), share(each.recall), share(each.f1)


def matrix_header(found: LabelReport) -> tuple[str, ...]:
    """Return the columns of a confusion matrix."""
    return ("right label", *(each.label for each in found.labels), NO_LABEL)


def confusions(found: LabelReport) -> list[tuple[str, str, int]]:
    """Return what was taken for what most often: right label, label that was read, answers."""
    names = [*(each.label for each in found.labels), NO_LABEL]
    wrong = [
        (each.label, names[column], number)
        for row, each in enumerate(found.labels)
        for column, number in enumerate(found.confusion[row])
        if number and column != row
    ]
    return sorted(wrong, key=lambda each: -each[2])[:_LISTED]


def share(value: float | None) -> str:
    """Return a share as a percentage, or `–` where it is not defined."""
    return "–" if value is None else percent(value)
