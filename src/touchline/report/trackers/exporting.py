"""Export of all runs of an experiment to a tracker. It can be repeated while runs continue."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import HostError, InputError, PolicyError, install_hint
from touchline.core.files import disk_errors, read_bytes, try_lock, write_atomic
from touchline.core.json_text import parse_json
from touchline.core.removed import RemovedKind, refuse_removed
from touchline.data.metrics_file import read_metrics
from touchline.report.trackers.series import Point, RunSeries, run_series
from touchline.results.collect import collect_results
from touchline.run.planning import LoadedPlan
from touchline.run.selection import selected

TRACKERS = ("tensorboard", "wandb")
"""Trackers; package and extra have the same name. `to_NAME` has `VARIABLE`, `view`, `write` and `command`."""
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


@dataclass(kw_only=True, slots=True)
class _Held:
    """Points of a run that earlier exports wrote; the file of it is written last."""

    points: int = 0
    """Number of points."""
    training: int = -1
    """Last step of the training; negative without any."""
    scores: list[str] = field(default_factory=list)
    """Exported scores, each as text."""
    ended: str = ""
    """Status and results of the run."""


def open_tracker(name: str) -> Any:
    """Return the module of a tracker.

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
    return importlib.import_module(f"touchline.report.trackers.to_{name}")


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
    module = open_tracker(tracker)
    named = os.environ.get(module.VARIABLE or "")
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
                exported.append(_exported(module, place, series))
            else:
                skipped.append(f"{run.name}: no step and no evaluation yet ({by_name[run.name].status.value})")
    if on_progress is not None:
        on_progress(len(runs), len(runs))
    return Export(
        experiment=planned.plan.experiment,
        tracker=tracker,
        where=str(place),
        view=module.view(place),
        runs=tuple(exported),
        skipped=tuple(skipped),
    )


@contextmanager
def _alone(planned: LoadedPlan, tracker: str) -> Iterator[None]:
    """Prevent a second export, which would find the same points missing.

    Raises:
        PolicyError: another one is active.
    """
    lock = try_lock(planned.folder.internal / f"export-{tracker}.lock")
    if lock is None:
        raise PolicyError(
            f"{planned.plan.experiment} is being exported to {tracker} by another command",
            expected="one export at a time",
        )
    try:
        yield
    finally:
        os.close(lock)


def _exported(module: Any, place: Path, run: RunSeries) -> Exported:
    """Write the points of a run that earlier exports have not written."""
    note = place / f"{run.id}.touchline.json"
    held = _read(note)
    training = [point for point in run.training if point.step > held.training]
    scores = [point for point in run.evaluations if _text(point) not in held.scores]
    ended = json.dumps([run.failed, sorted(run.summary.items())])
    new = (*training, *scores)
    if new or ended != held.ended:
        module.write(place, run, new, held.points)
        held.points += len(new)
        held.training = max([held.training, *(point.step for point in training)])
        held.scores += [_text(point) for point in scores]
        held.ended = ended
        data = {"points": held.points, "training": held.training, "scores": held.scores, "ended": held.ended}
        write_atomic(note, json.dumps(data, indent=1) + "\n")
    command = module.command(place, run)
    return Exported(run=run.run, id=run.id, added=len(new), total=held.points, command=command)


def _read(path: Path) -> _Held:
    try:
        return _Held(**parse_json(read_bytes(path)))
    except (OSError, ValueError, TypeError):
        return _Held()


def _text(point: Point) -> str:
    """Return the scores at a step as text, so that equal scores give equal text."""
    return f"{point.step}: {sorted(point.values.items())}"
