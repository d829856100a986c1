"""ms-swift's own lines, what it puts into rows, its printed arguments and its saved ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.backends.reading import Readers, facts, only, signs

from touchline.backends.swift.logs import DOCUMENTS, READERS
from touchline.core.observation import Observation, SignKind

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "swift"
LOGS = ["sft_v2.out", "sft_v3.out", "sft_v4.log", "logging.jsonl"]
HERE = Readers(READERS, DOCUMENTS, FIXTURES)
read, read_file, document = HERE.read, HERE.read_file, HERE.document

TOLD: dict[str, dict[int, dict[str, object]]] = {
    "sft_v3.out": {
        49: {"steps_total": 120, "step": 41, "peak_memory": 16.75, "train_seconds": 7},
        50: {"steps_total": 120, "step": 60, "train_seconds": 130},
        33: {"version": "ms-swift=3.8.1"},
        47: {"trainable_parameters": 20185100, "total_parameters": 7635801600},
    },
    "sft_v4.log": {
        1: {"model": "harbour/Mast-2B"},
        # Four places of a million are too few for some hundred parameters.
        2: {"total_parameters": 2218218000},
        4: {"steps_total": 60, "step": 1, "peak_memory": 14.3, "train_seconds": 43},
        5: {"steps_total": 60, "step": 2, "train_seconds": 93784},
    },
    # The rows of the first versions have no total.
    "sft_v2.out": {4: {"step": 1, "peak_memory": 16.79}, 5: {"step": 93}, 7: {"step": 93}},
    "logging.jsonl": {2: {"step": 20, "peak_memory": 3.91}},
}
"""What a line of a fixture says."""

ARGUMENTS: dict[str, dict[str, object]] = {
    "sft_v3.out": {
        **{"method": "lora", "dtype": "bfloat16", "lora_rank": 8, "lora_alpha": 32, "target_modules": "all-linear"},
        **{"learning_rate": 0.0001, "max_seq_len": 2048, "micro_batch_size": 1, "gradient_accumulation_steps": 8},
        **{"epochs": 2, "optimizer": "adamw_torch", "packed": "false", "gradient_checkpointing": "true"},
        "attention": "flash_attention_2",
    },
    "sft_v2.out": {
        **{"model": "harbour/Mast-7B-Chat", "method": "qlora", "quantization": "nf4", "dtype": "bfloat16"},
        **{"lora_rank": 4, "lora_alpha": 16, "target_modules": "q_proj,v_proj", "learning_rate": 0.0001},
        **{"max_seq_len": 1024, "micro_batch_size": 2, "gradient_accumulation_steps": 16, "epochs": 1},
        **{"optimizer": "adamw_torch", "packed": "true"},
    },
    "args.json": {
        **{"model": "harbour/Mast-2B", "method": "qlora", "quantization": "nf4", "dtype": "bfloat16", "lora_rank": 8},
        **{"lora_alpha": 32, "target_modules": "all-linear", "learning_rate": 1e-4, "max_seq_len": 4096},
        **{"micro_batch_size": 2, "gradient_accumulation_steps": 4, "steps_total": 20, "gpus": 1, "attention": "sdpa"},
        **{"optimizer": "adamw_torch_fused", "packed": "true", "gradient_checkpointing": "true"},
        "version": "ms-swift=3.9.0",
    },
    # No adapter: its settings are written and mean nothing.
    "sft_args.json": {
        **{"model": "harbour/Mast-7B-Chat", "method": "full", "dtype": "bfloat16", "learning_rate": 1e-5},
        **{"max_seq_len": 2048, "micro_batch_size": 1, "gradient_accumulation_steps": 16, "epochs": 2},
        **{"optimizer": "adamw_torch", "gradient_checkpointing": "false"},
    },
}
"""The settings of printed and of saved arguments."""


@pytest.mark.parametrize("name", TOLD)
def test_a_line_says_these_facts(name: str) -> None:
    events = read_file(name)
    for line, expected in TOLD[name].items():
        found = {name: value for name, value, _ in facts([each for each in events if each.line == line])}
        assert found == expected, line


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_settings(name: str) -> None:
    first, last = (7, 29) if name == "sft_v3.out" else (1, 1)
    printed = [each for each in read_file(name) if first <= each.line <= last] if name in LOGS else document(name)
    assert {name: value for name, value, _ in facts(printed)} == ARGUMENTS[name]


def test_a_peak_and_a_clock_say_what_they_are() -> None:
    events = [each for each in read_file("sft_v3.out") if each.line == 49]
    peak, elapsed = only(events, "peak_memory"), only(events, "train_seconds")
    assert (peak.kind, peak.phase, peak.unit, peak.aggregation, peak.step) == ("reserved", "step", "GiB", "peak", 41)
    assert (elapsed.aggregation, elapsed.inside, elapsed.step) == ("last", ("evaluation", "saving"), 41)


def test_megatron_counts_iterations() -> None:
    row = "{'loss': 1.5, 'iteration': '5/100', 'elapsed_time': '4s', 'memory(GiB)': 30.5, 'train_speed(s/it)': 12.8}"
    assert facts(read(row), "step", "steps_total", "peak_memory") == [
        ("steps_total", 100, 1),
        ("step", 5, 1),
        ("peak_memory", 30.5, 1),
    ]


def test_a_single_process_is_a_guess_at_the_devices() -> None:
    events = read("[INFO:swift] rank: -1, local_rank: -1, world_size: 1, local_world_size: 1")
    assert (only(events, "gpus").value, only(events, "gpus").certain) == (1, False)


def test_the_course_of_a_run() -> None:
    assert signs(read_file("sft_v3.out")) == [
        (SignKind.START, 7, None),
        (SignKind.RESUMED, 24, 40),
        (SignKind.START, 48, None),
        (SignKind.SAVING, 51, 60),
        (SignKind.DONE, 54, None),
    ]
    # Only the weights were taken from the checkpoint.
    assert signs(read_file("sft_v2.out")) == [(SignKind.START, 1, None), (SignKind.START, 3, None)]
    assert signs(read("[INFO:swift] End time of running main: 2025-09-26 14:10:19.818606")) == []


def test_what_others_print_says_nothing() -> None:
    names = {each.name for log in LOGS for each in read_file(log) if isinstance(each, Observation)}
    assert names.isdisjoint({"loss", "eval_loss", "mean_train_loss", "train_samples_per_second"})
    assert read("max_length=4,\nlearning_rate=7,\n    num_rows: 5\n") == []
    assert read("{'global_step': 7, 'loss': 1.0}") == []


@pytest.mark.parametrize("name", LOGS)
def test_the_trainer_is_certain_in_every_log(name: str) -> None:
    named = [event for event in read_file(name) if isinstance(event, Observation) and event.name == "trainer"]
    assert named
    assert all(event.certain and event.value == "swift" for event in named)
