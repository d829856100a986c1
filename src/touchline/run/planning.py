"""Planning in an experiment's folder: decisions of the plan there that stay, changes since, and the new plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import ProgressCallback
from touchline.core.clock import today
from touchline.core.errors import PlanDriftError, quoted
from touchline.core.finding import Finding
from touchline.core.quantity import Quantity
from touchline.core.units import plural
from touchline.data.evaluations import is_current, read_evaluations
from touchline.data.user_config import UserConfig
from touchline.experiment.evaluation import decoding_text
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.read import LoadedExperiment
from touchline.plan.at_once import SlotChoice
from touchline.plan.conditions import short_size
from touchline.plan.identity import RunMark, changed_runs, describe_change, replanned, revise
from touchline.plan.local.context import free_space
from touchline.plan.sections import runs_plan_markdown
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan
from touchline.run.recorded import plan_command
from touchline.run.scripts.folder import evaluation_config
from touchline.statistics.closed_forms import SpreadInput

if TYPE_CHECKING:
    from touchline.lint.local.planned_experiment import Decided, PlannedExperiment


def accepted_settings(plan: Plan | None) -> dict[str, dict[str, object]]:
    """Return the edits of setup_finetune.yaml that were accepted, by run."""
    return {} if plan is None else {run.name: run.accepted for run in plan.runs if run.accepted}


def decided_by(
    folder: ExperimentFolder,
    old: Plan | None,
    *,
    accepting: Mapping[str, dict[str, object]] | None = None,
    pinned: Collection[str] = (),
    spread: tuple[SpreadInput, ...] | None = None,
) -> Decided:
    """Return what the plan on disk has decided and stays: of runs that have started, are queued, or are `pinned`.

    Args:
        accepting: settings accepted now, by run, next to those that `old` has of other runs.
    """
    # The rules load when something is planned, and not with every command.
    from touchline.lint.local.planned_experiment import Decided

    accepted = {**accepted_settings(old), **(accepting or {})}
    if old is None:
        return Decided(date=today(), accepted=accepted, spread=spread)
    # The first decision fixed the design: what was decided for its runs stays, whether they have started or not.
    fixed = old.strategy if folder.decisions() else None
    kept = {*pinned, *folder.queued(), *(run.name for run in old.runs if fixed is not None)}
    started = decided_runs(old, folder, kept)
    trained = any(run.train is not None for run in started.values())
    return Decided(
        date=old.date,
        accepted=accepted,
        started=started,
        strategy=fixed,
        slots=SlotChoice(count=old.machine.slots, reason=old.slots_reason, gain=old.slots_gain) if trained else None,
        spread=old.spread if spread is None and old.spread and started else spread,
    )


def decided_on_disk(yaml: Path) -> Decided:
    """Return what the plan next to an experiment's file has decided.

    Raises:
        InputError: plan.json is broken.
    """
    folder = ExperimentFolder(yaml)
    return decided_by(folder, folder.read_plan())


def decided_runs(old: Plan, folder: ExperimentFolder, kept: Collection[str]) -> dict[str, PlannedRun]:
    """Return the runs whose decisions stay: those in `kept`, and those with a training or an evaluation."""
    there = {path.name for path in folder.root.iterdir()} if folder.root.is_dir() else set()
    return {
        run.name: run
        for run in old.runs
        if run.name in kept
        or (run.name in there and (folder.has_started(run.name) or folder.has_evaluations(run.name)))
    }


def refuse_other_slots(old: Plan, experiment: Experiment) -> None:
    """Refuse another number of threads for the runs that have not started."""
    wanted = experiment.compute.slots
    if old.machine.kind == "cpu" and wanted not in ("auto", old.machine.slots):
        raise PlanDriftError(
            f"compute.slots is {wanted}, but runs have started in {plural(old.machine.slots, 'slot')}",
            expected="the same number of threads for all runs, because it affects rounding",
            hint=f"compute.slots={old.machine.slots}, or another experiment",
        )


def run_marks(folder: ExperimentFolder, old: Plan | None, new: Plan, changed: Collection[str]) -> dict[str, RunMark]:
    """Return how far each run is; nothing for a first plan."""
    before = set() if old is None else {run.name for run in old.runs}
    return {} if old is None else {run.name: _mark(folder, run, before, changed) for run in new.runs}


def _mark(folder: ExperimentFolder, run: PlannedRun, before: Collection[str], changed: Collection[str]) -> RunMark:
    if run.name not in before:
        return RunMark.NEW
    if run.name in changed:
        return RunMark.CHANGED
    if run.train is None:
        return RunMark.DONE if folder.has_evaluations(run.name) else RunMark.TO_DO
    if folder.is_trained(run.name):
        return RunMark.DONE if folder.has_evaluations(run.name) else RunMark.TRAINED
    return RunMark.STARTED if folder.has_started(run.name) else RunMark.TO_DO


def _left_behind(folder: ExperimentFolder, plan_: Plan) -> Iterator[str]:
    names = folder.leftovers([run.name for run in plan_.runs])
    if names:
        yield (
            f"no longer in the plan, folder{'s' if len(names) > 1 else ''} kept and not reported: "
            f"{', '.join(names)} (delete by hand, or restore the levels)"
        )


def resolve(
    loaded: LoadedExperiment,
    folder: ExperimentFolder,
    settings: UserConfig,
    old: Plan | None,
    on_progress: ProgressCallback | None = None,
    *,
    accepting: Mapping[str, dict[str, object]] | None = None,
    pinned: Collection[str] = (),
    spread: tuple[SpreadInput, ...] | None = None,
    refuses_memory: bool = True,
) -> tuple[Plan, tuple[str | Finding, ...]]:
    """Return the plan of an experiment in its folder, with notes and findings; see `plan_in_folder`."""
    decided = decided_by(folder, old, accepting=accepting, pinned=pinned, spread=spread)
    found = plan_in_folder(loaded, folder, settings, old, decided, on_progress, refuses_memory=refuses_memory)
    assert found.plan is not None
    return found.plan, (*found.findings, *found.plan.kept_evaluations, *_short_of_space(found.plan, folder))


def plan_in_folder(
    loaded: LoadedExperiment,
    folder: ExperimentFolder,
    settings: UserConfig,
    old: Plan | None,
    decided: Decided,
    on_progress: ProgressCallback | None = None,
    *,
    refuses_memory: bool = True,
) -> PlannedExperiment:
    """Plan an experiment; report all errors of models, data and combinations together.

    Runs that have started, wait in a queue or are pinned keep what was `decided` for them. Without `refuses_memory`,
    runs that are predicted not to fit are planned too.

    Raises:
        InputError: with every error.
        FindingsError: a run is predicted to run out of memory.
    """
    # The rules load when something is planned, and not with every command.
    from touchline.lint.local.planned_experiment import plan_experiment

    if old is not None and decided.slots is not None:
        refuse_other_slots(old, loaded.experiment)
    found = plan_experiment(loaded, folder.root, settings, decided, on_progress, judges_memory=refuses_memory)
    found.refuse()
    assert found.plan is not None
    kept_evaluations = tuple(_kept_evaluations(found.plan, folder))
    found.plan = replace(found.plan, kept_evaluations=kept_evaluations, file_settings=loaded.document.data)
    return found


def _kept_evaluations(plan_: Plan, folder: ExperimentFolder) -> Iterator[str]:
    """Announce which evaluations will be made again by other settings or not at all, and that the earlier ones stay."""
    earlier: dict[tuple[str, str, str | None], int] = {}
    for run_ in plan_.runs:
        if not folder.has_evaluations(run_.name):
            continue
        config = evaluation_config(plan_, run_)
        asked = {config.label_of(task) for task in (None, *config.tasks)}
        for record in read_evaluations(folder.run(run_.name)):
            if not is_current(record, config, record.adapter_sha256):
                now = decoding_text(run_.evaluate) if record.label in asked else None
                key = (record.label, record.decoding, now)
                earlier[key] = earlier.get(key, 0) + 1
    for (task, before, now), number in earlier.items():
        count = "1 evaluation" if number == 1 else f"{number} evaluations"
        if now is None:
            stay = "stays" if number == 1 else "stay"
            yield f"{count} on {task}, no longer in the plan, {stay} with logs and scores"
            continue
        yield (
            f"{count} on {task} with other settings ({before}) stay{'s' if number == 1 else ''} with logs and "
            f"scores. Comparisons use only the new settings ({now})"
        )


def _short_of_space(plan_: Plan, folder: ExperimentFolder) -> Iterator[str]:
    """Yield a note where the disk has less room than the runs may need; it is not part of the plan."""
    free, needed = free_space(folder.root), plan_.disk
    if isinstance(free, Quantity) and isinstance(needed, Quantity) and (needed.high or needed.value) > free.value:
        most = replace(needed, value=needed.high or needed.value)
        yield (
            f"the runs need up to {short_size(most)}, but {str(folder.root)!r} has {short_size(free)} free: "
            "set train.checkpoint.keep"
        )


def commit_plan(
    folder: ExperimentFolder,
    old: Plan | None,
    new: Plan,
    *,
    accept: bool,
    dry_run: bool,
    reason: str = "",
    notes: Sequence[str | Finding],
    over: Collection[str] = (),
) -> LoadedPlan:
    """Refuse drift, or record it; then write. A dry run says why the plan would be refused, and writes nothing.

    Of runs that are `over`, nothing that is in a queue matters any more.
    """
    drifted = _drifted(folder, old, new, over)
    findings = tuple(each for each in notes if isinstance(each, Finding))
    try:
        refuse_drift(folder, old, new, accept=accept, over=over)
    except PlanDriftError as error:
        if not dry_run:
            raise
        notes = (*notes, f"without --dry-run this plan is an error: {error.message} ({error.hint})")
    if old is not None and all(folder.has_started(run.name) for run in new.runs if run.train is not None):
        # No estimate was made again, so that runs found since then say nothing of it.
        new = replace(new, past_runs=old.past_runs)
    new = replace(new, override_dates=_override_dates(old, new))
    plan_ = revise(old, new, date=today(), reason=reason or ("planned" if old is None else replanned(old, new)))
    changed = False
    if not dry_run:
        for name in drifted:
            folder.supersede(name)
        changed = folder.write_plan(plan_, runs_plan_markdown(plan_, findings))
    said = (*(each for each in notes if isinstance(each, str)), *_left_behind(folder, plan_))
    gone = folder.gone([run.name for run in plan_.runs])
    said += tuple(f"the folder of {name} is gone, with its results: the run starts again" for name in gone)
    marks = run_marks(folder, old, plan_, [] if old is None else changed_runs(old, plan_))
    return LoadedPlan(plan=plan_, folder=folder, changed=changed, notes=said, findings=findings, marks=marks)


def _override_dates(old: Plan | None, new: Plan) -> dict[str, str]:
    """Return the date of each override: that of the plan before if it had it, else today."""
    before = {} if old is None else dict.fromkeys(old.overrides, "") | old.override_dates
    dates = {override: before.get(override, today()) for override in new.overrides}
    return {override: date for override, date in dates.items() if date}


def _drifted(folder: ExperimentFolder, old: Plan | None, new: Plan, over: Collection[str]) -> list[str]:
    queued = folder.queued() - set(over)
    changed = () if old is None else changed_runs(old, new)
    return [name for name in changed if new.run(name) and (name in queued or folder.has_started(name))]


def refuse_drift(
    folder: ExperimentFolder, old: Plan | None, new: Plan, *, accept: bool, over: Collection[str] = ()
) -> None:
    """Refuse a plan that changes queued runs, started runs unless `accept`, or a design whose strategy has begun.

    Raises:
        PlanDriftError: it does; with what changes and what to type.
    """
    folder.refuse_other_design(old, new)
    drifted = _drifted(folder, old, new, over)
    if waiting := sorted(set(drifted).intersection(folder.queued() - set(over))):
        raise PlanDriftError(
            f"the plan changes runs that are queued or running: {', '.join(waiting)}",
            expected="none of them in a queue",
            hint=f"touchline cancel {quoted(str(folder.root))} --run {waiting[0]}, then touchline status "
            f"{quoted(str(folder.root))}",
        )
    if drifted and old is not None and not accept:
        what = "; ".join(f"{name}: {describe_change(old, new, name)}" for name in drifted)
        raise PlanDriftError(
            f"the plan changes runs that have already started: {what}",
            expected="unchanged inputs of the plan",
            hint="undo the change, or keep it and move their results aside: "
            + plan_command(folder, new.overrides, "--accept"),
        )
