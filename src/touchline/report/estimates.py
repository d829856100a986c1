"""Predicted and measured: each prediction of the plan with the measured value, compared if both are of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.status import TrainingOutcome
from touchline.core.units import in_unit, plural
from touchline.estimate.totals import queued_jobs, sum_quantities, time_of_queue
from touchline.experiment.plan import Cohort, Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.report.facts import evaluation_seconds, measured_of
from touchline.report.report import EstimateRow
from touchline.results.run_result import AttemptResult, RunResult
from touchline.results.verification_types import RunStorage, Verification

CLOCK_TICK = 1.0  # Resolution in seconds of the times in an .eval log
TRAINING, STEP, EVALUATION, MEMORY, DISK = "training", "seconds per step", "evaluation", "peak memory", "disk"
GAIN = "gain"


def estimate_rows(plan: Plan | None, runs: Sequence[RunResult], verification: Verification) -> tuple[EstimateRow, ...]:
    """Return every figure that the plan or a measurement has, by run."""
    if plan is None:
        return ()
    planned = {run.name: run for run in plan.runs}
    storage = {each.run: each for each in verification.storage.runs}
    rows = [row for run in runs if run.name in planned for row in _rows(planned[run.name], run, storage.get(run.name))]
    rows += [row for cohort in plan.cohorts for row in _cohort(cohort, plan, runs)]
    rows += _slots(plan, runs)
    return tuple(row for row in rows if not (isinstance(row.predicted, Missing) and isinstance(row.measured, Missing)))


def _cohort(cohort: Cohort, plan: Plan, runs: Sequence[RunResult]) -> Iterator[EstimateRow]:
    """Yield the rows of runs that trained side by side from start to end: their time, memory, and the gain over the
    predicted times of separate trainings."""
    own = [run for run in runs if run.name in cohort.runs]
    if len(own) < len(cohort.runs) or any({run.name, *run.cohort} != set(cohort.runs) for run in own):
        return
    lasted, clean = _training(own[0])
    name, together = own[0].name, f", {len(own)} runs side by side"
    yield _row(name, TRAINING + together, cohort.train_seconds, lasted, comparable=clean)
    memory = _memory(name, cohort.peak_memory, own[0].peak_memory)
    yield replace(memory, quantity=memory.quantity + together)
    alone = sum_quantities([run.train_seconds for run in plan.runs if run.name in cohort.runs], "s")
    gain: Measured = Missing(missing="the times of separate runs are not predicted")
    if clean and isinstance(alone, Quantity) and isinstance(lasted, Quantity):
        method = "predicted times of separate runs over the measured time"
        gain = Quantity(value=alone.value / lasted.value, unit="times", method=method)
    yield _row(name, GAIN + together, cohort.gain, gain, comparable=False)


def _slots(plan: Plan, runs: Sequence[RunResult]) -> Iterator[EstimateRow]:
    """Yield the gain of all runs in slots: from the first start to the last end, against the predicted time one
    after the other, which is the planned time in slots times the predicted gain."""
    planned = [run for run in plan.runs if run.train is not None]
    names = {run.name for run in planned}
    own = [run for run in runs if run.name in names]
    if plan.machine.slots < 2 or isinstance(plan.slots_gain, Missing) or len(own) < len(names):
        return
    in_slots = time_of_queue(queued_jobs(planned, {}), plan.machine.slots)
    attempts = [attempt for run in own for attempt in run.attempt_list if not attempt.superseded]
    gain: Measured = Missing(missing="not every run was one attempt, with all at the same time")
    lasted = _span(attempts)
    clean = len(attempts) == len(own) and all(run.outcome is TrainingOutcome.COMPLETE for run in own)
    if clean and lasted is not None and isinstance(in_slots, Quantity):
        alone = in_slots.value * plan.slots_gain.value
        method = "predicted time of all runs one after the other over the measured time"
        gain = Quantity(value=alone / lasted, unit="times", method=method)
    what = f"{GAIN}, {len(own)} runs, {plan.machine.slots} at a time"
    yield _row(own[0].name, what, plan.slots_gain, gain)


def _span(attempts: Sequence[AttemptResult]) -> float | None:
    begins = [attempt.started_unix for attempt in attempts]
    ends = [
        attempt.started_unix + attempt.seconds.value for attempt in attempts if isinstance(attempt.seconds, Quantity)
    ]
    return None if not begins or len(ends) < len(begins) else max(ends) - min(begins)


def _rows(planned: PlannedRun, run: RunResult, storage: RunStorage | None) -> Iterator[EstimateRow]:
    evaluation = _evaluation(run, planned.evaluate_seconds)
    if run.kind is RunKind.CONTROL:
        yield evaluation
        return
    yield evaluation
    if not run.cohort:
        lasted, clean = _training(run)
        yield _row(run.name, TRAINING, planned.train_seconds, lasted, comparable=clean)
        yield _row(run.name, STEP, planned.seconds_per_step, run.seconds_per_step)
        yield _memory(run.name, planned.peak_memory, run.peak_memory)
    whole = run.outcome is TrainingOutcome.COMPLETE
    taken: Measured = Missing(missing="nothing was read from disk" if whole else "the training is not complete")
    if whole and storage is not None and storage.total_bytes > 0:
        taken = Quantity(value=storage.total_bytes, unit="B", aggregation="sum", method="the run's folder")
    forecast = planned.disk if storage is None or isinstance(storage.forecast, Missing) else storage.forecast
    yield _row(run.name, DISK, in_unit(forecast, "B"), taken)


def _row(run: str, quantity: str, predicted: Measured, found: Measured, *, comparable: bool = True) -> EstimateRow:
    measured = finite(found)
    return EstimateRow(
        run=run,
        quantity=quantity,
        predicted=predicted,
        measured=measured,
        inside=_inside(predicted, measured) if comparable else None,
    )


def _evaluation(run: RunResult, predicted: Measured) -> EstimateRow:
    """Return the row of all recorded evaluations. Their logs count whole seconds, so each may be off by one."""
    row = _row(run.name, EVALUATION, predicted, evaluation_seconds(run))
    if row.inside is not False or isinstance(row.measured, Missing) or isinstance(predicted, Missing):
        return row
    rounding = CLOCK_TICK * max(len(run.evaluations) + len(run.other_evaluations), 1)
    low, high = row.measured.value - rounding, row.measured.value + rounding
    ends = predicted.low, predicted.high
    return replace(row, inside=None not in ends and low <= (ends[1] or 0.0) and high >= (ends[0] or 0.0))


def _inside(predicted: Measured, measured: Measured) -> bool | None:
    if isinstance(predicted, Missing) or isinstance(measured, Missing):
        return None
    if predicted.low is None or predicted.high is None or predicted.unit != measured.unit:
        return None
    return predicted.low <= measured.value <= predicted.high


def _training(run: RunResult) -> tuple[Measured, bool]:
    """Return the duration of the training, and whether it was a single uninterrupted attempt."""
    counted = [attempt for attempt in run.attempt_list if not attempt.superseded]
    known = measured_of(each.seconds for each in counted)
    if not counted:
        return run.train_seconds, False
    if len(known) < len(counted):
        return Missing(missing="an attempt's length is not known"), False
    method = "its clock" if len(counted) == 1 else f"sum of {plural(len(counted), 'attempt')}"
    lasted = Quantity(value=sum(each.value for each in known), unit="s", aggregation="sum", method=method)
    return lasted, len(counted) == 1 and run.outcome is TrainingOutcome.COMPLETE


def _memory(run: str, predicted: Measured, found: Measured) -> EstimateRow:
    """Return the row of memory in the plan's unit, compared if both values are of one kind."""
    if isinstance(found, Missing) or isinstance(predicted, Missing):
        return _row(run, MEMORY, predicted, found, comparable=False)
    measured = in_unit(found, predicted.unit)
    same = isinstance(measured, Quantity) and (predicted.kind, predicted.phase) == (measured.kind, measured.phase)
    return _row(run, MEMORY, predicted, measured, comparable=same)
