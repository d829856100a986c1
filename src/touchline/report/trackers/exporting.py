"""Export of all runs of an experiment to a tracker. It can be repeated while runs continue."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import HostError, InputError, PolicyError, install_hint
from touchline.core.files import disk_errors, read_bytes, try_lock, write_atomic
from touchline.core.json_text import parse_json
from touchline.core.near import RemovedKind, refuse_removed
from touchline.data.metrics_file import read_metrics
from touchline.report.trackers.series import RunSeries, run_series
from touchline.results.collect import collect_results
from touchline.run.loaded_plan import LoadedPlan, selected

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
        module.write(place, run, tuple(new.values()), first)
        held |= dict.fromkeys(new, "") | {"status": run.status}
        write_atomic(note, json.dumps(held) + "\n")
    command = module.command(place, run)
    return Exported(run=run.run, id=run.id, added=len(new), total=len(held) - 1, command=command)
