"""Words that logs state, the lines that prove them, segments of a run, and scores as a record keeps them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.quantity import Measured, Missing
from touchline.core.status import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedText:
    """Something that is not a number, and where it was read."""

    value: str
    """The word."""
    where: str | None = None
    """`file:line` or the file that it was read from."""
    method: str | None = None
    """Method, if it was not read off directly."""


OptionalText = SourcedText | Missing
"""A word, or why there is none."""

_BY_CAUSE = "failed: "
"""Prefix of the value of an exit where a line gives the cause and none the exit code."""


def exit_by_cause(cause: str, where: str) -> SourcedText:
    """Return the exit of a process of which only the cause of its end is known."""
    return SourcedText(value=_BY_CAUSE + cause, where=where)


def exit_code(exit_word: SourcedText) -> int | None:
    """Return the exit code. None where only the cause is known."""
    return int(exit_word.value) if exit_word.value.isdecimal() else None


def exit_cause(exit_word: SourcedText) -> str:
    """Return the line that gives the cause."""
    return exit_word.value.removeprefix(_BY_CAUSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceLine:
    """A line that proves something."""

    where: str
    """`file:line`."""
    text: str
    """The line, at most 300 characters, secrets redacted."""
    says: str
    """Statement that it proves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Attempt, resume or restart within a run's files."""

    where: str
    """`file:first-last`."""
    begins: str
    """`fresh`, `resumed`, `restarted`, `another run`."""
    first_step: int | None
    """Optimizer steps done before it; None if no line shows it."""
    last_step: int | None
    """Optimizer steps done at its end."""
    outcome: Outcome
    """Outcome of the segment."""


MOST_VALIDATIONS = 2000
"""Most validation losses that a record keeps; of more, evenly spaced ones and the last."""
_HEX = re.compile(r"[0-9a-f]*")
_BITS = 4
_DIGITS, _FULL = 2, 255
"""Hexadecimal digits of a score in 255ths, and the best score."""
_OLDER = Missing(missing="the record is older and has no scores of partly correct items")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFacts:
    """Score of the last checkpoint on one task."""

    task: str
    """Name of the task."""
    score: str
    """Name of the score: `exact match`, `accuracy`, or one of a task of the user's."""
    checkpoint: str
    """Name of the checkpoint, `epoch_0`."""
    value: Measured
    """Mean over the items, with its interval."""
    items: int
    """Number of items; repeated answers to one item count once."""
    comparable: str
    """Hash of the items and the evaluation's settings: scores are comparable where it is equal."""
    outcomes: str | Missing
    """Outcome of every item, packed by `pack_outcomes`, in the order of the items' ids: with equal `comparable` the
    items are the same, in the same order. Missing where an item can be right in part."""
    item_scores: str | Missing = _OLDER
    """Score of every item, packed by `pack_item_scores`, in the same order. Missing where `outcomes` holds them, where
    a score is not from 0 to 1, and in older records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationPoint:
    """Validation loss at one optimizer step."""

    step: int
    """Optimizer step, from 1; 0 is before the first."""
    loss: float | None
    """Mean over the label tokens, in nats; None where it is not finite."""


def pack_outcomes(outcomes: Sequence[bool]) -> str:
    """Return outcomes as hexadecimal digits, the first item in the highest bit; the last digit is filled with zeros."""
    bits = "".join("1" if each else "0" for each in outcomes)
    digits = -(-len(bits) // _BITS)
    return f"{int(bits.ljust(digits * _BITS, '0'), 2):0{digits}x}" if bits else ""


def item_outcomes(score: ScoreFacts) -> tuple[bool, ...] | Missing:
    """Return whether each item was right, in the order of the items; Missing where the record does not say so."""
    if isinstance(score.outcomes, Missing):
        return score.outcomes
    digits = -(-score.items // _BITS)
    if score.items < 0 or len(score.outcomes) != digits or not _HEX.fullmatch(score.outcomes):
        return Missing(missing=f"the record does not have outcomes of {score.items} items")
    bits = "".join(f"{int(digit, 16):04b}" for digit in score.outcomes)
    return tuple(bit == "1" for bit in bits[: score.items])


def pack_item_scores(scores: Sequence[float]) -> str | Missing:
    """Return scores in 255ths, two hexadecimal digits each; Missing where one is not from 0 to 1."""
    if not all(0 <= score <= 1 for score in scores):
        return Missing(missing="scores of items are not from 0 to 1")
    return "".join(f"{round(_FULL * score):02x}" for score in scores)


def read_item_scores(score: ScoreFacts) -> tuple[float, ...] | Missing:
    """Return the score of each item from 0 to 1, in the order of the items; Missing where the record lacks them."""
    if not isinstance(score.outcomes, Missing):
        outcomes = item_outcomes(score)
        return outcomes if isinstance(outcomes, Missing) else tuple(float(right) for right in outcomes)
    if isinstance(score.item_scores, Missing):
        return score.item_scores
    if len(score.item_scores) != _DIGITS * score.items or not _HEX.fullmatch(score.item_scores):
        return Missing(missing=f"the record does not have scores of {score.items} items")
    return tuple(value / _FULL for value in bytes.fromhex(score.item_scores))


def validation_points(pairs: Sequence[tuple[int, float]]) -> tuple[ValidationPoint, ...]:
    """Return validation losses in the order of their steps; of two at one step the later one."""
    found = sorted(dict(pairs).items())
    every = -(-len(found) // MOST_VALIDATIONS)
    kept = [pair for number, pair in enumerate(found, 1) if (len(found) - number) % every == 0] if found else []
    return tuple(ValidationPoint(step=step, loss=loss if math.isfinite(loss) else None) for step, loss in kept)
