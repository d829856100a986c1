"""Series of a run for all trackers, from its plan, results and metrics.jsonl. What was not measured is omitted."""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from touchline.core.quantity import Quantity
from touchline.core.status import RunStatus
from touchline.core.units import GIB
from touchline.data.metrics import AttemptRow, Metrics, StepRow
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Plan, PlannedRun
from touchline.results.figures import static_config
from touchline.results.run_result import RunResult, Setting
from touchline.statistics.proportion import wilson

EVALUATION = "evaluation/"
"""Prefix of the names of scores."""
_FAILED = frozenset({RunStatus.FAILED, RunStatus.INTERRUPTED})
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_ID_NAME_LETTERS = 40
_ID_HASH_LETTERS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Values measured at one step."""

    step: int
    """Optimizer steps done; 0 is before the first."""
    time_unix: float
    """Time in seconds since 1970."""
    values: dict[str, float]
    """Values by name, such as `train/loss`; a non-finite value stays NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSeries:
    """Run in a form that any tracker accepts. Both series only grow at their end while the same training continues."""

    experiment: str
    """Name of the experiment: a project, in most trackers."""
    run: str
    """Name of the run."""
    id: str
    """Stable id of a training, independent of the user and the folder; at most 64 characters of `[A-Za-z0-9._-]`."""
    question: str
    """Question of the experiment; empty if none was given."""
    config: dict[str, Setting]
    """Settings by dotted key, and the identity of the run: model, dataset, seed, levels."""
    started_unix: float
    """Start time."""
    training: tuple[Point, ...]
    """Training and validation values, one point per step."""
    evaluations: tuple[Point, ...]
    """Scores of evaluated checkpoints, in order of their steps."""
    status: str
    failed: bool
    """Whether it ended without completing its plan."""


def run_series(plan: Plan, run: PlannedRun, result: RunResult, metrics: Metrics) -> RunSeries:
    """Return the data of a run for a tracker.

    The last step of an active run is held back, since its validation may still follow and a step is exported only once.

    Args:
        result: the results so far.
        metrics: its metrics.jsonl; without rows for a control.
    """
    begin = _begin(metrics)
    day = datetime.datetime.fromisoformat(plan.date).replace(tzinfo=datetime.UTC)
    # Controls, which do not train, use the plan's day.
    started = day.timestamp() if begin is None else begin.time_unix
    return RunSeries(
        experiment=plan.experiment,
        run=run.name,
        id=run_id(plan.experiment, run, begin),
        question=plan.question,
        config=_config(plan, run, metrics),
        started_unix=started,
        training=tuple(_training(metrics, hold_back=result.status is RunStatus.RUNNING)),
        evaluations=tuple(_evaluations(result, metrics, started)),
        status=result.status.value,
        failed=result.status in _FAILED,
    )


def run_id(experiment: str, run: PlannedRun, begin: AttemptRow | None) -> str:
    """Return a name and a hash of the experiment, the run, its plan, and the start time of its training.

    A resumed training keeps its id. A training that restarts gets another one. The id does not depend on the folder or
    the user.
    """
    identity = [experiment, run.name, run.digest, "" if begin is None else repr(begin.time_unix)]
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()
    return f"{_UNSAFE.sub('-', run.name)[:_ID_NAME_LETTERS]}-{digest[:_ID_HASH_LETTERS]}"


def _begin(metrics: Metrics) -> AttemptRow | None:
    """Return the last attempt that started from the beginning. All later attempts resume it."""
    fresh = [row for row in metrics.attempts if row.event == "start"]
    return fresh[-1] if fresh else metrics.attempts[0] if metrics.attempts else None


def _training(metrics: Metrics, *, hold_back: bool) -> Iterator[Point]:
    points: dict[int, Point] = {}
    for row in metrics.steps:
        points[row.step] = Point(step=row.step, time_unix=row.time_unix, values=dict(_step_values(row)))
    for seen in metrics.validations:
        known = points.get(seen.step)
        values = ({} if known is None else known.values) | {"validation/loss": seen.loss}
        when = seen.time_unix if known is None else known.time_unix
        points[seen.step] = Point(step=seen.step, time_unix=when, values=values)
    last = max(points, default=0)
    for step in sorted(points):
        if not (hold_back and step == last and metrics.end is None):
            yield points[step]


def _step_values(row: StepRow) -> Iterator[tuple[str, float]]:
    yield "train/loss", row.loss
    yield "train/learning_rate", row.learning_rate
    yield "train/grad_norm", row.grad_norm
    yield "train/epoch", float(row.epoch)
    yield "train/seconds_per_step", row.seconds
    if row.seconds > 0:
        yield "train/tokens_per_second", row.real_tokens / row.seconds
    if isinstance(row.peak_memory, Quantity) and row.peak_memory.unit == "B":
        kind = row.peak_memory.kind or "peak"
        yield f"train/peak_memory_{kind}_gib", row.peak_memory.value / GIB
    if isinstance(row.gpu_percent, Quantity):
        yield "train/gpu_percent", row.gpu_percent.value
    yield "train/cpu_percent", row.cpu_percent


def _evaluations(result: RunResult, metrics: Metrics, started: float) -> Iterator[Point]:
    """Yield scores of every evaluated checkpoint. Two tasks at one checkpoint are one point."""
    saved = {row.name: row for row in metrics.checkpoints}
    steps = {item.name: item.step for item in result.checkpoints if item.step is not None}
    points: dict[int, Point] = {}
    for record in (*result.evaluations, *result.other_evaluations):
        row = saved.get(record.checkpoint)
        step = row.step if row is not None else steps.get(record.checkpoint, 0)
        known = points.get(step)
        points[step] = Point(
            step=step,
            time_unix=started if row is None else row.time_unix,
            values=({} if known is None else known.values) | dict(_scores(record)),
        )
    yield from (points[step] for step in sorted(points))


def _scores(record: EvaluationRecord) -> Iterator[tuple[str, float]]:
    """Yield the share of right answers with its interval, or the mean of other scores."""
    if not record.samples:
        return
    name = f"{EVALUATION}{_UNSAFE.sub('-', record.label)}"
    own = [sample.score for sample in record.samples]
    mean = math.fsum(own) / len(own)
    score = _UNSAFE.sub("_", record.score)
    yield f"{name}/{score}", mean
    if record.repeats == 1 and all(value in (0.0, 1.0) for value in own):
        low, high = wilson(sum(value == 1.0 for value in own), len(own))
        yield f"{name}/{score}_low", low
        yield f"{name}/{score}_high", high
    if all(sample.value is None for sample in record.samples):
        yield f"{name}/match", sum(sample.match for sample in record.samples) / len(own)
    yield f"{name}/items", float(len(own))


def _config(plan: Plan, run: PlannedRun, metrics: Metrics) -> dict[str, Setting]:
    """Return the settings under the names of runs_status.yaml, and the levels of the design by dotted key."""
    config: dict[str, Setting] = {key: value for key, value in static_config(run).items() if value is not None}
    config |= {level.factor: level.value for level in run.levels}
    config |= {"experiment": plan.experiment, "run": run.name, "kind": run.kind.value, "task": plan.task}
    config |= {"dataset": run.dataset, "run_digest": run.digest, "touchline_version": plan.touchline_version}
    if plan.question:
        config["question"] = plan.question
    for row in metrics.attempts[-1:]:
        config |= {"device": row.device, "base_dtype": row.base_dtype, "layout": row.layout, "optimizer": row.optimizer}
        config |= {f"version.{name}": version for name, version in sorted(row.versions.items())}
    return config
