"""Datasets whose training, validation and test rows are files of their own."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import parametrize

from touchline.core.errors import InputError, PlanDriftError
from touchline.core.finding import Severity
from touchline.data.datasets import data_sha256, load_clusters, load_dataset, load_examples, load_rows
from touchline.experiment.data_config import DataConfig

pytestmark = pytest.mark.planning


def rows(begin: int, end: int) -> list[dict[str, str]]:
    return [{"input": f"word{n}", "output": f"WORD{n}", "topic": f"t{n % 3}"} for n in range(begin, end)]


OWN_SPLITS = {"train": rows(0, 4), "test": rows(4, 8)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "train.json": rows(0, 20),
        "validation.json": rows(20, 25),
        "five.json": rows(25, 35),
        "nine.json": rows(30, 45),
        "overlapping.json": rows(18, 24),
        "empty.json": [],
        "wrong.json": [{"question": "q", "answer": "a"}],
        "own.json": OWN_SPLITS,
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "lines.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows(50, 55)))
    (tmp_path / "cells.csv").write_text("input,output,topic\nA,a,x\nB,b,y\n")
    return tmp_path


def test_each_file_is_a_split_and_formats_may_differ(folder: Path) -> None:
    data = DataConfig(train="train.json", validation="lines.jsonl", test="cells.csv")
    found = load_dataset(data, folder)
    assert {split.name: split.num_examples for split in found.splits} == {"train": 20, "validation": 5, "test": 2}
    assert [file.key for file in found.files] == ["data.train", "data.validation", "data.test"]
    assert [(each.name, each.num_examples) for each in found.test_sets] == [("test", 2)]
    assert found.findings == ()
    assert found.has_own_splits
    assert [example.id for example in load_examples(data, "test", folder)] == ["test-0", "test-1"]
    assert [row["output"] for row in load_rows(data, "test", folder)] == ["a", "b"]


def test_named_test_sets_have_ids_counts_and_hashes_of_their_own(folder: Path) -> None:
    data = DataConfig(train="train.json", test={"5L": "five.json", "9L": "nine.json"})
    found = load_dataset(data, folder)
    first, second = found.test_sets
    assert (first.name, first.num_examples, second.name, second.num_examples) == ("5L", 10, "9L", 15)
    assert first.sha256 != second.sha256
    assert (found.splits[-1].name, found.splits[-1].sha256) == ("test", first.sha256)
    ids = [[example.id for example in load_examples(data, split, folder)] for split in ("test", "test.9L")]
    assert [len(set(each)) for each in ids] == [10, 15]
    assert not set(ids[0]) & set(ids[1])
    assert load_examples(data, "test", folder) == load_examples(data, "test.5L", folder)


@parametrize(
    "test, names",
    ("five.json", ["train", "test"]),
    ({"5L": "five.json"}, ["train", "test 5L"]),
    ({"test": "five.json", "train": "nine.json"}, ["train", "test test", "test train"]),
    ({"5L": "five.json", "test": "nine.json"}, ["train", "test 5L", "test test"]),
)
def test_tables_have_every_set_of_any_name(folder: Path, test: str | dict[str, str], names: list[str]) -> None:
    found = load_dataset(DataConfig(train="train.json", test=test), folder)
    assert [split.name for split in found.named_splits] == names


def test_of_a_file_with_splits_each_key_takes_its_own(folder: Path) -> None:
    found = load_dataset(DataConfig(train="own.json", test={"own": "own.json", "9L": "nine.json"}), folder)
    assert [split.num_examples for split in found.splits] == [4, 4]
    assert "split test of own.json" in found.split_origin
    assert found.findings == ()


@parametrize(
    "files, expected",
    ({"train": "gone.json", "test": "five.json"}, [("DA101", "data.train")]),
    ({"train": "gone.json", "test": {"5L": "five.jsn"}}, [("DA101", "data.train"), ("DA101", "data.test.5L")]),
    ({"train": "train.json", "test": "train.json"}, [("DA104", "the same rows of train.json")]),
    ({"train": "train.json", "test": "sub/../train.json"}, [("DA104", "the same rows of train.json")]),
    ({"train": "train.json"}, [("DA104", "has no test rows")]),
    ({"train": "empty.json", "test": "five.json"}, [("DA104", "data.train: empty.json has no rows")]),
    ({"train": "train.json", "test": {"a": "empty.json"}}, [("DA104", "data.test.a: empty.json has no rows")]),
    (
        {"train": "train.json", "validation": "wrong.json", "test": "five.json"},
        [("DA105", "validation: there is no column 'input'")],
    ),
    (
        {"train": "train.json", "validation": "own.json", "test": "five.json"},
        [("DA104", "own.json has the splits train, test, but not validation")],
    ),
    (
        {"train": "train.json", "test": {"5L": "five.json", "over": "overlapping.json"}},
        [("DA106", "in train (train.json) and in test over (overlapping.json)")],
    ),
    (
        {"train": "train.json", "validation": "overlapping.json", "test": "five.json"},
        [("DA106", "in train (train.json) and in validation (overlapping.json)")],
    ),
    # Test sets may share rows: nothing is learned from them.
    ({"train": "train.json", "test": {"5L": "five.json", "9L": "nine.json"}}, []),
)
def test_problems_name_key_or_file(folder: Path, files: Mapping[str, object], expected: list[tuple[str, str]]) -> None:
    (folder / "sub").mkdir()
    data = DataConfig(**files)
    try:
        findings = load_dataset(data, folder).findings
    except InputError as fault:
        findings = fault.findings
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    assert [finding.code for finding in errors] == [code for code, _ in expected]
    for finding, (_, text) in zip(errors, expected, strict=True):
        assert text in f"{finding.subject} {finding.message}"
        assert finding.hint


@parametrize(
    "keys, text",
    ({"path": "a.json", "train": "b.json"}, "either path"),
    ({"path": "a.json", "test": "b.json"}, "either path"),
    ({}, "one file with all rows"),
    ({"test": "b.json"}, "one file with all rows"),
    ({"train": "a.json", "train_fraction": 0.5}, "no train_fraction"),
    ({"train": "a.json", "split_seed": 3}, "no train_fraction and no split_seed"),
    ({"train": "a.json", "test": {}}, "test sets, named"),
    ({"train": "a.json", "test": {"": "b.json"}}, "test sets, named"),
    ({"train": "a.json", "test": {"a/b": "b.json"}}, "test sets, named"),
    ({"train": "a.json", "test": {"5L": "b.json", "5l": "c.json"}}, "test sets, named"),
    ({"train": "a.json", "test": {"5L": "b.json", "9L": "b.json"}}, "each test file under one name"),
)
def test_keys_that_exclude_each_other_are_refused(keys: Mapping[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DataConfig(**keys)


def test_a_training_needs_no_test_rows(folder: Path) -> None:
    data = DataConfig(train="train.json", validation="validation.json")
    assert len(load_examples(data, "train", folder)) == 20
    assert load_examples(data, "test", folder) == ()


def test_test_files_do_not_belong_to_what_a_training_read(folder: Path) -> None:
    data = DataConfig(train="train.json", validation="validation.json", test={"5L": "five.json"})
    before = data_sha256(data, folder)
    assert before == load_dataset(data, folder).sha256
    (folder / "five.json").write_text(json.dumps(rows(60, 70)))
    assert data_sha256(data, folder) == before
    (folder / "validation.json").write_text(json.dumps(rows(70, 75)))
    assert data_sha256(data, folder) != before


def test_clusters_are_of_one_test_set_and_other_rows_are_refused(folder: Path) -> None:
    data = DataConfig(train="train.json", test={"5L": "five.json", "9L": "nine.json"})
    first, second = load_dataset(data, folder).test_sets
    nine = replace(data, test="nine.json")
    assert len(load_clusters(nine, folder, "topic", second.sha256)) == 15
    with pytest.raises(PlanDriftError, match=r"test split of 'nine\.json'"):
        load_clusters(nine, folder, "topic", first.sha256)


def test_the_cache_tells_orders_of_test_sets_apart(folder: Path) -> None:
    sets = {"5L": "five.json", "9L": "nine.json"}
    for named in (sets, dict(reversed(sets.items()))):
        found = load_dataset(DataConfig(train="train.json", test=named), folder, folder / "cache")
        assert [each.name for each in found.test_sets] == [*named]
        assert load_dataset(DataConfig(train="train.json", test=named), folder, folder / "cache") == found
