"""One random history: what it begins with, what may go wrong in it, what is true in it, and what must hold."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.slurm.fake import FakeSlurm, Trouble
from tests.slurm.fake_cluster import FakeCluster
from tests.slurm.fake_jobs import FakeJob, SimClock
from tests.slurm.fake_work import DIGEST, Machines, RunPlan

from touchline.core.files import try_lock
from touchline.core.status import EXIT_ALREADY_RUNNING, EXIT_STOPPED, JobState
from touchline.data.checkpoints import training_complete
from touchline.run.executors import Executor
from touchline.run.jobs import Job, training_in
from touchline.slurm.job_view import JobView

MakeExecutor = Callable[["History", int | None], Executor]
PATIENCE_SECONDS = 6 * 3600.0
"""A process that goes on for longer than this goes on for ever."""
SUBMITTING = (
    *("squeue called", "squeue at work", "squeue answered", "sacct called", "sacct at work", "sacct answered"),
    *("sbatch called", "sbatch at work", "sbatch answered", "status read", "sleeping"),
    *("intent unwritten", "intent torn", "intent written"),
    *("submitted unwritten", "submitted torn", "submitted written"),
)
"""Where a process may be killed."""


class Killed(BaseException):
    """The process is killed; nothing of it happens any more."""


class Found(BaseException):
    """The first fault is enough."""


class EndlessProcessError(Exception):
    """A process that does not come to an end."""


@dataclass(kw_only=True)
class History:
    seed: int
    root: Path
    clock: SimClock
    machines: Machines
    fake: FakeSlurm
    jobs: list[Job]
    random: np.random.Generator
    story: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    killed_at: Counter[str] = field(default_factory=Counter)
    stopped: dict[str, str] = field(default_factory=dict)
    begun: float = 0.0
    first_only: bool = False
    """End at the first fault."""
    poll_seconds: float = 30.0
    looks: bool = False
    """Another command wants to know how things stand."""
    kill: tuple[str, int] | None = None
    passed: Counter[str] = field(default_factory=Counter)
    dead: bool = False
    windows: list[tuple[float, float, Trouble]] = field(default_factory=list)
    one_offs: float = 0.0
    calm: bool = False
    until: float = 0.0

    def since(self, time: float) -> float:
        return time - self.begun

    def tell(self, text: str) -> None:
        self.story.append(f"{self.since(self.clock.true):9.1f} {text}")

    def fault(self, text: str) -> None:
        self.tell(f"FAULT {text}")
        self.faults.append(text)
        if self.first_only:
            raise Found

    def step(self, point: str) -> None:
        """The process is at this step; perhaps it is killed here."""
        if self.dead:
            raise Killed
        if self.clock.true > self.until:
            raise EndlessProcessError
        self.passed[point] += 1
        if self.kill is not None and self.kill[0] == point and self.passed[point] >= self.kill[1]:
            self.killed_at[point] += 1
            self.dead = True
            self.tell(f"killed: {point}")
            raise Killed

    def trouble(self, words: Sequence[str]) -> Trouble:
        now = self.clock.true
        for begin, end, kind in self.windows:
            if begin <= now < end:
                if kind == "frozen":
                    self.fake.thaw = end
                return kind
        if not self.calm and self.random.random() < self.one_offs:
            kinds: tuple[Trouble, ...] = ("empty", "partial", "slow", "down")
            if words[0] == "sbatch":
                kinds = ("lost in", "lost out", "slow", "lost in")
            kind = kinds[int(self.random.integers(len(kinds)))]
            self.tell(f"{words[0]}: {kind}")
            return kind
        return ""

    def away(self) -> bool:
        return any(begin <= self.clock.true < end and kind in ("down", "frozen") for begin, end, kind in self.windows)

    def by_hand(self) -> None:
        """A person submits a run that is missing, by its script."""
        missing = [job for job in self.jobs if not self.complete(job) and not self.active(job.folder)]
        # Not while the process is about to submit it itself: nothing but the lock in the folder could tell them apart.
        if missing and try_free(self.root / "run.lock"):
            self.fake.submit_by_hand(["--parsable", "finetune.slurm"], missing[0].folder)

    def active(self, folder: Path) -> list[FakeJob]:
        """The jobs of a folder that may still do something."""
        return [job for job in self.fake.cluster.jobs if job.folder == folder and self.busy(job)]

    @staticmethod
    def busy(job: FakeJob) -> bool:
        """Whether a job may still do something; one whose work has ended and that SLURM only tidies up does not."""
        return job.active and not (job.state == "COMPLETING" and job.work is None and job.after != "REQUEUE")

    def complete(self, job: Job) -> bool:
        return training_complete(job.folder, DIGEST)

    def taken(self, job: FakeJob) -> None:
        """sbatch took a job: it must be one that was missing."""
        self.tell(f"job {job.raw} taken for {job.folder.name}")
        others = [other for other in self.active(job.folder) if other is not job]
        if others:
            self.fault(f"doubled: {job.folder.name} was submitted while {others[0].raw} is {others[0].state}")
        if training_complete(job.folder, DIGEST):
            self.fault(f"superfluous: {job.folder.name} was submitted though it is complete")

    def _is_true(self, view: JobView, truth: FakeJob) -> bool:
        if view.source in ("exit file", "ledger") and view.state is JobState.COMPLETED:
            # It did everything, whatever befell it then.
            return training_complete(truth.folder, DIGEST)
        return _same_end(view, truth, told=self.fake.accounting or truth.listed)

    def check(self, views: Mapping[str, JobView], before: Mapping[int, str]) -> None:
        """What a look says must be so, at its beginning or at its end."""
        for name, view in views.items():
            truth = next((job for job in self.fake.cluster.jobs if view.job_id == str(job.raw)), None)
            if truth is None:
                if view.job_id and view.state.ended:
                    self.fault(f"{name}: job {view.job_id} is {view.state}, and there is no such job")
                continue
            if (
                not view.active
                and not (view.source == "exit file" and view.exit_code == 0)
                and self.busy(truth)
                and before.get(truth.raw, "PENDING") in ("PENDING", "RUNNING", "COMPLETING")
            ):
                self.fault(
                    f"{name}: job {truth.raw} is taken to be over ({view.state}, {view.source}), it is {truth.state}"
                )
            elif view.state.ended and not truth.active and not self._is_true(view, truth):
                end = truth.life.end
                self.fault(
                    f"{name}: job {truth.raw} is {view.state} {view.exit_code} ({view.source}, {view.reason}); "
                    f"it was {truth.state} {end.code}:{end.signal}"
                )


def _same_end(view: JobView, truth: FakeJob, *, told: bool) -> bool:
    """Whether a final state is the true one; the work's own word on memory is better than SLURM's.

    Where nobody can tell any more (`told` is false), UNKNOWN is right, and so is the last word of the folder.
    """
    if not told and (view.state is JobState.UNKNOWN or truth.restarts > (view.restarts or 0)):
        return True
    if truth.life.end.code == EXIT_ALREADY_RUNNING:
        # It found another attempt at work: how that one ended counts for the run.
        return True
    if view.state is JobState.OUT_OF_MEMORY and truth.life.end.code == 79:
        return True
    if view.state is JobState.TIMEOUT and truth.life.end.code == EXIT_STOPPED and "SIGUSR1" in view.reason:
        # It was told that its limit comes, saved and ended, and could not be queued again.
        return True
    if view.state.value != truth.state:
        return False
    return truth.state != "FAILED" or view.exit_code in (None, truth.life.end.code)


class Watched:
    """An executor whose every look is compared with the truth."""

    def __init__(self, inner: Executor, history: History) -> None:
        self._inner, self._history = inner, history
        self.name, self.tick_seconds = inner.name, inner.tick_seconds
        self.waits_itself, self.find = inner.waits_itself, inner.find

    @property
    def trouble(self) -> str:
        return self._inner.trouble

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        return self._inner.start(job, token, gpus, after)

    def stop(self, jobs: Sequence[Job]) -> None:
        self._inner.stop(jobs)

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        self._history.machines.beat()
        before = {job.raw: job.state for job in self._history.fake.cluster.jobs}
        views = self._inner.query_jobs(jobs)
        self._history.check(views, before)
        return views


def try_free(path: Path) -> bool:
    lock = try_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is not None


HORIZON_SECONDS = 1800.0
"""Misfortunes happen within this time; then it is calm."""


def begin_history(seed: int, root: Path) -> History:
    random = np.random.default_rng(seed)
    clock = SimClock()
    names = [f"run{number}" for number in range(int(random.integers(1, 5)))]
    plans = {name: _plan(random) for name in names}
    machines = Machines(clock=clock, plans=plans)
    fake = FakeSlurm(clock, machines.work, accounting=bool(random.random() < 0.8))
    machines.cluster = fake.cluster
    fake.cluster.min_job_age = float(random.choice([60.0, 300.0]))
    fake.cluster.requeue_wait = float(random.choice([5.0, 120.0]))
    fake.cluster.node_timeout = float(random.choice([10.0, 300.0]))
    fake.cluster.kill_wait = float(random.choice([1.0, 30.0]))
    fake.cluster.start_delay = float(random.choice([0.3, 20.0, 200.0]))
    fake.max_submitted = int(random.integers(1, 4)) if random.random() < 0.1 else None
    jobs: list[Job] = []
    for name in names:
        folder = root / name
        (folder / "status").mkdir(parents=True)
        minutes = int(random.choice([5, 12, 60]))
        options = [f"--time={minutes}", "--signal=B:USR1@120", "--open-mode=append"]
        options.append("--no-requeue" if random.random() < 0.3 else "--requeue")
        lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
        lines.append("exec python -m touchline.run.attempt -- python -m touchline.train finetune.yaml")
        (folder / "finetune.slurm").write_text("\n".join(lines) + "\n")
        jobs.append(training_in(folder, name))
    history = History(seed=seed, root=root, clock=clock, machines=machines, fake=fake, jobs=jobs, random=random)
    history.poll_seconds = float(random.choice([30.0, 60.0, 120.0]))
    history.begun = clock.true
    machines.deaf = history.away
    return history


def _plan(random: np.random.Generator) -> RunPlan:
    fails_at = int(random.integers(1, 40)) if random.random() < 0.25 else None
    return RunPlan(
        steps=int(random.integers(20, 60)),
        step_seconds=float(random.choice([4.0, 10.0, 20.0])),
        save_every=int(random.choice([5, 10, 100])),
        startup_seconds=float(random.choice([2.0, 30.0])),
        save_seconds=float(random.choice([0.5, 2.0, 10.0])),
        fails_at=fails_at,
        fails_with=int(random.choice([1, 5, 79])),
        fails_times=int(random.choice([1, 99])),
        exit_code=int(random.random() < 0.05),
    )


def misfortunes(history: History) -> None:
    random = history.random
    for _ in range(int(random.poisson(3.5))):
        kind = str(random.choice(list(_KINDS), p=_WEIGHTS / _WEIGHTS.sum()))
        when = history.clock.true + _moment(random)
        _KINDS[kind][1](history, kind, when)
    history.one_offs = float(random.choice([0.0, 0.0, 0.02, 0.1]))


Misfortune = Callable[[History, str, float], None]
"""(history, its name, when)"""


def _to_a_job(act: Callable[[FakeCluster, FakeJob, float], object]) -> Misfortune:
    def plan(history: History, kind: str, when: float) -> None:
        def happen(time: float) -> None:
            running = [job for job in history.fake.cluster.jobs if job.state == "RUNNING"]
            if running:
                job = running[int(history.random.integers(len(running)))]
                history.tell(f"{kind}: job {job.raw}, {job.folder.name}")
                act(history.fake.cluster, job, time)

        history.fake.cluster.at(when, happen)

    return plan


def _window(trouble: Trouble, longest: float) -> Misfortune:
    """What is wrong with SLURM's commands for a while."""

    def plan(history: History, kind: str, when: float) -> None:
        end = when + float(history.random.random()) * longest
        history.windows.append((when, end, trouble))
        history.tell(f"{kind} from {history.since(when):.0f} to {history.since(end):.0f}")

    return plan


def _node_dies(history: History, kind: str, when: float) -> None:
    node = str(history.random.choice(list(history.fake.cluster.nodes)))
    back = float(history.random.choice([30.0, 900.0]))

    def happen(time: float) -> None:
        history.tell(f"{kind}: {node}")
        history.fake.cluster.fail_node(node, time, back=back, cut_off=kind == "cut off")

    history.fake.cluster.at(when, happen)


def _disk(history: History, kind: str, when: float) -> None:
    del kind
    history.fake.cluster.at(when, lambda time: fill_disk(history, full=True))
    end = when + float(history.random.random()) * 400.0
    history.fake.cluster.at(end, lambda time: fill_disk(history, full=False))


def _clock_jumps(history: History, kind: str, when: float) -> None:
    seconds = float(history.random.choice([-7200.0, -300.0, -30.0, 60.0, 600.0, 86400.0]))

    def happen(time: float) -> None:
        del time
        history.tell(f"{kind} by {seconds:.0f} s")
        history.clock.ahead += seconds

    history.fake.cluster.at(when, happen)


def _by_hand(history: History, kind: str, when: float) -> None:
    del kind
    history.fake.cluster.at(when, lambda time: history.by_hand())


def _somebody_looks(history: History, kind: str, when: float) -> None:
    del kind
    history.fake.cluster.at(when, lambda time: setattr(history, "looks", True))


_KINDS: dict[str, tuple[int, Misfortune]] = {
    "kill -9": (2, _to_a_job(FakeCluster.kill)),
    "scontrol requeue": (1, _to_a_job(FakeCluster.queue_again)),
    "preempted": (1, _to_a_job(FakeCluster.preempt)),
    "scancel": (1, _to_a_job(FakeCluster.cancel)),
    "node dies": (2, _node_dies),
    "cut off": (1, _node_dies),
    "disk": (1, _disk),
    "the clock jumps": (1, _clock_jumps),
    "controller down": (1, _window("down", 600.0)),
    "controller frozen": (1, _window("frozen", 200.0)),
    "no database": (1, _window("no database", 1200.0)),
    "by hand": (1, _by_hand),
    "somebody looks": (1, _somebody_looks),
}
"""Name: (how often, what is put into the calendar)."""
_WEIGHTS = np.array([weight for weight, _ in _KINDS.values()], dtype=float)


def _moment(random: np.random.Generator) -> float:
    return float(min(random.exponential(HORIZON_SECONDS / 4), HORIZON_SECONDS))


def fill_disk(history: History, *, full: bool) -> None:
    """The disk has no room any more, or has again."""
    if history.machines.disk_full != full:
        history.machines.disk_full = full
        history.tell("the disk is full" if full else "the disk has room")
