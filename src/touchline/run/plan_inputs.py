"""What an earlier plan on disk has decided, and stays when the experiment is planned again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.clock import today
from touchline.core.errors import PlanDriftError
from touchline.core.units import plural
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.at_once import SlotChoice
from touchline.run.folders import ExperimentFolder
from touchline.statistics.closed_forms import SpreadInput

if TYPE_CHECKING:
    from touchline.lint.local.planned_experiment import Decided


def decided_by(
    folder: ExperimentFolder,
    old: Plan | None,
    accepted: Mapping[str, dict[str, object]],
    *,
    pinned: Collection[str] = (),
    spread: tuple[SpreadInput, ...] | None = None,
) -> Decided:
    """Return what the plan on disk has decided and stays: of runs that have started, are queued, or are `pinned`."""
    # The rules load when something is planned, and not with every command.
    from touchline.lint.local.planned_experiment import Decided

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
    old = folder.read_plan()
    return decided_by(folder, old, {} if old is None else {run.name: run.accepted for run in old.runs if run.accepted})


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
