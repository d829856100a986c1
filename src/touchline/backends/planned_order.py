"""Batches in the order of the planner, for trainers that take it: equal examples in every step."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.protocol import ExampleLengths
from touchline.core.quantity import Missing
from touchline.data.packing.batches import plan_batches
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.plan import BatchSummary
from touchline.experiment.training import accumulation_steps


def planned_orders(lengths: NDArray[np.uint32], settings: BatchSettings) -> list[NDArray[np.int64]]:
    """Return the examples of each epoch in the planned order.

    Args:
        lengths: tokens of each example.
        settings: the settings.
    """
    plan = plan_batches(
        np.asarray(lengths),
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.micro_batch_size,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    return [order.astype(np.int64) for order in plan.orders]


def planned_batches(train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1) -> BatchSummary | Missing:
    """Return the batches of a training that takes `global_batch_size` examples per step in the planned order.

    Args:
        train: the training.
        lengths: token lengths of its examples.
        seed: seed of the order.
        devices: data-parallel size; each device takes every n-th micro-batch of a step.
    """
    if train.micro_batch_size == "auto":
        return Missing(missing="micro_batch_size is not resolved")
    total = lengths.total
    if not len(total):
        return Missing(missing="there is no example")
    plan = plan_batches(
        total,
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        epochs=train.epochs,
        seed=seed,
    )
    return BatchSummary(
        digest=plan.digest,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        micro_batches=plan.micro_batches,
        micro_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=accumulation_steps(plan.global_batch_size, plan.micro_batch_size, devices),
        data_parallel_size=devices,
        global_batch_size=plan.global_batch_size,
        num_examples=len(total),
        real_tokens=int(np.sum(total, dtype=np.int64)),
        target_tokens=int(np.sum(lengths.answer, dtype=np.int64)),
        longest_example_tokens=int(total.max()),
        largest_micro_batch_tokens=plan.largest_micro_batch_tokens(total),
    )


def packed_batches(forecast: BatchForecast, planned: BatchSummary, epochs: int) -> BatchSummary:
    """Return the batches of a trainer that packs before it batches: every size counts packed sequences.

    Args:
        forecast: simulated batches of the trainer.
        planned: batches of the same training without packing.
        epochs: its epochs.
    """
    digest = hashlib.sha256(f"packed {forecast.rows} {forecast.steps} {planned.micro_batch_size}".encode())
    digest.update(forecast.row_tokens.astype("<i8").tobytes())
    digest.update(forecast.micro_batch_tokens.astype("<i8").tobytes())
    return replace(
        planned,
        digest=digest.hexdigest(),
        steps=forecast.steps,
        steps_per_epoch=forecast.steps_per_epoch,
        micro_batches=len(forecast.micro_batch_tokens) * epochs,
        largest_micro_batch_tokens=forecast.largest.tokens,
    )
