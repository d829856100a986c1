"""Packing by filling sequences to the last token from the most numerous lengths, for similar lengths.

Longest first uses up the lengths that combine well and ends with packs of short examples that do not. Taking the
lengths with the most tokens left keeps the mixture that it started with, so that exact combinations remain possible to
the end. Each pack is a subset sum (dynamic programming on bitsets: bit x is set where x tokens can be filled) over the
most numerous lengths, and over more of them where these cannot fill it.
"""

from __future__ import annotations

import bisect

from touchline.data.packing.groups import CALL_OPERATIONS, Parts, Pattern
from touchline.data.packing.lengths import Histogram

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
