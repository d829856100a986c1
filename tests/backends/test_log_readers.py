"""What holds for every reader of logs: a cut log says less and nothing else, and no text stops a reader."""

import functools
import importlib
import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.history.sound import assert_sound
from tests.tiers import examples

from touchline.backends.logtext.events import LogReader
from touchline.backends.logtext.parts import (
    not_a_number,
    read_bars,
    read_row,
    read_stamp,
    redact,
    to_count,
    to_gib,
    to_number,
    to_seconds,
)
from touchline.backends.logtext.vocabulary import words_of
from touchline.core.observation import Event, Observation, ProgressBarEvent, Sign
from touchline.experiment.document import parse
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
def test_a_cut_log_says_nothing_that_the_whole_does_not(made: type[LogReader], path: Path, data: st.DataObject) -> None:
    lines, events = whole(made, path)
    kept = data.draw(st.integers(0, len(lines)))
    assert [event for event in events_of(made, lines[:kept]) if event not in events] == []


@given(st.sampled_from(LOGS), st.data())
@settings(max_examples=examples(25), deadline=None)
def test_a_line_that_is_cut_anywhere_stops_no_reader(path: Path, data: st.DataObject) -> None:
    line = data.draw(st.sampled_from(path.read_text(encoding="utf-8").split("\n")))
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


CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("log_events.yaml").read_text(encoding="utf-8"))
"""A case names the reader and its `file`, `text` or `data` (a document), and what it `says`."""
LOGS_LOG_EVENTS = [case for case in CASES if "file" in case and not case["file"].endswith((".json", ".yaml", ".yml"))]
_WORD = re.compile(r"[a-z_\x80-\U0010ffff]+")
_ESCAPE = re.compile(r"\x1b\[[\d;]*m")


def name_of(case: dict[str, Any]) -> str:
    return f"{case['reader']}: {case.get('file') or case.get('text') or case.get('data')}"[:60]


def said(event: Event) -> str:
    """Line, name and value; then its attributes, and a tilde after a guess."""
    if isinstance(event, ProgressBarEvent):
        return f"{event.line} bar {event.done}/{event.total}"
    more = [
        f"{field.name}={getattr(event, field.name)}"
        for field in fields(event)
        if field.name not in ("name", "kind" if isinstance(event, Sign) else "", "value", "line", "text", "certain")
        and getattr(event, field.name) not in (field.default, None, ())
    ]
    if isinstance(event, Sign):
        return " ".join([f"{event.line} {event.kind.name}", *more])
    assert isinstance(event, Observation)
    return " ".join([f"{event.line} {event.name}: {event.value}", *more, *([] if event.certain else ["~"])])


def read(reader: str, text: str, *, offered: bool = True) -> list[str]:
    """What the readers of a trainer say of a text. With `offered`, they get the lines that the scan gives them."""
    events: list[Event] = []
    readers = [made() for made in importlib.import_module(f"touchline.backends.{reader}.logs").READERS]
    for number, line in enumerate(text.split("\n"), 1):
        for part in line.split("\r"):
            clean = _ESCAPE.sub("", part)
            row, words = read_row(clean), set(_WORD.findall(clean.lower()))
            for each in readers:
                if not offered or words & each.words or getattr(each, "inside", False):
                    events += each.line(clean, number)
                    events += each.row(row, clean, number) if row is not None else ()
    return [said(event) for event in events]


def read_document(reader: str, name: str, data: dict[str, object]) -> list[str] | None:
    """What the first reader of a trainer that knows a document says; None if none does."""
    documents = importlib.import_module(f"touchline.backends.{reader}.logs").DOCUMENTS
    found = next((events for each in documents if (events := each(name, data)) is not None), None)
    return None if found is None else [said(event) for event in found]


def text_of(case: dict[str, Any]) -> str:
    return (FIXTURES / case["reader"] / case["file"]).read_bytes().decode()


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_readers_say_what_the_table_says(case: dict[str, Any]) -> None:
    found: list[str] | None
    if case in LOGS_LOG_EVENTS or "text" in case:
        found = read(case["reader"], case["text"] if "text" in case else text_of(case))
    else:
        name = case.get("file", "some.json")
        data = case.get("data")
        if data is None:
            data = json.loads(text_of(case)) if name.endswith(".json") else parse(text_of(case), name).data
        found = read_document(case["reader"], name, data)
    assert found == case["says"]


@pytest.mark.parametrize("case", LOGS_LOG_EVENTS, ids=name_of)
def test_the_words_offer_every_line_that_says_something(case: dict[str, Any]) -> None:
    assert read(case["reader"], text_of(case), offered=False) == case["says"]


def bars(text: str) -> list[tuple[str, int, int | None, float | None]]:
    return [(bar.label, bar.done, bar.total, bar.elapsed_seconds) for bar in read_bars(text.encode(), 1)]


@parametrize(
    "line, expected",
    (" 60%|██████    | 6/10 [00:16<00:11,  2.89s/it]", [("", 6, 10, 16.0)]),
    ("Epoch 1:  45%|####5     | 450/1000 [1:01:15<01:32, 5.9it/s, loss=0.5]", [("Epoch 1", 450, 1000, 3675.0)]),
    ("2|350|Loss: 0.23:  90%|█████████ | 225/250 [01:42<00:11,  2.20it/s]", [("2|350|Loss: 0.23", 225, 250, 102.0)]),
    ("100%|██████████| 8/8 [1 day, 2:00:00<00:00, 9.3s/it]", [("", 8, 8, 93600.0)]),
    ("model.safetensors:  12%|█▏        | 1.1G/9.1G [00:09<01:10, 110MB/s]", []),
    ("42it [00:21,  2.00it/s]", [("", 42, None, 21.0)]),
    ("the odds are 50%| so they say", []),
)
def test_bars(line: str, expected: list[tuple[str, int, int, float]]) -> None:
    assert bars(line) == expected


def test_two_bars_on_one_line_have_their_own_labels() -> None:
    line = "a: 10%|█         | 1/10 [00:01<00:09,  1.00s/it]b: 20%|██        | 2/10 [00:02<00:08,  1.00s/it]"
    assert [bar[0] for bar in bars(line)] == ["a", "b"]


@settings(max_examples=examples(25), deadline=None)
@given(text=st.text(max_size=200))
def test_no_line_breaks_the_grammar(text: str) -> None:
    for bar in read_bars(text.encode("utf-8", "surrogatepass"), 1):
        assert bar.done >= 0
    assert read_row(text) is None or text.rstrip().endswith("}")
    assert redact(redact(text)) == redact(text)
    for number in (read_stamp(text), to_number(text), to_seconds(text)):
        assert number is None or math.isfinite(number)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=examples(25), deadline=None)
@given(
    row=st.dictionaries(
        st.from_regex(r"[a-z_/]{1,12}", fullmatch=True), NUMBERS | st.none() | st.booleans(), min_size=1
    )
)
def test_a_printed_dictionary_is_read_back(row: dict[str, object]) -> None:
    assert read_row(str(row)) == row
    assert read_row("step 3: " + str(row) + " ") == row


def test_dictionaries_as_programs_print_them() -> None:
    row = read_row("{'loss': nan, 'a': None, 'b': tensor(2.5, device='cuda:0'), 'c': np.float64(1e-05), 'd': 'it'}")
    assert math.isnan(row["loss"])
    assert (row["a"], row["b"], row["c"], row["d"]) == (None, 2.5, 1e-05, "it")
    assert read_row("{'text': \"it's 5\", 'n': 2}") == {"text": "it's 5", "n": 2}
    assert read_row("{'loss': 1.5, 'epoch'") is None
    assert read_row("{__import__('os').getcwd(): 1}") is None


@parametrize(
    "line, iso",
    ("[2025-05-08 13:40:27,488] [INFO] [x:1]", "2025-05-08T13:40:27"),
    ("04/07/2024 20:29:47 - INFO - x", "2024-04-07T20:29:47"),
    ("[INFO|tokenization.py:2084] 2024-04-07 20:29:48,633 >> x", "2024-04-07T20:29:48"),
    ("[INFO|2025-01-01 10:00:00] a.b:1 >> x", "2025-01-01T10:00:00"),
    ("Job started at Mon Jan  5 10:00:00 EST 2026", "2026-01-05T10:00:00"),
    ("2026-06-29T06:36:52Z INFO x", "2026-06-29T06:36:52"),
    ("epoch 2025 of 3000", None),
    ("2025-99-99 99:99:99 x", None),
)
def test_stamps(line: str, iso: str | None) -> None:
    import datetime

    assert read_stamp(line) == (None if iso is None else datetime.datetime.fromisoformat(iso + "+00:00").timestamp())


@parametrize(
    "text, value",
    ("29,933,568", 29933568.0),
    ("1.026e+04", 10260.0),
    ("4.5M", 4500000.0),
    ("1_234", 1234.0),
    (".5", 0.5),
    ("nan", None),
    ("", None),
    ("1,23", None),
    ("12 GB", None),
)
def test_numbers(text: str, value: float | None) -> None:
    assert to_number(text) == value


def test_counts_sizes_clocks() -> None:
    assert to_count("16,266") == 16266
    assert to_count("1.5") is None
    assert to_gib(2048, "MiB") == 2.0
    assert to_gib(14, "GB") is None
    assert to_seconds("0:50:01.40") == pytest.approx(3001.4)
    assert not_a_number("NaN")
    assert not not_a_number("0.5")


@parametrize(
    "secret",
    "hf_abcdefghijklmnopqrstuvwx",
    "WANDB_API_KEY=0123456789abcdef0123",
    "Authorization: Bearer abcdefgh12345678",
    "https://user:passw0rd@example.org/x",
    "--hub_token=s3cr3ts3cr3t",
)
def test_secrets_are_redacted(secret: str) -> None:
    shown = redact(f"export {secret} now")
    assert "[redacted]" in shown
    for piece in ("abcdefgh", "0123456789abcdef", "passw0rd", "s3cr3t"):
        assert piece not in shown


@parametrize("plain", "'num_tokens': '1.026e+04'", "eos_token: </s>", "tokens/s: 1234567", "max_tokens=1000000")
def test_what_is_no_secret_stays(plain: str) -> None:
    assert redact(plain) == plain
