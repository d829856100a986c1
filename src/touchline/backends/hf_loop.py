"""The loop of the Hugging Face Trainer, which TRL, LLaMA-Factory and axolotl train by (transformers 5.23, accelerate
1.15; their rounding is that of all versions that these trainers take).

A random order, seeded with the run's seed plus the epoch (accelerate's `SeedableRandomSampler`); the last micro-batch
of an epoch may be smaller, and the last step may have fewer micro-batches, so nothing is left over. With several
devices, each takes every n-th micro-batch, and the first rows come a second time so that all have as many
(`BatchSamplerShard`, `even_batches`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.simulation import (
    Examples,
    MicroBatches,
    forecast,
    in_one_row,
    permutation,
    side_by_side,
    simulated_epochs,
)
from touchline.core.estimate import MicroBatch
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.data.packing.simple import Filled
from touchline.experiment.training import optimizer_steps

HF_LOOP_MEMORY = MemoryCoefficients(
    vocab_bytes=12.0,
    vocab_bytes_low=0.0,
    vocab_bytes_high=12.0,
    logits_of="padded",
    expands_kv=False,
    masks_expand_kv=True,
    adapter_dtype="float32",
    master_weights=False,
    float32_adapters="autocast",
    source="value of transformers' Trainer, from which its trainer inherits",
)
"""Memory of this loop: all logits, unless a fused loss holds none. Trainers state how they differ, and the source."""
HF_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}


def steps_per_epoch(micro_batches_per_device: int, accumulation: int) -> int:
    """Return ceil(micro-batches / accumulation), at least 1 (`Trainer.set_initial_training_values`)."""
    return max(-(-micro_batches_per_device // accumulation), 1)


BLANK_TOKENS = 2
"""Tokens of a row without a label, by which the planned order gives all devices as many micro-batches."""


def order_of(
    rows: int, settings: BatchSettings, epoch: int, orders: Sequence[NDArray[np.int64]] | None = None
) -> NDArray[np.int64]:
    """Return the rows of an epoch in the order of its micro-batches, with all devices in turn.

    Row indices, shape [rows], or a multiple of devices × micro-batch size where there are several devices. The index
    `rows` stands for a row without a label, which fills given orders.
    """
    order = permutation(rows, settings.seed + epoch) if orders is None else orders[epoch]
    if settings.data_parallel_size == 1 or not rows:
        return order
    together = settings.micro_batch_size * settings.data_parallel_size
    missing = -rows % together
    filling = np.resize(order[:together], missing) if orders is None else np.full(missing, rows)
    return np.concatenate([order, filling])


def hf_forecast(
    *,
    examples: Examples,
    filled: Filled,
    settings: BatchSettings,
    capacity: int,
    multiple: int = 1,
    width: int | None = None,
    flatten: bool = False,
    notes: list[str],
    orders: Sequence[NDArray[np.int64]] | None = None,
) -> BatchForecast:
    """Build the forecast of a training by this loop.

    Args:
        capacity: most tokens per sequence.
        multiple: what the width of a micro-batch is rounded up to.
        width: the width of all rows, where it is fixed.
        flatten: whether the rows of a micro-batch are laid one behind the other.
        notes: what one would not expect; this adds to them.
        orders: row indices of each epoch in order, if the trainer is given them; else those of its own seed.
    """
    rows = filled.rows
    tokens, labels = filled.sums(examples.tokens), filled.sums(examples.labels)
    known = simulated_epochs(rows, settings.epochs)
    tokens_and_blank, labels_and_blank = np.append(tokens, BLANK_TOKENS), np.append(labels, 0)

    def of(order: NDArray[np.int64]) -> MicroBatches:
        batches = side_by_side(
            tokens_and_blank, labels_and_blank, order, settings.micro_batch_size, multiple=multiple, width=width
        )
        return in_one_row(batches, multiple=multiple) if flatten else batches

    together = settings.micro_batch_size * settings.data_parallel_size
    steps = optimizer_steps(rows, settings.global_batch_size) * settings.epochs
    if settings.data_parallel_size > 1 and -rows % together:
        again = plural(-rows % together, "row")
        notes.append(
            f"{again} of each epoch used twice, so that all devices have equally many"
            if orders is None
            else f"{again} without labels fill the last step of each epoch, so that all devices have equally many"
        )
    bound: MicroBatch | None = None
    if known < settings.epochs:
        # No order brings more together than the longest rows, with as many labels as any rows have.
        longest = np.argsort(-tokens, kind="stable")[: settings.micro_batch_size]
        most_labels = int(np.sort(labels)[-settings.micro_batch_size :].sum())
        bound = replace(of(longest).largest(), label_tokens=most_labels)
        notes.append(f"the order was simulated for {known} of {settings.epochs} epochs (the largest is an upper bound)")
    if examples.without_label:
        notes.append(f"{plural(examples.without_label, 'example')} without any label token")
    if not rows:
        notes.append("no examples left to train on")
    return forecast(
        examples=examples,
        filled=filled,
        settings=settings,
        capacity=capacity,
        epochs=(of(order_of(rows, settings, epoch, orders)) for epoch in range(known)),
        bound=bound,
        steps=(steps, steps, steps),
        notes=notes,
    )
