"""View of the rules on data: the rows of all splits by one layout, and counts shared by all rules."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from touchline.core.finding import Location, Severity
from touchline.core.text import first_of
from touchline.data.candidates import Candidates, candidates_in, candidates_of_prompt, template_of
from touchline.data.columns import (
    ColumnMapping,
    Turns,
    Values,
    column_counts,
    find_layout,
    group_of,
    media_of,
    text_of,
    turns_of,
)
from touchline.lint.rule import Violation

_LABEL_LENGTH = 60
_LABELS = 500
_SHORT_WORDS = 5
_QUESTION_ROWS = 5
"""Minimum number of rows of one question for findings on its answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRow:
    """Row in the view's layout."""

    split: str
    """Split of the row; `all` in a file without splits."""
    number: int
    """Number of the row in its split, from 1."""
    line: int | None
    values: Values
    prompt: str
    asked: str
    answer: str | None
    media: tuple[str, ...]
    candidates: Candidates | None
    question: str
    """Kind of its question."""
    key: int
    """Hash of the full model input: equal for rows with the same question."""
    beside: int
    """Hash without the prompt: media, allowed answers, and other columns that distinguish rows."""
    fault: str | None = None

    @property
    def label(self) -> str:
        """Return the answer without surrounding white space. Empty if there is none."""
        return (self.answer or "").strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingMedia:
    """Results of the search for media files of the rows."""

    checked: int
    missing: tuple[str, ...]
    empty: tuple[str, ...] = ()
    root: str | None = None
    """Folder that they are relative to; None if it was not given and no folder contains any of them."""
    stated: bool = False
    """Whether the user named that folder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataView:
    """View of a dataset."""

    path: str
    format: str
    files: Mapping[str, str]
    splits: Mapping[str, Sequence[DataRow]]
    layout: ColumnMapping
    media: MissingMedia | None = None

    def where(self, row: DataRow) -> Location:
        """Return the row's location."""
        return Location(path=self.files.get(row.split, self.path), line=row.line)

    @property
    def rows(self) -> Iterator[DataRow]:
        """Yield all rows, split by split."""
        for rows in self.splits.values():
            yield from rows

    @functools.cached_property
    def count(self) -> int:
        """Return the number of rows of all splits."""
        return sum(len(rows) for rows in self.splits.values())

    @property
    def trained(self) -> str:
        """Return the training split."""
        return "train" if self.splits.get("train") else next(iter(self.splits), "all")

    @property
    def held_out(self) -> tuple[str, ...]:
        """Return the splits that are not trained on."""
        return tuple(name for name in self.splits if name != self.trained)

    @property
    def scored(self) -> str:
        """Return the split that answers are scored on: test, validation, or the only one."""
        return next((name for name in ("test", "validation", "all", "train") if self.splits.get(name)), self.trained)

    @functools.cached_property
    def labels(self) -> dict[str, Counter[str]]:
        """Split to its answers and how often they occur; empty ones left out."""
        return {
            name: Counter(label for row in rows if (label := row.label)) for name, rows in sorted(self.splits.items())
        }

    @functools.cached_property
    def all_labels(self) -> Counter[str]:
        """Return the same over all splits."""
        total: Counter[str] = Counter()
        for counts in self.labels.values():
            total.update(counts)
        return total

    @functools.cached_property
    def closed(self) -> bool:
        """Return True if answers are labels: few different ones, each short."""
        labels = self.all_labels
        total = sum(labels.values())
        return (
            self.layout.kind != "text"
            and 0 < len(labels) <= min(_LABELS, total // 4)
            and max(map(len, labels)) <= _LABEL_LENGTH
        )

    @functools.cached_property
    def short(self) -> bool:
        """Return True if most answers have only a few words."""
        labels = self.all_labels
        brief = sum(
            count
            for label, count in labels.items()
            if len(label) <= _LABEL_LENGTH and len(label.split(None, _SHORT_WORDS)) <= _SHORT_WORDS
        )
        return self.layout.kind != "text" and brief * 10 >= sum(labels.values()) * 9 > 0

    @functools.cached_property
    def questions(self) -> dict[str, list[DataRow]]:
        """Return the frequent kinds of questions of the scored split, whose rows differ in their media or text."""
        return _questions_of(self.splits.get(self.scored, ()))


def _questions_of(rows: Sequence[DataRow]) -> dict[str, list[DataRow]]:
    """Return rows by their kind of question, for kinds with enough different rows."""
    found: defaultdict[str, list[DataRow]] = defaultdict(list)
    for row in rows:
        if row.label:
            found[row.question].append(row)
    return {
        question: asked
        for question, asked in sorted(found.items())
        if len(asked) >= _QUESTION_ROWS and len({row.key for row in asked}) >= _QUESTION_ROWS
    }


def layout_of(splits: Mapping[str, Sequence[tuple[Values, int | None]]]) -> ColumnMapping | None:
    """Derive a layout from column names. None if they do not determine one."""
    counts, kinds = column_counts(values for rows in splits.values() for values, _ in rows)
    return find_layout(counts, kinds)


def data_rows(
    splits: Mapping[str, Sequence[tuple[Values, int | None]]], layout: ColumnMapping
) -> dict[str, tuple[DataRow, ...]]:
    """Return rows in a layout.

    Args:
        splits: the rows of each split, each with its line if known.
    """
    read = {name: [(values, line, turns_of(values, layout)) for values, line in rows] for name, rows in splits.items()}
    kinds: Counter[str] = Counter(
        group_of(values, layout, turns.asked) for rows in read.values() for values, _, turns in rows
    )
    total = sum(kinds.values())
    # If every question is unique, their common prefix counts as the question.
    alone = sum(1 for count in kinds.values() if count == 1) * 2 > total
    return {
        name: tuple(_row(name, number, *each, layout, alone) for number, each in enumerate(rows, 1))
        for name, rows in read.items()
    }


def _row(
    split: str, number: int, values: Values, line: int | None, turns: Turns, layout: ColumnMapping, alone: bool
) -> DataRow:
    candidates = candidates_in(values, layout.candidates)
    if candidates is None and layout.kind != "text":
        candidates = candidates_of_prompt(turns.asked)
    shown = (turns.media, *(text_of(values.get(name)) for name in (*layout.media, *layout.others)))
    if layout.candidates is not None and candidates is not None:
        shown = (*shown, candidates)
    return DataRow(
        split=split,
        number=number,
        line=line,
        values=values,
        prompt=turns.prompt,
        asked=turns.asked,
        answer=turns.answer,
        media=turns.media or media_of(values, layout),
        candidates=candidates,
        question=template_of(turns.asked) if alone else group_of(values, layout, turns.asked),
        key=hash((turns.prompt, *shown) if layout.kind != "text" else turns.answer),
        beside=hash(shown),
        fault=turns.fault,
    )


_SHOWN = 5


def violation_in_rows(
    view: DataView,
    rows: Sequence[DataRow],
    message: str,
    *,
    hint: str | None = None,
    severity: Severity | None = None,
) -> Violation:
    """Return a violation at the first of some rows, with their count and first lines in the message."""
    first = rows[0]
    at = view.where(first)
    if len(rows) > 1:
        message = f"{message} ({len(rows):,} rows of {view.count:,}: {places(view, rows)})"
    elif at.line is None:
        message = f"{message} ({first.split} row {first.number:,})"
    return Violation(message, at, hint, subject=first.split, severity=severity)


def places(view: DataView, rows: Sequence[DataRow]) -> str:
    """Return `lines 3, 7, ...`, or `train rows 3, 7` in formats without lines."""
    lines = [view.where(row).line for row in rows[: _SHOWN + 1]]
    # A JSON file may have all its rows on one line.
    if None not in lines and len({*lines}) == len(lines):
        return f"line{'s' if len(lines) > 1 else ''} {first_of(map(str, lines), _SHOWN)}"
    return f"row{'s' if len(lines) > 1 else ''} {first_of((str(row.number) for row in rows), _SHOWN)}"


def at_file(view: DataView, split: str | None = None) -> Location:
    """Return the location of a split's file, or of the first file."""
    files = view.files
    return Location(path=files.get(split or view.trained, next(iter(files.values()), view.path)))


def percent(count: int, total: int) -> str:
    """Format a share in percent, never rounded to 0 or 100 unless it is exactly that."""
    share = 100 * count / total if total else 0.0
    if 0 < count < total:
        share = min(max(share, 0.01), 99.99)
    return f"{share:.3g}%" if share < 99.5 or count == total else f"{share:.2f}%"
