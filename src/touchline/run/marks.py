"""Progress of the runs of an experiment that is planned again."""

from __future__ import annotations

from collections.abc import Collection

from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.identity import RunMark
from touchline.run.folders import ExperimentFolder


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
