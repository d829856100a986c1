"""ms-swift's own lines, what it puts into rows, its printed arguments and its saved ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.reading import Readers, facts, only, signs

from touchline.backends.swift.logs import DOCUMENTS, READERS
from touchline.core.observation import Observation, SignKind

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "swift"
LOGS = ["sft_v2.out", "sft_v3.out", "sft_v4.log", "logging.jsonl"]
HERE = Readers(READERS, DOCUMENTS, FIXTURES)
read, read_file, document = HERE.read, HERE.read_file, HERE.document


def test_a_row_tells_where_it_stands_and_what_it_cost() -> None:
    events = [each for each in read_file("sft_v3.out") if each.line == 49]
    assert facts(events) == [
        ("steps_total", 120, 49),
        ("step", 41, 49),
        ("peak_memory", 16.75, 49),
        ("train_seconds", 7, 49),
        ("train_steps_per_second", 0.128, 49),
    ]
    peak = only(events, "peak_memory")
    assert (peak.kind, peak.phase, peak.unit, peak.aggregation, peak.step) == ("reserved", "step", "GiB", "peak", 41)
    elapsed = only(events, "train_seconds")
    assert (elapsed.aggregation, elapsed.inside, elapsed.step) == ("last", ("evaluation", "saving"), 41)


def test_an_evaluation_needs_memory_of_its_own() -> None:
    events = read_file("sft_v3.out")
    assert facts(events, "peak_memory") == [("peak_memory", 16.75, 49), ("peak_memory", 19.5, 52)]
    assert facts(events, "train_seconds") == [("train_seconds", 7, 49), ("train_seconds", 130, 50)]


def test_rows_of_text_are_numbers() -> None:
    events = [each for each in read_file("sft_v4.log") if each.line in (4, 5)]
    assert facts(events) == [
        ("steps_total", 60, 4),
        ("step", 1, 4),
        ("peak_memory", 14.3, 4),
        ("train_seconds", 43, 4),
        ("train_steps_per_second", 0.025, 4),
        ("steps_total", 60, 5),
        ("step", 2, 5),
        ("train_seconds", 93784, 5),
    ]


def test_rows_without_a_total_give_no_rate_that_a_total_is_computed_from() -> None:
    events = read_file("sft_v2.out")
    assert facts(events, "step", "steps_total", "train_steps_per_second", "peak_memory") == [
        ("step", 1, 4),
        ("peak_memory", 16.79, 4),
        ("step", 93, 5),
        ("step", 93, 7),
        ("peak_memory", 18.48, 7),
    ]


def test_the_log_file_ends_with_a_summary() -> None:
    assert facts([each for each in read_file("logging.jsonl") if each.line == 2]) == [
        ("step", 20, 2),
        ("peak_memory", 3.91, 2),
    ]


def test_megatron_counts_iterations() -> None:
    events = read(
        "{'loss': 1.5, 'iteration': '5/100', 'elapsed_time': '1m 4s', 'memory(GiB)': 30.5, 'train_speed(s/it)': 12.8}"
    )
    assert facts(events, "step", "steps_total", "peak_memory") == [
        ("steps_total", 100, 1),
        ("step", 5, 1),
        ("peak_memory", 30.5, 1),
    ]


def test_arguments_on_lines_of_their_own() -> None:
    events = read_file("sft_v3.out")
    assert facts([each for each in events if 7 <= each.line < 30]) == [
        ("method", "lora", 28),
        ("dtype", "bfloat16", 27),
        ("lora_rank", 8, 15),
        ("lora_alpha", 32, 14),
        ("target_modules", "all-linear", 26),
        ("learning_rate", 0.0001, 13),
        ("max_seq_len", 2048, 16),
        ("micro_batch_size", 1, 21),
        ("gradient_accumulation_steps", 8, 11),
        ("epochs", 2, 18),
        ("optimizer", "adamw_torch", 19),
        ("packed", "false", 20),
        ("gradient_checkpointing", "true", 12),
        ("attention", "flash_attention_2", 9),
    ]


def test_arguments_on_one_line() -> None:
    assert facts([each for each in read_file("sft_v2.out") if each.line == 1]) == [
        ("model", "harbour/Mast-7B-Chat", 1),
        ("method", "qlora", 1),
        ("quantization", "nf4", 1),
        ("dtype", "bfloat16", 1),
        ("lora_rank", 4, 1),
        ("lora_alpha", 16, 1),
        ("target_modules", "q_proj,v_proj", 1),
        ("learning_rate", 0.0001, 1),
        ("max_seq_len", 1024, 1),
        ("micro_batch_size", 2, 1),
        ("gradient_accumulation_steps", 16, 1),
        ("epochs", 1, 1),
        ("optimizer", "adamw_torch", 1),
        ("packed", "true", 1),
        ("attention", "flash_attention_2", 1),
    ]


def test_the_command_names_model_and_devices() -> None:
    found = facts([each for each in read_file("sft_v3.out") if each.line == 1])
    assert found == [
        ("model", "harbour/Mast-7B", 1),
        ("method", "lora", 1),
        ("lora_rank", 8, 1),
        ("target_modules", "all-linear", 1),
        ("learning_rate", 0.0001, 1),
        ("epochs", 2, 1),
        ("packed", "false", 1),
        ("gpus", 2, 1),
    ]
    several = "run sh: `python -m torch.distributed.run --nproc_per_node 8 --nnodes=2 /opt/swift/cli/sft.py --model m`"
    assert facts(read(several)) == [("model", "m", 1)]
    assert read("run sh: `python /opt/swift/cli/infer.py --model m --max_length 7`") == []


def test_lines_tell_version_rows_and_parameters() -> None:
    events = read_file("sft_v3.out")
    names = ("version", "gpus", "total_examples", "train_examples", "trainable_parameters", "total_parameters")
    assert facts([each for each in events if each.line > 1], *names) == [
        ("gpus", 2, 3),
        ("version", "ms-swift=3.8.1", 33),
        ("total_examples", 960, 36),
        ("train_examples", 955, 44),
        ("trainable_parameters", 20185100, 47),
        ("total_parameters", 7635801600, 47),
    ]
    assert facts([each for each in events if each.line == 46]) == [
        ("lora_rank", 8, 46),
        ("target_modules", "q_proj,v_proj", 46),
        ("lora_alpha", 32, 46),
    ]
    assert facts(read_file("sft_v2.out"), "total_sequences", "train_examples") == [("total_sequences", 210, 2)]
    # Four places of a million are too few for some hundred parameters.
    assert facts(read_file("sft_v4.log"), "trainable_parameters") == []


def test_a_single_process_is_a_guess_at_the_devices() -> None:
    [found] = [
        each
        for each in read("[INFO:swift] rank: -1, local_rank: -1, world_size: 1, local_world_size: 1")
        if isinstance(each, Observation) and each.name == "gpus"
    ]
    assert (found.value, found.certain) == (1, False)


def test_the_course_of_a_run() -> None:
    assert signs(read_file("sft_v3.out")) == [
        (SignKind.START, 1, None),
        (SignKind.START, 7, None),
        (SignKind.RESUMED, 24, 40),
        (SignKind.START, 48, None),
        (SignKind.SAVING, 51, 60),
        (SignKind.DONE, 54, None),
    ]
    # Only the weights were taken from the checkpoint.
    assert signs(read_file("sft_v2.out")) == [(SignKind.START, 1, None), (SignKind.START, 3, None)]
    assert signs(read("[INFO:swift] End time of running main: 2025-09-26 14:10:19.818606")) == []


def test_losses_are_left_to_the_trainers_reader() -> None:
    names = {each.name for log in LOGS for each in read_file(log) if isinstance(each, Observation)}
    assert names.isdisjoint({"loss", "eval_loss", "mean_train_loss", "train_samples_per_second"})


def test_sample_text_says_nothing() -> None:
    assert read("max_length=4,\nlearning_rate=7,\n    num_rows: 5\n") == []
    assert read("{'global_step': 7, 'loss': 1.0}") == []


def test_saved_arguments() -> None:
    assert facts(document("args.json")) == [
        ("model", "harbour/Mast-2B", 0),
        ("method", "qlora", 0),
        ("quantization", "nf4", 0),
        ("dtype", "bfloat16", 0),
        ("lora_rank", 8, 0),
        ("lora_alpha", 32, 0),
        ("target_modules", "all-linear", 0),
        ("learning_rate", 1e-4, 0),
        ("max_seq_len", 4096, 0),
        ("micro_batch_size", 2, 0),
        ("gradient_accumulation_steps", 4, 0),
        ("steps_total", 20, 0),
        ("gpus", 1, 0),
        ("optimizer", "adamw_torch_fused", 0),
        ("packed", "true", 0),
        ("gradient_checkpointing", "true", 0),
        ("attention", "sdpa", 0),
        ("version", "ms-swift=3.9.0", 0),
    ]


def test_saved_arguments_of_version_2_without_an_adapter() -> None:
    assert facts(document("sft_args.json")) == [
        ("model", "harbour/Mast-7B-Chat", 0),
        ("method", "full", 0),
        ("dtype", "bfloat16", 0),
        ("learning_rate", 1e-5, 0),
        ("max_seq_len", 2048, 0),
        ("micro_batch_size", 1, 0),
        ("gradient_accumulation_steps", 16, 0),
        ("epochs", 2, 0),
        ("optimizer", "adamw_torch", 0),
        ("gradient_checkpointing", "false", 0),
    ]


@pytest.mark.parametrize("name", LOGS)
def test_the_trainer_is_certain_in_every_log(name: str) -> None:
    named = [event for event in read_file(name) if isinstance(event, Observation) and event.name == "trainer"]
    assert named
    assert all(event.certain and event.value == "swift" for event in named)


@pytest.mark.parametrize("name", LOGS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_log_cut_anywhere_says_nothing_that_the_whole_does_not(name: str, data: st.DataObject) -> None:
    text = (FIXTURES / name).read_text(encoding="utf-8")
    cut = text[: data.draw(st.integers(min_value=0, max_value=len(text)))]
    read(cut)
    whole_lines = cut[: cut.rfind("\n") + 1]
    events = read(whole_lines)
    assert events == read(text)[: len(events)]


@given(st.text(max_size=300), st.integers(min_value=1))
def test_other_text_says_nothing(text: str, number: int) -> None:
    for reader in READERS:
        assert list(reader().line(text, number)) == []


@given(st.dictionaries(st.text(max_size=20), st.none() | st.booleans() | st.integers() | st.floats() | st.text()))
def test_other_mappings_are_none_of_its(mapping: dict[str, object]) -> None:
    assert DOCUMENTS[0]("config.yaml", mapping) is None
    assert not [event for reader in READERS for event in reader().row(mapping, str(mapping), 1)]
