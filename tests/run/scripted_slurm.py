"""SLURM's commands with answers that a test writes: what squeue lists, what sacct keeps, and what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.fake_jobs import End, FakeJob, Life
from tests.slurm.fake_text import sacct_lines, squeue_lines

from touchline.core.status import AttemptExit, AttemptStart
from touchline.run.protocol import Job
from touchline.run.statusfiles import write_exit, write_heartbeat, write_start
from touchline.slurm.local.commands import CommandResult

START_UNIX = 1_800_000_000.0
DOWN = CommandResult(
    code=1, out="", err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
)
OFF = CommandResult(code=1, out="", err="Slurm accounting storage is disabled\n")
NO_DATABASE = CommandResult(code=1, out="", err="sacct: error: Problem talking to the database: Connection refused\n")
LOST = CommandResult(
    code=1, out="", err="sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
)
FINE = CommandResult(code=0, out="", err="")


class SimClock:
    """Time that passes when somebody waits, and that may jump."""

    def __init__(self) -> None:
        self.wall = START_UNIX
        self.steady = 500.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@dataclass(kw_only=True)
class Row:
    """One job, as squeue and sacct know it."""

    job_id: str
    folder: str
    state: str = "RUNNING"
    reason: str = "None"
    exit_code: str = "0:0"
    restarts: int = 0
    comment: str = ""
    name: str = "run"
    script: str = "finetune.slurm"
    submit: float = START_UNIX
    ended: float | None = None

    def listed(self) -> tuple[FakeJob, Life]:
        """As the simulated cluster keeps a job."""
        code, _, signal = self.exit_code.partition(":")
        end = End(code=int(code), signal=int(signal))
        life = Life(submitted=self.submit, ended=self.ended, state=self.state, reason=self.reason, end=end)
        life.started = None if self.state == "PENDING" else self.submit
        script = Path(self.folder, self.script) if self.script else Path("(null)")
        job = FakeJob(
            raw=self.job_id,
            name=self.name,
            comment=self.comment,
            folder=Path(self.folder),
            script=script,
            text="",
            line=f"sbatch --parsable --comment={self.comment} {self.script}",
            partition="gpu",
            qos="normal",
            limit_seconds=3600.0,
            requeue=True,
            gpus=0,
            restarts=self.restarts,
            life=life,
        )
        return job, life


@dataclass(kw_only=True)
class ScriptedSlurm:
    """Answers as it is told to; `calls` holds what it was asked."""

    clock: SimClock
    queue: list[Row] = field(default_factory=list)
    accounting: list[Row] = field(default_factory=list)
    squeue: CommandResult | None = None
    """What squeue says instead of listing `queue`."""
    sacct: CommandResult | None = None
    """What sacct says instead of listing `accounting`."""
    sbatch: list[CommandResult] = field(default_factory=list)
    """What the next submissions say."""
    scancel: CommandResult = FINE
    calls: list[tuple[str, ...]] = field(default_factory=list)
    kept: list[tuple[int, ...]] = field(default_factory=list)

    def count(self, command: str) -> int:
        return sum(words[0] == command for words in self.calls)

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        del timeout_seconds, cwd, environment
        self.calls.append(tuple(words))
        self.kept.append(tuple(keep))
        match words[0]:
            case "squeue":
                return self.squeue or self._squeue(words)
            case "sacct":
                return self.sacct or self._sacct(words)
            case "sbatch":
                return self.sbatch.pop(0)
            case "scancel":
                return self.scancel
            case "scontrol":
                return self._scontrol(words[-1])
        raise AssertionError(words)

    def _squeue(self, words: Sequence[str]) -> CommandResult:
        return CommandResult(
            code=0, out=squeue_lines([row.listed() for row in self.queue], words[-1].removeprefix("--Format=")), err=""
        )

    def _sacct(self, words: Sequence[str]) -> CommandResult:
        options = dict(word.partition("=")[::2] for word in words)
        asked = options["--jobs"].split(",") if "--jobs" in options else None
        rows = [row.listed() for row in self.accounting if asked is None or row.job_id.partition(".")[0] in asked]
        stubs = [False] * len(rows)
        return CommandResult(
            code=0, out=sacct_lines(rows, stubs, options["--format"].split(","), options["--delimiter"]), err=""
        )

    def _scontrol(self, job_id: str) -> CommandResult:
        if self.squeue is not None:
            return self.squeue
        if any(row.job_id == job_id for row in self.queue):
            return CommandResult(code=0, out=f"JobId={job_id} JobName=run\n   UserId=me(1) GroupId=me(1)\n", err="")
        return CommandResult(code=1, out="", err="slurm_load_jobs error: Invalid job id specified\n")


def make_job(root: Path, name: str = "run") -> Job:
    """A run's folder and its job."""
    folder = root / name
    folder.mkdir(parents=True)
    return Job(
        name=name,
        folder=folder,
        status=folder / "status",
        script="finetune.slurm",
        command=("bash", "finetune.slurm"),
        output="slurm-{job}.out",
    )


def started(job: Job, job_id: str, clock: SimClock, *, restart: int = 0, host: str = "node1", token: str = "") -> None:
    """Write what an attempt writes that begins now, on a node of the cluster."""
    start = AttemptStart(
        job_id=job_id,
        restart=restart,
        token=token,
        host=host,
        boot_id="boot",
        pid=1,
        pid_started=1.0,
        time_unix=clock.now(),
    )
    write_start(job.status, start)
    write_heartbeat(job.status, start, clock.now())


def ended(job: Job, job_id: str, clock: SimClock, code: int, reason: str, *, restart: int = 0) -> None:
    """Write what an attempt writes that ends now."""
    write_exit(job.status, AttemptExit(job_id=job_id, restart=restart, code=code, reason=reason, time_unix=clock.now()))
