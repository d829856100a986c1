"""Rules on the rows' form: columns, kinds of values, empty prompts and answers."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.columns import kind_of, text_of
from touchline.data.text import short
from touchline.lint.data_messages import at_file, percent, violation_in_rows
from touchline.lint.data_view import DataRow, DataView
from touchline.lint.rule import Violation, rule

_WRITTEN_NULLS = frozenset({"nan", "NaN", "NAN", "<NA>", "#N/A", "NULL", "null", "undefined"})
_RARE_NULLS = frozenset({"N/A", "n/a", "NA", "None", "none", "TODO", "TBD", "???"})
_ALIKE = 0.75
"""How alike a misspelt column name and the right one are, by difflib's ratio."""
_UNFINISHED = frozenset({"TODO", "TBD", "???"})
_ALL = 4
"""Rows from which on a fault of all rows is certain."""


@rule("DA300", Severity.INFO)
def guessed_columns(view: DataView) -> Iterator[Violation]:
    """Report prompt and answer columns found by their names alone."""
    layout = view.layout
    usual = layout.prompts == ("input",) and layout.answer == "output" and not layout.media and not layout.candidates
    if not layout.stated and not usual and view.count:
        yield Violation(message=f"taken by their names: {layout.named()}", at=at_file(view), subject="columns")


@rule("DA301", Severity.ERROR)
def missing_column_values(view: DataView) -> Iterator[Violation]:
    """Report rows without the prompt or answer column that other rows have."""
    layout = view.layout
    needed = [layout.chat] if layout.kind == "chat" else [*layout.prompts[:1], layout.answer]
    for name in needed:
        lacking = [row for row in view.rows if name is not None and name not in row.values]
        if not lacking or name is None:
            continue
        hint = _instead(view, name, lacking)
        # Files put together of several sources: what lacks in most rows is probably not the column that is meant.
        certain = len(lacking) * 2 <= view.count or len(lacking) == view.count
        severity = None if certain else Severity.WARNING
        yield violation_in_rows(view, lacking, f"there is no column {name!r}", hint=hint, severity=severity)


def _instead(view: DataView, name: str, lacking: list[DataRow]) -> str | None:
    """The column that the rows without `name` have and the others have not."""
    usual = {key for row in view.rows if name in row.values for key in row.values}
    other = sorted({key for row in lacking for key in row.values} - usual)
    if not usual:
        return f"columns here: {', '.join(other[:10])}"
    near = difflib.get_close_matches(name, other, n=1, cutoff=0.5) or other[:1]
    return f"these rows have {near[0]!r} instead" if near else None


@rule("DA302", Severity.WARNING)
def mixed_column_types(view: DataView) -> Iterator[Violation]:
    """Report a column with text in some rows and other types in others."""
    layout = view.layout
    for name in dict.fromkeys((*layout.prompts, layout.answer, layout.chat)):
        if name is None:
            continue
        found: defaultdict[str, list[DataRow]] = defaultdict(list)
        for row in view.rows:
            if (value := row.values.get(name)) is not None:
                found[kind_of(value)].append(row)
        if len(found) < 2:
            continue
        ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0] != "text", item[0]))
        listed = ", ".join(f"{kind} in {len(rows):,}" for kind, rows in ordered)
        odd = [row for _, rows in ordered[1:] for row in rows]
        yield violation_in_rows(
            view, odd, f"column {name!r} is of several kinds: {listed}", hint=f"write {name!r} as {ordered[0][0]}"
        )


@rule("DA303", Severity.WARNING)
def empty_prompt(view: DataView) -> Iterator[Violation]:
    """Report empty prompts."""
    if view.layout.kind == "text" or view.layout.template is not None:
        blank = [row for row in view.rows if _blank_input(view, row)] if view.layout.template is not None else []
    else:
        blank = [row for row in view.rows if not row.prompt.strip() and not row.media and row.fault is None]
    if blank:
        severity = Severity.ERROR if len(blank) == view.count >= _ALL else None
        yield violation_in_rows(view, blank, "the prompt is empty", severity=severity)


def _blank_input(view: DataView, row: DataRow) -> bool:
    """Whether nothing of a row stands in the prompt that a template makes of it."""
    texts = [text_of(row.values.get(name)) or "" for name in view.layout.prompts if name in row.values]
    return bool(texts) and not any(text.strip() for text in texts) and not row.media


@rule("DA304", Severity.WARNING)
def empty_answer(view: DataView) -> Iterator[Violation]:
    """Report empty or null answers."""
    name = view.layout.answer
    for split, rows in view.splits.items():
        blank = [row for row in rows if not row.label and row.fault is None and (name is None or name in row.values)]
        if blank:
            severity = Severity.ERROR if len(blank) == len(rows) >= _ALL else None
            message = f"{split}: {'every' if len(blank) == len(rows) > 1 else 'the'} answer is empty"
            yield violation_in_rows(view, blank, message, severity=severity)


@rule("DA305", Severity.WARNING)
def null_as_text(view: DataView) -> Iterator[Violation]:
    """Report answers such as `nan` or `null`: missing values written as text."""
    rare = [row for row in view.rows if row.label in _RARE_NULLS and row.label not in (row.candidates or ())]
    unfinished = [row for row in rare if row.label in _UNFINISHED]
    if rare and (unfinished or not view.closed) and len(rare) * 20 <= view.count:
        severity = Severity.WARNING if unfinished else Severity.INFO
        rows = unfinished or rare
        yield violation_in_rows(view, rows, f"the answer is {short(rows[0].label)}", severity=severity)
    nulls = [row for row in view.rows if row.label in _WRITTEN_NULLS and row.label not in (row.candidates or ())]
    # An answer in many rows of code or of a fixed list is meant.
    if nulls and len(nulls) * 2 <= view.count:
        total = view.count
        yield violation_in_rows(
            view, nulls, f"the answer is {short(nulls[0].label)}, in {percent(len(nulls), total)} of the rows"
        )


@rule("DA306", Severity.INFO)
def uneven_extra_columns(view: DataView) -> Iterator[Violation]:
    """Report rows whose further columns differ."""
    forms: Counter[frozenset[str]] = Counter(frozenset(row.values) for row in view.rows)
    if len(forms) < 2:
        return
    everywhere = frozenset.intersection(*forms)
    used = {*view.layout.prompts[:1], view.layout.answer, view.layout.chat}
    partly = sorted(frozenset.union(*forms) - everywhere - used)
    if partly:
        listed = ", ".join(map(repr, partly[:5])) + (", ..." if len(partly) > 5 else "")
        usual = min(forms, key=lambda form: (-forms[form], sorted(form)))
        odd = [row for row in view.rows if frozenset(row.values) != usual]
        # A misspelt name: a few rows have it, and lack the name that it resembles.
        misspelt = len(odd) * 20 <= view.count and any(
            difflib.get_close_matches(name, usual - form, cutoff=_ALIKE)
            for form in forms
            if len(form) == len(usual)
            for name in form - usual
        )
        severity = Severity.WARNING if misspelt else None
        yield violation_in_rows(view, odd, f"columns that only a part of the rows has: {listed}", severity=severity)
