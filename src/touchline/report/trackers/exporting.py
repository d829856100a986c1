"""Export of all runs of an experiment to an experiment tracker. It can be repeated while runs continue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import PolicyError
from touchline.core.files import try_lock
from touchline.data.metrics_file import read_metrics
from touchline.report.trackers.protocol import Export, Exported, Tracker, open_tracker
from touchline.report.trackers.series import run_series
from touchline.results.collect import collect_results
from touchline.run.planning import LoadedPlan
from touchline.run.selection import selected
from touchline.spec.plan import PlannedRun

EXPORTS = "exports"
"""Default folder of exports in the experiment, unless the user or the environment sets another one."""


def export_runs(
    planned: LoadedPlan,
    tracker: str,
    *,
    directory: Path | None = None,
    only: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Export:
    """Export the points that a tracker does not have yet.

    Args:
        planned: the plan and its folder.
        tracker: `tensorboard`, `wandb`, `trackio` or `mlflow`.
        directory: the target; None: the tracker's own variable, or the experiment's folder.
        only: one run; all when None.
        on_progress: receives the number of runs exported and their total.

    Raises:
        InputError: no such run or tracker.
        PolicyError: another export to this tracker is active.
        HostError: the tracker's package is not installed, or its folder cannot be written.
    """
    runs = selected(planned.plan, only)
    if on_progress is not None:
        # Loading a tracker takes seconds, creating MLflow's database takes longer.
        on_progress(0, len(runs))
    with _alone(planned, tracker):
        opened = open_tracker(tracker, directory, planned.folder.root / EXPORTS / tracker)
        return _exported(planned, tracker, opened, runs, on_progress)


@contextmanager
def _alone(planned: LoadedPlan, tracker: str) -> Iterator[None]:
    """Prevent a second export, which would find the same points missing.

    Raises:
        PolicyError: another one is active.
    """
    lock = try_lock(planned.folder.internal / f"export-{tracker}.lock")
    if lock is None:
        raise PolicyError(
            f"{planned.plan.experiment} is being exported to {tracker} by another command",
            expected="one export at a time",
        )
    try:
        yield
    finally:
        os.close(lock)


def _exported(
    planned: LoadedPlan,
    tracker: str,
    opened: Tracker,
    runs: Sequence[PlannedRun],
    on_progress: ProgressCallback | None,
) -> Export:
    results = {result.name: result for result in collect_results(planned.plan, planned.folder.root)}
    exported: list[Exported] = []
    skipped: list[str] = []
    for done, run in enumerate(runs):
        if on_progress is not None:
            on_progress(done, len(runs))
        metrics = read_metrics(planned.folder.run(run.name) / "metrics.jsonl")
        series = run_series(planned.plan, run, results[run.name], metrics)
        if not series.training and not series.evaluations:
            skipped.append(f"{run.name}: no step and no evaluation yet ({results[run.name].status.value})")
            continue
        exported.append(opened.export(series))
    if on_progress is not None:
        on_progress(len(runs), len(runs))
    return Export(
        experiment=planned.plan.experiment,
        tracker=tracker,
        where=opened.where,
        view=opened.view,
        runs=tuple(exported),
        skipped=tuple(skipped),
    )
