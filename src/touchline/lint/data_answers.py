"""Rules on answers: constants, spellings, lists of allowed answers, and answers given away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.candidates import Candidates, chosen, is_place, nearest, short, squeezed
from touchline.lint.data_view import DataRow, DataView, at_file, percent, violation_in_rows
from touchline.lint.rule import Violation, rule

_MARKER = re.compile(
    r"(?:answer|label|response|output|solution|target|ground truth|gold)(?:\s+is)?\s*[:=]\s*$", re.IGNORECASE
)
_BEFORE = 40
_LEAK_ROWS = 4
_LEAK_SHARE = 0.05
_CERTAIN_ROWS = 10
_SOME_ROWS = 4
_HIGH = 0.9
_LISTED = 3
_PLACES = 0.05
"""Share of the rows below which a letter is no way of this dataset to name its choice."""
_LISTS = 0.3
"""Minimum share of rows with a list of allowed answers."""


def most_frequent(counts: Counter[str]) -> str | None:
    """Return the most frequent text, the alphabetically first of several. None if there is none."""
    return min(counts, key=lambda text: (-counts[text], text), default=None)


@rule("DA320", Severity.ERROR)
def _constant_answer(view: DataView) -> Iterator[Violation]:
    if view.layout.kind == "text":
        return
    for split, labels in view.labels.items():
        rows = sum(labels.values())
        different = len({row.key for row in view.splits[split]})
        if len(labels) == 1 and rows >= _SOME_ROWS and different >= _SOME_ROWS:
            (label,) = labels
            severity = None if rows >= _CERTAIN_ROWS else Severity.WARNING
            message = f"{split}: the answer is {short(label)} in all {rows:,} rows"
            yield Violation(message, at_file(view, split), subject=split, severity=severity)


@rule("DA321", Severity.ERROR)
def _answer_follows_from_question(view: DataView) -> Iterator[Violation]:
    questions = view.questions
    if view.layout.kind == "text" or len(view.labels.get(view.scored, ())) < 2 or not questions:
        return
    constant = [question for question, rows in questions.items() if len({row.label for row in rows}) == 1]
    covered = sum(len(rows) for rows in questions.values())
    in_all = sum(1 for row in view.splits[view.scored] if row.label)
    if not constant:
        return
    one = constant[0]
    example = f"for example {short(one)} (always {short(questions[one][0].label)})"
    if len(constant) == len(questions) >= 2 and covered >= _HIGH * in_all:
        message = f"{view.scored}: {len(questions)} questions in {in_all:,} rows have one answer each, {example}"
        yield Violation(message, view.where(questions[one][0]), subject=view.scored)
        return
    rows = sum(len(questions[question]) for question in constant)
    if len(questions) >= 2 and rows >= 2 * _CERTAIN_ROWS:
        message = f"{view.scored}: {len(constant)} of {len(questions)} questions have one answer, {example}"
        severity = Severity.WARNING if rows * 2 >= covered else Severity.INFO
        yield Violation(message, view.where(questions[one][0]), subject=view.scored, severity=severity)


@rule("DA323", Severity.WARNING)
def _inconsistent_label_spelling(view: DataView) -> Iterator[Violation]:
    if not view.closed:
        return
    by_bare: defaultdict[str, list[str]] = defaultdict(list)
    for label, _ in sorted(view.all_labels.items(), key=lambda item: (-item[1], item[0])):
        by_bare[squeezed(label)].append(label)
    spellings = {bare: labels for bare, labels in by_bare.items() if len(labels) > 1}
    if not spellings:
        return
    counts = view.all_labels
    rare = {label for labels in spellings.values() for label in labels[1:]}
    listed = " / ".join(
        ", ".join(f"{short(label)} ({counts[label]:,})" for label in labels[:4])
        for labels in list(spellings.values())[:3]
    )
    odd = [row for row in view.rows if row.label in rare]
    usual = next(iter(spellings.values()))[0]
    yield violation_in_rows(
        view, odd, f"one label, several spellings: {listed}", hint=f"write {short(usual)} everywhere"
    )


@rule("DA324", Severity.WARNING)
def _untrained_label(view: DataView) -> Iterator[Violation]:
    if not view.closed:
        return
    trained = view.labels.get(view.trained, Counter())
    for name in view.held_out:
        new = {label: count for label, count in view.labels.get(name, Counter()).items() if label not in trained}
        rows = [row for row in view.splits[name] if row.label in new]
        if not rows:
            continue
        listed = ", ".join(f"{short(label)} ({count:,})" for label, count in sorted(new.items())[:5])
        severity = None if len(rows) >= len(view.splits[name]) / 100 else Severity.INFO
        yield violation_in_rows(
            view, rows, f"{name} has answers that {view.trained} never has: {listed}", severity=severity
        )


@rule("DA330", Severity.ERROR)
def _answer_outside_candidates(view: DataView) -> Iterator[Violation]:
    rows = [row for row in view.rows if row.candidates and row.label]
    # A list in few prompts is a sentence that happens to look like one.
    if not rows or (view.layout.candidates is None and len(rows) < _LISTS * view.count):
        return
    by_place = _by_place(rows)
    known: dict[tuple[Candidates, str], bool] = {}
    outside: list[DataRow] = []
    for row in rows:
        assert row.candidates is not None
        pair = (row.candidates, row.label)
        if pair not in known:
            known[pair] = chosen(row.label, row.candidates, by_place) is not None
        if not known[pair]:
            outside.append(row)
    if outside:
        yield _outside(view, rows, outside)


def _by_place(rows: list[DataRow]) -> bool:
    """Return True if most answers that quote nothing from the list are letters or numbers of its entries."""
    unsaid = [row for row in rows if row.label not in (row.candidates or ())]
    places = sum(is_place(row.label) for row in unsaid)
    return places * 2 > len(unsaid) and places >= min(_CERTAIN_ROWS, _PLACES * len(rows))


def _outside(view: DataView, rows: list[DataRow], outside: list[DataRow]) -> Violation:
    counts = Counter((row.label, row.candidates or ()) for row in outside)
    most = sorted(counts, key=lambda pair: (-counts[pair], pair))[:_LISTED]
    near = [(label, nearest(label, candidates)) for label, candidates in most]
    named = ", ".join(f"{short(label)} ({counts[pair]:,})" for pair, (label, _) in zip(most, near, strict=True))
    hints = [f"{short(label)}: did you mean {short(meant)}?" for label, meant in near if meant is not None]
    severity = None
    if view.layout.candidates is None:
        # The list was found in running text, where a sentence can look like one.
        severity = Severity.WARNING
    if len(outside) * 2 > len(rows) and not any(
        meant is not None and squeezed(label) == squeezed(meant) for label, meant in near
    ):
        # Most answers are explanations and not choices.
        severity = Severity.INFO if severity is not None or not view.short else Severity.WARNING
    share = percent(len(outside), len(rows))
    message = f"{share} of the answers are not in their row's list of allowed answers: {named}"
    return violation_in_rows(view, outside, message, hint="; ".join(hints) or None, severity=severity)


@rule("DA350", Severity.WARNING)
def _prompt_gives_answer(view: DataView) -> Iterator[Violation]:
    if view.layout.kind == "text" or view.count < _LEAK_ROWS:
        return
    labels = tuple(view.all_labels) if view.closed and len(view.all_labels) <= 50 else ()
    asked = [row for row in view.rows if row.label and row.asked]
    # If the whole prompt is the answer, copying is the task, as in corrections without an error.
    leaks = [row for row in asked if row.label != row.asked.strip() and _tells(row) and not _offers(row, labels)]
    ended = [row for row in leaks if row.asked.rstrip().endswith(row.label) and " " in row.label]
    if len(ended) >= max(_LEAK_ROWS, _LEAK_SHARE * len(asked)) and len(leaks) * 2 < len(asked):
        leaks = ended
    if len(leaks) >= _LEAK_ROWS and (len(leaks) * 2 >= len(asked) or leaks is ended):
        message = (
            f"the prompt ends with the answer, for example {short(leaks[0].asked[-60:])} with {short(leaks[0].label)}"
        )
        yield violation_in_rows(view, leaks, message, hint="end the prompt before the answer")


def _tells(row: DataRow) -> bool:
    answer = row.label
    bare = row.asked.rstrip().rstrip(".!\"'`")
    if bare.endswith(answer) and not bare[: -len(answer)][-1:].isalnum():
        before = bare[: -len(answer)].rstrip()
        # `Correct this: TEXT` without errors ends with the answer too. It then begins a line of its own or follows a
        # colon that names no answer.
        return _MARKER.search(before[-_BEFORE:]) is not None or before[-2:] in ("A:", "A.") or before.endswith("->")
    found = row.asked.rfind(answer)
    return found > 0 and len(answer) > 1 and _MARKER.search(row.asked[max(0, found - _BEFORE) : found]) is not None


def _offers(row: DataRow, labels: tuple[str, ...]) -> bool:
    if row.candidates:
        return True
    return any(label != row.label and label not in row.label and label in row.asked for label in labels)
