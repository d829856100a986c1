"""To MLflow, read back with its own client."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_series import Scalars, same, scalars, series

from touchline.core.errors import HostError, PolicyError
from touchline.report.trackers.protocol import RunSeries
from touchline.report.trackers.to_mlflow import MLflow, open_at

pytestmark = pytest.mark.trackers

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests: making one takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def experiment() -> str:
    return f"experiment {next(NUMBERS)}"


@pytest.fixture
def tracker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MLflow:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_at(folder, folder)


def client(folder: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def runs(folder: Path, experiment: str) -> list[Any]:
    reader = client(folder)
    known = reader.get_experiment_by_name(experiment)
    return list(reader.search_runs([known.experiment_id]))


def values(folder: Path, run: Any) -> Scalars:
    reader = client(folder)
    return {
        name: [(each.step, each.value) for each in reader.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if not name.startswith("summary/")
    }


def expected(run: RunSeries) -> Scalars:
    """MLflow's SQL store holds the largest number instead of infinity."""
    largest = 1.7976931348623157e308
    return {
        name: [(step, largest if value == math.inf else value) for step, value in points]
        for name, points in scalars(run).items()
    }


def test_everything_is_read_back(folder: Path, tracker: MLflow, experiment: str) -> None:
    run = series(30, 2, ended=True, experiment=experiment)
    done = tracker.export(run)
    assert (done.added, done.total) == (32, 32)
    (found,) = runs(folder, experiment)
    assert found.info.run_id == done.id
    assert same(values(folder, found), expected(run))
    assert found.data.params["lora_rank"] == "4"
    assert found.data.tags["touchline.id"] == run.id
    assert found.data.tags["touchline.status"] == "completed"
    assert found.data.metrics["summary/exact_match"] == run.summary["exact_match"]
    assert (found.info.run_name, found.info.status) == (run.run, "FINISHED")
    assert found.info.start_time == int(run.started_unix * 1000)
    history = client(folder).get_metric_history(done.id, "train/loss")
    assert [each.timestamp for each in history] == [int(point.time_unix * 1000) for point in run.training]


def test_again_and_again_and_further(folder: Path, tracker: MLflow, experiment: str) -> None:
    added = [tracker.export(series(*each, experiment=experiment)).added for each in ((5,), (5,), (20, 1), (20, 2))]
    assert added == [5, 0, 16, 1]
    other = open_at(folder, folder)
    assert other.export(series(20, 2, ended=True, experiment=experiment)).added == 0
    (found,) = runs(folder, experiment)
    assert same(values(folder, found), expected(series(20, 2)))
    assert found.info.status == "FINISHED"


def test_a_run_that_goes_on_is_at_work_again(folder: Path, tracker: MLflow, experiment: str) -> None:
    for ended, failed, status in ((True, True, "FAILED"), (False, False, "RUNNING"), (True, False, "FINISHED")):
        tracker.export(series(3, ended=ended, failed=failed, experiment=experiment))
        (found,) = runs(folder, experiment)
        assert found.info.status == status


def test_more_values_than_one_request_takes(folder: Path, tracker: MLflow, experiment: str) -> None:
    run = series(700, experiment=experiment)
    tracker.export(run)
    (found,) = runs(folder, experiment)
    assert same(values(folder, found), expected(run))


def test_an_export_that_was_killed_is_completed(
    folder: Path, tracker: MLflow, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request fails: what the first one brought is not brought again."""
    calls = itertools.count()
    genuine = tracker._client.log_batch

    def dies(run_id: str, **what: Any) -> None:
        if what.get("metrics") and next(calls) == 1:
            raise KeyboardInterrupt
        genuine(run_id, **what)

    monkeypatch.setattr(tracker._client, "log_batch", dies)
    run = series(700, ended=True, experiment=experiment)
    with pytest.raises(KeyboardInterrupt):
        tracker.export(run)
    monkeypatch.undo()
    tracker.export(run)
    (found,) = runs(folder, experiment)
    assert same(values(folder, found), expected(run))


def test_a_training_that_was_started_afresh_is_another_run(folder: Path, tracker: MLflow, experiment: str) -> None:
    tracker.export(series(5, experiment=experiment))
    tracker.export(series(3, experiment=experiment, begun=1_700_009_999.0))
    assert len(runs(folder, experiment)) == 2


def test_an_experiment_that_was_deleted_there_is_not_brought_back_in_silence(
    folder: Path, tracker: MLflow, experiment: str
) -> None:
    tracker.export(series(2, experiment=experiment))
    reader = client(folder)
    reader.delete_experiment(reader.get_experiment_by_name(experiment).experiment_id)
    with pytest.raises(PolicyError, match="was deleted in MLflow"):
        open_at(folder, folder).export(series(2, experiment=experiment))


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 10)
    with pytest.raises(HostError, match="does not answer"):
        open_at(tmp_path, tmp_path)


def test_the_server_of_the_environment_counts_where_no_folder_is_given(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{folder / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert open_at(None, tmp_path / "unused").where == address
    assert not (tmp_path / "unused").exists()
    assert open_at(folder, tmp_path).where == address
