"""Inputs of the planner: all that a plan needs from the disk, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from touchline import __version__
from touchline.backends.protocol import ExampleLengths
from touchline.core.callbacks import ProgressCallback
from touchline.core.clock import today
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.finding import Finding, Severity
from touchline.core.units import plural
from touchline.data.user_config import UserConfig
from touchline.lint.local.inputs import ResolvedInputs, examples_of, images_of_runs, lengths_of, resolve_inputs
from touchline.plan.build import PlanInputs
from touchline.plan.local.context import build_planning_context
from touchline.plan.slots import SlotChoice
from touchline.run.folders import ExperimentFolder
from touchline.run.history_evidence import pruning_evidence
from touchline.spec.document import YamlDocument
from touchline.spec.experiment import Experiment
from touchline.spec.plan import Plan, PlannedRun
from touchline.spec.read import LoadedExperiment


def planner_inputs(
    loaded: LoadedExperiment,
    folder: ExperimentFolder,
    settings: UserConfig,
    old: Plan | None,
    accepted: dict[str, dict[str, object]],
    on_progress: ProgressCallback | None = None,
    *,
    pinned: Collection[str] = (),
) -> tuple[PlanInputs, list[Finding]]:
    """Read and check what the planner needs. Return it with the findings, none of them an error.

    Args:
        loaded: the experiment.
        folder: its folder.
        settings: where models, caches and the history are.
        old: the plan before.
        accepted: settings accepted for single runs, by run.
        on_progress: receives the number of tokenized rows and their total.
        pinned: runs that keep what was decided for them, besides those that have started or wait in a queue.

    Raises:
        InputError: with every error.
    """
    experiment = loaded.experiment
    date = old.date if old is not None else today()
    kept = {*pinned, *folder.queued()}
    fixed = None
    if old is not None and folder.decisions():
        # The first decision fixed the design: what was decided for its runs stays, whether they have started or not.
        kept |= {run.name for run in old.runs}
        fixed = old.strategy
    started = {} if old is None else decided_runs(old, folder, kept)
    seen = resolve_inputs(loaded, folder.root, settings, accepted, started=started)
    if (errors := seen.errors) or seen.target is None:
        raise InputError(f"{loaded.document.path}: {plural(len(errors), 'error')}", findings=seen.findings)
    lengths = lengths_of(seen, settings, date, on_progress)
    found = [*seen.findings]
    found += launchable(seen, lengths, settings, date)
    inputs = PlanInputs(
        experiment=experiment,
        experiment_sha256=loaded.sha256,
        overrides=loaded.overrides,
        specs=seen.specs,
        models=seen.models,
        datasets=seen.datasets,
        lengths=lengths,
        date=date,
        touchline_version=__version__,
        given=loaded.given,
        tasks=tuple(seen.tasks.values()),
        labels=tuple(seen.labels),
        context=build_planning_context(
            seen.target,
            seen.models.values(),
            {spec.train.backend for spec in seen.specs},
            settings,
            experiment.compute.executor,
        ),
        examples=examples_of(seen, date),
        images=images_of_runs(seen, settings),
        accepted=accepted,
        fixed_strategy=fixed,
        pruning_evidence=pruning_evidence(experiment, settings)
        if fixed is None or old is None
        else old.pruning_evidence,
        started=started,
    )
    if old is not None and any(run.train is not None for run in inputs.started.values()):
        _refuse_other_slots(old, inputs.experiment)
        decided = SlotChoice(count=old.machine.slots, reason=old.slots_reason, gain=old.slots_gain)
        inputs = replace(inputs, started_slots=decided)
    return inputs, found


def with_changes(
    inputs: PlanInputs, loaded: LoadedExperiment, folder: ExperimentFolder, settings: UserConfig
) -> PlanInputs:
    """Return the inputs of the same experiment with other training settings: the same data, models and past runs.

    Raises:
        InputError: with every error.
    """
    seen = resolve_inputs(loaded, folder.root, settings, dict(inputs.accepted), started=inputs.started)
    if errors := seen.errors:
        raise InputError(f"{loaded.document.path}: {plural(len(errors), 'error')}", findings=errors)
    return replace(
        inputs,
        experiment=loaded.experiment,
        experiment_sha256=loaded.sha256,
        overrides=loaded.overrides,
        specs=seen.specs,
        given=loaded.given,
    )


def decided_runs(old: Plan, folder: ExperimentFolder, kept: Collection[str]) -> dict[str, PlannedRun]:
    """Return the runs whose decisions stay: those in `kept`, and those with a training or an evaluation."""
    there = {path.name for path in folder.root.iterdir()} if folder.root.is_dir() else set()
    return {
        run.name: run
        for run in old.runs
        if run.name in kept
        or (run.name in there and (folder.has_started(run.name) or folder.has_evaluations(run.name)))
    }


@contextmanager
def located_in(document: YamlDocument) -> Iterator[None]:
    """Add their places in experiment.yaml to errors that the planner finds in its keys."""
    try:
        yield
    except InputError as error:
        error.findings = tuple(
            replace(finding, where=document.where(path))
            if finding.where is None and (path := finding.subject.split("."))[0] in document.data
            else finding
            for finding in error.findings
        )
        raise


def _refuse_other_slots(old: Plan, experiment: Experiment) -> None:
    """Refuse another number of threads for the runs that have not started."""
    wanted = experiment.compute.slots
    if old.machine.kind == "cpu" and wanted not in ("auto", old.machine.slots):
        raise PlanDriftError(
            f"compute.slots is {wanted}, and trainings have started in {plural(old.machine.slots, 'slot')}",
            expected="the same number of threads for all runs, on which rounding depends",
            hint=f"compute.slots={old.machine.slots}, or another experiment",
        )


def launchable(
    seen: ResolvedInputs, lengths: dict[tuple[str, str], ExampleLengths], settings: UserConfig, date: str
) -> list[Finding]:
    """Return what `check` finds in an experiment, none of it an error.

    Raises:
        InputError: with every error.
    """
    # The rules load when something is planned, and not with every command.
    from touchline.lint.local.checking_experiment import checked_for_launch

    found = checked_for_launch(seen, lengths, settings, date)
    errors = [each for each in found if each.severity is Severity.ERROR]
    if errors:
        raise InputError(
            f"{seen.loaded.document.path}: {plural(len(errors), 'error')}",
            findings=errors,
            hint=f"touchline check --explain {errors[0].code}; --allow {errors[0].code} ignores it",
        )
    return found
