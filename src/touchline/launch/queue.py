"""The queue of one machine: jobs in order, as many at a time as there are slots; safe to kill and to start again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from touchline.domain.status import JobState
from touchline.launch.ledger import Ledger
from touchline.launch.protocol import Executor, Job

STOP_PATIENCE_SECONDS = 120.0
"""How long jobs may take to save after Ctrl-C; slower ones go on saving by themselves."""

Slot = tuple[str, ...]
Watch = Callable[[Sequence[Job]], None]


def run_jobs(
    jobs: Sequence[Job], executor: Executor, ledger: Ledger, slots: Sequence[Slot], watch: Watch
) -> dict[str, JobState]:
    """Run every job once and give each one's final state.

    A job whose attempt is alive already, because an earlier call was killed or it was started by hand, is adopted:
    waited for, not started again.

    Args:
        jobs: what to do, in order.
        executor: how.
        ledger: where it is recorded; the intent before the start.
        slots: one job at a time for each.
        watch: called on every turn with the jobs that run.

    Raises:
        KeyboardInterrupt: after every running job was asked to save and has ended.
    """
    waiting = list(jobs)
    running: dict[str, tuple[Job, Slot]] = {}
    free = list(slots)
    ended: dict[str, JobState] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop(0)
                _begin(job, slot, executor, ledger)
                running[job.name] = (job, slot)
            watch([job for job, _ in running.values()])
            time.sleep(executor.tick_seconds)
            seen = executor.look([job for job, _ in running.values()])
            for name, (_, slot) in list(running.items()):
                view = seen.get(name)
                if view is None or not view.active:
                    ended[name] = JobState.UNKNOWN if view is None else view.state
                    ledger.record("ended", name, state=ended[name].value)
                    del running[name]
                    free.append(slot)
        watch([])
    except KeyboardInterrupt:
        _stop([job for job, _ in running.values()], executor, ledger, watch)
        raise
    return ended


def _begin(job: Job, slot: Slot, executor: Executor, ledger: Ledger) -> None:
    view = executor.look([job]).get(job.name)
    if view is not None and view.active:
        ledger.record("adopted", job.name)
        return
    token = secrets.token_hex(6)
    ledger.record("intent", job.name, token=token, gpus=slot)
    job_id = executor.start(job, token, slot)
    ledger.record("submitted", job.name, token=token, job_id=job_id, gpus=slot)


def _stop(jobs: Sequence[Job], executor: Executor, ledger: Ledger, watch: Watch) -> None:
    for job in jobs:
        ledger.record("stop requested", job.name)
    executor.stop(jobs)
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    left = list(jobs)
    while left and time.monotonic() < deadline:
        watch(left)
        time.sleep(executor.tick_seconds)
        seen = executor.look(left)
        for job in list(left):
            view = seen.get(job.name)
            if view is None or not view.active:
                ledger.record("ended", job.name, state=(JobState.UNKNOWN if view is None else view.state).value)
                left.remove(job)
