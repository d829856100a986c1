"""Export of all runs of an experiment to an experiment tracker. It can be repeated while runs continue."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from touchline.core.callbacks import MessageCallback, ProgressCallback, ignore_message
from touchline.core.errors import PolicyError
from touchline.core.files import try_lock
from touchline.core.status import RunStatus
from touchline.core.units import plural
from touchline.data.metrics_file import read_metrics
from touchline.experiment.plan import PlannedRun
from touchline.report.trackers.protocol import Export, Exported, Tracker, open_tracker
from touchline.report.trackers.series import run_series
from touchline.results.collect import collect_results
from touchline.results.run_result import RunResult
from touchline.run.planning import LoadedPlan, read_started
from touchline.run.selection import is_command_active, selected

EXPORTS = "exports"
"""Default folder of exports in the experiment, unless the user or the environment sets another one."""
FOLLOW_SECONDS = 60.0
"""Pause between two exports of `--follow`. W&B gets a file of its own from each."""
_DONE = frozenset({RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT, RunStatus.FAILED, RunStatus.CUT})
_WAITS_FOR = {
    RunStatus.PLANNED: "to be prepared",
    RunStatus.PREPARED: "to be started",
    RunStatus.QUEUED: "in the queue",
    RunStatus.RUNNING: "running",
    RunStatus.PAUSED: "paused, to be compared",
    RunStatus.INTERRUPTED: "interrupted, to be resumed",
    RunStatus.TRAINED: "trained, to be evaluated",
}
_NAMED = 6
"""Number of runs that are named in a message."""


def export_runs(
    planned: LoadedPlan,
    tracker: str,
    *,
    directory: Path | None = None,
    only: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Export:
    """Export the points that a tracker does not have yet; arguments and errors are those of `api.export`."""
    runs = selected(planned.plan, only)
    if on_progress is not None:
        # Loading a tracker takes seconds, creating MLflow's database takes longer.
        on_progress(0, len(runs))
    with _alone(planned, tracker):
        opened = open_tracker(tracker, directory, planned.folder.root / EXPORTS / tracker)
        return _exported(planned, tracker, opened, runs, on_progress)


def follow_runs(
    source: Path,
    tracker: str,
    *,
    directory: Path | None = None,
    only: str | None = None,
    every_seconds: float | None = None,
    on_message: MessageCallback = ignore_message,
) -> Iterator[Export]:
    """Export new points until all runs are done. Yield each export that added some, the first one always.

    A run is done when it is evaluated or has failed, and no command may start it again. The last step of a run that is
    not done is held back, since its validation may still follow. The plan is read again each time. Arguments and errors
    are those of `api.export_follow`.
    """
    planned = read_started(source)
    last_text, first = "", True
    with _alone(planned, tracker):
        opened = open_tracker(tracker, directory, planned.folder.root / EXPORTS / tracker)
        while True:
            planned = read_started(source)
            runs = selected(planned.plan, only)
            # Before the files are read: what a command writes until it ends is read.
            active = is_command_active(planned.folder)
            results = collect_results(planned.plan, planned.folder.root)
            waiting = _waited_for(results, runs)
            done = _exported(planned, tracker, opened, runs, None, results=results, growing=waiting)
            if first or any(run.added for run in done.runs):
                yield done
            first = False
            if not waiting and not active:
                return
            text = _waiting_words(waiting)
            if text != last_text:
                on_message(text)
                last_text = text
            time.sleep(FOLLOW_SECONDS if every_seconds is None else every_seconds)


def _waited_for(results: Sequence[RunResult], runs: Sequence[PlannedRun]) -> dict[str, RunStatus]:
    """Return the status of the runs that are not done."""
    names = {run.name for run in runs}
    return {each.name: each.status for each in results if each.name in names and each.status not in _DONE}


def _waiting_words(waiting: Mapping[str, RunStatus]) -> str:
    if not waiting:
        return "waiting for another command on this experiment, or a job in its queue"
    shown = [f"{name} ({_WAITS_FOR[status]})" for name, status in list(waiting.items())[:_NAMED]]
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    return f"waiting for {plural(len(waiting), 'run')}: {', '.join(shown)}{more}; Ctrl-C ends the export, and no run"


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
    *,
    results: Sequence[RunResult] | None = None,
    growing: Container[str] = (),
) -> Export:
    collected = collect_results(planned.plan, planned.folder.root) if results is None else results
    by_name = {result.name: result for result in collected}
    exported: list[Exported] = []
    skipped: list[str] = []
    for done, run in enumerate(runs):
        if on_progress is not None:
            on_progress(done, len(runs))
        metrics = read_metrics(planned.folder.run(run.name) / "metrics.jsonl")
        series = run_series(planned.plan, run, by_name[run.name], metrics, may_grow=run.name in growing)
        if not series.training and not series.evaluations:
            skipped.append(f"{run.name}: no step and no evaluation yet ({by_name[run.name].status.value})")
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
