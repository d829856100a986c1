"""Executor of a plan: SLURM, or this machine, where each job has its own session and outlives the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from touchline.core.errors import HostError
from touchline.core.files import disk_errors, open_append
from touchline.core.status import KILLED, Attempt, JobState
from touchline.experiment.plan import Plan
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job
from touchline.run.run_status import view_of_attempt
from touchline.run.statusfiles import identity_of, read_attempts, send_signal
from touchline.run.tails import read_text_tail
from touchline.slurm.job_view import JobView, out_of_memory_line
from touchline.slurm.local.commands import Commands

_TAIL_BYTES = 1 << 16


class LocalExecutor:
    """Executor that runs the job scripts on this machine."""

    name = "local"
    waits_itself = False
    find = None
    trouble = ""
    tick_seconds = 0.2

    def __init__(self) -> None:
        self._children: dict[Path, tuple[str, subprocess.Popen[bytes]]] = {}

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Start a job; its id is `local-<token>`. Its dependencies have ended, which the queue ensures."""
        del after
        job_id = f"local-{token}"
        output = job.output_path(job_id)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        environment |= {"TOUCHLINE_JOB_ID": job_id, "TOUCHLINE_TOKEN": token} | job.environment
        if job.time_limit_seconds is not None:
            environment["TOUCHLINE_TIME_LIMIT_SECONDS"] = f"{job.time_limit_seconds:.0f}"
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        with disk_errors("output", output), os.fdopen(open_append(output), "ab") as stream:
            try:
                child = subprocess.Popen(  # noqa: S603 (a list of our own words)
                    list(job.command),
                    cwd=job.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise HostError(f"cannot start {job.command[0]!r}: not found", expected="bash on PATH") from error
        self._children[job.status] = job_id, child
        return job_id

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """Return job views from status/, and for own children also from their processes, which live first."""
        found = {job.name: self._view(job) for job in jobs}
        return {name: view for name, view in found.items() if view is not None}

    def _view(self, job: Job) -> JobView | None:
        job_id, child = self._children.get(job.status, ("", None))
        alive = child is not None and child.poll() is None
        attempts = read_attempts(job.status)
        living = [attempt for attempt in attempts if attempt.exit is None and attempt.alive]
        if alive or living:
            newest = next(reversed((*attempts, *living)), None)
            own_id = "" if newest is None else newest.start.job_id
            return JobView(job_id=own_id, state=JobState.RUNNING, active=True, source="process")
        own = [attempt for attempt in attempts if attempt.start.job_id == job_id]
        if child is not None and all(attempt.exit is None for attempt in own):
            killed = child.returncode == -signal.SIGKILL
            return JobView(
                job_id=job_id,
                state=_killed(job, job_id) if killed else JobState.FAILED,
                active=False,
                source="process",
                exit_code=child.returncode,
                reason=KILLED if own or killed else "ended before it began (see its output)",
            )
        return _told(job, attempts[-1]) if attempts else None

    def stop(self, jobs: Sequence[Job]) -> None:
        """Send TERM to the supervisors, which pass it on."""
        for job in jobs:
            _, child = self._children.get(job.status, ("", None))
            if child is not None and child.poll() is None:
                child.send_signal(signal.SIGTERM)
                continue
            for attempt in read_attempts(job.status):
                if attempt.exit is None and attempt.alive:
                    send_signal(identity_of(attempt.start), signal.SIGTERM)


def _told(job: Job, attempt: Attempt) -> JobView:
    """Return the view of an attempt that has ended, or runs on another machine."""
    end = attempt.exit
    state = attempt.state
    if (end is None and attempt.alive is False) or (end is not None and end.code == 128 + signal.SIGKILL):
        state = _killed(job, attempt.start.job_id)
    view = view_of_attempt(attempt, state, KILLED if end is None else end.reason)
    return replace(view, active=False, source="process" if end is None else "exit file")


def _killed(job: Job, job_id: str) -> JobState:
    """Return OUT_OF_MEMORY if the output of a killed job shows it, else UNKNOWN."""
    tail = read_text_tail(job.output_path(job_id), _TAIL_BYTES)
    return JobState.UNKNOWN if out_of_memory_line(tail) is None else JobState.OUT_OF_MEMORY


def executor_for(
    plan: Plan, folder: ExperimentFolder, poll_seconds: float, commands: Commands, lock: int | None = None
) -> Executor:
    """Return the executor; nothing is started or queried yet.

    Args:
        poll_seconds: minimum interval of queue queries.
        lock: descriptor of the experiment lock, inherited by started programs.
    """
    if plan.executor == "local":
        return LocalExecutor()
    # It loads what it needs when it is wanted.
    from touchline.run.slurm import SlurmExecutor

    return SlurmExecutor(commands, folder.ledger, poll_seconds=poll_seconds, lock=lock)


Find = Callable[[Sequence[str], float], Mapping[str, str]]


class Executor(Protocol):
    """Executor of jobs that derives their state from files, independent of who started them."""

    name: str
    """`local` or `slurm`."""
    waits_itself: bool
    """Whether it is a scheduler: it holds jobs back until their dependencies have ended, and its jobs outlive the
    command. Otherwise the command's queue does this, and stops running jobs.
    """
    tick_seconds: float
    """Seconds between two turns of a queue."""

    @property
    def trouble(self) -> str:
        """Error of the last query; empty if it succeeded."""
        ...

    @property
    def find(self) -> Find | None:
        """Search for jobs by the tokens of their submissions since a time; None if no start can be unclear.

        It returns ids by token, and raises SubmissionUnknownError without an answer.
        """
        ...

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Start a job. Return its id; `token` is in the ledger already, so a start is never forgotten.

        Args:
            token: passed to the scheduler, to find the job after an unclear answer.
            gpus: ids of local GPUs; a scheduler assigns its own.
            after: ids of jobs that must have ended first.

        Raises:
            SubmissionRejectedError: the scheduler refused, and nothing was started.
            SubmissionLimitError: too many jobs now; a later try may succeed.
            SubmissionUnknownError: it is unknown whether the job was started.
            HostError: it cannot be started here.
        """
        ...

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """Return the view of the last job of each name; without an entry there was none, as far as known.

        One query covers all jobs. If it fails, the last known state is returned as active.
        """
        ...

    def stop(self, jobs: Sequence[Job]) -> None:
        """Ask running jobs to save and end, and remove queued ones."""
        ...
