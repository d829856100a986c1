"""`status` and `status --watch`: the folders and the queue, looked at once, or again and again while a job is at work.

Nothing heavy is loaded here, because the answer for a thousand runs is expected within a second.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import TouchlineError
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.data.user_config import UserConfig
from touchline.results.live import LiveRun
from touchline.results.live_status import glances, jobs_to_ask, live
from touchline.results.run_folder import RunFolderState
from touchline.results.status_file import keep_current
from touchline.run.executors import executor_for
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import Ledger, close_ended
from touchline.run.protocol import Executor, Job
from touchline.slurm.job_view import JobName, JobView
from touchline.slurm.local.commands import Answer, Commands, RealCommands
from touchline.spec.plan import Plan

FILES_SECONDS = 2.0
"""Between two looks at the folders."""
FULL_SECONDS = 30.0
"""Between two looks at the folders of runs that are finished."""
GRACE_SECONDS = 10.0
"""How long nothing must be at work before a watch ends: the next job may be about to start."""
PATIENCE_SECONDS = 20.0
"""How long somebody who looks waits for one of SLURM's commands."""
_TO_DO = frozenset({RunStatus.PREPARED, RunStatus.TRAINED, RunStatus.INTERRUPTED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All runs at one moment."""

    experiment: str
    """The experiment's name."""
    runs: tuple[LiveRun, ...]
    """The runs, in the plan's order."""
    note: str
    """Why the queue could not be asked; empty when it was, or need not be."""
    active: bool
    """Whether any job may still do something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    plan: Plan
    folder: ExperimentFolder


class _Heard:
    """The real commands, and what went wrong with the last question."""

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
    ) -> Answer:
        """Run one command. Behind a squeue that failed nothing is asked: it would be waited for in vain."""
        program = Path(words[0]).name if words else ""
        if program != "squeue" and self.trouble:
            return Answer(code=None, out="", err=self.trouble)
        limit = min(timeout_seconds, PATIENCE_SECONDS)
        answer = self._commands.run(words, timeout_seconds=limit, cwd=cwd, environment=environment, keep=keep)
        if program == "squeue":
            said = answer.err.strip().splitlines() or [f"squeue ended with {answer.code}"]
            self.trouble = "" if answer.ok else said[-1]
        return answer


class Watcher:
    """One experiment, looked at as often as one likes; it keeps what need not be read again."""

    def __init__(
        self, source: Path, settings: UserConfig, *, look: bool = True, commands: Commands | None = None
    ) -> None:
        """Open the experiment.

        Args:
            source: experiment.yaml or its folder.
            settings: how often a queue may be asked.
            look: whether to ask the executor at all.
            commands: what runs SLURM's commands; those on PATH when None.

        Raises:
            InputError: there is no experiment, or no plan.
        """
        self.folder = ExperimentFolder(source)
        self.poll_seconds = settings.slurm.poll_seconds
        self._look = look
        self._heard = _Heard(commands or RealCommands())
        self._stamp = (0, 0)
        self._plan = self._read()
        self._executor: Executor | None = None
        self._views: dict[str, JobView] = {}
        self._finished: dict[str, RunFolderState] = {}
        self._asked = self._read_all = float("-inf")

    def now(self) -> Snapshot:
        """Look at the folders, and at the queue where it is time to."""
        opened = _Opened(plan=self._current_plan(), folder=self.folder)
        seen = self._glances(opened)
        note = self._ask(jobs_to_ask(opened, seen)) if self._look else ""
        seen |= self._ended_meanwhile(opened, seen)
        runs = live(opened, self._views, seen)
        keep_current(opened, runs, seen)
        views = [view for run in runs for view in (run.job, run.evaluation) if view is not None]
        return Snapshot(
            experiment=opened.plan.experiment,
            runs=tuple(runs),
            note=note,
            active=any(view.active for view in (*views, *self._views.values())),
        )

    def is_anything_left(self, snapshot: Snapshot) -> bool:
        """Whether somebody may be about to start another job."""
        return any(run.status in _TO_DO for run in snapshot.runs)

    def _glances(self, opened: _Opened) -> dict[str, RunFolderState]:
        """All folders; those of finished runs now and then."""
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
        """Runs whose jobs are over, and were perhaps not when their folders were read: these are read again."""
        over = {JobName.parse(name).subject for name, view in self._views.items() if not view.active}
        known = {name: found for name, found in seen.items() if name not in over}
        return glances(opened, known) if len(known) < len(seen) else {}

    def _ask(self, jobs: Sequence[Job]) -> str:
        """Ask the executor about jobs, not more often than it may be asked."""
        here = self._plan.executor == "local"
        if not jobs:
            self._views = {}
            return ""
        if not here and time.monotonic() - self._asked < self.poll_seconds:
            return self._note()
        self._asked = time.monotonic()
        try:
            self._views = dict(self._chosen().look(jobs))
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
        return f"the queue does not answer ({self._heard.trouble}); shown is what the folders say"

    def _chosen(self) -> Executor:
        if self._executor is None:
            self._executor = executor_for(self._plan, self.folder, self.poll_seconds, self._heard)
        return self._executor

    def _current_plan(self) -> Plan:
        """The plan, read again when somebody has planned again."""
        found = self.folder.plan_json.stat()
        if (found.st_mtime_ns, found.st_size) != self._stamp:
            self._plan, self._finished = self._read(), {}
        return self._plan

    def _read(self) -> Plan:
        found = self.folder.planned()
        stat = self.folder.plan_json.stat()
        self._stamp = (stat.st_mtime_ns, stat.st_size)
        return found


def status(
    source: Path, settings: UserConfig, *, look: bool = True, on_message: MessageCallback | None = None
) -> list[LiveRun]:
    """How every run stands at this moment.

    Args:
        source: experiment.yaml or its folder.
        settings: the user's settings.
        look: whether to ask the executor; else the folders alone tell.
        on_message: receives why the queue could not be asked.

    Raises:
        InputError: there is no experiment, or no plan.
    """
    snapshot = Watcher(source, settings, look=look).now()
    if snapshot.note and on_message is not None:
        on_message(snapshot.note)
    return list(snapshot.runs)
