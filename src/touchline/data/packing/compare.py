"""Comparison of packed and unpacked batching for one dataset and one trainer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from touchline.core.packing import PackingSide, PackingSummary
from touchline.data.packing.advice import Case, advise
from touchline.data.packing.forecast import BatchForecast, BatchSettings


def compare(
    lengths: NDArray[np.uint32],
    settings: BatchSettings,
    packed: BatchForecast,
    unpacked: BatchForecast,
    *,
    backend: str,
    labels: NDArray[np.uint32] | None = None,
    warmup_steps: int | None = None,
    packed_micro_batch_size: int | None = None,
    is_open: bool = False,
) -> PackingSummary:
    """Return both kinds of batching side by side, and advice.

    Args:
        lengths: tokens of each example, shape [examples].
        labels: of the lengths, tokens with a loss, the last ones of each example; shape [examples]. None: all.
        packed_micro_batch_size: rows per forward pass with packing. None: as in `settings`.
    """
    case = Case(
        lengths=lengths.astype(np.int64),
        labels=None if labels is None else labels.astype(np.int64),
        settings=settings,
        packed=packed,
        unpacked=unpacked,
        warmup_steps=warmup_steps,
        is_open=is_open,
    )
    return PackingSummary(
        backend=backend,
        max_seq_len=settings.max_seq_len,
        micro_batch_size=settings.micro_batch_size,
        examples=len(lengths),
        packed=side(packed, settings, packed_micro_batch_size),
        unpacked=side(unpacked, settings),
        advice=tuple(advice.sentence for advice in advise(case)),
    )


def side(forecast: BatchForecast, settings: BatchSettings, micro_batch_size: int | None = None) -> PackingSide:
    """Return one kind of batching, for one epoch."""
    epochs = max(settings.epochs, 1)
    return PackingSide(
        packs=forecast.rows,
        lower_bound=forecast.lower_bound,
        density=forecast.density,
        efficiency=100 * forecast.efficiency,
        steps_per_epoch=forecast.steps_per_epoch,
        steps_per_epoch_low=forecast.steps_low // epochs,
        steps_per_epoch_high=-(-forecast.steps_high // epochs),
        examples_per_step=forecast.examples * settings.epochs / forecast.steps if forecast.steps else 0.0,
        largest_micro_batch_tokens=forecast.largest.tokens,
        padded_tokens=forecast.padded_tokens,
        truncated=len(forecast.truncated),
        answers_cut=len(forecast.answers_cut),
        dropped=len(forecast.dropped),
        notes=forecast.notes,
        micro_batch_size=micro_batch_size or settings.micro_batch_size,
    )
