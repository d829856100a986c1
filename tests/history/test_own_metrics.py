"""touchline's own metrics.jsonl as evidence of a past run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.history.sound import assert_sound

from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.data.metrics_file import read_metrics_file
from touchline.history.own_metrics import own_events

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "peft"


def read(text: str) -> list[Event]:
    """Return all events of a text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_text(text, encoding="utf-8")
        return list(own_events(read_metrics_file(path).rows))


def fixture(name: str) -> str:
    """A fixture's text."""
    return (FIXTURES / name).read_text(encoding="utf-8")


def seen(name: str) -> list[Observation]:
    """The fixture's observations of a name."""
    return [event for event in read(fixture("metrics.jsonl")) if isinstance(event, Observation) and event.name == name]


def test_signs() -> None:
    signs = [event for event in read(fixture("metrics.jsonl")) if isinstance(event, Sign)]
    assert [(sign.kind, sign.step) for sign in signs] == [
        (SignKind.START, None),
        (SignKind.SAVED, 3),
        (SignKind.INTERRUPTED, 4),
        (SignKind.RESUMED, 3),
        (SignKind.SAVED, 6),
        (SignKind.TRAINED, 6),
        (SignKind.DONE, 6),
    ]


def test_losses_and_time_belong_to_steps() -> None:
    losses = seen("loss")
    assert [(event.step, event.value) for event in losses] == [
        (step, 2.5 - 0.25 * step) for step in (1, 2, 3, 4, 4, 5, 6)
    ]
    elapsed = seen("train_seconds")
    assert [(event.step, event.value) for event in elapsed] == [(step, 2.0 * step) for step in (1, 2, 3, 4, 4, 5, 6)]
    assert {(event.aggregation, event.inside) for event in elapsed} == {("sum", ())}


def test_memory_has_the_kind_of_its_row() -> None:
    memory = seen("peak_memory")
    assert {(event.value, event.unit, event.phase, event.kind) for event in memory} == {
        (3.0, "GiB", "step", "allocated"),
        (4.0, "GiB", "step", "reserved"),
    }
    assert sum(event.kind == "reserved" for event in memory) == 4, "a missing figure is none"


def test_validations_and_checkpoints() -> None:
    assert [(event.step, event.value) for event in seen("eval_loss")] == [(3, 1.625), (6, 1.25)]
    assert [event.value for event in seen("eval_seconds")] == [1.5, 1.5]
    assert [event.value for event in seen("save_seconds")] == [0.75, 0.5]
    assert [(event.step, event.value, event.unit) for event in seen("checkpoint_size")] == [(6, 0.5, "GiB")]


def test_a_loss_taken_over_from_another_run_took_no_time() -> None:
    row = json.loads(fixture("metrics.jsonl").splitlines()[5])
    events = read(json.dumps({**row, "step": 0, "seconds": 0.0, "elapsed_seconds": 0.0, "taken_from": "another"}))
    assert [event.name for event in events if isinstance(event, Observation)] == ["eval_loss"]


def test_rates_are_of_an_attempt_and_of_real_tokens() -> None:
    rates = seen("tokens_per_second")
    assert {(event.value, event.token_unit, event.aggregation) for event in rates} == {(350.0, "real", "mean")}
    assert [event.line for event in rates] == [6, 7, 8, 13, 14, 15]
    assert [event.value for event in seen("gpu_utilization_percent")][-1] == 85.0


def test_a_long_run_says_its_rate_before_its_end() -> None:
    lines = fixture("metrics.jsonl").splitlines()
    events = read("\n".join([lines[0], *[lines[1]] * 120]))
    assert [event.line for event in events if isinstance(event, Observation) and event.name == "tokens_per_second"] == [
        51,
        101,
    ]


def test_a_loss_that_is_no_number() -> None:
    row = {**json.loads(fixture("metrics.jsonl").splitlines()[1]), "loss": float("nan")}
    events = read(json.dumps(row))
    assert [event.kind for event in events if isinstance(event, Sign)] == [SignKind.NOT_A_NUMBER]
    assert not any(isinstance(event, Observation) and event.name == "loss" for event in events)


def test_rows_of_other_programs() -> None:
    assert read(fixture("others.jsonl")) == []


@given(st.integers(0, 2**16))
def test_no_cut_raises_or_contradicts(end: int) -> None:
    text = fixture("metrics.jsonl")
    events = read(text[: end % (len(text) + 1)])
    assert events == read(text)[: len(events)]


@given(st.dictionaries(st.sampled_from(["attempt", "time_unix", "step", "steps", "loss", "seconds", "peak_memory",
    "elapsed_seconds", "real_tokens", "size_bytes", "reason", "versions", "run_digest", "layout", "gpu_percent"]),
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just({"value": 1.0}) | st.integers(-5, 5)),
    st.integers(0, 14))  # fmt: skip
def test_any_row(members: dict[str, object], line: int) -> None:
    """A row with any value in any member is read, or skipped as cut off; it never raises."""
    row = json.loads(fixture("metrics.jsonl").splitlines()[line])
    assert_sound(read(json.dumps({**row, **members})), 1)
