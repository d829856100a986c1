"""Alternative settings that save memory, with the memory that each needs and its cost in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from touchline.backends.facts import MemoryCoefficients
from touchline.core.estimate import MicroBatch, TrainingSetup, WhatIf
from touchline.core.units import GIB
from touchline.estimate.coefficients import (
    ADAPTER_DTYPE_TIME,
    CHECKPOINT_TIME,
    CHUNKED_LOSS_TIME,
    FUSED_LOSS_TIME,
    HALF_BATCH_TIME,
    LOSS_BYTES,
    QLORA_TIME,
)
from touchline.estimate.gpus import Gpu
from touchline.estimate.parts import peak_parts, vocab_bytes
from touchline.estimate.spreads import gib, upwards

_WORTHWHILE = 0.98
"""Fraction of the memory above which an alternative is not worth listing."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """Change of a setting."""

    words: str
    setup: TrainingSetup
    batch: MicroBatch
    factor: float
    reason: str


def what_ifs(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, gpu: Gpu | None
) -> tuple[WhatIf, ...]:
    """Return the alternatives that save at least 2% of the memory, the largest saving first."""
    now = peak_parts(setup, batch, coefficients).total
    found: list[WhatIf] = []
    for change in _changes(setup, batch, coefficients):
        parts = peak_parts(change.setup, change.batch, coefficients)
        if parts.total >= now * _WORTHWHILE:
            continue
        size = parts.total / GIB
        grown = upwards(gib(size, size, size), "allocated", change.setup, parts, gpu, coefficients)
        found.append(
            WhatIf(
                change=change.words,
                reserved_gib=grown["reserved"].value,
                step_time_factor=change.factor,
                allocated_gib=size,
                reason=change.reason,
            )
        )
    return tuple(sorted(found, key=lambda item: item.reserved_gib))


def _changes(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Iterator[_Change]:
    if not setup.gradient_checkpointing:
        yield _Change(
            words="gradient checkpointing",
            setup=dataclasses.replace(setup, gradient_checkpointing=True),
            batch=batch,
            factor=CHECKPOINT_TIME,
            reason="stores only each block's input and recomputes its forward pass",
        )
    entry = vocab_bytes(setup, coefficients)[0]
    if entry > LOSS_BYTES["fused"]:
        yield _Change(
            words="fused loss",
            setup=dataclasses.replace(setup, loss="fused"),
            batch=batch,
            factor=FUSED_LOSS_TIME,
            reason="computes logits and loss in one kernel without storing all logits (Liger, cut cross entropy)",
        )
    if entry > LOSS_BYTES["chunked"]:
        yield _Change(
            words="chunked loss",
            setup=dataclasses.replace(setup, loss="chunked"),
            batch=batch,
            factor=CHUNKED_LOSS_TIME,
            reason="converts one chunk of the logits to float32 at a time",
        )
    if setup.method != "full" and setup.adapter_dtype == "float32" and setup.base_dtype != "float32":
        yield _Change(
            words=f"{setup.base_dtype} adapters",
            setup=dataclasses.replace(setup, adapter_dtype=setup.base_dtype),
            batch=batch,
            factor=ADAPTER_DTYPE_TIME,
            reason=("inputs are not upcast and moments take half the memory, but small updates may be lost"),
        )
    if batch.rows > 1:
        half = -(-batch.rows // 2)
        yield _Change(
            words=f"micro-batch {half} instead of {batch.rows}",
            setup=setup,
            batch=MicroBatch(rows=half, width=batch.width, label_tokens=-(-batch.label_tokens * half // batch.rows)),
            factor=HALF_BATCH_TIME,
            reason=("activations grow with a micro-batch's tokens, and twice the accumulation keeps the global batch"),
        )
    if setup.method == "lora":
        yield _Change(
            words="QLoRA (NF4)",
            setup=dataclasses.replace(setup, method="qlora", int8_base=False),
            batch=batch,
            factor=QLORA_TIME,
            reason="the base model's matrices take a quarter, but each is dequantized to 16 bits for every product",
        )
