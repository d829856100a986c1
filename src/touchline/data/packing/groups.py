"""Histogram of example lengths, lower bounds on packed sequences, and best-fit and first-fit decreasing on it.

Both give as many packs as their item-by-item forms, at a cost that depends on the number of distinct lengths and not on
that of examples. The bounds are L2 of Martello and Toth (Discrete Applied Mathematics 28, 1990), and u^(k) of Fekete
and Schepers (Mathematical Programming 91, 2001).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TABLE_LIMIT = 1 << 22
"""Longest length counted in a table; longer ones are sorted."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Histogram:
    """Number of examples per length."""

    lengths: NDArray[np.int64]
    """Distinct lengths in tokens, ascending; shape [distinct]."""
    counts: NDArray[np.int64]
    """Examples of each length, at least 1; shape [distinct]."""

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> Histogram:
        """Return the histogram of a mapping from lengths to counts."""
        lengths = sorted(counts)
        return cls(
            lengths=np.array(lengths, np.int64), counts=np.array([counts[length] for length in lengths], np.int64)
        )

    @property
    def examples(self) -> int:
        """Return the number of examples."""
        return int(self.counts.sum())

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return int(self.lengths @ self.counts)


def as_lengths(lengths: ArrayLike) -> NDArray[np.integer]:
    """Return the lengths as an integer array, shape [examples], with their dtype.

    Raises:
        ValueError: they are not row of whole numbers, or one is below 1: the first such is named.
    """
    array = np.asarray(lengths)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"lengths must be a one-dimensional integer array, got {array.dtype} of shape {array.shape}")
    if array.size == 0:
        return np.zeros(0, np.uint32)
    if array.min() < 1:
        first = int(np.argmax(array < 1))
        raise ValueError(f"example {first} (from 0) has {array[first]} tokens, expected at least 1")
    return array


def count_lengths(lengths: ArrayLike, max_seq_len: int) -> Histogram:
    """Return the histogram of the lengths, in O(examples).

    Raises:
        ValueError: `max_seq_len` is below 1, or an example is longer (the first such is named; leaving out or cutting
            such examples is the caller's decision, which the packer does not take).
    """
    array = as_lengths(lengths)
    if max_seq_len < 1:
        raise ValueError(f"max_seq_len is {max_seq_len}, expected at least 1")
    if array.size == 0:
        return Histogram(lengths=np.zeros(0, np.int64), counts=np.zeros(0, np.int64))
    longest = int(array.max())
    if longest > max_seq_len:
        first = int(np.argmax(array > max_seq_len))
        count = int((array > max_seq_len).sum())
        raise ValueError(
            f"example {first} (from 0) has {array[first]} tokens, more than max_seq_len {max_seq_len} ({count} "
            f"of {array.size} examples are longer)"
        )
    if longest > _TABLE_LIMIT:
        found, counts = np.unique(array, return_counts=True)
        return Histogram(lengths=found.astype(np.int64), counts=counts.astype(np.int64))
    table = np.bincount(array)
    present = np.flatnonzero(table)
    return Histogram(lengths=present.astype(np.int64), counts=table[present].astype(np.int64))


_ROUNDINGS = 24
"""Largest k of u^(k). For shorter items the sum of the lengths is nearly exact."""


def lower_bound(histogram: Histogram, max_seq_len: int) -> int:
    """Return a lower bound on the sequences for these lengths; at least ceil(tokens / max_seq_len).

    O(distinct lengths), for each of a fixed number of roundings. The lengths are at most `max_seq_len`.
    """
    if len(histogram.lengths) == 0:
        return 0
    lengths, counts = histogram.lengths, histogram.counts
    best = -(-histogram.tokens // max_seq_len)
    # Lengths above L - alpha are alone with anything from alpha up: they count as whole packs and leave the rest.
    alphas = np.concatenate([[0], lengths[lengths <= max_seq_len // 2]])
    first = np.searchsorted(lengths, alphas, side="left")
    last = np.searchsorted(lengths, max_seq_len - alphas, side="right")
    above = np.concatenate([[0], np.cumsum(counts)])
    whole = above[-1] - above[last]
    best = max(best, _martello_toth(lengths, counts, max_seq_len, first, last, whole))
    for k in range(2, min(_ROUNDINGS, max_seq_len // int(lengths[0])) + 1):
        # u^(k)(x) times k L: whole numbers, so that nothing is rounded that the proof does not round.
        scaled = (k + 1) * lengths
        values = np.where(scaled % max_seq_len == 0, k * lengths, scaled // max_seq_len * max_seq_len)
        cumulated = np.concatenate([[0], np.cumsum(values * counts)])
        sums = cumulated[last] - cumulated[first]
        best = max(best, int((whole + -(-sums // (k * max_seq_len))).max()))
    return best


def _martello_toth(
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    max_seq_len: int,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    whole: NDArray[np.int64],
) -> int:
    number = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(counts * lengths)])
    half = int(np.searchsorted(lengths, max_seq_len // 2, side="right"))
    # alpha <= L / 2 <= L - alpha, so first <= half <= last; where alpha is exactly L / 2 nothing lies between.
    last = np.maximum(last, half)
    large = number[last] - number[half]
    room = large * max_seq_len - (tokens[last] - tokens[half])
    small = tokens[half] - tokens[first]
    rest = np.maximum(0, -(-(small - room) // max_seq_len))
    return int((whole + large + rest).max())


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
