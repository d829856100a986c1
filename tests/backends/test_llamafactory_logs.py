"""LLaMA-Factory's own lines, its trainer_log.jsonl, its printed arguments and its configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.backends.reading import Readers, facts, only, signs

from touchline.backends.llamafactory.logs import DOCUMENTS, READERS
from touchline.core.observation import Observation, SignKind

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "llamafactory"
LOGS = [
    "qlora_two_gpus.out",
    "first_versions.out",
    "running_log.txt",
    "trainer_log.jsonl",
    "trainer_log_first_versions.jsonl",
]
HERE = Readers(READERS, DOCUMENTS, FIXTURES)
read, read_file, document = HERE.read, HERE.read_file, HERE.document


def test_a_row_tells_where_it_stands_and_what_it_cost() -> None:
    events = [each for each in read_file("trainer_log.jsonl") if each.line == 1]
    assert facts(events) == [
        ("step", 10, 1),
        ("steps_total", 60, 1),
        ("train_seconds", 40, 1),
        ("loss", 2.25, 1),
        ("tokens_per_second", 1536, 1),
        ("peak_memory", 11.5, 1),
        ("peak_memory", 13.25, 1),
    ]
    elapsed = only(events, "train_seconds")
    assert (elapsed.aggregation, elapsed.inside, elapsed.step) == ("last", ("evaluation", "saving"), 10)
    rate = only(events, "tokens_per_second")
    assert (rate.token_unit, rate.aggregation) == ("padded", "mean")
    peaks = [each for each in events if isinstance(each, Observation) and each.name == "peak_memory"]
    assert [(each.kind, each.phase, each.unit) for each in peaks] == [
        ("allocated", "step", "GiB"),
        ("reserved", "step", "GiB"),
    ]
    loss = only(events, "loss")
    assert (loss.step, loss.epoch) == (10, 0.5)


def test_evaluations_and_the_end_have_rows_of_their_own() -> None:
    events = read_file("trainer_log.jsonl")
    assert facts(events, "loss") == [("loss", 2.25, 1), ("loss", 2.0, 2), ("loss", 1.8, 4), ("loss", 1.5, 6)]
    assert facts(events, "eval_loss") == [("eval_loss", 1.9, 3)]
    assert facts(events, "train_seconds")[-1] == ("train_seconds", 86571, 7)
    # The last row counts batches of a prediction.
    assert facts([each for each in events if each.line == 8]) == []


def test_a_clock_that_begins_again_is_another_process() -> None:
    events = read_file("trainer_log.jsonl")
    assert signs(events) == [
        (SignKind.RESUMED, 4, None),
        (SignKind.NOT_A_NUMBER, 5, 40),
        (SignKind.TRAINED, 7, 60),
    ]
    # After it the rate counts tokens of before.
    assert [line for _, _, line in facts(events, "tokens_per_second")] == [1, 2, 3]
    first, second = (FIXTURES / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()[:2]
    assert signs(read(f"{first}\n{second}\n{first}\n")) == [(SignKind.START, 3, None)]


def test_rows_of_the_first_versions_hold_nulls() -> None:
    events = read_file("trainer_log_first_versions.jsonl")
    assert facts(events, "loss", "eval_loss", "step") == [
        ("step", 5, 1),
        ("loss", 3.5, 1),
        ("step", 10, 2),
        ("eval_loss", 3.25, 2),
    ]
    assert signs(events) == []


def test_one_device_of_several_is_not_the_number_of_devices() -> None:
    line = "[INFO|2025-01-01 00:00:00] llamafactory.hparams.parser:9 >> Process rank: 0, device: {}, n_gpu: {}, "
    line += "distributed training: {}, compute dtype: torch.float16"
    assert facts(read(line.format("cuda:0", 1, True)), "gpus") == []
    assert facts(read(line.format("cpu", 0, False)), "gpus") == []
    assert facts(read(line.format("cuda:0", 4, False)), "gpus") == [("gpus", 4, 1)]


@pytest.mark.parametrize("dtype", ["None", "torch.float32"])
def test_a_computation_without_a_type_has_none(dtype: str) -> None:
    line = "01/01/2025 00:00:00 - INFO - llmtuner.hparams.parser - Process rank: -1, device: cuda:0, n_gpu: 1, "
    found = facts(read(f"{line}distributed training: False, compute dtype: {dtype}"), "dtype")
    assert found == ([] if dtype == "None" else [("dtype", "float32", 1)])


def test_a_config_of_an_adapter() -> None:
    assert set(facts(document("lora_sft.yaml"))) == {
        ("model", "harbour/Mast-7B-Chat", 0),
        ("method", "qlora", 0),
        ("quantization", "nf4", 0),
        ("lora_rank", 16, 0),
        ("target_modules", "q_proj,v_proj", 0),
        ("learning_rate", 1e-4, 0),
        ("max_seq_len", 1024, 0),
        ("micro_batch_size", 2, 0),
        ("gradient_accumulation_steps", 8, 0),
        ("epochs", 2, 0),
        ("optimizer", "adamw_8bit", 0),
        ("dtype", "bfloat16", 0),
        ("packed", "true", 0),
        ("attention", "flash_attention_2", 0),
        ("gradient_checkpointing", "false", 0),
    }


def test_a_config_without_an_adapter_has_no_rank() -> None:
    assert set(facts(document("full_sft.json"))) == {
        ("model", "harbour/Mast-1B", 0),
        ("method", "full", 0),
        ("learning_rate", 1e-5, 0),
        ("steps_total", 250, 0),
        ("dtype", "float16", 0),
    }


def test_what_only_exports_is_no_training() -> None:
    assert document("export.yaml") is None
    assert DOCUMENTS[0]("sft.yaml", {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"}) is None


@pytest.mark.parametrize(
    ("method", "bits", "kind", "word"),
    [("bnb", 8, None, "int8"), ("hqq", 4, None, "4-bit"), ("bitsandbytes", 4, "fp4", "fp4")],
)
def test_quantizations(method: str, bits: int, kind: str | None, word: str) -> None:
    config = {
        "model_name_or_path": "harbour/Mast-1B",
        "stage": "sft",
        "do_train": True,
        "quantization_bit": bits,
        "quantization_method": method,
        "quantization_type": kind,
    }
    assert facts(DOCUMENTS[0]("a.yaml", config), "quantization") == [("quantization", word, 0)]


@pytest.mark.parametrize("name", LOGS)
def test_the_trainer_is_certain_in_every_log(name: str) -> None:
    named = [event for event in read_file(name) if isinstance(event, Observation) and event.name == "trainer"]
    assert named
    assert all(event.certain and event.value == "llamafactory" for event in named)


@pytest.mark.parametrize("said", ["Upcasting", "DeepSpeed ZeRO3 detected, remaining"])
def test_the_dtype_of_the_trained_weights_is_told(said: str) -> None:
    text = f"[INFO|2025-11-01 10:00:00] llamafactory.model.adapter:143 >> {said} trainable params "
    assert facts(read(text + "to float32." if said == "Upcasting" else text + "in float32."), "adapter_dtype") == [
        ("adapter_dtype", "float32", 1)
    ]
    assert facts(read(text + "in half precision."), "adapter_dtype") == []
