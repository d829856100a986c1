"""Progress of a command's jobs: each active one, and the total with the remaining time."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from touchline.core.quantity import Measured, Quantity
from touchline.core.status import JobState
from touchline.estimate.totals import QueuedJob, scale_quantity, sum_quantities, time_of_queue
from touchline.experiment.plan import PlannedRun
from touchline.run.jobs import is_training_done, is_training_to_end, missing_evaluations
from touchline.run.pace import seconds_left
from touchline.run.planning import LoadedPlan
from touchline.run.progress import JobProgress, evaluation_progress
from touchline.run.protocol import Job
from touchline.run.recent import ACTIVE_TAIL_BYTES, read_recent
from touchline.run.selection import JobProgressCallback
from touchline.slurm.job_view import JobKind, JobName, JobView, evaluation_name

TOTAL = "total"
"""Name of the total row."""
_NOTHING_LEFT = Quantity(value=0.0, unit="s", low=0.0, high=0.0)
"""Time left of a run that is trained in another one's job."""


class Progress:
    """Remaining work of a command; `watch` is called on every turn of the queue."""

    def __init__(
        self,
        planned: LoadedPlan,
        runs: Sequence[PlannedRun],
        on_progress: JobProgressCallback,
        *,
        at_once: int,
        train: bool,
        epochs: str | None,
    ) -> None:
        """List the missing training and evaluation jobs.

        Args:
            on_progress: called with the rows.
            at_once: number of jobs running at the same time, if known.
            train: whether missing runs are done.
            epochs: checkpoints to evaluate instead of those of experiment.yaml.
        """
        self._runs = {run.name: run for run in runs}
        self._on_progress = on_progress
        self._at_once = max(at_once, 1)
        self._slots = planned.plan.machine.slots
        self._after = {run.name: run.link.parent for run in runs if run.link is not None}
        self._shared = planned.plan.executor == "local"
        self._left: dict[str, Measured] = {}
        self._began: dict[str, float] = {}
        self._active: set[str] = set()
        started: set[str] = set()
        seen: set[tuple[str, ...]] = set()
        for run in runs:
            trains = train and run.batches is not None and not is_training_done(planned.folder, run)
            if trains:
                cohort = planned.plan.cohort_of(run.name)
                first = cohort is None or cohort.runs not in seen
                seen |= set() if cohort is None else {cohort.runs}
                alone = run.train_seconds if cohort is None else cohort.train_seconds
                self._left[run.name] = alone if first else _NOTHING_LEFT
            is_asked = (trains and run.is_evaluated) or bool(missing_evaluations(planned, run, epochs))
            if is_asked and is_training_to_end(planned.folder, run):
                own = [] if self._shared and run.model in started else [run.evaluate_startup_seconds]
                started.add(run.model)
                self._left[evaluation_name(run.name)] = sum_quantities([run.evaluate_seconds, *own], "s")
        self._all = len(self._left)

    def watch(self, jobs: Sequence[Job], seen: Mapping[str, JobView]) -> None:
        """Report every active job, and the total."""
        rows = [self._row(job, seen.get(job.name)) for job in jobs]
        names = {name for job in jobs for name in (*self._parts(job.name), *job.cohort)}
        for name in self._active - names:
            self._left.pop(name, None)
        self._active = names
        self._on_progress([*(row for row in rows if not row.waits), self._total(rows)])

    def _row(self, job: Job, view: JobView | None) -> JobProgress:
        if view is not None and view.state is JobState.PENDING:
            return JobProgress(name=job.name, done=0, total=0, text=view.reason, waits=True)
        return self._evaluation(job) if JobName.parse(job.name).kind is JobKind.EVALUATION else self._training(job)

    def _training(self, job: Job) -> JobProgress:
        run = self._runs[job.name]
        recent = read_recent(job.folder / "metrics.jsonl", ACTIVE_TAIL_BYTES)
        began = self._began.setdefault(job.name, time.monotonic())
        left = seconds_left(run, recent, time.monotonic() - began)
        self._left |= {job.name: left} | dict.fromkeys(job.cohort, _NOTHING_LEFT)
        loss = recent.steps[-1].loss if recent.steps else math.nan
        return JobProgress(
            name=job.name if not job.cohort else f"{job.name} and {len(job.cohort)} more",
            done=recent.steps_done,
            total=0 if run.batches is None else run.batches.steps,
            text="starting" if not recent.steps else f"loss {loss:.3f}" if math.isfinite(loss) else "loss NaN",
            left=left,
        )

    def _evaluation(self, job: Job) -> JobProgress:
        """Read the current item of an evaluation; runs that share its process are done in order."""
        row = evaluation_progress(job)
        parts = self._parts(job.name)
        run = row.run
        current = None if run is None else evaluation_name(run)
        if run is not None and current in parts and row.total:
            for name in parts[: parts.index(current)]:
                self._left.pop(name, None)
            self._left[current] = scale_quantity(self._runs[run].evaluate_seconds, 1 - row.done / row.total, "s")
        return replace(row, left=sum_quantities([self._left[name] for name in parts if name in self._left], "s"))

    def _parts(self, name: str) -> list[str]:
        """Return the work items of a job: itself, or the evaluations of all runs of a base model."""
        job = JobName.parse(name)
        if job.kind is JobKind.TRAINING or not self._shared:
            return [name]
        return [evaluation_name(run.name) for run in self._runs.values() if run.model == job.subject]

    def _evenly(self) -> Measured:
        """Return the time left if no device is ever idle."""
        at_once = min(self._at_once, max(len(self._left), 1))
        return scale_quantity(sum_quantities(self._left.values(), "s"), 1 / at_once, "s")

    def _in_slots(self) -> Measured:
        """Return the time left in the slots of a CPU: runs in order, those at work first, then evaluations."""
        trainings = sorted(
            (name for name in self._left if name in self._runs), key=lambda name: name not in self._active
        )
        jobs = [QueuedJob(name=name, after=self._after.get(name), seconds=self._left[name]) for name in trainings]
        evaluations = [left for name, left in self._left.items() if name not in self._runs]
        return sum_quantities([time_of_queue(jobs, self._slots), *evaluations], "s")

    def _total(self, rows: Collection[JobProgress]) -> JobProgress:
        waiting = sum(row.waits for row in rows)
        left = self._in_slots() if self._slots > 1 else self._evenly()
        return JobProgress(
            name=TOTAL,
            done=self._all - len(self._left),
            total=self._all,
            text=f"{waiting} queued" if waiting else "",
            left=left,
            is_total=True,
        )
