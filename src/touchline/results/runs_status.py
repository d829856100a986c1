"""runs_status.yaml as `status` keeps it: the runs' states, and the measurements of those that have ended since."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.core.files import read_text_bounded, write_if_changed
from touchline.core.json_text import parse_json
from touchline.experiment.plan import PlannedRun
from touchline.results.live_status import LiveRun, Opened
from touchline.results.run_folder import RunFolderState
from touchline.run.run_status import ENDED_WELL, started_and_completed

AT_ONCE = 8
"""Maximum number of runs whose measurements are collected per call, about ten milliseconds each."""
_LIMIT_BYTES = 1 << 28
_HEADERS = ("# Status and measurements of every run", "# How every run of this experiment")
"""Begin of the first line, also in files of version 0.1.0."""
_PART = re.compile(r"^  - name: ", re.MULTILINE)
_STANDING = re.compile(r"^    (status|slurm_job_id|started|completed): .*$", re.MULTILINE)


def keep_current(opened: Opened, runs: Sequence[LiveRun], seen: Mapping[str, RunFolderState]) -> bool:
    """Update runs_status.yaml. Return True if it was written.

    A file that is missing or holds other runs is left to `prepare` and `collect`; so is one that this user may not
    write.
    """
    path = opened.folder.root / "runs_status.yaml"
    with contextlib.suppress(OSError, TouchlineError, UnicodeDecodeError):
        if path.stat().st_size > _LIMIT_BYTES:
            return False
        split = split_status(read_text_bounded(path, _LIMIT_BYTES))
        if split is None or list(split[1]) != [run.name for run in runs]:
            return False
        head, parts = split
        parts |= _collected(opened, runs, seen)
        for run in runs:
            parts[run.name] = _current(parts[run.name], run, seen[run.name])
        return write_if_changed(path, joined_status(head, parts))
    return False


def _current(part: str, run: LiveRun, found: RunFolderState) -> str:
    attempts = found.attempts
    view = run.job or run.evaluation
    started, completed = started_and_completed(attempts, run.status)
    return with_standing(
        part,
        status=run.status.value,
        job_id=view.job_id or None if view is not None else attempts[-1].start.job_id if attempts else None,
        started=started,
        completed=completed,
    )


def _collected(opened: Opened, runs: Sequence[LiveRun], seen: Mapping[str, RunFolderState]) -> dict[str, str]:
    """Return the parts of runs that ended since their last collection, and write their run_metrics.yaml."""
    due: list[PlannedRun] = []
    for run in runs:
        planned = opened.plan.run(run.name) if len(due) < AT_ONCE and run.status in ENDED_WELL else None
        if planned is not None and planned.batches is not None and _is_due(seen[run.name].folder):
            due.append(planned)
    if not due:
        return {}
    # What reads and compares whole runs is loaded when a run has ended, and not before.
    from touchline.results.collect import collect_results
    from touchline.results.collecting import run_metrics, run_metrics_text, runs_status_text

    parts: dict[str, str] = {}
    for result in collect_results(replace(opened.plan, runs=tuple(due)), opened.folder.root):
        metrics = run_metrics(result)
        write_if_changed(seen[result.name].folder / "run_metrics.yaml", run_metrics_text(metrics))
        parts[result.name] = runs_status_text("", [metrics]).partition("  - name: ")[2]
    return parts


def _is_due(folder: Path) -> bool:
    """Return True if a run's measurements are older than its files."""
    try:
        measured = max((folder / name).stat().st_mtime_ns for name in ("metrics.jsonl", "training.json"))
    except OSError:
        return False
    try:
        return (folder / "run_metrics.yaml").stat().st_mtime_ns < measured
    except OSError:
        return True


def split_status(text: str) -> tuple[str, dict[str, str]] | None:
    """Split a generated runs_status.yaml into its head and each run's part by name; None for other text."""
    head, *parts = _PART.split(text)
    if not head.startswith(_HEADERS) or not parts:
        return None
    found: dict[str, str] = {}
    for part in parts:
        try:
            found[parse_json(part.partition("\n")[0])] = part
        except (ValueError, TypeError):
            return None
    return head, found


def joined_status(head: str, parts: Mapping[str, str]) -> str:
    """Return the joined text."""
    return head + "".join(f"  - name: {part}" for part in parts.values())


def with_standing(part: str, *, status: str, job_id: str | None, started: str | None, completed: str | None) -> str:
    """Return a run's part with another status; its measurements stay unchanged."""
    values = {"status": status, "slurm_job_id": job_id, "started": started, "completed": completed}
    lines = {key: f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()}
    return _STANDING.sub(lambda match: f"    {lines.pop(match[1])}" if match[1] in lines else match[0], part)
