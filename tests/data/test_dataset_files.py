"""Datasets: the same rows in any format are the same dataset, and every fault comes at once, with its line."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cases import some
from tests.tiers import examples

from touchline.core.catalog import DatasetInfo, Message
from touchline.core.errors import HostError, InputError, PlanDriftError, install_hint
from touchline.core.finding import Finding, Severity
from touchline.data import datasets, readers
from touchline.data.datasets import cluster_faults, load_clusters, load_dataset, load_examples, load_rows
from touchline.experiment.experiment import DataConfig

pytestmark = pytest.mark.planning

ENDINGS = ["json", "jsonl", "csv", *(["parquet"] if importlib.util.find_spec("pyarrow") else [])]
Rows = Sequence[dict[str, object]]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: bool(text.strip())
)


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"input": f"w{number}", "output": f"W{number}"} for number in range(start, start + count)]


def splits(train: int = 8, validation: int = 2, test: int = 4) -> dict[str, list[dict[str, object]]]:
    return {"train": rows(train), "validation": rows(validation, 1000), "test": rows(test, 2000)}


def write_json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def write_jsonl(path: Path, data: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    return path


def write_csv(path: Path, data: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(data[0]))
        writer.writeheader()
        writer.writerows(data)
    return path


def load(path: Path, **settings: object) -> DatasetInfo:
    return load_dataset(DataConfig(path=str(path), **settings), Path())  # type: ignore[arg-type]


def errors(info: DatasetInfo) -> list[Finding]:
    return [finding for finding in info.findings if finding.severity is Severity.ERROR]


def all_errors(path: Path, **settings: object) -> list[Finding]:
    """The errors of a file, whether it can be read or not; any other exception is a failure."""
    try:
        return errors(load(path, **settings))
    except InputError as fault:
        return list(fault.findings)


def unreadable(path: Path, **settings: object) -> Finding:
    """The one finding of a file that cannot be read."""
    with pytest.raises(InputError) as caught:
        load(path, **settings)
    (finding,) = caught.value.findings
    return finding


def test_the_splits_of_a_file_are_read_as_they_are(tmp_path: Path) -> None:
    """Names, sizes, order, and what the file says of itself."""
    path = write_json(tmp_path / "d.json", {"about": {"licence": "MIT"}, **dict(reversed(splits().items()))})
    info = load(path)
    assert info.findings == ()
    assert [(split.name, split.num_examples) for split in info.splits] == [("train", 8), ("validation", 2), ("test", 4)]
    assert (info.format, info.split_origin, info.about) == ("json", "in the file", {"licence": "MIT"})
    assert info.size_bytes == path.stat().st_size
    examples = load_examples(DataConfig(path="d.json", prompt="Say {input}!", system="Be brief."), "test", tmp_path)
    assert examples[1].prompt == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Say w2001!"),
    )
    assert (examples[1].id, examples[1].answer) == ("test-1", "W2001")


def test_val_is_validation_and_may_be_absent(tmp_path: Path) -> None:
    """Both names are common; a dataset without it has no rows there."""
    data = splits()
    data["val"] = data.pop("validation")
    assert [split.name for split in load(write_json(tmp_path / "a.json", data)).splits] == [
        "train",
        "validation",
        "test",
    ]
    del data["val"]
    path = write_json(tmp_path / "b.json", data)
    assert load(path).findings == ()
    assert load_examples(DataConfig(path=str(path)), "validation", Path()) == ()


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT, min_size=5, max_size=30, unique=True), st.integers(0, 99))
def test_the_same_rows_give_the_same_splits_in_every_format(tmp_path: Path, words: list[str], seed: int) -> None:
    """JSON, JSONL and CSV differ in bytes and in nothing else."""
    data = [{"input": word, "output": word + "!"} for word in words]
    files = [
        write_json(tmp_path / "d.json", data),
        write_jsonl(tmp_path / "d.jsonl", data),
        write_csv(tmp_path / "d.csv", data),
    ]
    found = [load(path, split_seed=seed, train_fraction=0.5) for path in files]
    assert [info.findings for info in found] == [(), (), ()]
    assert found[0].splits == found[1].splits == found[2].splits
    assert found[0].split_origin == found[1].split_origin == found[2].split_origin
    examples = [load_examples(DataConfig(path=str(path), split_seed=seed), "train", Path()) for path in files]
    assert examples[0] == examples[1] == examples[2]


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(3, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_seeded_splits_hold_every_row_once(tmp_path: Path, count: int, fraction: float, seed: int) -> None:
    """No row is lost, none is in two splits, and the same seed gives the same splits."""
    path = write_json(tmp_path / "d.json", rows(count))
    data = DataConfig(path=str(path), train_fraction=fraction, split_seed=seed)
    info = load_dataset(data, Path())
    if errors(info):
        assert {finding.code for finding in errors(info)} == {"DA104"}
        return
    answers = [e.answer for split in info.splits for e in load_examples(data, split.name, Path())]
    assert sorted(answers) == sorted(f"W{number}" for number in range(count))
    assert all(split.num_examples > 0 for split in info.splits)


def test_another_seed_gives_other_splits(tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.json", rows(50))
    assert load(path, split_seed=1).splits != load(path, split_seed=2).splits


def test_split_hashes_depend_on_rows_and_their_order_and_not_on_spacing(tmp_path: Path) -> None:
    """Reformatting a file is no drift of its rows; the file's own hash changes all the same."""
    first = load(write_json(tmp_path / "a.json", splits()))
    (tmp_path / "b.json").write_text(json.dumps(splits(), indent=3, sort_keys=True))
    second = load(tmp_path / "b.json")
    assert first.splits == second.splits
    assert first.sha256 != second.sha256
    data = splits()
    data["train"].reverse()
    assert load(write_json(tmp_path / "c.json", data)).splits[0].sha256 != first.splits[0].sha256


def test_a_file_that_was_rewritten_is_read_again(tmp_path: Path) -> None:
    """Even with the same size and the same modification time: what was read before is not trusted."""
    path = write_json(tmp_path / "d.json", splits())
    first = load(path)
    stamp = path.stat()
    path.write_text(path.read_text().replace("w1000", "w1009"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load(path).sha256 != first.sha256


def test_a_file_is_read_once_for_many_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a thousand runs asks a thousand times."""
    path = write_json(tmp_path / "d.json", splits())
    calls: list[Path] = []
    real = readers.read_rows
    monkeypatch.setattr("touchline.data.datasets.read_rows", lambda p: calls.append(p) or real(p))
    for _ in range(50):
        load(path)
        load_examples(DataConfig(path=str(path)), "train", Path())
    assert len(calls) == 1


def test_a_missing_file_names_near_ones(tmp_path: Path) -> None:
    write_json(tmp_path / "words.json", splits())
    finding = unreadable(tmp_path / "wrods.json")
    assert (finding.code, finding.subject) == ("DA101", "data.path")
    assert "words.json" in str(finding.hint)
    assert unreadable(tmp_path / "no" / "folder" / "x.json").hint is None


def test_a_missing_generated_file_comes_with_its_command(tmp_path: Path) -> None:
    """Copied to a shell, it makes the very file that is missing, in a folder of any name."""
    import shlex

    folder = tmp_path / "it's $HOME"
    hint = str(unreadable(folder / "words_8L_80P_2000.json").hint)
    assert shlex.split(hint) == [
        *("touchline", "data", "create", "capitalization", "--word-length", "8", "--num-words", "2000"),
        *("--train-fraction", "0.8", "--out-dir", str(folder)),
    ]
    assert "--train-fraction 0.825 " in str(unreadable(folder / "words_8L_82.5P_2000.json").hint)


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x.json", "x" * 5000, "a\0b.json", "a\nb.json"])
def test_a_senseless_path_is_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(path=name), tmp_path)
    assert [finding.code for finding in caught.value.findings] == ["DA101"]


def test_a_folder_is_no_dataset(tmp_path: Path) -> None:
    """It is there, so it is not called missing."""
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)


def test_links_that_go_round_are_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "b.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert unreadable(tmp_path / "a.json").code == "DA101"


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"", 1), (b'{"train": [\n\n', 3), (b"\xff\xfe", None), (b"[" * 200_000, 1), (b"7", None), (b'"x"', None)],
)
def test_what_is_no_json_is_told_with_its_line(tmp_path: Path, content: bytes, line: int | None) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(content)
    finding = unreadable(path)
    assert finding.code == "DA102"
    assert finding.where is not None
    assert finding.where.line == line


def test_jsonl_called_json_is_told_to_be_renamed(tmp_path: Path) -> None:
    assert ".jsonl" in str(unreadable(write_jsonl(tmp_path / "d.json", rows(9))).hint)


def test_an_unknown_ending_is_told_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "d.xlsx"
    path.write_text("")
    assert ".parquet" in unreadable(path).message


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    """A sparse file: reading it would fill the memory."""
    path = tmp_path / "d.json"
    with path.open("wb") as stream:
        stream.truncate(readers.SIZE_LIMIT_BYTES + 1)
    finding = unreadable(path)
    assert finding.code == "DA102"
    assert "1,073,741,825" in finding.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_matter_of_the_machine(tmp_path: Path) -> None:
    """Exit code 4, and the command that shows why."""
    path = write_json(tmp_path / "d.json", splits())
    path.chmod(0)
    with pytest.raises(HostError):
        load(path)


def test_all_faults_of_a_jsonl_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [json.dumps(row).encode() for row in rows(10)]
    lines[2:2] = [
        b"{",
        b"[1]",
        b"\xff",
        b"",
        b'{"input": "a"}',
        b'{"input": "b", "output": " "}',
        b'{"input": null, "output": "c"}',
    ]
    path.write_bytes(b"\n".join(lines))
    found = [(finding.code, finding.where.line) for finding in errors(load(path)) if finding.where]
    assert sorted(found, key=str) == sorted(
        [("DA102", 3), ("DA103", 4), ("DA102", 5), ("DA102", 5), ("DA105", 7), ("DA105", 8), ("DA105", 9)], key=str
    )


def test_a_million_equal_faults_are_one_finding(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("nonsense\n" * 20_000)
    finding = errors(load(path))[0]
    assert "20,000 times: lines 1, 2, 3, 4, 5, ..." in finding.message
    assert len(errors(load(path))) == 2


@pytest.mark.parametrize("write", [write_json, write_jsonl, write_csv])
def test_a_wrong_column_names_those_that_exist(tmp_path: Path, write: Callable[[Path, Rows], Path]) -> None:
    """Both wrong columns in one finding for all splits, each with its nearest name."""
    ending = {write_json: "json", write_jsonl: "jsonl", write_csv: "csv"}[write]
    data = [{"inputs": f"a{n}", "outptu": f"b{n}"} for n in range(20)]
    (found,) = errors(load(write(tmp_path / f"d.{ending}", data)))
    assert found.code == "DA105"
    assert found.message.startswith("train, validation, test: there is no column 'input'")
    assert "no column 'output' for the answer (20 times: 16 in train, 1 in validation, 3 in test, " in found.message
    assert str(found.hint) == "did you mean 'inputs' and 'outptu'? columns here: inputs, outptu"


def test_columns_may_have_any_name_and_input_is_the_one_that_is_set(tmp_path: Path) -> None:
    """`{input}` means data.input, also where the file has another column called input."""
    data = [{"q": f"ask {n}", "input": "extra", "a": f"b{n}"} for n in range(10)]
    path = write_json(tmp_path / "d.json", data)
    config = DataConfig(path=str(path), input="q", output="a", prompt="{input} / {q}")
    for example in some(load_examples(config, "train", Path())):
        question = example.prompt[0].content.split(" / ")
        assert question[0] == question[1]
        assert question[0].startswith("ask ")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{0} {} {a.b} {input}", "{0} {} {a.b} {x}"),
        ('{"word": "{input}"}', '{"word": "{x}"}'),
        ("{{input}}", "{{x}}"),
        ("{input}{input}", "{x}{x}"),
        ("{odd name} {input}", "y {x}"),
        ("a } b { c {input}", "a } b { c {x}"),
    ],
)
def test_prompts_are_filled_by_plain_replacement(tmp_path: Path, prompt: str, text: str) -> None:
    """No attribute is reached, no format is applied, and what a row holds is not filled again."""
    data = splits()
    data["train"] = [{"input": "{x}", "output": "z", "odd name": "y"}]
    path = write_json(tmp_path / "d.json", data)
    config = DataConfig(path=str(path), prompt=prompt)
    (example,) = load_examples(config, "train", Path())
    assert example.prompt[0].content == text


@pytest.mark.parametrize("prompt", ["{input.__class__}", "{input!r}", "{input:>9}", "{input[0]}", "{input.a\nb}"])
def test_formats_of_python_are_refused_in_prompts(tmp_path: Path, prompt: str) -> None:
    """They would reach into objects, or stand in the prompt as they are; neither is what was meant."""
    found = errors(load(write_json(tmp_path / "d.json", splits()), prompt=prompt))
    assert {finding.code for finding in found} == {"DA105"}


def test_a_misspelt_name_in_the_prompt_is_a_fault(tmp_path: Path) -> None:
    """It would be shown to the model as it stands."""
    found = errors(load(write_json(tmp_path / "d.json", splits()), prompt="Say {inptu}"))
    assert [finding.code for finding in found] == ["DA105"]
    assert found[0].message.startswith("train, validation, test: ")
    assert "did you mean {input}? names in braces" in str(found[0].hint)


def test_a_prompt_that_shows_nothing_or_the_answer_is_a_fault(tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.json", splits())
    assert [finding.code for finding in errors(load(path, prompt="Say it."))] == ["DA108"]
    assert [finding.code for finding in errors(load(path, prompt="{input} is {output}"))] == ["DA108"]


@pytest.mark.parametrize("answer", [None, "", "  \n", True, [], {}, float("nan"), float("inf"), "\ud800"])
def test_an_answer_that_is_no_text_is_a_fault(tmp_path: Path, answer: object) -> None:
    data = splits()
    data["train"][3]["output"] = answer
    found = errors(load(write_json(tmp_path / "d.json", data)))
    assert [finding.code for finding in found] == ["DA105"]
    assert "(row 4)" in found[0].message


def test_numbers_are_text(tmp_path: Path) -> None:
    data = splits()
    data["train"] = [{"input": 6, "output": 42}, {"input": 0.5, "output": -1}]
    examples = load_examples(DataConfig(path=str(write_json(tmp_path / "d.json", data))), "train", Path())
    assert [(example.prompt[0].content, example.answer) for example in examples] == [("6", "42"), ("0.5", "-1")]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"train": []}, ["the split train is empty"]),
        ({"test": []}, ["the split test is empty"]),
        ({"validation": []}, ["the split validation is empty"]),
        ({"train": None}, ["the split train is missing"]),
        ({"trian": []}, ["'trian' is not a split"]),
        ({"Train": []}, ["the split train is given twice"]),
        ({"test": 5}, ["the split test is not a list", "the split test is missing"]),
        ({"test": [5]}, ["test: not an object", "the split test is empty"]),
    ],
)
def test_wrong_splits_are_told(tmp_path: Path, change: dict[str, object], messages: list[str]) -> None:
    data = {key: value for key, value in ({**splits()} | change).items() if value is not None}
    found = errors(load(write_json(tmp_path / "d.json", data)))
    assert len(found) == len(messages)
    assert all(message in finding.message for finding, message in zip(found, messages, strict=True))


@pytest.mark.parametrize("data", [[], {}, [rows(1)[0]], rows(2)])
def test_too_few_rows_are_told(tmp_path: Path, data: object) -> None:
    found = errors(load(write_json(tmp_path / "d.json", data), train_fraction=0.9))
    assert found
    assert {finding.code for finding in found} == {"DA104"}


def test_overlapping_splits_are_counted_and_shown(tmp_path: Path) -> None:
    """By the prompt that the model sees: another answer to a question already seen is no new question."""
    data = splits()
    data["test"] += [
        {"input": "w1", "output": "other"},
        {"input": "w2", "output": "W2"},
        {"input": "w2", "output": "W2"},
    ]
    data["validation"].append({"input": "w2000", "output": "W2000"})
    found = errors(load(write_json(tmp_path / "d.json", data)))
    assert [finding.code for finding in found] == ["DA106", "DA106"]
    assert "2 prompts are both in train and in test, for example 'w1', 'w2'" in found[0].message
    assert "1 prompt is both in validation and in test" in found[1].message


def test_doubled_rows_of_one_file_are_told_when_they_fall_apart(tmp_path: Path) -> None:
    """With another hint: there are no splits of the file's to repair."""
    found = errors(load(write_json(tmp_path / "d.json", rows(30) * 2)))
    assert {finding.code for finding in found} == {"DA106"}
    assert "repeats" in str(found[0].hint)


def test_a_column_of_splits_is_heeded(tmp_path: Path) -> None:
    """One row a line has no other place for it."""
    data = [{**row, "split": name} for name, part in splits().items() for row in part]
    for path in (write_jsonl(tmp_path / "d.jsonl", data), write_csv(tmp_path / "d.csv", data)):
        info = load(path)
        assert info.findings == ()
        assert [(split.name, split.num_examples) for split in info.splits] == [
            ("train", 8),
            ("validation", 2),
            ("test", 4),
        ]
        assert info.split_origin == "in the file"


def test_a_column_of_splits_with_strange_names_is_not_shuffled(tmp_path: Path) -> None:
    """Shuffling anew would put the file's test rows into the training."""
    data = [{**row, "split": name} for name, part in splits().items() for row in part]
    data[3]["split"] = "holdout"
    found = errors(load(write_jsonl(tmp_path / "d.jsonl", data)))
    assert [(finding.code, finding.where.line) for finding in found if finding.where] == [("DA103", 4)]


def test_a_column_that_is_merely_called_split_is_data(tmp_path: Path) -> None:
    data = [{**row, "split": "banana"} for row in rows(20)]
    assert load(write_jsonl(tmp_path / "d.jsonl", data)).split_origin.startswith("random 16/1/3")


def test_csv_cells_may_span_lines_and_be_long(tmp_path: Path) -> None:
    """Lines are still those of the file, and the process-wide limit of the csv module is as before."""
    usual = csv.field_size_limit()
    data = rows(20)
    data[0]["input"] = 'two\nlines, "quoted"'
    data[1]["input"] = "x" * (usual + 1)
    data[2]["output"] = ""
    found = errors(load(write_csv(tmp_path / "d.csv", data)))
    assert [(finding.code, finding.where.line) for finding in found if finding.where] == [("DA105", 5)]
    assert csv.field_size_limit() == usual


def test_csv_faults_are_told_with_their_lines(tmp_path: Path) -> None:
    """Too many cells, too few, an unclosed quote; a doubled column; semicolons instead of commas."""
    path = tmp_path / "d.csv"
    path.write_text("input,output\na,A\nb\nc,C,C\n\nd,D\n" + "".join(f"e{n},E\n" for n in range(20)) + '"f,F\n')
    found = [(finding.code, finding.where.line) for finding in errors(load(path)) if finding.where]
    assert found == [("DA103", 3), ("DA102", 27)]
    path.write_text("input,output,input\n" + "".join(f"{n},A,b{n}\n" for n in range(20)))
    assert [finding.message for finding in errors(load(path))] == ["the column 'input' is given twice"]
    path.write_text("input;output\n" + "".join(f"{n};A\n" for n in range(20)))
    assert "separated by ';'" in str(errors(load(path))[0].hint)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["input", "output"], *([f"a{n}", f"b{n}"] for n in range(20))])
    (tmp_path / "d.csv").write_text(text.getvalue(), encoding="utf-8-sig")
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows(20)), encoding="utf-8-sig")
    (tmp_path / "d.json").write_text(json.dumps(splits()), encoding="utf-8-sig")
    assert [load(tmp_path / f"d.{ending}").findings for ending in ("csv", "jsonl", "json")] == [(), (), ()]


def chat_rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "chat": [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": "first"},
                {"role": "user", "content": "and then?"},
                {"role": "assistant", "content": f"answer {number}"},
            ]
        }
        for number in range(count)
    ]


def test_chats_end_with_the_answer(tmp_path: Path) -> None:
    """Earlier turns are the prompt, and a system turn is put first unless the chat has its own."""
    data = chat_rows(20)
    own = data[0]["chat"]
    assert isinstance(own, list)
    own.insert(0, {"role": "system", "content": "own"})
    path = write_jsonl(tmp_path / "d.jsonl", data)
    config = DataConfig(path=str(path), messages="chat", system="ours")
    examples = [e for name in ("train", "validation", "test") for e in load_examples(config, name, Path())]
    assert len(examples) == 20
    for example in some(examples):
        first = example.answer == "answer 0"
        assert example.prompt[0] == Message(role="system", content="own" if first else "ours")
        assert [message.role for message in example.prompt] == ["system", "user", "assistant", "user"]


def test_chats_may_be_json_in_cells(tmp_path: Path) -> None:
    data = [{"chat": json.dumps(row["chat"])} for row in chat_rows(20)]
    csv_file, jsonl = write_csv(tmp_path / "d.csv", data), write_jsonl(tmp_path / "d.jsonl", chat_rows(20))
    found = [load_examples(DataConfig(path=str(path), messages="chat"), "test", Path()) for path in (csv_file, jsonl)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "chat",
    [
        None,
        5,
        "no json",
        "[" * 100_000,
        [],
        [{"role": "assistant", "content": "alone"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
        [{"role": "user", "content": None}, {"role": "assistant", "content": "b"}],
        [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": ["user"], "content": "a"}, {"role": "assistant", "content": "b"}],
        ["a", "b"],
    ],
)
def test_a_broken_chat_is_told_with_its_line(tmp_path: Path, chat: object) -> None:
    data = chat_rows(20)
    data[7] = {"chat": chat}
    found = errors(load(write_jsonl(tmp_path / "d.jsonl", data), messages="chat"))
    assert [(finding.code, finding.where.line) for finding in found if finding.where] == [("DA105", 8)]


def test_examples_of_a_dataset_with_faults_are_refused(tmp_path: Path) -> None:
    """With all of them: nobody trains on the rest in silence."""
    data = splits()
    data["test"][0]["output"] = ""
    path = write_json(tmp_path / "d.json", data)
    with pytest.raises(InputError) as caught:
        load_examples(DataConfig(path=str(path)), "train", Path())
    assert [finding.code for finding in caught.value.findings] == ["DA105"]


def test_parquet_is_read_as_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows(30)), tmp_path / "d.parquet")
    other = load(write_jsonl(tmp_path / "d.jsonl", rows(30)))
    info = load(tmp_path / "d.parquet")
    assert (info.format, info.splits, info.findings) == ("parquet", other.splits, ())
    parquet.write_table(pyarrow.Table.from_pylist(chat_rows(30)), tmp_path / "c.parquet")
    assert load(tmp_path / "c.parquet", messages="chat").findings == ()
    (tmp_path / "c.parquet").write_bytes((tmp_path / "d.parquet").read_bytes()[:-20])
    assert unreadable(tmp_path / "c.parquet").code == "DA102"


def test_parquet_that_unpacks_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = [{"input": f"{n}" + "x" * 1000, "output": "y"} for n in range(1000)]
    parquet.write_table(
        pyarrow.Table.from_pylist(data), tmp_path / "d.parquet", compression="zstd", use_dictionary=False
    )
    monkeypatch.setattr(readers, "SIZE_LIMIT_BYTES", 500_000)
    assert (tmp_path / "d.parquet").stat().st_size < 500_000
    assert unreadable(tmp_path / "d.parquet").code == "DA102"


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4: the file is fine, the machine lacks something."""
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HostError) as caught:
        load(path)
    assert caught.value.hint == install_hint("parquet")


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ENDINGS), st.binary(max_size=200))
def test_any_bytes_are_a_dataset_or_an_input_fault(tmp_path: Path, ending: str, content: bytes) -> None:
    """No other exception, no matter what a file holds."""
    path = tmp_path / f"d.{ending}"
    path.write_bytes(content)
    assert all_errors(path)


ROW = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["input", "output", "role", "content", "split", "train"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ROW, max_size=6) | st.dictionaries(st.sampled_from(["train", "test", "val", "about", "x"]), ROW),
    st.booleans(),
)
def test_any_json_is_a_dataset_or_an_input_fault(tmp_path: Path, data: object, chats: bool) -> None:
    path = write_json(tmp_path / "d.json", data)
    found = all_errors(path, messages="input" if chats else None)
    assert found == [] or all(finding.where is not None for finding in found)


def test_a_value_that_cannot_be_used_is_named_with_what_makes_it_usable(tmp_path: Path) -> None:
    """Answers that are no text, turns of tools, files of spreadsheets, packed files, other layouts of JSON."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    calls = [turns[0], {"role": "assistant", "content": None, "tool_calls": [{}]}, turns[1]]
    cells = "text;label\n" + "".join(f"one, two {number};yes\n" for number in range(9))
    excel = "text,label\n" + "".join(f"café {number},yes\n" for number in range(9))

    def each(value: object) -> str:
        return "".join(json.dumps({"input": f"w{number}", "output": value}) + "\n" for number in range(9))

    def chats(value: object) -> str:
        return "".join(json.dumps({"chat": value}) + "\n" for _ in range(9))

    for name, content, message, hint in (
        ("bool.jsonl", each(True), "is true or false", "as words"),
        ("null.jsonl", each(None), "is empty", "remove these rows"),
        ("blank.jsonl", each(" "), "is empty", "remove these rows"),
        ("list.jsonl", each(["x"]), "is a list", "one text per row"),
        ("nested.jsonl", each({"label": "x"}), "is an object", "each field as a column"),
        ("calls.jsonl", chats(calls), "calls a tool", "remove these chats"),
        (
            "tools.jsonl",
            chats([turns[0], {"role": "tool", "content": "4"}, turns[1]]),
            "'tool'",
            "remove these chats",
        ),
        ("rows.jsonl", json.dumps(rows(9)), "not an object", "rename the file to .json if"),
        ("cells.csv", cells, "than the 1 column of", "separated by ';'"),
        ("excel.csv", excel.encode("cp1252"), "not UTF-8", "save it as UTF-8"),
        ("utf16.csv", excel.encode("utf-16"), "not UTF-8", "save it as UTF-8"),
        ("excel.json", json.dumps(["é"], ensure_ascii=False).encode("cp1252"), "not UTF-8", "save it as UTF-8"),
        ("data.json", json.dumps({"data": rows(9)}), "'data' is not a split", "as a list of rows"),
        ("columns.json", json.dumps({"text": {"0": "a"}}), "'text' is not a split", "one object per row"),
        ("my rows.csv.gz", b"\x1f\x8b", "unknown ending", "gunzip -k '"),
        ("sheet.xlsx", b"PK", "unknown ending", "save the sheet as CSV"),
        ("tabs.TSV", "a\tb\n", "unknown ending", "CSV with commas"),
    ):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = all_errors(path, messages="chat" if '"chat"' in str(content) else None)
        said = [finding for finding in found if message in finding.message]
        assert said, (name, found)
        assert hint in (said[0].hint or ""), (name, found)
        assert not any("universal-newline" in finding.message for finding in found)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").touch()
    with pytest.raises(InputError, match="is a folder") as caught:
        load(tmp_path / "folder")
    assert "train.csv" in (caught.value.hint or "")


def test_a_prompt_that_shows_the_answer_is_told_where_it_was_said(tmp_path: Path) -> None:
    """Without a prompt of its own the columns are the mistake."""
    path = write_json(tmp_path / "d.json", rows(9))
    for prompt, hint in (("{input} {output}", "remove it from data.prompt"), (None, "name another column")):
        found = all_errors(path, prompt=prompt, input="input" if prompt else "output")
        assert [hint in (finding.hint or "") for finding in found] == [True], found


def test_many_datasets_are_read_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven stages have seven files, and a plan asks for the rows of each a dozen times."""
    configs = []
    for number in range(7):
        made = [{"input": f"{number} {index}", "output": "A"} for index in range(10)]
        (tmp_path / f"{number}.json").write_text(json.dumps({"train": made[:8], "test": made[8:]}))
        configs.append(DataConfig(path=f"{number}.json"))
    read: list[str] = []
    real = datasets.read_rows

    def counting(path: Path) -> readers.RawDataset:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(datasets, "read_rows", counting)
    for _ in range(3):
        for data in configs:
            load_examples(data, "train", tmp_path)
            load_rows(data, "test", tmp_path)
            load_examples(replace(data, prompt="Say {input}"), "test", tmp_path)
    assert sorted(read) == [f"{number}.json" for number in range(7)]
    (tmp_path / "0.json").write_text(json.dumps({"train": [{"input": "x", "output": "B"}], "test": made[8:]}))
    assert load_examples(configs[0], "train", tmp_path)[0].answer == "B"


def test_clusters_come_from_a_column_of_the_test_rows(tmp_path: Path) -> None:
    """A number is a text; an empty cell stands alone; the rows that are trained on need no such column."""
    test = [{**row, "doc": doc} for row, doc in zip(rows(40)[5:9], ["d1", 7, None, " "], strict=True)]
    data = DataConfig(path=str(write_json(tmp_path / "d.json", {"train": rows(40)[:5], "test": test})))
    found = load_examples(data, "test", tmp_path, "doc")
    assert [example.cluster for example in found] == ["d1", "7", None, None]
    assert [replace(example, cluster=None) for example in found] == list(load_examples(data, "test", tmp_path))
    assert {example.cluster for example in load_examples(data, "train", tmp_path, "doc")} == {None}
    assert cluster_faults(data, tmp_path, "doc") == ()
    sha256 = next(split.sha256 for split in load_dataset(data, tmp_path).splits if split.name == "test")
    assert load_clusters(data, tmp_path, "doc", sha256)["test-1"] == "7"
    with pytest.raises(PlanDriftError, match="differs from the planned one"):
        load_clusters(data, tmp_path, "doc", "0" * 64)


def test_a_column_of_clusters_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    """As with every other column; a list is no text."""
    made = [{**row, "docs": ["a"]} for row in rows(40)]
    data = DataConfig(path=str(write_json(tmp_path / "d.json", {"train": made[:5], "test": made[5:9]})))
    (fault,) = cluster_faults(data, tmp_path, "doc")
    assert (fault.code, fault.severity) == ("DA105", Severity.ERROR)
    assert "there is no column 'doc', which evaluate.cluster names (4 times" in fault.message
    assert fault.hint == "did you mean 'docs'? columns here: input, output, docs"
    (fault,) = cluster_faults(data, tmp_path, "template")
    assert str(fault.hint).endswith("(name them in evaluate: {cluster: ...})")
    assert "is not text" in cluster_faults(data, tmp_path, "docs")[0].message
    with pytest.raises(InputError) as caught:
        load_examples(data, "test", tmp_path, "doc")
    assert [finding.code for finding in caught.value.findings] == ["DA105"]
    assert load_examples(data, "test", tmp_path)[0].cluster is None
