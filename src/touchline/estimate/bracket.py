"""Search for the largest micro-batch that fits, with few real tries, guided by a prediction.

The first try is at 0.7 of the predicted maximum and should fit; the second at 1.1 should not. The range between is
bisected. If the prediction was wrong, the search continues below or above it with the same number of tries. It also
ends where larger micro-batches no longer increase throughput.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

BRACKET = (0.7, 1.1)
"""Ends of the bracket, as fractions of the predicted maximum."""
BISECTIONS = 4
"""Tries after the two ends of the bracket."""
KNEE_GAIN = 0.03
"""Throughput gain per doubling of the tokens below which more tokens are not worth their memory."""
_HUGE = 100.0


class SearchStop(StrEnum):
    """Reason why a search ended."""

    BRACKETED = "the next larger one does not fit"
    ALL_FIT = "the largest one that is allowed fits"
    KNEE = "a larger one is not faster"
    NONE_FITS = "not even the smallest one fits"
    TRIES = "no more tries"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Result of one try."""

    size: int
    tokens: int
    """Computed tokens of its largest micro-batch, padding included."""
    fits: bool
    """Whether it completed; any other end counts as not fitting."""
    tokens_per_second: float | None
    """Throughput. None if it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """Result of a search."""

    trials: tuple[Trial, ...]
    largest: int | None
    recommended: int | None
    """Smallest size that is as fast as every larger one that fits."""
    ended: SearchStop


def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a number in ascending order: the micro-batch sizes that keep the global batch size."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return tuple(sorted({*small, *(number // size for size in small)}))


def search(sizes: Sequence[int], predicted: int | None, try_one: Callable[[int], Trial]) -> Search:
    """Find the largest size that fits, with at most two tries more than bisections.

    No size is tried twice, and none at or above one that did not fit.

    Args:
        sizes: the sizes that are allowed; at least one, each positive.
        predicted: the largest size that should fit; None if unknown: the search then begins at the smallest.

    Raises ValueError: no size, or one below 1.
    """
    allowed = sorted(set(sizes))
    if not allowed or allowed[0] < 1:
        raise ValueError(f"invalid sizes to try: {list(sizes)}")
    trials: list[Trial] = []
    fit, unfit, stride = -1, len(allowed), 1
    first, top = (_at_most(allowed, share * (predicted or 0)) for share in BRACKET)
    place = first
    while True:
        trial = try_one(allowed[place])
        trials.append(trial)
        if trial.fits:
            below = next((old for old in reversed(trials[:-1]) if old.fits), None)
            fit = place
            if below is not None and _gain(below, trial) < KNEE_GAIN:
                return _found(trials, SearchStop.KNEE)
        else:
            unfit = place
        ended = _end(fit, unfit, len(allowed))
        if ended is not None:
            return _found(trials, ended)
        if len(trials) >= 2 + BISECTIONS:
            return _found(trials, SearchStop.TRIES)
        if unfit < len(allowed):
            place = (fit + unfit) // 2
        elif fit < top:
            place = top
        else:
            # All that was predicted to fit does, so the prediction was low: ever longer strides beyond it.
            place = min(fit + stride, len(allowed) - 1)
            stride *= 2


def _at_most(allowed: Sequence[int], limit: float) -> int:
    return max(sum(size <= limit for size in allowed) - 1, 0)


def _end(fit: int, unfit: int, count: int) -> SearchStop | None:
    if unfit == 0:
        return SearchStop.NONE_FITS
    if fit == count - 1:
        return SearchStop.ALL_FIT
    return SearchStop.BRACKETED if unfit - fit == 1 else None


def _found(trials: list[Trial], ended: SearchStop) -> Search:
    fitting = [trial.size for trial in trials if trial.fits]
    return Search(trials=tuple(trials), largest=max(fitting, default=None), recommended=knee(trials), ended=ended)


def knee(trials: Sequence[Trial]) -> int | None:
    """Return the smallest size that fits and is as fast as every larger one that fits. None if none fits."""
    fitting = sorted((trial for trial in trials if trial.fits), key=lambda trial: trial.size)
    for number, trial in enumerate(fitting):
        if all(_gain(trial, larger) < KNEE_GAIN for larger in fitting[number + 1 :]):
            return trial.size
    return None


def _gain(small: Trial, large: Trial) -> float:
    """Return the throughput gain per doubling of the tokens; infinite if it was not measured."""
    if not small.tokens_per_second or not large.tokens_per_second:
        return math.inf
    ratio = large.tokens_per_second / small.tokens_per_second
    doublings = math.log2(large.tokens / small.tokens)
    # A step from 1,000,000 tokens to 1,000,001 is so small a part of a doubling that the power overflows.
    return math.expm1(min(math.log(ratio) / doublings, _HUGE)) if doublings > 0 else ratio - 1
