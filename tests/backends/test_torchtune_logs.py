"""What torchtune prints is read for what it is: above all, memory after initialisation is no training's peak."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from touchline.backends.logtext.dicts import read_row
from touchline.backends.torchtune.logs import DOCUMENTS, READERS, TorchtuneLines
from touchline.core.observation import Event, Observation, Sign, SignKind

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "torchtune"
LOGS = sorted(path.name for path in FIXTURES.iterdir() if path.suffix != ".yaml")


def words_of(line: str) -> set[str]:
    """The words by which a line is offered."""
    return set(re.findall(r"[a-z_\x80-\U0010ffff]+", "".join(c.lower() if c.isascii() else c for c in line)))


def read(text: str, *, offered: bool = True) -> list[Event]:
    """All events of a text; with `offered`, of those lines only that hold one of the reader's words."""
    reader = TorchtuneLines()
    events: list[Event] = []
    for number, whole in enumerate(text.split("\n"), 1):
        for line in whole.split("\r"):
            if offered and not words_of(line) & TorchtuneLines.words:
                continue
            events.extend(reader.line(line, number))
            row = read_row(line)
            if row is not None:
                events.extend(reader.row(row, line, number))
    return events


def fixture(name: str) -> str:
    """A fixture's text."""
    return (FIXTURES / name).read_bytes().decode()


def seen(text: str) -> list[Observation]:
    """The observations of a text."""
    return [event for event in read(text) if isinstance(event, Observation)]


def values(events: list[Observation], name: str) -> list[float | str]:
    """The values of one name."""
    return [event.value for event in events if event.name == name]


def kinds(text: str) -> list[SignKind]:
    """The kinds of a text's signs."""
    return [event.kind for event in read(text) if isinstance(event, Sign)]


def test_memory_after_initialisation_is_no_peak_of_the_training() -> None:
    memory = [event for event in seen(fixture("lora_single.out")) if event.name == "peak_memory"]
    assert [(event.value, event.unit, event.phase, event.kind) for event in memory] == [
        (2.41, "GiB", "after_init", "allocated"),
        (2.42, "GiB", "after_init", "reserved"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "Packing dataset: 100%|██████████| 1600/1600 [00:00<00:00, 6478.45it/s]",
        "  0%|          | 0/60 [00:00<?, ?it/s]",
        "Writing logs to out/logs/log_1760000000.txt",
        "Setting manual seed to local seed 7. Local seed is seed + rank = 7 + 0",
        "step 3, GPU peak memory allocation: 14.0GB, GPU peak memory reserved: 16.0GB",
        'The log says "GPU peak memory allocation: 2.41 GiB" and then stops.',
        "|Game: 3|Score: 5|Loss: 0.25|",
        "epoch: 1|step: 3|Loss: 0.5",
        "Step 3 | loss: 0.5 | lr: 0.001",
        "Step 3 | acc:0.5",
        "lora_rank: 64",
        "Validation loss: 0.5",
        "Checkpoint saved to out/epoch_3",
        "peak memory stats: {'peak_memory_alloc': 8.75, 'peak_memory_reserved': 11.25}",
    ],
)
def test_what_says_nothing(line: str) -> None:
    assert read(line, offered=False) == []


def test_every_label_of_a_line_is_a_loss() -> None:
    losses = [event for event in seen(fixture("lora_single.out")) if event.name == "loss"]
    assert [(event.step, event.value) for event in losses] == [
        (1, 2.6193134784698486),
        (2, 2.5701),
        (30, 0.8125),
        (60, 0.4031),
        (60, 0.4031),
        (61, 0.3975),
        (120, 0.2144),
    ]
    assert {event.epoch for event in losses} == {None}


def test_the_outer_duration_of_a_saving_holds_the_inner_one() -> None:
    events = seen(fixture("lora_single.out"))
    assert values(events, "save_seconds") == [12.25, 11.75]
    assert values(events, "checkpoint_size") == [pytest.approx(2.32), pytest.approx(2.32)]
    assert {event.unit for event in events if event.name == "checkpoint_size"} == {"GiB"}
    assert kinds(fixture("lora_single.out")) == [
        SignKind.START,
        *(SignKind.SAVING, SignKind.SAVING, SignKind.SAVED),
        *(SignKind.SAVING, SignKind.SAVED),
    ]


def test_a_checkpoint_with_a_file_of_unknown_size_has_none() -> None:
    text = (
        "Starting checkpoint save for epoch 0...\nModel checkpoint saved to out/epoch_0\n"
        "Adapter checkpoint of size 0.02 GiB saved to out/epoch_0/adapter_model.pt\nCheckpoint saved in 3.50 seconds.\n"
    )
    assert [(event.name, event.value) for event in seen(text)] == [("save_seconds", 3.5)]


def test_signs_of_a_resumed_run_that_diverges() -> None:
    signs = [event for event in read(fixture("distributed.out")) if isinstance(event, Sign)]
    assert [sign.kind for sign in signs][:3] == [SignKind.START, SignKind.RESUMED, SignKind.NOT_A_NUMBER]
    assert signs[2].step == 102
    assert signs[-1].kind is SignKind.EVALUATING


def test_another_attempt_counts_steps_again() -> None:
    text = "\n".join(f"1|{step}|Loss: 0.5" for step in (1, 2, 3, 1, 2))
    assert [event.step for event in seen(text) if event.name == "loss"] == [1, 2, 3, 1, 2]


def test_a_config_file() -> None:
    document = YAML(typ="safe", pure=True).load(fixture("qlora.yaml"))
    (reader,) = DOCUMENTS
    events = reader("finetune.yaml", document)
    assert events is not None
    known = {event.name: event.value for event in events if isinstance(event, Observation)}
    assert known == {
        "trainer": "torchtune",
        "micro_batch_size": 2,
        "epochs": 3,
        "dtype": "float16",
        "adapter_dtype": "float16",
        "gradient_checkpointing": "true",
        "model": "qwen2_5_7b_instruct",
        "method": "qlora",
        "quantization": "nf4",
        "lora_rank": 8,
        "lora_alpha": 16,
        "target_modules": "q_proj,v_proj,mlp",
        "max_seq_len": 1024,
        "packed": "false",
        "optimizer": "AdamW8bit",
        "learning_rate": 2e-4,
    }


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"model": {"_component_": "torchtune.models.llama3.llama3_8b"}, "prompt": "Hello"},
        {"model": {"_component_": "other.models.x"}, "optimizer": {}, "epochs": 1},
        {"model": ["torchtune.models"], "optimizer": None, "epochs": None},
        {"base_model": "x", "epochs": 3, "optimizer": "adamw_torch"},
    ],
)
def test_other_documents(document: dict[str, object]) -> None:
    (reader,) = DOCUMENTS
    assert reader("config.yaml", document) is None


@pytest.mark.parametrize("name", LOGS)
def test_the_words_offer_every_line_that_says_something(name: str) -> None:
    assert list(READERS) == [TorchtuneLines]
    assert read(fixture(name)) == read(fixture(name), offered=False)
