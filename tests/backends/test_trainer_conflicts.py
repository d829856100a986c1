"""What we say that the Trainer and TRL refuse is what their classes refuse, and the same files repaired are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.backends.config_files import read
from transformers import TrainingArguments
from trl import DPOConfig, GRPOConfig, SFTConfig

from touchline.core.finding import Severity

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
GRPO = {"max_completion_length": 64, "per_device_train_batch_size": 8}

CASES: list[tuple[type, dict[str, Any], dict[str, Any]]] = [
    (TrainingArguments, {**BEST, "eval_steps": 50, "save_steps": 120}, {**BEST, "eval_steps": 50, "save_steps": 150}),
    (TrainingArguments, {**BEST, "eval_strategy": "epoch"}, {**BEST, "eval_strategy": "steps"}),
    (TrainingArguments, {"load_best_model_at_end": True}, {"load_best_model_at_end": False}),
    (TrainingArguments, {**BEST, "eval_steps": 0.2, "save_steps": 100}, {**BEST, "eval_steps": 0.1, "save_steps": 0.2}),
    (TrainingArguments, {**BEST, "eval_steps": 0.2, "save_steps": 0.3}, {**BEST, "eval_steps": 0.1, "save_steps": 0.3}),
    (
        TrainingArguments,
        {**BEST, "save_steps": 50, "logging_steps": 20},
        {**BEST, "save_steps": 50, "logging_steps": 25},
    ),
    (TrainingArguments, {"fp16": True, "bf16": True}, {"fp16": False, "bf16": True}),
    (TrainingArguments, {"lr_scheduler_type": "reduce_lr_on_plateau"}, {"lr_scheduler_type": "cosine"}),
    (TrainingArguments, {"lr_scheduler_type": "cosign"}, {"lr_scheduler_type": "cosine"}),
    (TrainingArguments, {"optim": "adamw"}, {"optim": "adamw_torch"}),
    (TrainingArguments, {"save_strategy": "step"}, {"save_strategy": "best", "metric_for_best_model": "loss"}),
    (TrainingArguments, {"warmup_steps": -1}, {"warmup_steps": 0.1}),
    (TrainingArguments, {"save_steps": 10.5}, {"save_steps": 10}),
    (
        TrainingArguments,
        {"dataloader_prefetch_factor": 2},
        {"dataloader_prefetch_factor": 2, "dataloader_num_workers": 2},
    ),
    (
        DPOConfig,
        {"loss_type": ["sigmoid"], "loss_weights": [1.0, 0.5]},
        {"loss_type": ["sigmoid"], "loss_weights": [1.0]},
    ),
    (GRPOConfig, {**GRPO, "num_generations": 1}, {**GRPO, "num_generations": 4}),
    (
        GRPOConfig,
        {**GRPO, "num_generations": 4, "generation_batch_size": 8, "steps_per_generation": 1},
        {**GRPO, "num_generations": 4, "generation_batch_size": 8},
    ),
]


def _errors(values: dict[str, Any]) -> list[str]:
    text = yaml.safe_dump({"per_device_train_batch_size": 8, "model_name_or_path": "a/b", **values})
    found = read("trl", text).findings
    return [f"{each.code} {each.subject}: {each.message}" for each in found if each.severity is Severity.ERROR]


@pytest.mark.parametrize(("kind", "refused", "taken"), CASES)
def test_refused_where_the_class_refuses(
    kind: type, refused: dict[str, Any], taken: dict[str, Any], tmp_path: Path
) -> None:
    common = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    with pytest.raises((ValueError, TypeError)):
        kind(**common, **refused)
    assert _errors(refused)
    kind(**common, **taken)
    assert _errors(taken) == []


def test_a_text_for_a_number_stays_a_text(tmp_path: Path) -> None:
    """Which is why it is an error in JSON and in LLaMA-Factory's files."""
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate="1e-4", use_cpu=True)  # type: ignore[arg-type]
    assert isinstance(arguments.learning_rate, str)


def test_defaults_are_those_of_the_classes(tmp_path: Path) -> None:
    plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    (stated,) = read("trl", "model_name_or_path: a/b\ngradient_accumulation_steps: 1\noutput_dir: x\n").trainings
    assert stated.epochs is not None
    assert stated.epochs.value == plain.num_train_epochs
    assert stated.micro_batch_size is not None
    assert stated.micro_batch_size.value == plain.per_device_train_batch_size
    assert stated.save_steps is not None
    assert stated.save_steps.value == plain.save_steps
    assert stated.logging_steps is not None
    assert stated.logging_steps.value == plain.logging_steps
    assert stated.gradient_checkpointing is not None
    assert stated.gradient_checkpointing.value == plain.gradient_checkpointing
    ours = SFTConfig(output_dir=str(tmp_path), use_cpu=True)
    (stated,) = read("trl", "max_length: 512\nper_device_train_batch_size: 2\noutput_dir: x\n").trainings
    assert stated.gradient_checkpointing is not None
    assert stated.gradient_checkpointing.value == ours.gradient_checkpointing
    assert stated.logging_steps is not None
    assert stated.logging_steps.value == ours.logging_steps
    assert stated.packed is not None
    assert stated.packed.value == ours.packing
