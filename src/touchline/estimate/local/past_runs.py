"""Past runs as evidence for estimates, and how well they would have been predicted without their own records."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.estimate import Dtype, Estimate, EvidenceLevel, PastRunGroup
from touchline.core.machine import TargetMachine, split_key
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.data.machine import machine_here
from touchline.data.shapes import load_shape
from touchline.data.user_config import UserConfig
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.evidence_used import BOTH, group_of
from touchline.estimate.history_points import PastRun, collect_points, said_word
from touchline.estimate.points import TimePoint
from touchline.estimate.time import seconds_per_step
from touchline.history.index import HistoryRow, load_index
from touchline.history.record import RunRecord
from touchline.history.records import Broken, read_record, record_path
from touchline.history.run_view import agree
from touchline.statistics.closed_forms import Interval, wilson

MOST_RECORDS = 512
"""Limit on records read for a plan, the models' own first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRuns:
    """Usable measurements of the history."""

    time: tuple[TimePoint, ...] = ()
    memory: tuple[MeasuredPoint, ...] = ()
    runs: tuple[PastRun, ...] = ()
    """All records that were read, with their points or reasons."""
    others: tuple[PastRunGroup, ...] = ()

    @property
    def refused(self) -> tuple[tuple[str, Missing], ...]:
        """Return the records without any point, with the reason for time."""
        return tuple(
            (run.name, run.time)
            for run in self.runs
            if isinstance(run.time, Missing) and isinstance(run.memory, Missing)
        )


def past_runs(settings: UserConfig, trainers: Collection[str], models: Collection[str]) -> PastRuns:
    """Return the points of a history that are evidence for these trainers.

    Args:
        models: names of the models in question; their records are looked at first.
    """
    try:
        index = load_index(settings.history_dir)
    except (InputError, HostError):
        # A history that cannot be read teaches nothing; `touchline history list` says why.
        return PastRuns()
    asked = index.rows()
    rows = [row for row in asked if said_word(row.trainer) in trainers and _measured(row)]
    rows.sort(key=lambda row: (not _is_of(row, models), row.name, row.id))
    read = [read_record(record_path(settings.history_dir, row.id)) for row in rows[:MOST_RECORDS]]
    found = points_of([record for record in read if not isinstance(record, Broken)], settings)
    others: dict[str, list[str]] = {}
    broken = [*index.broken, *(record for record in read if isinstance(record, Broken))]
    if broken:
        others["corrupt (see touchline history list)"] = [each.path.name for each in broken]
    for row in asked:
        trainer = said_word(row.trainer)
        if trainer not in trainers:
            others.setdefault(f"of the trainer {trainer}" if trainer else "of an unknown trainer", []).append(row.name)
        elif not _measured(row):
            others.setdefault("no time and no memory in the log", []).append(row.name)
    if rows[MOST_RECORDS:]:
        others[f"beyond the limit of {MOST_RECORDS} records"] = [row.name for row in rows[MOST_RECORDS:]]
    return replace(found, others=tuple(group_of(names, reason, BOTH) for reason, names in others.items()))


def points_of(records: list[RunRecord], settings: UserConfig) -> PastRuns:
    """Return the points of records."""
    runs = collect_points(records, shapes_of(settings))
    return PastRuns(
        time=tuple(run.time for run in runs if not isinstance(run.time, Missing)),
        memory=tuple(point for run in runs if not isinstance(run.memory, Missing) for point in run.memory),
        runs=runs,
    )


def shapes_of(settings: UserConfig) -> Callable[[str], ModelShape | Missing]:
    """Return a function that gives the dimensions of a model by its name, each looked up once."""
    return functools.cache(functools.partial(_shape, models_dir=settings.models_dir))


def _shape(name: str, models_dir: Path) -> ModelShape | Missing:
    try:
        return load_shape(name, models_dir)
    except InputError as fault:
        return Missing(missing=fault.message)


def _is_of(row: HistoryRow, models: Collection[str]) -> bool:
    """Return True if a record is of one of these models; a trainer's word for all of a size is of each of them."""
    name = said_word(row.model)
    return name is not None and any(agree("model", model, name) for model in models)


def _measured(row: HistoryRow) -> bool:
    return not (isinstance(row.seconds_per_step, Missing) and isinstance(row.peak_memory, Missing))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredEstimate:
    """Estimate with its measured value."""

    quantity: str
    name: str
    estimate: Estimate
    actual: float

    @property
    def held(self) -> bool:
        """Return True if the interval contains the measured value."""
        return self.estimate.low <= self.actual <= self.estimate.high

    @property
    def error(self) -> float:
        """Return estimate over measured value, minus 1: 0.2 is 20% too high."""
        return self.estimate.value / self.actual - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRow:
    """Calibration of one kind of estimate."""

    quantity: str
    """Estimated quantity, or `all`."""
    rung: EvidenceLevel | None
    """Evidence level of the estimates. None for all levels."""
    count: int
    """Number of estimates."""
    held: int
    """Number of intervals that contain the measured value."""
    coverage: float
    """Fraction of intervals that contain the measured value."""
    coverage_interval: Interval
    """Wilson's 95% interval of the coverage."""
    promised: float
    """Nominal coverage."""
    median_error: float
    """Median absolute relative error; 0.1 is 10%."""
    median_ratio: float
    """Median ratio of upper to lower end; infinite if lower ends are zero."""
    too_low: int
    """Measured values above the upper end."""
    too_high: int
    """Measured values below the lower end."""


def calibration(scored: Sequence[ScoredEstimate]) -> tuple[CalibrationRow, ...]:
    """Return one row per quantity and evidence level, then one per quantity over all levels.

    Estimates or measured values that are not above zero are left out.
    """
    usable = [each for each in scored if each.actual > 0 and each.estimate.value > 0]
    rows: list[CalibrationRow] = []
    for quantity in dict.fromkeys(each.quantity for each in usable):
        of_quantity = [each for each in usable if each.quantity == quantity]
        rungs = sorted({each.estimate.rung for each in of_quantity})
        rows += [_row(quantity, rung, [each for each in of_quantity if each.estimate.rung == rung]) for rung in rungs]
        rows.append(_row(quantity, None, of_quantity))
    return tuple(rows)


def leave_one_out(points: Sequence[TimePoint], machine: TargetMachine) -> tuple[ScoredEstimate, ...]:
    """Estimate every measured run from all others."""
    found: list[ScoredEstimate] = []
    for index, point in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        answer = seconds_per_step(point.setup, point.work, machine=machine, points=others)
        if not isinstance(answer, Missing):
            found.append(score_step(point, answer.estimate))
    return tuple(found)


def score_step(point: TimePoint, estimate: Estimate) -> ScoredEstimate:
    """Return a measured run with an estimate of its step."""
    return ScoredEstimate(
        quantity="seconds per step", name=point.name, estimate=estimate, actual=point.seconds_per_step
    )


def _row(quantity: str, rung: EvidenceLevel | None, scored: Sequence[ScoredEstimate]) -> CalibrationRow:
    held = sum(each.held for each in scored)
    ratios = [each.estimate.high / each.estimate.low if each.estimate.low > 0 else math.inf for each in scored]
    return CalibrationRow(
        quantity=quantity,
        rung=rung,
        count=len(scored),
        held=held,
        coverage=held / len(scored),
        coverage_interval=wilson(held, len(scored)),
        promised=statistics.fmean(each.estimate.coverage for each in scored),
        median_error=statistics.median(abs(each.error) for each in scored),
        median_ratio=statistics.median(ratios),
        too_low=sum(each.actual > each.estimate.high for each in scored),
        too_high=sum(each.actual < each.estimate.low for each in scored),
    )


CALIBRATION_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Calibration of estimates."""

    schema_version: int = CALIBRATION_SCHEMA_VERSION
    """Version of this format."""
    left_out: tuple[CalibrationRow, ...]
    """Each measured run's step, estimated from all others of its machine."""
    planned: tuple[CalibrationRow, ...]
    """Predictions of plans, over all evidence levels."""
    unused: dict[str, str]
    """Runs that could not be scored, with reasons."""


def calibrate(settings: UserConfig) -> Calibration:
    """Score the estimates of a history. Raises InputError: the history is not a directory."""
    index = load_index(settings.history_dir)
    read = (read_record(record_path(settings.history_dir, row.id)) for row in index.rows())
    records = [record for record in read if not isinstance(record, Broken)]
    past = points_of(records, settings)
    left = [scored for machine, points in _by_machine(past.time) for scored in leave_one_out(points, machine)]
    planned = [scored for record in records for scored in planned_estimates(record)]
    return Calibration(
        left_out=calibration(left),
        planned=tuple(row for row in calibration(planned) if row.rung is None),
        unused={name: reason.missing for name, reason in past.refused},
    )


def _by_machine(points: Iterable[TimePoint]) -> Iterator[tuple[TargetMachine, list[TimePoint]]]:
    machines: dict[str, list[TimePoint]] = {}
    for point in points:
        machines.setdefault(point.machine, []).append(point)
    here = machine_here(1)
    yield from ((machine_of_key(key, found[0].setup.base_dtype, here), found) for key, found in machines.items())


def machine_of_key(key: str, base_dtype: Dtype, here: TargetMachine) -> TargetMachine:
    """Return the machine of a key. Machines other than this one are known by name only.

    Args:
        key: `TargetMachine.key` of the machine of a run.
    """
    if key == here.key:
        return here
    name, threads, slots = split_key(key)
    return TargetMachine(
        kind="gpu" if threads is None else "cpu",
        name=name,
        memory=Missing(missing="of another machine"),
        count=1,
        threads=threads,
        slots=slots,
        base_dtype=base_dtype,
        source="the history",
    )


def planned_estimates(record: RunRecord) -> Iterator[ScoredEstimate]:
    """Yield a plan's predictions for a run with the measured values."""
    costs, predicted, together = record.costs, record.predicted, record.work.side_by_side
    if isinstance(together, Quantity) and together.value > 1:
        # The predictions are of this run alone.
        return
    peaks = () if isinstance(costs.peak_memory, Missing) else costs.peak_memory
    process = next((peak for peak in peaks if peak.kind == "process"), None)
    pairs: tuple[tuple[str, Measured, Measured | None], ...] = (
        ("seconds per step, planned", predicted.seconds_per_step, costs.seconds_per_step_without_pauses),
        ("seconds of training, planned", predicted.train_seconds, costs.train_seconds),
        ("process memory, planned", predicted.peak_memory, process),
    )
    for quantity, before, after in pairs:
        if isinstance(before, Quantity) and isinstance(after, Quantity) and after.unit == before.unit:
            yield ScoredEstimate(quantity=quantity, name=record.name, estimate=_estimate(before), actual=after.value)


def _estimate(said: Quantity) -> Estimate:
    return Estimate(
        value=said.value,
        unit=said.unit,
        low=said.lower,
        high=said.upper,
        coverage=said.coverage or 0.0,
        method=said.method or "",
        rung=EvidenceLevel.NOTHING if said.where is None else EvidenceLevel.SAME_MODEL,
    )
