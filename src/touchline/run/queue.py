"""Jobs in order, as many at a time as may run; what ends may be started again; safe to kill and to start again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from touchline.core.callbacks import MessageCallback
from touchline.core.clock import Clock, RealClock
from touchline.core.errors import SubmissionLimitError, SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import JobState
from touchline.run.ledger import Ledger
from touchline.run.protocol import Executor, Job
from touchline.run.submission import begin
from touchline.slurm.job_view import JobView

STOP_PATIENCE_SECONDS = 120.0
"""How long jobs may take to save after Ctrl-C; slower ones go on saving by themselves."""
LATER_SECONDS = 30.0
"""When a scheduler is asked again that took no more jobs, or gave no clear answer."""

Slot = tuple[str, ...]
Watch = Callable[[Sequence[Job], Mapping[str, JobView]], None]
Before = Callable[[Job], bool]
After = Callable[[Job, JobView], Sequence[Job]]


def as_it_is(job: Job) -> bool:
    """For work that is always to be done."""
    del job
    return True


def nothing_more(job: Job, view: JobView) -> Sequence[Job]:
    """For work that is not tried again."""
    del job, view
    return ()


def run_jobs(
    jobs: Sequence[Job],
    executor: Executor,
    ledger: Ledger,
    slots: Sequence[Slot],
    watch: Watch,
    *,
    before: Before = as_it_is,
    after: After = nothing_more,
    on_message: MessageCallback | None = None,
    clock: Clock | None = None,
) -> dict[str, JobView]:
    """Run every job to its end and give how each one ended.

    A job whose attempt is alive already, because an earlier call was killed or it was started by hand, is adopted:
    waited for, not started again.

    Args:
        jobs: what to do, in order.
        executor: how.
        ledger: where it is recorded; the intent before the start.
        slots: one job at a time for each.
        watch: called on every turn with the jobs that were started and how they stand.
        before: called with each job before it starts; False when it is done by now, by whomever.
        after: called with each job that has ended; the jobs that it gives are started too, itself perhaps again.
        on_message: receives why nothing can be started or told at the moment, each reason once.
        clock: what tells the time and waits.

    Raises:
        KeyboardInterrupt: here after every running job was asked to save and has ended; a scheduler's jobs go on.
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
    """What waits, what runs, and where there is room."""

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
        """What runs."""
        return [job for job, _ in self.running.values()]

    def wait(self) -> None:
        """Until the next turn."""
        self._clock.sleep(self._executor.tick_seconds)

    def start(self) -> None:
        """Start what may start, as far as there is room."""
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
        """The jobs that have ended since, and how."""
        over, self._over = self._over, []
        if self.running:
            self.views = dict(self._executor.look(self.jobs()))
            if self._executor.trouble:
                self._say(f"{self._executor.trouble}; asked again later, and until then everything stands as it was")
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
        """Ask what runs to save, and wait for it."""
        for job in self.jobs():
            self._ledger.record("stop requested", job.name)
        self._executor.stop(self.jobs())
        deadline = self._clock.monotonic() + STOP_PATIENCE_SECONDS
        while self.running and self._clock.monotonic() < deadline:
            watch(self.jobs(), self.views)
            self.wait()
            self.look()

    def _is_ready(self, job: Job) -> bool:
        """Whether what it comes after is over; a scheduler that can wait by itself needs only to know those jobs.

        What was dropped in this turn may be started again, or take with it what builds on it.
        """
        waiting = {each.name for each in (*self.waiting, *(job for job, _ in self._over))}
        return all(
            name not in waiting and (self._executor.waits_itself or name not in self.running) for name in job.after
        )

    def _begin(self, job: Job) -> bool:
        """Start one; False where no more is taken now."""
        slot = self._free.pop(0)
        after = [self._ids[name] for name in job.after if name in self.running and self._ids.get(name)]
        try:
            job_id = begin(job, self._executor, self._ledger, slot, after, is_done=lambda: not self._before(job))
        except (SubmissionLimitError, SubmissionUnknownError) as fault:
            self._say(f"{fault.message}; tried again later")
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
        """A job that ended before it began."""
        self.waiting.remove(job)
        view = JobView(job_id="", state=state, active=False, source="ledger", reason=reason)
        self._ledger.record("ended", job.name, state=state.value, reason=reason)
        self._over.append((job, view))
