"""Unsloth's banners, and the sums of its notebooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchline.backends.unsloth.logs import READERS
from touchline.core.observation import Event, Observation

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "unsloth"
_WORDS = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if 97 <= byte <= 122 or byte == 95 or byte >= 128 else 32
    for byte in range(256)
)


def read(text: str, *, every_line: bool = False) -> list[Event]:
    """The readers' events of a text, each line offered by its words as the scan does it."""
    events: list[Event] = []
    readers = [reader() for reader in READERS]
    for number, line in enumerate(text.split("\n"), 1):
        words = {word.decode("utf-8", "replace") for word in line.encode().translate(_WORDS).split()}
        for reader in readers:
            if every_line or words & reader.words:
                events += reader.line(line, number)
                events += reader.row({"loss": 0.5}, line, number)
    return events


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def facts(events: list[Event], *names: str) -> list[tuple[object, ...]]:
    return [
        (event.name, event.value, event.line)
        for event in events
        if isinstance(event, Observation) and (event.name in names if names else event.name != "trainer")
    ]


def test_a_gpu_without_a_name_has_none_and_round_parameters_are_a_guess() -> None:
    events = read(fixture("unknown_gpu.txt"))
    assert facts(events, "gpu", "gpu_memory_total") == [("gpu_memory_total", 191.688, 2)]
    whole = next(each for each in events if isinstance(each, Observation) and each.name == "total_parameters")
    assert (whole.value, whole.certain) == (1e9, False)


def test_lines_of_others_tell_nothing() -> None:
    assert read(fixture("foreign.txt")) == []
