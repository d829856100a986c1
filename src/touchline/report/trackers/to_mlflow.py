"""Export to MLflow: a local SQLite database, or the server that MLFLOW_TRACKING_URI names.

An experiment of touchline is an experiment of MLflow. The tag `touchline.id` identifies a run. For each metric, only
the steps that MLflow lacks are added. `mlflow ui --backend-store-uri` opens the local database. Writing needs
`mlflow-skinny`, viewing needs the full package.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from touchline.core.errors import HostError, PolicyError
from touchline.core.files import disk_errors
from touchline.report.trackers.protocol import Exported, Point, RunSeries

ADDRESS = "MLFLOW_TRACKING_URI"
ID_TAG = "touchline.id"
"""Tag that identifies a run."""
_METRICS_LIMIT = 1000
_PARAMS_LIMIT = 100
"""Maximum number of parameters in one MLflow request."""
_VALUE_LETTERS = 500
"""Maximum length of a parameter's value in all versions of MLflow."""
_MILLISECONDS = 1000
_SUMMARY = "summary/"
_Item = TypeVar("_Item")


def open_at(directory: Path | None, default: Path) -> MLflow:
    """Open the database in a folder, or the server that the environment names if no folder is given.

    Raises:
        HostError: the database cannot be opened, or the server not be reached.
    """
    address = os.environ.get(ADDRESS)
    if directory is None and address:
        return MLflow(address, None)
    folder = (directory or default).resolve()
    with disk_errors("folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return MLflow(f"sqlite:///{folder / 'mlflow.db'}", folder)


class MLflow:
    """MLflow store."""

    def __init__(self, address: str, folder: Path | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        # Both loggers are verbose while creating a database, and set their own levels on import.
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.where = address
        shown = f"--backend-store-uri {shlex.quote(address)}"
        self.view: str | None = f"mlflow ui {shown}" if folder is not None else None
        self._folder = folder
        self._experiments: dict[str, str] = {}
        try:
            self._client: Any = MlflowClient(tracking_uri=address)
            self._client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise HostError(
                f"MLflow at {address!r} does not answer: {_first_line(error)}",
                expected="a server that runs, or a database of this or an older version of MLflow",
                hint="touchline export EXPERIMENT --to mlflow --dir DIR writes into a folder, without a server",
            ) from error

    def export(self, run: RunSeries) -> Exported:
        """Add the missing values to the store, and update the results.

        Raises:
            PolicyError: an experiment of this name was deleted in MLflow.
        """
        experiment = self._experiment(run.experiment)
        found = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
        record = found[0] if found else self._created(experiment, run)
        known = record.info.run_id
        added = self._add(known, run)
        self._conclude(record, run)
        total = len(run.training) + len(run.evaluations)
        return Exported(run=run.run, id=known, where=self.where, added=added, total=total)

    def _experiment(self, name: str) -> str:
        """Return MLflow's id of an experiment. Create it if it does not exist."""
        if name not in self._experiments:
            there = self._client.get_experiment_by_name(name)
            if there is not None and there.lifecycle_stage == "deleted":
                raise PolicyError(
                    f"the experiment {name!r} was deleted in MLflow at {self.where!r}",
                    expected="one that is there, or none of that name",
                    hint=f"mlflow experiments restore --experiment-id {there.experiment_id}",
                )
            place = None if self._folder is None else (self._folder / "artifacts" / name).as_uri()
            created = there.experiment_id if there is not None else self._client.create_experiment(name, place)
            self._experiments[name] = str(created)
        return self._experiments[name]

    def _created(self, experiment: str, run: RunSeries) -> Any:
        """Create a run with its settings, which are immutable in MLflow."""
        from mlflow.entities import Param

        tags = {ID_TAG: run.id, "mlflow.note.content": run.question} if run.question else {ID_TAG: run.id}
        start = int(run.started_unix * _MILLISECONDS)
        record = self._client.create_run(experiment, start_time=start, tags=tags, run_name=run.run)
        params = [Param(key, str(value)[:_VALUE_LETTERS]) for key, value in run.config.items()]
        for some in _several(params, _PARAMS_LIMIT):
            self._client.log_batch(record.info.run_id, params=some)
        return record

    def _add(self, known: str, run: RunSeries) -> int:
        """Add the missing values, oldest first. Return the number of their points."""
        from mlflow.entities import Metric

        names = sorted({name for point in (*run.training, *run.evaluations) for name in point.values})
        held = {name: dict(self._held(known, name)) for name in names}
        metrics: list[Any] = []
        points = 0
        for point, is_score in (*((p, False) for p in run.training), *((p, True) for p in run.evaluations)):
            new = [
                Metric(name, value, int(point.time_unix * _MILLISECONDS), point.step)
                for name, value in point.values.items()
                # A training step is exported once. A checkpoint may be scored again with another result.
                if point.step not in held[name] or (is_score and value not in held[name][point.step])
            ]
            metrics += new
            points += bool(new)
        for some in _several(metrics, _METRICS_LIMIT):
            self._client.log_batch(known, metrics=some)
        return points

    def _held(self, known: str, name: str) -> Iterator[tuple[int, set[float]]]:
        """Yield the steps at which the store has a metric, and its values there."""
        values: dict[int, set[float]] = {}
        for metric in self._client.get_metric_history(known, name):
            values.setdefault(metric.step, set()).add(metric.value)
        yield from values.items()

    def _conclude(self, record: Any, run: RunSeries) -> None:
        """Update the results and the status of the run. Values that are already there are not written again."""
        last: Point | None = max((*run.training, *run.evaluations), key=lambda point: point.step, default=None)
        when = run.started_unix if last is None else last.time_unix
        known, data = record.info.run_id, record.data
        for name, value in run.summary.items():
            if isinstance(value, str):
                if data.tags.get(f"touchline.{name}") != value:
                    self._client.set_tag(known, f"touchline.{name}", value)
            elif data.metrics.get(_SUMMARY + name) != value:
                step = 0 if last is None else last.step
                self._client.log_metric(known, _SUMMARY + name, value, int(when * _MILLISECONDS), step)
        status = "RUNNING" if not run.ended else "FAILED" if run.failed else "FINISHED"
        if record.info.status != status:
            ended = int(when * _MILLISECONDS) if run.ended else None
            if run.ended:
                self._client.set_terminated(known, status, ended)
            else:
                self._client.update_run(known, status=status)


def _several(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + most] for start in range(0, len(items), most))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
