"""Rules on answers as labels or choices: constants, majorities, spellings, splits, lists of allowed answers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.candidates import Candidates, chosen, is_place, nearest
from touchline.data.text import misspells, short, squeezed
from touchline.lint.data_baselines import LISTS, most_frequent
from touchline.lint.data_view import DataRow, DataView, at_file, entropy_bits, percent, violation_in_rows
from touchline.lint.rule import Violation, rule

_CERTAIN_ROWS = 10
_SOME_ROWS = 4
_HIGH = 0.9
_SURPRISE = 0.25
_CHANCE = 0.7
_SPLIT_ROWS = 10
_LABELS = 60
_USUAL = 10
"""Rows that a label needs before another one can be a misspelling of it."""
_RARE = 2


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
                f"{name} has a different mix of answers from {view.trained}: {short(most)} is "
                f"{percent(held[most], count)} of it and {percent(trained[most], total)} there"
            )
            yield Violation(message=message, at=at_file(view, name), subject=name)


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


_LISTED = 3
_PAIRS = 200
_ROWS = 10
_FIRST = 0.9
_PLACES = 0.05
"""Share of the rows below which a letter is no way of this dataset to name its choice."""


@rule("DA330", Severity.ERROR)
def answer_outside_candidates(view: DataView) -> Iterator[Violation]:
    """Report answers that are not among the row's allowed answers."""
    rows = [row for row in view.rows if row.candidates and row.label]
    # A list in few prompts is a sentence that happens to look like one.
    if not rows or (view.layout.candidates is None and len(rows) < LISTS * view.count):
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
    return places * 2 > len(unsaid) and places >= min(_ROWS, _PLACES * len(rows))


def _outside(view: DataView, rows: list[DataRow], outside: list[DataRow]) -> Violation:
    counts = Counter((row.label, row.candidates or ()) for row in outside)
    most = sorted(counts, key=lambda pair: (-counts[pair], pair))[:_LISTED]
    near = [(label, nearest(label, candidates)) for label, candidates in most]
    named = ", ".join(f"{short(label)} ({counts[pair]:,} times)" for pair, (label, _) in zip(most, near, strict=True))
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


@rule("DA331", Severity.INFO)
def answer_within_another(view: DataView) -> Iterator[Violation]:
    """Report an allowed answer that is contained in another."""
    lists = _lists(view)
    found: list[tuple[str, str]] = []
    scored: list[tuple[str, str]] = []
    for candidates, answers in lists.items():
        for answer in sorted(answers):
            for other in candidates:
                if answer and answer.casefold() != other.casefold() and answer.casefold() in other.casefold():
                    found.append((answer, other))
                    if view.scorer.right(other, answer):
                        scored.append((answer, other))
    if scored:
        listed = _pairs(scored)
        message = f"the scorer {view.scorer.name!r} calls an answer right that is another of the allowed ones: {listed}"
        yield Violation(message=message, at=at_file(view), subject="scorer", severity=Severity.ERROR, hint=_EQUAL)
    elif found and not view.scorer.stated:
        message = f"a scorer that looks for the answer in the output would call others right: {_pairs(found)}"
        yield Violation(message=message, at=at_file(view), subject="scorer", hint=_EQUAL)


_EQUAL = "score by equality, or by whole words"


def _lists(view: DataView) -> dict[Candidates, set[str]]:
    """Return the distinct lists with the answers taken from them; without lists, all labels if they are few."""
    found: defaultdict[Candidates, set[str]] = defaultdict(set)
    for row in view.rows:
        if row.candidates and row.label in row.candidates:
            found[row.candidates].add(row.label)
    if not found and view.closed and len(view.all_labels) <= _PAIRS:
        labels = tuple(sorted(view.all_labels))
        return {labels: set(labels)}
    return dict(sorted(found.items())[:_PAIRS])


def _pairs(pairs: list[tuple[str, str]]) -> str:
    some = list(dict.fromkeys(pairs))
    listed = ", ".join(f"{short(other)} for {short(answer)}" for answer, other in some[:_LISTED])
    return listed + (", ..." if len(some) > _LISTED else "")


@rule("DA332", Severity.WARNING)
def right_answer_first(view: DataView) -> Iterator[Violation]:
    """Report right answers that nearly always come first in the list of allowed answers."""
    rows = [row for row in view.rows if row.candidates and row.label]
    if len(rows) < _ROWS:
        return
    by_place = _by_place(rows)
    places: Counter[int | None] = Counter()
    lists: set[Candidates] = set()
    for row in rows:
        assert row.candidates is not None
        places[chosen(row.label, row.candidates, by_place)] += 1
        lists.add(row.candidates)
    place, count = max(
        ((place, count) for place, count in places.items() if place is not None), default=(0, 0), key=_most
    )
    # Another rule reports a list shared by all rows whose first entry prevails.
    if count >= _FIRST * len(rows) and len(lists) >= _ROWS:
        message = f"the right answer is at place {place + 1} of its list in {percent(count, len(rows))} of the rows"
        yield Violation(
            message=message, at=at_file(view), subject="candidates", hint="shuffle each row's list by a seed"
        )


def _most(item: tuple[int, int]) -> tuple[int, int]:
    return item[1], -item[0]
