"""Best-fit and first-fit decreasing on a histogram: equal lengths move as one group.

Both give as many packs as their item-by-item forms, at a cost that depends on the number of distinct lengths and not on
that of examples. A group of equal packs that meets a group of equal examples splits into at most three. Both give the
packs in an order of opening: the longest example of each fits into none before it.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from touchline.packing.lengths import Histogram

Parts = tuple[tuple[int, int], ...]
"""What a pack holds: (length, how many of it), lengths descending."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Packs that hold the same lengths."""

    parts: Parts
    """What each holds."""
    packs: int
    """How many there are, at least 1."""

    @property
    def tokens(self) -> int:
        """Tokens in each."""
        return sum(length * number for length, number in self.parts)

    @property
    def examples(self) -> int:
        """Examples in each."""
        return sum(number for _, number in self.parts)


_Node = tuple["_Node | None", int, int]
"""A pack in the making: what it held before, and what was put in last (length, how many)."""


class _OpenPacks:
    """Packs in the making, by the room that they have."""

    __slots__ = ("closed", "groups", "shortest", "spaces")

    def __init__(self, shortest: int) -> None:
        self.shortest = shortest
        self.spaces: list[int] = []
        """Rooms of which there are packs, ascending."""
        self.groups: dict[int, list[tuple[_Node, int]]] = {}
        """Room -> groups of equal packs: what each holds, how many there are."""
        self.closed: list[tuple[_Node, int]] = []
        """Groups without room for anything."""

    def put(self, node: _Node, packs: int, space: int) -> None:
        """A group of packs with so much room."""
        if space < self.shortest:
            self.closed.append((node, packs))
            return
        if space not in self.groups:
            self.groups[space] = []
            bisect.insort(self.spaces, space)
        self.groups[space].append((node, packs))

    def take_fullest(self, length: int) -> tuple[_Node, int, int] | None:
        """A group of the fullest packs with room for that length, and their room."""
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
        """Put examples into a group of packs, one pack after the other; gives how many are left over."""
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
    """Longest first, each into the fullest pack that has room for it, else into a new one."""
    if not len(histogram.lengths):
        return []
    packs = _OpenPacks(int(histogram.lengths[0]))
    for length, number in zip(histogram.lengths[::-1].tolist(), histogram.counts[::-1].tolist(), strict=True):
        count = number
        while count and (group := packs.take_fullest(length)):
            count = packs.fill(*group, length, count)
        if count:
            packs.fill(None, -(-count // (max_seq_len // length)), max_seq_len, length, count)
    groups = packs.closed + [entry for group in packs.groups.values() for entry in group]
    patterns = [Pattern(_parts(node), number) for node, number in groups]
    # A pack is opened when its longest example fits into none before it; of those with the same longest, only the last
    # one opened can have room for another such.
    patterns.sort(key=lambda pattern: (-pattern.parts[0][0], -pattern.tokens))
    return patterns


def _parts(node: _Node) -> Parts:
    parts = []
    at: _Node | None = node
    while at is not None:
        at, length, number = at
        parts.append((length, number))
    return tuple(reversed(parts))


def first_fit_groups(histogram: Histogram, max_seq_len: int) -> list[Pattern]:
    """Longest first, each into the first pack that has room for it.

    Done pack by pack, which comes to the same: the first pack gets, longest first, all that fits into it; the second
    the same of what is left. A pack is repeated as long as the counts allow what it took.
    """
    lengths: list[int] = histogram.lengths.tolist()
    counts: list[int] = histogram.counts.tolist()
    # lower[i]: the largest j <= i of which examples are left, found by following; index 0 stands for none.
    lower = list(range(len(lengths) + 1))

    def left(at: int) -> int:
        root = at
        while lower[root] != root:
            root = lower[root]
        while lower[at] != root:
            lower[at], at = root, lower[at]
        return root

    patterns: list[Pattern] = []
    while top := left(len(lengths)):
        taken: list[tuple[int, int]] = []
        space, at = max_seq_len, top
        times = counts[top - 1]
        while at:
            length, count = lengths[at - 1], counts[at - 1]
            number = min(count, space // length)
            taken.append((at, number))
            times = min(times, count // number)
            space -= number * length
            at = left(min(at - 1, bisect.bisect_right(lengths, space)))
        for at, number in taken:
            counts[at - 1] -= times * number
            if not counts[at - 1]:
                lower[at] = at - 1
        patterns.append(Pattern(tuple((lengths[at - 1], number) for at, number in taken), times))
    return patterns
