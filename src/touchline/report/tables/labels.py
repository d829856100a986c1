"""Tables of a classification, label by label."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.table import Cell, Column, Table, Value, present, table_of
from touchline.core.units import percent
from touchline.results.run_result import RunResult
from touchline.statistics.labels import LabelReport

_SUMMARY = ("accuracy", "majority baseline", "macro F1", "balanced accuracy", "no label read", "answers")
_LABEL = ("items", "read as it", "right", "precision", "recall", "F1")
_MATRIX_LIMIT = 20
"""Maximum number of labels in a matrix. With more, its largest confusions are listed."""
_NO_LABEL = "none"
_LISTED = 20
_LEGEND = (
    "Majority baseline: what the most frequent label scores as the answer to all. Macro F1 and balanced accuracy: mean "
    "F1 and mean recall over the labels that items have, each label counting alike. An answer from which no label can "
    "be read counts as wrong."
)


def label_tables(runs: Sequence[RunResult], most: int) -> tuple[Table, ...]:
    """Return the scores of each run over all labels, then the labels and confusions of the first `most` runs."""
    found = [(run.name, run.labels) for run in runs if run.labels is not None and run.labels.answers]
    more = f" {len(found) - most:,} more runs have such tables." if len(found) > most else ""
    columns = (Column("run", code=True), *(Column(label, numeric=True) for label in _SUMMARY))
    summary = table_of(
        columns,
        [
            (
                name,
                *map(_share, (each.accuracy, each.majority, each.macro_f1, each.balanced_accuracy)),
                *(each.unread, each.answers),
            )
            for name, each in found
        ],
        "Labels",
        by_run=True,
        notes=(_LEGEND + more,),
    )
    by_run = [table for name, each in found[:most] for table in (_by_label(name, each), _confusion(name, each))]
    return present(summary, *by_run)


def _by_label(run: str, found: LabelReport) -> Table | None:
    """Return the scores of each label."""
    rows = [
        (each.label, each.items, each.predicted, each.right, *map(_share, (each.precision, each.recall, each.f1)))
        for each in found.labels
    ]
    return table_of(("label", *(Column(label, numeric=True) for label in _LABEL)), rows, f"{run}: scores by label")


def _confusion(run: str, found: LabelReport) -> Table | None:
    """Return the confusion matrix. With many labels, its most frequent confusions."""
    names = [*(label.label for label in found.labels), _NO_LABEL]
    if len(found.labels) > _MATRIX_LIMIT:
        wrong = [
            (each.label, names[column], number)
            for row, each in enumerate(found.labels)
            for column, number in enumerate(found.confusion[row])
            if number and column != row
        ]
        columns = ("right label", "read as", Column("answers", numeric=True))
        most = sorted(wrong, key=lambda each: -each[2])[:_LISTED]
        return table_of(columns, most, f"{run}: most frequent confusions")
    rows: list[tuple[Value, ...]] = []
    for place, (each, row) in enumerate(zip(found.labels, found.confusion, strict=True)):
        shares = [(1 if place == column else -1) * number / max(each.items, 1) for column, number in enumerate(row)]
        cells = [Cell(f"{number:,}", number, shade=share) for number, share in zip(row, shares, strict=True)]
        rows.append((each.label, *cells))
    return table_of(
        ("right label", *(Column(name, numeric=True) for name in names)),
        rows,
        f"{run}: confusion matrix",
        notes=("Right label by row, label that was read by column.",),
    )


def _share(value: float | None) -> Value:
    """Return a share as a percentage. None where it is not defined."""
    return None if value is None else Cell(percent(value), value)
