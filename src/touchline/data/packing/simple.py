"""Packers of other trainers, item by item, with their order and tie-breaking, to predict their batches."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Batch = Callable[[NDArray[np.int64], int], tuple[NDArray[np.int64], list[int]]]
"""Packer of one batch: its items in some order, and the sequence of each."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Filled:
    """Assignment of items to sequences."""

    items: NDArray[np.int64]
    """Indices of the items by sequence; shape [items]."""
    starts: NDArray[np.int64]
    """Start of each sequence in `items`; shape [rows]."""

    @property
    def rows(self) -> int:
        """Return the number of sequences."""
        return len(self.starts)

    @property
    def row_of(self) -> NDArray[np.int64]:
        """Return the sequence of each entry of `items`; shape [items]."""
        sizes = np.diff(np.append(self.starts, len(self.items)))
        return np.repeat(np.arange(self.rows), sizes)

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of the items' values per sequence; shape [rows]."""
        if not self.rows:
            return np.zeros(0, np.int64)
        total: NDArray[np.int64] = np.add.reduceat(values[self.items], self.starts, dtype=np.int64)
        return total


def one_each(count: int) -> Filled:
    """Put every item into its own sequence, in order."""
    return Filled(items=np.arange(count), starts=np.arange(count))


def next_fit(lengths: NDArray[np.int64], capacity: int) -> Filled:
    """Put each item into the last sequence, else a new one.

    O(items log items) in numpy, and one step per row.

    Raises:
        ValueError: an item is longer than a row.
    """
    _refuse_long(lengths, capacity)
    cumulated = np.concatenate([[0], np.cumsum(lengths)])
    following: list[int] = (np.searchsorted(cumulated, cumulated[:-1] + capacity, side="right") - 1).tolist()
    starts = []
    at = 0
    while at < len(following):
        starts.append(at)
        at = following[at]
    return Filled(items=np.arange(len(lengths)), starts=np.asarray(starts, np.int64))


def first_fit(lengths: NDArray[np.int64], capacity: int, *, most: int | None = None) -> Filled:
    """Put each item into the first sequence with room, in order. O(items log rows).

    Args:
        most: items of a row at most; none: any number.

    Raises:
        ValueError: an item is longer than a row.
    """
    _refuse_long(lengths, capacity)
    rows: list[int] = []
    sizes: list[int] = []
    limit = len(lengths) if most is None else most
    # A tree whose leaves are the rows' room and whose nodes hold the most below them; it doubles when it is full.
    leaves = 1
    tree = [0, capacity]
    for length in lengths.tolist():
        if tree[1] < length:
            wider = [0] * (4 * leaves)
            wider[2 * leaves : 3 * leaves] = tree[leaves:]
            wider[3 * leaves :] = [capacity] * leaves
            leaves *= 2
            tree = wider
            for node in range(leaves - 1, 0, -1):
                tree[node] = max(tree[2 * node], tree[2 * node + 1])
        node = 1
        while node < leaves:
            node *= 2
            if tree[node] < length:
                node += 1
        row = node - leaves
        if row == len(sizes):
            sizes.append(0)
        rows.append(row)
        sizes[row] += 1
        room = tree[node] - length if sizes[row] < limit else 0
        tree[node] = room
        while node > 1:
            other = tree[node ^ 1]
            node >>= 1
            room = max(room, other)
            if tree[node] == room:
                break
            tree[node] = room
    return _filled(np.arange(len(lengths)), np.asarray(rows, np.int64))


def first_fit_decreasing(lengths: NDArray[np.int64], capacity: int, edges: NDArray[np.int64] | None = None) -> Filled:
    """Fill sequence by sequence with the longest item that fits.

    Of equal lengths the last goes first. O(items log items).

    Args:
        edges: where batches that are packed apart begin and end, from 0 to the number of items; none: all together.

    Raises:
        ValueError: an item is longer than a row.
    """
    return _batched(lengths, capacity, edges, _first_fit_batch)


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int, edges: NDArray[np.int64] | None = None) -> Filled:
    """Put each item, longest first, into the fullest sequence with room.

    Of equal lengths the first goes first; of rows with equal room, the one that has had it longest. O(items log items).

    Raises:
        ValueError: an item is longer than a row.
    """
    return _batched(lengths, capacity, edges, _best_fit_batch)


def batch_edges(count: int, batch_size: int | None, processes: int | None = None) -> NDArray[np.int64]:
    """Return the edges of the batches of `datasets.Dataset.map(batched=True)`; shape [batches + 1].

    Args:
        batch_size: of a batch; none: all that a process has.
        processes: `num_proc`: each gets a contiguous share, the first ones one more, and makes batches of that.
    """
    shards = min(processes or 1, max(count, 1))
    sizes = np.full(shards, count // shards) + (np.arange(shards) < count % shards)
    begins = np.concatenate([[0], np.cumsum(sizes)])
    edges = [
        edge
        for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)
        for edge in range(begin, end, batch_size or max(count, 1))
    ]
    return np.asarray([*edges, count], np.int64)


def _batched(lengths: NDArray[np.int64], capacity: int, edges: NDArray[np.int64] | None, pack: _Batch) -> Filled:
    _refuse_long(lengths, capacity)
    if edges is None:
        edges = np.asarray([0, len(lengths)])
    items = [np.zeros(0, np.int64)]
    rows = [np.zeros(0, np.int64)]
    used = 0
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if begin == end:
            continue
        picked, row = pack(lengths[begin:end], capacity)
        items.append(picked + begin)
        rows.append(np.asarray(row, np.int64) + used)
        used += max(row) + 1
    return _filled(np.concatenate(items), np.concatenate(rows))


def _first_fit_batch(lengths: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], list[int]]:
    order = np.argsort(lengths, kind="stable")
    waiting: list[int] = order.tolist()
    ascending: list[int] = lengths[order].tolist()
    picked: list[int] = []
    rows: list[int] = []
    row = 0
    while waiting:
        room = capacity
        while at := bisect.bisect(ascending, room):
            room -= ascending.pop(at - 1)
            picked.append(waiting.pop(at - 1))
            rows.append(row)
        row += 1
    return np.asarray(picked, np.int64), rows


def _best_fit_batch(lengths: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], list[int]]:
    order = np.argsort(-lengths, kind="stable")
    waiting: dict[int, deque[int]] = {}
    rooms: list[int] = []
    rows: list[int] = []
    used = 0
    for length in lengths[order].tolist():
        at = bisect.bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            queue = waiting[room]
            row = queue.popleft()
            if not queue:
                del waiting[room], rooms[at]
        else:
            room = capacity
            row = used
            used += 1
        rows.append(row)
        room -= length
        if room in waiting:
            waiting[room].append(row)
        elif room:
            waiting[room] = deque((row,))
            bisect.insort(rooms, room)
    return order, rows


def _filled(items: NDArray[np.int64], rows: NDArray[np.int64]) -> Filled:
    sizes = np.bincount(rows)
    return Filled(items=items[np.argsort(rows, kind="stable")], starts=np.cumsum(sizes) - sizes)


def _refuse_long(lengths: NDArray[np.int64], capacity: int) -> None:
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"an item of length {int(lengths.max())} fits in no row of {capacity}")
