"""Findings on planned jobs whose estimated memory does not surely fit their device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from touchline.core.estimate import MemoryEstimate, MemoryVerdict
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.core.units import measured
from touchline.experiment.plan import PlannedRun
from touchline.plan.batch_sections import computed_tokens

_SHOWN_RUNS = 3
_ROW = "ME020"
_EVALUATION, _EVALUATION_AT_LIMIT = "ME030", "ME031"
_TOO_LARGE = {True: "PK001", False: "PK003"}
_AT_LIMIT = {True: "PK002", False: "PK004"}
"""Codes by whether rows are packed; a micro-batch of one row has the code of a model that does not fit."""


def memory_findings(runs: Sequence[PlannedRun], device: str) -> Iterator[Finding]:
    """Yield a finding for each kind of planned job that does not surely fit its device."""
    alike: dict[tuple[object, ...], list[PlannedRun]] = {}
    for run in runs:
        if run.train is not None and not isinstance(run.memory, Missing):
            key = (run.memory.verdict, measured(run.peak_memory, 3), _micro_batch(run), run.memory.remedies)
            alike.setdefault(key, []).append(run)
    for group in alike.values():
        first = group[0]
        assert first.train is not None
        assert isinstance(first.memory, MemoryEstimate)
        packed, several = bool(first.train.packed), first.train.micro_batch_size != 1
        kind = _AT_LIMIT if first.memory.verdict is MemoryVerdict.UNCERTAIN else _TOO_LARGE
        found = memory_finding(
            f"{first_of([run.name for run in group], _SHOWN_RUNS)}: {_micro_batch(first)}",
            first.memory,
            device,
            code=kind[packed] if several else _ROW,
            subject="train.micro_batch_size",
        )
        if found is not None:
            yield replace(found, runs=tuple(run.name for run in group))
    yield from _of_evaluations(runs, device)


def _of_evaluations(runs: Sequence[PlannedRun], device: str) -> Iterator[Finding]:
    """Yield a finding for the evaluations of each base that do not surely fit, with the largest of them."""
    alike: dict[tuple[object, ...], list[tuple[str, MemoryEstimate]]] = {}
    for run in runs:
        memory = run.evaluate_memory
        if not isinstance(memory, Missing):
            alike.setdefault((run.model, memory.verdict, memory.remedies), []).append((run.name, memory))
    for group in alike.values():
        memory = max((each for _, each in group), key=lambda each: each.process.value)
        found = memory_finding(
            f"{first_of([name for name, _ in group], _SHOWN_RUNS)}: the evaluation",
            memory,
            device,
            code=_EVALUATION_AT_LIMIT if memory.verdict is MemoryVerdict.UNCERTAIN else _EVALUATION,
            subject="compute.evaluation.gpus",
        )
        if found is not None:
            yield replace(found, runs=tuple(name for name, _ in group))


def memory_finding(job: str, memory: MemoryEstimate, device: str, *, code: str, subject: str) -> Finding | None:
    """Return the finding on one planned job: an error for OOM, a warning for UNCERTAIN; None if it fits."""
    severity = {MemoryVerdict.OOM: Severity.ERROR, MemoryVerdict.UNCERTAIN: Severity.WARNING}.get(memory.verdict)
    if severity is None:
        return None
    has = "" if isinstance(memory.capacity_gib, Missing) else f" ({measured(memory.capacity_gib, 3)})"
    text = f"{job} needs {measured(memory.process.quantity(), 3)}: {memory.verdict.value} on {device}{has}"
    hint = f"it fits with {' or '.join(memory.remedies)}" if memory.remedies else None
    return Finding(code=code, severity=severity, subject=subject, message=text, hint=hint)


def _micro_batch(run: PlannedRun) -> str:
    """Return `a micro-batch of 16 packed rows (32,768 computed tokens)`."""
    assert run.train is not None
    size, packed = run.train.micro_batch_size, "packed " if run.train.packed else ""
    tokens = "" if run.batches is None else f" ({computed_tokens(run):,} computed tokens)"
    return f"a micro-batch of {size} {packed}{'row' if size == 1 else 'rows'}{tokens}"
