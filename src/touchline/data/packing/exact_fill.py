"""Packing by filling sequences to the last token, longest examples first, beyond best-fit and first-fit.

Pack by pack, in the spirit of "minimum bin slack" (Gupta and Ho, "A new heuristic algorithm for the one-dimensional
bin-packing problem", Production Planning & Control 10, 1999): each takes the longest example left, then longest first;
where that leaves a gap, the last few are taken back and two or three others looked for that fill the room exactly. The
search is on bitsets: bit x is set where length x is left, and a shift of the mirrored bitset meets it in the pairs of
one sum. What was found is repeated as long as the counts allow; where nothing is found, longest first stays.
"""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import NDArray

from touchline.data.packing.groups import CALL_OPERATIONS, Parts, Pattern, longest_first
from touchline.data.packing.lengths import Histogram

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
    """Return the number with these bits set."""
    mask = np.zeros(highest + 1, np.bool_)
    mask[bits] = True
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def _merged(parts: list[tuple[int, int]], added: tuple[int, ...]) -> Parts:
    numbers = dict(parts)
    for length in added:
        numbers[length] = numbers.get(length, 0) + 1
    return tuple(sorted(numbers.items(), reverse=True))
