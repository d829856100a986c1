"""What all runs take together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypedDict

from touchline.domain.machine import TargetMachine
from touchline.domain.plan import PlannedRun
from touchline.domain.quantity import Measured, Missing, Quantity
from touchline.units import seconds_to_hours


class Totals(TypedDict):
    """Fields of a plan."""

    gpu_hours: Measured
    wall_seconds: Measured
    disk: Measured


def totals(runs: Sequence[PlannedRun], machine: TargetMachine, gpus_per_run: int) -> Totals:
    """Hours of devices, time from start to end, and disk of everything together.

    Errors of runs of one model are made together, so the ends of the intervals are added, not their squares.
    """
    training = [run.train_seconds for run in runs if run.train is not None]
    evaluations = [run.evaluate_seconds for run in runs]
    known = [value for value in evaluations if isinstance(value, Quantity)]
    unknown = dict.fromkeys(value.missing for value in evaluations if isinstance(value, Missing))
    seconds = added([*training, *known], "s")
    if isinstance(seconds, Quantity) and unknown:
        count = len(evaluations) - len(known)
        seconds = replace(seconds, method=f"{count} evaluations not counted: {'; '.join(unknown)}")
    devices = max(gpus_per_run, 1) if machine.kind == "gpu" else 1
    at_once = max(machine.count // devices, 1)
    return Totals(
        gpu_hours=_scaled(seconds, seconds_to_hours(devices), "h"),
        wall_seconds=_scaled(seconds, 1 / min(at_once, max(len(runs), 1)), "s"),
        disk=added([run.disk for run in runs if run.train is not None], "MB"),
    )


def added(parts: Iterable[Measured], unit: str) -> Measured:
    """The sum; missing as soon as a part is."""
    found: list[Quantity] = []
    for part in parts:
        if isinstance(part, Missing):
            return part
        found.append(part)
    return Quantity(
        value=math.fsum(part.value for part in found),
        unit=unit,
        low=math.fsum(part.value if part.low is None else part.low for part in found),
        high=math.fsum(part.value if part.high is None else part.high for part in found),
        coverage=next((part.coverage for part in found if part.coverage is not None), None),
        aggregation="sum",
    )


def evidence_of(runs: Iterable[PlannedRun]) -> tuple[str, ...]:
    """The past runs that estimates rest on."""
    named: dict[str, None] = {}
    for run in runs:
        for value in (run.train_seconds, run.evaluate_seconds, run.peak_memory):
            if isinstance(value, Quantity) and value.where:
                named |= dict.fromkeys(value.where.split(", "))
    return tuple(named)


def _scaled(value: Measured, factor: float, unit: str) -> Measured:
    if isinstance(value, Missing):
        return value
    low, high = (None if end is None else end * factor for end in (value.low, value.high))
    return replace(value, value=value.value * factor, unit=unit, low=low, high=high)
