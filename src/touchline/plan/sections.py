"""Sections of the plan behind its first screen: for `--show` and for runs_plan.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from touchline.core.errors import InputError, finding_lines
from touchline.core.estimate import MemoryVerdict
from touchline.core.finding import Finding
from touchline.core.machine import machine_text
from touchline.core.quantity import Missing, Quantity
from touchline.core.table import Column, Section, present, section_markdown, table_section
from touchline.core.text import capital, escape, fence, join_names
from touchline.core.units import format_bytes, measured, plural
from touchline.estimate.evidence_used import evidence_line
from touchline.experiment.data_config import shown_split, split_of
from touchline.experiment.plan import Plan, PlannedRun, Revision
from touchline.plan import power, tasks
from touchline.plan.batch_sections import grouped_rows, memory_figures, memory_section, memory_share, packing_section
from touchline.plan.jobs import evaluation_limit, training_limit
from touchline.plan.notes import design_line, dtype_notes, method_notes, quantization_notes, recipe_notes
from touchline.plan.screen import has_limits, screen_lines
from touchline.plan.settings import Origin, RunSetting, collect_settings, setting_text, settings_table
from touchline.strategy import strategy_of

_COHORT_COLUMNS = ("runs", "trained", "gain of steps", "saves with start-up", "est. time of all", "est. peak memory")


def _cohorts(plan: Plan) -> Iterator[tuple[str, ...]]:
    refused = [(alone.predicted, "one after the other") for alone in plan.alone if alone.predicted is not None]
    for cohort, trained in (*((cohort, "side by side") for cohort in plan.cohorts), *refused):
        saved, seconds = measured(cohort.saved_seconds, 3), measured(cohort.train_seconds)
        memory = measured(cohort.peak_memory, 3)
        yield join_names(cohort.runs, 3), trained, measured(cohort.gain, 3), saved, seconds, memory


def _about_cohorts(plan: Plan) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for alone in plan.alone:
        reasons.setdefault(alone.reason, []).extend(alone.runs)
    yield from (f"Not trained side by side: {join_names(names)} ({reason})" for reason, names in reasons.items())


_RUN_COLUMNS = (
    "run",
    Column("model", is_wide=True),
    Column("LoRA rank", numeric=True, is_wide=True),
    Column("steps", numeric=True),
    "est. time",
    "est. peak memory",
    "est. disk",
)


def _runs(plan: Plan) -> Section:
    rows = []
    for run in plan.runs:
        rank = "-" if run.train is None else "all weights" if run.train.trains_all else str(run.train.lora.rank)
        steps = "-" if run.batches is None else str(run.batches.steps)
        time = f"eval only: {measured(run.evaluate_seconds)}" if run.train is None else measured(run.train_seconds)
        disk = "-" if run.train is None else measured(run.disk, 3)
        parent = "-" if run.link is None else f"{run.link.parent} ({run.link.continue_}, {run.link.parent_checkpoint})"
        rows.append((run.name, run.model, rank, steps, time, _memory_cell(run, plan), disk, parent))
    chained = any(run.link for run in plan.runs)
    columns = (*_RUN_COLUMNS, "continues from") if chained else _RUN_COLUMNS
    return table_section("All runs", columns, rows if chained else [row[:-1] for row in rows])


def _memory_cell(run: PlannedRun, plan: Plan) -> str:
    memory = run.evaluate_memory if run.train is None else run.memory
    if isinstance(memory, Missing):
        return "-" if run.train is None else measured(run.peak_memory)
    peak, processes = memory.process.quantity(), 1 if run.train is None else plan.processes_per_device
    return f"{measured(peak, 3)}, {memory_share(peak, plan, processes)}, {memory.verdict.value}"


def _design(plan: Plan) -> Iterator[str]:
    yield f"Type: {design_line(plan)}"
    machine = plan.machine
    devices = f", {plan.processes_per_device} processes per run" if plan.processes_per_device > 1 else ""
    if machine.kind == "gpu":
        devices = f", {plural(plan.gpus_per_run, 'GPU')} per run"
    yield f"Planned for: {machine_text(machine.key)}, {measured(machine.memory, 3)} ({machine.source}){devices}"
    if plan.slots_reason:
        yield f"Slots: {plan.slots_reason}"
    yield from method_notes(plan)
    yield from recipe_notes(plan)
    yield from quantization_notes(plan)
    yield from dtype_notes(plan)


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
        evaluations = (run.evaluate_seconds for run in plan.runs)
        is_timed = any(isinstance(each, Quantity) and each.where for each in evaluations)
        rest = "" if is_timed else ". None for evaluation times"
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


_SECTIONS: dict[str, Callable[[Plan], Iterable[Section]]] = {
    "runs": lambda plan: [_runs(plan)],
    "strategy": lambda plan: strategy_of(plan).sections(),
    "power": lambda plan: [
        table_section(
            "Statistical power",
            ("question", "design", "minimum detectable difference", "after Holm correction"),
            ((each.question, each.design, each.difference, each.after_holm) for each in power.detectables(plan)),
            lines=power.power_lines(plan),
        )
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
        Section(title="Models", lines=tuple(capital(each.absence) for each in plan.models.values() if each.absence)),
    ),
    "packing": lambda plan: [packing_section(plan)],
    "settings": lambda plan: [Section(title="Settings", tables=present(settings_table(collect_settings(plan))))],
    "revisions": lambda plan: [
        table_section(
            "Revisions",
            ("#", "date", "what", "runs"),
            ((str(each.number), each.date, each.reason, revision_text(each)) for each in plan.revisions),
        )
    ],
}
"""Sections of `--show` by name, in the order in which they are needed."""
CHECKS = "checks"
ALL = "all"
NAMES = (*_SECTIONS, CHECKS, ALL)


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown names of sections. Raises InputError: there is no section of a name."""
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


_FIRST = ("runs", "strategy", "power", "examples")
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


def revision_text(revision: Revision) -> str:
    """Return the runs that a revision changed: `new: 135M_rank8; removed: 135M_rank64`."""
    if revision.number == 1:
        return ", ".join(revision.runs)
    changed = [name for name in revision.runs if name not in (*revision.new, *revision.removed)]
    parts = (("new", revision.new), ("changed", changed), ("removed", revision.removed))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names) or (
        "no run changed; predictions were updated"
    )
