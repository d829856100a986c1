"""Batching by TRL's SFTTrainer (1.16, on transformers 5.23).

Read in trl/data_utils.py and trl/trainer/sft_trainer.py. Its issue 346 advises against packing 100 to 1,000 examples.

With packing (`packing=True`, strategy `bfd`), `datasets.map` passes 1000 examples at a time to the packer. They are cut
to `max_length` and put longest first into the fullest pack. Packing is padding-free: the packs of a micro-batch are
concatenated in a single row without padding. Without packing, examples are cut to `max_length`, those without a label
are dropped, and a micro-batch is padded to its longest example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.backends.hf_loop import hf_forecast
from touchline.backends.simulation import checked, cut_at_end, keep, planned_orders
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import batch_edges, best_fit_decreasing, one_each

MAP_BATCH = 1000
"""Examples that `datasets.Dataset.map` hands over at once unless another number is set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrlBatching:
    """TRL's batching, with the options that change it."""

    map_batch: int | None = MAP_BATCH
    """Examples that are packed together; none: all of them, which TRL does only for who calls `pack_dataset` so."""
    num_proc: int | None = None
    """`dataset_num_proc`: processes that pack a share of the examples each."""
    pad_to_multiple_of: int = 1
    """Multiple to which the width of a micro-batch is rounded up."""
    planned_order: bool = False
    """Whether unpacked examples come in the planner's order, as in touchline's own runs, and not in the trainer's."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples. `settings.seed` is `SFTConfig.seed`.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        examples = cut_at_end(*checked(lengths, settings, labels), settings.max_seq_len)
        notes = []
        if settings.packed:
            edges = batch_edges(len(examples.kept), self.map_batch, self.num_proc)
            filled = best_fit_decreasing(examples.tokens, settings.max_seq_len, edges)
            if len(edges) > 2:
                together = self.map_batch or "a process's"
                notes.append(f"examples are packed {together} at a time, in {len(edges) - 1} batches of `datasets.map`")
        else:
            examples = keep(examples, examples.labels > 0)
            filled = one_each(len(examples.kept))
            if len(examples.dropped):
                dropped = plural(len(examples.dropped), "example")
                notes.append(f"{dropped} not used: no label token in the first {settings.max_seq_len}")
        return hf_forecast(
            examples=examples,
            filled=filled,
            settings=settings,
            capacity=settings.max_seq_len,
            multiple=self.pad_to_multiple_of,
            flatten=settings.packed,
            notes=notes,
            orders=planned_orders(lengths, settings) if self.planned_order and not settings.packed else None,
        )


BATCHING: Batching = TrlBatching()
