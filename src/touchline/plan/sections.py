"""Sections of the plan, for the terminal and for runs_plan.md. Every cell is plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from touchline.core.estimate import MemoryEstimate
from touchline.core.levels import STAGE
from touchline.core.markup import measured
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.text import first_of
from touchline.core.units import format_bytes
from touchline.plan import tasks
from touchline.plan.design_text import control_notes, design_line, general_ability_notes, run_type
from touchline.plan.power import HEADER, power_lines, power_rows
from touchline.plan.settings import HEADER as SETTING_HEADER
from touchline.plan.settings import NARROW as SETTING_NARROW
from touchline.plan.settings import collect_settings, setting_cells, varying_table
from touchline.spec.plan import Plan, PlannedRun, Revision


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Heading, lines of text and a table."""

    title: str
    """The heading."""
    lines: tuple[str, ...] = ()
    """Lines of text below the heading."""
    header: tuple[str, ...] = ()
    """Column names; empty if there is no table."""
    rows: tuple[tuple[str, ...], ...] = ()
    """The table's cells."""
    right: tuple[int, ...] = ()
    """Right-aligned columns, which hold numbers."""
    narrow: tuple[int, ...] = ()
    """Columns that a terminal shows if not all fit; empty for all of them."""
    blocks: tuple[tuple[str, str], ...] = ()
    """Pairs of a sentence and preformatted text."""

    @property
    def is_empty(self) -> bool:
        """Return True if the section has no content."""
        return not (self.rows or self.lines or self.blocks)


_SHOWN = 8
_WHAT_IFS = 3


def sections(plan: Plan) -> list[Section]:
    """Return all sections of a plan."""
    return [
        Section(title="Run design", lines=tuple(_design(plan))),
        Section(title="Variables", header=("factor", "levels"), rows=tuple(_variables(plan))),
        Section(
            title="All runs",
            header=RUN_HEADER,
            rows=tuple(run_rows(plan)),
            right=(0, 3, 5),
            narrow=(1, 5, 6, 7, 8),
            lines=tuple(_newest(plan)),
        ),
        Section(title="Chains", header=_CHAIN_HEADER, rows=tuple(_chains(plan)), lines=tuple(_about_chains(plan))),
        Section(title="Totals", lines=tuple(_totals(plan))),
        Section(title="Time limits", header=_LIMIT_HEADER, rows=_grouped(_limits(plan))),
        *setting_sections(plan),
        Section(
            title="Statistical power",
            header=HEADER,
            rows=tuple(power_rows(plan)),
            lines=tuple(power_lines(plan)),
        ),
        Section(title="Models verified", header=_MODEL_HEADER, rows=tuple(_models(plan)), narrow=(0, 3, 4, 5, 6)),
        Section(title="Datasets verified", header=_DATA_HEADER, rows=tuple(_datasets(plan)), narrow=(0, 1, 2)),
        Section(title="Rendered examples", blocks=tuple(_examples(plan)), lines=tuple(_about_examples(plan))),
        Section(
            title="Tasks",
            header=tasks.HEADER,
            rows=tuple(tasks.task_rows(plan)),
            lines=tuple(tasks.task_notes(plan)),
            right=(3,),
        ),
        Section(
            title="Configuration", header=_BATCH_HEADER, rows=_grouped(_configuration(plan)), narrow=(0, 2, 3, 4, 5)
        ),
        Section(
            title="Packing analysis",
            header=_PACKING_HEADER,
            rows=_grouped(_packing(plan)),
            narrow=(0, 3, 4, 5, 6),
            lines=tuple(_advice(plan)),
        ),
        Section(
            title="Memory",
            header=_MEMORY_HEADER,
            rows=_grouped(_memory(plan)),
            narrow=(0, 1, 2, 4, 5),
            lines=tuple(_what_if(plan)),
        ),
        Section(title="Evidence", lines=tuple(_evidence(plan))),
    ]


def setting_sections(plan: Plan) -> Iterator[Section]:
    """Yield the complete table of settings, and the table of those that vary by run."""
    settings = collect_settings(plan)
    yield Section(
        title="Settings",
        lines=("given: written by the user; default, decided: not written; fixed: not a setting of experiment.yaml.",),
        header=SETTING_HEADER,
        rows=tuple(setting_cells(settings)),
        narrow=SETTING_NARROW,
    )
    header, rows = varying_table(settings, [run.name for run in plan.runs])
    yield Section(title="Settings that vary", header=header, rows=rows)


def _grouped(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Merge rows that differ only in their run into one, which names the first run and counts the others."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, *cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    return tuple(
        (runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more", *cells) for cells, runs in names.items()
    )


_CHAIN_HEADER = ("run", "stage", "continues from", "mode", "checkpoint")
_CONTINUES = {
    "adapter": "continues training the parent's adapter",
    "merge": "merges the parent's adapter into the base model and trains a new one",
}


def _chains(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield each stage and its parent. Yield nothing if no run has a parent."""
    for run in plan.runs if any(run.link for run in plan.runs) else ():
        stage = _stage(run)
        if stage is None:
            continue
        if run.link is None:
            yield run.name, stage, "the base model", "trains a new adapter", "-"
        else:
            yield run.name, stage, run.link.parent, _CONTINUES[run.link.continue_], run.link.parent_checkpoint


def _about_chains(plan: Plan) -> Iterator[str]:
    if any(run.link for run in plan.runs):
        yield (
            "A stage starts when its parent has ended. Before training it verifies that it starts from its parent's "
            "checkpoint: by the hash of the weights, the loss on the parent's validation items and the number of "
            "trainable parameters. If a check fails, the chain stops."
        )


def _stage(run: PlannedRun) -> str | None:
    return next((level.value for level in run.levels if level.factor == STAGE), None)


RUN_HEADER = ("#", "run", "model", "LoRA rank", "type", "steps", "est. time", "est. peak memory", "est. disk")


def run_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the summary table: #, run, model, rank, type, steps, time, memory with its verdict, disk."""
    for number, run in enumerate(plan.runs, 1):
        rank = "-" if run.train is None else str(run.train.lora.rank)
        steps = "-" if run.batches is None else str(run.batches.steps)
        time = f"eval only: {measured(run.evaluate_seconds)}" if run.train is None else measured(run.train_seconds)
        memory = "-" if run.train is None else _memory_cell(run, plan)
        yield (str(number), run.name, run.model, rank, run_type(run), steps, time, memory, measured(run.disk))


def _newest(plan: Plan) -> Iterator[str]:
    """Yield the changes of the newest revision."""
    last = plan.revisions[-1] if plan.revisions else None
    if last is not None and last.number > 1:
        yield f"Revision {last.number} of {last.date}: {revision_text(last)}"


def _memory_cell(run: PlannedRun, plan: Plan) -> str:
    if isinstance(run.memory, Missing):
        return measured(run.peak_memory)
    return f"{_gib(run.peak_memory)}, {_share(run.peak_memory, plan)}, {run.memory.verdict.value}"


def _share(memory: Measured, plan: Plan) -> str:
    """Return a memory's share of the machine's, `12%`."""
    whole = plan.machine.memory
    if isinstance(memory, Missing) or isinstance(whole, Missing) or memory.unit != whole.unit or not whole.value:
        return "n/a (the machine's memory is unknown)"
    share = 100 * memory.value / whole.value
    return f"{share:.0f}%" if share >= 10 else f"{share:.2g}%"


def _gib(value: Measured) -> str:
    if isinstance(value, Missing):
        return measured(value)
    ends = "" if value.low is None or value.high is None else f" ({value.low:.3g} to {value.high:.3g})"
    return f"{value.value:.3g}{ends} {value.unit}"


def _design(plan: Plan) -> Iterator[str]:
    yield f"Type: {design_line(plan)}"
    own = plan.own_task
    items = "the test split" if own is None or own.takes_data else "items of its own"
    yield f"Task: {plan.task}, evaluated with Inspect on {items}"
    machine = plan.machine
    devices = f"{plan.gpus_per_run} GPU{'s' if plan.gpus_per_run != 1 else ''} per run" if machine.kind == "gpu" else ""
    yield f"Planned for: {machine.key}, {_gib(machine.memory)} ({machine.source}){', ' + devices if devices else ''}"
    yield f"Executor: {plan.executor}"
    yield from control_notes(plan)
    yield from general_ability_notes(plan)
    names = ", ".join(run.name for run in plan.runs[:6])
    yield (
        f"Names of runs and folders: {names}{', ...' if len(plan.runs) > 6 else ''}; rename them before the first run: "
        "touchline plan DIR run_names='{model_size}_rank{lora_rank}'"
    )


def _variables(plan: Plan) -> Iterator[tuple[str, ...]]:
    for factor, levels in plan.factors.items():
        yield factor, ", ".join(levels)


def _totals(plan: Plan) -> Iterator[str]:
    hours = "GPU-hours" if plan.machine.kind == "gpu" else "device-hours (CPU)"
    if isinstance(plan.gpu_hours, Quantity):
        ends = f" ({plan.gpu_hours.low:.3g} to {plan.gpu_hours.high:.3g})" if plan.gpu_hours.low is not None else ""
        yield f"Total: {plan.gpu_hours.value:.3g} {hours}{ends}; {plan.gpu_hours.method or 'evaluations included'}"
    else:
        yield f"Total {hours}: {measured(plan.gpu_hours)}"
    yield f"Wall-clock time: {measured(plan.wall_seconds)}{_deadline(plan)}"
    yield f"Disk: {measured(plan.disk)}"


_LIMIT_HEADER = ("run", "training time limit", "evaluation time limit")


def _limits(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the time limits of each job. On this machine no job has one unless the experiment sets it."""
    if plan.executor == "local" and plan.compute.time_limit is None:
        return
    for run in plan.runs:
        training = "-" if run.train is None else measured(run.time_limit_seconds)
        yield run.name, training, measured(run.evaluate_limit_seconds)


def _deadline(plan: Plan) -> str:
    return "" if plan.deadline is None else f"; deadline {plan.deadline}"


_MODEL_HEADER = ("model", "folder", "architecture", "parameters", "dtype", "weights", "context")


def _models(plan: Plan) -> Iterator[tuple[str, ...]]:
    for model in plan.models.values():
        yield (
            model.name,
            model.path,
            model.architecture,
            f"{model.num_parameters / 1e6:,.1f} M",
            model.dtype,
            format_bytes(model.weight_bytes),
            f"{model.context_length:,}",
        )


_DATA_HEADER = ("dataset", "size", "splits", "origin of the splits", "sha256")


def _datasets(plan: Plan) -> Iterator[tuple[str, ...]]:
    for data in plan.datasets.values():
        yield (
            data.path,
            format_bytes(data.size_bytes),
            ", ".join(f"{split.name} {split.num_examples:,}" for split in data.splits),
            data.split_origin,
            data.sha256[:12],
        )


LABEL_MARKS = ("\u27e6", "\u27e7")
"""Around the label span of a rendered example."""


def _examples(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield one training example per dataset in the form that the model is trained on."""
    begin, end = LABEL_MARKS
    for each in plan.examples:
        unused = ", ".join(each.columns_not_used) or "none"
        yield (
            f"{each.dataset}, row {each.row}, chat template of {each.model}: {each.prompt_tokens:,} prompt tokens, "
            f"{each.label_tokens:,} label tokens. Columns used: {', '.join(each.columns_used)}; not used: {unused}.",
            f"{each.prompt}{begin}{each.label}{end}",
        )


def _about_examples(plan: Plan) -> Iterator[str]:
    if plan.examples:
        yield f"Only the label span, between {' and '.join(LABEL_MARKS)}, has a loss."


_BATCH_HEADER = (
    *("run", "trainer", "examples", "global batch", "micro-batch x accumulation x devices", "steps"),
    *("longest example", "largest micro-batch", "reason"),
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
            f"{b.micro_batch_size} x {b.gradient_accumulation_steps} x {plan.devices}",
            f"{b.steps:,} ({b.steps_per_epoch:,} per epoch)",
            f"{b.longest_example_tokens} tokens",
            f"{_largest(run):,} computed tokens",
            "; ".join(reason for reason in (run.micro_batch_reason, run.packed_reason) if reason),
        )


def _largest(run: PlannedRun) -> int:
    """Return the computed tokens of the largest micro-batch, in the layout that the trainer uses."""
    assert run.batches is not None
    if isinstance(run.packing, Missing) or run.train is None:
        return run.batches.largest_micro_batch_tokens
    side = run.packing.packed if run.train.packed else run.packing.unpacked
    return side.largest_micro_batch_tokens


_PACKING_HEADER = (
    *("run", "model", "micro-batch", "packed", "sequences", "density", "efficiency", "largest micro-batch"),
    *("est. memory", "machine"),
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
                str(run.packing.micro_batch_size),
                f"{'yes' if packed else 'no'}{' (planned)' if chosen else ''}",
                f"{side.packs:,}",
                f"{side.density:.2f}",
                f"{side.efficiency:.1f}%",
                f"{side.largest_micro_batch_tokens:,} computed tokens",
                _gib(run.peak_memory) if chosen else "-",
                plan.machine.name,
            )


def _advice(plan: Plan) -> Iterator[str]:
    told = (line for run in plan.runs if not isinstance(run.packing, Missing) for line in run.packing.advice)
    yield from dict.fromkeys(told)


_MEMORY_HEADER = (
    "run",
    "verdict",
    "of device memory",
    "allocated",
    "reserved",
    "process",
    "allocated by part",
    "main assumption",
)


def _memory(plan: Plan) -> Iterator[tuple[str, ...]]:
    for run in plan.runs:
        if isinstance(run.memory, Missing):
            continue
        m = run.memory
        parts = ", ".join(f"{name} {value:.3g}" for name, value in m.breakdown.items() if value >= 0.005)
        figures = tuple(_gib(estimate.quantity()) for estimate in (m.allocated, m.reserved, m.process))
        yield (run.name, m.verdict.value, _share(m.process.quantity(), plan), *figures, parts, m.assumption)


def _what_if(plan: Plan) -> Iterator[str]:
    """Yield, for the largest run of each model, the changes that would save most memory."""
    largest: dict[str, tuple[str, MemoryEstimate]] = {}
    for run in plan.runs:
        if not isinstance(run.memory, Missing):
            known = largest.get(run.model)
            if known is None or run.memory.reserved.value > known[1].reserved.value:
                largest[run.model] = run.name, run.memory
    for name, memory in largest.values():
        now = memory.reserved.value
        saving = [what for what in memory.what_ifs if what.reserved_gib < now]
        for what in saving[:_WHAT_IFS]:
            time = f"{100 * (what.step_time_factor - 1):+.0f}% time"
            yield f"{name} with {what.change}: {now:.3g} to {what.reserved_gib:.3g} GiB reserved, {time} per step"


def _evidence(plan: Plan) -> Iterator[str]:
    if plan.evidence:
        runs = f"{len(plan.evidence)} past run{'s' if len(plan.evidence) != 1 else ''}"
        yield f"The estimates are based on {runs}: {first_of(plan.evidence, _SHOWN)}"
    else:
        yield (
            "No past runs found: the intervals come from formulas and published figures. `touchline run` first "
            "measures some steps if the runs are on this machine; `touchline probe` does so for the heaviest run only."
        )
    reasons = {
        value.missing
        for run in plan.runs
        for value in (run.train_seconds, run.peak_memory)
        if run.train is not None and isinstance(value, Missing)
    }
    yield from (f"Not estimated: {reason}" for reason in sorted(reasons))
    methods = {value.method for run in plan.runs for value in (run.train_seconds,) if isinstance(value, Quantity)}
    yield from (f"Time: {method}" for method in sorted(method for method in methods if method))


def folder_lines(plan: Plan) -> list[str]:
    """Return a preview of the experiment folder."""
    width = max(len(run.name) for run in plan.runs) + 1
    return [f"{plan.experiment}/", *(f"  {run.name + '/':<{width}}  {_contents(run)}" for run in plan.runs)]


def _contents(run: PlannedRun) -> str:
    if run.train is None:
        return "eval.py  eval.slurm  eval/"
    last = run.train.epochs - 1
    epochs = "epoch_0/" if last == 0 else f"epoch_0/ ... epoch_{last}/"
    return f"setup_finetune.yaml  finetune.yaml  finetune.slurm  eval.py  eval.slurm  {epochs}  eval/"


def revision_rows(plan: Plan) -> list[Sequence[str]]:
    """Return number, date, reason and runs of each revision."""
    return [(str(r.number), r.date, r.reason, revision_text(r)) for r in plan.revisions]


def revision_text(revision: Revision) -> str:
    """Return the runs that a revision changed: `new: 135M_rank8; removed: 135M_rank64`."""
    if revision.number == 1:
        return ", ".join(revision.runs)
    changed = [name for name in revision.runs if name not in (*revision.new, *revision.removed)]
    parts = (("new", revision.new), ("changed", changed), ("removed", revision.removed))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names) or (
        "no run changed; predictions were updated"
    )
