"""Examples in packed sequences, batching with our own packer, and the order in which next-fit does the same."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchline.core.estimate import MicroBatch
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.data.packing.groups import Histogram, as_lengths, count_lengths
from touchline.data.packing.histogram import Packing, pack_histogram
from touchline.data.packing.simple import next_fit


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Handoff:
    """Order of a dataset for a next-fit packer."""

    order: NDArray[np.int64]
    """Examples in writing order; shape [examples]."""
    planned_packs: int
    next_fit_packs: int
    """Packed sequences that next-fit makes of that order."""
    exact: bool
    """Whether these are the same sequences with the same examples."""

    @property
    def difference(self) -> int:
        """Return the number of sequences that next-fit makes more (or, below 0, fewer) than planned."""
        return self.next_fit_packs - self.planned_packs


def hand_off(plan: PackPlan, lengths: ArrayLike) -> Handoff:
    """Return the order for a plan, verified by a simulation of next-fit.

    Args:
        plan: the packs, from `pack`.

    Raises:
        ValueError: the lengths are not those of the plan.
    """
    array = as_lengths(lengths).astype(np.int64)
    if len(array) != len(plan.indices):
        raise ValueError(f"the plan holds {len(plan.indices)} examples, not {len(array)}")
    if not plan.packs:
        return Handoff(order=plan.indices, planned_packs=0, next_fit_packs=0, exact=True)
    longest = np.maximum.reduceat(array[plan.indices], plan.offsets[:-1])
    room = plan.max_seq_len - plan.tokens
    loose = room >= longest.min()
    # Next-fit ends a sequence where ours ends if the longest of the next exceeds the room left. Only those with more
    # room than the least of all longest can fail at that; they stand last, in the order in which they were opened.
    # The tight ones keep the plan's random order, so that a trainer that does not shuffle sees no order by length.
    packs = np.concatenate([np.flatnonzero(~loose), plan.opened[loose[plan.opened]]])
    order, starts = _pack_by_pack(plan, packs, array)
    found = next_fit(array[order], plan.max_seq_len)
    return Handoff(
        order=order,
        planned_packs=plan.packs,
        next_fit_packs=found.rows,
        exact=np.array_equal(found.starts, starts),
    )


def _pack_by_pack(
    plan: PackPlan, packs: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sizes = np.diff(plan.offsets)[packs]
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(plan.indices)) + np.repeat(plan.offsets[:-1][packs] - starts, sizes)
    order = plan.indices[places]
    number = np.repeat(np.arange(len(packs)), sizes)
    return order[np.lexsort((-lengths[order], number))], starts


@dataclass(frozen=True, kw_only=True, slots=True)
class OurBatching:
    """Fewest sequences, padded to `max_seq_len`. Unpacked: a seeded order, padded to the longest of a micro-batch.

    Every row is used: the last micro-batch and the last step of an epoch may be smaller.
    """

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate one epoch. Examples beyond `max_seq_len` are truncated.

        Args:
            lengths: tokens of each example, shape [examples].
            labels: of these, tokens with a loss, the last ones; shape [examples]. None: all of them.
        """
        whole = lengths.astype(np.int64)
        kept = np.minimum(whole, settings.max_seq_len)
        truncated = np.flatnonzero(whole > settings.max_seq_len)
        with_loss = kept if labels is None else np.maximum(labels.astype(np.int64) - (whole - kept), 0)
        rows, bound, losses = kept, len(kept), with_loss
        if settings.packed:
            plan = pack(kept, settings.max_seq_len, seed=settings.seed)
            rows, bound = plan.tokens, plan.lower_bound
            losses = np.add.reduceat(with_loss[plan.indices], plan.offsets[:-1]) if plan.packs else rows
        per_pass = settings.micro_batch_size
        per_step = per_pass * settings.gradient_accumulation_steps * settings.data_parallel_size
        padded, largest = _micro_batches(rows, losses, settings)
        steps = -(-len(rows) // per_step)
        return BatchForecast(
            rows=len(rows),
            lower_bound=bound,
            examples=len(kept),
            truncated=truncated,
            dropped=np.empty(0, np.int64),
            answers_cut=truncated,
            row_tokens=rows,
            micro_batch_tokens=padded,
            largest=largest,
            steps_per_epoch=steps,
            steps=steps * settings.epochs,
            steps_low=steps * settings.epochs,
            steps_high=steps * settings.epochs,
            rows_left_over=0,
        )


def _micro_batches(
    rows: NDArray[np.int64], losses: NDArray[np.int64], settings: BatchSettings
) -> tuple[NDArray[np.int64], MicroBatch]:
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    first = np.empty(0, np.int64)
    largest = MicroBatch(rows=0, width=0, label_tokens=0)
    edges = np.arange(0, len(rows), settings.micro_batch_size)
    for epoch in range(settings.epochs if len(rows) else 0):
        order = generator.permutation(len(rows))
        widths = np.maximum.reduceat(rows[order], edges)
        if settings.packed:
            widths = np.full(len(edges), settings.max_seq_len)
        sizes = np.diff(np.append(edges, len(rows)))
        padded = widths * sizes
        first = padded if epoch == 0 else first
        at = int(padded.argmax())
        if int(padded[at]) > largest.tokens:
            labels = int(np.add.reduceat(losses[order], edges)[at])
            largest = MicroBatch(rows=int(sizes[at]), width=int(widths[at]), label_tokens=labels)
    return first, largest
