"""Pack after pack from what is left, as long as a budget lasts: what both ways of exact filling have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from touchline.data.packing.groups import Pattern, first_fit_groups
from touchline.data.packing.lengths import Histogram

CALL_OPERATIONS = 8
"""Cost of handling one bitset of any size, in steps over its words."""


class Filler(Protocol):
    """A way of filling packs."""

    @property
    def counts(self) -> Mapping[int, int]:
        """Length -> how many are left, at least 1."""
        ...

    @property
    def operations(self) -> int:
        """What the search has cost so far, in steps over machine words."""
        ...

    def next_pattern(self) -> Pattern:
        """The next packs, taken out of what is left; no example that is left may have room in them."""
        ...


def fill(
    filler: Filler, histogram: Histogram, max_seq_len: int, *, fewer_than: int, operations: int
) -> list[Pattern] | None:
    """The packs of a filler.

    Args:
        filler: what has the lengths.
        histogram: the lengths, each at most `max_seq_len`.
        max_seq_len: tokens a pack at most.
        fewer_than: packs that another packing needs; what cannot be below it is not finished.
        operations: how much searching is allowed, in steps over machine words; after that the rest is filled longest
            first. A count and no time, so that the same lengths give the same packs on every machine.

    Returns:
        The packs, or None where they would not be fewer than `fewer_than`.
    """
    tokens, packs = histogram.tokens, 0
    patterns: list[Pattern] = []
    while tokens and filler.operations < operations:
        if packs - (-tokens // max_seq_len) >= fewer_than:
            return None
        pattern = filler.next_pattern()
        patterns.append(pattern)
        packs += pattern.packs
        tokens -= pattern.packs * pattern.tokens
    if tokens:
        patterns += first_fit_groups(Histogram.of(filler.counts), max_seq_len)
        packs = sum(pattern.packs for pattern in patterns)
    return patterns if packs < fewer_than else None
