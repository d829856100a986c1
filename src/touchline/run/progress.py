"""Progress of a command's jobs, from their files: each active one, and the total with the remaining time."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from touchline.core.estimate import COVERAGE
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import JobState
from touchline.data.metrics import StepRow, timed_steps, token_rate
from touchline.estimate.totals import QueuedJob, scale_quantity, sum_quantities, time_of_queue
from touchline.experiment.plan import PlannedRun
from touchline.run.jobs import Job, is_training_done, is_training_to_end, missing_evaluations
from touchline.run.tails import ACTIVE_TAIL_BYTES, NOT_MEASURED, Recent, read_recent, read_text_tail
from touchline.slurm.job_view import JobKind, JobName, JobView, evaluation_name

if TYPE_CHECKING:
    from touchline.run.loaded_plan import LoadedPlan

_TAIL_BYTES = 8192
NOT_ESTIMATED = Missing(missing="not estimated")
_EVALUATED = re.compile(r"^(\S+) (\S+): (\d+)/(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobProgress:
    """Progress of one job."""

    name: str
    """Job name: a run, or `evaluate 135M`."""
    done: int
    total: int
    """Total steps or items; 0 if unknown."""
    text: str
    """Text next to the bar: loss, item, or reason for waiting."""
    left: Measured = NOT_ESTIMATED
    """Predicted remaining seconds."""
    run: str | None = None
    """Run that an evaluation is working on."""
    waits: bool = False
    """Whether it is queued by a scheduler."""
    is_total: bool = False
    """Whether this is the sum over all jobs of the command; `done` and `total` then count jobs."""


JobProgressCallback = Callable[[Sequence[JobProgress]], None]


def evaluation_progress(job: Job) -> JobProgress:
    """Read the last `run checkpoint: done/total` line of a job's newest output."""
    outputs = sorted(job.folder.glob(job.output.replace("{job}", "*")), key=lambda path: path.stat().st_mtime)
    if outputs and (found := _EVALUATED.findall(read_text_tail(outputs[-1], _TAIL_BYTES))):
        run, checkpoint, done, total = found[-1]
        return JobProgress(name=job.name, done=int(done), total=int(total), text=f"{run} {checkpoint}", run=run)
    return JobProgress(name=job.name, done=0, total=0, text="starting")


ENOUGH_STEPS = 10
"""Number of steps from which only the measurement counts."""
_Z = 1.6449
"""Half-width of a 90% interval in standard deviations."""
_MAD_TO_SD = 1.4826
"""Ratio of standard deviation to median absolute deviation for a normal distribution."""
_DRIFT = 0.1
"""Relative drift of the step time between parts of a training: sequence lengths, other load."""
_ENOUGH_FOR_ALL = 50
"""Number of steps from which the overall mean is unaffected by the slow first ones."""


_OUTLIER = 10.0
"""Multiple of the median at which a step time is capped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds per step: center, and spread of its logarithm."""

    seconds: float
    spread: float
    """Standard deviation of the logarithm of the mean over the steps to come."""
    steps: int
    """Number of measured steps; 0 if from the plan."""

    @property
    def low(self) -> float:
        """Lower end of the 90% interval."""
        return self.seconds * math.exp(-_Z * self.spread)

    @property
    def high(self) -> float:
        """Upper end of the 90% interval."""
        return self.seconds * math.exp(_Z * self.spread)


def steady(recent: Recent) -> list[StepRow]:
    """Return the last steps that rates are computed from."""
    return timed_steps(recent.steps, is_cut=not recent.whole)


def measured_pace(steps: Sequence[StepRow]) -> Pace | None:
    """Return the typical step time with a robust spread; None without steps."""
    if not steps:
        return None
    middle = statistics.median(step.seconds for step in steps)
    logs = [math.log(step.seconds / middle) for step in steps]
    spread = _MAD_TO_SD * statistics.median(abs(value) for value in logs)
    # Half a dozen steps in a row that happen to be alike say little about the others.
    own = max(spread, _DRIFT) / math.sqrt(len(steps))
    mean = statistics.fmean(min(step.seconds, _OUTLIER * middle) for step in steps)
    # Steps of unlike lengths: the time of many is their mean's, not their median's.
    typical = mean if len(steps) >= ENOUGH_STEPS else middle
    return Pace(seconds=typical, spread=math.hypot(own, _DRIFT), steps=len(steps))


def with_history(pace: Pace | None, recent: Recent) -> Pace | None:
    """Average the pace with that of the whole training; a difference widens the spread."""
    last = recent.steps[-1] if recent.steps else None
    if pace is None or last is None or last.step < _ENOUGH_FOR_ALL or last.elapsed_seconds <= 0:
        return pace
    apart = math.log(last.elapsed_seconds / last.step / pace.seconds)
    return Pace(seconds=pace.seconds * math.exp(apart / 2), spread=math.hypot(pace.spread, apart / 2), steps=pace.steps)


def planned_pace(run: PlannedRun) -> Pace | None:
    """Return the planned interval of a step as a spread of its logarithm."""
    plan = run.seconds_per_step
    if isinstance(plan, Missing) or plan.value <= 0:
        return None
    low, high = plan.low or plan.value, plan.high or plan.value
    spread = math.log(high / low) / (2 * _Z) if 0 < low < high else 1.0
    return Pace(seconds=plan.value, spread=max(spread, _DRIFT), steps=0)


def combined(measured: Pace | None, planned: Pace | None) -> Pace | None:
    """Return the measured pace; with few steps, the mean with the plan's weighted by precision."""
    if measured is None or planned is None:
        return measured or planned
    if measured.steps >= ENOUGH_STEPS:
        return measured
    weights = measured.spread**-2, planned.spread**-2
    share = weights[0] / sum(weights)
    middle = share * math.log(measured.seconds) + (1 - share) * math.log(planned.seconds)
    # The two may disagree by more than either admits; then neither is sure.
    apart = abs(math.log(measured.seconds / planned.seconds)) * math.sqrt(share * (1 - share))
    return Pace(seconds=math.exp(middle), spread=math.hypot(sum(weights) ** -0.5, apart), steps=measured.steps)


def seconds_left(run: PlannedRun, recent: Recent, waited_seconds: float | None) -> Measured:
    """Return the predicted time until the training ends if it runs from now on.

    Args:
        recent: its last metrics rows.
        waited_seconds: seconds since its attempt began; None if none is running.
    """
    if run.batches is None:
        return Missing(missing="not trained")
    left = run.batches.steps - recent.steps_done
    if not recent.steps and recent.steps_done == 0:
        return _whole(run, waited_seconds)
    pace = combined(with_history(measured_pace(steady(recent)), recent), planned_pace(run))
    if pace is None:
        return Missing(missing="no step has been measured, and the plan has no estimate")
    left = max(left, 0)
    share = left / run.batches.steps
    value, low, high = _pauses(run, recent, share)
    rests = f"{left} steps at the pace of the last {pace.steps}" if pace.steps else f"{left} steps as planned"
    if 0 < pace.steps < ENOUGH_STEPS and planned_pace(run) is not None:
        rests += ", weighted with the plan's"
    return Quantity(
        value=left * pace.seconds + value,
        unit="s",
        low=left * pace.low + low,
        high=left * pace.high + high,
        coverage=COVERAGE,
        method=f"{rests}, with validation and saving",
    )


def _whole(run: PlannedRun, waited_seconds: float | None) -> Measured:
    """Return the planned time minus the elapsed time, before the first step."""
    plan = run.train_seconds
    if isinstance(plan, Missing):
        return plan
    passed = waited_seconds or 0.0
    low, high = plan.low if plan.low is not None else plan.value, plan.high if plan.high is not None else plan.value
    return Quantity(
        value=max(plan.value - passed, 0.0),
        unit="s",
        low=max(low - passed, 0.0),
        high=max(high - passed, 0.0),
        coverage=plan.coverage,
        method="as planned, minus elapsed time" if passed else "as planned",
    )


def _pauses(run: PlannedRun, recent: Recent, share: float) -> tuple[float, float, float]:
    """Return (center, low, high) of future validations and savings; validations as measured, else as planned."""
    value = low = high = 0.0
    done = recent.steps_done / run.batches.steps if run.batches is not None and run.batches.steps else 0.0
    for name in ("validation", "saving"):
        if name == "validation" and recent.validation_seconds > 0 and done > 0:
            seconds = recent.validation_seconds / done * share
            value, low, high = value + seconds, low + seconds, high + seconds
            continue
        part = run.time_parts.get(name)
        if isinstance(part, Quantity):
            value += part.value * share
            low += (part.low if part.low is not None else part.value) * share
            high += (part.high if part.high is not None else part.value) * share
    return value, low, high


def tokens_per_second(recent: Recent) -> Measured:
    """Return non-padding tokens per wall-clock second over the last steps."""
    steps = steady(recent)
    if not steps:
        return NOT_MEASURED
    return Quantity(
        value=token_rate(steps),
        unit="tokens/s",
        token_unit="real",
        aggregation="mean",
        method=f"last {len(steps)} steps",
    )


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
        return self._evaluation(job) if job.is_evaluation else self._training(job)

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
