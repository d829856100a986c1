"""Commands `status` and `status --watch`: one or repeated reads of folders and queue; they keep runs_status.yaml.

Imports are light because a thousand runs should be shown within a second.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import TouchlineError
from touchline.core.files import read_text_bounded, write_if_changed
from touchline.core.json_text import parse_json
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.data.metrics import StepRow
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.results.live_status import LiveRun, Opened, glances, jobs_to_ask, live
from touchline.results.run_folder import RunFolderState
from touchline.run.executors import Executor, executor_for
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, close_ended
from touchline.run.recorded import recorded_lines
from touchline.run.run_status import ENDED_WELL, started_and_completed
from touchline.slurm.job_view import JobName, JobView
from touchline.slurm.local.commands import CommandResult, Commands, RealCommands

FILES_SECONDS = 2.0
"""Seconds between two reads of the folders."""
FULL_SECONDS = 30.0
"""Seconds between two reads of finished run folders."""
GRACE_SECONDS = 10.0
"""Seconds without an active job after which watching ends; the next job may be about to start."""
PATIENCE_SECONDS = 20.0
"""Timeout of a query of the queue in seconds."""
_TO_DO = frozenset({RunStatus.PREPARED, RunStatus.PAUSED, RunStatus.TRAINED, RunStatus.INTERRUPTED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """State of all runs at one moment."""

    experiment: str
    runs: tuple[LiveRun, ...]
    note: str
    """Reason why the queue could not be queried; empty otherwise."""
    active: bool
    steps: Mapping[str, tuple[StepRow, ...]] = field(default_factory=dict)
    """Last steps of each run, as far as they were read."""
    strategy: str = ""
    """How far the strategy is, on one line; empty without one."""
    lines: tuple[str, ...] = ()
    """Overrides of the plan, and edits of experiment.yaml since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    plan: Plan
    folder: ExperimentFolder


class _Heard:
    """Commands wrapper that remembers the error of the last query."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self.trouble = ""

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        """Run one command. Skip further queries after a failed squeue, because they would fail too."""
        program = Path(words[0]).name if words else ""
        if program != "squeue" and self.trouble:
            return CommandResult(code=None, out="", err=self.trouble)
        limit = min(timeout_seconds, PATIENCE_SECONDS)
        answer = self._commands.run(words, timeout_seconds=limit, cwd=cwd, environment=environment, keep=keep)
        if program == "squeue":
            said = answer.err.strip().splitlines() or [f"squeue ended with {answer.code}"]
            self.trouble = "" if answer.ok else said[-1]
        return answer


class Watcher:
    """Repeated reads of one experiment with caching."""

    def __init__(
        self, source: Path, settings: UserConfig, *, look: bool = True, commands: Commands | None = None
    ) -> None:
        """Open the experiment.

        Args:
            look: query the executor.
            commands: runner of the scheduler's commands; those on PATH if None.

        Raises:
            InputError: there is no experiment, or no plan.
        """
        self.folder = ExperimentFolder(source)
        self._look = look
        self._heard = _Heard(commands or RealCommands())
        self._plan = self.folder.started_plan()
        self.poll_seconds = settings.slurm.poll_seconds
        self._executor: Executor | None = None
        self._views: dict[str, JobView] = {}
        self._finished: dict[str, RunFolderState] = {}
        self._asked = self._read_all = float("-inf")
        self._compared: tuple[tuple[int, ...], tuple[str, ...]] = (), ()

    def now(self) -> Snapshot:
        """Read the folders, and the queue if its polling interval has passed."""
        opened = _Opened(plan=self._current_plan(), folder=self.folder)
        seen = self._glances(opened)
        note = self._ask(jobs_to_ask(opened, seen)) if self._look else ""
        seen |= self._ended_meanwhile(opened, seen)
        runs = live(opened, self._views, seen)
        keep_current(opened, runs, seen)
        views = [view for run in runs for view in (run.job, run.evaluation) if view is not None]
        status = self.folder.strategy().status()
        return Snapshot(
            experiment=opened.plan.experiment,
            runs=tuple(runs),
            note=note,
            active=any(view.active for view in (*views, *self._views.values())),
            steps={name: found.recent.steps for name, found in seen.items()},
            strategy="" if status is None else status.line,
            lines=self._recorded_lines(),
        )

    def is_anything_left(self, snapshot: Snapshot) -> bool:
        """Return True if another command may be about to start a job."""
        return any(run.status in _TO_DO for run in snapshot.runs)

    def _glances(self, opened: _Opened) -> dict[str, RunFolderState]:
        if time.monotonic() - self._read_all >= FULL_SECONDS:
            self._finished, self._read_all = {}, time.monotonic()
        seen = glances(opened, self._finished)
        self._finished = {
            name: found
            for name, found in seen.items()
            if found.outcome is TrainingOutcome.COMPLETE and found.evaluated
            if found.attempts and found.attempts[-1].exit is not None
        }
        return seen

    def _ended_meanwhile(self, opened: _Opened, seen: Mapping[str, RunFolderState]) -> dict[str, RunFolderState]:
        """Re-read the folders of runs whose jobs have ended, perhaps since the folders were read."""
        over = {JobName.parse(name).subject for name, view in self._views.items() if not view.active}
        known = {name: found for name, found in seen.items() if name not in over}
        return glances(opened, known) if len(known) < len(seen) else {}

    def _ask(self, jobs: Sequence[Job]) -> str:
        """Query the executor about jobs, respecting the polling interval."""
        here = self._plan.executor == "local"
        if not jobs:
            self._views = {}
            return ""
        if not here and time.monotonic() - self._asked < self.poll_seconds:
            return self._note()
        self._asked = time.monotonic()
        try:
            self._views = dict(self._chosen().query_jobs(jobs))
            if not here:
                # Somebody who may only read looks too.
                with contextlib.suppress(OSError, TouchlineError):
                    close_ended(Ledger(self.folder.ledger, self._plan.executor), self._views)
        except TouchlineError as fault:
            self._heard.trouble = fault.message
        return self._note()

    def _note(self) -> str:
        if not self._heard.trouble:
            return ""
        return f"cannot query the queue ({self._heard.trouble}), showing files only"

    def _chosen(self) -> Executor:
        if self._executor is None:
            self._executor = executor_for(self._plan, self.folder, self.poll_seconds, self._heard)
        return self._executor

    def _recorded_lines(self) -> tuple[str, ...]:
        """Return the lines about overrides and edits; both files are compared again only if one was written."""
        with contextlib.suppress(OSError):
            written = tuple(path.stat().st_mtime_ns for path in (self.folder.yaml, self.folder.plan_json))
            if written != self._compared[0]:
                self._compared = written, tuple(recorded_lines(self.folder, self.folder.planned()))
        return self._compared[1]

    def _current_plan(self) -> Plan:
        found = self.folder.started_plan()
        if found is not self._plan:
            self._plan, self._finished = found, {}
        return self._plan


def status(
    source: Path, settings: UserConfig, *, look: bool = True, on_message: MessageCallback | None = None
) -> list[LiveRun]:
    """Return the current state of every run.

    Args:
        look: query the executor; otherwise only files are read.
        on_message: called with the reason why the queue could not be queried, the overrides of the plan, and edits of
            experiment.yaml since.

    Raises:
        InputError: there is no experiment, or no plan.
    """
    snapshot = Watcher(source, settings, look=look).now()
    for line in (snapshot.note, *snapshot.lines):
        if line and on_message is not None:
            on_message(line)
    return list(snapshot.runs)


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
    from touchline.results.status_files import run_metrics, run_metrics_text, runs_status_text

    parts: dict[str, str] = {}
    for result in collect_results(replace(opened.plan, runs=tuple(due)), opened.folder.root):
        metrics = run_metrics(result)
        write_if_changed(seen[result.name].folder / "run_metrics.yaml", run_metrics_text(metrics))
        parts[result.name] = runs_status_text("", [metrics]).partition("  - name: ")[2]
    return parts


def _is_due(folder: Path) -> bool:
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
