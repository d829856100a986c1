"""Planning of an experiment from its files: the one function whose errors `plan` stops at and `check` reports.

Errors that prevent a plan cannot be allowed; all others are judgements, which `allow` turns into information. Runs
without an error are planned also where others have one, so that all errors come at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from touchline import __version__
from touchline.backends.protocol import ExampleLengths
from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import FindingsError, InputError, error_count
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.levels import SEEDS, STAGE, flow_text
from touchline.core.machine import TargetMachine
from touchline.core.text import first_of
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES, YamlDocument
from touchline.experiment.experiment import with_fields
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.read import LoadedExperiment, read_experiment
from touchline.experiment.requests import CheckRequest
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.stated import places_of_run
from touchline.experiment.strategy import PlannedStrategy
from touchline.lint.check import CheckedConfig, summary_of
from touchline.lint.checked import chosen, in_order
from touchline.lint.local.checking_experiment import (
    devices_of,
    kinds_of,
    launch_findings,
    surroundings_of,
    training_views,
)
from touchline.lint.local.inputs import (
    ResolvedInputs,
    as_findings,
    errors_of,
    examples_of,
    images_of_runs,
    resolve_inputs,
    see_lengths,
)
from touchline.lint.training import TrainingView
from touchline.plan.at_once import SlotChoice
from touchline.plan.batch_sections import memory_findings
from touchline.plan.build import PlanInputs, data_key, plan_runs, plan_with_spread, with_decided_dtype
from touchline.plan.local.context import build_planning_context, past_spread
from touchline.plan.notes import dtype_findings
from touchline.plan.run_specs import run_faults
from touchline.statistics.closed_forms import SpreadInput

NOT_CHECKED = "EX016"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """Decisions of an earlier plan of the experiment that stay."""

    date: str
    """ISO date for templates that print one."""
    accepted: Mapping[str, dict[str, object]] = field(default_factory=dict)
    """Settings that the user changed in a run's folder, by run."""
    started: Mapping[str, PlannedRun] = field(default_factory=dict)
    """Runs whose decisions stay, by name."""
    strategy: PlannedStrategy | None = None
    """Strategy whose first decision has been taken."""
    slots: SlotChoice | None = None
    """Slots that started runs were planned for."""
    spread: tuple[SpreadInput, ...] | None = None
    """Spread that the power counts on; None: it is read from the history."""


@dataclass(kw_only=True, slots=True)
class PlannedExperiment:
    """Inputs of an experiment, its findings, and its plan if nothing prevents one."""

    seen: ResolvedInputs
    lengths: dict[tuple[str, str], ExampleLengths]
    """Token lengths of its training examples, by model and data."""
    views: list[TrainingView]
    """Its trainings, one of each kind."""
    findings: list[Finding]
    """Its findings by place, each once; those that it allows are information."""
    plan: Plan | None = None
    """Its plan; None where an error prevents it, or none was asked for."""
    inputs: PlanInputs | None = None
    planned: frozenset[str] = frozenset()
    """Names of the runs that were planned, alone or together."""

    def refuse(self) -> None:
        """Refuse an experiment with errors.

        Raises:
            InputError: with every error, and with what was not checked because of them.
            FindingsError: it was planned, and the plan has errors.
        """
        errors = errors_of(self.findings)
        if errors:
            kind = InputError if self.plan is None else FindingsError
            first = errors[0]
            allow = f" (`touchline plan` takes --allow {first.code})" if first.allowable else ""
            raise kind(
                error_count(self.seen.loaded.document.path, errors),
                findings=[*errors, *(each for each in self.findings if each.code == NOT_CHECKED)],
                hint=f"touchline check --explain {first.code}{allow}",
            )

    def rows(self) -> Iterator[CheckedConfig]:
        """Yield a row for each training; it neither passed nor failed where only the whole file has errors."""
        errors = errors_of(self.findings)
        failed = {name for error in errors for name in error.runs}
        whole = any(not error.runs for error in errors)
        for view in self.views:
            name = view.stated.subject
            passed = False if name in failed else None if whole or name not in self.planned else True
            yield replace(summary_of(view), passed=passed)


def check_experiment(
    yaml: Path, settings: UserConfig, request: CheckRequest, decided: Decided
) -> tuple[list[Finding], PlannedExperiment | None]:
    """Check an experiment's file by planning it. Return its findings, and the experiment if the file can be read.

    Args:
        request: the GPU to plan for instead of `compute.gpu`, and codes to allow.
    """
    try:
        loaded = read_experiment(read_text_bounded(yaml, SIZE_LIMIT_BYTES), str(yaml))
    except InputError as fault:
        whole = Location(path=str(yaml))
        message = "not checked before the errors are fixed: models, data, lengths, memory and time"
        rest = Finding(code=NOT_CHECKED, severity=Severity.INFO, subject="experiment", message=message, where=whole)
        return [*_unavoidable(as_findings(fault, "EX003", whole), request.allow), rest], None
    experiment = loaded.experiment
    if request.gpu != "auto":
        experiment = with_fields(experiment, compute=replace(experiment.compute, gpu=request.gpu))
    experiment = with_fields(experiment, allow=(*experiment.allow, *request.allow))
    found = plan_experiment(replace(loaded, experiment=experiment), yaml.parent, settings, decided)
    return found.findings, found


def check_inputs(
    loaded: LoadedExperiment,
    root: Path,
    settings: UserConfig,
    decided: Decided,
    on_progress: ProgressCallback | None = None,
) -> PlannedExperiment:
    """Look up the inputs of an experiment and apply the rules; nothing is planned."""
    seen = resolve_inputs(loaded, root, settings, decided.accepted, decided.started)
    lengths = see_lengths(seen, settings, decided.date, on_progress)
    views = list(training_views(seen, lengths, surroundings_of(seen)))
    found = PlannedExperiment(seen=seen, lengths=lengths, views=views, findings=[])
    rules = launch_findings(seen, views, lengths, settings, decided.date)
    _add(found, [*_unavoidable(seen.findings, loaded.experiment.allow), *rules])
    return found


def plan_experiment(
    loaded: LoadedExperiment,
    root: Path,
    settings: UserConfig,
    decided: Decided,
    on_progress: ProgressCallback | None = None,
    *,
    judges_memory: bool = True,
) -> PlannedExperiment:
    """Plan an experiment as far as its errors allow, and collect everything that `plan` refuses."""
    found = check_inputs(loaded, root, settings, decided, on_progress)
    seen = found.seen
    _add(found, _unavoidable(_run_findings(found, decided), loaded.experiment.allow))
    stopping = errors_of(found.findings)
    specs = _sound(found, stopping)
    if seen.target is not None and specs:
        inputs = _plan_inputs(found, specs, settings, decided)
        runs: Sequence[PlannedRun] = ()
        if stopping:
            runs = plan_runs(inputs)
        else:
            try:
                past = partial(past_spread, settings=settings)
                found.plan, found.inputs = plan_with_spread(inputs, decided.spread, past), inputs
                runs = found.plan.runs
            except InputError as fault:
                located = _located_in(loaded.document, as_findings(fault, "EX003", None, "strategy"))
                _add(found, _unavoidable(located, loaded.experiment.allow))
        found.planned = frozenset(run.name for run in runs)
        if judges_memory:
            kept = {run.digest for run in decided.started.values()}
            new = [run for run in runs if run.digest not in kept]
            _add(found, planned_findings(new, inputs.context.machine, loaded))
    _add(found, _not_checked(found))
    return found


def with_changes(found: PlannedExperiment, loaded: LoadedExperiment, root: Path, settings: UserConfig) -> PlanInputs:
    """Return the inputs of the same experiment with other training settings: the same data, models and past runs.

    Raises:
        InputError: with every error of its runs.
    """
    inputs = found.inputs
    assert inputs is not None
    decided = Decided(date=inputs.date, accepted=inputs.accepted, started=inputs.started)
    seen = resolve_inputs(loaded, root, settings, decided.accepted, decided.started)
    changed = PlannedExperiment(seen=seen, lengths=found.lengths, views=[], findings=[])
    _add(changed, _unavoidable([*seen.findings, *_run_findings(changed, decided)], loaded.experiment.allow))
    changed.refuse()
    return replace(
        inputs,
        experiment=loaded.experiment,
        experiment_sha256=loaded.sha256,
        overrides=loaded.overrides,
        specs=seen.specs,
        given=loaded.given,
    )


def _add(found: PlannedExperiment, findings: Iterable[Finding]) -> None:
    """Add findings. Those with the same text and place become one that is about all their runs."""
    merged: dict[tuple[str, str, str], Finding] = {}
    for finding in (*found.findings, *findings):
        key = (finding.code, str(finding.where), finding.message)
        first = merged.setdefault(key, finding)
        # A finding without runs is about all of them.
        runs = (*first.runs, *finding.runs) if first.runs and finding.runs else ()
        merged[key] = replace(first, runs=tuple(dict.fromkeys(runs)))
    allow = CheckRequest(allow=found.seen.loaded.experiment.allow)
    found.findings = in_order(chosen(merged.values(), allow))


def _unavoidable(findings: Iterable[Finding], allow: tuple[str, ...]) -> Iterator[Finding]:
    """Yield findings of which no error can be allowed, and say so of errors that the user tries to `allow`."""
    for finding in findings:
        tried = finding.severity is Severity.ERROR and allow and finding.code.startswith(allow)
        note = " (cannot be allowed, since no plan is possible without a fix)" if tried else ""
        yield replace(finding, message=finding.message + note, allowable=False)


def _run_findings(found: PlannedExperiment, decided: Decided) -> Iterator[Finding]:
    """Yield what stops single runs, each with its place; a refused crossing with the entry that leaves it out."""
    seen = found.seen
    document, devices = seen.loaded.document, devices_of(seen)
    faults: list[Finding] = []
    for spec in seen.specs:
        model = seen.models.get(spec.model)
        if model is None or errors_of(model.findings):
            continue
        asked = replace(spec, train=with_decided_dtype(spec.train, decided.started))
        lengths = found.lengths.get((spec.model, data_key(spec.data)))
        of_run = run_faults(asked, model, lengths, devices, decided.accepted.get(spec.name, ()))
        faults += [replace(each, where=each.where or _located(document, spec, each.subject)) for each in of_run]
    groups: dict[tuple[str, str], set[str]] = {}
    for fault in faults:
        groups.setdefault((fault.code, fault.message), set()).update(fault.runs)
    hints = {key: _exclusion(seen, names) for key, names in groups.items()}
    yield from (replace(fault, hint=hints[fault.code, fault.message] or fault.hint) for fault in faults)


def _located(document: YamlDocument, spec: RunSpec, key: str) -> Location:
    source = places_of_run(spec, document)(key)
    return document.where(key.split(".")) if source.is_default else source.where


def _exclusion(seen: ResolvedInputs, refused: Collection[str]) -> str | None:
    """Return the entry of `exclude` that leaves out just the refused runs, if levels refuse each other.

    None where one level alone is refused, or no combination of levels describes these runs.
    """
    trained = [spec for spec in seen.specs if spec.kind is RunKind.FINE_TUNED and spec.control is None]
    levels = {
        spec.name: {level.factor: level.value for level in spec.levels if level.factor not in (SEEDS, STAGE)}
        for spec in trained
    }
    wanted = {name for name in refused if name in levels}
    factors = [
        factor for factor in next(iter(levels.values()), {}) if len({own[factor] for own in levels.values()}) > 1
    ]
    for size in range(1, len(factors) + 1):
        for keys in itertools.combinations(factors, size):
            cells: dict[tuple[str, ...], set[str]] = {}
            for name, own in levels.items():
                cells.setdefault(tuple(own[key] for key in keys), set()).add(name)
            inside = [cell for cell, names in cells.items() if names <= wanted]
            if set().union(*(cells[cell] for cell in inside)) == wanted:
                return None if size == 1 else _entries(seen, keys, inside)
    return None


def _entries(seen: ResolvedInputs, keys: Sequence[str], cells: Iterable[tuple[str, ...]]) -> str:
    entries = ", ".join(
        "{" + ", ".join(f"{key}: {flow_text(value)}" for key, value in zip(keys, cell, strict=True)) + "}"
        for cell in cells
    )
    there = seen.loaded.experiment.exclude
    first = f"add {entries} to exclude" if there else f"exclude: [{entries}]"
    return f"{first}, or list the combinations to train under pairs instead of factors"


def _sound(found: PlannedExperiment, stopping: Sequence[Finding]) -> list[RunSpec]:
    viewed = {view.stated.subject for view in found.views}
    kinds = kinds_of(found.seen.specs)
    seen = {spec.name for kind in kinds for spec in kind if kind[0].name in viewed}
    faulty = {name for error in stopping for name in error.runs}
    sound: dict[str, RunSpec] = {}
    for spec in found.seen.sound_specs():
        left_out = stopping and (spec.name in faulty or spec.name not in seen)
        if not left_out and (spec.link is None or spec.link.parent in sound):
            sound[spec.name] = spec
    return list(sound.values())


def _plan_inputs(
    found: PlannedExperiment, specs: Sequence[RunSpec], settings: UserConfig, decided: Decided
) -> PlanInputs:
    seen, loaded = found.seen, found.seen.loaded
    assert seen.target is not None
    return PlanInputs(
        experiment=loaded.experiment,
        experiment_sha256=loaded.sha256,
        overrides=loaded.overrides,
        specs=tuple(specs),
        models=seen.models,
        datasets=seen.datasets,
        lengths=found.lengths,
        date=decided.date,
        touchline_version=__version__,
        given=loaded.given,
        tasks=tuple(seen.tasks.values()),
        recipes=seen.recipes,
        labels=tuple(seen.labels),
        context=build_planning_context(
            seen.target,
            seen.models.values(),
            {spec.train.backend for spec in specs},
            settings,
            loaded.experiment.compute.executor,
        ),
        examples=examples_of(seen, specs, decided.date),
        images=images_of_runs(seen, specs, settings),
        accepted=decided.accepted,
        fixed_strategy=decided.strategy,
        started=decided.started,
        started_slots=decided.slots,
    )


def planned_findings(runs: Iterable[PlannedRun], machine: TargetMachine, loaded: LoadedExperiment) -> list[Finding]:
    """Return the findings on planned runs that have not started, those that their experiment allows as information."""
    new = tuple(runs)
    located = _located_in(loaded.document, (*memory_findings(new, machine.name), *dtype_findings(new, machine)))
    return in_order(chosen(located, CheckRequest(allow=loaded.experiment.allow)))


def _located_in(document: YamlDocument, findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield replace(finding, where=finding.where or document.where(finding.subject.split(".")))


def _not_checked(found: PlannedExperiment) -> Iterator[Finding]:
    """Yield one finding on the checks that errors prevented."""
    seen = found.seen
    names = [spec.name for spec in seen.specs]
    left = [name for name in names if name not in found.planned]
    parts = []
    if not names:
        parts.append("the runs, with their lengths, memory and time")
    elif left:
        whose = "" if len(left) == len(names) else f" of {first_of(left, 3)}"
        parts.append(f"memory and time{whose}")
    if found.plan is None and seen.loaded.experiment.strategy is not None:
        parts.append("the strategy")
    if parts:
        message = f"not checked before the errors are fixed: {', '.join(parts)}"
        where = Location(path=seen.loaded.document.path)
        yield Finding(code=NOT_CHECKED, severity=Severity.INFO, subject="experiment", message=message, where=where)
