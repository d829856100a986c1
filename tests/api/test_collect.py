"""What `prepare` and `collect` write down of runs, and what enters the history by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from tests.api.folders import make_experiment
from tests.api.made_runs import VALIDATION
from tests.api.made_runs import steps as made_steps

from touchline import api
from touchline.core.quantity import Missing, Quantity
from touchline.data.metrics import AttemptRow, EndRow, MetricsRow, StepRow, ValidationRow
from touchline.data.metrics_file import merged
from touchline.data.user_config import UserConfig
from touchline.history.history import contents, read_record
from touchline.history.record import RunRecord
from touchline.results.figures import figures_of_metrics
from touchline.results.record_builder import work_facts

pytestmark = pytest.mark.planning

START = AttemptRow(
    event="start", attempt=1, time_unix=1000.0, from_step=0, run="r", run_digest="d", steps=10,
    versions={"python": "3.11"}, device="A processor", device_kind="cpu", threads=1, base_dtype="float32",
    base_dtype_requested="auto", base_dtype_reason="no bf16", adapter_dtype="float32", attention="eager",
    layout="padded", layout_reason="asked", packed_requested=False, isolation=None, gradient_checkpointing=False,
    optimizer="AdamW", micro_batch_size=4, gradient_accumulation_steps=2, global_batch_size=8,
    trainable_parameters=1234, label_text="x", label_tokens=2, setup_seconds=1.0,
)  # fmt: skip
STEP = StepRow(
    event="step", attempt=1, step=1, epoch=0, time_unix=1001.0, seconds=2.0, elapsed_seconds=2.0, loss=1.0,
    learning_rate=1e-3, grad_norm=1.0, examples=8, micro_batches=2, real_tokens=80, padded_tokens=100,
    target_tokens=16, peak_memory=Quantity(value=2.0 * 1024**3, unit="B", phase="step", kind="process"),
    peak_memory_reserved=Missing(missing="no GPU"), cpu_percent=100.0, gpu_percent=Missing(missing="no GPU"),
    load_1min=Missing(missing="not asked"),
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> UserConfig:
    models = tmp_path / "models"
    models.mkdir()
    (models / "Tiny-1M-Instruct").symlink_to(tiny_model)
    return UserConfig(models_dir=models, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def status(folder: Path) -> dict[str, dict[str, object]]:
    data = YAML(typ="safe").load((folder / "runs_status.yaml").read_text())
    return {run["name"]: run for run in data["runs"]}


def train_by_hand(folder: Path, run: str, *, steps: int = 10, end: bool = True) -> None:
    """What a training leaves of itself in metrics.jsonl."""
    rows: list[MetricsRow] = [replace(START, run=run, steps=10)]
    for step in range(1, steps + 1):
        slow = 30.0 if step == 1 else 2.0
        elapsed = 28.0 + 2.0 * step
        rows.append(
            replace(STEP, step=step, epoch=(step - 1) // 5, seconds=slow, elapsed_seconds=elapsed, loss=1 / step)
        )
    rows.append(
        ValidationRow(
            event="validation",
            attempt=1,
            step=steps,
            epoch=1,
            time_unix=1100.0,
            seconds=5.0,
            elapsed_seconds=5.0,
            loss=0.25,
            examples=4,
            target_tokens=8,
        )
    )
    if end:
        rows.append(EndRow(event="end", attempt=1, step=steps, time_unix=1101.0, reason="done"))
    adapter: TypeAdapter[MetricsRow] = TypeAdapter(MetricsRow)
    (folder / run / "metrics.jsonl").write_bytes(b"".join(adapter.dump_json(row) + b"\n" for row in rows))
    (folder / run / "status").mkdir(exist_ok=True)
    start = {"job_id": "local-1", "restart": 0, "token": "t", "host": "h", "boot_id": "b", "pid": 1}
    (folder / run / "status" / "start.local-1.0.json").write_text(
        json.dumps(start | {"pid_started": 1.0, "time_unix": 1000.0})
    )
    (folder / run / "status" / "exit.local-1.0.json").write_text(
        json.dumps({"job_id": "local-1", "restart": 0, "code": 1, "reason": "failed", "time_unix": 1101.0})
    )


def test_a_loss_taken_over_is_shown_and_its_time_is_no_evidence(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    run = api.plan(folder, settings).plan.runs[0]
    taken = replace(VALIDATION, seconds=0.0, elapsed_seconds=0.0, taken_from="another")
    later = replace(VALIDATION, step=10, seconds=5.0, elapsed_seconds=5.0)
    nothing = Missing(missing="nothing was measured")
    begun = merged([START, taken, *made_steps(4)])
    assert figures_of_metrics(run, begun, nothing).validation_seconds == Missing(missing="no validation was made")
    assert isinstance(work_facts(run, begun).validation_seconds, Missing)
    done = merged([START, taken, *made_steps(10), later])
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


def test_collect_fills_in_what_was_measured_and_says_why_the_rest_is_not(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    name = planned.plan.runs[0].name
    train_by_hand(folder, name)
    api.collect(folder, settings)
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
    assert whole["static_config"]["effective_batch_size"] == planned.plan.runs[0].batches.global_batch_size  # type: ignore[union-attr]


def test_collecting_twice_changes_no_byte(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    train_by_hand(folder, planned.plan.runs[0].name)
    api.collect(folder, settings)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.yaml")}
    records = sorted(path.name for path in settings.history_dir.rglob("*.json"))
    api.collect(folder, settings)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.yaml")} == before
    assert sorted(path.name for path in settings.history_dir.rglob("*.json")) == records


def test_a_run_enters_the_history_by_itself_with_what_the_plan_knows(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    run = planned.plan.runs[0]
    train_by_hand(folder, run.name)
    api.collect(folder, settings)
    (path,) = contents(settings.history_dir).records.values()
    record = read_record(path)
    assert isinstance(record, RunRecord)
    assert (record.origin, record.run, record.run_digest) == ("touchline", run.name, run.digest)
    assert record.training.rank.value == run.train.lora.rank  # type: ignore[union-attr]
    assert record.model.layers.value == planned.plan.models[run.model].num_layers  # type: ignore[union-attr]
    assert record.course.steps_done.value == 10  # type: ignore[union-attr]
    assert record.course.outcome.value == "completed"
    text = (next(settings.history_dir.rglob("records/**/*.json"))).read_text()
    assert str(tmp_path) not in text, "a record holds no path of whoever made it"


@pytest.mark.parametrize("cut", [1, 200, 900, -1, -150])
def test_a_torn_metrics_file_is_collected_as_far_as_it_goes(tmp_path: Path, settings: UserConfig, cut: int) -> None:
    folder = make_experiment(tmp_path / "exp")
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    name = planned.plan.runs[0].name
    train_by_hand(folder, name)
    path = folder / name / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:cut])
    api.collect(folder, settings)
    assert status(folder)[name]["status"] in ("failed", "interrupted")


def test_a_history_that_cannot_be_written_fails_no_run(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    train_by_hand(folder, planned.plan.runs[0].name)
    settings.history_dir.write_text("a file stands where the folder should be")
    metrics, notes = api.collect(folder, settings)
    assert len(metrics) == 3
    assert "is not in the history" in notes[0]


def test_the_log_of_another_trainer_in_a_run_folder_is_read(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "exp")
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    name = planned.plan.runs[0].name
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
