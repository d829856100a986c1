"""How the fake's jobs come and go in simulated time: no process runs and nobody waits.

When a job starts, is told to stop, dies with its node or is queued again follows SLURM 22.05 as it was watched.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.slurm.fake_jobs import NEVER, End, FakeJob, Life, SimClock, Work


class FakeCluster:
    """Nodes, jobs and the passing of time."""

    def __init__(self, clock: SimClock, make_work: Callable[[FakeJob, float], Work]) -> None:
        self.clock = clock
        self.jobs: list[FakeJob] = []
        self.nodes: dict[str, bool] = {"nodea": True, "nodeb": True}
        """Whether each node answers."""
        self.forgotten: list[tuple[str, Work]] = []
        """What still runs on nodes that are cut off."""
        self.gpus_per_node = 4
        self.accounting: list[tuple[float, int, int, FakeJob, Life]] = []
        """(when sacct shows it, job, life, the job, how it stood)."""
        self.accounting_lag = 1.5
        self.accounting_whole = 4.5
        """So long after the submission the accounting knows no more of a job than its id and how it stands."""
        self.min_job_age = 300.0
        self.requeue_wait = 5.0
        self.kill_wait = 3.0
        self.node_timeout = 10.0
        self.start_delay = 0.3
        self.complete_delay = 0.2
        self.limit_grain = 30.0
        """The controller looks this often for jobs past their limits."""
        self.changed: Callable[[FakeJob], None] = lambda job: None
        """Told of every change of a job's state."""
        self.accepted: Callable[[FakeJob], None] = lambda job: None
        """Told of every job that sbatch took."""
        self._make_work = make_work
        self._next_id = 4001
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._advanced = clock.true
        clock.passing.append(self.advance)

    def take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def at(self, time: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._timers, (time, next(self._order), action))

    def add(self, job: FakeJob) -> None:
        self.jobs.append(job)
        self._note(job)
        self._schedule(self.clock.true)

    def advance(self, now: float) -> None:
        """Let happen what is due; the clock goes along."""
        while True:
            due, job = min(
                ((self._due(each), each) for each in self.jobs if (each.active or each.listed) and not each.placed),
                key=lambda pair: pair[0],
                default=(NEVER, None),
            )
            timer = self._timers[0][0] if self._timers else NEVER
            alone = min((work.due() for _, work in self.forgotten), default=NEVER)
            if min(due, timer, alone) > now:
                break
            if alone < min(due, timer):
                self._advanced = max(self._advanced, alone)
                self.clock.true = max(self.clock.true, self._advanced)
                self.forgotten = [pair for pair in self.forgotten if pair[1].run(self._advanced) is None]
                continue
            self._advanced = max(self._advanced, min(due, timer))
            self.clock.true = max(self.clock.true, self._advanced)
            if timer <= due:
                heapq.heappop(self._timers)[2](self._advanced)
            elif job is not None:
                self._happen(job, self._advanced)
            self._schedule(self._advanced)
        self._advanced = max(self._advanced, now)

    def touch(self) -> None:
        self.advance(self.clock.true)
        self._schedule(self.clock.true)

    def cancel(self, job: FakeJob, now: float) -> None:
        if job.state == "PENDING":
            self._end(job, now, "CANCELLED", job.life.reason)
        elif job.state == "RUNNING":
            self._stop(job, now, "CANCELLED", "None")
        elif job.state == "COMPLETING" and job.after == "REQUEUE":
            job.after = "CANCELLED"

    def queue_again(self, job: FakeJob, now: float, record: str = "REQUEUED") -> bool:
        """scontrol requeue; False where the job does not allow it."""
        if not job.requeue:
            return False
        if job.state == "RUNNING":
            self._stop(job, now, "REQUEUE", "None", record=record)
        elif job.state == "COMPLETING":
            job.after = "REQUEUE"
            job.life.state = "COMPLETING"
        else:
            self._requeue(job, now, record)
        return True

    def fail_node(
        self, name: str, now: float, *, back: float | None = None, at_once: bool = False, cut_off: bool = False
    ) -> None:
        """A node dies with all that runs on it; the controller notices later, unless it was told.

        `cut_off`: only the network is gone; what runs there goes on until the node is back, and is killed then.
        """
        self.nodes[name] = False
        for job in self.on(name):
            if job.work is not None and cut_off:
                self.forgotten.append((name, job.work))
            elif job.work is not None:
                job.work.vanish(now)
            job.work = None
        self.at(now + (0.0 if at_once else self.node_timeout), lambda time: self._node_lost(name, time))
        if back is not None:
            self.at(now + back, lambda time: self.restore_node(name))

    def restore_node(self, name: str) -> None:
        """The node is there again; jobs that the controller still counts on it died with it."""
        self._node_lost(name, self._advanced)
        for node, work in self.forgotten:
            if node == name:
                work.vanish(self._advanced)
        self.forgotten = [pair for pair in self.forgotten if pair[0] != name]
        self.nodes[name] = True

    def preempt(self, job: FakeJob, now: float) -> None:
        if job.state == "RUNNING":
            self._stop(job, now, "REQUEUE" if job.requeue else "PREEMPTED", "None", record="PREEMPTED")

    def kill(self, job: FakeJob, now: float, code: int = 0, number: int = 9) -> None:
        """Its processes die at once: kill -9, or out of memory."""
        if job.state == "RUNNING" and job.work is not None:
            job.work.vanish(now)
            job.work = None
            self._finished(job, now, End(code=code, signal=number))

    def on(self, node: str) -> Iterator[FakeJob]:
        return (job for job in self.jobs if job.life.node == node and job.state in ("RUNNING", "COMPLETING"))

    def _due(self, job: FakeJob) -> float:
        if job.state == "PENDING":
            return min(job.start_due, job.begin if job.begin > self._advanced else NEVER)
        if job.state == "RUNNING":
            work = NEVER if job.work is None else job.work.due()
            return min(work, job.limit_at, job.warn_at)
        if job.state == "COMPLETING":
            work = NEVER if job.work is None else job.work.due()
            return min(job.done_at, job.kill_at, work)
        if job.listed and job.life.ended is not None:
            return job.life.ended + self.min_job_age
        return NEVER

    def _happen(self, job: FakeJob, now: float) -> None:
        if job.state == "PENDING":
            if job.start_due <= now:
                self._start(job, now)
        elif job.state == "RUNNING":
            self._running(job, now)
        elif job.state == "COMPLETING":
            end = job.work.run(now) if job.work is not None and job.work.due() <= now else None
            if end is not None:
                job.life.end = end if job.after != "REQUEUE" else job.life.end
                job.work, job.kill_at, job.done_at = None, NEVER, now + self.complete_delay
            elif job.kill_at <= now:
                if job.work is not None:
                    job.work.vanish(now)
                    job.life.end = End(code=0, signal=9) if job.after != "REQUEUE" else job.life.end
                job.work, job.kill_at, job.done_at = None, NEVER, now + self.complete_delay
            elif job.done_at <= now:
                self._completed(job, now)
        else:
            job.listed = False

    def _running(self, job: FakeJob, now: float) -> None:
        work = job.work
        if work is not None and work.due() <= now:
            end = work.run(now)
            if end is not None and job.state == "RUNNING":
                job.work = None
                self._finished(job, now, end)
        elif job.warn_at <= now:
            job.warn_at = NEVER
            if work is not None:
                work.signal("USR1", now)
        elif job.limit_at <= now:
            self._stop(job, now, "TIMEOUT", "TimeLimit")

    def _start(self, job: FakeJob, now: float) -> None:
        node = self._room(job)
        job.start_due = NEVER
        if node is None:
            return
        job.life.state, job.life.reason, job.life.node, job.life.started = "RUNNING", "None", node, now
        limit = now + job.limit_seconds
        job.limit_at = limit + (-limit % self.limit_grain if self.limit_grain else 0.0)
        if job.signal_seconds is not None:
            job.warn_at = max(now + 1.0, limit - job.signal_seconds - 30.0)
        job.work = self._make_work(job, now)
        self._note(job)

    def _stop(self, job: FakeJob, now: float, state: str, reason: str, record: str = "") -> None:
        """TERM to all its processes, KILL to what is left."""
        job.life.state, job.life.reason, job.after = "COMPLETING", reason, state
        job.life.ended = now
        job.warn_at = job.limit_at = NEVER
        if state == "REQUEUE":
            # The accounting has the record that was ended by the requeue at once.
            job.life.end = End(code=0)
            self._note(job, replace(job.life, state=record or "REQUEUED"))
        if job.work is not None and self.nodes[job.life.node]:
            job.work.signal("TERM", now)
            job.kill_at = now + self.kill_wait
        else:
            job.kill_at = now + self.kill_wait
        self.changed(job)

    def _finished(self, job: FakeJob, now: float, end: End) -> None:
        job.warn_at = job.limit_at = NEVER
        job.life.end = end
        state = "COMPLETED" if end == End(code=0) else "FAILED"
        reason = {"COMPLETED": "None"}.get(state, "JobLaunchFailure" if end.signal == 9 else "NonZeroExitCode")
        if end.signal == 125:
            state, reason = "OUT_OF_MEMORY", "OutOfMemory"
        job.after, job.life.reason, job.life.state, job.life.ended = state, reason, "COMPLETING", now
        job.done_at = now + self.complete_delay
        self.changed(job)

    def _completed(self, job: FakeJob, now: float) -> None:
        job.done_at = NEVER
        if job.after == "REQUEUE":
            if job.life.state == "COMPLETING":
                self._requeue(job, now, None)
            return
        ended = job.life.ended
        self._end(job, now if ended is None else ended, job.after, job.life.reason)

    def _requeue(self, job: FakeJob, now: float, record: str | None) -> None:
        """Into the queue again; `record` is what the accounting says of the life that is over."""
        if record is not None:
            job.life.ended = now if job.life.ended is None else job.life.ended
            job.life.state = record
            self._note(job)
        job.earlier.append(job.life)
        ran = job.life.started is not None
        job.life = Life(submitted=now, reason="BeginTime")
        job.restarts += 1 if ran else 0
        job.begin = max(job.begin, now + self.requeue_wait)
        job.after, job.work, job.listed, job.start_due = "", None, True, NEVER
        job.limit_at = job.warn_at = job.kill_at = job.done_at = NEVER
        self._note(job)

    def _end(self, job: FakeJob, now: float, state: str, reason: str) -> None:
        job.life.state, job.life.reason = state, reason
        job.life.ended = now
        job.work, job.start_due = None, NEVER
        self._note(job)

    def _node_lost(self, name: str, now: float) -> None:
        if self.nodes[name]:
            return
        for job in list(self.on(name)):
            if job.state == "RUNNING":
                job.limit_at = job.warn_at = NEVER
                job.life.ended = now
                if job.requeue:
                    self._requeue(job, now, "NODE_FAIL")
                else:
                    self._end(job, now, "NODE_FAIL", "NodeDown")
            else:
                self._completed(job, now)

    def _schedule(self, now: float) -> None:
        for job in self.jobs:
            if job.state != "PENDING" or job.placed:
                continue
            reason = self._waits(job, now)
            if not reason and job.start_due == NEVER:
                job.start_due = now + self.start_delay
            elif reason:
                job.start_due = NEVER
            if reason != job.life.reason and (reason or job.life.reason not in ("Priority", "Resources")):
                job.life.reason = reason or "None"
                self._note(job)

    def _waits(self, job: FakeJob, now: float) -> str:
        """Why a job may not start; empty when it may."""
        if job.held:
            return "JobHeldUser"
        if job.impossible:
            return job.impossible
        if any(str(each.raw) in job.depends and each.active for each in self.jobs):
            return "Dependency"
        if job.begin > now:
            return "BeginTime"
        if self._room(job) is None:
            self._make_room(job, now)
            return "Resources"
        return ""

    def _room(self, job: FakeJob) -> str | None:
        for name, answers in self.nodes.items():
            if not answers or (job.node_wanted and job.node_wanted != name):
                continue
            if sum(each.gpus for each in self.on(name)) + job.gpus <= self.gpus_per_node:
                return name
        return None

    def _make_room(self, job: FakeJob, now: float) -> None:
        if job.partition == "preemptible":
            return
        for name in self.nodes:
            if job.node_wanted in ("", name) and self.nodes[name]:
                for each in list(self.on(name)):
                    if each.partition == "preemptible" and each.state == "RUNNING":
                        self.preempt(each, now)

    def _note(self, job: FakeJob, life: Life | None = None) -> None:
        seen = replace(job.life) if life is None else life
        self.accounting.append((self._advanced + self.accounting_lag, id(job), len(job.earlier), job, seen))
        self.changed(job)
