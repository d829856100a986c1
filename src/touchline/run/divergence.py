"""Runs whose training diverged: its loss or gradient norm was not finite."""

from __future__ import annotations

from touchline.core.status import EXIT_DIVERGED
from touchline.experiment.plan import PlannedRun
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import is_training_complete
from touchline.run.run_status import drop_lock_conflicts
from touchline.run.statusfiles import read_attempts


def has_diverged(folder: ExperimentFolder, run: PlannedRun) -> bool:
    """Return True if the last attempt at a run's training ended because it diverged; it would diverge again."""
    if is_training_complete(folder, run):
        return False
    attempts = drop_lock_conflicts(read_attempts(folder.run(run.name) / "status"))
    last = attempts[-1].exit if attempts else None
    return last is not None and last.code == EXIT_DIVERGED
