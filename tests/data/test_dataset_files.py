"""Datasets: the same rows in any format are the same dataset, and every fault comes at once, with its line."""

import csv
import importlib.util
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cases import parametrize, refusal, some
from tests.tiers import examples

from touchline.core.catalog import DatasetInfo, Message
from touchline.core.errors import HostError, InputError, PlanDriftError, install_hint
from touchline.core.finding import Finding, Severity
from touchline.data import datasets, readers
from touchline.data.datasets import cluster_faults, load_clusters, load_dataset, load_examples, load_rows
from touchline.experiment.data_config import DataConfig

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


def text_of(ending: str, data: Any) -> str:
    """Data as a file of that ending has it."""
    if ending == ".json":
        return json.dumps(data)
    if ending == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in data)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(data[0]))
    writer.writeheader()
    writer.writerows(data)
    return stream.getvalue()


def write(path: Path, data: object) -> Path:
    """A file as its ending says, or of these very bytes or words."""
    text = data if isinstance(data, bytes | str) else text_of(path.suffix, data)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(path: Path, **settings: object) -> DatasetInfo:
    return load_dataset(DataConfig(path=str(path), **settings), Path())


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
    (finding,) = refusal(load, path, **settings).findings
    return finding


def test_the_splits_of_a_file_are_read_as_they_are(tmp_path: Path) -> None:
    """Names, sizes, order, and what the file says of itself."""
    path = write(tmp_path / "d.json", {"about": {"licence": "MIT"}, **dict(reversed(splits().items()))})
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
    assert [split.name for split in load(write(tmp_path / "a.json", data)).splits] == ["train", "validation", "test"]
    del data["val"]
    path = write(tmp_path / "b.json", data)
    assert load(path).findings == ()
    assert load_examples(DataConfig(path=str(path)), "validation", Path()) == ()


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT, min_size=5, max_size=30, unique=True), st.integers(0, 99))
def test_the_same_rows_give_the_same_splits_in_every_format(tmp_path: Path, words: list[str], seed: int) -> None:
    """JSON, JSONL and CSV differ in bytes and in nothing else."""
    data = [{"input": word, "output": word + "!"} for word in words]
    files = [write(tmp_path / "d.json", data), write(tmp_path / "d.jsonl", data), write(tmp_path / "d.csv", data)]
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
    data = DataConfig(path=str(write(tmp_path / "d.json", rows(count))), train_fraction=fraction, split_seed=seed)
    info = load_dataset(data, Path())
    if errors(info):
        assert {finding.code for finding in errors(info)} == {"DA104"}
        return
    answers = [e.answer for split in info.splits for e in load_examples(data, split.name, Path())]
    assert sorted(answers) == sorted(f"W{number}" for number in range(count))
    assert all(split.num_examples > 0 for split in info.splits)


def test_another_seed_gives_other_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", rows(50))
    assert load(path, split_seed=1).splits != load(path, split_seed=2).splits


def test_split_hashes_depend_on_rows_and_their_order_and_not_on_spacing(tmp_path: Path) -> None:
    """Reformatting a file is no drift of its rows; the file's own hash changes all the same."""
    first = load(write(tmp_path / "a.json", splits()))
    (tmp_path / "b.json").write_text(json.dumps(splits(), indent=3, sort_keys=True))
    second = load(tmp_path / "b.json")
    assert first.splits == second.splits
    assert first.sha256 != second.sha256
    data = splits()
    data["train"].reverse()
    assert load(write(tmp_path / "c.json", data)).splits[0].sha256 != first.splits[0].sha256


def test_a_file_that_was_rewritten_is_read_again(tmp_path: Path) -> None:
    """Even with the same size and the same modification time: what was read before is not trusted."""
    path = write(tmp_path / "d.json", splits())
    first = load(path)
    stamp = path.stat()
    path.write_text(path.read_text().replace("w1000", "w1009"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load(path).sha256 != first.sha256


def test_a_file_is_read_once_for_many_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a thousand runs asks a thousand times."""
    path = write(tmp_path / "d.json", splits())
    calls: list[Path] = []
    real = readers.read_rows
    monkeypatch.setattr("touchline.data.datasets.read_rows", lambda p: calls.append(p) or real(p))
    for _ in range(50):
        load(path)
        load_examples(DataConfig(path=str(path)), "train", Path())
    assert len(calls) == 1


def test_a_missing_file_names_near_ones(tmp_path: Path) -> None:
    write(tmp_path / "words.json", splits())
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
    assert [finding.code for finding in refusal(load_dataset, DataConfig(path=name), tmp_path).findings] == ["DA101"]


def chat_rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "chat": turns(
                ("user", f"question {n}"), ("assistant", "first"), ("user", "and then?"), ("assistant", f"answer {n}")
            )
        }
        for n in range(count)
    ]


def with_chat(chat: object) -> list[dict[str, object]]:
    return [{"chat": chat} if n == 7 else row for n, row in enumerate(chat_rows(20))]


Fault = tuple[str, int | None, str, str]
"""Its code, its line (0: wherever), and what is in its message and in its hint; "" asks for nothing."""


def changed(split: str, row: int, **cells: object) -> dict[str, list[dict[str, object]]]:
    data = splits()
    data[split][row] |= cells
    return data


def turns(*said: tuple[object, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in said]


def each(value: object) -> str:
    return text_of(".jsonl", [{"input": f"w{number}", "output": value} for number in range(9)])


def chats(value: object) -> str:
    return text_of(".jsonl", [{"chat": value}] * 9)


A, B = ("user", "a"), ("assistant", "b")
CALLS = [*turns(A), {"role": "assistant", "content": None, "tool_calls": [{}]}, *turns(B)]
CHAT: dict[str, object] = {"messages": "chat"}
OVERLAPS = [{"input": name, "output": said} for name, said in (("w1", "other"), ("w2", "W2"), ("w2", "W2"))]
LINES = [*(json.dumps(row).encode() for row in rows(2)), b"{", b"[1]", b"\xff", b"", b'{"input": "a"}']
LINES += [b'{"input": "b", "output": " "}', b'{"input": null, "output": "c"}']
LINES += [json.dumps(row).encode() for row in rows(8, 2)]
WRONG = [{"inputs": f"a{n}", "outptu": f"b{n}"} for n in range(20)]
SPLIT = [{**row, "split": name} for name, part in splits().items() for row in part]
SPLIT[3]["split"] = "holdout"
MORE = "".join(f"e{n},E\n" for n in range(20))
CELLS = "text;label\n" + "".join(f"one, two {number};yes\n" for number in range(9))
EXCEL = "text,label\n" + "".join(f"café {number},yes\n" for number in range(9))
FEW = [("DA104", 0, "", "")]
UTF8 = (("", 0, "not UTF-8", "save it as UTF-8"),)
# fmt: off
FAULTS: list[tuple[str, object, dict[str, object], Sequence[Fault]]] = [
    # what is no JSON, with its line
    *[("d.json", content, {}, [("DA102", line, "", "")]) for content, line in (
        (b"", 1), (b'{"train": [\n\n', 3), (b"\xff\xfe", None), (b"[" * 200_000, 1), (b"7", None), (b'"x"', None))],
    ("d.json", text_of(".jsonl", rows(9)), {}, [("", 0, "", ".jsonl")]),
    ("d.xlsx", b"", {}, [("", 0, ".parquet", "")]),
    # all faults of a file at once with their lines, and a million equal ones as one
    ("d.jsonl", b"\n".join(LINES), {}, [("DA102", 3, "", ""), ("DA102", 5, "", ""), ("DA102", 5, "", ""),
        ("DA103", 4, "", ""), ("DA105", 7, "", ""), ("DA105", 8, "", ""), ("DA105", 9, "", "")]),
    ("d.jsonl", "nonsense\n" * 20_000, {},
     [("DA102", 0, "20,000 times: lines 1, 2, 3, 4, 5, ...", ""), ("", 0, "", "")]),
    # both wrong columns in one finding for all splits, each with its nearest name
    *[(f"d{ending}", text_of(ending, WRONG), {}, [(
        "DA105", 0, "no column 'output' for the answer (20 times: 16 in train, 1 in validation, 3 in test, ",
        "did you mean 'inputs' and 'outptu'? columns here: 'inputs', 'outptu'")])
      for ending in (".json", ".jsonl", ".csv")],
    ("d.json", WRONG, {}, [("DA105", 0, "train, validation, test: there is no column 'input'", "")]),
    # formats of Python in a prompt would reach into objects, or stand in it as they are; a misspelt name too
    *[("d.json", splits(), {"prompt": prompt}, [("DA105", 0, "", "")]) for prompt in (
        "{input.__class__}", "{input!r}", "{input:>9}", "{input[0]}", "{input.a\nb}")],
    ("d.json", splits(), {"prompt": "Say {inptu}"},
     [("DA105", 0, "train, validation, test: ", "did you mean {input}? names in braces")]),
    # a prompt that shows nothing, or the answer
    ("d.json", splits(), {"prompt": "Say it."}, [("DA108", 0, "", "")]),
    ("d.json", splits(), {"prompt": "{input} is {output}"}, [("DA108", 0, "", "")]),
    # an answer that is no text
    *[("d.json", changed("train", 3, output=answer), {}, [("DA105", 0, "(row 4)", "")]) for answer in (
        None, "", "  \n", True, [], {}, float("nan"), float("inf"), "\ud800")],
    # wrong splits
    ("d.json", splits() | {"train": []}, {}, [("", 0, "the split train is empty", "")]),
    ("d.json", splits() | {"test": []}, {}, [("", 0, "the split test is empty", "")]),
    ("d.json", splits() | {"validation": []}, {}, [("", 0, "the split validation is empty", "")]),
    ("d.json", {"validation": rows(2), "test": rows(4, 9)}, {}, [("", 0, "the split train is missing", "")]),
    ("d.json", splits() | {"trian": []}, {}, [("", 0, "'trian' is not a split", "")]),
    ("d.json", splits() | {"Train": []}, {}, [("", 0, "the split train is given twice", "")]),
    ("d.json", splits() | {"test": 5}, {},
     [("", 0, "the split test is not a list", ""), ("", 0, "the split test is missing", "")]),
    ("d.json", splits() | {"test": [5]}, {},
     [("", 0, "test: not an object", ""), ("", 0, "the split test is empty", "")]),
    # too few rows
    ("d.json", [], {"train_fraction": 0.9}, FEW),
    ("d.json", {}, {"train_fraction": 0.9}, FEW * 2),
    ("d.json", rows(1), {"train_fraction": 0.9}, FEW),
    ("d.json", rows(2), {"train_fraction": 0.9}, FEW),
    # by the prompt that the model sees: another answer to a question already seen is no new question
    ("d.json", {"train": rows(8), "validation": [*rows(2, 1000), *rows(1, 2000)], "test": rows(4, 2000) + OVERLAPS}, {},
     [("DA106", 0, "2 prompts are both in train and in test, for example 'w1', 'w2'", ""),
      ("DA106", 0, "1 prompt is both in validation and in test", "")]),
    # shuffling anew would put the file's test rows into the training
    ("d.jsonl", SPLIT, {}, [("DA103", 4, "", "")]),
    # CSV: too many cells, too few, an unclosed quote; a doubled column; semicolons instead of commas
    ("d.csv", f'input,output\na,A\nb\nc,C,C\n\nd,D\n{MORE}"f,F\n', {}, [("DA102", 27, "", ""), ("DA103", 3, "", "")]),
    ("d.csv", "input,output,input\n" + "".join(f"{n},A,b{n}\n" for n in range(20)), {},
     [("", 0, "the column 'input' is given twice", "")]),
    # broken chats
    *[("d.jsonl", with_chat(chat), CHAT, [("DA105", 8, "", "")]) for chat in (
        None, 5, "no json", "[" * 100_000, [], turns(("assistant", "alone")), turns(A, ("user", "b")),
        turns(A, ("assistant", " ")), turns(("user", None), B), turns(("tool", "a"), B), turns((["user"], "a"), B),
        ["a", "b"])],
]
USABLE: list[tuple[str, object, Sequence[Fault]]] = [
    # what makes a value usable: answers that are no text, turns of tools, files of spreadsheets, other layouts of JSON
    ("bool.jsonl", each(True), [("", 0, "is true or false", "as words")]),
    ("null.jsonl", each(None), [("", 0, "is empty", "remove these rows")]),
    ("blank.jsonl", each(" "), [("", 0, "is empty", "remove these rows")]),
    ("list.jsonl", each(["x"]), [("", 0, "is a list", "one text per row")]),
    ("nested.jsonl", each({"label": "x"}), [("", 0, "is an object", "each field as a column")]),
    ("calls.jsonl", chats(CALLS), [("", 0, "calls a tool", "remove these chats")]),
    ("tools.jsonl", chats(turns(A, ("tool", "4"), B)), [("", 0, "'tool'", "remove these chats")]),
    ("rows.jsonl", json.dumps(rows(9)), [("", 0, "not an object", "rename the file to .json if")]),
    ("d.csv", "input;output\n" + "".join(f"{n};A\n" for n in range(20)), [("", 0, "", "separated by ';'")]),
    ("cells.csv", CELLS, [("", 0, "than the 1 column of", "separated by ';'")]),
    ("excel.csv", EXCEL.encode("cp1252"), UTF8),
    ("utf16.csv", EXCEL.encode("utf-16"), UTF8),
    ("excel.json", json.dumps(["é"], ensure_ascii=False).encode("cp1252"), UTF8),
    ("data.json", {"data": rows(9)}, [("", 0, "'data' is not a split", "as a list of rows")]),
    ("columns.json", {"text": {"0": "a"}}, [("", 0, "'text' is not a split", "one object per row")]),
    ("my rows.csv.gz", b"\x1f\x8b", [("", 0, "unknown ending", "gunzip -k '")]),
    ("sheet.xlsx", b"PK", [("", 0, "unknown ending", "save the sheet as CSV")]),
    ("tabs.TSV", "a\tb\n", [("", 0, "unknown ending", "CSV with commas")]),
    ("doubled.json", rows(30) * 2, [("DA106", 0, "", "repeats")]),
]
# fmt: on


def place(found: Finding) -> tuple[str, int]:
    return found.code, found.where.line or 0 if found.where else 0


def is_said(found: Finding, fault: Fault) -> bool:
    code, line, message, hint = fault
    has_line = line == 0 or (found.where is not None and found.where.line == line)
    return code in found.code and has_line and message in found.message and hint in str(found.hint)


def test_every_fault_of_a_file_is_told_and_no_other(tmp_path: Path) -> None:
    for name, content, config, expected in FAULTS:
        found = sorted(all_errors(write(tmp_path / name, content), **config), key=place)
        if any(line for _, line, _, _ in expected):
            found = [fault for fault in found if fault.where]
        assert len(found) == len(expected), (content, found)
        assert all(map(is_said, found, expected)), (content, found)


def test_a_value_that_cannot_be_used_is_named_with_what_makes_it_usable(tmp_path: Path) -> None:
    for name, content, expected in USABLE:
        found = all_errors(write(tmp_path / name, content), messages="chat" if '"chat"' in str(content) else None)
        assert any(is_said(each, expected[0]) for each in found), (name, found)
        assert not any("universal-newline" in finding.message for finding in found)
    assert {finding.code for finding in all_errors(tmp_path / "doubled.json")} == {"DA106"}


def test_folders_and_links_that_go_round_are_no_datasets(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "b.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert unreadable(tmp_path / "a.json").code == "DA101"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").touch()
    with pytest.raises(InputError, match="is a folder") as caught:
        load(tmp_path / "folder")
    assert "train.csv" in (caught.value.hint or "")


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
    path = write(tmp_path / "d.json", splits())
    path.chmod(0)
    with pytest.raises(HostError):
        load(path)


def test_columns_may_have_any_name_and_input_is_the_one_that_is_set(tmp_path: Path) -> None:
    """`{input}` means data.input, also where the file has another column called input."""
    path = write(tmp_path / "d.json", [{"q": f"ask {n}", "input": "extra", "a": f"b{n}"} for n in range(10)])
    config = DataConfig(path=str(path), input="q", output="a", prompt="{input} / {q}")
    for example in some(load_examples(config, "train", Path())):
        question = example.prompt[0].content.split(" / ")
        assert question[0] == question[1]
        assert question[0].startswith("ask ")


@parametrize(
    "prompt, text",
    ("{0} {} {a.b} {input}", "{0} {} {a.b} {x}"),
    ('{"word": "{input}"}', '{"word": "{x}"}'),
    ("{{input}}", "{{x}}"),
    ("{input}{input}", "{x}{x}"),
    ("{odd name} {input}", "y {x}"),
    ("a } b { c {input}", "a } b { c {x}"),
)
def test_prompts_are_filled_by_plain_replacement(tmp_path: Path, prompt: str, text: str) -> None:
    """No attribute is reached, no format is applied, and what a row holds is not filled again."""
    data = splits()
    data["train"] = [{"input": "{x}", "output": "z", "odd name": "y"}]
    (example,) = load_examples(DataConfig(path=str(write(tmp_path / "d.json", data)), prompt=prompt), "train", Path())
    assert example.prompt[0].content == text


def test_numbers_are_text(tmp_path: Path) -> None:
    data = splits()
    data["train"] = [{"input": 6, "output": 42}, {"input": 0.5, "output": -1}]
    examples = load_examples(DataConfig(path=str(write(tmp_path / "d.json", data))), "train", Path())
    assert [(example.prompt[0].content, example.answer) for example in examples] == [("6", "42"), ("0.5", "-1")]


def test_a_column_of_splits_is_heeded(tmp_path: Path) -> None:
    """One row a line has no other place for it."""
    data = [{**row, "split": name} for name, part in splits().items() for row in part]
    for path in (write(tmp_path / "d.jsonl", data), write(tmp_path / "d.csv", data)):
        info = load(path)
        assert info.findings == ()
        assert [(s.name, s.num_examples) for s in info.splits] == [("train", 8), ("validation", 2), ("test", 4)]
        assert info.split_origin == "in the file"


def test_a_column_that_is_merely_called_split_is_data(tmp_path: Path) -> None:
    data = [{**row, "split": "banana"} for row in rows(20)]
    assert load(write(tmp_path / "d.jsonl", data)).split_origin.startswith("random 16/1/3")


def test_csv_cells_may_span_lines_and_be_long(tmp_path: Path) -> None:
    """Lines are still those of the file, and the process-wide limit of the csv module is as before."""
    usual = csv.field_size_limit()
    data = rows(20)
    data[0]["input"] = 'two\nlines, "quoted"'
    data[1]["input"] = "x" * (usual + 1)
    data[2]["output"] = ""
    found = errors(load(write(tmp_path / "d.csv", data)))
    assert [(finding.code, finding.where.line) for finding in found if finding.where] == [("DA105", 5)]
    assert csv.field_size_limit() == usual


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["input", "output"], *([f"a{n}", f"b{n}"] for n in range(20))])
    (tmp_path / "d.csv").write_text(text.getvalue(), encoding="utf-8-sig")
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows(20)), encoding="utf-8-sig")
    (tmp_path / "d.json").write_text(json.dumps(splits()), encoding="utf-8-sig")
    assert [load(tmp_path / f"d.{ending}").findings for ending in ("csv", "jsonl", "json")] == [(), (), ()]


def test_chats_end_with_the_answer(tmp_path: Path) -> None:
    """Earlier turns are the prompt, and a system turn is put first unless the chat has its own."""
    data = chat_rows(20)
    own = data[0]["chat"]
    assert isinstance(own, list)
    own.insert(0, {"role": "system", "content": "own"})
    config = DataConfig(path=str(write(tmp_path / "d.jsonl", data)), messages="chat", system="ours")
    examples = [e for name in ("train", "validation", "test") for e in load_examples(config, name, Path())]
    assert len(examples) == 20
    for example in some(examples):
        first = example.answer == "answer 0"
        assert example.prompt[0] == Message(role="system", content="own" if first else "ours")
        assert [message.role for message in example.prompt] == ["system", "user", "assistant", "user"]


def test_chats_may_be_json_in_cells(tmp_path: Path) -> None:
    data = [{"chat": json.dumps(row["chat"])} for row in chat_rows(20)]
    csv_file, jsonl = write(tmp_path / "d.csv", data), write(tmp_path / "d.jsonl", chat_rows(20))
    found = [load_examples(DataConfig(path=str(path), messages="chat"), "test", Path()) for path in (csv_file, jsonl)]
    assert found[0] == found[1]


def test_examples_of_a_dataset_with_faults_are_refused(tmp_path: Path) -> None:
    """With all of them: nobody trains on the rest in silence."""
    data = splits()
    data["test"][0]["output"] = ""
    caught = refusal(load_examples, DataConfig(path=str(write(tmp_path / "d.json", data))), "train", Path())
    assert [finding.code for finding in caught.findings] == ["DA105"]


def test_parquet_is_read_as_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows(30)), tmp_path / "d.parquet")
    other = load(write(tmp_path / "d.jsonl", rows(30)))
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
    found = all_errors(write(tmp_path / "d.json", data), messages="input" if chats else None)
    assert found == [] or all(finding.where is not None for finding in found)


def test_a_prompt_that_shows_the_answer_is_told_where_it_was_said(tmp_path: Path) -> None:
    """Without a prompt of its own the columns are the mistake."""
    path = write(tmp_path / "d.json", rows(9))
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
    data = DataConfig(path=str(write(tmp_path / "d.json", {"train": rows(40)[:5], "test": test})))
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
    data = DataConfig(path=str(write(tmp_path / "d.json", {"train": made[:5], "test": made[5:9]})))
    (fault,) = cluster_faults(data, tmp_path, "doc")
    assert (fault.code, fault.severity) == ("DA105", Severity.ERROR)
    assert "there is no column 'doc', which evaluate.cluster names (4 times" in fault.message
    assert fault.hint == "did you mean 'docs'? columns here: 'input', 'output', 'docs'"
    (fault,) = cluster_faults(data, tmp_path, "template")
    assert str(fault.hint).endswith("(name them in evaluate: {cluster: ...})")
    assert "is not text" in cluster_faults(data, tmp_path, "docs")[0].message
    assert [finding.code for finding in refusal(load_examples, data, "test", tmp_path, "doc").findings] == ["DA105"]
    assert load_examples(data, "test", tmp_path)[0].cluster is None
