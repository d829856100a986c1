"""Rows as a training sees them: columns that are found, prompts, and the same rendering in training and evaluation."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cases import refusal, write_files
from tests.faults.models_d import CHATML, jsonl, model_files

from touchline import api
from touchline.core.finding import Location, Severity
from touchline.data import readers
from touchline.data.user_config import UserConfig
from touchline.experiment.data_config import DataConfig
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.experiment.plan import Plan
from touchline.lint.local import parity as steps
from touchline.lint.local.audit import audit
from touchline.lint.local.parity import Parity, settings_of
from touchline.plan.sections import runs_plan_markdown

pytestmark = pytest.mark.planning


N = range(60)
ALPACA = [
    {"instruction": f"Add {i}", "input": "" if i % 2 else f"to {i}", "output": f"sum {i}", "text": "t"} for i in N
]
FORMS: dict[str, tuple[list[dict[str, object]], str, str, str]] = {
    # rows; what plan and audit use: prompt columns, answer column; and a turn that must be in the rendered prompt
    "alpaca": (ALPACA, "instruction, input", "output", "Add "),
    "no input": ([{k: r[k] for k in ("instruction", "output")} for r in ALPACA], "instruction", "output", "Add "),
    "completion": ([{"prompt": f"p{i}", "completion": f"c{i}"} for i in N], "prompt", "completion", "p"),
    "answer": ([{"id": i, "question": f"q{i}", "answer": f"a{i}"} for i in N], "question", "answer", "q"),
    "context": (
        [{"context": f"c{i}", "question": f"q{i}", "answer": f"a{i}"} for i in N], "question, context", "answer", "q"
    ),
    "label": ([{"source": "web", "text": f"t{i}", "label": i % 2} for i in N], "text", "label", "t"),
    "upper case": ([{"Text": f"t{i}", "Label": f"l{i}"} for i in N], "Text", "Label", "t"),
    "as ever": ([{"input": f"x{i}", "output": f"y{i}"} for i in N], "input", "output", "x"),
}  # fmt: skip
CHATS: dict[str, list[dict[str, object]]] = {
    "messages": [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]} for i in N
    ],
    "conversations": [
        {"id": i, "conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]} for i in N
    ],
}


def write(folder: Path, rows: list[dict[str, object]], data: str = "", task: str = "exact_match") -> Path:
    folder.mkdir()
    (folder / "d.json").write_text(json.dumps(rows))
    (folder / "experiment.yaml").write_text(
        f"name: t\nmodels: [Tiny-1M-Instruct]\ntask: {task}\ndata: {{path: d.json{data}}}\n"
        "train: {global_batch_size: 8, max_seq_len: 200, epochs: 3, base_dtype: float32, lora: {rank: 4}}\n"
    )
    return folder


def planned(folder: Path, settings: UserConfig) -> Plan:
    return api.plan(folder, settings, dry_run=True).plan


def errors_of(folder: Path, settings: UserConfig) -> list[tuple[str, str, str]]:
    caught = refusal(planned, folder, settings)
    return [(each.code, each.message, str(each.hint)) for each in caught.findings if each.severity == "error"]


def test_plan_and_audit_take_the_same_columns(tmp_path: Path, settings: UserConfig) -> None:
    """An instruction must not vanish because a column is called input."""
    for name, (rows, prompts, answer, begins) in FORMS.items():
        folder = write(tmp_path / name, rows)
        plan = planned(folder, settings)
        data = plan.runs[0].data
        used = data.input if isinstance(data.input, str) else ", ".join(data.input)
        assert (used, data.output) == (prompts, answer), name
        taken = f"{', '.join(map(repr, prompts.split(', ')))} as the prompt, {answer!r} as the answer"
        assert audit(folder / "d.json").columns == audit(folder).columns == taken, name
        (example,) = plan.examples
        assert begins in example.prompt, name
        named = {part.rpartition(" (")[0] for part in example.columns_used}
        assert named == {*prompts.split(", "), answer}, name
        assert set(example.columns_not_used) == {*rows[0]} - named, name


def test_columns_that_are_joined_leave_out_what_is_empty(tmp_path: Path, settings: UserConfig) -> None:
    """Half of Alpaca's rows have no input."""
    folder = write(tmp_path / "alpaca", ALPACA)
    api.plan(folder, settings)
    api.prepare(folder, settings)
    run = folder / planned(folder, settings).runs[0].name
    text = (run / "finetune.yaml").read_text()
    from touchline.backends.run_config import RunConfig  # what the trainer reads
    from touchline.data.datasets import load_examples
    from touchline.experiment.document import parse
    from touchline.experiment.validate import build

    document = parse(text, "finetune.yaml")
    config, faults = build(RunConfig, document.data, document)
    assert config is not None, faults
    turns = {each.prompt[0].content for each in load_examples(config.data, "train", run)}
    assert {turn.count("\n") for turn in turns} == {0, 1}
    assert all(turn.strip() == turn for turn in turns)


def test_chats_are_recognised_by_the_column_and_the_turns(tmp_path: Path, settings: UserConfig) -> None:
    """`messages` of roles, and ShareGPT's `conversations` of from and value."""
    for name, rows in CHATS.items():
        folder = write(tmp_path / name, rows)
        plan = planned(folder, settings)
        assert plan.runs[0].data.messages == name
        assert audit(folder / "d.json").columns == audit(folder).columns == f"{name!r} as the chat"
        assert plan.examples[0].label.startswith("a")


def test_a_chat_under_another_name_is_one_error_with_the_fix(tmp_path: Path, settings: UserConfig) -> None:
    """Not one for the prompt and one for the answer of each split."""
    rows = [{"thread": row["conversations"], "id": row["id"]} for row in CHATS["conversations"]]
    ((code, message, hint),) = errors_of(write(tmp_path / "t", rows), settings)
    assert code == "DA105"
    assert "48 in train, 3 in validation, 9 in test" in message
    assert "data: {messages: thread}" in hint
    folder = write(tmp_path / "named", rows, ", messages: thread")
    assert planned(folder, settings).runs[0].data.messages == "thread"


def test_what_is_written_is_never_replaced(tmp_path: Path, settings: UserConfig) -> None:
    """Columns given in part, and prompts that name their columns."""
    rows = [{"instruction": f"i{i}", "input": f"x{i}", "output": f"o{i}", "label": f"l{i}"} for i in N]
    cases = {
        ", input: instruction": ("instruction", "output"),
        ", output: label": (("instruction", "input"), "label"),
        ", input: input, output: output": ("input", "output"),
        ", prompt: 'Do {instruction} with {input}'": ("input", "output"),
        ", prompt: 'Do {instruction}', output: label": ("input", "label"),
        ", input: [label, instruction]": (("label", "instruction"), "output"),
    }
    for number, (data, wanted) in enumerate(cases.items()):
        found = planned(write(tmp_path / str(number), rows, data), settings).runs[0].data
        assert (found.input, found.output) == wanted, data


def test_a_task_prompt_shows_the_columns_that_were_found(tmp_path: Path, settings: UserConfig) -> None:
    """The ready-made tasks ask with {input}, which is then all of the prompt's columns."""
    (example,) = planned(write(tmp_path / "a", ALPACA, task="number"), settings).examples
    assert "Add " in example.prompt


def test_a_wrong_brace_is_explained_as_a_brace(tmp_path: Path, settings: UserConfig) -> None:
    """The data is right: no hint may ask to rename it."""
    rows = FORMS["label"][0]
    prompts = ("{text", "Rate { text }", "{Text}", "{txet}", "Rate {}", "Rate {0}", "Rate <input>", "Rate $input", "%s")
    for number, prompt in enumerate(prompts):
        found = errors_of(write(tmp_path / str(number), rows, f", prompt: {json.dumps(prompt)}"), settings)
        assert len(found) == 1, (prompt, found)
        assert "brace" in found[0][2], (prompt, found)
        assert "name them in data" not in found[0][2], prompt


def test_braces_that_are_meant_stay(tmp_path: Path, settings: UserConfig) -> None:
    """An example of JSON, LaTeX, and a doubled pair, which is only noted."""
    rows = FORMS["label"][0]
    for number, prompt in enumerate(
        ('Answer as {"label": 1}: {text}', r"\boxed{{text}}", "a { b } c {input}", "[input] {text}")
    ):
        folder = write(tmp_path / str(number), rows, f", prompt: {json.dumps(prompt)}")
        made = api.plan(folder, settings, dry_run=True)
        assert made.plan.examples, prompt
        assert any("One pair of braces" in note for note in made.warnings) == ("{{" in prompt)


def test_the_plan_shows_the_label_span(tmp_path: Path, settings: UserConfig) -> None:
    """Prompt, marks around answer and stop token, and what is not used."""
    plan = planned(write(tmp_path / "a", FORMS["answer"][0]), settings)
    text = runs_plan_markdown(plan)
    (example,) = plan.examples
    assert f"{example.prompt}\u27e6{example.label}\u27e7".splitlines()[-1] in text.splitlines()
    assert "not used: id." in text
    assert example.label_tokens < example.prompt_tokens


def test_a_file_without_known_names_is_one_error(tmp_path: Path, settings: UserConfig) -> None:
    """Also in CSV, where every value is text."""
    ((code, _, hint),) = errors_of(write(tmp_path / "a", [{"aaa": f"x{i}", "bbb": f"y{i}"} for i in N]), settings)
    assert (code, hint) == (
        "DA105",
        "columns here: 'aaa', 'bbb' (name them in data: {input: ..., output: ...}, or by --input and --output)",
    )
    folder = write(tmp_path / "c", [])
    with (folder / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Text", "Label"], *([f"t{i}", f"l{i}"] for i in N)])
    (folder / "experiment.yaml").write_text((folder / "experiment.yaml").read_text().replace("d.json", "d.csv"))
    data = planned(folder, settings).runs[0].data
    assert (data.input, data.output) == ("Text", "Label")


ROWS = [{"question": f"What is {n} and {n}? " + "Say. " * n, "answer": str(2 * n)} for n in range(1, 30)]


def stated(folder: Path, backend: str = "llamafactory", **changes: Any) -> StatedTraining:
    """A training of the model and the data in `folder`."""
    where = Location(path=str(folder / "config.yaml"), line=1)
    training = StatedTraining(
        backend=backend,
        where=where,
        subject="run",
        model=Stated("models/tiny", "model", where),
        sources=(StatedSource(name=Stated("rows.jsonl", "data", where), kind="file"),),
        template=Stated("qwen3_nothink", "template", where) if backend == "llamafactory" else None,
    )
    return replace(training, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path, {"rows.jsonl": jsonl(ROWS)} | model_files("models/tiny"))


def codes(folder: Path, training: StatedTraining, data: DataConfig | None = None) -> set[str]:
    return {finding.code for finding in Parity(folder / "models").findings(training, folder, data)}


def test_the_shortest_a_middle_and_the_longest_row_are_rendered(folder: Path) -> None:
    """By their length, each with a name, by the template of the folder; of two rows the other is the longest."""
    view = Parity(folder / "models").view(stated(folder), folder)
    assert view is not None
    assert [row.which for row in view.rows] == ["shortest", "middle", "longest"]
    lengths = [len(row.prompt_ids) for row in view.rows]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 3
    assert view.embedding_rows is not None
    assert view.text.template == CHATML
    write_files(folder, {"rows.jsonl": jsonl(ROWS[:2])})
    two = Parity(folder / "models").view(stated(folder), folder)
    assert two is not None
    assert [row.which for row in two.rows] == ["shortest", "longest"]


def test_a_model_that_is_not_here_is_said_by_others(folder: Path) -> None:
    """Nothing is told twice, and nothing is guessed."""
    where = Location(path="config.yaml")
    assert codes(folder, stated(folder, model=Stated("Qwen/Qwen2.5-7B", "model", where))) == set()
    assert codes(folder, stated(folder, model=None)) == set()


def test_the_folder_of_a_model_counts_before_its_name(folder: Path) -> None:
    """torchtune names a builder, and the folder apart from it."""
    where = Location(path="config.yaml")
    training = stated(
        folder, "torchtune", model=Stated("lora_qwen2_5_1_5b", "model", where),
        model_path=Stated("models/tiny", "checkpoint_dir", where),
        max_seq_len=Stated(4096, "tokenizer.max_seq_len", where),
    )  # fmt: skip
    assert "TK206" in codes(folder, training)
    packs = replace(training, max_seq_len=Stated(4096, "dataset.max_seq_len", where))
    assert "TK206" not in codes(folder, packs)


@pytest.mark.parametrize("rows", [None, "not json at all\n", jsonl([{"text": "only text"}]), ""])
def test_data_that_cannot_be_rendered_are_information(folder: Path, rows: str | None) -> None:
    (folder / "rows.jsonl").unlink()
    if rows is not None:
        write_files(folder, {"rows.jsonl": rows})
    found = list(Parity(folder / "models").findings(stated(folder), folder))
    assert [(finding.code, finding.severity) for finding in found] == [("TK220", Severity.INFO)]


def test_a_broken_tokenizer_is_told_of_each_training(folder: Path) -> None:
    """With one text and place: who collects findings tells it once, with the runs."""
    write_files(folder, {"models/tiny/tokenizer.json": "{}"})
    parity = Parity(folder / "models")
    found = [finding for _ in range(3) for finding in parity.findings(stated(folder), folder)]
    assert [finding.code for finding in found] == ["TK101"] * 3
    assert len({(finding.message, finding.where) for finding in found}) == 1


def test_a_registered_dataset_is_found_by_its_registry(folder: Path) -> None:
    """LLaMA-Factory's dataset_info.json."""
    write_files(folder, {"data/dataset_info.json": json.dumps({"mine": {"file_name": "mine.jsonl"}}),
                   "data/mine.jsonl": jsonl(ROWS)})  # fmt: skip
    source = StatedSource(name=Stated("mine", "dataset", Location(path="config.yaml")), kind="registered")
    assert codes(folder, stated(folder, sources=(source,))) == {"TK219"}
    write_files(folder, {"data/dataset_info.json": "[]"})
    assert codes(folder, stated(folder, sources=(source,))) == {"TK220"}


def test_an_experiments_rows_become_chats_by_its_own_data_section(folder: Path) -> None:
    """Columns and prompt are the experiment's."""
    rows = {
        name: [{"word": f"{name}{n}", "answer": f"{name}{n}".upper()} for n in range(5)] for name in ("train", "test")
    }
    write_files(folder, {"words.json": json.dumps(rows)})
    data = DataConfig(path="words.json", input="word", output="answer", prompt="Shout: {input}", system="Be loud.")
    view = Parity(folder / "models").view(stated(folder, "peft"), folder, data)
    assert view is not None
    assert "Be loud." in view.rows[0].prompt_text
    assert "Shout: train" in view.rows[0].prompt_text
    assert view.rows[0].label_text == "TRAIN0<|im_end|>"


def test_many_trainings_read_each_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of two hundred run folders takes seconds."""
    reads: list[Path] = []

    def counted(path: Path) -> readers.RawDataset:
        reads.append(path)
        return readers.read_rows(path)

    monkeypatch.setattr(steps, "rows_of", counted)
    parity = Parity(folder / "models")
    assert all(parity.view(stated(folder), folder) is not None for _ in range(50))
    assert len(reads) == 1


def test_what_trl_calls_answers_only_is_no_loss_on_the_prompt(folder: Path) -> None:
    """`assistant_only_loss: false` does not put the loss on the prompt of prompt and completion."""
    where = Location(path="config.yaml")
    for key, value, expected in (
        ("assistant_only_loss", False, (None, True)),
        ("assistant_only_loss", True, (None, False)),
        ("completion_only_loss", False, (False, False)),
        ("completion_only_loss", True, (True, False)),
    ):
        settings = settings_of(stated(folder, "trl", trains_on_prompt=Stated(value, key, where)))
        assert (settings.trains_on_prompt, settings.answers_only) == expected
