"""Batching with our own packer over the whole split, for trainers that accept prepared sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import MicroBatch
from touchline.data.packing.assign import pack
from touchline.data.packing.forecast import BatchForecast, BatchSettings


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
