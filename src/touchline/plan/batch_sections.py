"""Sections of the plan about packing and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from touchline.core.estimate import MemoryEstimate
from touchline.core.packing import PackingSide
from touchline.core.quantity import Measured, Missing
from touchline.core.table import Column, Section, table_section
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
