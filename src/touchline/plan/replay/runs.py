"""Finished runs of a history for a replay: which are complete, what they cost, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import seconds_to_hours
from touchline.history.reading import Outcome, SourcedText
from touchline.history.record import RunRecord
from touchline.plan.replay.types import LeftOut
from touchline.statistics.bootstrap import bootstrap_ratio
from touchline.statistics.clustered import clustered_share
from touchline.statistics.proportion import wilson

COVERAGE = 0.95
"""Nominal coverage of the intervals of a replay."""
FEWEST_CLUSTERS = 5
"""Fewest clusters with an interval of a ratio: simulated, it covers 92 % with five, 87 % with four, 48 % with two."""
TOO_LONG = 1e10
"""In seconds: a duration of three hundred years is not a measurement."""
_MOST_STEPS = 1e12
"""A larger number of steps is not a measurement."""
_PROBE = "a probe, no training"
_TRAINED = frozenset({Outcome.COMPLETED, Outcome.CRASH_EVAL, Outcome.CRASH_EXPORT})
"""Outcomes of a training that came to its end."""


@dataclass(slots=True)
class Sorter:
    """Sorter of records into those that are used and those that are left out, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Number of runs left out for each reason."""
    used: int = 0
    """Number of runs that the result is based on."""

    def leave_out(self, reason: str, runs: int = 1) -> None:
        """Count runs that are left out."""
        self.reasons[reason] += runs

    def left_out(self) -> tuple[LeftOut, ...]:
        """Return the reasons, the most frequent first."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return tuple(LeftOut(reason=reason, runs=runs) for reason, runs in ordered)


def complete_runs(records: Sequence[RunRecord], sorter: Sorter) -> list[RunRecord]:
    """Return the records of runs that were trained to their end; probes and the others are counted in `sorter`."""
    found = []
    for record in records:
        outcome = record.course.outcome.value
        if outcome not in _TRAINED:
            sorter.leave_out(f"not trained to its end ({outcome.replace('_', ' ')})")
        elif record.origin == "touchline" and record.experiment is None:
            sorter.leave_out(_PROBE)
        else:
            found.append(record)
    return found


def own_runs(records: Sequence[RunRecord], sorter: Sorter) -> list[RunRecord]:
    """Return the records of our own experiments' runs; imports and controls are counted in `sorter`."""
    found = []
    for record in records:
        if record.experiment is None and record.origin == "touchline":
            sorter.leave_out(_PROBE)
        elif record.experiment is None:
            sorter.leave_out("imported: its files do not state which runs are one experiment")
        elif record.control is not None:
            sorter.leave_out("a control")
        else:
            found.append(record)
    return found


def steps_of(record: RunRecord) -> int | None:
    """Return the optimizer steps of a complete run; None if no file states them."""
    for steps in (record.course.steps_total, record.course.steps_done):
        if isinstance(steps, Quantity) and 1 <= steps.value < _MOST_STEPS:
            return int(steps.value)
    return None


def job_seconds(record: RunRecord) -> Measured:
    """Return the duration of our own run's training job: start-up, steps, validations and savings.

    Of an import the logged duration of the training is all there is.
    """
    trained = record.costs.train_seconds
    if isinstance(trained, Missing):
        return trained
    if not 0 < trained.value < TOO_LONG:
        return Missing(missing=f"an impossible duration: {trained.value:g} s")
    if record.origin == "imported":
        return trained
    beside = (
        record.costs.evaluate_seconds,
        record.costs.save_seconds,
        record.work.startup_seconds,
        record.work.compile_seconds,
    )
    known = [part.value for part in beside if isinstance(part, Quantity)]
    seconds = trained.value + sum(value for value in known if 0 < value < TOO_LONG)
    return Quantity(value=seconds, unit="s", method="steps, validations, savings and start-up")


def device_hours(record: RunRecord) -> Measured:
    """Return the device-hours of a run's training, with one device where their number is not known.

    Of runs that shared a process or a CPU each has an equal part.
    """
    seconds = job_seconds(record)
    if isinstance(seconds, Missing):
        return seconds
    shared = _at_least_one(record.work.side_by_side) * _at_least_one(record.machine.at_once)
    return Quantity(value=seconds_to_hours(seconds.value) * _at_least_one(record.machine.gpus) / shared, unit="h")


def _at_least_one(count: Measured) -> float:
    return max(count.value, 1.0) if isinstance(count, Quantity) else 1.0


def name_of(record: RunRecord) -> str:
    """Return the name of a run."""
    return record.run or record.name


def model_of(record: RunRecord) -> str:
    """Return the name of the base model; empty if it is not known."""
    return record.model.name.value if isinstance(record.model.name, SourcedText) else ""


def share_of(hits: Sequence[bool], clusters: Sequence[str], noun: str) -> Quantity:
    """Return a share with Wilson's interval; over clusters if some have several items, which are not independent.

    Args:
        hits: one per item, at least one.
        clusters: what each item belongs to.
        noun: what the clusters are, in the plural.
    """
    count, total, units = sum(hits), len(hits), len(set(clusters))
    value = count / total
    if units < min(total, 2):
        return Quantity(value=value, unit="1", method=f"no interval: all are one of the {noun}")
    if units == total:
        (low, high), method = wilson(count, total, COVERAGE), f"Wilson, {count} of {total}"
    else:
        low, high = clustered_share(np.asarray(hits, dtype=np.float64), clusters, COVERAGE)
        method = f"Wilson over {units} {noun}, {count} of {total}"
    return Quantity(value=value, unit="1", low=min(low, value), high=max(high, value), coverage=COVERAGE, method=method)


def ratio_of(
    parts: Sequence[float], wholes: Sequence[float], clusters: Sequence[str], rng: Generator, noun: str
) -> Measured:
    """Return the ratio of two sums, with a bootstrap interval over clusters where there are enough of them.

    Args:
        parts: one per item.
        wholes: one per item, each above zero.
        clusters: what each item belongs to.
        rng: where chance comes from.
        noun: what the clusters are, in the plural.
    """
    if not wholes:
        return Missing(missing="nothing to compare")
    value = sum(parts) / sum(wholes)
    count = len(set(clusters))
    if count < 2:
        return Quantity(value=value, unit="1", method=f"no interval: all are one of the {noun}")
    if count < FEWEST_CLUSTERS:
        return Quantity(value=value, unit="1", method=f"no interval: {count} {noun} are too few")
    low, high = bootstrap_ratio(np.asarray(parts), np.asarray(wholes), rng, clusters=clusters, coverage=COVERAGE)
    return Quantity(
        value=value,
        unit="1",
        low=min(low, value),
        high=max(high, value),
        coverage=COVERAGE,
        method=f"bootstrap over {count} {noun}",
    )


def total_hours(hours: Sequence[float]) -> Measured:
    """Return a sum of device-hours; Missing without any."""
    if not hours:
        return Missing(missing="no run's duration is known")
    return Quantity(value=sum(hours), unit="h", aggregation="sum")
