"""Device-hours that an experiment has used so far, from the start and exit records of all attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from touchline.core.units import seconds_to_hours
from touchline.run.planning import LoadedPlan
from touchline.run.run_status import drop_lock_conflicts
from touchline.run.statusfiles import read_attempts


def spent_device_hours(planned: LoadedPlan) -> float:
    """Return the device-hours of all training and evaluation jobs so far, with failed and superseded attempts.

    An attempt without an exit record counts until its last heartbeat. A cohort's attempt, which every run of it
    records, counts once.
    """
    plan, folder = planned.plan, planned.folder
    trainings: dict[tuple[str, int], float] = {}
    evaluations: dict[tuple[str, int], float] = {}
    for run in plan.runs:
        place = folder.root / run.name
        for status in (place / "status", *place.glob("superseded/*/status")):
            trainings |= _seconds(status)
        evaluations |= _seconds(place / "eval" / "status")
    for model in plan.models:
        evaluations |= _seconds(folder.evaluation(model) / "status")
    devices = plan.devices / plan.machine.slots
    return seconds_to_hours(sum(trainings.values()) * devices + sum(evaluations.values()) * plan.evaluation_devices)


def _seconds(status: Path) -> dict[tuple[str, int], float]:
    return dict(_attempts(status))


def _attempts(status: Path) -> Iterator[tuple[tuple[str, int], float]]:
    for attempt in drop_lock_conflicts(read_attempts(status)):
        yield (attempt.start.job_id, attempt.start.restart), attempt.elapsed_seconds or 0.0
