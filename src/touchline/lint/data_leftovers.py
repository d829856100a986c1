"""Rules on what was left in the rows by the program that made them, and on rows that are not like the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.text import misspells, short
from touchline.lint.data_messages import at_file, percent, violation_in_rows
from touchline.lint.data_view import DataRow, DataView
from touchline.lint.rule import Violation, rule

_USUAL = 10
"""Rows that a label needs before another one can be a misspelling of it."""
_RARE = 2
_LABELS = 60
_CANNED_LENGTH = 15
_CANNED_ROWS = 4
_CANNED = 0.04
_TELLING = 0.95
_TOLD_ROWS = 20
_MOST = 0.9
_CHOICES = 2
_ONE_IN = 10
_FREQUENT = 5
_LONGEST_PATH = 1_000
_SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}|\{(\w+)\}")
_SLOTS = frozenset({"input", "text", "question", "context", "instruction", "answer", "prompt", "output", "sentence"})


@rule("DA387", Severity.WARNING)
def unfilled_placeholder(view: DataView) -> Iterator[Violation]:
    """Report prompts with a template's placeholder not filled in."""
    if view.layout.kind == "text":
        return
    columns = {*_SLOTS, *view.layout.prompts, view.layout.answer or "input"}
    rows: list[DataRow] = []
    first = ""
    for row in view.rows:
        for text in (row.asked, row.label):
            slot = next((m for m in _SLOT.finditer(text) if (m.group(1) or m.group(2)) in columns), None)
            if slot is not None:
                first = first or slot.group()
                rows.append(row)
                break
    if rows:
        yield violation_in_rows(view, rows, f"the placeholder {short(first)} stands in the text", hint="fill it in")


@rule("DA388", Severity.WARNING)
def misspelled_label(view: DataView) -> Iterator[Violation]:
    """Report rare labels that are a frequent one but for a letter, or its beginning."""
    if not view.closed or len(view.all_labels) > _LABELS:
        return
    usual = [label for label, count in view.all_labels.items() if count >= _USUAL]
    for label, count in sorted(view.all_labels.items()):
        if count > _RARE:
            continue
        meant = next((each for each in sorted(usual) if misspells(label, each)), None)
        if meant is not None:
            rows = [row for row in view.rows if row.label == label]
            message = (
                f"the answer {short(label)} is probably {short(meant)}, which {view.all_labels[meant]:,} rows have"
            )
            yield violation_in_rows(view, rows, message, hint=f"write {meant!r}")


@rule("DA389", Severity.WARNING)
def misplaced_cells(view: DataView) -> Iterator[Violation]:
    """Report header rows, swapped cells, and column names with white space around them."""
    first = next(iter(view.rows), None)
    spaced = [name for name in (first.values if first is not None else ()) if name != name.strip()]
    if spaced:
        message = f"the column {spaced[0]!r} has white space around its name"
        yield Violation(message=message, at=at_file(view), subject="columns", hint=f"write {spaced[0].strip()!r}")
    rows = [
        row
        for row in view.rows
        if len(row.values) > 1 and all(isinstance(value, str) and value == name for name, value in row.values.items())
    ]
    if rows:
        yield violation_in_rows(view, rows, "the row is the heading: every cell is its column's name")
    usual = {label for label, count in view.all_labels.items() if count >= _FREQUENT}
    if view.layout.kind == "columns" and sum(view.all_labels[label] for label in usual) >= _MOST * view.count:
        swapped = [row for row in view.rows if row.label and row.label not in usual and row.prompt.strip() in usual]
        if swapped:
            message = f"question and label are swapped: the prompt is {short(swapped[0].prompt)}"
            yield violation_in_rows(view, swapped, message)


@rule("DA390", Severity.WARNING)
def uneven_white_space(view: DataView) -> Iterator[Violation]:
    """Report answers of which only some begin or end with white space."""
    answered = [row for row in view.rows if row.label and row.answer is not None]
    if not answered or view.layout.kind == "text":
        return
    rows = [row for row in answered if row.answer != row.label]
    if not rows or len(rows) == len(answered):
        return
    usual = view.closed or view.short
    if len(rows) * 2 > len(answered):
        rows = [row for row in answered if row.answer == row.label]
        message = f"the answer {short(rows[0].label)} has no white space around it, and the others have"
    else:
        message = f"white space around the answer {short(rows[0].answer or '')}"
    yield violation_in_rows(view, rows, message, severity=None if usual else Severity.INFO)


@rule("DA391", Severity.WARNING)
def validation_test_overlap(view: DataView) -> Iterator[Violation]:
    """Report questions that are in both the validation and the test split."""
    if view.trained in ("validation", "test") or view.layout.kind == "text":
        return
    seen = {row.key for row in view.splits.get("validation", ())}
    tested = view.splits.get("test", ())
    rows = [row for row in tested if row.key in seen]
    if rows and len({row.key for row in view.rows}) > 1:
        message = f"{percent(len(rows), len(tested))} of test is in validation too, for example {short(rows[0].asked)}"
        yield violation_in_rows(view, rows, message, hint="take these rows out of one of the two")


@rule("DA392", Severity.WARNING)
def prompt_contains_label(view: DataView) -> Iterator[Violation]:
    """Report data whose prompts nearly all contain their own label and no other."""
    labels = list(view.all_labels)
    rows = [row for row in view.rows if row.label and row.candidates is None]
    if not view.closed or not 2 <= len(labels) <= _LABELS or len(rows) < _TOLD_ROWS:
        return
    if min(map(len, labels)) < 3 or not all(label.replace(" ", "").isalpha() for label in labels):
        return
    anywhere = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(labels, key=len, reverse=True)))})(?!\w)")
    telling = [row for row in rows if set(anywhere.findall(row.asked)) == {row.label}]
    if len(telling) >= _TELLING * len(rows):
        share = percent(len(telling), len(rows))
        message = f"{share} of the prompts hold their own label and no other, for example {short(telling[0].asked)}"
        yield violation_in_rows(view, telling, message, hint="take the label out of the prompt")


@rule("DA393", Severity.WARNING)
def repeated_long_answer(view: DataView) -> Iterator[Violation]:
    """Report one long answer that many rows share while all others differ."""
    labels = view.all_labels
    total = sum(labels.values())
    if view.closed or view.layout.kind == "text" or total < 2 * _CANNED_ROWS:
        return
    ((most, count),) = labels.most_common(1)
    others = Counter({label: n for label, n in labels.items() if label != most})
    apart = sum(1 for n in others.values() if n == 1) >= _MOST * sum(others.values()) > 0
    if len(most) >= _CANNED_LENGTH and " " in most and apart and count >= max(_CANNED_ROWS, _CANNED * total):
        rows = [row for row in view.rows if row.label == most]
        if len({row.key for row in rows}) >= _CANNED_ROWS:
            yield violation_in_rows(view, rows, f"{percent(count, total)} of the answers are {short(most)}")


@rule("DA394", Severity.WARNING)
def invalid_media_file(view: DataView) -> Iterator[Violation]:
    """Report media files that are not of their type, or are cut off."""
    media = view.media
    if media is None or not media.broken:
        return
    bad = dict(media.broken)
    rows = [row for row in view.rows if any(path in bad for path in row.media)]
    if rows:
        path = next(path for path in rows[0].media if path in bad)
        yield violation_in_rows(view, rows, f"{path} cannot be read as a picture: {bad[path]}", severity=Severity.ERROR)


@rule("DA395", Severity.WARNING)
def incomplete_row(view: DataView) -> Iterator[Violation]:
    """Report the few rows without images or allowed answers that nearly all others have."""
    layout = view.layout
    if layout.media:
        bare = [row for row in view.rows if not _has_media(view, row)]
        if bare and len(bare) * _ONE_IN <= view.count:
            yield violation_in_rows(view, bare, "the row names no image, video or sound, and the others do")
    if layout.candidates is not None:
        lists = [row for row in view.rows if isinstance(row.values.get(layout.candidates), list)]
        bare = [
            row
            for row in view.rows
            if not isinstance(value := row.values.get(layout.candidates), list) or len(value) < _CHOICES
        ]
        if bare and len(bare) * _ONE_IN <= view.count:
            value = bare[0].values.get(layout.candidates)
            yield violation_in_rows(view, bare, f"no list of allowed answers: {short(repr(value))}")
        twice = [row for row in lists if row.candidates is not None and len({*row.candidates}) < len(row.candidates)]
        if twice:
            again = next(each for each in twice[0].candidates or () if (twice[0].candidates or ()).count(each) > 1)
            yield violation_in_rows(view, twice, f"{short(again)} is allowed twice")


def _has_media(view: DataView, row: DataRow) -> bool:
    if row.media:
        return True
    values = [value for name in view.layout.media if (value := row.values.get(name)) not in (None, "", [])]
    # A picture within the data, or at an address, is no path.
    return any(not isinstance(value, str) or "://" in value or len(value) > _LONGEST_PATH for value in values)
