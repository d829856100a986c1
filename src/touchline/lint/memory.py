"""Rules on memory: the micro-batch, packed and not packed, against its limits; the weights.

If model and GPU are known, the interval of the estimate decides. Otherwise a rule of thumb is used, and the message
says so: a table of micro-batch sizes from users, written for one A100 of 80 GB, rows of 2,048 tokens and no gradient
checkpointing, which holds for nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, cast

from touchline.backends.facts import MemoryCoefficients, adapted
from touchline.backends.registry import memory_coefficients, traits_of
from touchline.core.estimate import Dtype, MemoryEstimate, MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.shape import BILLION, size_class
from touchline.data.packing.forecast import largest_divisor
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.memory import batch_of, largest_micro_batch, memory_estimate, most_that_could_fit
from touchline.experiment.partial import StatedTraining
from touchline.lint.rule import Violation, rule
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
class _Fitting:
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
    traits = traits_of(stated.backend)
    backend = traits.loop_of or stated.backend
    coefficients = memory_coefficients(backend)
    if isinstance(coefficients, Missing):
        return coefficients
    full = stated.method.value == "full"
    rank = 0 if full else (stated.rank.value if stated.rank is not None else 0)
    if not full and rank < 1:
        return Missing(missing="the adapter's rank is not stated")
    dtype: Dtype = stated.dtype.value if stated.dtype is not None else "bfloat16"
    if not traits.uses_default_dtype and stated.dtype is not None and stated.dtype.is_default:
        dtype = "bfloat16"
    accumulation = stated.gradient_accumulation_steps
    targets = None if stated.target_modules is None else stated.target_modules.value
    return TrainingSetup(
        shape=view.model.shape,
        backend=backend,
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


def fitting(view: TrainingView, gpu: Gpu, rows: int, width: Width) -> _Fitting | Missing:
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
    return _Fitting(
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
    coefficients = cast(MemoryCoefficients, memory_coefficients(setup.backend))
    return (
        largest_micro_batch(setup, width.tokens, 1.0, gpu, coefficients=coefficients),
        most_that_could_fit(setup, width.tokens, 0.0, gpu, coefficients=coefficients),
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


def _table_gpu() -> Gpu:
    found = find_gpu(TABLE_GPU)
    assert isinstance(found, Gpu)
    return found


def on_processor(stated: StatedTraining) -> bool:
    """Return True if the training uses no GPU with a memory of its own."""
    return stated.device is not None and stated.device.value.lower() in ("cpu", "mps")


def _pages_out(stated: StatedTraining) -> bool:
    return stated.optimizer is not None and "paged" in stated.optimizer.value.lower()


def _estimate(setup: TrainingSetup, batch: MicroBatch, gpu: Gpu) -> MemoryEstimate:
    coefficients = cast(MemoryCoefficients, memory_coefficients(setup.backend))
    return memory_estimate(setup, batch, coefficients=coefficients, gpu=gpu, with_what_ifs=False)


def _verdict(low: float, high: float, gpu: Gpu) -> MemoryVerdict:
    if high < gpu.capacity_gib:
        return MemoryVerdict.FITS
    return MemoryVerdict.OOM if low > gpu.capacity_gib else MemoryVerdict.UNCERTAIN


_SMALL_SHARE: Final = 0.25
"""Share of a GPU's memory up to which states that could be sharded do not dominate."""


Kind = Literal["over", "at"]
"""A micro-batch over its limit, or at it."""


@rule("PK001", Severity.ERROR)
def _packed_batch_too_large(view: TrainingView) -> Iterator[Violation]:
    yield from _told(view, packed=True, kind="over")


@rule("PK002", Severity.WARNING)
def _packed_batch_at_limit(view: TrainingView) -> Iterator[Violation]:
    yield from _told(view, packed=True, kind="at")


@rule("PK003", Severity.ERROR)
def _unpacked_batch_too_large(view: TrainingView) -> Iterator[Violation]:
    yield from _told(view, packed=False, kind="over")


@rule("PK004", Severity.INFO)
def _unpacked_batch_at_limit(view: TrainingView) -> Iterator[Violation]:
    yield from _told(view, packed=False, kind="at")


def _told(view: TrainingView, *, packed: bool, kind: Kind) -> Iterator[Violation]:
    stated = view.stated
    if stated.packed is None or stated.packed.value != packed:
        return
    found = judge(view)
    if found is not None and found[0] == kind:
        yield found[1]


@functools.lru_cache(maxsize=32)
def judge(view: TrainingView) -> tuple[Kind, Violation] | None:
    """Compare the micro-batch with the limits. None if it is below all limits, or nothing is known."""
    stated, gpu = view.stated, view.around.gpu
    micro = stated.micro_batch_size
    if view.has_planned_memory or micro is None or micro.value < 1 or stated.packed is None or on_processor(stated):
        return None
    if gpu is not None:
        width = width_of(view)
        known = Width(tokens=TABLE_ROW, reached=False) if isinstance(width, Missing) else width
        found = fitting(view, gpu, micro.value, known)
        if not isinstance(found, Missing):
            return _by_estimate(view, found)
    return _by_table(view)


def _by_estimate(view: TrainingView, found: _Fitting) -> tuple[Kind, Violation] | None:
    gpu, width, rows, at = found.gpu, found.width, found.rows, view.stated.micro_batch_size
    shared = sharing(view)
    limits = largest(view, gpu, width)
    if shared == "sharded" or isinstance(limits, Missing) or limits[1] < 1:
        # ME020 reports that not even one row fits.
        return None
    fits, could = limits
    words = (
        f"{rows} sequences of {'' if width.reached else 'up to '}{width.tokens:,} tokens need {found.low:.0f} to "
        f"{found.high:.0f} of {gpu.capacity_gib:.0f} GiB ({gpu.name})"
    )
    hint: str | None = _hint(view.stated, max(fits, 1)) + _instead(view.stated)
    if found.verdict is MemoryVerdict.OOM:
        divisible = found.low - found.without_states
        alone = shared == "one" or divisible < _SMALL_SHARE * gpu.capacity_gib
        sure = alone and not _pages_out(view.stated) and (width.reached or _over_table(view))
        severity = Severity.ERROR if sure else Severity.WARNING
        return "over", Violation(f"{words}, {fits} fit by the upper estimate", at, hint, severity=severity)
    if rows < 2 or rows < fits or not width.reached:
        return None
    if rows > fits:
        more = f"{fits} fit by the upper estimate, {could} by the lower"
    else:
        more, hint = "the most that fit by the upper estimate", None
    return "at", Violation(f"{words}, {more}", at, hint, severity=Severity.WARNING)


def _by_table(view: TrainingView) -> tuple[Kind, Violation] | None:
    stated, micro = view.stated, view.stated.micro_batch_size
    limit = _table(view)
    if limit is None or micro is None or stated.packed is None:
        return None
    packed = stated.packed.value
    limit = max(limit, 1)
    unknown = "no GPU is named" if view.around.gpu is None else "the model's dimensions are unknown"
    words = (
        f"micro-batch of {micro.value} {'packed' if packed else 'unpacked'} sequences, the rule of thumb for "
        f"{_class(view)} models on one {TABLE_GPU} allows {limit} ({unknown})"
    )
    ask = "or name the GPU with --gpu"
    if micro.value > limit:
        severity = Severity.ERROR
        if view.around.gpu is not None or (not packed and _fits_the_tables_gpu(view, micro.value)):
            severity = Severity.WARNING
        hint = f"{_hint(stated, limit)}{_instead(stated)}, {ask}"
        return "over", Violation(words, micro, hint, severity=severity)
    if micro.value == limit and limit > 1:
        severity = Severity.WARNING if packed else Severity.INFO
        hint = f"{_hint(stated, limit // 2)} for safety, {ask}"
        return "at", Violation(words, micro, hint, severity=severity)
    return None


def _table(view: TrainingView) -> int | None:
    """Return the table's limit. None if the table does not cover such a training."""
    stated = view.stated
    checkpointing = stated.gradient_checkpointing
    if checkpointing is None or checkpointing.value or isinstance(view.model, Missing) or stated.packed is None:
        return None
    if view.model.num_parameters is None or stated.offloads is not None:
        return None
    if checkpointing.is_default and stated.distributed is not None:
        # Settings of sharding configure checkpointing in other files.
        return None
    width = width_of(view)
    tokens = None if isinstance(width, Missing) else width.tokens
    return table_limit(view.model.num_parameters, packed=stated.packed.value, max_seq_len=tokens)


def _over_table(view: TrainingView) -> bool:
    limit, micro = _table(view), view.stated.micro_batch_size
    return limit is not None and micro is not None and micro.value > limit


def _fits_the_tables_gpu(view: TrainingView, rows: int) -> bool:
    width = width_of(view)
    known = Width(tokens=TABLE_ROW, reached=False) if isinstance(width, Missing) else width
    found = fitting(view, _table_gpu(), rows, known)
    return not isinstance(found, Missing) and found.verdict is MemoryVerdict.FITS


def _class(view: TrainingView) -> str:
    model = view.model
    if isinstance(model, Missing) or model.num_parameters is None:
        return "?"
    return size_class(model.num_parameters)


def _hint(stated: StatedTraining, rows: int) -> str:
    """Return the largest batch within `rows` that keeps the effective batch, with its accumulation."""
    micro, accumulation = stated.micro_batch_size, stated.gradient_accumulation_steps
    assert micro is not None
    if accumulation is None or accumulation.key == micro.key:
        return micro.line_with(rows)
    whole = accumulation.value * micro.value
    rows = largest_divisor(whole, rows)
    return f"{micro.line_with(rows)}, {accumulation.line_with(whole // rows)}"


def _instead(stated: StatedTraining) -> str:
    """Return what else saves memory: checkpointing where it is off, no packing where rows are packed."""
    checkpointing, packed = stated.gradient_checkpointing, stated.packed
    text = "" if checkpointing is not None and checkpointing.value else ", or gradient checkpointing"
    return text if packed is None or not packed.value else f"{text}, or disable packing"


@rule("ME020", Severity.ERROR)
def _not_enough_memory(view: TrainingView) -> Iterator[Violation]:
    stated, gpu = view.stated, view.around.gpu
    if view.has_planned_memory or gpu is None or on_processor(stated) or sharing(view) == "sharded":
        return
    width = width_of(view)
    known = Width(tokens=1, reached=True) if isinstance(width, Missing) or not width.reached else width
    found = fitting(view, gpu, 1, known)
    if isinstance(found, Missing) or found.verdict is MemoryVerdict.FITS:
        return
    settings = traits_of(stated.backend).sharding_settings
    alone = sharing(view) == "one" or bool(settings)
    if found.verdict is MemoryVerdict.OOM:
        # A backend's optimizer inside the backward pass, or a paged one, keeps less than the estimate counts.
        sure = alone and found.without_gradients > gpu.capacity_gib and not _pages_out(stated)
        severity = Severity.ERROR if sure else Severity.WARNING
    elif alone:
        severity = Severity.WARNING
    else:
        return
    hint = None if alone else "use several devices that share the weights"
    if sharing(view) != "one" and alone:
        hint = f"set {' or '.join(settings)}, since without it every device holds all weights"
    row = f"one sequence of {known.tokens:,} tokens" if known.tokens > 1 else "even the shortest sequence"
    message = f"{row} needs {found.low:.0f} to {found.high:.0f} of {gpu.capacity_gib:.0f} GiB ({gpu.name})"
    yield Violation(message, stated.model, hint, severity=severity)


@rule("ME021", Severity.WARNING)
def _fits_no_gpu(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    if view.around.gpu is not None or sharing(view) != "one" or on_processor(stated):
        return
    usual = _table_gpu()
    least = fitting(view, usual, 1, Width(tokens=1, reached=True))
    if not isinstance(least, Missing) and least.verdict is MemoryVerdict.OOM and not _pages_out(stated):
        yield Violation(
            f"the weights and one short sequence need {least.low:.0f} GiB or more on one GPU, and {usual.name} "
            f"has {usual.capacity_gib:.0f}",
            stated.model,
            "use a 4-bit base or several devices that share the weights, or name the GPU with --gpu",
        )


@rule("ME022", Severity.INFO)
def _memory_not_checked(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    if isinstance(view.model, Missing) or (view.around.gpu is None and view.model.num_parameters is None):
        reason = view.model.missing if isinstance(view.model, Missing) else "its size is unknown"
        yield Violation(f"memory and batch limits are not checked ({reason})", stated.model)
    elif view.around.gpu is not None:
        setup = setup_of(view)
        if isinstance(setup, Missing):
            yield Violation(f"memory is not estimated ({setup.missing})", stated.model)
