"""Runs that PEFT's comparison of methods tells of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import EvidenceLevel, MicroBatch, TrainingSetup
from touchline.core.quantity import Missing
from touchline.data.shapes import load_shape
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.history_points import missing_facts, to_memory_points, to_time_point
from touchline.estimate.memory import memory_estimate
from touchline.history.adding import record_of_run
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import RunReading
from touchline.history.record import RunRecord

pytestmark = pytest.mark.planning


def read(*paths: Path) -> RunReading:
    """The one run of these files."""
    (found,) = find_runs(paths)
    assert isinstance(found, LoggedRun), found
    return found.reading


def values(reading: RunReading, *names: str) -> list[Any]:
    """Values of fields; None for what is missing."""
    return [None if isinstance(fact := getattr(reading, name), Missing) else fact.value for name in names]


def comparison(**train: object) -> dict[str, Any]:
    """A result as PEFT's benchmark writes it, of 500 steps."""
    rows: list[dict[str, object]] = [
        {"step": 250 * i, "train loss": 1 - i / 10, "train samples": 1000 * i, "train time": 31.0, "eval time": 11.0}
        for i in (1, 2)
    ]
    rows.append({"step": 500, "train loss": 0.8, "train samples": 2000, "train total tokens": 420_000})
    return {
        "run_info": {
            "train_config": {
                "model_id": "meta-llama/Llama-3.2-3B",
                "dtype": "bfloat16",
                "max_seq_length": 768,
                "batch_size": 4,
                "max_steps": 500,
                "use_gc": False,
                "compile": False,
                "autocast_adapter_dtype": True,
                "optimizer_type": "AdamW",
                "optimizer_kwargs": {"lr": 1e-4},
            },
            "peft_config": {
                "peft_type": "LORA",
                "r": 32,
                "lora_alpha": 64,
                "lora_dropout": 0.0,
                "target_modules": ["v_proj", "q_proj"],
            },
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_max": 20 * 1024**3,
            "status": "success",
            "num_trainable_params": 9175040,
            "metrics": rows,
            **train,
        },
        "meta_info": {
            "dataset_info": {"metamath": {}},
            "package_info": {"torch-version": "2.7.1"},
            "system_info": {"accelerator": "NVIDIA L40S"},
        },
    }


def found_in(tmp_path: Path) -> RunRecord:
    """The record of a result."""
    path = tmp_path / "lora--llama-3.2-3B-rank32.json"
    path.write_text(json.dumps(comparison()))
    (found,) = find_runs([path])
    assert isinstance(found, LoggedRun)
    record = record_of_run(found)
    assert isinstance(record, RunRecord)
    return record


def test_a_result_of_the_comparison_is_evidence(tmp_path: Path) -> None:
    record = found_in(tmp_path)
    reading = read(tmp_path)
    assert values(reading, "method", "lora_rank", "micro_batch_size", "steps_done", "seconds_per_step") == [
        *("lora", 32, 4, 500),
        pytest.approx(0.124),
    ]
    assert values(reading, "gpu", "dataset", "peak_memory", "outcome") == ["NVIDIA L40S", "metamath", 20, "completed"]
    assert values(reading, "adapter_dtype", "dropout", "compiled", "gradient_checkpointing") == [
        *("float32", 0, "false", "false"),
    ]
    assert reading.peak_memory.kind == "reserved"  # type: ignore[union-attr]
    assert missing_facts(record) == ()
    time, memory = (of(record, lambda name: load_shape(name, tmp_path)) for of in (to_time_point, to_memory_points))
    assert not isinstance(time, Missing)
    assert not isinstance(memory, Missing)
    assert time.work.tokens == pytest.approx(4 * 210)
    assert (memory[0].batch.rows, memory[0].batch.width) == (4, 768)


def test_what_a_comparison_says_of_failures_and_kinds(tmp_path: Path) -> None:
    path = tmp_path / "dora--x.json"
    result = comparison(status="canceled")
    result["run_info"]["error_msg"] = "CUDA out of memory. Tried to allocate 1.5 GiB"
    result["run_info"]["peft_config"]["use_dora"] = True
    path.write_text(json.dumps(result))
    assert values(read(path), "outcome", "method") == ["gpu_oom", "dora"]
    result["run_info"]["peft_config"] = None
    path.write_text(json.dumps(result))
    assert values(read(path), "method", "lora_rank") == ["full", None]
    for broken in ({}, {"metrics": 3}, {"metrics": [3, {"step": "x"}], "accelerator_memory_max": "lots"}):
        path.write_text(json.dumps(comparison() | {"train_info": broken}))
        list(find_runs([path]))


def test_a_result_of_the_comparison_is_a_run_of_the_same_settings_at_default_options(tmp_path: Path) -> None:
    """Its adapters are float32, as PEFT makes them and an estimate takes them; before, they had the base's dtype."""
    record = found_in(tmp_path)
    points = to_memory_points(record, lambda name: load_shape(name, tmp_path))
    assert not isinstance(points, Missing)
    coefficients, gpu = memory_coefficients("plain"), find_gpu("L40S")
    assert not isinstance(coefficients, Missing)
    assert isinstance(gpu, Gpu)
    setup = TrainingSetup(
        shape=load_shape("meta-llama/Llama-3.2-3B", tmp_path),
        backend="plain",
        method="lora",
        rank=32,
        target_modules=("q_proj", "v_proj"),
        base_dtype="bfloat16",
        adapter_dtype=coefficients.adapter_dtype,
        dropout=coefficients.dropout,
    )
    batch = MicroBatch(rows=4, width=768, label_tokens=4 * 768)
    estimate = memory_estimate(setup, batch, coefficients=coefficients, gpu=gpu, evidence=points)
    assert estimate.reserved.rung is EvidenceLevel.SAME_RUN
    assert estimate.reserved.value == pytest.approx(20)
