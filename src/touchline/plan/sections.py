"""Sections of the plan, for the terminal and for runs_plan.md."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from touchline.core.levels import SEEDS, STAGE
from touchline.core.machine import machine_text
from touchline.core.markup import escape, fence, measured
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Column, Section, present, section_markdown, table_section
from touchline.core.text import first_of
from touchline.core.units import format_bytes, hours_unit, parse_duration, percent, plural, seconds_to_minutes
from touchline.estimate.evidence_used import evidence_line
from touchline.estimate.totals import runs_at_once, totals_of
from touchline.experiment.data_config import DATASET_KEYS, shown_split, split_of
from touchline.experiment.plan import Cohort, Plan, PlannedRun, Revision, WhyAlone
from touchline.experiment.recorded import override_lines
from touchline.plan import power, tasks
from touchline.plan.batch_sections import batch_sections, gib_text, grouped_rows, memory_share
from touchline.plan.cohorts import WORTH
from touchline.plan.dtypes import dtype_notes
from touchline.plan.jobs import evaluation_limit, to_minutes, training_limit
from touchline.plan.notes import (
    control_notes,
    design_line,
    learning_rate_notes,
    method_notes,
    quantization_notes,
    recipe_notes,
    run_type,
)
from touchline.plan.placement.deadline import CONFIDENT, chance_within
from touchline.plan.settings import collect_settings, settings_table, varying_table
from touchline.plan.untrained import about_shared_validation
from touchline.slurm.job_view import EVALUATION_SCRIPT, TRAINING_SCRIPT
from touchline.strategy.strategy import strategy_of

_SHOWN = 8


def sections(plan: Plan) -> list[Section]:
    """Return all sections of a plan."""
    return [
        *_what_runs(plan),
        *strategy_of(plan).sections(),
        table_section("Cohorts", _COHORT_COLUMNS, _cohorts(plan), lines=_about_cohorts(plan)),
        _section_of_totals(plan),
        table_section("Time limits", _LIMIT_COLUMNS, grouped_rows(_limits(plan))),
        *setting_sections(plan),
        table_section("Statistical power", power.COLUMNS, power.power_rows(plan), lines=power.power_lines(plan)),
        *_resources(plan),
        Section(
            title="Rendered examples", blocks=tuple(_examples(plan)), lines=_ABOUT_EXAMPLES if plan.examples else ()
        ),
        table_section("Tasks", tasks.COLUMNS, tasks.task_rows(plan), lines=tasks.task_notes(plan)),
        *batch_sections(plan),
        Section(title="Evidence", lines=tuple(_evidence(plan))),
    ]


def summary_sections(plan: Plan) -> list[Section]:
    """Return the sections that a user reviews first: design, runs, totals, models and data."""
    return [*_what_runs(plan), *strategy_of(plan).sections(), _section_of_totals(plan), *_resources(plan)]


def summary_line(plan: Plan) -> str:
    """Return the number of runs, the device-hours, the wall-clock time and the disk space on one line."""
    strategy = strategy_of(plan)
    return "; ".join((*strategy.expected(), strategy.runs_at_most(), *list(_totals(plan))[:3]))


def _what_runs(plan: Plan) -> tuple[Section, ...]:
    return (
        Section(title="Run design", lines=tuple(_design(plan))),
        table_section(
            "Variables", ("factor", "levels"), ((name, ", ".join(each)) for name, each in plan.factors.items())
        ),
        *strategy_of(plan).run_sections(),
        table_section("All runs", _RUN_COLUMNS, _runs(plan), lines=_newest(plan)),
        table_section("Chains", _CHAIN_COLUMNS, _chains(plan), lines=_about_chains(plan)),
    )


def _section_of_totals(plan: Plan) -> Section:
    return Section(title="Totals", lines=(*strategy_of(plan).totals_lines(), *_totals(plan)))


def _resources(plan: Plan) -> tuple[Section, ...]:
    return (
        table_section("Models verified", _MODEL_COLUMNS, _models(plan)),
        table_section("Datasets verified", _DATA_COLUMNS, _datasets(plan)),
    )


def setting_sections(plan: Plan) -> tuple[Section, ...]:
    """Return the complete table of settings, and the table of those that vary by run."""
    settings = collect_settings(plan)
    origins = "given: written by the user; default, decided: not written; fixed: not a setting of experiment.yaml."
    varying = varying_table(settings, [run.name for run in plan.runs])
    return (
        Section(title="Settings", tables=present(settings_table(settings)), lines=(origins,)),
        *([Section(title=varying.title, tables=(replace(varying, title=""),))] if varying is not None else []),
    )


_SHOWN_RUNS = 3
"""Names of a cohort's runs in the table; plan.json has all."""
_COHORT_COLUMNS = ("runs", "trained", "gain side by side", "saves", "est. time of all", "est. peak memory")


def _cohorts(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the cohorts, and those that were considered and refused."""
    for cohort in plan.cohorts:
        yield _cohort_row(cohort, "side by side")
    for alone in plan.alone:
        if alone.predicted is not None:
            yield _cohort_row(alone.predicted, "one after the other")


def _cohort_row(cohort: Cohort, trained: str) -> tuple[str, ...]:
    saved, seconds = measured(cohort.saved_seconds, 3), measured(cohort.train_seconds)
    names = f"{plural(len(cohort.runs), 'run')}: {first_of(cohort.runs, _SHOWN_RUNS)}"
    return names, trained, measured(cohort.gain, 3), saved, seconds, gib_text(cohort.peak_memory)


def _about_cohorts(plan: Plan) -> Iterator[str]:
    considered = [alone for alone in plan.alone if alone.predicted is not None]
    if plan.cohorts or considered:
        yield (
            "Side by side, runs share one process, the base model and each step's fixed costs. The gain is how many "
            "times as fast that is as one after the other. Each run keeps its own folder, metrics and checkpoints."
        )
        yield (
            "compute.cohorts: auto groups runs where the lower end of the gain is above "
            f"{WORTH} and memory fits; always groups wherever memory fits; never groups none."
        )
    if not considered and not plan.cohorts and plan.compute.cohorts != "always" and len(plan.alone) != 1:
        return
    reasons: dict[str, list[str]] = {}
    for alone in plan.alone:
        reasons.setdefault(alone.reason, []).extend(alone.runs)
    yield from (f"Not trained side by side: {_some(names)}; {reason}." for reason, names in reasons.items())
    if any(alone.why is WhyAlone.GAIN and alone.predicted is not None for alone in considered) and not plan.evidence:
        yield "No measured run narrows the gain's interval: runs trained side by side on such a machine do."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{names[0]} and {len(names) - 1} more"


_CHAIN_COLUMNS = ("run", "stage", "continues from", "mode", "checkpoint")
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
            what = "all weights" if run.train is not None and run.train.trains_all else "a new adapter"
            yield run.name, stage, "the base model", f"trains {what}", "-"
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


_RUN_COLUMNS = (
    Column("#", numeric=True, is_wide=True),
    "run",
    Column("model", is_wide=True),
    Column("LoRA rank", numeric=True, is_wide=True),
    Column("type", is_wide=True),
    Column("steps", numeric=True),
    "est. time",
    "est. peak memory",
    "est. disk",
)


def _runs(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the summary table: #, run, model, rank, type, steps, time, memory with its verdict, disk."""
    for number, run in enumerate(plan.runs, 1):
        rank = "-" if run.train is None else "all weights" if run.train.trains_all else str(run.train.lora.rank)
        steps = "-" if run.batches is None else str(run.batches.steps)
        time = f"eval only: {measured(run.evaluate_seconds)}" if run.train is None else measured(run.train_seconds)
        memory = _memory_cell(run, plan)
        yield (str(number), run.name, run.model, rank, run_type(run), steps, time, memory, measured(run.disk))


def _newest(plan: Plan) -> Iterator[str]:
    """Yield the changes of the newest revision."""
    last = plan.revisions[-1] if plan.revisions else None
    if last is not None and last.number > 1:
        yield f"Revision {last.number} of {last.date}: {revision_text(last)}"


def _memory_cell(run: PlannedRun, plan: Plan) -> str:
    memory = run.evaluate_memory if run.train is None else run.memory
    if isinstance(memory, Missing):
        return "-" if run.train is None else measured(run.peak_memory)
    peak, processes = memory.process.quantity(), 1 if run.train is None else plan.processes_per_device
    return f"{gib_text(peak)}, {memory_share(peak, plan, processes)}, {memory.verdict.value}"


def _design(plan: Plan) -> Iterator[str]:
    yield f"Type: {design_line(plan)}"
    yield from override_lines(plan)
    own = plan.own_task
    items = "the test split" if own is None or own.takes_data else "items of its own"
    evaluated = any(run.is_evaluated for run in plan.runs)
    how = f"evaluated with Inspect on {items}" if evaluated else "and nothing is evaluated (evaluate.epochs is empty)"
    yield f"Task: {plan.task}, {how}"
    machine = plan.machine
    devices = f", {plan.processes_per_device} processes per run" if plan.processes_per_device > 1 else ""
    if machine.kind == "gpu":
        devices = f", {plural(plan.gpus_per_run, 'GPU')} per run"
    yield f"Planned for: {machine_text(machine.key)}, {gib_text(machine.memory)} ({machine.source}){devices}"
    yield f"Executor: {plan.executor}"
    for model in plan.models.values():
        if absence := model.absence:
            yield f"{absence[0].upper()}{absence[1:]}"
    if plan.slots_reason:
        yield f"Slots: {plan.slots_reason}"
    yield from learning_rate_notes(plan)
    yield from control_notes(plan)
    yield from method_notes(plan)
    yield from recipe_notes(plan)
    yield from quantization_notes(plan)
    yield from dtype_notes(plan)
    names = ", ".join(run.name for run in plan.runs[:6])
    yield (
        f"Names of runs and folders: {names}{', ...' if len(plan.runs) > 6 else ''}; rename them before the first run: "
        f"touchline plan DIR run_names='{_name_pattern(plan)}'"
    )


def _name_pattern(plan: Plan) -> str:
    """Return a pattern of run names with everything that varies."""
    varied = [factor for factor, levels in plan.factors.items() if len(levels) > 1 and factor not in (SEEDS, STAGE)]
    parts = ["{model}" if "models" in varied else "{model_size}"]
    if "train.lora.rank" in varied or not varied:
        parts.append("rank{lora_rank}")
    for factor in varied:
        if factor not in ("models", "train.lora.rank"):
            parts.append("{data}" if factor in DATASET_KEYS else f"{{{factor.rpartition('.')[2]}}}")
    return "_".join(parts)


def left_text(plan: Plan, names: Collection[str]) -> str | None:
    """Return the cost of the named runs, of which everything is left to do. None for no run, and for all of them."""
    left = [run for run in plan.runs if run.name in names]
    if not left or len(left) == len(plan.runs):
        return None
    hours = totals_of(plan, left)["gpu_hours"]
    return f"left to do, {plural(len(left), 'run')}: {_device_hours(plan, hours)}"


def _device_hours(plan: Plan, found: Measured) -> str:
    hours = hours_unit("GPU" if plan.machine.kind == "gpu" else "CPU")
    if isinstance(found, Missing):
        return f"{measured(found)} {hours}"
    ends = "" if found.low is None else f" ({found.low:.3g} to {found.high:.3g})"
    return f"{found.value:.3g} {hours}{ends}; {found.method or 'evaluations and their start included'}"


def _totals(plan: Plan) -> Iterator[str]:
    yield f"Total: {_device_hours(plan, plan.gpu_hours)}"
    queue = (
        ""
        if plan.executor == "local" or plan.deadline is not None
        else f" with {_at_once(plan)}; a queue may start more"
    )
    yield f"Wall-clock time: {measured(plan.wall_seconds)}{queue}{_deadline(plan)}"
    yield f"Disk: {measured(plan.disk)}"
    if (line := about_shared_validation(plan.runs, runs_at_once(plan.machine, plan.gpus_per_run))) is not None:
        yield line


_LIMIT_COLUMNS = ("run", "training time limit", "evaluation time limit")


def _limits(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the time limits of each job. On this machine no job has one unless the experiment sets it."""
    compute, here = plan.compute, plan.executor == "local"
    if here and compute.time_limit is None and compute.evaluation.time_limit is None:
        return
    for run in plan.runs:
        trains = run.train is not None and not (here and compute.time_limit is None)
        evaluated = not (here and compute.evaluation.time_limit is None)
        yield (
            run.name,
            measured(training_limit(plan, run)) if trains else "-",
            measured(evaluation_limit(plan, run)) if evaluated else "-",
        )


def _deadline(plan: Plan) -> str:
    """Return whether the wall-clock time is within the deadline, and the chance of it; nothing without a deadline."""
    if plan.deadline is None:
        return ""
    minutes, limit = to_minutes(plan.wall_seconds), seconds_to_minutes(parse_duration(plan.deadline))
    if isinstance(minutes, Missing):
        return f"; deadline {plan.deadline}: unknown"
    chance = chance_within(minutes, limit)
    is_met = minutes.value <= limit
    words = "met" if chance >= CONFIDENT else "met as predicted, but not surely" if is_met else "not met"
    text = f"; deadline {plan.deadline}: {words} with {_at_once(plan)}, chance {percent(chance, 0)}"
    if chance >= CONFIDENT or plan.machine.kind == "cpu":
        return text
    runs = sum(run.train is not None for run in plan.runs)
    gpus = min(runs, math.ceil((minutes.high or minutes.value) / limit)) * max(plan.gpus_per_run, 1)
    more = runs > runs_at_once(plan.machine, plan.gpus_per_run)
    return f"{text}; on more GPUs: touchline place DIR --gpus {gpus}" if more else text


def _at_once(plan: Plan) -> str:
    return f"{plural(runs_at_once(plan.machine, plan.gpus_per_run), 'run')} at once"


_MODEL_COLUMNS = (
    "model",
    Column("folder", is_wide=True),
    Column("architecture", is_wide=True),
    "parameters",
    "dtype",
    "weights",
    "context",
)


def _models(plan: Plan) -> Iterator[tuple[str, ...]]:
    for model in plan.models.values():
        yield (
            model.name,
            model.path,
            model.architecture or "-",
            f"{model.num_parameters / 1e6:,.1f} M",
            model.dtype,
            format_bytes(model.weight_bytes) + (", not here" if "weights" in model.absent else ""),
            f"{model.context_length:,}",
        )


_DATA_COLUMNS = (
    "dataset",
    "size",
    "splits",
    Column("origin of the splits", is_wide=True),
    Column("sha256", is_wide=True),
)


def _datasets(plan: Plan) -> Iterator[tuple[str, ...]]:
    shown: set[str] = set()
    for data in plan.datasets.values():
        counts = {split.name: f"{split.name} {split.num_examples:,}" for split in data.named_splits}
        for file in data.all_files:
            # Several training files may have one test file.
            if file.path not in shown:
                split = shown_split(split_of(file.key))
                text = counts.get(split, "") if data.files else ", ".join(counts.values())
                yield file.path, format_bytes(file.size_bytes), text, data.split_origin, file.sha256[:12]
            shown.add(file.path)


LABEL_MARKS = ("\u27e6", "\u27e7")
"""Around the label span of a rendered example."""
_ABOUT_EXAMPLES = (f"Only the label span, between {' and '.join(LABEL_MARKS)}, has a loss.",)


def _examples(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield one training example per dataset in the form that the model is trained on."""
    begin, end = LABEL_MARKS
    for example in plan.examples:
        unused = ", ".join(example.columns_not_used) or "none"
        yield (
            f"{example.dataset}, row {example.row}, chat template of {example.model}: "
            f"{example.prompt_tokens:,} prompt tokens, {example.label_tokens:,} label tokens. "
            f"Columns used: {', '.join(example.columns_used)}; not used: {unused}.",
            f"{example.prompt}{begin}{example.label}{end}",
        )


def _evidence(plan: Plan) -> Iterator[str]:
    if plan.past_runs is not None:
        rest = "" if any(_has_evidence(run.evaluate_seconds) for run in plan.runs) else ". None for evaluation times"
        yield evidence_line(plan.past_runs) + (rest if plan.evidence else "")
    if not plan.evidence:
        yield (
            "The intervals come from formulas and published figures. `touchline run` first measures some steps if the "
            "runs are on this machine; `touchline probe` does so for the heaviest run only."
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


def _has_evidence(value: Measured) -> bool:
    return isinstance(value, Quantity) and bool(value.where)


def folder_lines(plan: Plan, folder: str = ".") -> list[str]:
    """Return a preview of the experiment folder, by its name."""
    width = max(len(run.name) for run in plan.runs) + 1
    return [
        f"{folder}/",
        *(f"  {run.name + '/':<{width}}  {_contents(run)}" for run in plan.runs),
    ]


def _contents(run: PlannedRun) -> str:
    if run.train is None:
        return f"eval.py  {EVALUATION_SCRIPT}  eval/"
    last = run.train.epochs - 1
    epochs = "epoch_0/" if last == 0 else f"epoch_0/ ... epoch_{last}/"
    return f"setup_finetune.yaml  finetune.yaml  {TRAINING_SCRIPT}  eval.py  {EVALUATION_SCRIPT}  {epochs}  eval/"


def runs_plan_markdown(plan: Plan) -> str:
    """Return the text of runs_plan.md."""
    revisions = [
        (str(revision.number), revision.date, revision.reason, revision_text(revision)) for revision in plan.revisions
    ]
    parts = [
        f"# Plan: {escape(plan.experiment)}\n",
        f"{escape(plan.question)}\n" if plan.question else "",
        *(section_markdown(section) for section in sections(plan)),
        "## Folders\n",
        fence(folder_lines(plan)),
        section_markdown(table_section("Revisions", ("#", "date", "what", "runs"), revisions)),
    ]
    return "\n".join(part for part in parts if part)


def revision_text(revision: Revision) -> str:
    """Return the runs that a revision changed: `new: 135M_rank8; removed: 135M_rank64`."""
    if revision.number == 1:
        return ", ".join(revision.runs)
    changed = [name for name in revision.runs if name not in (*revision.new, *revision.removed)]
    parts = (("new", revision.new), ("changed", changed), ("removed", revision.removed))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names) or (
        "no run changed; predictions were updated"
    )
