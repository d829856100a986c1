"""First screen of a plan: what runs, whether it fits, how long it takes, what it can show, what it is based on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.core.estimate import MemoryVerdict
from touchline.core.finding import Finding, Severity
from touchline.core.levels import SEEDS
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.text import join_names, one_line, shorten
from touchline.core.units import (
    bare,
    device_hours,
    hours_unit,
    measured,
    parse_duration,
    percent,
    plural,
    seconds_to_hours,
    seconds_to_minutes,
)
from touchline.estimate.totals import runs_at_once, sum_quantities, totals_of
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.recorded import override_lines
from touchline.experiment.runs import RunKind
from touchline.plan import power
from touchline.plan.batch_sections import memory_figures, memory_share
from touchline.plan.conditions import BEGUN, condition_lines, short_key, short_size, upper
from touchline.plan.identity import RunMark
from touchline.plan.jobs import evaluation_limit, to_minutes, training_limit
from touchline.plan.notes import learning_rate_notes
from touchline.plan.placement.placing import CONFIDENT, chance_within
from touchline.plan.settings import Origin, RunSetting, collect_settings, value_text
from touchline.statistics.closed_forms import USUAL_FLIPS
from touchline.strategy import strategy_of

WIDTH = 80
"""Columns of the screen where no terminal is narrower."""
_LABEL = 12
_LINES = 2
"""Lines of a rendered prompt, and of the given settings."""
_LONGEST_VALUE = 40
_WORST_FIRST = (MemoryVerdict.OOM, MemoryVerdict.UNCERTAIN, MemoryVerdict.UNKNOWN, MemoryVerdict.FITS)
_TIGHT = 0.8
"""Share of a device's memory above which it is named."""
_ELSEWHERE = frozenset(
    {"task", "models", "data.path", SEEDS, "compute.gpus_per_run", "data.input", "data.output", "data.messages"}
)
"""Given settings that the title, the table or the example shows."""


def screen_lines(
    plan: Plan,
    *,
    marks: Mapping[str, RunMark] | None = None,
    findings: Sequence[Finding] | None = None,
    width: int = WIDTH,
) -> list[str]:
    """Return the first screen of a plan.

    Args:
        marks: how far each run is; none for a first plan.
        findings: what was found in the inputs; None if that is not known.
    """
    marks, settings = marks or {}, collect_settings(plan)
    defaults = sum(each.origin is Origin.DEFAULT for each in settings)
    labelled = [
        _total(plan, marks),
        *_strategy(plan),
        *_tight_memory(plan),
        *_jobs(plan),
        *_detectable(plan),
        *_example(plan, width - _LABEL),
        ("You set", _given(plan, settings, width - _LABEL)),
        ("Decided", _decided(plan)),
        *_choices(plan),
        ("Defaults", f"{plural(defaults, 'setting')} (--show settings)"),
        ("Based on", _evidence(plan)),
        *([] if findings is None else [("Checks", _checks(findings))]),
    ]
    return [
        *_wrapped(_title(plan, marks), width, 2),
        *([shorten(one_line(plan.question), width)] if plan.question else []),
        "",
        *condition_lines(plan, marks, width),
        "",
        *(line for label, text in labelled for line in _wrapped(f"{label:<{_LABEL}}{one_line(text)}", width)),
        *(line for text in override_lines(plan) for line in _wrapped(text, width)),
    ]


def _wrapped(text: str, width: int, indent: int = _LABEL) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def _title(plan: Plan, marks: Mapping[str, RunMark]) -> str:
    trained = sum(run.kind is RunKind.FINE_TUNED for run in plan.runs)
    controls, there = len(plan.runs) - trained, list(marks.values())
    new, changed = there.count(RunMark.NEW), there.count(RunMark.CHANGED)
    counts = (("new", new), ("unchanged", len(there) - new - changed), ("changed", changed))
    parts = [f"{trained:,} trained", *([plural(controls, "control")] if controls else [])]
    parts += [what if number == len(there) else f"{number:,} {what}" for what, number in counts if number]
    return f"{plan.experiment}: {plural(len(plan.runs), 'run')} ({', '.join(parts)}) on {_machine(plan)}"


def _machine(plan: Plan) -> str:
    machine = plan.machine
    if machine.kind == "cpu":
        name = "this machine" if machine.source == "this machine" else machine.name
        where = f"{name}, {plural(machine.whole_threads, 'CPU thread')}"
    else:
        where = machine.name + (f", {plan.gpus_per_run} GPUs per run" if plan.gpus_per_run > 1 else "")
    return where if plan.executor == "local" else f"{plan.executor}, {where}"


# ---- time, memory and jobs -------------------------------------------------------------------------------------------


def left_runs(plan: Plan, marks: Mapping[str, RunMark]) -> list[PlannedRun]:
    """Return the runs that are not done; of a trained one the evaluation alone is left."""
    nothing, on_disk = Quantity(value=0.0, unit="s"), Quantity(value=0.0, unit="MB")
    return [
        replace(run, train_seconds=nothing, disk=on_disk) if marks.get(run.name) is RunMark.TRAINED else run
        for run in plan.runs
        if marks.get(run.name) is not RunMark.DONE
    ]


def _total(plan: Plan, marks: Mapping[str, RunMark]) -> tuple[str, str]:
    left = left_runs(plan, marks)
    if not left:
        return "Left to do", f"nothing, {plural(len(plan.runs), 'run')} done"
    label, parts = "Total", []
    wall, hours, disk = plan.wall_seconds, plan.gpu_hours, plan.disk
    if any(mark in BEGUN for mark in marks.values()):
        found = totals_of(plan, left)
        wall, hours, disk = found["wall_seconds"], found["gpu_hours"], found["disk"]
        label, parts = "Left to do", [plural(len(left), "run")]
    parts.append(measured(wall) + _of_it_evaluation(plan, left))
    # On one device the hours are those of the clock.
    if isinstance(wall, Missing) or isinstance(hours, Missing) or hours.value > 1.01 * seconds_to_hours(wall.value):
        method = hours.method if isinstance(hours, Quantity) else None
        parts.append(device_hours(hours, hours_unit(plan.machine.kind.upper())) + (f", {method}" if method else ""))
    parts += [] if isinstance(disk, Missing) else [f"{short_size(disk)} disk"]
    at_once = runs_at_once(plan.machine, plan.gpus_per_run)
    if plan.executor != "local" and plan.deadline is None and at_once < len(left):
        parts.append(f"{plural(at_once, 'run')} at once")
    return label, ", ".join((*parts, *_deadline_words(plan, wall)))


def _of_it_evaluation(plan: Plan, left: Sequence[PlannedRun]) -> str:
    """Return the part of a total that the times of training in the table lack, where one run at a time adds up."""
    untrained = [replace(run, train_seconds=Quantity(value=0.0, unit="s")) for run in left]
    seconds = totals_of(plan, untrained, side_by_side=False)["wall_seconds"]
    is_sum = plan.machine.kind == "cpu" or runs_at_once(plan.machine, plan.gpus_per_run) == 1
    return f" with {bare(seconds)} of evaluation" if is_sum and isinstance(seconds, Quantity) and seconds.value else ""


def _deadline_words(plan: Plan, wall: Measured) -> list[str]:
    if plan.deadline is None:
        return []
    minutes, limit = to_minutes(wall), seconds_to_minutes(parse_duration(plan.deadline))
    if isinstance(minutes, Missing):
        return [f"deadline {plan.deadline} unknown"]
    chance = chance_within(minutes, limit)
    words = "met" if chance >= CONFIDENT else "may be missed" if minutes.value <= limit else "missed"
    doubt = "" if chance >= CONFIDENT else f" (chance {percent(chance, 0)})"
    parts = [f"deadline {plan.deadline} {words}{doubt}"]
    runs = sum(run.train is not None for run in plan.runs)
    if words != "met" and plan.machine.kind == "gpu" and runs > runs_at_once(plan.machine, plan.gpus_per_run):
        gpus = min(runs, math.ceil((minutes.high or minutes.value) / limit)) * max(plan.gpus_per_run, 1)
        parts.append(f"on more GPUs: touchline place . --gpus {gpus}")
    return parts


def _strategy(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.strategy is not None:
        strategy = strategy_of(plan)
        yield "Strategy", f"{', '.join((*strategy.expected(), strategy.runs_at_most()))} (--show strategy)"


def _tight_memory(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the first job above most of the device's memory or not known to fit, and what is not estimated."""
    whole = plan.machine.memory
    found: dict[MemoryVerdict, list[str]] = {}
    for name, memory, processes in memory_figures(plan):
        peak = memory.process.quantity()
        is_full = isinstance(whole, Quantity) and upper(peak) * processes > _TIGHT * whole.value
        if memory.verdict is not MemoryVerdict.FITS or is_full:
            text = f"{name}: {memory.verdict.value}, {memory_share(peak, plan, processes)} of the device"
            found.setdefault(memory.verdict, []).append(f"{text}, at most {upper(peak):.3g} GiB")
    for verdict in _WORST_FIRST:
        if texts := found.get(verdict):
            more = sum(map(len, found.values())) - 1
            yield "Memory", f"{texts[0]}{f', {more} more to look at' if more else ''} (--show memory)"
            break
    trained = [run for run in plan.runs if run.train is not None]
    for what, values in (
        ("memory", [run.peak_memory for run in trained]),
        ("time", [run.train_seconds for run in trained]),
    ):
        if unknown := [each.missing for each in values if isinstance(each, Missing)]:
            yield "Unknown", f"{what} of {plural(len(unknown), 'run')} ({unknown[0]})"


def _jobs(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.cohorts:
        count = sum(len(cohort.runs) for cohort in plan.cohorts)
        saved = sum_quantities([cohort.saved_seconds for cohort in plan.cohorts], "s")
        text = f"{plural(count, 'run')} train together in {plural(len(plan.cohorts), 'job')}"
        yield "Cohorts", f"{text}, saves {measured(saved)} (--show cohorts)"
    if plan.machine.slots > 1:
        yield "Slots", plan.slots_reason
    if has_limits(plan):
        trained = [training_limit(plan, run) for run in plan.runs if run.train is not None]
        evaluated = [evaluation_limit(plan, run) for run in plan.runs]
        limits = [f"training {_longest(trained)}"] * bool(trained) + [f"evaluation {_longest(evaluated)}"]
        yield "Time limit", f"{', '.join(limits)} (--show limits)"
    if code := [f"{path} (sha256 {sha256[:8]})" for path, sha256 in plan.code_files(plan.runs).items()]:
        yield "Your code", f"{join_names(code, 2)}, review it before it runs (--show tasks)"
    for model in plan.models.values():
        if model.absent:
            yield "Not here", f"{', '.join(model.absent)} of {model.name} (--show data)"


def _longest(limits: Sequence[Measured]) -> str:
    return measured(max(limits, key=upper)) + (" at most" if len({upper(each) for each in limits}) > 1 else "")


def has_limits(plan: Plan) -> bool:
    """Return whether jobs have time limits: on a cluster, or where the experiment sets one."""
    compute = plan.compute
    return plan.executor != "local" or compute.time_limit is not None or compute.evaluation.time_limit is not None


# ---- what it can show ------------------------------------------------------------------------------------------------


def _detectable(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the smallest differences that the design can show: to the base, and between levels."""
    lines: list[str] = []
    between: dict[str, list[str]] = {}
    for each in power.detectables(plan):
        is_adjusted = each.after_holm != each.difference
        if each.factor is not None:
            text = f"{each.after_holm}{' after Holm' if is_adjusted else ''}"
            between.setdefault(text, []).append(short_key(each.factor))
        elif each.flips == USUAL_FLIPS:
            lines.append(f"vs. base {each.after_holm} ({'after Holm, ' if is_adjusted else ''}{each.design})")
    if between:
        more = " (3 or more can)" if power.has_one_seed(plan) else ""
        lines.append(", ".join(f"{' and '.join(names)} {text}" for text, names in between.items()) + more)
    if not lines:
        is_evaluated = any(run.is_evaluated for run in plan.runs)
        lines = [f"n/a ({'the number of test items is unknown' if is_evaluated else 'no run is evaluated'})"]
    yield from (("" if number else "Detectable", line) for number, line in enumerate(lines))


def _example(plan: Plan, room: int) -> Iterator[tuple[str, str]]:
    if not plan.examples:
        return
    example = plan.examples[0]
    unused = f", not used: {', '.join(example.columns_not_used)}" if example.columns_not_used else ""
    more = f" (1 of {len(plan.examples)}, --show examples)" if len(plan.examples) > 1 else ""
    prompt, turns = "", example.prompt.split("\n")
    # As many of the last lines as there is room for.
    while turns and (not prompt or len(_wrapped(prompt, room, 0)) > _LINES):
        prompt = f"{'... ' if prompt else ''}{' '.join(one_line(' '.join(turns)).split())}"
        turns = turns[1:]
    while len(_wrapped(prompt, room, 0)) > _LINES:
        prompt = f"...{prompt[len(prompt) - min(len(prompt) - 8, _LINES * room) :]}"
    yield "Example", prompt
    count = f" ({example.label_tokens:,} of {example.prompt_tokens + example.label_tokens:,} tokens)"
    yield "", f"loss on {shorten(one_line(example.label), room - len(count) - 8)}{count}"
    yield "", shorten(f"columns {', '.join(example.columns_used)}{unused}{more}", room)


# ---- what it is based on ---------------------------------------------------------------------------------------------


def _given(plan: Plan, settings: Sequence[RunSetting], room: int) -> str:
    """Return the settings that the user wrote and that are equal for all runs."""
    models, datasets = {run.model for run in plan.runs}, {run.dataset for run in plan.runs}
    texts = [each.pop().rpartition("/")[2] for each in (models, datasets) if len(each) == 1]
    texts.append(f"task {plan.task.rpartition('/')[2]}")
    texts += [
        f"{each.name} {value_text(each.value)}"
        for each in settings
        if each.origin is Origin.GIVEN and not each.varies and each.key not in _ELSEWHERE
    ]
    kept = [shorten(text, _LONGEST_VALUE) for text in texts]
    rest = ""
    while len(kept) > 1 and len(_wrapped(", ".join(kept) + rest, room, 0)) > _LINES:
        kept.pop()
        rest = f", {len(texts) - len(kept)} more (--show settings)"
    return ", ".join(kept) + rest


def _decided(plan: Plan) -> str:
    batches = [run.batches for run in plan.runs if run.batches is not None]
    parts = []
    if batches:
        parts.append(f"micro-batch {_ends([each.micro_batch_size for each in batches])}")
        if any(each.gradient_accumulation_steps > 1 for each in batches):
            parts.append(f"accumulation {_ends([each.gradient_accumulation_steps for each in batches])}")
        packed = [run.train.packed for run in plan.runs if run.train is not None]
        parts.append("packed" if all(packed) else "some packed" if any(packed) else "not packed")
        parts.append(f"{_ends([each.steps for each in batches])} steps per run")
    return ", ".join((*parts, f"{plural(runs_at_once(plan.machine, plan.gpus_per_run), 'run')} at a time"))


def _ends(values: Sequence[int]) -> str:
    return " to ".join(f"{each:,}" for each in dict.fromkeys((min(values), max(values))))


def _choices(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield packing that is on or was asked for, a rate that was left open, and a quantized evaluation."""
    train = (plan.file_settings or {}).get("train")
    asked = isinstance(train, dict) and train.get("packed") == "auto"
    trained = [run for run in plan.runs if run.train is not None and (asked or run.train.packed)]
    reasons = [run.packed_reason for run in trained if run.packed_reason]
    if reasons:
        yield "Packing", f"{reasons[0]} (--show packing)"
    yield from (("Rate", line) for line in learning_rate_notes(plan))
    scored = sorted({run.evaluate.quantization for run in plan.runs} - {"none"})
    if scored:
        yield "Scores", f"all on the {' and '.join(scored)} base, runs and controls alike (--show design)"


def _evidence(plan: Plan) -> str:
    past = plan.past_runs
    found = 0 if past is None else past.found
    if past is None or not (past.time or past.memory):
        runs = f"none of {plural(found, 'past run')}" if found else "no past run"
        return f"formulas and published figures, {runs} (--show evidence)"
    left = found - len({*past.time, *past.memory})
    counts = f"{len(past.time)} for time, {len(past.memory)} for memory{f', {left:,} left out' if left > 0 else ''}"
    formulas = "" if past.time and past.memory else ", formulas for the rest"
    return f"{plural(found, 'past run')} ({counts}){formulas} (--show evidence)"


def _checks(findings: Sequence[Finding]) -> str:
    severities = [finding.severity for finding in findings if not finding.allowed]
    counts = (("error", Severity.ERROR), ("warning", Severity.WARNING), ("note", Severity.INFO))
    parts = [plural(severities.count(severity), word) for word, severity in counts]
    ignored = [finding.code for finding in findings if finding.allowed]
    if ignored:
        parts.append(f"{plural(len(ignored), 'ignored error')} ({join_names(list(dict.fromkeys(ignored)))})")
    return f"{', '.join(parts)}{' (--show checks)' if findings else ''}"
