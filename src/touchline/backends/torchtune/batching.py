"""Batching by torchtune's recipes (0.6.1).

Read in datasets/_packed.py, data/{_collate,_utils}.py and recipes/lora_finetune_{single_device,distributed}.py.

The tokenizer truncates at `max_seq_len`. With packing, each example goes into the last pack or starts a new one, in the
dataset's order. The packs are the same in all epochs, and each is padded to `max_seq_len`. Without packing, a
micro-batch is padded to its longest example. The sampler's seed is 0, independent of the recipe's seed. An incomplete
last micro-batch is dropped, and the last micro-batches of an epoch without a full accumulation make no step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.simulation import (
    Examples,
    MicroBatches,
    checked,
    cut_at_end,
    forecast,
    permutation,
    planned_orders,
    side_by_side,
    simulated_epochs,
)
from touchline.core.estimate import MicroBatch
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import Filled, next_fit, one_each
from touchline.experiment.training import optimizer_steps

SAMPLER_SEED = 0
"""Fixed in the recipes: `StatefulDistributedSampler(..., seed=0)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchtuneBatching:
    """torchtune's batching of one dataset; the datasets of a list are packed one by one."""

    planned_order: bool = False
    """Whether unpacked examples come in the planner's order, as in touchline's own runs, and not in the sampler's."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples. `settings.seed` is not used.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        limit = settings.max_seq_len
        examples = _cut(*checked(lengths, settings, labels), limit)
        filled = next_fit(examples.tokens, limit) if settings.packed else one_each(len(examples.tokens))
        rows, micro, devices = filled.rows, settings.micro_batch_size, settings.data_parallel_size
        batches_each = -(-rows // devices) // micro
        steps = optimizer_steps(rows, settings.global_batch_size, devices=devices, drops_incomplete=True)
        used = min(steps * settings.gradient_accumulation_steps * micro * devices, rows)
        tokens, labels_of = filled.sums(examples.tokens), filled.sums(examples.labels)
        known = simulated_epochs(rows, settings.epochs)
        width = limit if settings.packed else None
        planned = planned_orders(np.zeros(rows, np.uint32), settings) if self.planned_order else []

        def of(order: NDArray[np.int64]) -> MicroBatches:
            return side_by_side(tokens, labels_of, order, micro, width=width)

        def order(epoch: int) -> NDArray[np.int64]:
            if not self.planned_order:
                return order_of(rows, settings, epoch)
            return (order_of(rows, settings, epoch) if settings.packed else planned[epoch])[:used]

        bound: MicroBatch | None = None
        if known < settings.epochs and batches_each:
            bound = of(np.argsort(-tokens, kind="stable")[:micro]).largest()
        return forecast(
            examples=examples,
            filled=filled,
            settings=settings,
            capacity=limit,
            epochs=(of(order(epoch)) for epoch in range(known)),
            bound=bound,
            steps=(steps * settings.epochs,) * 3,
            rows_left_over=rows - used,
            notes=_notes(examples, filled, settings, batches_each, steps, known, dropped=self.planned_order),
        )


def order_of(rows: int, settings: BatchSettings, epoch: int) -> NDArray[np.int64]:
    """Return the rows of an epoch's full micro-batches, with all devices in turn."""
    micro, devices = settings.micro_batch_size, settings.data_parallel_size
    each = -(-rows // devices)
    # torch's DistributedSampler: the first rows a second time so that all devices have as many; device r takes every
    # r-th.
    shuffled = np.resize(permutation(rows, SAMPLER_SEED + epoch), each * devices)
    whole = each // micro * micro
    by_device = shuffled.reshape(each, devices)[:whole].T
    return by_device.reshape(devices, whole // micro, micro).transpose(1, 0, 2).reshape(-1)


def _cut(lengths: NDArray[np.int64], labels: NDArray[np.int64], limit: int) -> Examples:
    """Apply torchtune's `truncate`: keep `limit` tokens, and replace the last by an end of text without loss."""
    examples = cut_at_end(lengths, labels, limit)
    return replace(examples, labels=np.maximum(examples.labels - (lengths > limit), 0))


def _notes(
    examples: Examples,
    filled: Filled,
    settings: BatchSettings,
    batches_each: int,
    steps: int,
    known: int,
    *,
    dropped: bool,
) -> list[str]:
    micro, accumulation = settings.micro_batch_size, settings.gradient_accumulation_steps
    row = "pack" if settings.packed else "example"
    notes = []
    if not steps:
        devices = "" if settings.data_parallel_size == 1 else f" on {settings.data_parallel_size} devices"
        notes.append(
            f"no optimizer step: {plural(filled.rows, row)}{devices} give {batches_each} full micro-batches of "
            f"{micro}, but a step needs {accumulation}"
        )
    unloaded = -(-filled.rows // settings.data_parallel_size) - batches_each * micro
    if unloaded:
        notes.append(
            f"the last {plural(unloaded, row)} per device and epoch not used, because the micro-batch would not be full"
        )
    waiting = batches_each - steps * accumulation
    if waiting and dropped:
        notes.append(f"the last {plural(waiting, 'micro-batch')} per epoch not used, because they do not fill a step")
    elif waiting:
        notes.append(
            f"the last {plural(waiting, 'micro-batch')} per epoch fill no step: their gradients are added to the "
            "next epoch's first step, and lost after the last"
        )
    if len(examples.truncated):
        notes.append(
            f"{plural(len(examples.truncated), 'example')} truncated at max_seq_len by the tokenizer without a "
            "message, with a last token that is end of text and not a label"
        )
    if examples.without_label:
        notes.append(f"{plural(examples.without_label, 'example')} without any label token")
    if known < settings.epochs:
        notes.append(f"the order was simulated for {known} of {settings.epochs} epochs (the largest is an upper bound)")
    return notes


BATCHING: Batching = TorchtuneBatching()
