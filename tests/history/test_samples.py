"""Foreign logs, where they lie at hand; and the scorer that holds our readings against what is true of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.history.made import make_reading, number

from tools import score_logs
from tools.score_logs import Expected, Verdict, cases, judge, score, table
from touchline.history.reading import SourcedText

pytestmark = pytest.mark.planning

SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")

LOG = """***** Running training *****
  Num examples = 640
  Num Epochs = 2
  Instantaneous batch size per device = 4
  Total train batch size (w. parallel, distributed & accumulation) = 16
  Gradient Accumulation steps = 4
  Total optimization steps = 80
{'loss': 2.25, 'grad_norm': 1.5, 'learning_rate': 0.0001, 'epoch': 1.0}
{'loss': 1.75, 'grad_norm': 1.25, 'learning_rate': 0.0, 'epoch': 2.0}
{'train_runtime': 40.0, 'train_samples_per_second': 32.0, 'train_steps_per_second': 2.0, 'train_loss': 2.0, 'epoch': 2}
"""


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign logs")
def test_foreign_logs_are_read_right() -> None:
    folder = Path(str(SAMPLES))
    result = score(folder / "INDEX.jsonl", folder)
    said = table(result)
    assert result.judged, said
    assert result.count("invented") == 0, said
    assert not result.wrong_outcomes, said
    assert result.share >= 0.97, said


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign logs")
def test_every_key_of_the_index_is_mapped_or_known_to_be_none_of_ours() -> None:
    folder = Path(str(SAMPLES))
    notes = [note for case in cases(folder / "INDEX.jsonl") for note in case.unmapped]
    assert not [note for note in notes if "NOT KNOWN" in note]


def write_index(folder: Path, truth: Mapping[str, object], **more: object) -> Path:
    index = folder / "TRUTH.jsonl"
    index.write_text(json.dumps({"case": "dawn.log", "origin": "ours", "truth": dict(truth)} | more) + "\n")
    return index


def verdicts(folder: Path, truth: Mapping[str, object]) -> dict[str, Verdict]:
    (folder / "dawn.log").write_text(LOG)
    return {each.field: each.verdict for each in score(write_index(folder, truth), folder).judged}


def test_the_scorer_tells_right_wrong_missing_and_invented_apart(tmp_path: Path) -> None:
    """A truth may be one value, several, a wide one, or nothing."""
    truths: dict[str, tuple[object, Verdict]] = {
        "total_examples": (640, "right"),
        "steps_total": (81, "wrong"),
        "peak_memory": (3.5, "missing"),
        "last_loss": (None, "invented"),
        "tokens_per_second": (None, "absent"),
        "outcome": ("timeout", "wrong"),
        "global_batch_size": ({"any_of": [8, 16]}, "right"),
        "gpus": ({"any_of": [2, 3]}, "wrong"),
        "train_seconds": ({"value": 38, "tolerance": 0.1}, "right"),
        "mean_train_loss": ({"refused_or": 2.0}, "right"),
        "checkpoint_size": ({"refused_or": 5.0}, "absent"),
        "trainable_parameters": ({"any_of": [7, None]}, "absent"),
    }
    found = verdicts(tmp_path, {name: truth for name, (truth, _) in truths.items()})
    assert found == {name: verdict for name, (_, verdict) in truths.items()}


def test_a_log_that_is_refused_misses_what_it_shows_and_invents_nothing(tmp_path: Path) -> None:
    (tmp_path / "dawn.log").write_text("")
    result = score(write_index(tmp_path, {"steps_total": 80, "gpus": None}), tmp_path)
    assert {each.field: each.verdict for each in result.judged} == {"steps_total": "missing", "gpus": "absent"}


def test_an_invented_number_weighs_as_three_misses() -> None:
    reading = make_reading(epochs=number(3), gpus=number(2))
    truths = (("epochs", 3.0), ("gpus", None))
    judged = tuple(judge("dawn.log", Expected(field=field, accept=(truth,)), reading) for field, truth in truths)
    assert score_logs.Score(judged=judged, runs={"dawn.log": 1}, unmapped={}).share == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("field", "truth", "ours", "verdict"),
    [
        ("model", "LLaMA-2-7B", "meta-llama/Llama-2-7b-hf", "right"),
        ("model", "Qwen/Qwen2.5-3B-Instruct", "Qwen2.5-3B", "right"),
        ("model", "Qwen2.5-3B-Instruct", "Qwen2.5-7B-Instruct", "wrong"),
        ("outcome", "completed after resume", "completed", "wrong"),
        ("train_seconds", 100.0, 100.9, "right"),
        ("train_seconds", 100.0, 101.1, "wrong"),
        ("train_seconds", 100.0, float("nan"), "wrong"),
        ("last_loss", 0.0, 0.0, "right"),
        ("last_loss", 0.0, 0.004, "wrong"),
    ],
)
def test_what_is_near_enough(field: str, truth: float | str, ours: float | str, verdict: Verdict) -> None:
    """A model's name that holds the other, and a number within one per cent."""
    fact = SourcedText(value=ours) if isinstance(ours, str) else number(ours)
    assert judge("dawn.log", Expected(field=field, accept=(truth,)), make_reading(**{field: fact})).verdict == verdict


def test_the_command_fails_when_something_is_not_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dawn.log").write_text(LOG)
    assert score_logs.main([str(write_index(tmp_path, {"total_examples": 640})), str(tmp_path)]) == 0
    assert score_logs.main([str(write_index(tmp_path, {"total_examples": None})), str(tmp_path)]) == 1
    assert "dawn.log:2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="tide is no field"):
        cases(write_index(tmp_path, {"tide": 3}))
