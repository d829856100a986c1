"""Trends over past experiments: best scores and costs of a base model and task, and how well estimates held."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.machine import machine_text
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.estimate.calibration import CalibrationRow, ScoredEstimate, calibration
from touchline.history.record import RunRecord
from touchline.history.scores import ScoreFacts
from touchline.plan.replay.runs import Sorter, complete_runs, device_hours, model_of, name_of, own_runs
from touchline.plan.replay.types import LeftOut
from touchline.statistics.proportion import normal_quantile, wilson_of_share

TRENDS_SCHEMA_VERSION = 1
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendPoint:
    """Experiment on a base model and task."""

    experiment: str
    """Experiment."""
    started_unix: float | None
    """Start of its first run, in seconds since 1970; None where no record has one."""
    date: str | None
    """ISO date of that start, UTC."""
    items: str
    """Letter of its test items and evaluation settings, `A` the first: scores are comparable where it is equal."""
    runs: int
    """Number of scored runs, the best of which is shown."""
    best: str
    """Name of the run with the highest score."""
    score: Quantity
    """Its score; the interval holds for the best of so many runs."""
    sample_items: int
    """Number of items."""
    hours: Measured
    """Device-hours of the trainings of all its scored runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """Experiments on one base model, task and score, over time."""

    model: str
    """Base model."""
    task: str
    """Task."""
    score: str
    """Name of the score."""
    points: tuple[TrendPoint, ...]
    """Experiments by date; those without one come first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackCalibration:
    """Calibration of the estimates for one trainer on one device."""

    trainer: str
    """Trainer."""
    device: str
    """GPU or CPU."""
    row: CalibrationRow
    """Calibration of one quantity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trends:
    """Result of `touchline history trends`."""

    schema_version: int = TRENDS_SCHEMA_VERSION
    """Version of this format."""
    records: int
    """Records of past runs in the history, without superseded ones."""
    trends: tuple[Trend, ...] | Missing
    """Trends by model, task and score; Missing without scored runs."""
    calibration: tuple[StackCalibration, ...] | Missing
    """Calibration by trainer and device; Missing if no estimate can be compared with a run."""
    left_out: tuple[LeftOut, ...]
    """Runs that are in no trend, by reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackEstimate:
    """Estimate of a past run, with what it was made for."""

    trainer: str
    """Trainer."""
    machine: str
    """`TargetMachine.key` of the machine."""
    scored: ScoredEstimate
    """Estimate and measurement."""


def find_trends(records: Sequence[RunRecord], estimates: Iterable[StackEstimate]) -> Trends:
    """Return the trends of a history.

    Args:
        records: current records of the history.
        estimates: estimates of past runs with what was measured.
    """
    sorter = Sorter()
    scored = []
    for record in complete_runs(own_runs(records, sorter), sorter):
        if any(_is_usable(score) for score in record.scores):
            scored.append(record)
        else:
            sorter.leave_out("no scores in the record")
    trends = _trends(scored)
    stacks = _by_stack(estimates)
    return Trends(
        records=len(records),
        trends=trends or Missing(missing="no past run of an experiment has a score in its record"),
        calibration=stacks or Missing(missing="no estimate can be compared with a past run"),
        left_out=sorter.left_out(),
    )


def _is_usable(score: ScoreFacts) -> bool:
    return isinstance(score.value, Quantity) and math.isfinite(score.value.value) and score.items > 0


def _trends(records: Sequence[RunRecord]) -> tuple[Trend, ...]:
    found: dict[tuple[str, str, str], dict[tuple[str, str], list[tuple[RunRecord, ScoreFacts]]]] = {}
    for record in records:
        for score in record.scores:
            if _is_usable(score):
                key = (model_of(record), score.task, score.score)
                # Two sets of items within one experiment, as after a change of its data, are two points.
                point = (record.experiment or "", score.comparable)
                found.setdefault(key, {}).setdefault(point, []).append((record, score))
    return tuple(
        Trend(model=key[0], task=key[1], score=key[2], points=_points(points)) for key, points in sorted(found.items())
    )


def _points(
    by_experiment: Mapping[tuple[str, str], Sequence[tuple[RunRecord, ScoreFacts]]],
) -> tuple[TrendPoint, ...]:
    letters: dict[str, str] = {}
    made = []
    ordered = sorted(by_experiment.items(), key=lambda item: (_started(item[1]) or 0.0, item[0]))
    for (experiment, comparable), runs in ordered:
        record, score = max(runs, key=lambda each: (_value(each[1]), name_of(each[0])))
        started = _started(runs)
        made.append(
            TrendPoint(
                experiment=experiment,
                started_unix=started,
                date=_date(started),
                items=letters.setdefault(comparable, _letter(len(letters))),
                runs=len(runs),
                best=name_of(record),
                score=_of_best(score, len(runs)),
                sample_items=score.items,
                hours=_hours([record for record, _ in runs]),
            )
        )
    return tuple(made)


def _started(runs: Sequence[tuple[RunRecord, ScoreFacts]]) -> float | None:
    return min((record.started_unix for record, _ in runs if record.started_unix is not None), default=None)


def _date(unix: float | None) -> str | None:
    try:
        return None if unix is None else datetime.datetime.fromtimestamp(unix, datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _value(score: ScoreFacts) -> float:
    return score.value.value if isinstance(score.value, Quantity) else -math.inf


def _letter(number: int) -> str:
    """Return A to Z, then A1, B1 and so on."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")


def _of_best(score: ScoreFacts, runs: int) -> Quantity:
    """Return a score with the interval that holds for the best of so many runs (Bonferroni).

    Each end moves out in proportion to the normal quantile. A share stays between 0 and 1, and near them its ends are
    those of Wilson's interval where they lie further out.
    """
    value = score.value
    assert isinstance(value, Quantity)
    if runs == 1 or value.low is None or value.high is None or not value.coverage or not 0 < value.coverage < 1:
        return value
    stretch = normal_quantile(1 - _LEVEL / runs) / normal_quantile(value.coverage)
    low, high = (value.value + stretch * (end - value.value) for end in (value.low, value.high))
    if value.low >= 0 and value.high <= 1:
        if (items := _items_of_wilson(value.value, value.low, value.high, value.coverage)) is not None:
            # Near 0 and 1 Wilson's interval grows faster than the quantile.
            own = wilson_of_share(value.value, items, 1 - _LEVEL / runs)
            low, high = min(low, own.low), max(high, own.high)
        low, high = max(low, 0.0), min(high, 1.0)
    return replace(
        value,
        low=low,
        high=high,
        coverage=1 - _LEVEL,
        method=f"{value.method or 'interval'}, widened for the best of {runs}",
    )


def _items_of_wilson(value: float, low: float, high: float, coverage: float) -> float | None:
    """Return the number of independent items whose Wilson interval is as wide; None if no number has this width."""
    z, width = normal_quantile(coverage), high - low
    if not 0 < width < 1:
        return None
    # (width (1 + x))^2 = 4 x p (1 - p) + x^2 with x = z^2 / n, of which the one solution above 0 is wanted.
    square, spread = width**2, 4 * value * (1 - value)
    x = (2 * square - spread + math.sqrt((2 * square - spread) ** 2 + 4 * (1 - square) * square)) / (2 * (1 - square))
    return z**2 / x if x > 0 else None


def _hours(records: Sequence[RunRecord]) -> Measured:
    hours = [device_hours(record) for record in records]
    known = [each.value for each in hours if isinstance(each, Quantity)]
    if len(known) < len(hours):
        return Missing(missing="the duration of a run is not known")
    return Quantity(value=sum(known), unit="h", aggregation="sum")


def _by_stack(estimates: Iterable[StackEstimate]) -> tuple[StackCalibration, ...]:
    found: dict[tuple[str, str], list[ScoredEstimate]] = {}
    for estimate in estimates:
        found.setdefault((estimate.trainer, estimate.machine), []).append(estimate.scored)
    return tuple(
        StackCalibration(trainer=trainer, device=machine_text(machine), row=row)
        for (trainer, machine), scored in sorted(found.items())
        for row in calibration(scored)
        if row.rung is None
    )
