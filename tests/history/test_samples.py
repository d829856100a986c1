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
from touchline.core.quantity import Missing
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
    assert verdicts(
        tmp_path,
        {
            "total_examples": 640,
            "steps_total": 81,
            "peak_memory": 3.5,
            "last_loss": None,
            "tokens_per_second": None,
            "outcome": "timeout",
        },
    ) == {
        "total_examples": "right",
        "steps_total": "wrong",
        "peak_memory": "missing",
        "last_loss": "invented",
        "tokens_per_second": "absent",
        "outcome": "wrong",
    }


def test_a_truth_may_be_several_values_a_wide_one_or_nothing(tmp_path: Path) -> None:
    assert verdicts(
        tmp_path,
        {
            "global_batch_size": {"any_of": [8, 16]},
            "gpus": {"any_of": [2, 3]},
            "train_seconds": {"value": 38, "tolerance": 0.1},
            "mean_train_loss": {"refused_or": 2.0},
            "peak_memory": {"refused_or": 5.0},
            "trainable_parameters": {"any_of": [7, None]},
        },
    ) == {
        "global_batch_size": "right",
        "gpus": "wrong",
        "train_seconds": "right",
        "mean_train_loss": "right",
        "peak_memory": "absent",
        "trainable_parameters": "absent",
    }


def test_a_log_that_is_refused_misses_what_it_shows_and_invents_nothing(tmp_path: Path) -> None:
    (tmp_path / "dawn.log").write_text("")
    result = score(write_index(tmp_path, {"steps_total": 80, "gpus": None}), tmp_path)
    assert {each.field: each.verdict for each in result.judged} == {"steps_total": "missing", "gpus": "absent"}
    assert result.runs == {"dawn.log": 0}


def test_an_invented_number_weighs_as_three_misses() -> None:
    reading = make_reading(epochs=number(3), gpus=number(2))
    judged = [judge("dawn.log", Expected(field=field, accept=(truth,)), reading)
              for field, truth in (("epochs", 3.0), ("gpus", None))]  # fmt: skip
    result = score_logs.Score(judged=tuple(judged), runs={"dawn.log": 1}, unmapped={})
    assert result.share == pytest.approx(1 / 4)
    assert "1 invented" in table(result)


def test_models_are_the_same_when_one_name_holds_the_other() -> None:
    for ours, truth, verdict in [
        ("meta-llama/Llama-2-7b-hf", "LLaMA-2-7B", "right"),
        ("Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct", "right"),
        ("Qwen2.5-7B-Instruct", "Qwen2.5-3B-Instruct", "wrong"),
        ("/", "Qwen2.5-3B-Instruct", "wrong"),
    ]:
        reading = make_reading(model=SourcedText(value=ours))
        assert judge("dawn.log", Expected(field="model", accept=(truth,)), reading).verdict == verdict, ours


def test_a_number_is_right_within_one_per_cent() -> None:
    for value, verdict in [(100.9, "right"), (101.1, "wrong"), (float("nan"), "wrong")]:
        expected = Expected(field="train_seconds", accept=(100.0,))
        assert judge("dawn.log", expected, make_reading(train_seconds=number(value, "s"))).verdict == verdict, value


def test_a_loss_of_nought_is_right_only_when_it_is_nought() -> None:
    expected = Expected(field="last_loss", accept=(0.0,))
    assert judge("dawn.log", expected, make_reading(last_loss=number(0.0))).verdict == "right"
    assert judge("dawn.log", expected, make_reading(last_loss=number(0.004))).verdict == "wrong"


def test_outcomes_are_compared_as_they_stand() -> None:
    reading = make_reading(outcome=SourcedText(value="completed"))
    right = judge("dawn.log", Expected(field="outcome", accept=("completed",)), reading)
    near = judge("dawn.log", Expected(field="outcome", accept=("completed after resume",)), reading)
    result = score_logs.Score(judged=(right, near), runs={"dawn.log": 1}, unmapped={})
    assert result.wrong_outcomes == (near,)


def test_the_keys_of_an_index_become_our_fields_and_the_rest_is_listed(tmp_path: Path) -> None:
    index = tmp_path / "INDEX.jsonl"
    row = {
        "case": "dawn.log",
        "trainer": "TRL/HF Trainer",
        "kind": "log",
        "truth": {
            "model": "SmolLM2-360M (my own copy)",
            "ga": "4",
            "steps": 80,
            "outcome": "completed",
            "tide": "high",
        },
    }
    other = {"case": "dawn.yaml", "trainer": "HF Trainer", "kind": "config", "truth": {"ga": 4}}
    index.write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    (case,) = cases(index)
    assert {each.field: each.accept for each in case.expected} == {
        "model": ("SmolLM2-360M",),
        "gradient_accumulation_steps": (4.0,),
        "steps_total": (80.0,),
        "steps_done": (80.0,),
        "outcome": ("completed",),
        "trainer": ("TRL/HF Trainer",),
    }
    assert case.unmapped == ("tide: NOT KNOWN TO THE TABLE",)


def test_the_command_fails_when_something_is_not_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dawn.log").write_text(LOG)
    assert score_logs.main([str(write_index(tmp_path, {"total_examples": 640})), str(tmp_path)]) == 0
    assert "100.0% right" in capsys.readouterr().out
    assert score_logs.main([str(write_index(tmp_path, {"total_examples": None})), str(tmp_path)]) == 1
    assert "dawn.log:2" in capsys.readouterr().out


def test_a_truth_of_no_field_is_a_mistake_of_the_list(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="tide is no field"):
        cases(write_index(tmp_path, {"tide": 3}))


def test_nothing_is_ever_both_said_and_missing() -> None:
    reading = make_reading(epochs=Missing(missing="no line says it"))
    judged = judge("dawn.log", Expected(field="epochs", accept=(3.0,)), reading)
    assert (judged.verdict, judged.ours) == ("missing", "no line says it")
