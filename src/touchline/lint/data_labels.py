"""Rules on answers as labels: constants, majorities, spellings, and what the splits have of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.text import short
from touchline.lint.data_baselines import most_frequent
from touchline.lint.data_messages import at_file, percent, violation_in_rows
from touchline.lint.data_view import DataView, entropy_bits
from touchline.lint.rule import Violation, rule

_CERTAIN_ROWS = 10
_SOME_ROWS = 4
_HIGH = 0.9
_SURPRISE = 0.25
_CHANCE = 0.7
_SPLIT_ROWS = 10


@rule("DA320", Severity.ERROR)
def constant_answer(view: DataView) -> Iterator[Violation]:
    """Report a split whose answers are all the same."""
    if view.layout.kind == "text":
        return
    for split, labels in view.labels.items():
        rows = sum(labels.values())
        different = len({row.key for row in view.splits[split]})
        if len(labels) == 1 and rows >= _SOME_ROWS and different >= _SOME_ROWS:
            (label,) = labels
            severity = None if rows >= _CERTAIN_ROWS else Severity.WARNING
            message = f"{split}: the answer is {short(label)} in all {rows:,} rows"
            yield Violation(message=message, at=at_file(view, split), subject=split, severity=severity)


@rule("DA321", Severity.ERROR)
def answer_follows_from_question(view: DataView) -> Iterator[Violation]:
    """Report data where every question has one answer, whatever image or text it is about."""
    questions = view.questions
    if view.layout.kind == "text" or len(view.labels.get(view.scored, ())) < 2 or not questions:
        return
    constant = [question for question, rows in questions.items() if len({row.label for row in rows}) == 1]
    covered = sum(len(rows) for rows in questions.values())
    in_all = sum(1 for row in view.splits[view.scored] if row.label)
    if not constant:
        return
    one = constant[0]
    example = f"{short(one)} is always answered {short(questions[one][0].label)}"
    if len(constant) == len(questions) >= 2 and covered >= _HIGH * in_all:
        message = f"{view.scored}: {len(questions)} questions in {in_all:,} rows have one answer each; {example}"
        yield Violation(message=message, at=view.where(questions[one][0]), subject=view.scored)
        return
    rows = sum(len(questions[question]) for question in constant)
    if len(questions) >= 2 and rows >= 2 * _CERTAIN_ROWS:
        message = f"{view.scored}: {len(constant)} of {len(questions)} questions have one answer; for example {example}"
        severity = Severity.WARNING if rows * 2 >= covered else Severity.INFO
        yield Violation(message=message, at=view.where(questions[one][0]), subject=view.scored, severity=severity)


@rule("DA322", Severity.WARNING)
def majority_label(view: DataView) -> Iterator[Violation]:
    """Report an answer that nearly all rows share."""
    if view.layout.kind == "text":
        return
    for split, labels in view.labels.items():
        label = most_frequent(labels)
        rows = sum(labels.values())
        if label is None or rows < _CERTAIN_ROWS or len(labels) == 1 or labels[label] < _HIGH * rows:
            continue
        message = (
            f"{split}: {percent(labels[label], rows)} of the answers are {short(label)} "
            f"({entropy_bits(labels):.2f} bits of {math.log2(len(labels)):.2f})"
        )
        yield Violation(message=message, at=at_file(view, split), subject=split)


@rule("DA323", Severity.WARNING)
def inconsistent_label_spelling(view: DataView) -> Iterator[Violation]:
    """Report one label written in several ways."""
    spellings = view.spellings
    if not spellings:
        return
    counts = view.all_labels
    rare = {label for labels in spellings.values() for label in labels[1:]}
    listed = "; ".join(
        ", ".join(f"{short(label)} {counts[label]:,} times" for label in labels[:4])
        for labels in list(spellings.values())[:3]
    )
    odd = [row for row in view.rows if row.label in rare]
    usual = next(iter(spellings.values()))[0]
    yield violation_in_rows(
        view, odd, f"one label, several spellings: {listed}", hint=f"write {short(usual)} everywhere"
    )


@rule("DA324", Severity.WARNING)
def untrained_label(view: DataView) -> Iterator[Violation]:
    """Report labels of the validation or test split that no training row has."""
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


@rule("DA325", Severity.WARNING)
def label_shift(view: DataView) -> Iterator[Violation]:
    """Report labels whose shares differ strongly between training and held-out splits."""
    if not view.closed:
        return
    trained = view.labels.get(view.trained, Counter())
    total = sum(trained.values())
    for name in view.held_out:
        held = view.labels.get(name, Counter())
        count = sum(held.values())
        if min(total, count) < _SPLIT_ROWS:
            continue
        labels = sorted({*trained, *held})
        apart = {label: held[label] / count - trained[label] / total for label in labels}
        distance = sum(map(abs, apart.values())) / 2
        # What chance alone makes of k labels in the smaller split, about.
        noise = math.sqrt(len(labels) / min(total, count))
        if distance > _SURPRISE + _CHANCE * noise:
            most = max(labels, key=lambda label: (abs(apart[label]), label))
            message = (
                f"{name} has another mixture of answers than {view.trained}: {short(most)} is "
                f"{percent(held[most], count)} of it and {percent(trained[most], total)} there"
            )
            yield Violation(message=message, at=at_file(view, name), subject=name)
