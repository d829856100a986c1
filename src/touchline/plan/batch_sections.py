"""Packing and memory of a plan: sections, and findings on jobs whose memory does not surely fit their device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from touchline.core.estimate import MemoryEstimate, MemoryVerdict, PackingSide
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Measured, Missing
from touchline.core.table import Column, Section, table_section
from touchline.core.text import first_of
from touchline.core.units import measured
from touchline.experiment.plan import Plan, PlannedRun


def packing_section(plan: Plan) -> Section:
    """Return batches packed and unpacked; runs that differ only in their names share a row, here and below."""
    return table_section("Packing", _PACKING_COLUMNS, grouped_rows(_packing(plan)), lines=_advice(plan))


def memory_section(plan: Plan) -> Section:
    """Return peak memory by kind and part."""
    return table_section("Memory", _MEMORY_COLUMNS, grouped_rows(_memory(plan)))


def grouped_rows(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Merge rows that differ only in their run into one, which names the first run and counts the others."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, *cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    return tuple(
        (runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more", *cells) for cells, runs in names.items()
    )


def memory_share(memory: Measured, plan: Plan, processes: int) -> str:
    """Return the share of the device's memory that processes take, each as much as given: `12%`."""
    whole = plan.machine.memory
    if isinstance(memory, Missing) or isinstance(whole, Missing) or memory.unit != whole.unit or not whole.value:
        return "n/a (the machine's memory is unknown)"
    share = 100 * memory.value * processes / whole.value
    return f"{share:.0f}%" if share >= 10 else f"{share:.2g}%"


def computed_tokens(run: PlannedRun) -> int:
    """Return the computed tokens of the largest micro-batch, in the layout that the trainer uses."""
    assert run.batches is not None
    side = _planned_side(run)
    return run.batches.largest_micro_batch_tokens if side is None else side.largest_micro_batch_tokens


def _planned_side(run: PlannedRun) -> PackingSide | None:
    if isinstance(run.packing, Missing) or run.train is None:
        return None
    return run.packing.packed if run.train.packed else run.packing.unpacked


_PACKING_COLUMNS = (
    "run",
    "packed",
    "micro-batch x accumulation x devices",
    Column("longest example", is_wide=True),
    "sequences",
    "density",
    "efficiency",
    Column("largest micro-batch", is_wide=True),
)


def _packing(plan: Plan) -> Iterator[tuple[str, ...]]:
    for run in plan.runs:
        if isinstance(run.packing, Missing) or run.train is None:
            continue
        for packed, side in ((True, run.packing.packed), (False, run.packing.unpacked)):
            is_planned, b = run.train.packed == packed, run.batches
            steps = (
                "" if b is None or not is_planned else f" x {b.gradient_accumulation_steps} x {b.data_parallel_size}"
            )
            yield (
                run.name,
                f"{'yes' if packed else 'no'}{' (planned)' if is_planned else ''}",
                f"{side.micro_batch_size or run.packing.micro_batch_size}{steps}",
                "-" if b is None else f"{b.longest_example_tokens} tokens",
                f"{side.packs:,}",
                f"{side.density:.2f}",
                f"{side.efficiency:.1f}%",
                f"{side.largest_micro_batch_tokens:,} computed tokens",
            )


def _advice(plan: Plan) -> Iterator[str]:
    advice = (line for run in plan.runs if not isinstance(run.packing, Missing) for line in run.packing.advice)
    sides = (side for run in plan.runs if (side := _planned_side(run)) is not None)
    yield from dict.fromkeys((*advice, *(note[0].upper() + note[1:] for side in sides for note in side.notes)))
    gains = {measured(run.compile_gain): run.name for run in plan.runs if run.compile_gain is not None}
    yield from (f"Compiled steps of {name}, as fast as uncompiled ones: {gain}" for gain, name in gains.items())


_MEMORY_COLUMNS = (
    "run",
    "verdict",
    "of device memory",
    Column("allocated", is_wide=True),
    "reserved",
    "process",
    Column("allocated by part", is_wide=True),
    Column("main assumption", is_wide=True),
)


def memory_figures(plan: Plan) -> Iterator[tuple[str, MemoryEstimate, int]]:
    """Yield name, memory and processes per device of each training, then of each evaluation, where it is known."""
    evaluations = [(f"{run.name}, evaluation", run.evaluate_memory, 1) for run in plan.runs]
    for name, memory, processes in (
        *((run.name, run.memory, plan.processes_per_device) for run in plan.runs),
        *evaluations,
    ):
        if not isinstance(memory, Missing):
            yield name, memory, processes


def _memory(plan: Plan) -> Iterator[tuple[str, ...]]:
    for name, m, processes in memory_figures(plan):
        parts = ", ".join(f"{part} {value:.3g}" for part, value in m.breakdown.items() if value >= 0.005)
        figures = tuple(measured(estimate.quantity(), 3) for estimate in (m.allocated, m.reserved, m.process))
        share = memory_share(m.process.quantity(), plan, processes)
        yield (name, m.verdict.value, share, *figures, parts, m.assumption)


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
