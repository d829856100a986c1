"""Status of a run. The scheduler's state, the training's outcome and the run's status are three facts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

KILLED = "killed (no exit record)"
"""Reason of an end that no exit record explains."""


class JobState(StrEnum):
    """SLURM's words, and UNKNOWN; the local executor uses the same."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    SUSPENDED = "SUSPENDED"
    REQUEUED = "REQUEUED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    DEADLINE = "DEADLINE"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    PREEMPTED = "PREEMPTED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    UNKNOWN = "UNKNOWN"

    @property
    def ended(self) -> bool:
        """Return True if a job in this state has ended; UNKNOWN and unknown words do not count as ended."""
        return self in _ENDED


_ENDED = frozenset(
    {
        *(JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT, JobState.DEADLINE),
        *(JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.PREEMPTED, JobState.OUT_OF_MEMORY),
    }
)


EXIT_STOPPED = 75
"""The work saved its state and ended because it was asked to; the same command continues from there."""
EXIT_ALREADY_RUNNING = 76
"""Another attempt holds the folder; this one did nothing."""
EXIT_PARENT_NOT_READY = 77
"""Exit code for a missing input: the parent's artifacts or the training to evaluate."""
EXIT_LINEAGE = 78
"""The parent is not what its records say; nothing was trained on it."""
EXIT_OUT_OF_MEMORY = 79
"""The work did not fit into memory."""
EXIT_DIVERGED = 80
"""The loss or the gradient norm was not finite."""

HEARTBEAT_STALE_SECONDS = 120.0
"""Age from which a heartbeat is stale. One is written every 5 s, but a network file system shows it late."""


def is_fresh(heartbeat_unix: float | None, now_unix: float) -> bool:
    """Return True if a heartbeat is recent. One from the future is not: the clock that wrote it is wrong."""
    return heartbeat_unix is not None and abs(now_unix - heartbeat_unix) <= HEARTBEAT_STALE_SECONDS


class EndReason(StrEnum):
    """Way in which an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    """It was asked to end by a signal other than SIGUSR1, and saved its state."""
    TIME_LIMIT_SIGNAL = "time limit signal"
    """The scheduler sent SIGUSR1: job scripts request that signal shortly before the time limit, for nothing else."""
    TIME_LIMIT = "time limit"
    """This machine ended it at its time limit."""
    ALREADY_RUNNING = "already running"
    """Another attempt holds the run; this one did nothing."""
    PAUSED = "paused"
    """The training saved its state at a step where it was asked to pause."""

    @property
    def is_requested(self) -> bool:
        """True if the attempt was asked to end."""
        return self in (EndReason.STOPPED, EndReason.TIME_LIMIT_SIGNAL, EndReason.TIME_LIMIT)

    @classmethod
    def of_words(cls, words: str) -> EndReason:
        """Return the reason that the words of an exit file of version 0.1.0 stand for."""
        return next((reason for prefix, reason in _WORDS_OF_0_1_0 if words.startswith(prefix)), cls.FAILED)


_WORDS_OF_0_1_0 = (
    ("completed", EndReason.COMPLETED),
    ("stopped by SIGUSR1", EndReason.TIME_LIMIT_SIGNAL),
    ("stopped at its time limit", EndReason.TIME_LIMIT),
    ("stopped", EndReason.STOPPED),
    ("another attempt", EndReason.ALREADY_RUNNING),
)


class TrainingOutcome(StrEnum):
    """Outcome by the artifacts, whatever the exit code."""

    NOT_STARTED = "not started"
    PARTIAL = "partial"
    PAUSED = "paused"
    """It has reached the step at which it was asked to pause, and saved its state."""
    COMPLETE = "complete"


class Outcome(StrEnum):
    """Outcome of a run, by the evidence."""

    COMPLETED = "completed"
    RUNNING_OR_TRUNCATED = "running_or_truncated"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    HOST_OOM = "host_oom"
    GPU_OOM = "gpu_oom"
    DISK_QUOTA = "disk_quota"
    CRASH_START = "crash_start"
    CRASH_MID = "crash_mid"
    CRASH_EVAL = "crash_eval"
    CRASH_EXPORT = "crash_export"
    DIVERGED_NAN = "diverged_nan"


class TrainingEnd(StrEnum):
    """Orderly end of an attempt at a training."""

    DONE = "done"
    PAUSED = "paused"
    """It has reached the step at which it was asked to pause."""
    STOPPED = "stopped"
    """It was asked to stop by a signal."""
    DIVERGED = "diverged"
    """The loss or the gradient norm of a step is not finite."""


class RunStatus(StrEnum):
    """Derived from both, and from the evaluations; never edited by hand."""

    PLANNED = "planned"
    PREPARED = "prepared"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    """Trained to the step at which runs are compared."""
    CUT = "cut"
    """Its strategy ended it by its validation loss. It keeps its checkpoints and enters no test."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    TRAINED = "trained"
    COMPLETED = "completed"
    COMPLETED_FAILED_EXIT = "completed, failed exit"

    @property
    def is_complete(self) -> bool:
        """Return True if a run is trained and evaluated, regardless of its jobs' exit codes."""
        return self in (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStart:
    """status/start.<job>.<restart>.json: an attempt began."""

    job_id: str
    """SLURM's job id, or `local-<token>`."""
    restart: int
    """Number of requeues by SLURM."""
    token: str
    """The token of the intent in the ledger, or empty when started by hand."""
    host: str
    """Node name."""
    boot_id: str
    """The machine's boot; a pid means nothing after another boot."""
    pid: int
    """The supervisor's process."""
    pid_started: float
    """When that process began, as the kernel says; a bare pid lies."""
    time_unix: float
    """Time of writing, in seconds since 1970."""
    folder: str = ""
    """Absolute path of its status folder; empty in files of version 0.1.0. A copied experiment has another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptExit:
    """status/exit.<job>.<restart>.json: an attempt ended, and how."""

    job_id: str
    """The job."""
    restart: int
    """Its restart."""
    code: int
    """Exit code of the work; 128 + n for signal n."""
    reason: str
    """Words for the user: `completed`, `failed`, `stopped by SIGTERM`, `another attempt holds the run`."""
    time_unix: float
    """Time of writing."""
    end: EndReason | None = None
    """The same for programs. Files of version 0.1.0 hold the words alone; it is derived from them then."""
    elapsed_seconds: float | None = None
    """Seconds from the supervisor's start to its end, by a clock that does not jump; None in older files."""

    @property
    def ended_by(self) -> EndReason:
        """Way in which the attempt ended."""
        return EndReason.of_words(self.reason) if self.end is None else self.end

    @property
    def state(self) -> JobState:
        """Job state that corresponds to this end."""
        if self.code == 0:
            return JobState.COMPLETED
        if self.code == EXIT_OUT_OF_MEMORY:
            return JobState.OUT_OF_MEMORY
        if self.ended_by in (EndReason.TIME_LIMIT, EndReason.TIME_LIMIT_SIGNAL):
            return JobState.TIMEOUT
        return JobState.CANCELLED if self.ended_by is EndReason.STOPPED else JobState.FAILED


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Attempt at a job, built from its files."""

    start: AttemptStart
    exit: AttemptExit | None
    """Exit record; None while it runs, or if it was killed without one."""
    heartbeat_unix: float | None
    """Its last heartbeat."""
    alive: bool | None
    """Whether its process is there; none when it is on another machine."""

    @property
    def state(self) -> JobState:
        """The attempt's state in SLURM's words."""
        if self.exit is not None:
            return self.exit.state
        if self.alive is None:
            return JobState.UNKNOWN
        return JobState.RUNNING if self.alive else JobState.FAILED

    @property
    def elapsed_seconds(self) -> float | None:
        """Seconds until its end, else until its last heartbeat; None if there is neither."""
        if self.exit is not None and self.exit.elapsed_seconds is not None:
            return self.exit.elapsed_seconds
        end = self.heartbeat_unix if self.exit is None else self.exit.time_unix
        return None if end is None else max(end - self.start.time_unix, 0.0)
