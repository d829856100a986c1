"""Jobs of the fake SLURM, what they do, and the clock that they live by.

What a job does is a `Work`; when it starts, is told to stop, dies with its node or is queued again follows SLURM 22.05
as it was watched (tests/slurm/transcripts.json). Time is the clock's `true` time; a login node's clock may be wrong.
"""

import math
from collections.abc import Callable
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
