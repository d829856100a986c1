"""Replay of time limits: the limit that a plan would set for each run from all other runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from touchline.core.callbacks import ProgressCallback
from touchline.core.estimate import Estimate
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import minutes_to_seconds, seconds_to_hours
from touchline.estimate.points import CostSample, TimePoint
from touchline.estimate.run_time import (
    compiling_seconds,
    run_seconds,
    saving_seconds,
    slurm_time_limit,
    startup_seconds,
    tokenising_seconds,
    validation_seconds,
)
from touchline.estimate.time import seconds_per_step
from touchline.history.record import RunRecord
from touchline.plan.replay.runs import (
    Sorter,
    complete_runs,
    job_seconds,
    name_of,
    own_runs,
    ratio_of,
    share_of,
    steps_of,
)
from touchline.plan.replay.types import LimitedRun, LimitReplay


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedRun:
    """Run with its measured times and its machine."""

    record: RunRecord
    """Record of the run."""
    point: TimePoint
    """Its times."""
    machine: TargetMachine
    """Where it ran."""


def replay_limits(
    records: Sequence[RunRecord],
    timed: Callable[[RunRecord], TimedRun | Missing],
    *,
    rng: Generator,
    sorter: Sorter,
    on_progress: ProgressCallback | None = None,
) -> LimitReplay | Missing:
    """Replay the time limits of all runs of our own experiments.

    Args:
        records: current records of the history.
        timed: returns the times of a run, or why they are no evidence.
        rng: where the bootstrap's chance comes from.
        sorter: counts the runs that are left out.
        on_progress: receives the number of runs done and their total.
    """
    known = {id(record): timed(record) for record in records}
    others = [found for found in known.values() if not isinstance(found, Missing)]
    asked: list[TimedRun] = []
    for record in complete_runs(own_runs(records, sorter), sorter):
        found = known[id(record)]
        if isinstance(found, Missing):
            sorter.leave_out(found.missing)
        elif len(record.course.segments) != 1:
            sorter.leave_out("trained in several attempts, each with a limit of its own")
        else:
            asked.append(found)
    runs: list[LimitedRun] = []
    for number, one in enumerate(asked):
        if on_progress is not None:
            on_progress(number, len(asked))
        limited = _limited(one, [each.point for each in others if _evidence(each, one)])
        if isinstance(limited, Missing):
            sorter.leave_out(limited.missing)
        else:
            sorter.used += 1
            runs.append(limited)
    return _summary(runs, rng) if runs else Missing(missing="no past run with a known duration and time per step")


def _evidence(other: TimedRun, one: TimedRun) -> bool:
    return other.record is not one.record and other.machine.key == one.machine.key


def _limited(one: TimedRun, points: Sequence[TimePoint]) -> LimitedRun | Missing:
    """Return the limit of a run from the other runs of its machine."""
    steps, took = steps_of(one.record), job_seconds(one.record)
    if steps is None or isinstance(took, Missing):
        return Missing(missing="its steps or its duration are not known")
    setup, machine = one.point.setup, one.machine
    answer = seconds_per_step(setup, one.point.work, machine=machine, points=points)
    if isinstance(answer, Missing):
        return answer
    total = run_seconds(answer.estimate, steps, parts=_parts(one, answer.estimate, points)).total
    limit = minutes_to_seconds(slurm_time_limit(total.high))
    return LimitedRun(
        run=name_of(one.record),
        experiment=one.record.experiment or "",
        limit_seconds=limit,
        took_seconds=took.value,
        killed=took.value > limit,
    )


def _parts(one: TimedRun, step: Estimate, points: Sequence[TimePoint]) -> dict[str, Estimate | Missing]:
    """Return what the job does besides its steps, by the amounts that its plan knew."""
    setup, machine, point, record = one.point.setup, one.machine, one.point, one.record
    parts: dict[str, Estimate | Missing] = {}
    weights = _amount(point.startup)
    if weights:
        parts["start-up"] = startup_seconds(setup, weights, machine=machine, points=points)
    examples, mean = _value(record.packing.examples), _value(record.batching.mean_tokens)
    if examples and mean:
        parts["tokenising"] = tokenising_seconds(setup, examples * mean, machine=machine, points=points)
    shapes = _amount(point.compiling)
    if shapes:
        parts["compiling"] = compiling_seconds(setup, round(shapes), machine=machine, points=points)
    tokens = _amount(point.validation)
    if tokens and record.validation:
        work = point.work.times(tokens / point.work.tokens)
        parts["validation"] = validation_seconds(
            setup, work, len(record.validation), step=step, work=point.work, machine=machine, points=points
        )
    size, epochs = _amount(point.saving), _value(record.course.epochs)
    if size:
        count = max(round(epochs or 1.0), 1)
        parts["saving"] = saving_seconds(setup, size, count, machine=machine, points=points)
    return parts


def _amount(sample: CostSample | None) -> float:
    return 0.0 if sample is None else sample.amount


def _value(measured: Measured) -> float | None:
    return measured.value if isinstance(measured, Quantity) else None


def _summary(runs: Sequence[LimitedRun], rng: Generator) -> LimitReplay:
    killed = [run for run in runs if run.killed]
    ended = [run for run in runs if not run.killed]
    wasted = [run.limit_seconds - run.took_seconds for run in ended]
    return LimitReplay(
        runs=tuple(sorted(runs, key=lambda run: (-run.took_seconds / run.limit_seconds, run.experiment, run.run))),
        killed=len(killed),
        killed_share=share_of([run.killed for run in runs], [run.experiment for run in runs], "experiments"),
        limit_hours=_hours([run.limit_seconds for run in runs]),
        took_hours=_hours([run.took_seconds for run in runs]),
        wasted_hours=_hours(wasted),
        wasted_share=ratio_of(
            wasted, [run.limit_seconds for run in ended], [run.experiment for run in ended], rng, "experiments"
        ),
        killed_hours=_hours([run.limit_seconds for run in killed]),
    )


def _hours(seconds: Sequence[float]) -> Quantity:
    return Quantity(value=seconds_to_hours(sum(seconds)), unit="h", aggregation="sum")
