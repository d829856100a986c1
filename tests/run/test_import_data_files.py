"""Training and validation files of other trainers' configs become separate files of one experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from touchline import api
from touchline.backends.imports import Reason
from touchline.experiment.experiment import Experiment
from touchline.experiment.read import read_experiment
from touchline.run.imports.importing import ImportReport

pytestmark = pytest.mark.planning

AXOLOTL = """\
base_model: Tiny-90K
datasets: [{path: train.jsonl, type: alpaca, ds_type: json}]
TESTS
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
sequence_len: 64
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 2
learning_rate: RATE
output_dir: out
"""
LLAMAFACTORY = """\
model_name_or_path: Tiny-90K
stage: sft
do_train: true
finetuning_type: lora
dataset: words
dataset_dir: .
template: qwen
output_dir: out
eval_dataset: EVAL
"""
REGISTRY = {
    "words": {"file_name": "train.json", "columns": {"prompt": "a", "response": "b"}},
    "held_out": {"file_name": "held_out.json", "columns": {"prompt": "a", "response": "b"}},
    "other_columns": {"file_name": "other.json", "columns": {"prompt": "question", "response": "b"}},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset_info.json").write_text(json.dumps(REGISTRY))
    return tmp_path


def imported(configs: dict[str, str]) -> tuple[ImportReport, Experiment]:
    for name, text in configs.items():
        Path(name).write_text(text)
    report = api.import_experiment([Path(name) for name in configs], Path("new/experiment.yaml"))
    return report, read_experiment(Path(report.path).read_text(), report.path).experiment


def axolotl(tests: str, rate: str = "0.0002") -> str:
    return AXOLOTL.replace("TESTS", tests).replace("RATE", rate)


VALIDATION = "test_datasets: [{path: held_out.jsonl, type: alpaca, ds_type: json}]"


@pytest.mark.parametrize(
    ("config", "validation", "left"),
    [
        (axolotl(VALIDATION), "../held_out.jsonl", None),
        (axolotl("test_datasets: [{path: train.jsonl, type: alpaca, ds_type: json}]"), None, "test_datasets.0.path"),
        (axolotl("test_datasets: [{path: held_out.jsonl, type: chat_template}]"), None, "test_datasets.0.path"),
        (axolotl(VALIDATION[:-1] + ", {path: b.jsonl, type: alpaca}]"), "../held_out.jsonl", "test_datasets.1.path"),
        (LLAMAFACTORY.replace("EVAL", "held_out"), "../held_out.json", None),
        (LLAMAFACTORY.replace("EVAL", "other_columns"), None, "eval_dataset"),
    ],
)
def test_a_validation_file_is_carried_over_or_listed(
    here: Path, config: str, validation: str | None, left: str | None
) -> None:
    report, experiment = imported({"config.yaml": config})
    data = experiment.data
    assert data.validation == validation
    assert (data.train is None) == (validation is None)
    # Without test rows nothing is evaluated, and the import says what to add.
    assert (experiment.evaluate.epochs == ()) == (validation is not None)
    assert any("data.test: FILE" in note for note in report.notes) == (validation is not None)
    listed = {each.key for each in report.not_carried if "validation" in each.why and each.reason is not Reason.SAME}
    assert listed == ({left} if left is not None else set())


def test_trainings_with_and_without_a_validation_file_are_one_design(here: Path) -> None:
    report, experiment = imported({"one.yaml": axolotl(VALIDATION), "two.yaml": axolotl("", "0.0004")})
    assert (experiment.data.train, experiment.data.validation) == ("../train.jsonl", "../held_out.jsonl")
    assert experiment.factors == {"train.learning_rate": [0.0002, 0.0004]}
    assert any(note.startswith("two: validated on ../held_out.jsonl") for note in report.notes)


def test_several_training_files_are_levels_together_with_their_validation_files(here: Path) -> None:
    other = axolotl(VALIDATION).replace("train.jsonl", "more.jsonl").replace("held_out.jsonl", "more_held_out.jsonl")
    _, experiment = imported({"one.yaml": axolotl(VALIDATION), "two.yaml": other})
    assert experiment.data.train == "../train.jsonl"
    assert [dict(pair) for pair in experiment.pairs] == [
        {"data.train": "../train.jsonl", "data.validation": "../held_out.jsonl"},
        {"data.train": "../more.jsonl", "data.validation": "../more_held_out.jsonl"},
    ]


def test_a_share_of_held_out_rows_gives_way_to_separate_files(here: Path) -> None:
    report, experiment = imported({"one.yaml": axolotl(VALIDATION), "two.yaml": axolotl("val_set_size: 0.1", "0.0004")})
    assert experiment.data.train == "../train.jsonl"
    assert any(note.startswith("two: trains on all rows, not on a fraction of 0.9") for note in report.notes)
    assert [each.why for each in report.not_carried if each.key == "val_set_size"] == [
        "all rows of the file train: others have separate files"
    ]
    assert not any("differ between the runs" in note and "val_set_size" in note for note in report.notes)
