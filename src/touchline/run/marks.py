"""Progress of the runs of an experiment that is planned again."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from touchline.experiment.plan import Plan, PlannedRun
from touchline.run.folders import ExperimentFolder


class RunMark(StrEnum):
    """Progress of a run when its experiment is planned again."""

    DONE = "done"
    """Trained, or a control, and evaluated."""
    TRAINED = "trained, not evaluated"
    """Its training is complete."""
    STARTED = "started"
    """An attempt at its training is on disk."""
    NEW = "new"
    """The plan before did not have it."""
    CHANGED = "changed"
    """It is another run now; what it had made is moved aside."""
    TO_DO = "not started"
    """Planned before, and nothing of it is on disk."""


LEFT = (RunMark.NEW, RunMark.CHANGED, RunMark.TO_DO)
"""Progress of runs of which everything is left to do."""


def run_marks(folder: ExperimentFolder, old: Plan | None, new: Plan, drifted: Collection[str]) -> dict[str, RunMark]:
    """Return how far each run is; nothing for a first plan."""
    before = set() if old is None else {run.name for run in old.runs}
    return {} if old is None else {run.name: _mark(folder, run, before, drifted) for run in new.runs}


def _mark(folder: ExperimentFolder, run: PlannedRun, before: Collection[str], drifted: Collection[str]) -> RunMark:
    if run.name not in before:
        return RunMark.NEW
    if run.name in drifted:
        return RunMark.CHANGED
    if run.train is None:
        return RunMark.DONE if folder.has_evaluations(run.name) else RunMark.TO_DO
    if folder.is_trained(run.name):
        return RunMark.DONE if folder.has_evaluations(run.name) else RunMark.TRAINED
    return RunMark.STARTED if folder.has_started(run.name) else RunMark.TO_DO
