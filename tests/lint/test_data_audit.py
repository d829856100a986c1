"""The audit of whole files: layouts, lines, what the seeds' projects ran into, and files that are broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.tiers import examples
from typer.testing import CliRunner

from touchline.api import data_audit as audit
from touchline.cli.catalog import audit as audit_command
from touchline.core.errors import InputError
from touchline.core.finding import Location
from touchline.core.quantity import Missing, Quantity
from touchline.data.candidates import candidates_of_prompt, chosen, mojibake, nearest, normal, repaired, short
from touchline.experiment.data_config import DataConfig
from touchline.lint.checked import DataAudit
from touchline.lint.data_view import DataView, data_rows, layout_of
from touchline.lint.local.audit import AuditRequest, config_findings, data_findings, tree_findings
from touchline.lint.local.dataset_files import DatasetFiles, group_splits, is_dataset
from touchline.lint.rule import check_view

pytestmark = pytest.mark.planning


TURNS = {
    "chatml": {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": [{"type": "text", "value": "A"}]},
        ]
    },
    "alpaca": {"instruction": "Q", "input": "", "output": "A"},
    "ours": {"input": "Q", "output": "A"},
    "completion": {"prompt": "Q", "completion": "A"},
    "question": {"question": "Q", "answer": "A", "id": 7},
    "squad": {"context": "", "question": "Q", "answers": {"text": ["A", "B"], "answer_start": [1, 2]}},
    "preference": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "preference chat": {"conversations": [{"from": "human", "value": "Q"}], "chosen": {"value": "A"}, "rejected": {}},
    "classes": {"text": "Q", "label": "A"},
    "capitals": {"Question": "Q", "Answer": "A"},
}


def write(path: Path, rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl" and isinstance(rows, list):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return path


def codes(found: DataAudit) -> dict[str, int | None]:
    return {finding.code: finding.line for finding in reversed(found.findings)}


@pytest.mark.parametrize("name", TURNS)
def test_prompt_and_answer_are_found_in_every_usual_layout(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", [TURNS[name]])
    assert is_dataset(path)
    found = audit(path)
    assert [finding.code for finding in found.findings] == []
    assert found.labels[0].label == "A"


def test_what_is_no_dataset_is_passed_over_in_a_tree(tmp_path: Path) -> None:
    for number, row in enumerate(
        [
            {"step": 1, "loss": 2.5},
            {"timestamp": "12:00", "message": "started", "input": "x", "output": "y"},
            {"prompt": "Q", "label": "A", "predict": "B"},
            {"loss": 1.5, "learning_rate": 1e-4, "epoch": 1},
        ]
    ):
        write(tmp_path / f"log{number}.jsonl", [row])
    write(tmp_path / "config.json", {"model": {"input": 1, "output": 2}, "train": {"epochs": 1}})
    write(tmp_path / "dataset_info.json", {"a": {"columns": {"prompt": "instruction", "response": "output"}}})
    write(tmp_path / "list.json", [{"columns": {"messages": ["x"], "prompt": "y"}}])
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "results.csv").write_text("run,accuracy,text\na,0.5,x\n")
    (tmp_path / "table.csv").write_text("source,targets,peak\nrun a,q_proj v_proj,3.5\n")
    (tmp_path / "numbers.csv").write_text("dtype,input,output\nnp.float32,0x3fc90fdb,0x3f8\n")
    assert [path.name for path in tmp_path.iterdir() if is_dataset(path)] == []
    assert tree_findings(tmp_path.iterdir()) == ()


def test_files_of_splits_are_one_dataset(tmp_path: Path) -> None:
    write(tmp_path / "words_train.json", [{"input": f"w{n}", "output": f"W{n}"} for n in range(5)])
    test = write(tmp_path / "words_test.json", [{"input": f"w{n}", "output": f"W{n}"} for n in (8, 9, 4)])
    found = audit(tmp_path)
    assert [(split.name, split.examples) for split in found.splits] == [("train", 5), ("test", 3)]
    (overlap,) = [finding for finding in found.findings if finding.code == "DA312"]
    assert overlap.path == str(test)
    assert "(test row 3)" in overlap.message
    write(tmp_path / "other.jsonl", [{"input": "a", "output": "b"}])
    with pytest.raises(InputError, match="holds 2 datasets"):
        audit(tmp_path)
    assert [sorted(group.files) for group in group_splits(tmp_path.iterdir())] == [["test", "train"], ["all"]]


def test_spellings_of_a_label_are_one_in_the_baselines(tmp_path: Path) -> None:
    """As classification counts them, and the plan's majority baseline."""
    labels = ["yes", "Yes", "YES ", "no", "No", "yes"] * 10
    rows = [{"question": f"is {number} even?", "answer": label} for number, label in enumerate(labels)]
    found = audit(write(tmp_path / "test.jsonl", rows)).baselines
    assert found is not None
    assert isinstance(found.majority.score, Quantity)
    assert (found.majority.score.value, found.majority.answer) == (pytest.approx(4 / 6), "yes")


def test_the_four_constants_of_the_surgical_project_are_an_error_before_any_training(tmp_path: Path) -> None:
    constants = {
        "What tissue is in contact with the instrument?": "none",
        "How many instruments are visible?": "0",
        "What is the action of the instrument?": "idle",
        "Is the image from robotic surgery?": "yes",
    }
    rows = [
        {"question": question, "answer": answer, "image": f"seq_{frame}.png"}
        for frame in range(60)
        for question, answer in constants.items()
    ]
    found = audit(write(tmp_path / "test.jsonl", rows))
    assert "DA321" in codes(found)
    assert found.failed
    assert found.baselines is not None
    score = found.baselines.majority_per_question.score
    assert isinstance(score, Quantity)
    assert (score.value, found.baselines.majority_per_question.examples) == (1.0, 240)
    assert isinstance(found.baselines.majority.score, Quantity)
    assert found.baselines.majority.score.value == 0.25


def test_the_nearest_candidate_is_told_with_the_line(tmp_path: Path) -> None:
    allowed = ["kidney-parenchyma", "instrument-shaft", "background"]
    given = ["background", "kidney parenchyma", "shaft", "instrument-shaft", "kidney-parenchyma", "background"]
    rows = [{"question": f"frame {n}?", "answer": answer, "candidates": allowed} for n, answer in enumerate(given)]
    found = audit(write(tmp_path / "data.jsonl", rows))
    (outside,) = [finding for finding in found.findings if finding.code == "DA330"]
    assert (outside.severity, outside.line) == ("error", 2)
    assert "did you mean 'kidney-parenchyma'" in (outside.hint or "")
    assert "did you mean 'instrument-shaft'" in (outside.hint or "")


@parametrize(
    "prompt, expected",
    ("Which? Candidates: ['no', 'not relevant', 'yes']\nAnswer:", ("no", "not relevant", "yes")),
    ("Which? Candidate answers: [small, large]", ("small", "large")),
    ("Which?\nA. red\nB. green\nC) blue\nAnswer:", ("red", "green", "blue")),
    ("(A) red\n(B) green", ("red", "green")),
    ("What are my options here?", None),
    ("List [1, 2] reversed", None),
    ("The choices: [broken", None),
)
def test_lists_in_prompts(prompt: str, expected: tuple[str, ...] | None) -> None:
    assert candidates_of_prompt(prompt) == expected


def test_what_an_answer_means_in_a_list() -> None:
    colours = ("red", "green", "blue")
    assert [chosen(answer, colours, True) for answer in ("green", "B", "(b)", "b.", "1", "B. green", "red; blue")] == [
        *[1] * 6,
        0,
    ]
    assert [chosen(answer, colours, True) for answer in ("D", "Red", "9", "", "red; grey")] == [None] * 5
    assert chosen("B", colours, False) is None
    assert nearest("Red", colours) == "red"
    assert nearest("xyzzy", colours) is None


@parametrize(
    "row",
    {"question": "Q{n}?", "choices": ["w", "x", "y", "z"], "answer": 2},
    {"question": "Q{n}?", "choices": {"text": ["w", "x"], "label": ["A", "B"]}, "answerKey": "B"},
    {"ctx": "C{n}", "endings": ["w", "x"], "label": "1"},
    {"question": "Q{n}?\nA. w\nB. x", "answer": "A"},
    {"question": "Q{n}?", "options": {"A": "w", "B": "x"}, "answer": "A"},
    {"question": "Q{n}?", "options": "['w', 'x']", "answer": "w; x"},
)
def test_answers_by_letter_and_number_are_within_their_list(row: dict[str, object], tmp_path: Path) -> None:
    rows = [
        {key: value.replace("{n}", str(n)) if isinstance(value, str) else value for key, value in row.items()}
        for n in range(6)
    ]
    assert "DA330" not in codes(audit(write(tmp_path / "data.jsonl", rows)))


def test_a_picture_tells_questions_apart_and_missing_ones_are_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(b"\x89PNG\r\n\x1a\nIEND")
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    rows = [
        {"question": "Describe it.", "answer": answer, "image_path": f"images/{name}"}
        for name, answer in (("a.png", "one"), ("b.png", "two"), ("gone.png", "three"), ("empty.png", "four"))
    ]
    path = write(tmp_path / "sub" / "data.jsonl", rows)
    found = audit(path)
    assert "DA311" not in codes(found)
    assert "DA371" not in codes(found)
    (media,) = [finding for finding in found.findings if finding.code == "DA373"]
    assert (media.severity, media.line) == ("error", 3)
    assert all(count in media.message for count in ("1 of 4", "1 are empty"))
    (elsewhere,) = [
        finding
        for finding in audit(path, AuditRequest(media_root=tmp_path / "sub")).findings
        if finding.code == "DA373"
    ]
    assert "4 of 4" in elsewhere.message
    write(tmp_path / "far" / "away" / "up" / "and" / "down" / "data.jsonl", rows)
    (unknown,) = [
        finding
        for finding in audit(tmp_path / "far" / "away" / "up" / "and" / "down" / "data.jsonl").findings
        if finding.code == "DA373"
    ]
    assert unknown.severity == "info"
    assert unknown.message.startswith("not checked (")


def test_numbers_as_answers_are_text(tmp_path: Path) -> None:
    rows = [{"input": "2 + 3", "output": 5}, {"input": "2 + 3", "output": "5"}, {"input": "1 + 3", "output": "4"}]
    found = codes(audit(write(tmp_path / "data.jsonl", rows)))
    assert "DA311" not in found
    assert found["DA310"] == 2


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty.jsonl": (b"", "DA376"),
    "empty.json": (b"", "DA102"),
    "no_rows.json": (b"[]", "DA376"),
    "nothing.json": (b"{}", "DA376"),
    "cut.jsonl": (b'{"input": "a", "output": "b"}\n{"input": "c", "outp', "DA102"),
    "deep.json": (b"[" * 100_000, "DA102"),
    "deep.jsonl": (b'{"input":' * 50_000, "DA102"),
    "bytes.jsonl": (bytes(range(256)) * 50, "DA102"),
    "bytes.csv": (bytes(range(256)) * 50, "DA102"),
    "latin1.jsonl": (('{"input": "caf\u00e9", "output": "ol\u00e9"}\n' * 3).encode("latin-1"), "DA102"),
    "wide.jsonl": ('{"input": "a", "output": "b"}\n'.encode("utf-16"), "DA102"),
    "no_objects.jsonl": (b'[1]\n"x"\n5\nnull\n', "DA103"),
    "semicolons.csv": (b"input;output\na;b\n", "DA307"),
    "half.jsonl": (b'{"input": "\\ud800", "output": "x"}\n', "DA364"),
    "unknown.jsonl": (b'{"left": "a", "right": "b"}\n', "DA307"),
    "chats.jsonl": (b'{"messages": []}\n{"messages": null}\n{"messages": [{"role": "user"}]}\n', "DA375"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_findings_and_no_tracebacks(name: str, tmp_path: Path) -> None:
    content, code = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    found = audit(path)
    assert code in codes(found)
    assert found.failed or code in ("DA307", "DA375")
    # The same as a part of a tree, where nothing is raised either.
    assert isinstance(data_findings(DatasetFiles(path=path, files={"all": path})), tuple)


def test_a_row_of_megabytes_and_strange_values_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"input": "x" * 1_000_000, "output": "y" * 1_000_000},
        {"input": "\u05d0\u05d1 \u0627\u0644", "output": "\U0001f468\u200d\U0001f469\u200d\U0001f467"},
        {"input": ["a", {"b": [None]}], "output": {"deep": {"deeper": [1]}}},
        {"input": None, "output": None},
        {"input": True, "output": 1e300},
    ]
    found = codes(audit(write(tmp_path / "data.jsonl", rows)))
    assert found["DA303"] == found["DA304"] == 4


def test_an_experiment_says_the_columns_the_prompt_and_the_task(tmp_path: Path) -> None:
    write(tmp_path / "words.jsonl", [{"word": f"word{n}", "upper": f"Word{n}", "output": "same"} for n in range(12)])
    (tmp_path / "experiment.yaml").write_text(
        "name: a\nmodels: [m]\ntask: capitalization\ndata: {path: words.jsonl, input: word, output: upper}\n"
    )
    found = audit(tmp_path)
    assert found.columns == "'word' as the prompt, 'upper' as the answer"
    assert codes(found) == {}
    assert audit(tmp_path / "experiment.yaml").splits == found.splits
    stated = DataConfig(path="words.jsonl", input="word", output="output")
    assert {finding.code for finding in config_findings(stated, tmp_path)} == {"DA320"}
    assert config_findings(DataConfig(path="gone.jsonl"), tmp_path) == ()
    absent = audit(tmp_path / "words.jsonl", AuditRequest(data=DataConfig(path="words.jsonl", output="uper")))
    (missing,) = [finding for finding in absent.findings if finding.code == "DA301" and "'uper'" in finding.message]
    assert missing.hint is not None
    assert "upper" in missing.hint


def test_what_was_found_of_a_large_file_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"input": f"{n} " + "x" * 200, "output": f"W{n}"} for n in range(6000)]
    path = write(tmp_path / "data.jsonl", [*rows, rows[0]])
    files = DatasetFiles(path=path, files={"all": path})
    cache = tmp_path / "cache"
    first = data_findings(files, cache_dir=cache)
    assert {finding.code for finding in first} == {"DA310"}
    (kept,) = (cache / "audits").iterdir()
    assert data_findings(files, cache_dir=cache) == first
    kept.write_text("no JSON")
    assert data_findings(files, cache_dir=cache) == first
    write(path, rows)
    assert data_findings(files, cache_dir=cache) == ()


def test_what_was_found_is_kept_for_the_next_process(tmp_path: Path) -> None:
    """A set of names has another order in each process, and the key of the cache has not."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"input": f"{n} " * 99, "output": f"{n}"}) + "\n" for n in range(400)))
    program = (
        "import sys; from pathlib import Path; from touchline.lint.local.audit import tree_findings; "
        "tree_findings([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    for seed in ("2", "3"):
        words = [sys.executable, "-c", program, str(path), str(tmp_path / "cache")]
        subprocess.run(words, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    assert len(list((tmp_path / "cache" / "audits").iterdir())) == 1


def run(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(audit_command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_the_command_answers_in_words_in_json_and_by_its_exit_code(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", [{"input": f"w{n}", "output": ["yes", "no"][n % 2]} for n in range(8)])
    bad = write(tmp_path / "bad.jsonl", [{"input": "a", "output": "b"}, {"input": "c", "ouput": "d"}])
    code, words, talk = run(str(good))
    assert code == 0
    assert "always the most frequent, 'no'" in words
    assert "0 errors, 0 warnings" in talk
    code, words, _ = run(str(bad), "--json")
    assert code == 1
    answer = json.loads(words)
    assert answer["schema_version"] == 3
    assert {frozenset(finding) for finding in answer["findings"]} == {
        frozenset({"code", "severity", "path", "line", "column", "message", "hint"})
    }
    assert [(each["code"], each["line"]) for each in answer["findings"] if each["severity"] == "error"] == [
        ("DA301", 2)
    ]
    assert set(answer["baselines"]) == {"majority", "majority_per_question"}
    with pytest.raises(InputError, match="does not exist"):
        audit(tmp_path / "gone.jsonl")


def test_baselines_without_answers_are_missing_and_not_zero(tmp_path: Path) -> None:
    found = audit(write(tmp_path / "data.jsonl", [{"input": "a", "output": "b"}]))
    assert found.baselines is not None
    assert isinstance(found.baselines.majority_per_question.score, Missing)
    assert audit(write(tmp_path / "texts.jsonl", [{"text": "a whole text"}])).baselines is None


def test_a_file_without_rows_names_no_columns(tmp_path: Path) -> None:
    """A column that was not found is not called None."""
    for name, content in (("a.csv", ""), ("b.csv", "text,label\n"), ("c.json", "[]"), ("d.jsonl", "\n")):
        path = tmp_path / name
        path.write_text(content)
        found = audit(path, AuditRequest())
        assert "None" not in found.columns
        assert "no column as the answer" in found.columns


LABELS = st.sampled_from(
    ["yes", "no", "No", "none", "kidney parenchyma", "kidney-parenchyma", "", " ", "nan", "caf\ufffd"]
)
PROMPTS = st.sampled_from(
    ["Which organ?", "which organ", "Which tool?", "How many: 3", "How many: 4", "", "Ist es Ã¼ber?"]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"question": PROMPTS, "answer": st.one_of(LABELS, st.integers(0, 3), st.none())},
        optional={"image": st.sampled_from(["a.png", "b.png"]), "options": st.just(["yes", "no", "none"])},
    ),
    min_size=1,
    max_size=30,
)


def view_of(train: list[dict[str, object]], test: list[dict[str, object]]) -> DataView | None:
    """A view of rows as a file would give them."""
    splits = {
        name: [(row, number) for number, row in enumerate(rows, 1)] for name, rows in (("train", train), ("test", test))
    }
    layout = layout_of(splits)
    if layout is None:
        return None
    return DataView(
        path="d.jsonl",
        format="jsonl",
        files={"train": "d.jsonl", "test": "d.jsonl"},
        splits=data_rows(splits, layout),
        layout=layout,
    )


def told(view: DataView | None) -> set[tuple[str, str]]:
    if view is None:
        return set()
    return {(f.code, f.severity.value) for f in check_view(view, Location(path="d.jsonl"), "data")}


@given(ROWS, ROWS, st.randoms(use_true_random=False))
@settings(max_examples=examples(25), deadline=None)
def test_the_order_of_rows_changes_nothing_that_is_found(train: list, test: list, rng: object) -> None:  # type: ignore[type-arg]
    before = told(view_of(train, test))
    mixed = list(train)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    rest = list(test)
    rng.shuffle(rest)  # type: ignore[attr-defined]
    assert told(view_of(mixed, rest)) == before


@given(st.lists(st.text(min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=20, unique=True), st.data())
@settings(max_examples=examples(25), deadline=None)
def test_a_doubled_row_is_found_wherever_it_stands(texts: list[str], data: st.DataObject) -> None:
    rows: list[dict[str, object]] = [{"input": text, "output": f"answer {n}"} for n, text in enumerate(texts)]
    assert "DA310" not in {code for code, _ in told(view_of(rows, []))}
    place = data.draw(st.integers(0, len(rows)))
    again = dict(data.draw(st.sampled_from(rows)))
    assert "DA310" in {code for code, _ in told(view_of([*rows[:place], again, *rows[place:]], []))}


@given(st.lists(st.text(max_size=4), min_size=1, max_size=12), st.lists(st.text(max_size=4), min_size=1, max_size=12))
@settings(max_examples=examples(25), deadline=None)
def test_an_overlap_is_found_exactly_when_there_is_one(train: list[str], test: list[str]) -> None:
    view = view_of(
        [{"input": f"{t}.", "output": "x"} for t in train], [{"input": f"{t}.", "output": "x"} for t in test]
    )
    shared = set(train) & set(test)
    # One prompt for all rows is another fault, and told as that.
    assert ("DA312" in {code for code, _ in told(view)}) == (bool(shared) and len(set(train)) > 1)


@given(st.text(max_size=40))
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normal(normal(text)) == normal(text)


@given(st.text(st.characters(min_codepoint=0xC0, max_codepoint=0x2FF), min_size=1, max_size=8))
def test_text_that_was_read_in_another_encoding_is_recognised(text: str) -> None:
    broken = text.encode().decode("latin-1")
    piece = mojibake(f"before {broken} after")
    assert piece is not None
    assert repaired(piece) in text
    assert mojibake(f"before {text} after") is None or len(text) > 1


@given(st.text(max_size=200))
def test_what_a_message_shows_has_no_hidden_characters(text: str) -> None:
    assert short(text).isprintable()
    assert len(short("a" * 500)) < 70
