"""What a config says of files, held against the files that lie beside it."""

import json
from pathlib import Path

import pytest
from tests.faults.case import base, changed
from tests.faults.harness import check_files

from touchline.core.finding import Finding, Severity
from touchline.lint.local.local_files import row_keys

pytestmark = pytest.mark.planning

ROWS = [{"input": f"word {number}", "output": f"Word {number}"} for number in range(80)]
LIST, SPLITS = json.dumps(ROWS), json.dumps({"train": ROWS, "test": ROWS[:1]})
TUNE = changed(base("torchtune"), "  split: train\n", "  split: train\n  column_map: {input: input, output: output}\n")
AXOLOTL = changed(base("axolotl"), "path: tatsu-lab/alpaca", "path: data/words.jsonl")
LINES = "".join(json.dumps({"instruction": each["input"], "output": each["output"]}) + "\n" for each in ROWS)
REGISTRY = json.dumps({"quotations": {"file_name": "words.json"}})


def _codes(tmp_path: Path, **files: str) -> set[str]:
    found = check_files({name.replace("__", "/").replace("_D_", "."): text for name, text in files.items()}, tmp_path)
    return {each.code for each in _hard(found) if each.code.startswith("BK02")}


def _hard(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.severity is not Severity.INFO]


def test_files_as_the_configs_say_are_left_alone(tmp_path: Path) -> None:
    assert _codes(tmp_path / "1", finetune_D_yaml=TUNE, data__words_D_json=LIST) == set()
    split = changed(TUNE, "  split: train\n", "  field: train\n")
    assert _codes(tmp_path / "2", finetune_D_yaml=split, data__words_D_json=SPLITS) == set()
    assert _codes(tmp_path / "3", a_D_yml=AXOLOTL, data__words_D_jsonl=LINES) == set()
    files = {"data__dataset_info_D_json": REGISTRY, "data__words_D_json": LIST}
    assert _codes(tmp_path / "4", l_D_yaml=base("llamafactory"), **files) == set()


def test_a_config_for_another_machine_says_nothing(tmp_path: Path) -> None:
    assert _codes(tmp_path, finetune_D_yaml=TUNE, a_D_yml=AXOLOTL, l_D_yaml=base("llamafactory")) == set()


def test_a_misspelt_file_is_an_error_with_the_name_that_is_there(tmp_path: Path) -> None:
    found = check_files({"finetune.yaml": changed(TUNE, "words.json", "wrods.json"), "data/words.json": LIST}, tmp_path)
    (told,) = [each for each in found if each.code == "BK023"]
    assert told.severity is Severity.ERROR
    assert told.hint == "did you mean data/words.json?"


def test_field_and_split_are_held_against_the_file(tmp_path: Path) -> None:
    of_list = changed(TUNE, "  split: train\n", "  field: train\n")
    assert _codes(tmp_path / "1", finetune_D_yaml=of_list, data__words_D_json=LIST) == {"BK025"}
    assert _codes(tmp_path / "2", finetune_D_yaml=TUNE, data__words_D_json=SPLITS) == {"BK025"}
    other = changed(of_list, "field: train", "field: training")
    assert _codes(tmp_path / "3", finetune_D_yaml=other, data__words_D_json=SPLITS) == {"BK025"}
    form = changed(TUNE, "source: json", "source: csv")
    assert "BK025" in _codes(tmp_path / "4", finetune_D_yaml=form, data__words_D_json=LIST)


@pytest.mark.parametrize("text", ["", "{", "[", "[1, 2]", '"text"', "{}", '{"a": 1}', "null", "\ufeff[]"])
def test_a_file_of_any_content_is_read_without_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    assert row_keys(path) in (None, ())


@pytest.mark.parametrize(("old", "new"), [("true", "True"), ('"seed": 3', '"seed": 3,')])
def test_json_that_only_yaml_takes_is_no_json(tmp_path: Path, old: str, new: str) -> None:
    arguments = {
        "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
        **{"output_dir": "runs/a", "learning_rate": 2e-4, "per_device_train_batch_size": 4},
        **{"num_train_epochs": 2, "bf16": True, "report_to": ["none"], "seed": 3},
    }
    text = json.dumps(arguments, indent=1)
    assert _hard(check_files({"args.json": text}, tmp_path / "right")) == []
    found = _hard(check_files({"args.json": changed(text, old, new)}, tmp_path / "wrong"))
    assert [each.code for each in found] == ["BK010"]
