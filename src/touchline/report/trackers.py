"""Export of all runs of an experiment to a tracker. It can be repeated while runs continue."""

from __future__ import annotations

import datetime
import glob
import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import HostError, InputError, PolicyError, install_hint
from touchline.core.files import disk_errors, inside, read_bytes, try_lock, write_atomic
from touchline.core.json_text import parse_json
from touchline.core.near import RemovedKind, refuse_removed
from touchline.core.quantity import Quantity
from touchline.core.status import RunStatus
from touchline.core.units import GIB
from touchline.data.metrics import AttemptRow, Metrics, StepRow
from touchline.data.metrics_file import read_metrics
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Plan, PlannedRun
from touchline.results.collect import collect_results
from touchline.results.figures import static_config
from touchline.results.run_result import RunResult, Setting
from touchline.run.loaded_plan import LoadedPlan, selected
from touchline.statistics.closed_forms import wilson

EVALUATION = "evaluation/"  # Prefix of the names of scores
_FAILED = frozenset({RunStatus.FAILED, RunStatus.INTERRUPTED})
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_ID_NAME_LETTERS = 40
_ID_HASH_LETTERS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Values measured at one step, by name; 0 is before the first."""

    step: int
    time_unix: float
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSeries:
    """Run in a form that any tracker accepts. Both series only grow at their end while the same training continues."""

    experiment: str
    run: str
    id: str
    """Stable id of a training, independent of the user and the folder; at most 64 characters of `[A-Za-z0-9._-]`."""
    question: str
    config: dict[str, Setting]
    """Settings by dotted key, and the identity of the run: model, dataset, seed, levels."""
    started_unix: float
    training: tuple[Point, ...]
    evaluations: tuple[Point, ...]
    status: str
    failed: bool


def run_series(plan: Plan, run: PlannedRun, result: RunResult, metrics: Metrics) -> RunSeries:
    """Return the data of a run for a tracker.

    The last step of an active run is held back, since its validation may still follow and a step is exported only once.
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


TRACKERS = ("tensorboard", "wandb")  # Trackers; package and extra have the same name
_STEP = "step"  # Axis of every metric in W&B: optimizer steps done
EXPORTS = "exports"
"""Default folder of exports in the experiment, unless the user or the environment sets another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """Result of an export for one run."""

    run: str
    """Name of the run."""
    id: str
    """Id of the run in the tracker."""
    added: int
    """Number of points that this export added."""
    total: int
    """Number of its points in the tracker."""
    command: str | None = None
    """Command that uploads this run to the tracker's server, quoted for a shell; None if there is nothing to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Result of an export."""

    schema_version: int = 1
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    tracker: str
    """Name of the tracker: `tensorboard` or `wandb`."""
    where: str
    """Folder of the tracker."""
    view: str | None
    """Command that opens it, quoted for a shell."""
    runs: tuple[Exported, ...]
    """Results by run, in the plan's order."""
    skipped: tuple[str, ...]
    """Runs without any data yet, each with the reason."""


def open_tracker(name: str) -> type[Tracker]:
    """Return how runs are written for a tracker.

    Raises:
        InputError: there is no such tracker.
        HostError: its package is not installed.
    """
    if name not in TRACKERS:
        refuse_removed(RemovedKind.EXPORT_TARGET, name)
        raise InputError(f"there is no tracker {name!r}", expected=", ".join(TRACKERS))
    if importlib.util.find_spec(name) is None:
        expected = f"touchline with its extra {name}"
        raise HostError(f"the package {name} is not installed", expected=expected, hint=install_hint(name))
    return Tensorboard if name == "tensorboard" else Wandb


def export_runs(
    planned: LoadedPlan,
    tracker: str,
    *,
    directory: Path | None = None,
    only: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Export:
    """Export the points that a tracker does not have yet; arguments and errors are those of `api.export`."""
    runs = selected(planned.plan, only)
    writer = open_tracker(tracker)
    named = os.environ.get(writer.VARIABLE or "")
    place = (directory or (Path(named) if named else planned.folder.root / EXPORTS / tracker)).resolve()
    by_name = {result.name: result for result in collect_results(planned.plan, planned.folder.root)}
    exported: list[Exported] = []
    skipped: list[str] = []
    with _alone(planned, tracker), disk_errors("folder", place):
        place.mkdir(parents=True, exist_ok=True)
        for done, run in enumerate(runs):
            if on_progress is not None:
                on_progress(done, len(runs))
            metrics = read_metrics(planned.folder.run(run.name) / "metrics.jsonl")
            series = run_series(planned.plan, run, by_name[run.name], metrics)
            if series.training or series.evaluations:
                exported.append(_exported(writer, place, series))
            else:
                skipped.append(f"{run.name}: no step and no evaluation yet ({by_name[run.name].status.value})")
    if on_progress is not None:
        on_progress(len(runs), len(runs))
    return Export(
        experiment=planned.plan.experiment,
        tracker=tracker,
        where=str(place),
        view=writer.view(place),
        runs=tuple(exported),
        skipped=tuple(skipped),
    )


@contextmanager
def _alone(planned: LoadedPlan, tracker: str) -> Iterator[None]:
    """Prevent a second export, which would find the same points missing."""
    lock = try_lock(planned.folder.internal / f"export-{tracker}.lock")
    if lock is None:
        message = f"{planned.plan.experiment} is being exported to {tracker} by another command"
        raise PolicyError(message, expected="one export at a time")
    try:
        yield
    finally:
        os.close(lock)


def _exported(writer: type[Tracker], place: Path, run: RunSeries) -> Exported:
    """Write the points of a run that no earlier export has written; the note about them is written last."""
    note = place / f"{run.id}.touchline.json"
    held: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):
        held = dict(parse_json(read_bytes(note)))
    points = {f"{point.step}": point for point in run.training}
    points |= {f"{point.step}: {sorted(point.values.items())}": point for point in run.evaluations}
    new = {key: point for key, point in points.items() if key not in held}
    if new or run.status != held.get("status"):
        first = len(held) - ("status" in held)
        writer.write(place, run, tuple(new.values()), first)
        held |= dict.fromkeys(new, "") | {"status": run.status}
        write_atomic(note, json.dumps(held) + "\n")
    command = writer.command(place, run)
    return Exported(run=run.run, id=run.id, added=len(new), total=len(held) - 1, command=command)


class Tracker:
    """Tracker that runs are written for."""

    VARIABLE: str | None = None

    @classmethod
    def view(cls, directory: Path) -> str | None:
        """Return the command that shows the runs of a folder; None if a server shows them."""
        return None

    @classmethod
    def write(cls, directory: Path, run: RunSeries, new: tuple[Point, ...], first: int) -> None:
        """Write a run.

        Args:
            directory: folder of the tracker.
            new: points that no earlier export has.
            first: number of points before them.
        """
        raise NotImplementedError

    @classmethod
    def command(cls, directory: Path, run: RunSeries) -> str | None:
        """Return the command that uploads a run; None if there is nothing to upload."""
        return None


class Tensorboard(Tracker):
    """One event file per run with its losses and scores, and the record of the HPARAMS page."""

    @classmethod
    def view(cls, directory: Path) -> str | None:
        """Return the command that shows the runs of a folder."""
        return f"tensorboard --logdir {shlex.quote(str(directory))}"

    @classmethod
    def write(cls, directory: Path, run: RunSeries, new: tuple[Point, ...], first: int) -> None:
        """Write the event file of a run with all its points, in place of an earlier one."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        del new, first
        folder = inside(directory, run.run)
        settings = {key: value for key, value in run.config.items() if value is not None}
        path = folder / f"events.out.tfevents.{int(run.started_unix)}.touchline"
        with tempfile.TemporaryDirectory() as scratch:
            writer = EventFileWriter(scratch)
            header = summary_v2.hparams_pb(settings, trial_id=run.id, start_time_secs=run.started_unix)
            writer.add_event(Event(wall_time=run.started_unix, summary=header))
            for point in (*run.training, *run.evaluations):
                values = [Summary.Value(tag=tag, simple_value=value) for tag, value in sorted(point.values.items())]
                writer.add_event(Event(wall_time=point.time_unix, step=point.step, summary=Summary(value=values)))
            writer.close()
            (written,) = Path(scratch).iterdir()
            data = read_bytes(written)
        with disk_errors("event file", path):
            # A file of an older training of this run: TensorBoard would draw both as one line.
            for other in folder.glob("events.out.tfevents.*.touchline"):
                if other != path:
                    other.unlink()
            write_atomic(path, data)


class Wandb(Tracker):
    """Offline runs of Weights & Biases, and the commands that upload them; no network is used.

    `wandb sync` merges the files of one run. W&B requires its row number `_step` to increase, so it counts rows here.
    The axis of every metric is `step`, the optimizer steps done.
    """

    VARIABLE = "WANDB_DIR"

    @classmethod
    def write(cls, directory: Path, run: RunSeries, new: tuple[Point, ...], first: int) -> None:
        """Write one more offline file of a run."""
        import wandb

        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        logging.getLogger("wandb").setLevel(logging.ERROR)
        with disk_errors("folder", directory):
            (directory / "wandb").mkdir(parents=True, exist_ok=True)
        handle: Any = wandb.init(
            mode="offline",
            dir=str(directory),
            project=re.sub(r"[/\\#?%:]", "-", run.experiment),
            group=run.experiment,
            name=run.run,
            id=run.id,
            notes=run.question or None,
            config=run.config,
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                # Parts of one run may be written in the same second.
                x_sync_dir_suffix=str(first),
                x_start_time=time.time() if first else run.started_unix,
            ),
        )
        handle.define_metric(_STEP, hidden=True)
        handle.define_metric("*", step_metric=_STEP)
        for number, point in enumerate(new, first):
            handle.log({**point.values, _STEP: point.step, "_timestamp": point.time_unix}, step=number)
        handle.summary.update({"status": run.status})
        handle.finish(exit_code=1 if run.failed else 0)

    @classmethod
    def command(cls, directory: Path, run: RunSeries) -> str | None:
        """Return the command that uploads the files of a run that W&B has not marked as synced; None without any."""
        files = sorted((directory / "wandb").glob(f"offline-run-*-{glob.escape(run.id)}*/*.wandb"))
        waiting = [str(path.parent) for path in files if not path.with_name(f"{path.name}.synced").exists()]
        return shlex.join(["wandb", "sync", *waiting]) if waiting else None
