"""The Trainer's and TRL's rows, sentences, tables, printed arguments, state files and configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from touchline.backends.logtext.dicts import read_row
from touchline.backends.trl.logs import DOCUMENTS, READERS
from touchline.backends.trl.words import handwritten_model, parameters
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.experiment.document import parse

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "trl"
_WORDS = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if 97 <= byte <= 122 or byte == 95 or byte >= 128 else 32
    for byte in range(256)
)


def words_of(line: str) -> set[str]:
    return {word.decode("utf-8", "replace") for word in line.encode().translate(_WORDS).split()}


def read(text: str, *, every_line: bool = False) -> list[Event]:
    """The readers' events of a text, each line offered by its words as the scan does it."""
    events: list[Event] = []
    readers = [reader() for reader in READERS]
    for number, line in enumerate(text.split("\n"), 1):
        for part in line.split("\r"):
            for reader in readers:
                if every_line or words_of(part) & reader.words:
                    events += reader.line(part, number)
                    row = read_row(part)
                    if row is not None:
                        events += reader.row(row, part, number)
    return events


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def read_file(name: str) -> list[Event]:
    return read(fixture(name))


def document(name: str, text: str | None = None) -> tuple[Event, ...] | None:
    text = fixture(name) if text is None else text
    data = json.loads(text) if name.endswith(".json") else parse(text, name).data
    assert isinstance(data, dict)
    return next((events for reader in DOCUMENTS if (events := reader(name, data)) is not None), None)


def facts(events: list[Event] | tuple[Event, ...] | None, *names: str) -> list[tuple[object, ...]]:
    """Name, value and line of the observations of some names, or of all but the trainer."""
    return [
        (event.name, event.value, event.line)
        for event in events or ()
        if isinstance(event, Observation) and (event.name in names if names else event.name != "trainer")
    ]


def values(events: list[Event] | tuple[Event, ...] | None) -> dict[str, object]:
    return {event.name: event.value for event in events or () if isinstance(event, Observation)}


def guesses(events: list[Event] | tuple[Event, ...] | None) -> set[str]:
    return {event.name for event in events or () if isinstance(event, Observation) and not event.certain}


def signs(events: list[Event]) -> list[tuple[SignKind, int, int | None]]:
    return [(event.kind, event.line, event.step) for event in events if isinstance(event, Sign)]


def trainers(events: list[Event] | tuple[Event, ...] | None) -> set[object]:
    return {event.value for event in events or () if isinstance(event, Observation) and event.name == "trainer"}


def only(events: list[Event] | tuple[Event, ...] | None, name: str) -> Observation:
    [found] = [event for event in events or () if isinstance(event, Observation) and event.name == name]
    return found


# --------------------------------------------------------------------------------------------------------------- rows


def test_numbers_may_be_text() -> None:
    events = [event for event in read_file("sft_v5.out") if event.line == 1]
    assert facts(events) == [
        ("loss", 1.375, 1),
        ("train_seconds", 60.5, 1),
        ("tokens_per_second", 198.3, 1),
    ]
    # The runtime stands in every row then, and ends nothing.
    assert signs(events) == []
    assert only(events, "train_seconds").aggregation == "last"
    rate = only(events, "tokens_per_second")
    assert (rate.token_unit, rate.aggregation, rate.inside) == ("padded", "mean", ("evaluation", "saving"))


def test_a_loss_or_gradient_that_is_no_number_is_a_sign() -> None:
    events = read_file("sft_v5.out")
    assert signs(events) == [
        (SignKind.NOT_A_NUMBER, 2, None),
        (SignKind.NOT_A_NUMBER, 3, None),
        (SignKind.NOT_A_NUMBER, 5, None),
        (SignKind.TRAINED, 5, None),
    ]
    assert facts(events, "loss", "mean_train_loss") == [("loss", 1.375, 1), ("loss", 0.0, 2)]


def test_each_validation_set_has_a_loss() -> None:
    events = read_file("sft_v5.out")
    assert facts(events, "eval_loss", "eval_seconds") == [
        ("eval_loss", 1.25, 4),
        ("eval_seconds", 4.5, 4),
        ("eval_loss", 1.5, 4),
        ("eval_seconds", 5.5, 4),
    ]


@pytest.mark.parametrize(
    ("more", "trainer"),
    [
        ("'rewards/chosen': 0.1, 'rewards/margins': 0.2, ", "trl"),
        ("'reward': 0.1, 'reward_std': 0.2, 'completions/mean_length': 80.0, ", "trl"),
        ("", "hf_trainer"),
    ],
)
def test_what_trl_adds_tells_that_it_is_trl(more: str, trainer: str) -> None:
    events = read(f"{{'loss': 0.5, 'grad_norm': 1.0, 'learning_rate': 1e-05, {more}'epoch': 0.25}}")
    assert facts(events) == [("loss", 0.5, 1)]
    assert trainers(events) == {trainer}


def test_a_rate_of_tokens_after_a_resume_is_not_given() -> None:
    row = "{'loss': 0.5, 'learning_rate': 1e-05, 'epoch': 1.5, 'train_runtime': 9.5, 'train_tokens_per_second': 99.5}"
    assert facts(read(row), "tokens_per_second") == [("tokens_per_second", 99.5, 1)]
    assert facts(read(f"  Continuing training from global step 30\n{row}"), "tokens_per_second") == []


# ----------------------------------------------------------------------------------------------------------- sentences


def test_the_banner_tells_the_settings_and_evaluations_do_not() -> None:
    events = read_file("run_clm.err")
    assert facts(events) == [
        ("model", "harbour-lab/Tide-Llama-3B", 1),
        ("version", "transformers=4.40.1", 7),
        ("version", "torch=2.3.0", 10),
        ("train_examples", 1920, 12),
        ("epochs", 3, 13),
        ("micro_batch_size", 4, 14),
        ("global_batch_size", 64, 15),
        ("gradient_accumulation_steps", 8, 16),
        ("steps_total", 90, 17),
        ("trainable_parameters", 3407872, 18),
    ]
    assert guesses(events) == set()
    assert trainers(events) == {"hf_trainer"}


def test_the_course_of_a_training_has_signs() -> None:
    assert signs(read_file("run_clm.err")) == [
        (SignKind.START, 11, None),
        (SignKind.RESUMED, 19, None),
        (SignKind.RESUMED, 21, 30),
        (SignKind.RESUMED, 22, None),
        (SignKind.EVALUATING, 23, None),
        (SignKind.SAVING, 26, 60),
        (SignKind.TRAINED, 29, None),
        (SignKind.TRAINED, 32, None),
        (SignKind.SAVING, 33, None),
    ]


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("  Resuming training from checkpoint with epoch 2 and global step 750", 750),
        ("Resuming from checkpoint: ./tide/checkpoint-40", 40),
        ("[INFO] Resumed training from checkpoint-1500...", 1500),
        ("[INFO|trainer.py:2700] 2024-05-02 09:00:05,000 >> Loading model from ./tide/checkpoint-40.", 40),
        (
            "Warning: The following arguments do not match the ones in the `trainer_state.json` within the checkpoint "
            "directory: ",
            None,
        ),
    ],
)
def test_a_resume_is_said_in_many_ways(line: str, step: int | None) -> None:
    assert signs(read(line)) == [(SignKind.RESUMED, 1, step)]


def test_a_loop_that_copied_the_banner_is_not_the_trainer() -> None:
    prefix = "05/02/2024 09:00:00 - INFO - __main__ - "
    events = read(f"{prefix}***** Running training *****\n{prefix}  Num Epochs = 3\n")
    assert trainers(events) == set()
    assert facts(events) == [("epochs", 3, 2)]


@pytest.mark.parametrize(
    ("line", "part", "whole"),
    [
        ("trainable params: 4194304 || all params: 6742609920 || trainable%: 0.0622", 4194304, 6742609920),
        ("trainable params: 79953920.0 || all params: 3660320768 || trainable: 2.18433", 79953920, 3660320768),
        ("INFO - x - trainable params: 1,024 || all params: 2,048 || trainable%: 50.0000", 1024, 2048),
        ("trainable model parameters: 3538944", 3538944, None),
        ("Trainable params: 4,194,304 (0.06%)", 4194304, None),
        ("Trainable params: 4.19M", 4190000, None),
        ("Trainable params: 4M", None, None),
        ("trainable params: 0 || all params: 2,048 || trainable%: 0.0000", None, None),
        ("how many trainable parameters: 12 or 13?", None, None),
        ("Non-trainable params: 4,096", None, None),
        ("Total number of trainable parameters = 4,096", 4096, None),
    ],
)
def test_parameters_with_a_gradient(line: str, part: float | None, whole: float | None) -> None:
    found = {each.name: each.value for each in parameters(line, 1)}
    assert (found.get("trainable_parameters"), found.get("total_parameters")) == (part, whole)


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_and_banners_whose_title_is_cut_off_are_known_by_their_lines() -> None:
    table = "".join(fixture("run_clm.out").splitlines(keepends=True)[3:])
    assert ("train_seconds", 1030.5, 2) in facts(read(table))
    banner = "  Num examples = 640\n  Num Epochs = 2\n  Instantaneous batch size per device = 4\n"
    events = read(banner)
    assert facts(events) == [("train_examples", 640, 1), ("epochs", 2, 2), ("micro_batch_size", 4, 3)]
    assert signs(events) == [(SignKind.START, 2, None)]
    assert read("  Num examples = 640\n  Batch size = 8\n") == []


def test_a_reader_asks_for_the_rows_of_a_table_which_hold_no_words() -> None:
    reader = READERS[0]()
    head, *rows = fixture("notebook.txt").splitlines()[1:5]
    assert list(reader.line(head, 1))
    assert getattr(reader, "inside", False)
    events = [event for number, row in enumerate(rows, 2) for event in reader.line(row, number)]
    assert facts(events) == [
        ("loss", 2.25, 2),
        ("loss", 1.875, 3),
        ("eval_loss", 1.9375, 3),
        ("loss", 1.625, 4),
        ("eval_loss", 1.75, 4),
    ]
    assert [each.step for each in events if isinstance(each, Observation) and each.name == "loss"] == [10, 20, 30]
    assert not list(reader.line("Saved.", 6))
    assert not getattr(reader, "inside", True)


# ------------------------------------------------------------------------------------------------------------- settings


def test_a_command_line_is_a_guess_and_printed_arguments_are_certain() -> None:
    events = read_file("arguments.log")
    command = [event for event in events if event.line == 1]
    assert values(command) == {
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "learning_rate": 2e-4,
        "model": "harbour-lab/Tide-Llama-3B",
        "dtype": "bfloat16",
        "packed": "true",
    }
    assert all(isinstance(event, Observation) and not event.certain for event in command)
    assert facts(events, "lora_rank") == [("lora_rank", 16, 2), ("lora_rank", 16, 20)]
    assert [fact for fact in facts(events) if fact[2] in (3, 4, 5)] == [
        ("micro_batch_size", 4, 4),
        ("learning_rate", 2e-4, 5),
    ]
    printed = [event for event in events if 6 <= event.line <= 19]
    assert values(printed) == {
        "trainer": "trl",
        "dtype": "bfloat16",
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": "true",
        "learning_rate": 2e-4,
        "max_seq_len": 2048,
        "steps_total": 500,
        "optimizer": "adamw_torch_fused",
        "packed": "false",
        "micro_batch_size": 4,
    }
    assert guesses(printed) == set()
    adapter = values([event for event in events if event.line == 20])
    assert adapter == {
        "lora_rank": 16,
        "lora_alpha": 32,
        "dropout": 0.05,
        "target_modules": "q_proj,v_proj",
        "method": "lora",
    }


def test_the_model_is_the_one_that_is_loaded_for_the_training() -> None:
    events = read_file("models.log")
    # A judge that is loaded after the first training belongs to no training.
    assert facts(events, "model") == [
        ("model", "harbour-lab/Tide-Qwen2-7B", 1),
        ("model", "harbour-lab/tide-bert-base", 2),
        ("model", "harbour-lab/Tide-Gemma-2B", 7),
    ]
    assert [each.certain for each in events if isinstance(each, Observation) and each.name == "model"] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("Loading base model: harbour-lab/Qwen2.5-3B-Instruct", "harbour-lab/Qwen2.5-3B-Instruct"),
        ("🚀 Loading model and tokenizer from /models/Llama-3.2-1B...", "/models/Llama-3.2-1B"),
        ("2024-05-02 09:00:00,123 - INFO - Base model: Llama-3.2-1B", "Llama-3.2-1B"),
        ("Training harbour-lab/tiny-gpt2", "harbour-lab/tiny-gpt2"),
        ("  Model:       google/gemma-2-2b", "google/gemma-2-2b"),
        ("model_name_or_path: Qwen/Qwen2-7B", "Qwen/Qwen2-7B"),
        ("Modelo: Qwen/Qwen2-7B", None),
        ("Loading dataset: harbour-lab/llama-7b-tides", None),
        ("Loading model from ./outputs/llama-7b", None),
        ("Loading model weights...", None),
        ("Training samples: 420", None),
        ("Training loss: 0.5", None),
        ("Model: unsure", None),
        ("Loading model config.json", None),
        ("Training data/llama-7b.jsonl", None),
    ],
)
def test_what_people_print_is_a_model_only_when_it_looks_like_one(line: str, model: str | None) -> None:
    assert handwritten_model(line) == model


def test_lines_of_others_tell_nothing() -> None:
    assert read_file("foreign.log") == []


# ---------------------------------------------------------------------------------------------------------------- files


def test_the_state_holds_every_row_and_where_it_stands() -> None:
    events = document("trainer_state.json")
    assert facts(events) == [
        ("loss", 2.25, 0),
        ("loss", 1.75, 0),
        ("eval_loss", 1.875, 0),
        ("eval_seconds", 3.5, 0),
        ("loss", 1.5, 0),
        ("steps_total", 40, 0),
        ("epochs", 2, 0),
        ("micro_batch_size", 4, 0),
        ("train_seconds", 52.5, 0),
        ("mean_train_loss", 0.8125, 0),
        ("train_samples_per_second", 12.19, 0),
        ("train_steps_per_second", 0.762, 0),
        ("step", 40, 0),
    ]
    losses = [each for each in events or () if isinstance(each, Observation) and each.name == "loss"]
    assert [(each.step, each.epoch) for each in losses] == [(10, 0.5), (20, 1.0), (40, 2.0)]
    assert signs(list(events or ())) == [(SignKind.TRAINED, 0, 40)]
    assert guesses(events) == {"micro_batch_size"}


def test_results_are_the_last_rows() -> None:
    events = document("all_results.json")
    assert facts(events) == [
        ("eval_loss", 1.875, 0),
        ("eval_seconds", 3.5, 0),
        ("train_seconds", 105.5, 0),
        ("mean_train_loss", 1.8125, 0),
        ("train_samples_per_second", 6.07, 0),
        ("train_steps_per_second", 0.379, 0),
        ("train_examples", 320, 0),
    ]
    assert only(events, "train_seconds").epoch == 2


def test_configs_tell_the_plan() -> None:
    assert values(document("tides.yaml")) == {
        "trainer": "trl",
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "learning_rate": 2e-4,
        "max_seq_len": 2048,
        "lora_rank": 16,
        "lora_alpha": 32,
        "epochs": 2,
        "model": "harbour-lab/Tide-Llama-3B",
        "dtype": "bfloat16",
        "gradient_checkpointing": "true",
        "packed": "false",
        "optimizer": "adamw_torch_fused",
        "attention": "flash_attention_2",
        "target_modules": "q_proj,v_proj",
        "method": "lora",
    }
    assert values(document("grouped.yaml")) == {
        "trainer": "hf_trainer",
        "micro_batch_size": 2,
        "learning_rate": 1e-4,
        "epochs": 1,
        "model": "harbour-lab/Tide-Llama-3B",
        "lora_rank": 8,
        "lora_alpha": 16,
        "method": "lora",
    }
    assert values(document("adapter_config.json")) == {
        "model": "harbour-lab/Tide-Llama-3B",
        "method": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "target_modules": "v_proj,q_proj",
    }
    assert values(document("stage.yaml")) == {
        "trainer": "hf_trainer",
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "learning_rate": 5e-5,
        "max_seq_len": 1024,
        "epochs": 5,
        "model": "harbour-lab/Tide-Qwen-8B",
        "dtype": "bfloat16",
        "gradient_checkpointing": "false",
        "target_modules": "q_proj,k_proj",
        "lora_rank": 4,
        "lora_alpha": 8,
        "dropout": 0.05,
        "method": "lora",
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"finetuning_type": "lora", "model_name_or_path": "a/b-7b", "num_train_epochs": 3}',
        '{"base_model": "a/b-7b", "sequence_len": 2048, "gradient_accumulation_steps": 2}',
        '{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "transformers_version": "4.40.1"}',
        '{"_wandb": {}, "_step": 4, "train_runtime": 5.5, "train_loss": 0.5, "train_steps_per_second": 1.5}',
        '{"predict_loss": 0.5, "predict_runtime": 4.5}',
        '{"log_history": "none", "global_step": 4}',
    ],
)
def test_files_of_others_are_left_to_them(text: str) -> None:
    assert document("some.json", text) is None
