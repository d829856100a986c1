"""Folders that another tool made: the status of their runs. There is no plan, and nothing is written into them."""

from __future__ import annotations

from pathlib import Path

from touchline.core.quantity import Missing
from touchline.report.local.gathering import collect_report_inputs
from touchline.results.live import LiveRun
from touchline.results.run_result import RunResult
from touchline.results.watching import Snapshot

UNKNOWN = "another tool made this folder: no plan, queue and time limit are known; states are those of its logs"
"""Reason why some properties of such runs are unknown."""
_NOT_PLANNED = Missing(missing="nothing was planned here")


def snapshot(source: Path) -> Snapshot:
    """Return the status of the runs in a folder, based on their logs.

    Raises:
        InputError: the folder holds no run.
    """
    found = collect_report_inputs(source)
    runs = tuple(_live(run) for run in found.runs)
    return Snapshot(experiment=found.experiment, runs=runs, note=UNKNOWN, active=False)


def _live(run: RunResult) -> LiveRun:
    return LiveRun(
        name=run.name,
        kind=run.kind,
        status=run.status,
        job_state=run.job_state,
        job=None,
        evaluation=None,
        attempts=run.attempts,
        steps_done=run.steps_done,
        steps_planned=run.steps_planned,
        loss=run.final_train_loss,
        tokens_per_second=run.tokens_per_second,
        memory=run.peak_memory,
        seconds_left=_NOT_PLANNED,
        queue_reason="",
        flags=(),
    )
