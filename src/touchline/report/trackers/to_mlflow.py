"""To MLflow: a local SQLite database, or the server that MLFLOW_TRACKING_URI names.

An experiment of touchline is one of MLflow's; a run is found again by the tag `touchline.id`. Each metric is asked for
the steps that it holds, and gets the others. The local database is what `mlflow ui --backend-store-uri` opens; writing
it takes `mlflow-skinny`, showing it takes the whole package.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from touchline.core.errors import HostError, PolicyError
from touchline.core.files import disk_faults
from touchline.report.trackers.exported import Exported, Point, RunSeries

ADDRESS = "MLFLOW_TRACKING_URI"
ID_TAG = "touchline.id"
"""The tag by which a run is found again."""
_METRICS_LIMIT = 1000
_PARAMS_LIMIT = 100
"""What MLflow takes in one request."""
_VALUE_LETTERS = 500
"""What every version of MLflow takes of a parameter's value."""
_MILLISECONDS = 1000
_SUMMARY = "summary/"
_Item = TypeVar("_Item")


def open_at(directory: Path | None, default: Path) -> MLflow:
    """The database in a folder, or the server that the environment names where no folder is given.

    Raises:
        HostError: the database cannot be opened, or the server not be reached.
    """
    told = os.environ.get(ADDRESS)
    if directory is None and told:
        return MLflow(told, None)
    folder = (directory or default).resolve()
    with disk_faults("folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return MLflow(f"sqlite:///{folder / 'mlflow.db'}", folder)


class MLflow:
    """A store of MLflow."""

    def __init__(self, address: str, folder: Path | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        # Both say a lot while they make a database, and set their levels themselves when they are imported.
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
        """Add the values that the store does not hold, and renew what came out.

        Raises:
            PolicyError: the experiment's name is one that was deleted in MLflow.
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
        """MLflow's id of an experiment; made where it is not there."""
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
        """A new run with its settings, which MLflow lets nobody change."""
        from mlflow.entities import Param

        tags = {ID_TAG: run.id, "mlflow.note.content": run.question} if run.question else {ID_TAG: run.id}
        start = int(run.started_unix * _MILLISECONDS)
        record = self._client.create_run(experiment, start_time=start, tags=tags, run_name=run.run)
        params = [Param(key, str(value)[:_VALUE_LETTERS]) for key, value in run.config.items()]
        for some in _several(params, _PARAMS_LIMIT):
            self._client.log_batch(record.info.run_id, params=some)
        return record

    def _add(self, known: str, run: RunSeries) -> int:
        """Values that are not there yet, oldest first; give how many points they belong to."""
        from mlflow.entities import Metric

        names = sorted({name for point in (*run.training, *run.evaluations) for name in point.values})
        held = {name: dict(self._held(known, name)) for name in names}
        metrics: list[Any] = []
        points = 0
        for point, is_score in (*((p, False) for p in run.training), *((p, True) for p in run.evaluations)):
            new = [
                Metric(name, value, int(point.time_unix * _MILLISECONDS), point.step)
                for name, value in point.values.items()
                # A step of a training is handed over once; a checkpoint may be scored anew, and differently.
                if point.step not in held[name] or (is_score and value not in held[name][point.step])
            ]
            metrics += new
            points += bool(new)
        for some in _several(metrics, _METRICS_LIMIT):
            self._client.log_batch(known, metrics=some)
        return points

    def _held(self, known: str, name: str) -> Iterator[tuple[int, set[float]]]:
        """Steps at which the store holds a metric, and its values there."""
        values: dict[int, set[float]] = {}
        for metric in self._client.get_metric_history(known, name):
            values.setdefault(metric.step, set()).add(metric.value)
        yield from values.items()

    def _conclude(self, record: Any, run: RunSeries) -> None:
        """What came out, and whether the run is over; nothing is written that says what is there already."""
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
