"""One run on the simulated SLURM: jobs that a test places there, what attempts leave in the folder, faults on order."""

import dataclasses
import math
from pathlib import Path

from tests.slurm.fake import FakeSlurm, Trouble
from tests.slurm.fake_jobs import End, FakeJob, Life, SimClock

from touchline.core.status import AttemptExit, AttemptStart
from touchline.run.jobs import Job, training_in
from touchline.run.ledger import Event, Ledger, read_ledger
from touchline.run.slurm import SlurmExecutor
from touchline.run.statusfiles import write_exit, write_heartbeat, write_start
from touchline.slurm.job_view import JobView
from touchline.slurm.local.commands import CommandResult

POLL = 30.0
TOKEN = "t" * 16


class Waits:
    def due(self) -> float:
        return math.inf

    def run(self, now: float) -> End | None:
        del now
        return None

    def signal(self, name: str, now: float) -> None:
        del name, now

    def vanish(self, now: float) -> None:
        del now


def simulated(clock: SimClock) -> FakeSlurm:
    """A SLURM whose jobs wait, and whose accounting lags behind nothing."""
    slurm = FakeSlurm(clock, lambda job, now: Waits())
    slurm.cluster.accounting_lag = slurm.cluster.accounting_whole = 0.0
    return slurm


class Bench:
    def __init__(self, root: Path) -> None:
        self.clock = SimClock()
        self.slurm = simulated(self.clock)
        self.trouble: dict[str, Trouble] = {}
        self.slurm.trouble = lambda words: self.trouble.get(words[0], "")
        self.job = make_job(root)
        self.ledger = Ledger(root / "ledger.jsonl", "slurm")
        self.executor = self.another()

    def another(self) -> SlurmExecutor:
        return SlurmExecutor(self.slurm, self.ledger.path, clock=self.clock, poll_seconds=POLL)

    def submitted(self, job_id: str = "76", token: str = TOKEN, job: Job | None = None) -> None:
        name, now = (job or self.job).name, self.clock.now()
        self.ledger.record("intent", name, token=token, time_unix=now)
        self.ledger.record("submitted", name, token=token, job_id=job_id, time_unix=now)

    def row(
        self,
        job_id: str = "76",
        state: str = "RUNNING",
        *,
        folder: str | Path = "",
        reason: str = "None",
        exit_code: str = "0:0",
        restarts: int = 0,
        comment: str = "",
        name: str = "run",
        script: str = "finetune.slurm",
        submit: float | None = None,
        ended: float | None = None,
    ) -> FakeJob:
        """A job that stands so, for squeue or sacct."""
        code, _, signal = exit_code.partition(":")
        begun = self.clock.true if submit is None else submit
        life = Life(submitted=begun, ended=ended, state=state, reason=reason)
        life.end = End(code=int(code), signal=int(signal))
        life.started = None if state == "PENDING" else begun
        at = Path(folder or self.job.folder)
        return FakeJob(
            raw=job_id,
            name=name,
            comment=comment,
            folder=at,
            script=at / script if script else Path("(null)"),
            text="",
            line=f"sbatch --parsable --comment={comment} {script}",
            partition="gpu",
            qos="normal",
            limit_seconds=3600.0,
            requeue=True,
            gpus=0,
            restarts=restarts,
            life=life,
            placed=True,
        )

    def queue(self, *rows: FakeJob) -> None:
        self.slurm.cluster.jobs[:] = rows

    def accounts(self, *rows: FakeJob) -> None:
        self.slurm.cluster.accounting[:] = [(0.0, id(row), 0, row, row.life) for row in rows]

    def hide(self, *, hidden: bool = True) -> None:
        """Have squeue list nothing; the controller itself knows its jobs."""
        self.trouble["squeue"] = "empty" if hidden else ""

    def look(self, *, later: float = POLL) -> JobView | None:
        """One look, after the next query is due."""
        self.clock.sleep(later)
        return self.executor.query_jobs([self.job]).get(self.job.name)

    def view(self, *, later: float = POLL) -> JobView:
        view = self.look(later=later)
        assert view is not None
        return view

    def started(
        self, job_id: str = "76", *, restart: int = 0, token: str = "", ahead: float = 0.0, **more: object
    ) -> None:
        """Write what an attempt writes that begins now, on a node of the cluster whose clock may be wrong."""
        now = self.clock.now() + ahead
        start = AttemptStart(
            job_id=job_id,
            restart=restart,
            token=token,
            host="node1",
            boot_id="boot",
            pid=1,
            pid_started=1.0,
            time_unix=now,
        )
        start = dataclasses.replace(start, **more)
        write_start(self.job.status, start)
        write_heartbeat(self.job.status, start, now)

    def ended(self, code: int, reason: str, job_id: str = "76", *, restart: int = 0) -> None:
        end = AttemptExit(job_id=job_id, restart=restart, code=code, reason=reason, time_unix=self.clock.now())
        write_exit(self.job.status, end)

    def events(self) -> list[Event]:
        return [entry.event for entry in read_ledger(self.ledger.path)]


def said(code: int | None, err: str = "", out: str = "") -> CommandResult:
    return CommandResult(code=code, out=out, err=err)


def make_job(root: Path, name: str = "run") -> Job:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "finetune.slurm").write_text("#!/bin/bash\n")
    return training_in(folder, name)
