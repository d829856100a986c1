"""Rules on memory: the micro-batch, packed and not packed, against the estimate or a rule-of-thumb table; the weights.

If the GPU is known, the interval of the estimate decides. Otherwise the table is used, and the message says so. The
table only holds for one A100 of 80 GB without gradient checkpointing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final, Literal

from touchline.backends.registry import traits_of
from touchline.core.estimate import MemoryVerdict
from touchline.core.finding import Severity
from touchline.core.model_size import size_class
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import largest_divisor
from touchline.experiment.partial import StatedTraining
from touchline.lint.limits import (
    TABLE_GPU,
    TABLE_ROW,
    Fitting,
    Width,
    fitting,
    largest,
    on_processor,
    pages_out,
    setup_of,
    sharing,
    table_gpu,
    table_limit,
    width_of,
)
from touchline.lint.rule import Violation, rule
from touchline.lint.training import TrainingView

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


def _by_estimate(view: TrainingView, found: Fitting) -> tuple[Kind, Violation] | None:
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
        sure = alone and not pages_out(view.stated) and (width.reached or _over_table(view))
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
    found = fitting(view, table_gpu(), rows, known)
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
        sure = alone and found.without_gradients > gpu.capacity_gib and not pages_out(stated)
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
    usual = table_gpu()
    least = fitting(view, usual, 1, Width(tokens=1, reached=True))
    if not isinstance(least, Missing) and least.verdict is MemoryVerdict.OOM and not pages_out(stated):
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
