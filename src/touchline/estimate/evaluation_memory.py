"""Peak memory of an evaluation on one device: weights, adapters, keys and values, and the pass that reads the prompts.

A batch is as large as memory allows (`experiment.answer_batches`), and is halved where it does not fit. So the lower
end of the interval holds one prompt at a time: where that does not fit, no batch does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from touchline.backends.facts import MemoryCoefficients
from touchline.core.estimate import Estimate, MemoryEstimate, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing
from touchline.core.units import GIB, plural
from touchline.estimate.coefficients import (
    ANSWERING_SCRATCH,
    CPU_SCRATCH,
    LOADED_AGAIN,
    MASK_BYTES,
    PROCESS_GIB,
    RESIDENT_ERROR,
)
from touchline.estimate.gpus import Gpu
from touchline.estimate.layers import FLOAT, size_of
from touchline.estimate.memory import verdict
from touchline.estimate.parts import weight_bytes
from touchline.estimate.spreads import NORMAL_95, contexts, gib, weight_spread, with_ends
from touchline.experiment.answer_batches import BatchLimits, BatchSize, TokenBytes, batch_limits, merges, token_bytes

_BALANCE = 1.25
"""Layers that a device of a balanced map may hold beyond its part (accelerate's `get_balanced_memory`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationWork:
    """Prompts and answers of one evaluation process, as far as its memory depends on them."""

    prompt_tokens: int
    max_new_tokens: int
    answers: int
    """Answers to one checkpoint's prompts."""
    batch_size: BatchSize
    adapters: int
    """Adapters in memory at once; 0 for a control and for whole models."""
    is_counted: bool = False
    """Whether the prompts of the test items were counted, and not those of the training split."""

    @property
    def tokens(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return self.prompt_tokens + self.max_new_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bytes:
    """Bytes on the fullest of the devices that share a base."""

    weights: float
    weights_low: float
    weights_high: float
    adapters: float
    copied: float
    """Copy of the weights under a merged adapter; 0 where adapters are computed next to them."""
    per_token: TokenBytes
    limits: BatchLimits


def evaluation_memory(
    setup: TrainingSetup,
    work: EvaluationWork,
    *,
    coefficients: MemoryCoefficients,
    machine: TargetMachine,
    gpu: Gpu | None,
    gpus: int = 1,
) -> MemoryEstimate:
    """Estimate the peak memory of an evaluation on each of its devices.

    Args:
        setup: the base as it is loaded, and the shape of an adapter.
        coefficients: those of the library that loads the base.
        gpu: type of the device; None for a CPU and for an unknown GPU.
        gpus: GPUs among which the layers are divided.
    """
    parts = _bytes(setup, work, coefficients, machine, gpu, gpus)
    rows = min(parts.limits.rows(work.batch_size, work.tokens), max(work.answers, 1))
    batch, single = (_batch_bytes(setup, work, parts, count) for count in (rows, 1))
    side = f"{plural(rows, 'prompt')} per batch, lower bound for one prompt"
    allocated = replace(
        gib(
            (parts.weights + parts.adapters + parts.copied + math.fsum(batch)) / GIB,
            (parts.weights_low + parts.adapters + math.fsum(single)) / GIB,
            (parts.weights_high + parts.adapters + parts.copied + math.fsum(batch)) / GIB,
        ),
        method=f"closed form, {side}" + (f", layers on {gpus} GPUs" if gpus > 1 else ""),
        extrapolated=setup.shape.extrapolated is not None,
        phase="eval",
        kind="allocated",
    )
    reserved, process = _upwards(allocated, parts, math.fsum(batch), machine, gpu)
    capacity: Measured = Missing(missing="unknown GPU: set compute.gpu") if gpu is None else gpu.capacity
    if machine.kind == "cpu":
        capacity = machine.memory
    cache, pass_bytes, logits = batch
    return MemoryEstimate(
        allocated=allocated,
        reserved=reserved,
        process=process,
        breakdown={
            "weights": parts.weights / GIB,
            "adapter": parts.adapters / GIB,
            "merged copy": parts.copied / GIB,
            "keys and values": cache / GIB,
            "layers": pass_bytes / GIB,
            "logits": logits / GIB,
        },
        capacity_gib=capacity,
        verdict=verdict(process, capacity),
        assumption="" if work.is_counted else "test prompts are as long as those of the training split",
    )


def answer_token_bytes(setup: TrainingSetup, gpus: int = 1) -> TokenBytes:
    """Return the bytes of one token of a batch on one of the devices."""
    shape = setup.shape
    return token_bytes(
        layers=shape.num_layers / gpus,
        kv_size=shape.kv_size,
        q_size=shape.q_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        element=size_of(setup.base_dtype),
    )


def _bytes(
    setup: TrainingSetup,
    work: EvaluationWork,
    coefficients: MemoryCoefficients,
    machine: TargetMachine,
    gpu: Gpu | None,
    gpus: int,
) -> _Bytes:
    shape, element = setup.shape, size_of(setup.base_dtype)
    whole = weight_bytes(setup, coefficients)
    below, above = weight_spread(setup, coefficients)
    error = NORMAL_95 * RESIDENT_ERROR * whole
    # The device with the output layer or the embedding may hold more than its part of the layers.
    layer = 0.0
    if gpus > 1:
        layer = max(whole / shape.num_layers, float(shape.vocab_size * shape.hidden_size * element))
    weights = whole / gpus + layer / 2
    adapters = work.adapters * setup.trained_parameters * size_of(setup.adapter_dtype) / gpus
    per_token = answer_token_bytes(setup, gpus)
    copied, free = 0.0, None
    if machine.kind == "gpu":
        free = 0.0 if gpu is None else max(gpu.capacity_gib * GIB - weights - adapters - contexts(gpu)[0] * GIB, 0.0)
    under = sum(linear.inputs * linear.outputs for linear in shape.linears if linear.name in setup.target_modules)
    most = shape.num_layers * sum(linear.inputs * linear.outputs for linear in shape.linears)
    quantized = setup.method == "qlora" or setup.int8_base
    if work.adapters and not quantized and merges(work.answers, free, most * element / gpus):
        copied = shape.num_layers * under * element / gpus
    if free is not None:
        free -= copied
    return _Bytes(
        weights=weights,
        weights_low=(whole - math.hypot(below, error)) / gpus,
        weights_high=(whole + math.hypot(above, error)) / gpus + _BALANCE * layer,
        adapters=adapters,
        copied=copied,
        per_token=per_token,
        limits=batch_limits(free, per_token.total),
    )


def _batch_bytes(setup: TrainingSetup, work: EvaluationWork, parts: _Bytes, rows: int) -> tuple[float, float, float]:
    shape, element = setup.shape, size_of(setup.base_dtype)
    read = rows * work.prompt_tokens
    opened = 0.0
    if setup.method == "qlora" or setup.int8_base:
        # One matrix at a time is turned back to the dtype in which it is multiplied.
        opened = float(max(linear.inputs * linear.outputs for linear in shape.linears) * element)
    passed = read * parts.per_token.passing + float(MASK_BYTES * read * work.prompt_tokens) + opened
    return rows * work.tokens * parts.per_token.cache, passed, float(rows * shape.vocab_size * (element + FLOAT))


def _upwards(
    allocated: Estimate, parts: _Bytes, batch: float, machine: TargetMachine, gpu: Gpu | None
) -> tuple[Estimate, Estimate]:
    """Return reserved memory and that of the process."""
    if machine.kind == "cpu":
        low, typical, high = CPU_SCRATCH
        reserved = with_ends(allocated, allocated.value * typical, allocated.low * low, allocated.high * high)
        held = parts.weights / GIB
        low, typical, high = (own + again * held for own, again in zip(PROCESS_GIB, LOADED_AGAIN, strict=True))
    else:
        # The allocator's cache of what comes and goes; weights lie still.
        typical, high = (batch / GIB * (factor - 1) for factor in ANSWERING_SCRATCH)
        reserved = with_ends(allocated, allocated.value + typical, allocated.low, allocated.high + high)
        typical, low, high = contexts(gpu)
    process = with_ends(reserved, reserved.value + typical, reserved.low + low, reserved.high + high)
    return replace(reserved, kind="reserved"), replace(process, kind="process")
