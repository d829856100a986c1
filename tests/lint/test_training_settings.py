"""Rules on learning rate, adapter, lengths and hardware: each threshold from both sides."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.lint.trainings import WHERE, found, model, named, severity, stated, view

from touchline.core.finding import Severity
from touchline.experiment.partial import Stated

pytestmark = pytest.mark.planning
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


@pytest.mark.parametrize(
    ("values", "code", "expected"),
    [
        ({"learning_rate": 0.0}, "TR020", ERROR),
        ({"learning_rate": -1e-4}, "TR020", ERROR),
        ({"learning_rate": float("nan")}, "TR020", ERROR),
        ({"learning_rate": 2e-3}, "TR031", None),
        ({"learning_rate": 2e-2}, "TR031", WARNING),
        ({"learning_rate": 1e-7}, "TR031", WARNING),
        ({"learning_rate": 5e-7}, "TR031", None),
        ({"learning_rate": 2e-2, "optimizer": "prodigy"}, "TR031", None),
        ({"learning_rate": 2e-2, "optimizer": "paged_adamw_8bit"}, "TR031", WARNING),
        ({"learning_rate": 2e-3, "method": "full"}, "TR031", WARNING),
        ({"learning_rate": 1e-3, "method": "full"}, "TR031", None),
        ({"learning_rate": 2e-7, "method": "full"}, "TR031", None),
        ({"alpha": 0.0}, "TR020", ERROR),
        ({"alpha": 0.0, "method": "full"}, "TR020", None),
        ({"rank": 8, "alpha": -16.0}, "TR020", ERROR),
        ({"rank": 0}, "TR020", ERROR),
    ],
)
def test_optimizer_and_adapter(values: dict[str, Any], code: str, expected: Severity | None) -> None:
    assert severity(view(stated("trl", **values)), code) is expected


def test_small_models_are_trained_whole_with_more() -> None:
    """SmolLM's own recipe takes 1e-3 for 135 million parameters."""
    training = stated("trl", method="full", learning_rate=3e-3)
    assert severity(view(training, base=named("SmolLM2-135M", 134_515_008)), "TR031") is None
    assert severity(view(training), "TR031") is WARNING


def test_zero_alpha_is_not_given_to_llamafactory() -> None:
    assert severity(view(stated("llamafactory", alpha=0.0)), "TR020") is None


@pytest.mark.parametrize(
    ("backend", "schedule", "share", "expected"),
    [
        ("trl", "constant", 0.1, WARNING),
        ("trl", "constant", 0.0, None),
        ("trl", "constant_with_warmup", 0.1, None),
        ("peft", "constant", 0.1, None),
    ],
)
def test_constant_schedule(backend: str, schedule: str, share: float, expected: Severity | None) -> None:
    assert severity(view(stated(backend, schedule=schedule, warmup_fraction=share)), "TR037") is expected


@pytest.mark.parametrize(
    ("backend", "name", "values", "expected"),
    [
        ("torchtune", "Llama-2-7b", {"max_seq_len": 4096}, None),
        ("torchtune", "Llama-2-7b", {"max_seq_len": 8192}, WARNING),
        ("torchtune", "Llama-2-7b", {"max_seq_len": 8192, "packed": True}, ERROR),
        ("axolotl", "Llama-2-7b", {"max_seq_len": 8192, "packed": True}, INFO),
        ("trl", "gpt2", {"max_seq_len": 2048}, WARNING),
    ],
)
def test_context(backend: str, name: str, values: dict[str, Any], expected: Severity | None) -> None:
    assert severity(view(stated(backend, **values), base=model(name)), "TR040") is expected


def test_examples_that_are_short_refute_a_long_limit() -> None:
    training = stated("trl", max_seq_len=2048)
    assert severity(view(training, base=model("gpt2"), lengths=np.array([100, 1000])), "TR040") is None
    assert severity(view(training, base=model("gpt2"), lengths=np.array([100, 1500])), "TR040") is ERROR


def test_rows_that_are_cut() -> None:
    lengths = np.array([100] * 85 + [700] * 15)
    told = found(view(stated("trl", max_seq_len=512), lengths=lengths))["TR041"]
    assert told.severity is WARNING
    assert "15 of 100" in told.message
    assert told.hint == "max_seq_len: 700"
    assert severity(view(stated("trl", max_seq_len=512), lengths=lengths[:86]), "TR041") is INFO
    assert severity(view(stated("peft", max_seq_len=512), lengths=lengths), "TR041") is ERROR
    assert severity(view(stated("trl", max_seq_len=700), lengths=lengths), "TR041") is None


def test_workers_of_all_devices_count() -> None:
    """Seed 004: 16 workers for each of four processes, on 32 cores."""
    told = found(view(stated("qlora_stage", data_workers=16), cpus=32, gpu_count=4))["TR055"]
    assert "64 (16 × 4 devices)" in told.message
    assert told.hint == "data_workers: 7"
    assert severity(view(stated("qlora_stage", data_workers=16), cpus=32, gpu_count=2), "TR055") is None
    assert severity(view(stated("qlora_stage", data_workers=64)), "TR055") is None
    default = Stated(8, "dataloader_num_workers", WHERE, is_default=True)
    training = stated("axolotl")
    assert severity(view(dataclasses.replace(training, data_workers=default), cpus=4), "TR055") is None
