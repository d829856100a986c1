"""W&B's summary holds last values; only what a trainer logs once, at its end, is of the whole run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.history.readers import WandbLines, read_metadata, read_summary

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "wandb"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def words_of(line: str) -> set[str]:
    """The words by which a line is offered: before its escape sequences are taken away."""
    return set(re.findall(r"[a-z_\x80-\U0010ffff]+", "".join(c.lower() if c.isascii() else c for c in line)))


def read(text: str) -> list[Event]:
    """All events of a text."""
    reader = WandbLines()
    return [
        event
        for number, line in enumerate(text.split("\n"), 1)
        if words_of(line) & WandbLines.words
        for event in reader.line(ESCAPES.sub("", line), number)
    ]


def fixture(name: str) -> str:
    """A fixture's text."""
    return (FIXTURES / name).read_text(encoding="utf-8")


def seen(text: str) -> list[tuple[str, float | str, str | None, int]]:
    """Name, value, aggregation and line of the observations."""
    return [
        (event.name, event.value, event.aggregation, event.line)
        for event in read(text)
        if isinstance(event, Observation)
    ]


def document(name: str) -> list[Observation]:
    """What the readers of documents make of a fixture."""
    content = json.loads(fixture(name))
    found = [events for reader in (read_summary, read_metadata) if (events := reader(name, content)) is not None]
    assert len(found) == 1
    return [event for event in found[0] if isinstance(event, Observation)]


def test_memory_in_use_stands_in_for_memory_allocated() -> None:
    text = "wandb: Run summary:\nwandb: peak_memory_active 18.5\nwandb:\n"
    assert seen(text) == [("peak_memory", 18.5, "last", 2)]


def test_other_loops_log_the_loss_of_a_step_under_the_same_key() -> None:
    assert seen(fixture("own_loop.out")) == [("loss", 0.40625, "last", 4), ("eval_loss", 0.5625, "last", 5)]
    signs = [event for event in read(fixture("own_loop.out")) if isinstance(event, Sign)]
    assert [(sign.kind, sign.line) for sign in signs] == [(SignKind.NOT_A_NUMBER, 13)]


@pytest.mark.parametrize(
    "text",
    [
        "wandb: Run history:\nwandb: loss 1\nwandb:\n",
        "wandb: loss 0.5\nwandb:\n",
        "wandb: Run summary:\nwandb: _step 5\nwandb: _runtime 90\nwandb: lr 0\nwandb: epoch 3\nwandb:\n",
        "wandb: Run summary:\nwandb: loss 0\nwandb: val_loss 0.00001\nwandb:\n",
        "wandb: Run summary:\nwandb: loss high\nwandb:\n",
        "wandb: Run summary:\nwandb:\nwandb: loss 0.5\nwandb:\n",
        "wandb: Run summary:\nwandb: loss 0.5\n",
        "wandb: Tracking run with wandb version 0.23.0\nwandb: ERROR loss 0.5\n",
        "notwandb: Run summary:\nnotwandb: loss 0.5\nnotwandb:\n",
    ],
)
def test_what_says_nothing(text: str) -> None:
    assert read(text) == []


def test_the_summary_s_file() -> None:
    events = document("wandb-summary.json")
    assert {event.name: event.value for event in events} == {
        "step": 447,
        "loss": 1.18751,
        "mean_train_loss": 1.43752,
        "train_seconds": 1803.2511,
        "eval_loss": 1.312504,
    }
    assert {event.name: event.aggregation for event in events} == {
        "step": "last",
        "loss": "last",
        "mean_train_loss": "mean",
        "train_seconds": None,
        "eval_loss": "last",
    }


def test_the_machine_s_devices_are_a_guess() -> None:
    events = document("wandb-metadata.json")
    assert [(event.name, event.certain) for event in events] == [
        ("gpu", False),
        ("gpus", False),
        ("gpu_memory_total", False),
    ]
    assert events[2].value == pytest.approx(79.6, abs=0.1)


def test_other_documents() -> None:
    for content in ({}, {"loss": 0.5}, {"_step": 1, "_timestamp": 3.0}, {"gpu": "X", "gpu_count": 8}, {"program": 1}):
        assert all(reader("state.json", content) is None for reader in (read_summary, read_metadata))


def test_dictionaries_are_not_read() -> None:
    assert list(WandbLines().row({"loss": 0.5}, "", 1)) == []
