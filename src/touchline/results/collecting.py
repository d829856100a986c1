"""Collection of run folders: status files are written, and finished runs become records of the history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.errors import TouchlineError
from touchline.core.files import write_if_changed
from touchline.core.status import RunStatus
from touchline.data.user_config import UserConfig
from touchline.results.run_result import RunResult
from touchline.results.status_files import RunMetrics, run_metrics, run_metrics_text, runs_status_text
from touchline.run.loaded_plan import LoadedPlan

if TYPE_CHECKING:
    from touchline.history.index import IndexLine

_TEACHES = frozenset(
    {
        RunStatus.TRAINED,
        RunStatus.COMPLETED,
        RunStatus.COMPLETED_FAILED_EXIT,
        RunStatus.FAILED,
        RunStatus.INTERRUPTED,
        RunStatus.CUT,
    }
)
"""Statuses of ended runs; a resumed run replaces its earlier record."""


def write_collected(planned: LoadedPlan, results: Sequence[RunResult]) -> list[RunMetrics]:
    """Write both kinds of files if they differ. Return their content."""
    found: list[RunMetrics] = []
    for result in results:
        run = planned.plan.run(result.name)
        if run is None:
            continue
        folder = planned.folder.run(run.name)
        metrics = run_metrics(result)
        found.append(metrics)
        if folder.is_dir() and metrics.started is not None:
            write_if_changed(folder / "run_metrics.yaml", run_metrics_text(metrics))
    write_if_changed(planned.folder.root / "runs_status.yaml", runs_status_text(planned.plan.experiment, found))
    return found


def store_finished_runs(
    planned: LoadedPlan, results: Sequence[RunResult], settings: UserConfig
) -> tuple[list[Path], list[str]]:
    """Put the runs that are over into the history; give the records' files, and what could not be kept.

    A history that cannot be written fails no run: what was learned can be collected again.
    """
    # The readers of every trainer's logs are loaded when there is something to learn, and not before.
    from touchline.history.adding import as_latest
    from touchline.history.index import load_index
    from touchline.history.record import RunRecord
    from touchline.history.records import store_record
    from touchline.results.record_builder import record_of_own

    kept: list[Path] = []
    notes: list[str] = []
    lines: list[IndexLine] | None = None
    for result in results:
        run = planned.plan.run(result.name)
        if run is None or run.train is None or result.status not in _TEACHES:
            continue
        record = record_of_own(planned.plan, run, planned.folder.run(run.name), result)
        if not isinstance(record, RunRecord):
            continue
        try:
            if lines is None:
                lines = list(load_index(settings.history_dir).lines.values())
            # The same training may have been evaluated since it was stored.
            kept.append(store_record(settings.history_dir, as_latest(lines, record)))
        except (TouchlineError, OSError) as fault:
            notes.append(f"{run.name} is not in the history: {fault}")
    return kept, notes
