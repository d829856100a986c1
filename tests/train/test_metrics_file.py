"""metrics.jsonl is read the same whatever a kill has done to it."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiers import examples

from touchline.data.metrics_file import read_metrics
from touchline.train.attempt import MetricsLog

pytestmark = pytest.mark.planning

GONE = {"missing": "no GPU in use"}


def attempt(number: int, from_step: int, event: str) -> dict[str, object]:
    texts = ("run", "run_digest", "device", "base_dtype", "base_dtype_requested", "base_dtype_reason", "adapter_dtype")
    counts = (
        "steps",
        "threads",
        "micro_batch_size",
        "gradient_accumulation_steps",
        "global_batch_size",
        "label_tokens",
    )
    return {
        **dict.fromkeys((*texts, "attention", "layout", "layout_reason", "optimizer", "label_text"), "x"),
        **dict.fromkeys((*counts, "trainable_parameters"), 1),
        "event": event,
        "attempt": number,
        "from_step": from_step,
        "time_unix": 0.0,
        "versions": {},
        "device_kind": "cpu",
        "packed_requested": False,
        "isolation": None,
        "gradient_checkpointing": False,
        "setup_seconds": 0.0,
    }


def step(number: int, by: int) -> dict[str, object]:
    floats = ("time_unix", "seconds", "elapsed_seconds", "loss", "learning_rate", "grad_norm", "cpu_percent")
    counts = ("epoch", "examples", "micro_batches", "real_tokens", "padded_tokens", "target_tokens")
    return {
        **dict.fromkeys(floats, 0.5),
        **dict.fromkeys(counts, 1),
        **dict.fromkeys(("peak_memory", "peak_memory_reserved", "gpu_percent", "load_1min"), GONE),
        "event": "step",
        "step": number,
        "attempt": by,
    }


def lines_of(attempts: list[tuple[int, int]]) -> list[bytes]:
    """Each attempt: (steps that it goes back, steps that it does)."""
    lines: list[bytes] = []
    done = 0
    for number, (back, count) in enumerate(attempts, start=1):
        begin = max(done - back, 0)
        lines.append(json.dumps(attempt(number, begin, "resume" if begin else "start")).encode())
        lines += [json.dumps(step(begin + i, number)).encode() for i in range(1, count + 1)]
        done = begin + count
    return lines


@settings(max_examples=examples(25))
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=6), st.data())
def test_each_step_counts_once_and_by_its_last_attempt(attempts: list[tuple[int, int]], data: st.DataObject) -> None:
    """Steps done twice would count twice in every rate; a torn last line must not hide the rest."""
    lines = lines_of(attempts)
    cut = data.draw(st.integers(0, len(lines[-1]) - 1))
    content = b"\n".join(lines) + b"\n" + lines[-1][:cut]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(content)
        metrics = read_metrics(path)
    numbers = [row.step for row in metrics.steps]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(metrics.attempts) == len(attempts)
    assert len(numbers) + metrics.superseded_steps == sum(count for _, count in attempts)
    assert metrics.torn_lines == (1 if cut else 0)


def test_torn_and_foreign_lines(tmp_path: Path) -> None:
    """A run that never started has nothing, which is not a fault."""
    assert read_metrics(tmp_path / "metrics.jsonl").steps == ()
    path = tmp_path / "other.jsonl"
    path.write_bytes(b'{"event":"step"}\n[]\n\xff\xfe\n{"event":"unknown"}\n\n')
    metrics = read_metrics(path)
    assert (metrics.steps, metrics.torn_lines) == ((), 4)
    # Otherwise the first row of the new attempt would be lost with the torn one.
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines_of([(0, 2), (1, 2)])) + b'\n{"event":"st')
    with MetricsLog(path) as log:
        assert log.attempt == 3
        log.write(read_metrics(path).attempts[0])
    assert len(read_metrics(path).attempts) == 3
