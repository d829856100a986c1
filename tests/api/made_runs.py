"""What attempts, trainings and evaluations leave in a run's folder, made by hand: any moment of a run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter
from tests.cases import until

from touchline import api
from touchline.core.quantity import Missing, Quantity
from touchline.data.evaluations import settings_sha256
from touchline.data.metrics import (
    AttemptRow,
    EndRow,
    ExportMarker,
    MetricsRow,
    SavedFile,
    StepRow,
    TrainingMarker,
    ValidationRow,
)
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.run.scripts.folder import evaluation_config

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
    squared_widths=4000, target_tokens=16,
    peak_memory=Quantity(value=2.0 * 1024**3, unit="B", phase="step", kind="process", aggregation="peak"),
    peak_memory_reserved=Missing(missing="no GPU in use"), cpu_percent=100.0,
    gpu_percent=Missing(missing="no GPU in use"), load_1min=Quantity(value=1.5, unit="1", aggregation="mean"),
)  # fmt: skip
VALIDATION = ValidationRow(
    event="validation", attempt=1, step=0, epoch=0, time_unix=1000.5, seconds=5.0, elapsed_seconds=5.0, loss=0.25,
    examples=4, target_tokens=8,
)  # fmt: skip
_ROWS: TypeAdapter[MetricsRow] = TypeAdapter(MetricsRow)


def rows(items: Sequence[MetricsRow]) -> bytes:
    return b"".join(_ROWS.dump_json(row) + b"\n" for row in items)


def steps(
    count: int, *, since: float = 1000.0, seconds: float = 2.0, first: int = 1, attempt: int = 1
) -> list[StepRow]:
    """Steps in a row, one after the other without a pause."""
    return [
        replace(
            STEP,
            attempt=attempt,
            step=first + number,
            time_unix=since + seconds * (number + 1),
            seconds=seconds,
            elapsed_seconds=seconds * (first + number),
            loss=1 / (first + number),
        )
        for number in range(count)
    ]


def begin(
    folder: Path, *, job_id: str = "local-1", restart: int = 0, at: float = 1000.0, host: str = "another-machine"
) -> Path:
    """An attempt begins; give its status folder. Where `folder` is a run's, its training; else what is named."""
    status = folder / "status"
    status.mkdir(parents=True, exist_ok=True)
    start = {"job_id": job_id, "restart": restart, "token": "t", "host": host, "boot_id": "b", "pid": 1}
    text = json.dumps(start | {"pid_started": 1.0, "time_unix": at})
    (status / f"start.{job_id}.{restart}.json").write_text(text)
    return status


def beat(folder: Path, at: float, *, job_id: str = "local-1", restart: int = 0) -> None:
    """A sign of life, by both clocks."""
    path = folder / "status" / f"heartbeat.{job_id}.{restart}"
    path.write_text(f"{at:.1f}\n")
    os.utime(path, (at, at))


def end(
    folder: Path, *, code: int = 0, reason: str = "completed", at: float = 1100.0, job_id: str = "local-1",
    restart: int = 0,
) -> None:  # fmt: skip
    told = {"job_id": job_id, "restart": restart, "code": code, "reason": reason, "time_unix": at}
    (folder / "status" / f"exit.{job_id}.{restart}.json").write_text(json.dumps(told))


def write_metrics(folder: Path, items: Sequence[MetricsRow], at: float | None = None) -> None:
    """metrics.jsonl, as old as its last row by the disk's clock too."""
    path = folder / "metrics.jsonl"
    path.write_bytes(rows(items))
    when = items[-1].time_unix if at is None else at
    os.utime(path, (when, when))


def train(plan: Plan, run: PlannedRun, folder: Path) -> None:
    """A complete training: metrics, one whole checkpoint, the marker."""
    assert run.batches is not None
    count = run.batches.steps
    done = EndRow(event="end", attempt=1, step=count, time_unix=1000.0 + 2 * count, reason="done")
    write_metrics(folder, [replace(START, run=run.name, steps=count), *steps(count), done])
    export = folder / "epoch_0"
    export.mkdir(exist_ok=True)
    (export / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    marker = ExportMarker(
        experiment=plan.experiment, run=run.name, run_digest=run.digest, kind="adapter", step=count, epoch=0,
        validation_loss=1.0, base_path="/models/base", base_weights_sha256="b", adapter_sha256="a" * 64,
        files={"adapter_model.safetensors": SavedFile(size=1000, sha256="0" * 64)},
    )  # fmt: skip
    (export / "touchline.json").write_bytes(TypeAdapter(ExportMarker).dump_json(marker))
    training = TrainingMarker(
        experiment=plan.experiment, run=run.name, run_digest=run.digest, steps=count, final_train_loss=1.0,
        final_validation_loss=None, best_epoch=None, elapsed_seconds=10.0, validation_seconds=0.0,
        checkpoints=("epoch_0",), adapter_sha256="a" * 64,
    )  # fmt: skip
    (folder / "training.json").write_bytes(TypeAdapter(TrainingMarker).dump_json(training))


def evaluate(plan: Plan, run: PlannedRun, folder: Path, items: int = 24) -> Path:
    """Scores of the checkpoint, or of the base; give their file."""
    config = evaluation_config(plan, run)
    control = run.batches is None
    checkpoint = "base" if control else "epoch_0"
    name = f"{plan.task}_{checkpoint}"
    place = folder / "eval"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.eval").write_bytes(b"a log")
    record = EvaluationRecord(
        experiment=plan.experiment, run=run.name, task=plan.task, checkpoint=checkpoint, log=f"{name}.eval",
        log_sha256="0" * 64, adapter_sha256=None if control else "a" * 64,
        base_sha256=config.model.weights_sha256, data_sha256=config.data_sha256,
        settings_sha256=settings_sha256(config), decoding="greedy", seconds=3.0,
        samples=tuple(
            SampleScore(id=str(item), target="A", output="A", exact=True, match=True) for item in range(items)
        ),
    )  # fmt: skip
    path = place / f"{name}.scores.json"
    path.write_bytes(TypeAdapter(EvaluationRecord).dump_json(record, indent=1))
    return path


def at_work(place: Path, number: int = 77) -> subprocess.Popen[bytes]:
    """A job of this machine that runs until it is told to end, under the real supervisor."""
    command = [sys.executable, "-m", "touchline.run.attempt", "--", sys.executable, "-c"]
    waits = "import sys, time\nprint('at work', flush=True)\nwhile True: time.sleep(0.1)"
    output = place / f"slurm-local-{number}.out"
    with output.open("ab") as stream:
        process = subprocess.Popen(
            [*command, waits], cwd=place, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            env=os.environ | {"TOUCHLINE_JOB_ID": f"local-{number}"}, start_new_session=True,
        )  # fmt: skip
    until(lambda: "at work" in output.read_text())
    now = time.time()
    write_metrics(place, [START, *steps(20, since=now - 40)])
    return process


def finish(folder: Path, settings: UserConfig, items: int = 24) -> Plan:
    """Plan an experiment, and make all of it look trained and evaluated."""
    api.plan(folder, settings)
    plan = api.prepare(folder, settings).plan
    for run in plan.runs:
        if run.train is not None:
            train(plan, run, folder / run.name)
        evaluate(plan, run, folder / run.name, items)
    return plan
