"""What the data's own scorer calls right: the empty answer, and answers of other rows.

Not rules, because a data file alone names no scorer; their pages are in `documented_data`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Quantity
from touchline.data.text import short
from touchline.lint.data_baselines import PAIR_LIMIT, constant_baseline
from touchline.lint.data_view import DataView
from touchline.lint.data_words import at_file, percent

_LENIENT = 0.02
"""Share of other rows' answers that may be called right."""
_HINT = "score by equality of the whole answer"


def scorer_findings(view: DataView) -> Iterator[Finding]:
    """What is wrong with the scorer on this data; nothing for whole texts."""
    targets = Counter(row.label for row in view.splits.get(view.scored, ()) if row.label)
    if view.layout.kind == "text" or not targets:
        return
    empty = constant_baseline("", targets, view.scorer)
    if isinstance(empty.score, Quantity) and empty.score.value > 0:
        right = round(empty.score.value * empty.examples)
        message = (
            f"the scorer {view.scorer.name!r} calls the empty answer right in {percent(right, empty.examples)} of "
            f"{empty.examples:,} rows of {view.scored}; expected 0 %"
        )
        yield _finding("DA340", Severity.ERROR, message, view)
    if view.scorer.stated and 2 <= len(targets) <= PAIR_LIMIT:
        yield from _wrong_answers(view, targets)


def _wrong_answers(view: DataView, targets: Counter[str]) -> Iterator[Finding]:
    total = sum(targets.values())
    # Labels that differ in spelling alone are told by another rule, and rightly equal here.
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
            f"the scorer {view.scorer.name!r} calls {100 * share:.3g} % of other rows' different answers right, for "
            f"example {short(output)} for {short(target)}"
        )
        yield _finding("DA341", Severity.WARNING, message, view)


def _finding(code: str, severity: Severity, message: str, view: DataView) -> Finding:
    where = at_file(view, view.scored)
    return Finding(code=code, severity=severity, subject="scorer", message=message, where=where, hint=_HINT)
