"""axolotl's own lines, the numbers it puts into rows, its printed settings and its configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.backends.reading import Readers, facts, only, signs

from touchline.backends.axolotl.logs import DOCUMENTS, READERS
from touchline.core.observation import Observation, SignKind

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "axolotl"
LOGS = ["packed_qlora.out", "rows_with_memory.log", "first_versions.out"]
HERE = Readers(READERS, DOCUMENTS, FIXTURES)
read, read_file, document = HERE.read, HERE.read_file, HERE.document


def test_numpy_wraps_its_numbers() -> None:
    line = "[2026-01-01 00:00:00,000] [INFO] [axolotl.utils.trainer] sample_packing_eff_est across ranks: "
    assert only(read(f"{line}[np.float64(0.9875)]"), "packing_efficiency").value == pytest.approx(98.75)


def test_estimated_steps_are_a_guess_that_waits_for_the_training() -> None:
    events = read_file("packed_qlora.out")
    found = only(events, "steps_total")
    assert (found.value, found.line, found.certain) == (68, 11, False)
    unfinished = (FIXTURES / "packed_qlora.out").read_text(encoding="utf-8").partition("Starting trainer")[0]
    assert facts(read(unfinished), "steps_total") == []


def test_the_course_of_a_run() -> None:
    events = read_file("packed_qlora.out")
    assert signs(events) == [
        (SignKind.START, 20, None),
        (SignKind.SAVING, 25, 66),
        (SignKind.TRAINED, 26, None),
        (SignKind.SAVED, 27, None),
    ]
    assert facts(events, "dtype", "target_modules") == [
        ("dtype", "bfloat16", 14),
        ("target_modules", "down_proj,q_proj,v_proj", 15),
    ]
    assert signs(read_file("first_versions.out")) == [(SignKind.START, 6, None), (SignKind.TRAINED, 9, None)]
    assert signs(read_file("rows_with_memory.log")) == [
        (SignKind.RESUMED, 30, 20),
        (SignKind.START, 31, None),
        (SignKind.EVALUATING, 33, None),
        (SignKind.TRAINED, 36, None),
    ]


def test_rows_hold_peaks() -> None:
    events = read_file("rows_with_memory.log")
    peaks = [each for each in events if isinstance(each, Observation) and each.name == "peak_memory"]
    assert [(each.value, each.kind, each.phase, each.line) for each in peaks] == [
        (6.09, "allocated", "step", 32),
        (7.5, "reserved", "step", 32),
        (8.4, "allocated", "eval", 34),
        (9.25, "reserved", "eval", 34),
        (5.02, "allocated", "step", 35),
        (9.25, "reserved", "step", 35),
    ]
    assert {each.aggregation for each in peaks} == {"peak"}
    rate = only(events, "tokens_per_second")
    assert (rate.value, rate.token_unit, rate.epoch) == (812.4, "label", 1.5)
    loaded = [each for each in events if isinstance(each, Observation) and each.name == "memory_before_training"]
    assert [(each.value, each.kind, each.aggregation) for each in loaded] == [
        (2.483, "allocated", "peak"),
        (2.604, "reserved", "peak"),
    ]


def test_of_active_and_allocated_one_is_given() -> None:
    events = read_file("first_versions.out")
    assert facts([each for each in events if each.line == 8]) == [("peak_memory", 14.56, 8), ("peak_memory", 14.6, 8)]


def test_losses_are_left_to_the_trainers_reader() -> None:
    names = {each.name for log in LOGS for each in read_file(log) if isinstance(each, Observation)}
    assert names.isdisjoint({"loss", "eval_loss", "train_seconds", "trainable_parameters", "mean_train_loss"})


def test_a_rate_of_another_trainer_is_not_its() -> None:
    assert read("{'tokens_per_second_per_gpu': 16.4, 'loss': 0.14, 'lr': 9.5e-05}") == []


def test_sample_text_says_nothing() -> None:
    assert read("[INPUT] cuda memory usage while training: 5.000GB (+1.000GB cache)\nStarting trainer...\n") == []
    assert read('  "base_model": "harbour/Mast-1B",\n  "learning_rate": 9,') == []


def test_a_config_of_an_adapter() -> None:
    assert set(facts(document("qlora.yml"))) == {
        ("model", "harbour/Mast-3B", 0),
        ("method", "qlora", 0),
        ("quantization", "nf4", 0),
        ("lora_rank", 32, 0),
        ("lora_alpha", 16, 0),
        ("learning_rate", 2e-4, 0),
        ("max_seq_len", 2048, 0),
        ("micro_batch_size", 2, 0),
        ("gradient_accumulation_steps", 4, 0),
        ("epochs", 3, 0),
        ("target_modules", "q_proj,v_proj", 0),
        ("optimizer", "paged_adamw_32bit", 0),
        ("gradient_checkpointing", "true", 0),
        ("packed", "true", 0),
        ("attention", "flash_attention_2", 0),
    }


def test_a_config_without_an_adapter() -> None:
    assert set(facts(document("full.yml"))) == {
        ("model", "harbour/Mast-1B", 0),
        ("method", "full", 0),
        ("dtype", "bfloat16", 0),
        ("learning_rate", 1e-5, 0),
        ("max_seq_len", 512, 0),
        ("micro_batch_size", 8, 0),
        ("gradient_accumulation_steps", 1, 0),
        ("steps_total", 400, 0),
        ("optimizer", "adamw_torch", 0),
        ("gradient_checkpointing", "false", 0),
        ("packed", "false", 0),
        ("attention", "flash_attention_2", 0),
    }


def test_a_recipe_for_merging_is_no_training() -> None:
    assert DOCUMENTS[0]("merge.yml", {"base_model": "harbour/Mast-1B", "merge_method": "slerp"}) is None


@pytest.mark.parametrize("name", LOGS)
def test_the_trainer_is_certain_in_every_log(name: str) -> None:
    named = [event for event in read_file(name) if isinstance(event, Observation) and event.name == "trainer"]
    assert named
    assert all(event.certain and event.value == "axolotl" for event in named)
