"""Histogram of example lengths, and lower bounds on the number of packed sequences.

The bound of Martello and Toth (L2: "Lower bounds and reduction procedures for the bin packing problem", Discrete
Applied Mathematics 28, 1990) counts what cannot share a pack; its strengthening by rounding (the functions u^(k) of
Fekete and Schepers, "New classes of fast lower bounds for bin packing problems", Mathematical Programming 91, 2001)
adds that at most k items longer than 1/(k+1) of a pack share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
