"""Validation before the first step: computed once for runs on one base and one validation split.

A new adapter changes nothing before its first step, so a run takes this loss over from another run of the experiment
that has computed it. The first runs of a plan compute it, as many as run at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from touchline.backends.registry import get_backend
from touchline.core.quantity import Measured, Quantity
from touchline.experiment.plan import PlannedRun
from touchline.plan.times import count_validations

_VALIDATION = "validation"


def without_shared_validation(run: PlannedRun) -> PlannedRun:
    """Return a run that takes the validation before its first step over.

    The upper ends and the time limit stay: the run computes it after all if the others were not trained before.
    """
    part = run.time_parts.get(_VALIDATION)
    if not isinstance(part, Quantity) or run.train is None or run.batches is None:
        return run
    once = part.value / count_validations(run.train, run.batches.steps, run.batches.steps_per_epoch)
    return replace(
        run,
        train_seconds=_less(run.train_seconds, once),
        time_parts={**run.time_parts, _VALIDATION: _less(part, once)},
    )


def takes_over(runs: Iterable[PlannedRun], at_once: int) -> tuple[str, ...]:
    """Return the runs that take the validation before their first step over."""
    computed: dict[tuple[object, ...], int] = {}
    found: list[str] = []
    for run in runs:
        key = _key(run)
        if key is None:
            continue
        computed[key] = computed.get(key, 0) + 1
        if computed[key] > at_once:
            found.append(run.name)
    return tuple(found)


def _key(run: PlannedRun) -> tuple[object, ...] | None:
    """Return a key that is equal for runs whose untrained models have the same loss. None if it is a run's own."""
    train, batches = run.train, run.batches
    if train is None or batches is None or run.link is not None or _VALIDATION not in run.time_parts:
        return None
    if not get_backend(train.backend).capabilities.shares_validation or batches.data_parallel_size > 1:
        return None
    lora = None if train.trains_all else train.lora
    if lora is not None and (lora.dora or lora.init in ("pissa", "olora")):
        return None
    # The layout of rows depends on what draws random numbers.
    draws = train.neftune_alpha is not None or (lora is not None and lora.dropout > 0)
    return (
        *(run.model, run.dataset, repr(run.data), batches.micro_batch_size),
        *(train.backend, train.method, None if lora is None else lora.dtype, train.base_dtype, train.attention),
        *(train.quantization, train.kernels, train.compile, train.packed, train.max_seq_len, draws),
    )


def _less(value: Measured, seconds: float) -> Measured:
    if not isinstance(value, Quantity):
        return value
    low = None if value.low is None else max(0.0, value.low - seconds)
    return replace(value, value=value.value - seconds, low=low)
