"""The forms that recipes of our users' own print: on packing, memory, begin and end."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from touchline.core.observation import Event, Observation, Sign, SignKind, Stamp
from touchline.history.readers import PackingLines

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "packing"
LOGS = sorted(path.name for path in FIXTURES.iterdir())


def words_of(line: str) -> set[str]:
    """The words by which a line is offered."""
    return set(re.findall(r"[a-z_\x80-\U0010ffff]+", "".join(c.lower() if c.isascii() else c for c in line)))


def read(text: str, *, offered: bool = True) -> list[Event]:
    """All events of a text; with `offered`, of those lines only that hold one of the reader's words."""
    reader = PackingLines()
    return [
        event
        for number, line in enumerate(text.split("\n"), 1)
        if not offered or words_of(line) & PackingLines.words
        for event in reader.line(line, number)
    ]


def fixture(name: str) -> str:
    """A fixture's text."""
    return (FIXTURES / name).read_text(encoding="utf-8")


def seen(text: str) -> list[tuple[str, float | str, str, bool]]:
    """Name, value, unit and certainty of the observations."""
    return [
        (event.name, event.value, event.unit, event.certain) for event in read(text) if isinstance(event, Observation)
    ]


def test_begin_and_end_carry_their_times() -> None:
    events = [event for event in read(fixture("stated.out")) if not isinstance(event, Observation)]
    assert [event.kind if isinstance(event, Sign) else "stamp" for event in events] == [
        *(SignKind.START, "stamp"),
        *(SignKind.TRAINED, "stamp"),
    ]
    first, last = (event for event in events if isinstance(event, Stamp))
    assert first.unix == datetime.datetime(2025, 10, 20, 14, 30, tzinfo=datetime.UTC).timestamp()
    assert last.unix - first.unix == 127 * 60
    assert (first.line, last.line) == (9, 11)


def test_peaks() -> None:
    for line, value, unit, kind, phase in [
        ("Peak GPU memory: 45.2 GB", 45.2, "GB", "allocated", "step"),
        ("INFO: peak gpu memory usage: 1,024 MiB", 1.0, "GiB", "allocated", "step"),
        ("Peak GPU memory reserved = 12.5GiB", 12.5, "GiB", "reserved", "step"),
        ("Peak GPU memory after model init: 2.5 GB", 2.5, "GB", "allocated", "after_init"),
        ("Peak GPU memory: 45.2 GB / 80 GB (56%)", 45.2, "GB", "allocated", "step"),
    ]:
        (event,) = read(line)
        assert isinstance(event, Observation), line
        assert (event.name, event.value, event.unit, event.kind, event.phase) == (
            "peak_memory",
            value,
            unit,
            kind,
            phase,
        ), line


def test_what_says_nothing() -> None:
    for line in [
        "Packing dataset: 100%|██████████| 8000/8000 [00:01<00:00, 6478.45it/s]",
        "- **Packing density**: 2.8 examples a sequence is what we expect for short words",
        "Our packing density: 2.80 examples/sequence was better than that of others.",
        "The model answered: Packed 8000 examples into 2857 sequences",
        "Packing density: {avg_examples_per_sequence}",
        "Packing efficiency: 870%",
        "Max GPU memory: 80 GB",
        "Peak memory: 45.2 GB",
        "Loaded 500 examples from data/test.jsonl",
        "Loaded 3 few-shot examples",
        "Training started with 4 GPUs",
        "Training completed in 3 hours",
        "Training startedness 2025-10-20 14:30:00",
    ]:
        assert read(line, offered=False) == [], line


def test_the_first_examples_loaded_are_the_training_split_s() -> None:
    text = "Loaded 8000 examples\nLoaded 500 examples\nTraining started\nLoaded 700 examples"
    assert [value for _, value, _, _ in seen(text)] == [8000, 700]


def test_the_words_offer_every_line_that_says_something() -> None:
    for name in LOGS:
        assert read(fixture(name)) == read(fixture(name), offered=False), name
        assert list(PackingLines().row({"loss": 0.5}, "", 1)) == [], name
