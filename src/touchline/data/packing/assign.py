"""Assignment of examples to packed sequences.

The packer decides on lengths; examples of equal length are assigned in a seeded random order, and the packed
sequences are in a seeded random order. All work is on whole arrays: one stable sort of 16-bit keys for the examples,
one for the positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchline.data.packing.histogram import Packing, pack_histogram
from touchline.data.packing.lengths import Histogram, as_lengths, count_lengths


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackPlan:
    """Packed sequences of a dataset."""

    offsets: NDArray[np.int64]
    """Start of each sequence in `indices`; shape [packs + 1], from 0 to the number of examples."""
    indices: NDArray[np.int64]
    """Examples by sequence, the longest first; sequence p holds indices[offsets[p]:offsets[p + 1]]."""
    tokens: NDArray[np.int64]
    """Tokens per sequence without padding; shape [packs]."""
    opened: NDArray[np.int64]
    """Sequences in an order in which each one's longest example fits into none before it; shape [packs]."""
    max_seq_len: int
    lower_bound: int

    @property
    def packs(self) -> int:
        """Return the number of packed sequences."""
        return len(self.tokens)

    def pack(self, number: int) -> NDArray[np.int64]:
        """Return the examples of a sequence, from 0."""
        return self.indices[self.offsets[number] : self.offsets[number + 1]]


def pack(lengths: ArrayLike, max_seq_len: int, *, seed: int | np.random.Generator) -> PackPlan:
    """Pack the examples of a dataset.

    Args:
        lengths: tokens of each example, each from 1 to `max_seq_len`; shape [examples].
        seed: decides which example of a length goes where, and on the order of the packs. The same seed gives the same
            packs; a generator is used up.

    Raises:
        ValueError: an example is longer than `max_seq_len` or has no token (the first such is named), or the lengths
            are not row of whole numbers.
    """
    array = as_lengths(lengths)
    histogram = count_lengths(array, max_seq_len)
    generator = seed if isinstance(seed, np.random.Generator) else np.random.Generator(np.random.PCG64(seed))
    return _assign(array, histogram, pack_histogram(histogram, max_seq_len), generator)


def _assign(
    lengths: NDArray[np.integer], histogram: Histogram, packing: Packing, generator: np.random.Generator
) -> PackPlan:
    patterns = packing.patterns
    repeats = np.array([pattern.packs for pattern in patterns], np.int64)
    kinds = np.array([len(pattern.parts) for pattern in patterns], np.int64)
    # The parts of all patterns, one after the other: length, how many of it.
    parts = np.fromiter(chain.from_iterable(chain.from_iterable(pattern.parts for pattern in patterns)), np.int64)
    values, numbers = parts[::2], parts[1::2]
    first = np.cumsum(kinds) - kinds
    sizes = np.add.reduceat(numbers, first) if len(patterns) else kinds
    tokens = np.add.reduceat(values * numbers, first) if len(patterns) else kinds
    opened_patterns = np.repeat(np.arange(len(patterns)), repeats)
    shuffled = generator.permutation(packing.packs)
    pattern_of = opened_patterns[shuffled]
    offsets = np.zeros(packing.packs + 1, np.int64)
    np.cumsum(sizes[pattern_of], out=offsets[1:])

    order = generator.permutation(len(lengths))
    examples = order[np.argsort(_keys(lengths, histogram)[order], kind="stable")]

    # The length of each place, pack by pack; sorted by length, the places meet the examples above.
    flat = np.repeat(_keys(values, histogram), numbers)
    begins = np.cumsum(sizes) - sizes
    at = np.repeat(begins[pattern_of] - offsets[:-1], sizes[pattern_of])
    at += np.arange(len(lengths))
    places = flat[at]
    indices = np.empty(len(lengths), np.int64)
    indices[np.argsort(places, kind="stable")] = examples

    opened = np.empty(packing.packs, np.int64)
    opened[shuffled] = np.arange(packing.packs)
    return PackPlan(
        offsets=offsets,
        indices=indices,
        tokens=tokens[pattern_of],
        opened=opened,
        max_seq_len=packing.max_seq_len,
        lower_bound=packing.lower_bound,
    )


def _keys(lengths: NDArray[np.integer], histogram: Histogram) -> NDArray[np.integer]:
    """Return sort keys of the lengths, 16-bit if possible, which numpy sorts in linear time."""
    if not len(histogram.lengths) or histogram.lengths[-1] <= np.iinfo(np.uint16).max:
        return lengths.astype(np.uint16)
    ranks = np.searchsorted(histogram.lengths, lengths)
    return ranks.astype(np.uint16) if len(histogram.lengths) <= np.iinfo(np.uint16).max else ranks
