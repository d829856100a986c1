"""Unsloth's banners, and the sums of its notebooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchline.backends.unsloth.logs import READERS
from touchline.core.observation import Event, Observation, Sign, SignKind

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "unsloth"
LOGS = ["first.txt", "later.txt", "unknown_gpu.txt", "foreign.txt"]
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


def signs(events: list[Event]) -> list[tuple[SignKind, int]]:
    return [(event.kind, event.line) for event in events if isinstance(event, Sign)]


def test_the_first_banners_and_the_sums() -> None:
    events = read(fixture("first.txt"))
    assert facts(events) == [
        ("version", "unsloth=2024.6", 2),
        ("gpu", "NVIDIA L4", 3),
        ("gpu_memory_total", 22.168, 3),
        ("version", "torch=2.3.1+cu121", 4),
        ("version", "xformers=0.0.27", 5),
        ("version", "unsloth=2024.6", 7),
        ("gpu", "NVIDIA L4", 8),
        ("gpu_memory_total", 22.168, 8),
        ("memory_before_training", 5.125, 9),
        ("gpus", 1, 10),
        ("train_examples", 1600, 11),
        ("epochs", 2, 11),
        ("micro_batch_size", 4, 12),
        ("gradient_accumulation_steps", 4, 12),
        ("steps_total", 200, 13),
        ("global_batch_size", 16, 13),
        ("trainable_parameters", 41943040, 14),
        ("train_seconds", 1234.5678, 16),
        ("peak_memory", 9.75, 18),
    ]
    assert signs(events) == [(SignKind.START, 10), (SignKind.TRAINED, 16)]


def test_the_later_banners_tell_processes_and_all_parameters() -> None:
    events = read(fixture("later.txt"))
    assert facts(events) == [
        ("version", "unsloth=2025.3.19", 2),
        ("version", "transformers=4.50.0", 2),
        ("version", "vllm=0.8.2", 2),
        ("gpu", "NVIDIA A100-SXM4-80GB", 3),
        ("gpu_memory_total", 79.151, 3),
        ("version", "torch=2.6.0+cu124", 4),
        ("version", "triton=3.2.0", 4),
        ("version", "xformers=0.0.29.post3", 5),
        ("train_examples", 12000, 8),
        ("epochs", 1, 8),
        ("steps_total", 750, 8),
        ("micro_batch_size", 2, 9),
        ("gradient_accumulation_steps", 4, 9),
        ("global_batch_size", 16, 10),
        ("gpus", 2, 10),
        ("trainable_parameters", 20185088, 11),
        ("total_parameters", 7635801600, 11),
    ]
    trainers = {each.value for each in events if isinstance(each, Observation) and each.name == "trainer"}
    assert trainers == {"unsloth"}


def test_memory_has_its_phase_and_kind_and_a_difference_is_no_peak() -> None:
    events = [each for each in read(fixture("first.txt")) if isinstance(each, Observation) and "memory" in each.name]
    assert [(each.name, each.unit, each.phase, each.kind, each.aggregation) for each in events] == [
        ("gpu_memory_total", "GiB", None, None, None),
        ("gpu_memory_total", "GiB", None, None, None),
        ("memory_before_training", "GiB", "after_init", "reserved", "last"),
        ("peak_memory", "GiB", "step", "reserved", "peak"),
    ]


def test_a_gpu_without_a_name_has_none_and_round_parameters_are_a_guess() -> None:
    events = read(fixture("unknown_gpu.txt"))
    assert facts(events, "gpu", "gpu_memory_total") == [("gpu_memory_total", 191.688, 2)]
    whole = next(each for each in events if isinstance(each, Observation) and each.name == "total_parameters")
    assert (whole.value, whole.certain) == (1e9, False)


def test_lines_of_others_tell_nothing() -> None:
    assert read(fixture("foreign.txt")) == []
