"""Job queue with limited concurrency, retries and adoption; safe to kill and restart."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from touchline.core.callbacks import MessageCallback
from touchline.core.clock import Clock, RealClock
from touchline.core.errors import HostError, SubmissionLimitError, SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import JobState
from touchline.run.executors import Executor
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, open_intents
from touchline.slurm.job_view import JobView


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """Result of one job's submission."""

    job: str
    """Job name."""
    job_id: str
    """Job id; empty if there is none."""
    word: str
    """`submitted`, `in the queue already`, `refused`, `later`, `unclear`, `stopped`."""
    reason: str = ""
    """Reason if it was not accepted."""


def begin(
    job: Job,
    executor: Executor,
    ledger: Ledger,
    gpus: tuple[str, ...] = (),
    after: Sequence[str] = (),
    *,
    is_done: Callable[[], bool] = lambda: False,
) -> str | None:
    """Start a job unless it is active. Return its id, or None if there was nothing to do.

    The caller holds the experiment lock; two processes that do not share that lock are separated by the lock in
    the run folder, where the second job ends at once.

    Args:
        after: ids of jobs that must have ended first.
        is_done: check for completed work, called when no job of it is active any more, because it may have finished
            while the scheduler answered.

    Raises:
        SubmissionRejectedError, SubmissionLimitError: nothing was started.
        SubmissionUnknownError: it may have been started; the next `begin` searches for its token first.
        HostError: it cannot be started here.
    """
    settled = settle(job, executor, ledger)
    if settled:
        return settled
    view = executor.query_jobs([job]).get(job.name)
    if view is not None and view.active:
        ledger.record("adopted", job.name, job_id=view.job_id)
        return view.job_id
    if is_done():
        return None
    if executor.trouble:
        # What somebody else has put into the queue would not be seen.
        raise SubmissionLimitError(
            f"{job.name} is not submitted now: {executor.trouble}", hint="retry in a few minutes"
        )
    token = secrets.token_hex(8)
    ledger.record("intent", job.name, token=token, gpus=gpus)
    try:
        job_id = executor.start(job, token, gpus, after)
    except SubmissionUnknownError as fault:
        ledger.record("unclear", job.name, token=token, reason=fault.message)
        raise
    except HostError as fault:  # SubmissionRejectedError and SubmissionLimitError among them: nothing was started
        ledger.record("refused", job.name, token=token, reason=fault.message)
        raise
    ledger.record("submitted", job.name, token=token, job_id=job_id, gpus=gpus)
    for name in job.cohort:
        ledger.record("adopted", name, token=token, job_id=job_id)
    return job_id


def settle(job: Job, executor: Executor, ledger: Ledger) -> str:
    """Resolve open intents. Return the id of this job's intent, or an empty string.

    All open intents of the ledger are searched together, because one query covers them.

    Raises:
        SubmissionUnknownError: SLURM gives no answer, and an intent of this job is open.
    """
    find = executor.find
    if find is None:
        return ""
    intents = open_intents(ledger.entries(), executor.name)
    if not any(intent.job == job.name for intent in intents.values()):
        return ""
    found = find(tuple(intents), max(intent.time_unix for intent in intents.values()))
    for token, intent in intents.items():
        if token in found:
            ledger.record("submitted", intent.job, token=token, job_id=found[token], gpus=intent.gpus)
        else:
            ledger.record("not submitted", intent.job, token=token)
    own = [found[token] for token, intent in intents.items() if intent.job == job.name and token in found]
    return own[-1] if own else ""


STOP_PATIENCE_SECONDS = 120.0
"""Seconds in which jobs may save after Ctrl-C; slower ones continue to save by themselves."""
LATER_SECONDS = 30.0
"""Seconds until a scheduler is asked again after a limit or an unclear answer."""

Slot = tuple[str, ...]
Watch = Callable[[Sequence[Job], Mapping[str, JobView]], None]
Before = Callable[[Job], bool]
After = Callable[[Job, JobView], Sequence[Job]]


def run_jobs(
    jobs: Sequence[Job],
    executor: Executor,
    ledger: Ledger,
    slots: Sequence[Slot],
    watch: Watch,
    *,
    before: Before = lambda job: True,
    after: After = lambda job, view: (),
    on_message: MessageCallback | None = None,
    clock: Clock | None = None,
) -> dict[str, JobView]:
    """Run every job to its end. Return their final views.

    A job with a living attempt, because an earlier command was killed or it was started by hand, is adopted: waited for
    and not started again.

    Args:
        ledger: ledger; the intent is recorded before the start.
        slots: one running job per slot.
        watch: called on every turn with the started jobs and their views.
        before: called before a job starts; False if it is done by now.
        after: called with each ended job; returned jobs are started too, possibly the same again.
        on_message: called with each distinct reason why nothing can be started or queried now.

    Raises:
        KeyboardInterrupt: locally after every running job was asked to save and has ended; a scheduler's jobs continue.
    """
    queue = _Queue(jobs, executor, ledger, slots, before, clock or RealClock(), on_message)
    try:
        while queue.waiting or queue.running:
            queue.start()
            watch(queue.jobs(), queue.views)
            queue.wait()
            for job, view in queue.look():
                # At the front: what a second try teaches its siblings spares them a first one.
                queue.waiting[:0] = after(job, view)
        watch([], queue.views)
    except KeyboardInterrupt:
        if not executor.waits_itself:
            queue.stop(watch)
        raise
    return queue.ended


class _Queue:
    """Queued and running jobs, and free slots."""

    def __init__(
        self,
        jobs: Sequence[Job],
        executor: Executor,
        ledger: Ledger,
        slots: Sequence[Slot],
        before: Before,
        clock: Clock,
        on_message: MessageCallback | None,
    ) -> None:
        self.waiting = list(jobs)
        self.running: dict[str, tuple[Job, Slot]] = {}
        self.ended: dict[str, JobView] = {}
        self.views: dict[str, JobView] = {}
        self._ids: dict[str, str] = {}
        self._over: list[tuple[Job, JobView]] = []
        self._free = list(slots)
        self._executor, self._ledger, self._clock = executor, ledger, clock
        self._before, self._on_message = before, on_message
        self._told: set[str] = set()
        self._not_before = clock.monotonic()
        self._events = len(ledger.entries())

    def jobs(self) -> list[Job]:
        """Return the running jobs."""
        return [job for job, _ in self.running.values()]

    def wait(self) -> None:
        """Sleep until the next turn."""
        self._clock.sleep(self._executor.tick_seconds)

    def start(self) -> None:
        """Start ready jobs in free slots."""
        if not self.waiting or not self._free or self._clock.monotonic() < self._not_before:
            return
        cancelled = {each.job for each in self._ledger.entries()[self._events :] if each.event == "cancel requested"}
        for job in list(self.waiting):
            if not self._free:
                return
            if job.name in cancelled:
                self._drop(job, JobState.CANCELLED, "cancelled before it started")
            elif self._is_ready(job) and not self._begin(job):
                self._not_before = self._clock.monotonic() + LATER_SECONDS
                return

    def look(self) -> list[tuple[Job, JobView]]:
        """Return the newly ended jobs with their views."""
        over, self._over = self._over, []
        if self.running:
            self.views = dict(self._executor.query_jobs(self.jobs()))
            if self._executor.trouble:
                self._say(f"{self._executor.trouble} (retrying later, no change until then)")
        for name, (job, slot) in list(self.running.items()):
            view = self.views.get(name)
            if view is not None and view.active:
                continue
            if view is None:
                view = JobView(job_id=self._ids.get(name, ""), state=JobState.UNKNOWN, active=False, source="none")
            self._ledger.record("ended", name, job_id=view.job_id, state=view.state.value, reason=view.reason)
            del self.running[name]
            self._free.append(slot)
            over.append((job, view))
        if over:
            # There may be room again where a scheduler took no more; SLURM itself needs a moment to see the end.
            self._not_before = min(self._not_before, self._clock.monotonic() + self._executor.tick_seconds)
        self.ended |= {job.name: view for job, view in over}
        return over

    def stop(self, watch: Watch) -> None:
        """Ask running jobs to save, and wait for them."""
        for job in self.jobs():
            self._ledger.record("stop requested", job.name)
        self._executor.stop(self.jobs())
        deadline = self._clock.monotonic() + STOP_PATIENCE_SECONDS
        while self.running and self._clock.monotonic() < deadline:
            watch(self.jobs(), self.views)
            self.wait()
            self.look()

    def _is_ready(self, job: Job) -> bool:
        """Return True if its dependencies have ended; a scheduler with dependencies only needs their ids.

        A job dropped in this turn may be started again, or drop its dependents.
        """
        waiting = {each.name for each in (*self.waiting, *(job for job, _ in self._over))}
        return all(
            name not in waiting and (self._executor.waits_itself or name not in self.running) for name in job.after
        )

    def _begin(self, job: Job) -> bool:
        """Start one job. Return False if no more are accepted now."""
        slot = self._free.pop(0)
        after = [self._ids[name] for name in job.after if name in self.running and self._ids.get(name)]
        try:
            job_id = begin(job, self._executor, self._ledger, slot, after, is_done=lambda: not self._before(job))
        except (SubmissionLimitError, SubmissionUnknownError) as fault:
            self._say(f"{fault.message} (retrying later)")
            self._free.insert(0, slot)
            return False
        except SubmissionRejectedError as fault:
            self._free.insert(0, slot)
            hint = "" if fault.hint is None else f" ({fault.hint})"
            self._drop(job, JobState.FAILED, f"{fault.message}{hint}")
            return True
        if job_id is None:
            self._free.insert(0, slot)
            self._drop(job, JobState.COMPLETED, "done by another")
            return True
        self._ids[job.name] = job_id
        self.waiting.remove(job)
        self.ended.pop(job.name, None)
        self.running[job.name] = (job, slot)
        return True

    def _say(self, sentence: str) -> None:
        if self._on_message is not None and sentence not in self._told:
            self._told.add(sentence)
            self._on_message(sentence)

    def _drop(self, job: Job, state: JobState, reason: str) -> None:
        self.waiting.remove(job)
        view = JobView(job_id="", state=state, active=False, source="ledger", reason=reason)
        self._ledger.record("ended", job.name, state=state.value, reason=reason)
        self._over.append((job, view))
