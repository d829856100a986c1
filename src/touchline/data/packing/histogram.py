"""Packer on the histogram of the lengths: the fewest packed sequences found, and a lower bound.

Best-fit decreasing first; where it needs more than the bound, exact filling longest first, first-fit decreasing, and
exact filling from the most numerous lengths, each as long as it may still win. The best is kept, so that it is never
worse than best-fit or first-fit decreasing of the single examples. Budgets are operation counts: the same lengths give
the same packs on every machine.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from touchline.data.packing.groups import (
    CALL_OPERATIONS,
    Filler,
    Histogram,
    Parts,
    Pattern,
    best_fit_groups,
    fill,
    first_fit_groups,
    longest_first,
    lower_bound,
)

_BACKTRACKS = 4
"""Number of last examples that are taken back, one after the other."""
_THIRDS = 48
"""Candidates for the longest of three."""


class ExactFill:
    """Remaining examples and the search among them; a filler of `groups.fill`."""

    __slots__ = ("capacity", "counts", "lengths", "mirrored", "operations", "present", "words")

    def __init__(self, histogram: Histogram, capacity: int) -> None:
        self.capacity = capacity
        self.lengths: list[int] = histogram.lengths.tolist()
        """Lengths that are left, ascending."""
        self.counts: dict[int, int] = dict(zip(self.lengths, histogram.counts.tolist(), strict=True))
        self.present = _bitset(histogram.lengths, capacity)
        """Bit x is set where length x is left."""
        self.mirrored = _bitset(capacity - histogram.lengths, capacity)
        """Bit capacity - x is set where length x is left."""
        self.words = CALL_OPERATIONS + capacity // 64
        """Cost of one step over a bitset."""
        self.operations = 0

    def _flip(self, length: int) -> None:
        self.operations += 2 * self.words
        self.present ^= 1 << length
        self.mirrored ^= 1 << (self.capacity - length)

    def _take(self, length: int, number: int) -> None:
        """Take examples out, or put them back if the number is negative."""
        before = self.counts[length]
        after = self.counts[length] = before - number
        if (before > 0) != (after > 0):
            self._flip(length)

    def next_pattern(self) -> Pattern:
        """Return the next sequences, and remove their examples."""
        parts, gap = longest_first(self.lengths, self.counts, self.capacity)
        self.operations += len(parts)
        if gap:
            parts = self._fill_exactly(parts, gap)
        times = min([self.counts[length] // number for length, number in parts])
        for length, number in parts:
            self._take(length, number * times)
            if not self.counts[length]:
                del self.counts[length]
                del self.lengths[bisect.bisect_left(self.lengths, length)]
        return Pattern(parts, times)

    def _fill_exactly(self, parts: Parts, gap: int) -> Parts:
        """Exchange the last examples of a sequence so that no room remains; the longest one stays."""
        kept = list(parts)
        for length, number in parts:
            self._take(length, number)
        room = gap
        found: tuple[int, ...] = ()
        for _ in range(_BACKTRACKS):
            length, number = kept[-1]
            if len(kept) == 1 and number == 1:
                break
            self._take(length, -1)
            room += length
            kept[-1:] = [(length, number - 1)] if number > 1 else []
            found = self._two(room) or self._three(room)
            if found:
                break
        for length, number in kept:
            self._take(length, -number)
        return _merged(kept, found) if found else parts

    def _two(self, room: int) -> tuple[int, ...]:
        """Return the two remaining examples that fill the room, with the longest such; or none."""
        self.operations += 2 * self.words
        pairs = self.present & (self.mirrored >> (self.capacity - room))
        while pairs:
            longer = pairs.bit_length() - 1
            if 2 * longer != room or self.counts[longer] > 1:
                return longer, room - longer
            pairs ^= 1 << longer
        return ()

    def _three(self, room: int) -> tuple[int, ...]:
        """Return three remaining examples that fill the room, or none."""
        candidates = self.present & ((1 << max(room - 1, 0)) - 1)
        for _ in range(_THIRDS):
            if not candidates:
                break
            longest = candidates.bit_length() - 1
            if 3 * longest < room:
                break
            candidates ^= 1 << longest
            self.operations += 2 * self.words
            self._take(longest, 1)
            two = self._two(room - longest)
            self._take(longest, -1)
            if two:
                return longest, *two
        return ()


def _bitset(bits: NDArray[np.int64], highest: int) -> int:
    mask = np.zeros(highest + 1, np.bool_)
    mask[bits] = True
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def _merged(parts: list[tuple[int, int]], added: tuple[int, ...]) -> Parts:
    numbers = dict(parts)
    for length in added:
        numbers[length] = numbers.get(length, 0) + 1
    return tuple(sorted(numbers.items(), reverse=True))


_WINDOW = 48
"""Number of lengths tried first; subset sums of a few dozen are nearly dense."""
_WIDENING = 4
"""Number of further lengths tried if these cannot fill a sequence."""


class SubsetFill:
    """Remaining examples and the fullest sequence of the most numerous ones; a filler of `groups.fill`."""

    __slots__ = ("counts", "fullest", "operations", "order", "repeat_share")

    def __init__(self, histogram: Histogram, max_seq_len: int, *, repeat_share: int) -> None:
        self.repeat_share = repeat_share
        """A pack that was found is repeated for this part of what the counts allow: 1 for all of it, 2 for half of it,
        which takes longer and keeps the mixture better."""
        self.counts: dict[int, int] = dict(zip(histogram.lengths.tolist(), histogram.counts.tolist(), strict=True))
        self.order: list[tuple[int, int]] = sorted((length * count, length) for length, count in self.counts.items())
        """(tokens left, length), ascending."""
        self.fullest = max_seq_len
        """Tokens of a pack that are still possible: what all that is left cannot fill, less cannot fill either."""
        self.operations = 0

    def next_pattern(self) -> Pattern:
        """Return the next sequences, and remove their examples."""
        parts = self._fullest_parts()
        times = -(-min(self.counts[length] // number for length, number in parts) // self.repeat_share)
        for length, number in parts:
            self._take(length, number * times)
        return Pattern(parts, times)

    def _take(self, length: int, number: int) -> None:
        """Take examples out."""
        count = self.counts[length]
        del self.order[bisect.bisect_left(self.order, (length * count, length))]
        if count > number:
            self.counts[length] = count - number
            bisect.insort(self.order, (length * (count - number), length))
        else:
            del self.counts[length]

    def _fullest_parts(self) -> Parts:
        width = _WINDOW
        while True:
            lengths = [length for _, length in self.order[-width:]]
            reached = self._reached(lengths)
            if reached[-1] >> self.fullest & 1:
                break
            if len(lengths) == len(self.order):
                self.fullest = reached[-1].bit_length() - 1
                break
            width *= _WIDENING
        return self._trace(lengths, reached)

    def _reached(self, lengths: list[int]) -> list[int]:
        """Return bitsets: bit x of item i is set if the first i lengths can fill x tokens."""
        room, counts = self.fullest, self.counts
        mask = (1 << (room + 1)) - 1
        sums = 1
        reached = [sums]
        steps = 0
        for length in lengths:
            number, step = min(counts[length], room // length), 1
            while number > 0:
                # 1, 2, 4, ... of them and the rest: any number up to all is a sum of these.
                step = min(step, number)
                sums |= (sums << (step * length)) & mask
                number -= step
                step *= 2
                steps += 1
            reached.append(sums)
        self.operations += (steps + len(lengths)) * (CALL_OPERATIONS + room // 64)
        return reached

    def _trace(self, lengths: list[int], reached: list[int]) -> Parts:
        """Return a sequence of `fullest` tokens, preferring the most numerous lengths."""
        taken: list[tuple[int, int]] = []
        left = self.fullest
        for at in range(len(lengths) - 1, -1, -1):
            length = lengths[at]
            number = min(self.counts[length], left // length)
            while not reached[at] >> (left - number * length) & 1:
                number -= 1
            if number:
                taken.append((length, number))
                left -= number * length
                if not left:
                    break
        return tuple(sorted(taken, reverse=True))


_CLOSE = 0.001
"""Fraction of the bound below which only a short search is worthwhile: one sequence in a thousand."""
_PASSES = 8
"""A search that cannot look at every length this many times is skipped."""


@dataclass(frozen=True, slots=True)
class _Search:
    words: str
    filler: Callable[[Histogram, int], Filler]
    operations: int
    """Budget."""
    operations_close: int
    """Budget if the packing is already close to the bound."""


_LONGEST = _Search("exact fill, longest first", ExactFill, 20_000_000, 10_000_000)
_NUMEROUS = (
    _Search("exact fill, most numerous first", partial(SubsetFill, repeat_share=1), 8_000_000, 500_000),
    _Search("exact fill, most numerous first", partial(SubsetFill, repeat_share=2), 4_000_000, 500_000),
)
"""A million operations are some milliseconds; the budgets keep a million examples below 0.2 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Lengths that are packed together, not yet the examples."""

    patterns: tuple[Pattern, ...]
    """Sequences, in an order in which each one's longest example fits into none before it."""
    max_seq_len: int
    """Maximum tokens per sequence."""
    packs: int
    lower_bound: int
    examples: int
    tokens: int
    method: str

    @property
    def optimal(self) -> bool:
        """Return True if fewer sequences are proved impossible."""
        return self.packs == self.lower_bound

    @property
    def gap(self) -> int:
        """Return the number of sequences above the lower bound."""
        return self.packs - self.lower_bound

    @property
    def density(self) -> float:
        """Return the examples per sequence."""
        return self.examples / self.packs if self.packs else 0.0

    @property
    def efficiency(self) -> float:
        """Return the fraction of non-padding tokens, 0 to 1."""
        return self.tokens / (self.packs * self.max_seq_len) if self.packs else 0.0


class _Found:
    __slots__ = ("method", "packs", "patterns")

    def __init__(self, patterns: list[Pattern], method: str) -> None:
        self.patterns = patterns
        self.method = method
        self.packs = sum(pattern.packs for pattern in patterns)

    def __lt__(self, other: _Found) -> bool:
        return self.packs < other.packs


def pack_histogram(histogram: Histogram, max_seq_len: int, *, search: bool = True) -> Packing:
    """Return the fewest sequences found for these lengths, each at most `max_seq_len`.

    Costs some operations for each distinct length where best-fit decreasing meets the bound; otherwise as much as the
    budgets allow. Without `search` it is best-fit decreasing alone, for what need not be the last word.
    """
    bound = lower_bound(histogram, max_seq_len)
    best = _Found(best_fit_groups(histogram, max_seq_len), "best-fit decreasing")
    if search:
        best = _try(_LONGEST, histogram, max_seq_len, best, bound)
        if best.packs > bound:
            best = min(best, _Found(first_fit_groups(histogram, max_seq_len), "first-fit decreasing"))
        for way in _NUMEROUS:
            best = _try(way, histogram, max_seq_len, best, bound)
    return Packing(
        patterns=tuple(best.patterns),
        max_seq_len=max_seq_len,
        packs=best.packs,
        lower_bound=bound,
        examples=histogram.examples,
        tokens=histogram.tokens,
        method=best.method,
    )


def _try(search: _Search, histogram: Histogram, max_seq_len: int, best: _Found, bound: int) -> _Found:
    """Return the better of the known packing and the search's, if a search is worthwhile."""
    operations = search.operations_close if best.packs - bound <= _CLOSE * bound else search.operations
    each_pass = len(histogram.lengths) * (CALL_OPERATIONS + max_seq_len // 64)
    if best.packs == bound or _PASSES * each_pass > operations:
        return best
    filler = search.filler(histogram, max_seq_len)
    found = fill(filler, histogram, max_seq_len, fewer_than=best.packs, operations=operations)
    return best if found is None else _Found(found, search.words)
