"""What the fake's jobs do: plain scripts of a few commands, and runs under touchline's supervisor.

A run's script is not executed. `Training` does what `launch.attempt` and a trainer do, by the same writers: lock and
claim, status/start, heartbeats, saved states, metrics.jsonl, an exported checkpoint, training.json, status/exit; and it
notes in `Machines.spans` which attempt trained which steps, and when.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter
from tests.slurm.fake_cluster import FakeCluster
from tests.slurm.fake_jobs import NEVER, End, FakeJob, SimClock, Work

from touchline.core import status
from touchline.core.errors import TouchlineError
from touchline.data.metrics import AttemptRow, ExportMarker, SavedFile, TrainingMarker
from touchline.run.statusfiles import write_exit, write_heartbeat, write_start

DIGEST = "d" * 64
SUPERVISED = "touchline.run.attempt"
_ROW = TypeAdapter(AttemptRow)
_EXPORT = TypeAdapter(ExportMarker)
_MARKER = TypeAdapter(TrainingMarker)


class PlainScript:
    """Runs the few commands that the scenarios' scripts are made of."""

    def __init__(self, job: FakeJob, now: float, requeue: Callable[[FakeJob, float], None]) -> None:
        self._job, self._requeue = job, requeue
        self._lines = [line for line in job.text.splitlines() if line and not line.startswith("#")]
        self._until = now
        self._trap: int | None = None
        self._end: End | None = None

    def due(self) -> float:
        return self._until

    def run(self, now: float) -> End | None:
        while self._end is None and self._until <= now:
            if not self._lines:
                self._end = End(code=0)
            else:
                self._do(self._lines.pop(0), now)
        return self._end

    def signal(self, name: str, now: float) -> None:
        """TERM ends a script without a trap; USR1 does nothing here."""
        if name == "TERM" and self._end is None:
            self._end = End(code=0, signal=15) if self._trap is None else End(code=self._trap)
            self._until = now

    def vanish(self, now: float) -> None:
        """Nothing is left behind."""

    def _do(self, line: str, now: float) -> None:
        conditional = re.fullmatch(r'\[ "\$\{SLURM_RESTART_COUNT:-0\}" -gt (\d+) \] \|\| (.+)', line)
        if conditional is not None:
            if self._job.restarts <= int(conditional[1]):
                self._do(conditional[2], now)
        elif line.startswith("sleep "):
            self._until = now + float(line.split()[1])
        elif line.startswith("exit "):
            self._end = End(code=int(line.split()[1]))
        elif line.startswith("kill -9"):
            self._end = End(code=0, signal=9)
        elif line.startswith("trap "):
            self._trap = int(line.split()[2].rstrip("'"))
        elif line.startswith("scontrol requeue"):
            self._requeue(self._job, now)
        elif line != "true":
            raise AssertionError(f"the fake cannot run {line!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    steps: int = 60
    step_seconds: float = 10.0
    save_every: int = 10
    """Steps between two saved states."""
    startup_seconds: float = 15.0
    save_seconds: float = 2.0
    fails_at: int | None = None
    """The step at which it fails."""
    fails_with: int = 1
    fails_times: int = 1
    """How often, before it goes well; deterministic when large."""
    exit_code: int = 0
    """The exit code at the end of a complete training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    run: str
    job: str
    restart: int
    first: int
    last: int
    began: float
    ended: float


@dataclass(kw_only=True)
class Machines:
    """What the nodes share: the runs' plans, their locks, the disk; and the record of what was done."""

    clock: SimClock
    plans: dict[str, RunPlan]
    cluster: FakeCluster = field(init=False)
    spans: list[Span] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Attempts that found another one at work."""
    living: dict[Path, Training] = field(default_factory=dict)
    claims: dict[Path, tuple[str, str, float]] = field(default_factory=dict)
    """Job, node and last sign of life of who claimed a folder and did not drop it."""
    failures: dict[str, int] = field(default_factory=dict)
    disk_full: bool = False
    deaf: Callable[[], bool] = lambda: False
    """Whether the controller takes no `scontrol requeue` now."""

    def work(self, job: FakeJob, now: float) -> Work:
        return Training(self, job, now) if SUPERVISED in job.text else PlainScript(job, now, self._queue_again)

    def beat(self) -> None:
        """Write the heartbeat of all that lives, as of now."""
        for training in self.living.values():
            training.beat(self.clock.true)

    def _queue_again(self, job: FakeJob, now: float) -> None:
        self.cluster.queue_again(job, now)


class Training:
    def __init__(self, machines: Machines, job: FakeJob, now: float) -> None:
        self._machines, self._job, self._folder = machines, job, job.folder
        self._status = job.folder / "status"
        self._plan = machines.plans[job.folder.name]
        self._start = status.AttemptStart(
            job_id=str(job.raw),
            restart=job.restarts,
            token=_token(job.line),
            host=f"{job.life.node}.fake",
            boot_id="fake",
            pid=1000 + job.raw,
            pid_started=now,
            time_unix=now,
        )
        self._begun = now
        self._end: End | None = None
        self._end_at = NEVER
        self._reason = ""
        self._asked = ""
        self._stop_at = NEVER
        self._first_at, self._first, self._saved = NEVER, 0, 0
        self._saved_now = False
        self._over = False
        self._begin(now)

    def due(self) -> float:
        """The next saved state, the end, or the moment it fails."""
        if self._end is not None:
            return self._end_at
        return min(self._stop_at, self._at(self._next_step()))

    def run(self, now: float) -> End | None:
        if self._end is None:
            if self._stop_at <= now:
                self._save_and_stop(now)
            else:
                self._reach(self._next_step(), now)
        return self._end if self._end is not None and self._end_at <= now else None

    def signal(self, name: str, now: float) -> None:
        if self._end is None and not self._asked:
            self._asked = f"SIG{name}"
            self._stop_at = now + self._plan.save_seconds

    def vanish(self, now: float) -> None:
        if not self._over:
            self._leave(now)

    def beat(self, now: float) -> None:
        if not self._machines.disk_full:
            write_heartbeat(self._status, self._start, now - (now - self._begun) % 5.0)

    def _begin(self, now: float) -> None:
        machines = self._machines
        other = machines.living.get(self._status)
        claim = machines.claims.get(self._status)
        node = self._job.life.node
        # A node knows of its own processes whether they live; of another node's only the age of a heartbeat tells.
        stranger = claim is not None and claim[0] != str(self._job.raw) and claim[1] != node
        stranger = stranger and claim is not None and now - claim[2] <= status.HEARTBEAT_STALE_SECONDS
        if other is not None or stranger:
            machines.held.append(f"{self._job.raw}.{self._job.restarts}")
            self._over = True
            self._finish(now, status.EXIT_ALREADY_RUNNING, "another attempt holds the run")
            return
        machines.living[self._status] = self
        machines.claims[self._status] = (str(self._job.raw), node, now)
        if not self._write(lambda: write_start(self._status, self._start)):
            self._finish_without_words(now + 0.5)
            return
        self.beat(now)
        states = [int(path.name[5:]) for path in self._folder.glob("resume/step_*")]
        self._first = self._saved = max(states, default=0)
        if (self._folder / "training.json").exists():
            self._first = self._saved = self._plan.steps
        self._first_at = now + self._plan.startup_seconds
        self._write(self._append_row)
        self._write(lambda: self._append_output("training"))

    def _at(self, step: int) -> float:
        return self._first_at + (step - self._first) * self._plan.step_seconds

    def _done(self, now: float) -> int:
        if now < self._first_at:
            return self._first
        return min(self._plan.steps, self._first + int((now - self._first_at) / self._plan.step_seconds + 1e-9))

    def _next_step(self) -> int:
        plan = self._plan
        nearest = min(plan.steps, (self._saved // plan.save_every + 1) * plan.save_every)
        if plan.fails_at is not None and self._saved < plan.fails_at and self._may_fail():
            nearest = min(nearest, plan.fails_at)
        return nearest

    def _may_fail(self) -> bool:
        return self._machines.failures.get(self._job.folder.name, 0) < self._plan.fails_times

    def _reach(self, step: int, now: float) -> None:
        plan = self._plan
        if step == plan.fails_at and self._may_fail() and step > self._saved:
            name = self._job.folder.name
            self._machines.failures[name] = self._machines.failures.get(name, 0) + 1
            self._finish(now, plan.fails_with, "failed")
        elif step >= plan.steps:
            if (self._folder / "training.json").exists() or self._write(self._complete):
                self._finish(now, plan.exit_code, "completed" if plan.exit_code == 0 else "failed")
            else:
                self._finish(now, 4, "failed")
        elif self._write(lambda: self._save(step)):
            self._saved, self._saved_now = step, True
        else:
            self._finish(now, 4, "failed")

    def _save_and_stop(self, now: float) -> None:
        step = self._done(now)
        if step > self._saved and self._write(lambda: self._save(step)):
            self._saved, self._saved_now = step, True
        self._finish(now, status.EXIT_STOPPED, f"stopped by {self._asked}")

    def _finish(self, now: float, code: int, reason: str) -> None:
        """The supervisor's last words; the lock is let go when it ends."""
        again = (
            code not in (0, status.EXIT_ALREADY_RUNNING)
            and self._asked == "SIGUSR1"
            and self._saved_now
            and self._job.restarts < 20
        )
        words = status.AttemptExit(
            job_id=self._start.job_id,
            restart=self._start.restart,
            code=code,
            reason=f"{reason}, requeued" if again else reason,
            time_unix=now,
        )
        self._end, self._end_at = End(code=code), now
        if not self._write(lambda: write_exit(self._status, words)):
            self._end = End(code=4)
            again = False
        elif not self._over:
            self._machines.claims.pop(self._status, None)
        if not self._over:
            self._leave(now)
        if code == status.EXIT_OUT_OF_MEMORY and not again:
            self._write(lambda: self._append_output("torch.OutOfMemoryError: CUDA out of memory."))
        if again and not self._machines.deaf():
            self._machines.cluster.queue_again(self._job, now)

    def _finish_without_words(self, now: float) -> None:
        self._end, self._end_at = End(code=4), now
        self._leave(now)

    def _leave(self, now: float) -> None:
        machines = self._machines
        self._over = True
        if machines.living.get(self._status) is self:
            del machines.living[self._status]
        if self._status in machines.claims:
            machines.claims[self._status] = (self._start.job_id, self._start.host.removesuffix(".fake"), now)
        machines.spans.append(
            Span(
                run=self._folder.name,
                job=self._start.job_id,
                restart=self._start.restart,
                first=self._first,
                last=self._done(now),
                began=self._begun,
                ended=now,
            )
        )
        with suppress(OSError), (self._folder / "work.log").open("a") as stream:
            stream.write(f"{self._start.job_id}.{self._start.restart} {self._first} {self._done(now)}\n")

    def _write(self, writing: Callable[[], object]) -> bool:
        """Whether the disk took it."""
        try:
            if self._machines.disk_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            writing()
        except (OSError, TouchlineError):
            return False
        return True

    def _save(self, step: int) -> None:
        new = self._folder / "resume" / f"step_{step}"
        new.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("resume/step_*"):
            if old != new:
                old.rmdir()

    def _complete(self) -> None:
        folder = self._folder / "epoch_0"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"adapter\n")
        marker = ExportMarker(
            experiment="fake",
            run=self._folder.name,
            run_digest=DIGEST,
            kind="adapter",
            step=self._plan.steps,
            epoch=0,
            validation_loss=None,
            base_path="base",
            base_weights_sha256="0" * 64,
            adapter_sha256="1" * 64,
            files={"adapter_model.safetensors": SavedFile(size=8, sha256="2" * 64)},
        )
        (folder / "touchline.json").write_bytes(_EXPORT.dump_json(marker))
        training = TrainingMarker(
            experiment="fake",
            run=self._folder.name,
            run_digest=DIGEST,
            steps=self._plan.steps,
            final_train_loss=1.0,
            final_validation_loss=None,
            best_epoch=None,
            elapsed_seconds=1.0,
            validation_seconds=0.0,
            checkpoints=("epoch_0",),
            adapter_sha256="1" * 64,
        )
        (self._folder / "training.json").write_bytes(_MARKER.dump_json(training))

    def _append_row(self) -> None:
        with (self._folder / "metrics.jsonl").open("ab") as stream:
            stream.write(_attempt_row(self._start, self._first, self._plan.steps, self._folder.name) + b"\n")

    def _append_output(self, line: str) -> None:
        with (self._folder / f"slurm-{self._start.job_id}.out").open("a") as stream:
            stream.write(f"{line}\n")


def _token(line: str) -> str:
    match = re.search(r"TOUCHLINE_TOKEN=(\w+)", line)
    return "" if match is None else match[1]


def _attempt_row(start: status.AttemptStart, first: int, steps: int, run: str) -> bytes:
    row = AttemptRow(
        event="resume" if first else "start",
        attempt=1,
        time_unix=start.time_unix,
        from_step=first,
        run=run,
        run_digest=DIGEST,
        steps=steps,
        versions={},
        device="fake",
        device_kind="cuda",
        threads=1,
        base_dtype="bfloat16",
        base_dtype_requested="bfloat16",
        base_dtype_reason="",
        adapter_dtype="float32",
        attention="sdpa",
        layout="one",
        layout_reason="",
        packed_requested=False,
        isolation=None,
        gradient_checkpointing=False,
        optimizer="AdamW",
        micro_batch_size=4,
        gradient_accumulation_steps=1,
        global_batch_size=4,
        trainable_parameters=1,
        label_text="",
        label_tokens=1,
        setup_seconds=0.0,
    )
    return _ROW.dump_json(row)
