"""Jobs of the fake SLURM, what they do, the clock that they live by, and what squeue and sacct of 22.05 print of them.

What a job does is a `Work`; when it starts, is told to stop, dies with its node or is queued again follows SLURM 22.05
as it was watched (tests/slurm/transcripts.json). Time is the clock's `true` time; a login node's clock may be wrong.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED")
NEVER = math.inf


class SimClock:
    """A clock that stands still until somebody sleeps."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.true = start
        """Seconds since 1970, as the cluster's nodes have it."""
        self.ahead = 0.0
        """By how much the login node's clock is wrong."""
        self.passing: list[Callable[[float], None]] = []
        """Called when time has passed."""

    def now(self) -> float:
        """Seconds since 1970, as the login node has it."""
        return self.true + self.ahead

    def monotonic(self) -> float:
        return self.true

    def sleep(self, seconds: float) -> None:
        self.go(seconds)

    def go(self, seconds: float) -> None:
        """Let time pass, and what is due in it happen."""
        end = self.true + max(0.0, seconds)
        for each in self.passing:
            each(end)
        self.true = end


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    code: int
    signal: int = 0
    """The signal that ended it."""


class Work(Protocol):
    def due(self) -> float: ...

    def run(self, now: float) -> End | None:
        """Go on; how it ended, if it has."""
        ...

    def signal(self, name: str, now: float) -> None:
        """TERM or USR1 arrives; it goes on at `due()`."""
        ...

    def vanish(self, now: float) -> None:
        """It is killed: with SIGKILL, or with its node."""
        ...


@dataclass(kw_only=True, slots=True)
class Life:
    """One time that a job was queued; a requeue begins another."""

    submitted: float
    started: float | None = None
    ended: float | None = None
    state: str = "PENDING"
    reason: str = "None"
    node: str = ""
    end: End = field(default_factory=lambda: End(code=0))


@dataclass(kw_only=True, slots=True)
class FakeJob:
    raw: int | str
    """Its id; of an array task or a step a text such as `14_3` or `20.1`."""
    name: str
    comment: str
    folder: Path
    script: Path
    text: str
    line: str
    partition: str
    qos: str
    limit_seconds: float
    requeue: bool
    gpus: int
    node_wanted: str = ""
    depends: list[str] = field(default_factory=list)
    """Ids of the jobs that must have ended first, however they end."""
    begin: float = 0.0
    held: bool = False
    signal_seconds: float | None = None
    restarts: int = 0
    life: Life
    earlier: list[Life] = field(default_factory=list)
    work: Work | None = None
    start_due: float = NEVER
    limit_at: float = NEVER
    warn_at: float = NEVER
    kill_at: float = NEVER
    done_at: float = NEVER
    after: str = ""
    """What it becomes when COMPLETING is over; `REQUEUE` puts it into the queue again."""
    listed: bool = True
    impossible: str = ""
    """Why it can never start."""
    placed: bool = False
    """A test says how it stands, and time changes nothing."""

    @property
    def taken(self) -> float:
        return self.earlier[0].submitted if self.earlier else self.life.submitted

    @property
    def state(self) -> str:
        return self.life.state

    @property
    def active(self) -> bool:
        return self.life.state in ACTIVE


Row = tuple[FakeJob, Life]
"""One line of a listing: a job, and how it stood."""


def _span(seconds: float) -> str:
    """`1-02:03:04`, `1:00:00` or `0:05` as squeue writes it."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _when(time: float | None, none: str = "N/A") -> str:
    return none if time is None else f"{int(time)}"


def _start(job: FakeJob, life: Life) -> float | None:
    if life.started is not None:
        return life.started
    if life.state == "CANCELLED":
        return life.ended
    return job.begin or None


def _end(job: FakeJob, life: Life) -> float | None:
    if life.ended is not None:
        return life.ended
    start = _start(job, life)
    return None if start is None else start + job.limit_seconds


_SQUEUE: dict[str, tuple[str, Callable[[FakeJob, Life], str]]] = {
    "jobarrayid": ("JOBID", lambda job, life: str(job.raw)),
    "jobid": ("JOBID", lambda job, life: str(job.raw).replace("_", "")),
    "arrayjobid": ("ARRAY_JOB_ID", lambda job, life: str(job.raw).partition("_")[0]),
    "arraytaskid": ("ARRAY_TASK_ID", lambda job, life: str(job.raw).partition("_")[2] or "N/A"),
    "state": ("STATE", lambda job, life: life.state),
    "reason": ("REASON", lambda job, life: life.reason),
    "comment": ("COMMENT", lambda job, life: job.comment or "(null)"),
    "name": ("NAME", lambda job, life: job.name),
    "workdir": ("WORK_DIR", lambda job, life: str(job.folder)),
    "command": ("COMMAND", lambda job, life: str(job.script)),
    "submittime": ("SUBMIT_TIME", lambda job, life: _when(life.submitted)),
    "starttime": ("START_TIME", lambda job, life: _when(_start(job, life))),
    "endtime": ("END_TIME", lambda job, life: _when(_end(job, life))),
    "timelimit": ("TIME_LIMIT", lambda job, life: _span(job.limit_seconds)),
    "partition": ("PARTITION", lambda job, life: job.partition),
    "nodelist": ("NODELIST", lambda job, life: life.node),
    "restartcnt": ("RESTART_COUNT", lambda job, life: str(job.restarts)),
    "exit_code": ("EXIT_CODE", lambda job, life: str(life.end.code * 256 + life.end.signal)),
}


def squeue_lines(rows: Sequence[Row], names: str) -> str:
    """Standard output of squeue --Format; each field ends with what follows its colon."""
    fields = [field.partition(":") for field in names.split(",")]
    known = [(*_SQUEUE[name.lower()], tail) for name, _, tail in fields]
    lines = ["".join(header + tail for header, _, tail in known)]
    lines += ["".join(value(job, life) + tail for _, value, tail in known) for job, life in rows]
    return "".join(f"{line}\n" for line in lines)


_SACCT: dict[str, Callable[[FakeJob, Life], str]] = {
    "JobID": lambda job, life: str(job.raw),
    "JobIDRaw": lambda job, life: str(job.raw),
    "JobName": lambda job, life: job.name.replace('"', "`"),
    "State": lambda job, life: "CANCELLED by 0" if life.state == "CANCELLED" else life.state,
    "ExitCode": lambda job, life: _exit_text(life),
    "Submit": lambda job, life: _when(life.submitted),
    "Start": lambda job, life: _when(life.started, "Unknown" if life.ended is None else "None"),
    "End": lambda job, life: _when(life.ended, "Unknown"),
    "TimelimitRaw": lambda job, life: str(int(job.limit_seconds // 60)),
    "Partition": lambda job, life: job.partition,
    "NodeList": lambda job, life: life.node or "None assigned",
    "WorkDir": lambda job, life: str(job.folder),
    "SubmitLine": lambda job, life: job.line,
    "Comment": lambda job, life: "",
}
_STUB = {"JobName": "allocation"} | dict.fromkeys(("TimelimitRaw", "Partition", "WorkDir", "SubmitLine"), "")
"""What the accounting says of a job of which it has not been told more than its id and how it stands."""


def _exit_text(life: Life) -> str:
    if life.state in ("PENDING", "RUNNING", "COMPLETING", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"):
        return "0:0"
    return f"{life.end.code}:{life.end.signal}"


def sacct_lines(rows: Sequence[Row], stubs: Sequence[bool], fields: Sequence[str], bar: str) -> str:
    lines = [bar.join(fields)]
    for (job, life), stub in zip(rows, stubs, strict=True):
        cells = [_STUB[name] if stub and name in _STUB else _SACCT[name](job, life) for name in fields]
        lines.append(bar.join(cells))
    return "".join(f"{line}\n" for line in lines)
