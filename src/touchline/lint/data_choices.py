"""Rules on answers that are chosen from a list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.candidates import Candidates, chosen, is_place, nearest
from touchline.data.text import short, squeezed
from touchline.lint.data_baselines import LISTS
from touchline.lint.data_messages import at_file, percent, violation_in_rows
from touchline.lint.data_view import DataRow, DataView
from touchline.lint.rule import Violation, rule

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
    """Whether answers are letters or numbers of the list, in most of the rows that say nothing from it."""
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
        # Most answers say it in other words: an explanation, not a choice.
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
    """The distinct lists with the answers that were taken from them; of labels without lists all labels, if few."""
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
    # One list for all rows whose first entry prevails is a matter of the answers, and told as that.
    if count >= _FIRST * len(rows) and len(lists) >= _ROWS:
        message = f"the right answer stands at place {place + 1} of its list in {percent(count, len(rows))} of the rows"
        yield Violation(
            message=message, at=at_file(view), subject="candidates", hint="shuffle each row's list by a seed"
        )


def _most(item: tuple[int, int]) -> tuple[int, int]:
    return item[1], -item[0]
