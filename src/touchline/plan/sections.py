"""Sections of the plan behind its first screen: for `--show` and for runs_plan.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from touchline.core.errors import InputError, finding_lines
from touchline.core.estimate import MemoryVerdict
from touchline.core.finding import Finding
from touchline.core.levels import STAGE
from touchline.core.machine import machine_text
from touchline.core.markup import escape, fence, measured
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Column, Section, present, section_markdown, table_section
from touchline.core.text import first_of
from touchline.core.units import format_bytes, in_unit, plural
from touchline.estimate.evidence_used import evidence_line
from touchline.estimate.totals import runs_at_once
from touchline.experiment.data_config import shown_split, split_of
from touchline.experiment.plan import Cohort, Plan, PlannedRun, Revision, WhyAlone
from touchline.plan import power, tasks
from touchline.plan.batch_sections import (
    batches_section,
    device_hours_text,
    gib_text,
    grouped_rows,
    memory_figures,
    memory_section,
    memory_share,
    packing_section,
)
from touchline.plan.cohorts import WORTH
from touchline.plan.dtypes import dtype_notes
from touchline.plan.jobs import evaluation_limit, training_limit
from touchline.plan.notes import (
    control_notes,
    design_line,
    learning_rate_notes,
    method_notes,
    quantization_notes,
    recipe_notes,
    run_type,
)
from touchline.plan.screen import deadline_words, has_limits, screen_lines
from touchline.plan.settings import collect_settings, setting_text, settings_table
from touchline.plan.settings_table import Origin, RunSetting
from touchline.plan.untrained import about_shared_validation
from touchline.strategy.strategy import strategy_of

_SHOWN = 8
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
    """Yield the cells of the summary table: run, model, rank, type, steps, time, memory with its verdict, disk."""
    for run in plan.runs:
        rank = "-" if run.train is None else "all weights" if run.train.trains_all else str(run.train.lora.rank)
        steps = "-" if run.batches is None else str(run.batches.steps)
        time = f"eval only: {measured(run.evaluate_seconds)}" if run.train is None else measured(run.train_seconds)
        disk = "-" if run.train is None else _mib_text(run.disk)
        yield (run.name, run.model, rank, run_type(run), steps, time, _memory_cell(run, plan), disk)


def _mib_text(size: Measured) -> str:
    return measured(in_unit(size, "MiB"), 3)


def _memory_cell(run: PlannedRun, plan: Plan) -> str:
    memory = run.evaluate_memory if run.train is None else run.memory
    if isinstance(memory, Missing):
        return "-" if run.train is None else measured(run.peak_memory)
    peak, processes = memory.process.quantity(), 1 if run.train is None else plan.processes_per_device
    return f"{gib_text(peak)}, {memory_share(peak, plan, processes)}, {memory.verdict.value}"


def _design(plan: Plan) -> Iterator[str]:
    yield f"Type: {design_line(plan)}"
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
    if plan.slots_reason:
        yield f"Slots: {plan.slots_reason}"
    yield from learning_rate_notes(plan)
    yield from control_notes(plan)
    yield from method_notes(plan)
    yield from recipe_notes(plan)
    yield from quantization_notes(plan)
    yield from dtype_notes(plan)


def _totals(plan: Plan) -> Iterator[str]:
    yield f"Total: {device_hours_text(plan, plan.gpu_hours)}"
    at_once = f"{plural(runs_at_once(plan.machine, plan.gpus_per_run), 'run')} at once"
    queue = "" if plan.executor == "local" or plan.deadline is not None else "; a queue may start more"
    deadline = "".join(f"; {words}" for words in deadline_words(plan, plan.wall_seconds))
    yield f"Wall-clock time: {measured(plan.wall_seconds)} with {at_once}{queue}{deadline}"
    yield f"Disk: {_mib_text(plan.disk)}"
    if (line := about_shared_validation(plan.runs, runs_at_once(plan.machine, plan.gpus_per_run))) is not None:
        yield line


_LIMIT_COLUMNS = ("run", "training time limit", "evaluation time limit")


def _limits(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the time limits of each job. On this machine no job has one unless the experiment sets it."""
    compute, here = plan.compute, plan.executor == "local"
    for run in plan.runs if has_limits(plan) else ():
        trains = run.train is not None and not (here and compute.time_limit is None)
        evaluated = not (here and compute.evaluation.time_limit is None)
        yield (
            run.name,
            measured(training_limit(plan, run)) if trains else "-",
            measured(evaluation_limit(plan, run)) if evaluated else "-",
        )


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


def _absences(plan: Plan) -> list[str]:
    return [f"{model.absence[0].upper()}{model.absence[1:]}" for model in plan.models.values() if model.absence]


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


_SECTIONS: dict[str, Callable[[Plan], Iterable[Section]]] = {
    "runs": lambda plan: (
        *strategy_of(plan).run_sections(),
        table_section("All runs", _RUN_COLUMNS, _runs(plan)),
        table_section("Chains", _CHAIN_COLUMNS, _chains(plan), lines=_about_chains(plan)),
    ),
    "totals": lambda plan: [Section(title="Totals", lines=(*strategy_of(plan).totals_lines(), *_totals(plan)))],
    "strategy": lambda plan: strategy_of(plan).sections(),
    "power": lambda plan: [
        table_section("Statistical power", power.COLUMNS, power.power_rows(plan), lines=power.power_lines(plan))
    ],
    "examples": lambda plan: [
        Section(
            title="Rendered examples", blocks=tuple(_examples(plan)), lines=_ABOUT_EXAMPLES if plan.examples else ()
        )
    ],
    "design": lambda plan: [Section(title="Design", lines=tuple(_design(plan)))],
    "tasks": lambda plan: [table_section("Tasks", tasks.COLUMNS, tasks.task_rows(plan), lines=tasks.task_notes(plan))],
    "memory": lambda plan: [memory_section(plan)],
    "cohorts": lambda plan: [table_section("Cohorts", _COHORT_COLUMNS, _cohorts(plan), lines=_about_cohorts(plan))],
    "limits": lambda plan: [table_section("Time limits", _LIMIT_COLUMNS, grouped_rows(_limits(plan)))],
    "evidence": lambda plan: [Section(title="Evidence", lines=tuple(_evidence(plan)))],
    "data": lambda plan: (
        table_section("Datasets", _DATA_COLUMNS, _datasets(plan)),
        table_section("Models", _MODEL_COLUMNS, _models(plan), lines=_absences(plan)),
    ),
    "batches": lambda plan: [batches_section(plan)],
    "packing": lambda plan: [packing_section(plan)],
    "settings": lambda plan: [Section(title="Settings", tables=present(settings_table(collect_settings(plan))))],
    "revisions": lambda plan: [table_section("Revisions", ("#", "date", "what", "runs"), _revisions(plan))],
}
"""Sections of `--show` by name, in the order in which they are needed."""
CHECKS = "checks"
ALL = "all"
NAMES = (*_SECTIONS, CHECKS, ALL)


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown names of sections.

    Raises:
        InputError: there is no section of a name.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f"{unknown[0]!r} is not a section of the plan", expected=", ".join(NAMES))


def sections(plan: Plan, names: Sequence[str] = (ALL,), findings: Sequence[Finding] = ()) -> list[Section]:
    """Return sections by their names; where all are empty, one that says so."""
    wanted = NAMES if ALL in names else names
    found = [section for name in _SECTIONS if name in wanted for section in _SECTIONS[name](plan)]
    if CHECKS in wanted:
        found.append(Section(title="Checks", lines=tuple(finding_lines(findings))))
    return [section for section in found if not section.is_empty] or [
        Section(title=name.capitalize(), lines=("nothing in this plan",)) for name in names
    ]


_FIRST = ("runs", "totals", "strategy", "power", "examples")
_LAST = ("packing", "revisions")
_THEN = ("memory", "cohorts", "limits", "evidence", "data", "tasks", "design")


def runs_plan_markdown(plan: Plan, findings: Sequence[Finding] | None = None) -> str:
    """Return the text of runs_plan.md: the first screen, then tables in the order in which they are needed."""
    settings = collect_settings(plan)
    is_relevant = {
        "memory": any(each.verdict is not MemoryVerdict.FITS for _, each, _ in memory_figures(plan)),
        "cohorts": bool(plan.cohorts) or plan.compute.cohorts == "always",
        "tasks": bool(plan.tasks or plan.labels or tasks.set_items(plan)),
        "packing": any(run.train is not None and run.train.packed for run in plan.runs),
        "revisions": len(plan.revisions) > 1,
    }
    parts = [
        f"# Plan: {escape(plan.experiment)}\n",
        fence(screen_lines(plan, findings=findings)),
        *_markdown(plan, _FIRST),
        section_markdown(_settings_section("Given settings", settings, ("setting", "value", "key"), Origin.GIVEN)),
        *_markdown(plan, [name for name in _THEN if is_relevant.get(name, True)]),
        section_markdown(
            _settings_section(
                "Decided settings", settings, ("setting", "value", "reason", "key"), Origin.DECIDED, Origin.FIXED
            )
        ),
        section_markdown(Section(title="Defaults", paragraphs=tuple(_default_paragraphs(settings)))),
        *_markdown(plan, [name for name in _LAST if is_relevant[name]]),
    ]
    return "\n".join(part for part in parts if part)


def _markdown(plan: Plan, names: Sequence[str]) -> Iterator[str]:
    yield from (section_markdown(section) for name in names for section in _SECTIONS[name](plan))


def _settings_section(title: str, settings: Sequence[RunSetting], columns: Sequence[str], *origins: Origin) -> Section:
    table = settings_table([each for each in settings if each.origin in origins])
    return Section(title=title, tables=() if table is None else (table.only(*columns),))


def _default_paragraphs(settings: Sequence[RunSetting]) -> Iterator[str]:
    """Yield the defaults of each group of keys; their reasons are behind `--show settings`."""
    groups: dict[str, list[str]] = {}
    for each in settings:
        if each.origin is Origin.DEFAULT:
            groups.setdefault(each.key.rpartition(".")[0], []).append(f"{each.name} {setting_text(each)}")
    yield from (f"{group or 'experiment'}: {', '.join(texts)}." for group, texts in groups.items())


def _revisions(plan: Plan) -> list[tuple[str, str, str, str]]:
    return [(str(each.number), each.date, each.reason, revision_text(each)) for each in plan.revisions]


def revision_text(revision: Revision) -> str:
    """Return the runs that a revision changed: `new: 135M_rank8; removed: 135M_rank64`."""
    if revision.number == 1:
        return ", ".join(revision.runs)
    changed = [name for name in revision.runs if name not in (*revision.new, *revision.removed)]
    parts = (("new", revision.new), ("changed", changed), ("removed", revision.removed))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names) or (
        "no run changed; predictions were updated"
    )
