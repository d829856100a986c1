"""Rules on duplicate rows: within a split, and across splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from touchline.core.finding import Severity
from touchline.data.text import normal, short
from touchline.lint.data_view import DataRow, DataView, percent, violation_in_rows
from touchline.lint.rule import Violation, rule

_MANY = 0.02
"""Share of the rows from which duplicates are not an accident."""
_SMALL = 500
"""Number of rows up to which every duplicate counts."""
_LEAKED = 0.10
"""Share of seen rows in a split from which its score is not valid."""
_FEW = 0.01


@rule("DA310", Severity.INFO)
def duplicate_rows(view: DataView) -> Iterator[Violation]:
    """Report rows that occur more than once in their split."""
    for split, rows in view.splits.items():
        seen: set[tuple[int, str]] = set()
        again: list[DataRow] = []
        for row in rows:
            key = (row.key, row.label)
            if key in seen:
                again.append(row)
            seen.add(key)
        if again:
            # In a small hand-made file each duplicate matters. Large web collections contain some.
            many = len(again) >= _MANY * len(rows) or len(rows) <= _SMALL
            severity = Severity.WARNING if many else None
            share = percent(len(again), len(rows))
            message = f"{split}: {share} of the rows repeat an earlier one, for example {short(again[0].asked)}"
            hint = "a random split of this file puts some on both sides" if split == "all" else None
            yield violation_in_rows(view, again, message, severity=severity, hint=hint)


@rule("DA311", Severity.WARNING)
def conflicting_answers(view: DataView) -> Iterator[Violation]:
    """Report questions with different answers."""
    if view.layout.kind == "text" or view.layout.rejected is not None:
        return
    first: dict[int, DataRow] = {}
    other: list[DataRow] = []
    for row in view.rows:
        if row.label and row.prompt.strip():
            earlier = first.setdefault(row.key, row)
            if earlier.label != row.label:
                other.append(row)
    # Another rule reports a single prompt for all rows.
    if not other or len(first) == 1:
        return
    earlier = first[other[0].key]
    message = f"{short(other[0].asked)} has the answers {short(earlier.label)} and {short(other[0].label)}"
    yield violation_in_rows(view, other, message, severity=None if view.short else Severity.INFO)


@rule("DA312", Severity.WARNING)
def train_test_overlap(view: DataView) -> Iterator[Violation]:
    """Report held-out questions that also occur in the training split, or test questions in the validation split."""
    trained = {row.key for row in view.splits.get(view.trained, ())}
    for name in view.held_out:
        rows = view.splits[name]
        seen = [row for row in rows if row.key in trained]
        if seen and len(trained) > 1:
            severity = Severity.ERROR if len(seen) >= _LEAKED * len(rows) else None
            yield _overlap(view, name, view.trained, seen, severity)
    if view.trained in ("validation", "test") or view.layout.kind == "text":
        return
    validated = {row.key for row in view.splits.get("validation", ())} - trained
    both = [row for row in view.splits.get("test", ()) if row.key in validated]
    if both and len({row.key for row in view.rows}) > 1:
        yield _overlap(view, "test", "validation", both, None)


def _overlap(view: DataView, name: str, other: str, rows: list[DataRow], severity: Severity | None) -> Violation:
    share = percent(len(rows), len(view.splits[name]))
    message = f"{share} of {name} is in {other} too, for example {short(rows[0].asked or rows[0].label)}"
    return violation_in_rows(view, rows, message, severity=severity, hint=f"take these rows out of {name}")


@rule("DA313", Severity.INFO)
def near_train_test_overlap(view: DataView) -> Iterator[Violation]:
    """Report held-out questions that differ from training questions in case, space or punctuation only."""
    if not view.held_out or view.layout.kind == "text":
        return
    held = {name: _normal_keys(view.splits[name]) for name in view.held_out}
    wanted = set().union(*held.values())
    exact: set[int] = set()
    near: set[int] = set()
    for row in view.splits.get(view.trained, ()):
        exact.add(row.key)
        if (key := _normal_key(row)) in wanted:
            near.add(key)
    if len(exact) == 1:
        return
    for name, keys in held.items():
        rows = [row for key, found in keys.items() if key in near for row in found if row.key not in exact]
        # A word and its upper-case form are different questions if answers are about letters.
        rows = sorted((row for row in rows if len(row.asked.split()) > 2), key=lambda row: row.number)
        if rows:
            few = len(rows) < _FEW * len(view.splits[name]) and len(view.splits[name]) > _SMALL
            severity = None if few else Severity.WARNING
            share = percent(len(rows), len(view.splits[name]))
            message = (
                f"{share} of {name} is in {view.trained} too except for case, white space or punctuation, for example "
                f"{short(rows[0].asked)}"
            )
            yield violation_in_rows(view, rows, message, severity=severity, hint=f"take these rows out of {name}")


def _normal_keys(rows: Iterable[DataRow]) -> dict[int, list[DataRow]]:
    found: defaultdict[int, list[DataRow]] = defaultdict(list)
    for row in rows:
        found[_normal_key(row)].append(row)
    return dict(found)


def _normal_key(row: DataRow) -> int:
    return hash((normal(row.prompt), row.beside))
