"""What holds for every reader of logs: a cut log says less and nothing else, and no text stops a reader."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.history.sound import assert_sound
from tests.tiers import examples

from touchline.backends.logtext.dicts import read_row
from touchline.backends.logtext.reader import LogReader
from touchline.core.observation import Event
from touchline.history.loops.vocabulary import words_of
from touchline.history.readers import documents, line_readers
from touchline.history.scan import clean

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs"
LOGS = sorted(path for path in FIXTURES.rglob("*") if path.suffix in (".out", ".err", ".log", ".txt", ".jsonl"))
BEGINNINGS = (
    "",
    "Traceback (most recent call last):\n",
    "Running LoRAFinetuneRecipeSingleDevice with resolved config:\n",
    "[INFO:swift] args: TrainArguments(\n",
    "Training complete ",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    sorted(
        words_of(
            "log_history global_step max_steps num_train_epochs epoch loss step learning_rate grad_norm train_runtime"
            " train_loss eval_loss eval_runtime peft_type r per_device_train_batch_size model_name_or_path lora train"
            " target_modules optim _wandb _step _runtime _timestamp gpu gpu_count gpu_nvidia current_steps total_steps"
            " global_step/max_steps memory(GiB) base_model micro_batch_size sequence_len swift_version train_type"
            " run_info train_info tps peak_mem_gb split"
        )
    )
)


def events_of(made: type[LogReader], lines: list[str]) -> list[Event]:
    """The events of one reader, to which every line is offered."""
    reader = made()
    found: list[Event] = []
    for number, line in enumerate(lines, 1):
        for part in line.split("\r"):
            text = clean(part.encode())
            found += reader.line(text, number)
            row = read_row(text)
            found += reader.row(row, text, number) if row is not None else ()
    return found


@functools.cache
def whole(made: type[LogReader], path: Path) -> tuple[list[str], list[Event]]:
    """The lines of a fixture, and what a reader says of them all."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return lines, events_of(made, lines)


@given(st.sampled_from(line_readers()), st.sampled_from(LOGS), st.data())
@settings(max_examples=examples(25), deadline=None)
def test_a_log_that_is_cut_says_nothing_that_the_whole_does_not(
    made: type[LogReader], path: Path, data: st.DataObject
) -> None:
    lines, events = whole(made, path)
    kept = data.draw(st.integers(0, len(lines)))
    assert [event for event in events_of(made, lines[:kept]) if event not in events] == []


@given(st.sampled_from(LOGS), st.data())
@settings(max_examples=examples(25), deadline=None)
def test_a_line_that_is_cut_anywhere_stops_no_reader(path: Path, data: st.DataObject) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    line = data.draw(st.sampled_from(lines))
    end = data.draw(st.integers(0, len(line)))
    part = line[data.draw(st.integers(0, end)) : end]
    for made in line_readers():
        assert_sound(events_of(made, [part]), 1)


@given(st.sampled_from(BEGINNINGS), st.text(max_size=200))
@settings(max_examples=examples(25), deadline=None)
def test_no_text_stops_a_reader(beginning: str, text: str) -> None:
    lines = (beginning + text).split("\n")
    for made in line_readers():
        assert_sound(events_of(made, lines), len(lines))


@given(st.dictionaries(KEYS | st.text(max_size=8), JSON, max_size=12))
@settings(max_examples=examples(25), deadline=None)
def test_no_document_and_no_row_stops_a_reader(data: dict[str, object]) -> None:
    for reader in documents():
        for name in ("some.json", "wandb-summary.json", "wandb-metadata.json"):
            assert_sound(reader(name, data), 0)
    for made in line_readers():
        assert_sound(made().row(data, str(data), 1), 1)
