"""Limits of a training's micro-batch: the memory estimate if model and GPU are known, else a rule of thumb.

The rule of thumb is a table of micro-batch sizes from users. It was written for one A100 of 80 GB, rows of 2,048 tokens
and no gradient checkpointing, and holds for nothing else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients, traits_of
from touchline.backends.traits import adapted
from touchline.core.estimate import Dtype, MemoryEstimate, MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.model_size import BILLION, size_class
from touchline.core.quantity import Missing
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.memory import batch_of, largest_micro_batch, memory_estimate, most_that_could_fit
from touchline.experiment.partial import StatedTraining
from touchline.lint.training import TrainingView, arithmetic

TABLE: Final = {"1B": (8, 20), "3B": (4, 12), "7B/8B": (2, 6), "13B": (1, 4), "70B": (1, 2)}
"""Size class -> (rows packed, rows not packed) of a micro-batch. Larger models: one row."""
TABLE_ROW: Final = 2048
"""Tokens per row in the table."""
TABLE_GPU: Final = "A100-80GB"
"""GPU of the table."""
Sharing = Literal["one", "unknown", "sharded"]
"""Sharing of weights and states: one device holds everything, unknown, or sharded among several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """Length of a micro-batch's rows."""

    tokens: int
    """Tokens of a row, padding included."""
    reached: bool
    """Whether rows certainly reach this length; otherwise no row is longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """Memory estimate of a micro-batch on a GPU."""

    verdict: MemoryVerdict
    rows: int
    width: Width
    gpu: Gpu
    low: float
    """Lower bound of the process memory in GiB."""
    high: float
    without_states: float
    """Part of `low` for activations and logits, which sharding does not reduce."""
    without_gradients: float
    """Part of `low` without gradients, for an optimizer inside the backward pass."""


@functools.lru_cache(maxsize=32)
def setup_of(view: TrainingView) -> TrainingSetup | Missing:
    """Collect what memory depends on besides the batch; open settings take the cheapest value."""
    stated = view.stated
    if isinstance(view.model, Missing):
        return view.model
    if isinstance(view.model.shape, Missing):
        return view.model.shape
    if stated.method is None:
        return Missing(missing="the config does not state what is trained")
    coefficients = _coefficients(stated.backend)
    if isinstance(coefficients, Missing):
        return coefficients
    full = stated.method.value == "full"
    rank = 0 if full else (stated.rank.value if stated.rank is not None else 0)
    if not full and rank < 1:
        return Missing(missing="the adapter's rank is not stated")
    traits = traits_of(stated.backend)
    dtype: Dtype = stated.dtype.value if stated.dtype is not None else "bfloat16"
    if not traits.uses_default_dtype and stated.dtype is not None and stated.dtype.is_default:
        dtype = "bfloat16"
    accumulation = stated.gradient_accumulation_steps
    targets = None if stated.target_modules is None else stated.target_modules.value
    return TrainingSetup(
        shape=view.model.shape,
        backend=stated.backend,
        method=stated.method.value,
        rank=rank,
        target_modules=() if full else adapted(view.model.shape, targets, traits.layer_names),
        base_dtype=dtype,
        adapter_dtype=dtype if full else coefficients.adapter_dtype,
        optimizer="adamw" if stated.optimizer is None else stated.optimizer.value,
        gradient_checkpointing=stated.gradient_checkpointing is None or stated.gradient_checkpointing.value,
        attention="eager" if stated.attention is not None and stated.attention.value == "eager" else "fused",
        compiled=stated.compiled is not None and stated.compiled.value,
        accumulates=accumulation is not None and accumulation.value > 1,
        dropout=coefficients.dropout,
    )


def width_of(view: TrainingView) -> Width | Missing:
    """Return the rows' length: the limit if packed, otherwise the longest example's."""
    stated = view.stated
    packed = stated.packed is not None and stated.packed.value
    limit = stated.max_seq_len.value if stated.max_seq_len is not None and stated.max_seq_len.value > 0 else None
    longest = arithmetic(view).longest_row
    if packed:
        if limit is None:
            return Missing(missing="packed, and it is not stated how long a row is")
        return Width(tokens=limit, reached=True)
    if longest is not None:
        return Width(tokens=max(longest, 1), reached=True)
    rendered = None if isinstance(view.data, Missing) else view.data.longest_evaluated
    if rendered is not None:
        return Width(tokens=rendered if limit is None else min(rendered, limit), reached=False)
    if limit is None:
        return Missing(missing="it is not stated how long a row may be")
    return Width(tokens=limit, reached=False)


def sharing(view: TrainingView) -> Sharing:
    """Return the sharing of weights and states between devices."""
    stated, devices = view.stated, arithmetic(view).devices
    if stated.distributed is not None and stated.distributed.value.lower() not in ("", "no", "none", "ddp"):
        return "sharded"
    if devices.exact == 1:
        return "one"
    if traits_of(stated.backend).shards_by_itself and devices.low > 1:
        return "sharded"
    return "unknown"


def fitting(view: TrainingView, gpu: Gpu, rows: int, width: Width) -> Fitting | Missing:
    """Estimate the memory of `rows` rows of that width."""
    setup = setup_of(view)
    if isinstance(setup, Missing):
        return setup
    if view.stated.offloads is not None:
        return Missing(missing=f"{view.stated.offloads.key} moves part of it to host memory")
    most = _estimate(setup, batch_of(rows, width.tokens, 1.0), gpu)
    # The number of target logits is unknown here for a trainer that computes only these.
    least = _estimate(setup, batch_of(rows, width.tokens, 0.0), gpu)
    parts, total = least.breakdown, least.allocated.value
    low = least.process.low
    return Fitting(
        verdict=_verdict(low, most.process.high, gpu),
        rows=rows,
        width=width,
        gpu=gpu,
        low=low,
        high=most.process.high,
        without_states=low * (parts["layers"] + parts["logits"]) / total,
        without_gradients=low * (1.0 - parts["gradients"] / total),
    )


def largest(view: TrainingView, gpu: Gpu, width: Width) -> tuple[int, int] | Missing:
    """Return (rows that certainly fit, rows that possibly fit)."""
    setup = setup_of(view)
    if isinstance(setup, Missing):
        return setup
    coefficients = cast(MemoryCoefficients, _coefficients(setup.backend))
    known = _known(setup)
    return (
        largest_micro_batch(known, width.tokens, 1.0, gpu, coefficients=coefficients),
        most_that_could_fit(known, width.tokens, 0.0, gpu, coefficients=coefficients),
    )


def table_limit(num_parameters: int, *, packed: bool, max_seq_len: int | None) -> int:
    """Return the rows that the table allows: more where rows are shorter than its own, or the model below its smallest.

    Args:
        max_seq_len: tokens of a row at most; none: as long as the table's.
    """
    of_class = TABLE.get(size_class(num_parameters), (1, 1))[0 if packed else 1]
    shorter = TABLE_ROW / max_seq_len if max_seq_len is not None and 0 < max_seq_len < TABLE_ROW else 1.0
    smaller = BILLION / num_parameters if 0 < num_parameters < BILLION else 1.0
    return int(of_class * shorter * smaller)


def table_gpu() -> Gpu:
    """Return the GPU that the table was written for."""
    found = find_gpu(TABLE_GPU)
    assert isinstance(found, Gpu)
    return found


def on_processor(stated: StatedTraining) -> bool:
    """Return True if the training uses no GPU with a memory of its own."""
    return stated.device is not None and stated.device.value.lower() in ("cpu", "mps")


def pages_out(stated: StatedTraining) -> bool:
    """Return True if the optimizer state is paged to host memory when GPU memory is short."""
    return stated.optimizer is not None and "paged" in stated.optimizer.value.lower()


def _coefficients(backend: str) -> MemoryCoefficients | Missing:
    return memory_coefficients(traits_of(backend).loop_of or backend)


def _known(setup: TrainingSetup) -> TrainingSetup:
    name = traits_of(setup.backend).loop_of
    return setup if name is None else replace(setup, backend=name)


def _estimate(setup: TrainingSetup, batch: MicroBatch, gpu: Gpu) -> MemoryEstimate:
    coefficients = cast(MemoryCoefficients, _coefficients(setup.backend))
    return memory_estimate(_known(setup), batch, coefficients=coefficients, gpu=gpu, with_what_ifs=False)


def _verdict(low: float, high: float, gpu: Gpu) -> MemoryVerdict:
    if high < gpu.capacity_gib:
        return MemoryVerdict.FITS
    return MemoryVerdict.OOM if low > gpu.capacity_gib else MemoryVerdict.UNCERTAIN
