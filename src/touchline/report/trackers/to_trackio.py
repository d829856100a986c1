"""Export to trackio: its SQLite database, with the function of its own importers.

Each point has a `log_id` made from the run and the step, and trackio ignores points that it already has. The time of a
point is its measurement time, not its export time. The database uses a rollback journal unless the user sets another
one, because a write-ahead log does not work on network file systems.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from touchline.core.errors import HostError
from touchline.core.files import disk_errors
from touchline.report.trackers.protocol import Exported, Point, RunSeries

DIRECTORY = "TRACKIO_DIR"
"""Variable with trackio's database directory. trackio reads it once, on import."""


def open_at(directory: Path | None, default: Path) -> Trackio:
    """Open trackio's folder.

    Raises:
        HostError: this process has used trackio with another folder.
    """
    named = os.environ.get(DIRECTORY)
    return Trackio((directory or (Path(named) if named else default)).resolve())


class Trackio:
    """Folder of trackio databases, one per project."""

    view: str | None = None

    def __init__(self, directory: Path) -> None:
        with disk_errors("folder", directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.where = str(directory)
        os.environ[DIRECTORY] = self.where
        os.environ.setdefault("TRACKIO_SQLITE_JOURNAL_MODE", "delete")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        self._storage = _storage(directory)

    def export(self, run: RunSeries) -> Exported:
        """Add the missing points to the database, and update the run's configuration."""
        project = self._project(run.experiment)
        self.view = f"{DIRECTORY}={shlex.quote(self.where)} trackio show --project {shlex.quote(project)}"
        points = (*run.training, *run.evaluations)
        ids = [
            *(f"{run.id}/{point.step}" for point in run.training),
            *(_score_id(run, evaluation) for evaluation in run.evaluations),
        ]
        before = self._storage.get_log_count(project, run.run, run_id=run.id)
        self._write(project, run, points, ids)
        after = self._storage.get_log_count(project, run.run, run_id=run.id)
        database = str(self._storage.get_project_db_path(project))
        return Exported(run=run.run, id=run.id, where=database, added=after - before, total=after)

    def _write(self, project: str, run: RunSeries, points: Sequence[Point], ids: Sequence[str]) -> None:
        self._storage.bulk_log(
            project=project,
            run=run.run,
            run_id=run.id,
            metrics_list=[point.values for point in points],
            steps=[point.step for point in points],
            timestamps=[_iso(point.time_unix) for point in points],
            config=_config(run),
            log_ids=list(ids),
        )

    def _project(self, experiment: str) -> str:
        """Return the experiment's name, or a similar one if trackio reserves that name."""
        try:
            self._storage.validate_project_name(experiment)
        except ValueError:
            return f"{experiment}-experiment"
        return experiment


def _storage(directory: Path) -> Any:
    """Return trackio's storage class. Importing trackio must not print to stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        from trackio import utils
        from trackio.sqlite_storage import SQLiteStorage
    if Path(utils.TRACKIO_DIR).resolve() != directory:
        raise HostError(
            f"this process has used trackio with {str(utils.TRACKIO_DIR)!r}",
            expected=f"a process of its own for {str(directory)!r}",
        )
    return SQLiteStorage


def _config(run: RunSeries) -> dict[str, Any]:
    """Return the settings and results. `_Created` and `_Group` are trackio's own keys."""
    created = {"_Created": _iso(run.started_unix), "_Group": run.experiment, "_Username": None}
    return {key.lstrip("_"): value for key, value in {**run.config, **run.summary}.items()} | created


def _score_id(run: RunSeries, point: Point) -> str:
    """Return an id that changes if a checkpoint is scored again with other scores."""
    digest = hashlib.sha256(repr(sorted(point.values.items())).encode()).hexdigest()
    return f"{run.id}/{point.step}/scores/{digest[:16]}"


def _iso(unix: float) -> str:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC).isoformat()
