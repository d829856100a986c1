"""Best-fit and first-fit decreasing on a histogram, with equal lengths moved as one group; and the filler protocol.

Both give as many packs as their item-by-item forms, at a cost that depends on the number of distinct lengths and not on
that of examples. A group of equal packs that meets a group of equal examples splits into at most three. Both give the
packs in an order of opening: the longest example of each fits into none before it.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from touchline.data.packing.lengths import Histogram

Parts = tuple[tuple[int, int], ...]
"""Content of a sequence: pairs of length and count, lengths descending."""


class Pattern(NamedTuple):
    """Sequences with equal lengths; a tuple, because thousands are created at a time."""

    parts: Parts
    """Content of each."""
    packs: int

    @property
    def tokens(self) -> int:
        """Return the tokens per sequence."""
        return sum(length * number for length, number in self.parts)

    @property
    def examples(self) -> int:
        """Return the examples per sequence."""
        return sum(number for _, number in self.parts)


_Node = tuple["_Node | None", int, int]
"""Partial sequence: previous content, and the part added last."""


class _OpenPacks:
    __slots__ = ("closed", "groups", "shortest", "spaces")

    def __init__(self, shortest: int) -> None:
        self.shortest = shortest
        self.spaces: list[int] = []
        """Rooms of which there are packs, ascending."""
        self.groups: dict[int, list[tuple[_Node, int]]] = {}
        """Room -> groups of equal packs: what each holds, how many there are."""
        self.closed: list[tuple[_Node, int, int]] = []
        """Groups without room for anything: what each holds, how many there are, the room."""

    def put(self, node: _Node, packs: int, space: int) -> None:
        """Add a group of partial sequences."""
        if space < self.shortest:
            self.closed.append((node, packs, space))
            return
        if space not in self.groups:
            self.groups[space] = []
            bisect.insort(self.spaces, space)
        self.groups[space].append((node, packs))

    def take_fullest(self, length: int) -> tuple[_Node, int, int] | None:
        """Take a group of the fullest partial sequences with room for a length."""
        at = bisect.bisect_left(self.spaces, length)
        if at == len(self.spaces):
            return None
        space = self.spaces[at]
        group = self.groups[space]
        node, packs = group.pop()
        if not group:
            del self.groups[space], self.spaces[at]
        return node, packs, space

    def fill(self, node: _Node | None, packs: int, space: int, length: int, count: int) -> int:
        """Add examples to a group of partial sequences. Return the number of examples left over."""
        # A pack that took one of these is the fullest with room, so the next goes into it as well.
        each = space // length
        full = min(packs, count // each)
        if full:
            self.put((node, length, each), full, space - each * length)
        count -= full * each
        if full < packs and count:
            self.put((node, length, count), 1, space - count * length)
            full, count = full + 1, 0
        if full < packs and node is not None:
            self.put(node, packs - full, space)
        return count


def best_fit_groups(histogram: Histogram, max_seq_len: int) -> list[Pattern]:
    """Pack longest first, each into the fullest sequence with room, else into a new one."""
    if not len(histogram.lengths):
        return []
    packs = _OpenPacks(int(histogram.lengths[0]))
    for length, number in zip(histogram.lengths[::-1].tolist(), histogram.counts[::-1].tolist(), strict=True):
        count = number
        while count and (group := packs.take_fullest(length)):
            count = packs.fill(*group, length, count)
        if count:
            packs.fill(None, -(-count // (max_seq_len // length)), max_seq_len, length, count)
    left_open = [(node, number, space) for space, group in packs.groups.items() for node, number in group]
    found = [(_parts(node), number, space) for node, number, space in packs.closed + left_open]
    # A pack is opened when its longest example fits into none before it; of those with the same longest, only the last
    # one opened can have room for another such.
    found.sort(key=lambda entry: (-entry[0][0][0], entry[2]))
    return [Pattern(parts, number) for parts, number, _ in found]


def _parts(node: _Node) -> Parts:
    parts = []
    at: _Node | None = node
    while at is not None:
        at, length, number = at
        parts.append((length, number))
    return tuple(reversed(parts))


def first_fit_groups(histogram: Histogram, max_seq_len: int) -> list[Pattern]:
    """Pack longest first, each into the first sequence with room.

    Done pack by pack, which comes to the same: the first pack gets, longest first, all that fits into it; the second
    the same of what is left. A pack is repeated as long as the counts allow what it took.
    """
    lengths: list[int] = histogram.lengths.tolist()
    counts: dict[int, int] = dict(zip(lengths, histogram.counts.tolist(), strict=True))
    patterns: list[Pattern] = []
    while lengths:
        parts, _ = longest_first(lengths, counts, max_seq_len)
        times = min([counts[length] // number for length, number in parts])
        for length, number in parts:
            counts[length] -= times * number
            if not counts[length]:
                del lengths[bisect.bisect_left(lengths, length)]
        patterns.append(Pattern(parts, times))
    return patterns


def longest_first(lengths: list[int], counts: Mapping[int, int], space: int) -> tuple[Parts, int]:
    """Fill a space longest first. Return the content and the remaining room."""
    parts: list[tuple[int, int]] = []
    at = len(lengths)
    while at:
        length = lengths[at - 1]
        number = space // length
        if number > counts[length]:
            number = counts[length]
        parts.append((length, number))
        space -= number * length
        at = bisect.bisect_right(lengths, space, 0, at - 1)
    return tuple(parts), space


CALL_OPERATIONS = 8
"""Cost of handling one bitset of any size, in steps over its words."""


class Filler(Protocol):
    """Method of filling sequences."""

    @property
    def counts(self) -> Mapping[int, int]:
        """Remaining examples by length."""
        ...

    @property
    def operations(self) -> int:
        """Cost of the search so far, in steps over machine words."""
        ...

    def next_pattern(self) -> Pattern:
        """Return the next sequences and remove their examples. No remaining example may fit into them."""
        ...


def fill(
    filler: Filler, histogram: Histogram, max_seq_len: int, *, fewer_than: int, operations: int
) -> list[Pattern] | None:
    """Return the sequences of a filler.

    Args:
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
