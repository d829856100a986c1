"""Random histories of submitting, dying and going on, and what must hold in every one of them.

A history has one to four runs, a process on the login node that submits and watches them by the product's own code, and
a list of misfortunes: the process is killed at any step of its work, answers get lost, the controller is away or
frozen, the accounting is off, jobs are killed, requeued, preempted, time out, nodes die, the disk is full, the clock
jumps. After each kill another process goes on. At last it is calm, and a resume must finish what can be finished.

    play(seed, folder).faults        what did not hold; empty when all is well
"""

import errno
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.slurm.history import (
    HORIZON_SECONDS,
    PATIENCE_SECONDS,
    SUBMITTING,
    EndlessProcessError,
    Found,
    History,
    Killed,
    MakeExecutor,
    Watched,
    begin_history,
    fill_disk,
    misfortunes,
)

from touchline.core import files
from touchline.core.errors import TouchlineError
from touchline.core.files import try_lock
from touchline.core.observation import Sign
from touchline.core.status import EXIT_ALREADY_RUNNING
from touchline.plan.recovery import RecoveryAction, decide
from touchline.run import failures as diagnosis
from touchline.run import ledger as ledger_module
from touchline.run import statusfiles
from touchline.run.executors import Executor
from touchline.run.failures import failures_of
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger
from touchline.run.queue import run_jobs
from touchline.run.slurm import SlurmExecutor
from touchline.slurm.job_view import JobView

__all__ = ["SUBMITTING", "History", "MakeExecutor", "play"]


def real_executor(history: History, lock: int | None) -> Executor:
    executor = SlurmExecutor(
        history.fake, history.root / "ledger.jsonl", clock=history.clock, poll_seconds=history.poll_seconds, lock=lock
    )
    # Looks at the folders in between would find nothing new in most of these hours, and cost most of the time.
    executor.tick_seconds = history.poll_seconds
    return executor


def drive(history: History, make_executor: MakeExecutor, *, kill: tuple[str, int] | None, retry: bool) -> str:
    """One process, from its start to its end or death: `done`, `killed`, or why it gave up."""
    history.kill, history.dead = kill, False
    history.passed.clear()
    history.until = history.clock.true + PATIENCE_SECONDS
    lock = try_lock(history.root / "run.lock")
    if lock is None:
        return "another command is at work"
    try:
        return _drive(history, Watched(make_executor(history, lock), history), retry=retry)
    except Killed:
        return "killed"
    except TouchlineError as fault:
        return fault.message
    finally:
        os.close(lock)
        history.kill = None


def _drive(history: History, executor: Executor, *, retry: bool) -> str:
    ledger = Ledger(history.root / "ledger.jsonl", "slurm")

    def after(job: Job, view: JobView) -> Sequence[Job]:
        if history.complete(job):
            return ()
        decision = decide(failures_of(job, view), None)
        history.tell(f"{job.name} {view.job_id} {view.state} {view.exit_code}: {decision.step}: {decision.why}")
        if decision.step is RecoveryAction.STOP:
            history.stopped[job.name] = decision.why
            return ()
        return (job,)

    history.stopped.clear()
    todo = [job for job in history.jobs if not history.complete(job) and _admitted(history, job, retry=retry)]
    run_jobs(
        todo,
        executor,
        ledger,
        [()] * len(history.jobs),
        lambda jobs, views: None,
        before=lambda job: not history.complete(job),
        after=after,
        clock=history.clock,
    )
    return "done"


def _admitted(history: History, job: Job, *, retry: bool) -> bool:
    failures = failures_of(job, None)
    if retry or not failures or all(each.signature != failures[-1].signature for each in failures[:-1]):
        return True
    history.stopped[job.name] = decide(failures, None).why
    return False


def play(seed: int, root: Path, make_executor: MakeExecutor = real_executor, *, first_only: bool = False) -> History:
    """Play one history to its end, or to its first fault, and give it with what did not hold."""
    history = begin_history(seed, root)
    history.first_only = first_only
    with _instrumented(history), suppress(Found):
        misfortunes(history)
        try:
            _play(history, make_executor)
        except EndlessProcessError:
            history.fault(f"a process did not end within {PATIENCE_SECONDS:.0f} s")
        _check_spans(history)
    return history


def _play(history: History, make_executor: MakeExecutor) -> None:
    random, clock = history.random, history.clock
    end = clock.true + HORIZON_SECONDS
    kills = int(random.integers(0, 5))
    while True:
        kill = None
        if kills:
            kills -= 1
            point = str(random.choice(SUBMITTING))
            most = 15 if point in ("sleeping", "status read") or point.startswith(("squeue", "sacct")) else 4
            kill = (point, int(random.integers(1, most)))
        history.tell(f"a process starts{'' if kill is None else f', to be killed at {kill[0]} {kill[1]}'}")
        outcome = drive(history, make_executor, kill=kill, retry=False)
        history.tell(f"it ends: {outcome}")
        if outcome == "done" and clock.true >= end and not kills:
            break
        history.dead = False
        _rest(history, float(random.choice([1.0, 20.0, 200.0, 1000.0])))
    _calm_down(history, make_executor)


def _rest(history: History, seconds: float) -> None:
    history.clock.go(seconds)


def _calm_down(history: History, make_executor: MakeExecutor) -> None:
    """No more misfortunes: resumes must finish everything that can be finished, and then find nothing to do."""
    history.calm = True
    history.windows.clear()
    fill_disk(history, full=False)
    _rest(history, 2000.0)
    for _ in range(6):
        outcome = drive(history, make_executor, kill=None, retry=True)
        history.tell(f"calm: {outcome}; stopped: {history.stopped}")
        if outcome == "done" and all(history.complete(job) or _hopeless(history, job) for job in history.jobs):
            break
        _rest(history, 120.0)
    for job in history.jobs:
        if not history.complete(job) and not _hopeless(history, job):
            history.fault(f"lost: {job.name} is not complete and was not given up for a reason; {history.stopped}")
        if not history.complete(job) and not history.stopped.get(job.name):
            history.fault(f"without a word: {job.name} is not complete, and nobody says why")
    before = len(history.fake.submissions)
    drive(history, make_executor, kill=None, retry=False)
    late = [submission.job.folder.name for submission in history.fake.submissions[before:]]
    for name in late:
        plan = history.machines.plans[name]
        if plan.fails_times == 1 or plan.fails_at is None:
            history.fault(f"the second resume submitted {name} again")
    _check_final(history, make_executor)


def _hopeless(history: History, job: Job) -> bool:
    plan = history.machines.plans[job.name]
    failing = plan.fails_at is not None and plan.fails_times > 1
    too_short = "no time" in history.stopped.get(job.name, "") or "time limit came" in history.stopped.get(job.name, "")
    return failing or too_short


def _check_final(history: History, make_executor: MakeExecutor) -> None:
    """A new process, and SLURM asked once more."""
    history.until = history.clock.true + PATIENCE_SECONDS
    executor = Watched(make_executor(history, None), history)
    views = executor.query_jobs(history.jobs)
    for job in history.jobs:
        truth = [e for e in history.fake.cluster.jobs if e.folder == job.folder and e.life.reason != "BadConstraints"]
        view = views.get(job.name)
        if truth and view is None:
            history.fault(f"{job.name}: nothing is known of {truth[-1].raw}")
        elif (
            truth
            and view is not None
            and view.job_id != str(truth[-1].raw)
            and truth[-1].life.end.code != EXIT_ALREADY_RUNNING
        ):
            history.fault(f"{job.name}: its last job is {truth[-1].raw}, not {view.job_id}")
        if view is not None and view.active:
            history.fault(f"{job.name}: {view.job_id} is said to be active ({view.state}, {view.source})")


def _look(history: History) -> None:
    history.tell("another process looks")
    Watched(real_executor(history, None), history).query_jobs(history.jobs)


def _check_spans(history: History) -> None:
    """No two attempts at a run did steps at the same time."""
    spans = sorted(history.machines.spans, key=lambda span: (span.run, span.began))
    for one, other in itertools.pairwise(spans):
        if one.run == other.run and other.began < one.ended:
            history.fault(f"{one.run}: {one.job}.{one.restart} and {other.job}.{other.restart} worked at the same time")


_SIGNS: dict[bytes, list[Sign]] = {}
_signs = diagnosis._signs


def _signs_of(output: Path) -> list[Sign]:
    """What an output tells; there are few different ones, and reading one takes milliseconds."""
    text = output.read_bytes()
    if text not in _SIGNS:
        _SIGNS[text] = _signs(output)
    return _SIGNS[text]


@contextmanager
def _instrumented(history: History) -> Iterator[None]:
    """Kills and full disks reach the product's own reading and writing."""
    append, read, sleep = files.append_line, statusfiles.read_attempts, history.clock.sleep

    def append_line(path: Path, line: str) -> None:
        event = line.partition('"event":"')[2].partition('"')[0]
        history.step(f"{event} unwritten")
        try:
            history.step(f"{event} torn")
        except Killed:
            with path.open("ab") as stream:
                stream.write(line.encode()[: len(line) // 2])
            raise
        append(path, line)
        history.step(f"{event} written")

    def fsync(descriptor: int) -> None:
        # Only processes are killed here, not machines: nothing needs to reach the disk.
        if history.machines.disk_full:
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, max(size - 20, 0))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_attempts(status: Path) -> object:
        history.step("status read")
        return read(status)

    def sleep_(seconds: float) -> None:
        history.step("sleeping")
        sleep(seconds)
        if history.looks:
            history.looks = False
            _look(history)

    history.fake.step = history.step
    history.fake.trouble = history.trouble
    history.fake.cluster.accepted = history.taken
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "append_line", append_line)
        patch.setattr(ledger_module, "time", SimpleNamespace(time=history.clock.now))
        patch.setattr(os, "fsync", fsync)
        patch.setattr(diagnosis, "_signs", _signs_of)
        for name, module in list(sys.modules.items()):
            if name.startswith("touchline.run.slurm") and hasattr(module, "read_attempts"):
                patch.setattr(module, "read_attempts", read_attempts)
        patch.setattr(history.clock, "sleep", sleep_)
        yield
