"""Calibration of the history: each run predicted from all others, and plans against their runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from touchline.core.estimate import Dtype, Estimate, EvidenceLevel
from touchline.core.machine import TargetMachine, split_key
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.machine import machine_here
from touchline.data.user_config import UserConfig
from touchline.estimate.calibration import (
    CalibrationRow,
    ScoredEstimate,
    calibration,
    leave_one_out,
)
from touchline.estimate.local.past_runs import points_of
from touchline.estimate.points import TimePoint
from touchline.history.history import Broken, read_record, record_path
from touchline.history.index import load_index
from touchline.history.record import RunRecord

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
    """Score the estimates of a history.

    Raises:
        InputError: the history is not a directory.
    """
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
    """Yield the points of each machine."""
    machines: dict[str, list[TimePoint]] = {}
    for point in points:
        machines.setdefault(point.machine, []).append(point)
    here = machine_here(1)
    yield from ((machine_of_key(key, found[0].setup.base_dtype, here), found) for key, found in machines.items())


def machine_of_key(key: str, base_dtype: Dtype, here: TargetMachine) -> TargetMachine:
    """Return the machine of a key. Machines other than this one are known by name only.

    Args:
        key: `TargetMachine.key` of the machine of a run.
        base_dtype: element type of the base in its runs.
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
    low, high = said.low, said.high
    return Estimate(
        value=said.value,
        unit=said.unit,
        low=said.value if low is None else low,
        high=said.value if high is None else high,
        coverage=said.coverage or 0.0,
        method=said.method or "",
        rung=EvidenceLevel.NOTHING if said.where is None else EvidenceLevel.SAME_MODEL,
    )
