"""Sections of the plan about each run's batches: configuration, packing and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from touchline.core.markup import measured
from touchline.core.quantity import Measured, Missing
from touchline.core.table import Column, Section, table_section
from touchline.core.text import first_of
from touchline.experiment.plan import Plan, PlannedRun

_SHOWN = 8


def batch_sections(plan: Plan) -> tuple[Section, ...]:
    """Return the sections; runs that differ only in their names share a row."""
    return (
        table_section("Configuration", _BATCH_COLUMNS, grouped_rows(_configuration(plan)), lines=_compiled(plan)),
        table_section("Packing analysis", _PACKING_COLUMNS, grouped_rows(_packing(plan)), lines=_advice(plan)),
        table_section("Memory", _MEMORY_COLUMNS, grouped_rows(_memory(plan))),
    )


def grouped_rows(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Merge rows that differ only in their run into one, which names the first run and counts the others."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, *cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    return tuple(
        (runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more", *cells) for cells, runs in names.items()
    )


def gib_text(value: Measured) -> str:
    """Return an amount of memory with its interval."""
    return measured(value, 3)


def memory_share(memory: Measured, plan: Plan, processes: int) -> str:
    """Return the share of the device's memory that processes take, each as much as given: `12%`."""
    whole = plan.machine.memory
    if isinstance(memory, Missing) or isinstance(whole, Missing) or memory.unit != whole.unit or not whole.value:
        return "n/a (the machine's memory is unknown)"
    share = 100 * memory.value * processes / whole.value
    return f"{share:.0f}%" if share >= 10 else f"{share:.2g}%"


_BATCH_COLUMNS = (
    "run",
    Column("trainer", is_wide=True),
    "examples",
    "global batch",
    "micro-batch x accumulation x devices",
    "steps",
    Column("longest example", is_wide=True),
    Column("largest micro-batch", is_wide=True),
    Column("reason", is_wide=True),
)


def _configuration(plan: Plan) -> Iterator[tuple[str, ...]]:
    for run in plan.runs:
        if run.batches is None or run.train is None:
            continue
        b = run.batches
        yield (
            run.name,
            run.train.backend,
            f"{b.num_examples:,}",
            str(b.global_batch_size),
            f"{b.micro_batch_size} x {b.gradient_accumulation_steps} x {b.data_parallel_size}",
            f"{b.steps:,} ({b.steps_per_epoch:,} per epoch)",
            f"{b.longest_example_tokens} tokens",
            f"{computed_tokens(run):,} computed tokens",
            "; ".join(reason for reason in (run.micro_batch_reason, run.packed_reason) if reason),
        )


def _compiled(plan: Plan) -> Iterator[str]:
    """Yield the gain of compiling, one line per gain or reason why it is not known."""
    gains: dict[str, list[str]] = {}
    for run in plan.runs:
        if run.compile_gain is not None:
            gains.setdefault(measured(run.compile_gain), []).append(run.name)
    for gain, names in gains.items():
        yield f"Steps compiled, as fast as uncompiled: {gain}; {first_of(names, _SHOWN)}"


def computed_tokens(run: PlannedRun) -> int:
    """Return the computed tokens of the largest micro-batch, in the layout that the trainer uses."""
    assert run.batches is not None
    if isinstance(run.packing, Missing) or run.train is None:
        return run.batches.largest_micro_batch_tokens
    side = run.packing.packed if run.train.packed else run.packing.unpacked
    return side.largest_micro_batch_tokens


_PACKING_COLUMNS = (
    "run",
    Column("model", is_wide=True),
    Column("micro-batch", is_wide=True),
    "packed",
    "sequences",
    "density",
    "efficiency",
    Column("largest micro-batch", is_wide=True),
    Column("est. memory", is_wide=True),
    Column("machine", is_wide=True),
)


def _packing(plan: Plan) -> Iterator[tuple[str, ...]]:
    for run in plan.runs:
        if isinstance(run.packing, Missing) or run.train is None:
            continue
        for packed, side in ((True, run.packing.packed), (False, run.packing.unpacked)):
            chosen = run.train.packed == packed
            yield (
                run.name,
                run.model,
                str(side.micro_batch_size or run.packing.micro_batch_size),
                f"{'yes' if packed else 'no'}{' (planned)' if chosen else ''}",
                f"{side.packs:,}",
                f"{side.density:.2f}",
                f"{side.efficiency:.1f}%",
                f"{side.largest_micro_batch_tokens:,} computed tokens",
                gib_text(run.peak_memory) if chosen else "-",
                plan.machine.name,
            )


def _advice(plan: Plan) -> Iterator[str]:
    advice = (line for run in plan.runs if not isinstance(run.packing, Missing) for line in run.packing.advice)
    yield from dict.fromkeys(advice)


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


def _memory(plan: Plan) -> Iterator[tuple[str, ...]]:
    evaluations = [(f"{run.name}, evaluation", run.evaluate_memory, 1) for run in plan.runs]
    trained = [(run.name, run.memory, plan.processes_per_device) for run in plan.runs]
    for name, m, processes in (*trained, *evaluations):
        if isinstance(m, Missing):
            continue
        parts = ", ".join(f"{part} {value:.3g}" for part, value in m.breakdown.items() if value >= 0.005)
        figures = tuple(gib_text(estimate.quantity()) for estimate in (m.allocated, m.reserved, m.process))
        share = memory_share(m.process.quantity(), plan, processes)
        yield (name, m.verdict.value, share, *figures, parts, m.assumption)
