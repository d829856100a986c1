"""Scores of model-free answers under the data's own scorer.

A constant and the empty text are scored against every distinct answer, weighted by its frequency. A million
rows therefore cost no more than their distinct answers. Above `DISTINCT_LIMIT` distinct answers, a sample is taken
evenly over their alphabetical order, and the number of rows is that of the sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing, Quantity
from touchline.data.text import short
from touchline.lint.audited import Baseline, Baselines
from touchline.lint.data_view import DataRow, DataView, at_file, percent
from touchline.lint.scoring import Scorer
from touchline.statistics.proportion import wilson

T = TypeVar("T")

DISTINCT_LIMIT = 2000
"""Maximum number of distinct answers that are scored."""
LISTS = 0.3
"""Minimum share of rows with a list of allowed answers."""
PAIR_LIMIT = 200
"""Maximum number of distinct answers scored in pairs, for shuffled answers."""
_COVERAGE = 0.95


def baselines(view: DataView) -> Baselines:
    """Return all baselines of the scored split."""
    rows = [row for row in view.splits.get(view.scored, ()) if row.label]
    targets = Counter(row.label for row in rows)
    constant = most_frequent(targets)
    return Baselines(
        majority=constant_baseline(constant, targets, view.scorer, shown=True),
        majority_per_question=_per_question(view),
        empty=constant_baseline("", targets, view.scorer),
        shuffled=_shuffled(targets, view.scorer),
        first_candidate=_first_candidate(rows, view.scorer),
    )


def most_frequent(counts: Counter[str]) -> str | None:
    """Return the most frequent text, the alphabetically first of several. None if there is none."""
    return min(counts, key=lambda text: (-counts[text], text), default=None)


def constant_baseline(output: str | None, targets: Counter[str], scorer: Scorer, *, shown: bool = False) -> Baseline:
    """Return the baseline of one answer for all rows."""
    if output is None:
        return Baseline(score=Missing(missing="no answers"))
    some = _part(targets)
    right = sum(count for target, count in some.items() if scorer.right(output, target))
    return _share(right, sum(some.values()), answer=output if shown else None)


def _per_question(view: DataView) -> Baseline:
    right = total = 0
    for rows in view.questions.values():
        counts = _part(Counter(row.label for row in rows))
        constant = most_frequent(counts)
        if constant is not None:
            right += sum(count for target, count in counts.items() if view.scorer.right(constant, target))
            total += sum(counts.values())
    if not total:
        return Baseline(score=Missing(missing="no question has five rows that differ"))
    return _share(right, total)


def _shuffled(targets: Counter[str], scorer: Scorer) -> Baseline:
    """Compute the expected share under a random order of answers: exact for few distinct ones, else over even pairs."""
    total = sum(targets.values())
    if total < 2:
        return Baseline(score=Missing(missing="fewer than two answers"))
    if len(targets) <= PAIR_LIMIT:
        right = sum(
            count * (targets[output] - (output == target))
            for target, count in targets.items()
            for output in targets
            if scorer.right(output, target)
        )
        return _share(round(right / (total - 1)), total)
    ordered = sorted(targets)
    step = max(1, len(ordered) // DISTINCT_LIMIT)
    some = ordered[::step]
    # Neighbors in the alphabet are alike. Half a rotation away they are not.
    half = len(ordered) // 2
    pairs = [(ordered[(place * step + half) % len(ordered)], target) for place, target in enumerate(some)]
    return _share(sum(scorer.right(output, target) for output, target in pairs), len(pairs))


def _first_candidate(rows: Sequence[DataRow], scorer: Scorer) -> Baseline:
    pairs = Counter((row.candidates[0], row.label) for row in rows if row.candidates)
    if sum(pairs.values()) < LISTS * len(rows) or not pairs:
        return Baseline(score=Missing(missing="no lists of allowed answers"))
    some = _part(pairs)
    right = sum(count for (first, target), count in some.items() if scorer.right(first, target))
    return _share(right, sum(some.values()))


def _part(counts: Counter[T]) -> Counter[T]:
    if len(counts) <= DISTINCT_LIMIT:
        return counts
    ordered = sorted(counts, key=repr)
    return Counter({each: counts[each] for each in ordered[:: len(ordered) // DISTINCT_LIMIT]})


def _share(right: int, total: int, answer: str | None = None) -> Baseline:
    if not total:
        return Baseline(score=Missing(missing="no answers"))
    low, high = wilson(right, total, _COVERAGE)
    score = Quantity(value=right / total, unit="1", low=low, high=high, coverage=_COVERAGE, method="Wilson")
    return Baseline(score=score, examples=total, answer=None if answer is None else answer[:200])


_LENIENT = 0.02
"""Share of other rows' answers that may be scored as right."""
_HINT = "score by equality of the whole answer"


def scorer_findings(view: DataView) -> Iterator[Finding]:
    """Check the scorer on this data; whole texts are skipped."""
    targets = Counter(row.label for row in view.splits.get(view.scored, ()) if row.label)
    if view.layout.kind == "text" or not targets:
        return
    empty = constant_baseline("", targets, view.scorer)
    if isinstance(empty.score, Quantity) and empty.score.value > 0:
        right = round(empty.score.value * empty.examples)
        message = (
            f"the scorer {view.scorer.name!r} calls the empty answer right in {percent(right, empty.examples)} of "
            f"{empty.examples:,} rows of {view.scored}; expected 0%"
        )
        yield _finding("DA340", Severity.ERROR, message, view)
    if view.scorer.stated and 2 <= len(targets) <= PAIR_LIMIT:
        yield from _wrong_answers(view, targets)


def _wrong_answers(view: DataView, targets: Counter[str]) -> Iterator[Finding]:
    total = sum(targets.values())
    # Another rule reports labels that differ only in spelling. Here they are equal.
    wrong = {
        (output, target): targets[output] * targets[target]
        for output in targets
        for target in targets
        if output.casefold() != target.casefold() and view.scorer.right(output, target)
    }
    share = sum(wrong.values()) / (total * (total - 1))
    if share >= _LENIENT:
        output, target = max(sorted(wrong), key=lambda pair: wrong[pair])
        message = (
            f"the scorer {view.scorer.name!r} calls {100 * share:.3g}% of other rows' different answers right, for "
            f"example {short(output)} for {short(target)}"
        )
        yield _finding("DA341", Severity.WARNING, message, view)


def _finding(code: str, severity: Severity, message: str, view: DataView) -> Finding:
    where = at_file(view, view.scored)
    return Finding(code=code, severity=severity, subject="scorer", message=message, where=where, hint=_HINT)
