"""Dtypes of the planned runs: one that costs time, and those that differ between trainers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from touchline.backends.planning import dtypes_of
from touchline.backends.registry import get_backend
from touchline.core.finding import Finding, Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Quantity
from touchline.core.text import first_of
from touchline.core.units import measured
from touchline.experiment.plan import Plan, PlannedRun

BACKEND = "train.backend"
_COSTS = 1.5
"""Time relative to the fast dtype above which a dtype is a warning."""
_SHOWN = 3


def dtype_findings(planned: Iterable[PlannedRun], machine: TargetMachine) -> Iterator[Finding]:
    """Yield a warning for each dtype that makes runs slower than the one that the machine is fast at."""
    slow: dict[str, list[PlannedRun]] = {}
    for run in planned:
        if _ratio(run) > _COSTS:
            slow.setdefault(_dtypes(run, machine)[0], []).append(run)
    for dtype, runs in slow.items():
        run, fast = max(runs, key=_ratio), machine.base_dtype
        assert run.train is not None
        assert run.fast_dtype_seconds is not None
        key = "train.lora.dtype" if run.train.base_dtype == "auto" else "train.base_dtype"
        yield Finding(
            code="TR057",
            severity=Severity.WARNING,
            subject=key,
            message=f"{dtype} takes {measured(run.train_seconds)} ({run.name}), {_ratio(run):.1f} times as long as "
            f"{fast}, {measured(run.fast_dtype_seconds)}; {key}={fast} is faster for "
            f"{first_of([each.name for each in runs], _SHOWN)}",
        )


def dtype_notes(plan: Plan) -> Iterator[str]:
    """Yield a note where the trainers that are compared have different dtypes."""
    found: dict[str, dict[str, None]] = {}
    for run in plan.runs:
        if run.train is not None and not run.train.trains_all:
            base, adapter = _dtypes(run, plan.machine)
            found.setdefault(run.train.backend, {})[f"base {base}, adapter {adapter}"] = None
    if BACKEND in plan.factors and len({tuple(each) for each in found.values()}) > 1:
        each = "; ".join(f"{name}: {' or '.join(dtypes)}" for name, dtypes in found.items())
        yield f"The trainers differ in dtype ({each}); train.base_dtype=float32 makes all of them equal"


def _dtypes(run: PlannedRun, machine: TargetMachine) -> tuple[str, str]:
    assert run.train is not None
    return dtypes_of(run.train, machine, get_backend(run.train.backend).capabilities)


def _ratio(run: PlannedRun) -> float:
    """Return the training time relative to that in the fast dtype; 0 if it is not known, or trained in it."""
    now, fast = run.train_seconds, run.fast_dtype_seconds
    return now.value / fast.value if isinstance(now, Quantity) and isinstance(fast, Quantity) else 0.0
