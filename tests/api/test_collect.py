"""What `prepare` and `collect` write down of runs, and what enters the history by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tests.api import made_runs as made
from tests.api.folders import make_experiment

from touchline import api
from touchline.core.quantity import Missing, Quantity
from touchline.data.metrics import EndRow, MetricsRow
from touchline.data.metrics_file import merged
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.history.record import RunRecord
from touchline.history.records import contents, read_record
from touchline.results.figures import figures_of_metrics
from touchline.results.record_builder import work_facts

pytestmark = pytest.mark.planning


@pytest.fixture
def settings(settings: UserConfig, tmp_path: Path) -> UserConfig:
    return replace(settings, history_dir=tmp_path / "history")


@pytest.fixture
def trained(tmp_path: Path, settings: UserConfig) -> tuple[Path, PlannedRun]:
    """A prepared experiment, and its first run, whose training failed in its last line."""
    folder = make_experiment(tmp_path / "exp")
    api.plan(folder, settings)
    run = api.prepare(folder, settings).plan.runs[0]
    place = folder / run.name
    rows: list[MetricsRow] = [replace(made.START, run=run.name, steps=10)]
    for step in range(1, 11):
        slow, elapsed, epoch = 30.0 if step == 1 else 2.0, 28.0 + 2.0 * step, (step - 1) // 5
        rows.append(replace(made.STEP, step=step, epoch=epoch, seconds=slow, elapsed_seconds=elapsed, loss=1 / step))
    rows.append(replace(made.VALIDATION, step=10, epoch=1, time_unix=1100.0))
    rows.append(EndRow(event="end", attempt=1, step=10, time_unix=1101.0, reason="done"))
    made.write_metrics(place, rows)
    made.begin(place)
    made.end(place, code=1, reason="failed", at=1101.0)
    return folder, run


def status(folder: Path) -> dict[str, dict[str, object]]:
    data = YAML(typ="safe").load((folder / "runs_status.yaml").read_text())
    return {run["name"]: run for run in data["runs"]}


def test_a_loss_taken_over_is_shown_and_its_time_is_no_evidence(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    run = api.plan(folder, settings).plan.runs[0]
    taken = replace(made.VALIDATION, seconds=0.0, elapsed_seconds=0.0, taken_from="another")
    later = replace(made.VALIDATION, step=10, seconds=5.0, elapsed_seconds=5.0)
    nothing = Missing(missing="No measurements of")
    begun = merged([made.START, taken, *made.steps(4)])
    assert figures_of_metrics(run, begun, nothing).validation_seconds == Missing(missing="no validation yet")
    assert isinstance(work_facts(run, begun).validation_seconds, Missing)
    done = merged([made.START, taken, *made.steps(10), later])
    for seconds in (
        figures_of_metrics(run, done, nothing).validation_seconds,
        work_facts(run, done).validation_seconds,
    ):
        assert isinstance(seconds, Quantity)
        assert seconds.value == 5.0
    assert [row.loss for row in done.validations] == [0.25, 0.25]


def test_prepare_writes_settings_and_nulls(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    api.plan(folder, settings)
    api.prepare(folder, settings)
    runs = status(folder)
    assert len(runs) == 3
    trained = next(run for run in runs.values() if "lora_rank" in run["config"])  # type: ignore[operator]
    assert trained["status"] == "prepared"
    assert (trained["slurm_job_id"], trained["started"], trained["completed"]) == (None, None, None)
    metrics = trained["metrics"]
    assert isinstance(metrics, dict)
    assert metrics.pop("total_examples") == 160
    assert set(metrics.values()) == {None}
    assert set(trained["missing"]) == set(metrics)  # type: ignore[arg-type]


def test_collect_fills_in_what_was_measured_and_says_why_the_rest_is_not(
    trained: tuple[Path, PlannedRun], settings: UserConfig
) -> None:
    """Once; collecting again changes no byte."""
    folder, run = trained
    name = run.name
    api.collect(folder, settings)
    written = (*folder.rglob("*.yaml"), *settings.history_dir.rglob("*.json"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in written}
    api.collect(folder, settings)
    again = (*folder.rglob("*.yaml"), *settings.history_dir.rglob("*.json"))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in again} == before
    metrics = status(folder)[name]["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["peak_gpu_memory_gb"] is None
    assert metrics["peak_process_memory_gib"] == 2.0
    assert metrics["seconds_per_step"] == 2.0, "the slow first step is warm-up"
    assert metrics["tokens_per_second"] == 40.0
    assert metrics["tokens_per_second_unit"] == "real"
    assert metrics["packing_efficiency"] == 80
    assert metrics["final_validation_loss"] == 0.25
    assert status(folder)[name]["missing"]["peak_gpu_memory_gb"] == "trained on a CPU"  # type: ignore[index]
    whole = YAML(typ="safe").load((folder / name / "run_metrics.yaml").read_text())
    assert [epoch["epoch"] for epoch in whole["per_epoch_metrics"]] == [0, 1]
    assert [epoch["peak_memory_gib"] for epoch in whole["per_epoch_metrics"]] == [2.0, 2.0]
    assert whole["timestamp"] == whole["started"] == status(folder)[name]["started"]
    assert whole["completed"] == status(folder)[name]["completed"]
    assert metrics["packing_density"] == 1.0, "not packed: every sequence holds one example"
    assert metrics["total_sequences"] == metrics["total_examples"]
    assert whole["static_config"]["effective_batch_size"] == run.batches.global_batch_size  # type: ignore[union-attr]


def test_a_run_enters_the_history_by_itself_with_what_the_plan_knows(
    trained: tuple[Path, PlannedRun], settings: UserConfig
) -> None:
    folder, run = trained
    api.collect(folder, settings)
    (path,) = contents(settings.history_dir).records.values()
    record = read_record(path)
    assert isinstance(record, RunRecord)
    assert (record.origin, record.run, record.run_digest) == ("touchline", run.name, run.digest)
    assert record.training.rank.value == run.train.lora.rank  # type: ignore[union-attr]
    assert record.model.layers.value == 2  # type: ignore[union-attr]
    assert record.course.steps_done.value == 10  # type: ignore[union-attr]
    assert record.course.outcome.value == "completed"
    text = (next(settings.history_dir.rglob("records/**/*.json"))).read_text()
    assert str(folder) not in text, "a record holds no path of whoever made it"


@pytest.mark.parametrize("cut", [1, 900, -150])
def test_a_torn_metrics_file_is_collected_as_far_as_it_goes_whatever_the_history_is(
    trained: tuple[Path, PlannedRun], settings: UserConfig, cut: int
) -> None:
    """A history that cannot be written fails no run."""
    folder, run = trained
    path = folder / run.name / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:cut])
    settings.history_dir.write_text("a file stands where the folder should be")
    metrics, notes = api.collect(folder, settings)
    assert len(metrics) == 3
    assert cut == 1 or "is not in the history" in notes[0]
    assert status(folder)[run.name]["status"] in ("failed", "interrupted")


def test_the_log_of_another_trainer_in_a_run_folder_is_read(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    api.plan(folder, settings)
    name = api.prepare(folder, settings).plan.runs[0].name
    rows = [
        f"{{'loss': {2 - n / 10}, 'grad_norm': 1.0, 'learning_rate': 0.001, 'epoch': {n / 10}}}\n" for n in range(1, 11)
    ]
    closing = {"train_runtime": 120.0, "train_samples_per_second": 8.0, "train_steps_per_second": 0.5, "epoch": 1.0}
    (folder / name / "slurm-7.out").write_text("".join(rows) + f"{closing}\n")
    api.collect(folder, settings)
    metrics = status(folder)[name]["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["training_time_minutes"] == 2
    assert metrics["examples_per_second"] == 8
    assert metrics["final_train_loss"] == 1.0
