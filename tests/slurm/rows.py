"""The one table of the conformance suite: what each executor must say, of the same script, in each situation."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.status import JobState

COMPLETED, STOPPED, FAILED = "0 completed", "75 stopped by SIGTERM", "3 failed"
KILLED = "137 killed by SIGKILL"
SAVED = ("resume/state",)
"""What the work saves when it is asked to end."""
CLAIM = "status/claim.json"
"""What says who works in a folder; it stays where the holder died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What an executor must say in the end, and what must then lie in the run's folder."""

    state: JobState
    """The final state."""
    active: bool = False
    """Whether it may still do something."""
    reason: str = ""
    """A word that the reason holds."""
    attempts: tuple[str | None, ...] = ()
    """Code and reason in the exit file of each start; None for a start that left no exit file. None of them ran twice:
    each has its own restart."""
    leaves: tuple[str, ...] = ()
    """Files beside those that every start makes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotHere:
    """A situation that this executor cannot be in."""

    reason: str
    """Why not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One situation."""

    scenario: str
    """Its name in the table."""
    variant: str = ""
    """Which of several situations with that name."""
    work: str
    """What the job does: a verb of work.py."""
    directives: tuple[str, ...] = ()
    """More lines for sbatch; `{row name}` stands for another row's job id, `{first}` and `{second}` for the nodes."""
    bench: str = "plain"
    """Which cluster it is on: `plain`, `no accounting`, `answer lost`, `never arrived`, `no cgroup`."""
    limit_seconds: float | None = None
    """When this machine ends it."""
    slurm: Told
    """What the SLURM executor says."""
    local: Told | NotHere | None = None
    """What the local executor says; None: the same."""

    @property
    def here(self) -> Told | NotHere:
        """What the local executor says."""
        return self.slurm if self.local is None else self.local

    def told(self, executor: str) -> Told | NotHere:
        """What an executor says."""
        return self.here if executor == "local" else self.slurm

    @property
    def name(self) -> str:
        """Scenario and variant."""
        return f"{self.scenario}, {self.variant}" if self.variant else self.scenario

    @property
    def folder(self) -> str:
        """The name of its run and folder."""
        return self.name.replace(",", "").replace(" ", "-")


class _Here:
    """Why not, on one machine."""

    node = NotHere(reason="a machine that fails takes touchline with it")
    preempted = NotHere(reason="nobody else's jobs come first here")
    afterok = NotHere(reason="dependencies are sbatch's; the queue starts all")
    accounts = NotHere(reason="there are no accounts to ask")
    controller = NotHere(reason="there is no controller")
    answer = NotHere(reason="a process is started, or is not")


_DIED = (None,)


ROWS = (
    Row(scenario="completed", work="finish", slurm=Told(state=JobState.COMPLETED, attempts=(COMPLETED,))),
    Row(scenario="failed", work="fail", slurm=Told(state=JobState.FAILED, attempts=(FAILED,))),
    Row(
        scenario="timeout",
        work="wait",
        directives=("--time=1",),
        limit_seconds=2,
        local=Told(state=JobState.TIMEOUT, attempts=("75 stopped at its time limit",), leaves=SAVED),
        slurm=Told(state=JobState.TIMEOUT, attempts=(STOPPED,), leaves=SAVED),
    ),
    Row(
        scenario="cancelled pending",
        work="finish",
        directives=("--begin=now+1hour",),
        slurm=Told(state=JobState.CANCELLED),
    ),
    Row(
        scenario="cancelled running",
        work="wait",
        slurm=Told(state=JobState.CANCELLED, attempts=(STOPPED,), leaves=SAVED),
    ),
    Row(
        scenario="out of memory",
        variant="and the work says so",
        work="say that memory is short",
        slurm=Told(state=JobState.OUT_OF_MEMORY, attempts=("79 failed",)),
    ),
    Row(
        scenario="out of memory",
        variant="with cgroups",
        work="allocate",
        directives=("--mem=300M",),
        local=Told(state=JobState.UNKNOWN, reason="SIGKILL", attempts=(KILLED,)),
        slurm=Told(state=JobState.OUT_OF_MEMORY, attempts=(KILLED,)),
    ),
    Row(
        scenario="out of memory",
        variant="without cgroups",
        work="allocate",
        directives=("--mem=300M",),
        bench="no cgroup",
        local=Told(state=JobState.UNKNOWN, reason="SIGKILL", attempts=(KILLED,)),
        slurm=Told(state=JobState.OUT_OF_MEMORY, attempts=_DIED, leaves=(CLAIM,)),
    ),
    Row(
        scenario="out of memory",
        variant="proved by the log",
        work="die over the limit",
        slurm=Told(state=JobState.OUT_OF_MEMORY, attempts=_DIED, leaves=(CLAIM,)),
    ),
    Row(
        scenario="out of memory",
        variant="or something else that kills in silence",
        work="die in silence",
        slurm=Told(state=JobState.UNKNOWN, attempts=_DIED, leaves=(CLAIM,)),
    ),
    Row(
        scenario="node failure",
        work="wait",
        directives=("--nodelist={second}", "--no-requeue"),
        local=_Here.node,
        slurm=Told(state=JobState.NODE_FAIL, attempts=_DIED, leaves=(CLAIM,)),
    ),
    Row(
        scenario="node failure",
        variant="queued again",
        work="wait at first",
        directives=("--nodelist={second}",),
        local=_Here.node,
        slurm=Told(state=JobState.COMPLETED, attempts=(None, COMPLETED)),
    ),
    Row(
        scenario="preempted and requeued",
        work="wait at first",
        directives=("--partition=preemptible", "--gpus=4"),
        local=_Here.preempted,
        slurm=Told(state=JobState.COMPLETED, attempts=(STOPPED, COMPLETED), leaves=SAVED),
    ),
    Row(
        scenario="afterok on a failed parent",
        work="finish",
        directives=("--dependency=afterok:{failed}",),
        local=_Here.afterok,
        slurm=Told(state=JobState.PENDING, active=True, reason="DependencyNeverSatisfied"),
    ),
    Row(
        scenario="afterok on a failed parent",
        variant="to be ended then",
        work="finish",
        directives=("--dependency=afterok:{failed}", "--kill-on-invalid-dep=yes"),
        local=_Here.afterok,
        slurm=Told(state=JobState.CANCELLED),
    ),
    Row(
        scenario="sacct off",
        work="fail",
        bench="no accounting",
        local=_Here.accounts,
        slurm=Told(state=JobState.FAILED, attempts=(FAILED,)),
    ),
    Row(
        scenario="sacct off",
        variant="killed in silence",
        work="die in silence",
        bench="no accounting",
        local=_Here.accounts,
        slurm=Told(state=JobState.UNKNOWN, attempts=_DIED, leaves=(CLAIM,)),
    ),
    Row(
        scenario="controller restarted",
        work="wait",
        local=_Here.controller,
        slurm=Told(state=JobState.COMPLETED, attempts=(COMPLETED,), leaves=("go",)),
    ),
    Row(
        scenario="controller restarted",
        variant="and the job ended meanwhile",
        work="wait",
        local=_Here.controller,
        slurm=Told(state=JobState.COMPLETED, attempts=(COMPLETED,), leaves=("go",)),
    ),
    Row(
        scenario="submission answer lost",
        work="finish",
        bench="answer lost",
        local=_Here.answer,
        slurm=Told(state=JobState.COMPLETED, attempts=(COMPLETED,)),
    ),
    Row(
        scenario="submission answer lost",
        variant="and the job never arrived",
        work="finish",
        bench="never arrived",
        local=_Here.answer,
        slurm=Told(state=JobState.COMPLETED, attempts=(COMPLETED,)),
    ),
)

BESIDE = (
    Row(
        scenario="queued again at its limit",
        work="wait at first",
        directives=("--time=2", "--signal=B:USR1@60"),
        local=NotHere(reason="the queue goes on with it"),
        slurm=Told(
            state=JobState.COMPLETED,
            attempts=("75 stopped by SIGUSR1; queued again", COMPLETED),
            leaves=SAVED,
        ),
    ),
)
"""What is only SLURM's, and no row of the table: run along with it."""
