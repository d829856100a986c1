"""The ladder of evidence: one answer a rung, all of them kept, the narrowest consistent one chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from touchline.core.estimate import Estimate, Rung

STRETCH: Final = 1.5
"""Intervals that do not meet when each is this much wider contradict each other: nine of ten hold the truth, so two
that just miss each other are no rarity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """All answers to one question."""

    chosen: Estimate
    """The one to use."""
    answers: tuple[Estimate, ...]
    """All, the best rung first."""
    contradictions: tuple[str, ...] = ()
    """Which answers cannot both be right, in words."""


def log_width(estimate: Estimate) -> float:
    """Width of the interval as the logarithm of its ends' ratio; infinite where the lower end is zero."""
    if estimate.low <= 0:
        return 0.0 if estimate.high <= 0 else math.inf
    return math.log(estimate.high / estimate.low)


def consistent(one: Estimate, other: Estimate) -> bool:
    """Whether both can be right: whether their intervals meet, each a little wider."""
    (one_low, one_high), (low, high) = _stretched(one), _stretched(other)
    return one_low <= high and low <= one_high


def choose(answers: Sequence[Estimate]) -> Ladder:
    """The narrowest answer that contradicts none of the others; one that rests on nothing only where it is alone.

    A measurement that surprises widens its interval, perhaps beyond the one that knows nothing of the surprise. Where
    every answer contradicts one, that of the best rung is taken, its interval widened until it meets the others':
    what was measured counts more than what was computed, but not as if nothing had been said against it.

    Raises:
        ValueError: there is no answer.
    """
    if not answers:
        raise ValueError("a ladder has at least one rung")
    ordered = sorted(answers, key=lambda answer: (answer.rung, log_width(answer), answer.value))
    pairs = [
        (one, other)
        for index, one in enumerate(ordered)
        for other in ordered[index + 1 :]
        if not consistent(one, other)
    ]
    words = tuple(
        f"rung {one.rung}: {one.value:.3g} {one.unit}, rung {other.rung}: {other.value:.3g} {other.unit}"
        for one, other in pairs
    )
    doubtful = {id(answer) for pair in pairs for answer in pair}
    sound = [answer for answer in ordered if id(answer) not in doubtful]
    measured = [answer for answer in sound if answer.rung is not Rung.NOTHING]
    sound = measured or (sound if len(ordered) == 1 else [])
    if sound:
        chosen = min(sound, key=lambda answer: (log_width(answer), answer.rung, answer.value))
        return Ladder(chosen=chosen, answers=tuple(ordered), contradictions=words)
    best = ordered[0]
    against = [other for other in ordered if not consistent(best, other)]
    chosen = dataclasses.replace(
        best,
        low=min([best.low, *(other.high for other in against if other.high < best.low)]),
        high=max([best.high, *(other.low for other in against if other.low > best.high)]),
        method=f"{best.method}; widened, because other evidence contradicts it ({'; '.join(words)})",
    )
    return Ladder(chosen=chosen, answers=tuple(ordered), contradictions=words)


def _stretched(estimate: Estimate) -> tuple[float, float]:
    if estimate.low <= 0:
        middle = estimate.value
        return middle - STRETCH * (middle - estimate.low), middle + STRETCH * (estimate.high - middle)
    middle = math.log(estimate.value)
    return (
        math.exp(middle - STRETCH * (middle - math.log(estimate.low))),
        math.exp(middle + STRETCH * (math.log(estimate.high) - middle)),
    )
