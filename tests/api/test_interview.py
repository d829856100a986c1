"""The interview: its questions as flags and by keyboard, and the commented file that it writes."""

import csv
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cases import refusal, some, write
from typer.main import get_command

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.cli.main import app
from touchline.cli.main import main as run_main
from touchline.core.errors import InputError, PolicyError
from touchline.core.finding import Severity
from touchline.data.models import load_model
from touchline.data.user_config import UserConfig
from touchline.experiment.read import read_experiment
from touchline.experiment.value_types import SlurmSite
from touchline.tools import environments
from touchline.tools.interview.answers import Defaulted, Question
from touchline.tools.interview.interview import Interview
from touchline.tools.interview.questions import QUESTIONS

pytestmark = pytest.mark.planning


pexpect = pytest.importorskip("pexpect")

ANSWERS = {
    "data": "reviews.csv",
    "model": "Tiny-1M-Instruct",
    "vary": "rank=4,16 lr=1e-4,1e-3",
    "trainer": "trl",
    "validation": "5",
    "controls": "base, noop",
    "epochs": "2",
    "packing": "no",
    "name": "first_try",
}
"""An answer to every question that is asked on a machine without a GPU and without a cluster."""
FLAGS = {"input": "text", "output": "label", "task": "exact_match", "executor": "local", "seeds": "3,4", "gpu": "cpu"}
"""An answer to what is not asked where it has a default."""
MOST_QUESTIONS = 12
SECONDS = 120


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    """A folder with an own CSV, a model, and the environment of a user who has no config file."""
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    with (tmp_path / "reviews.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("id", "text", "label"))
        rows.writerows((n, f"Film {n} was fine", ("good", "bad", "not: sure")[n % 3]) for n in range(120))
    for name in ("models", "cache", "history"):
        monkeypatch.setenv(f"TOUCHLINE_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "bin").mkdir()
    # A machine without a scheduler, whatever this one has.
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


class Terminal:
    """A `touchline init` on a real pseudo-terminal of 80 columns."""

    def __init__(self, *words: str) -> None:
        self.process: Any = pexpect.spawn(
            sys.executable,
            ["-m", "touchline.cli.main", "init", *words],
            dimensions=(40, 80),
            encoding="utf-8",
            timeout=SECONDS,
            env={**os.environ, "TERM": "dumb"},
        )
        self.seen = ""

    def question(self) -> str | None:
        """Read up to a prompt; give the name of its question, `again` after an error, None at the end."""
        found = self.process.expect([r"> $", pexpect.EOF])
        text = self.process.before
        self.seen += text + ("" if found else self.process.after)
        if found:
            return None
        asked = re.findall(r"^\d+/\d+ .*\((--[a-z-]+)\)\s*$", text, re.MULTILINE)
        return asked[-1][2:].replace("-", "_") if asked else "again"

    def answer(self, answers: Mapping[str, str]) -> list[str]:
        """Answer all questions, with Enter where there is no answer; give the questions that were asked."""
        asked: list[str] = []
        while (name := self.question()) is not None:
            asked.append(name)
            self.process.sendline(answers.get(name, ""))
        return asked

    def end(self) -> int:
        """Read to the end; give the exit code."""
        self.process.expect(pexpect.EOF)
        self.seen += self.process.before
        self.process.close()
        return int(self.process.exitstatus)


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command without a terminal; give its exit code."""
    monkeypatch.setattr("sys.argv", ["touchline", *words])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        run_main()
    return int(ended.value.code or 0)


def _flags(answers: Mapping[str, str]) -> list[str]:
    return [word for name, text in answers.items() for word in (f"--{name.replace('_', '-')}", text)]


def test_every_question_is_a_flag_with_a_help_that_fits() -> None:
    """One table gives both; a question without a flag could not be answered without a terminal."""
    command: Any = get_command(app)
    options = {option for each in command.commands["init"].params for option in each.opts}
    assert {question.flag for question in QUESTIONS} <= options
    assert len({question.name for question in QUESTIONS}) == len(QUESTIONS)
    assert sum(question.is_asked for question in QUESTIONS) <= MOST_QUESTIONS
    for question in some(QUESTIONS):
        assert question.text.endswith("?")


@pytest.mark.slow
def test_answers_by_keyboard_and_by_flags_write_the_same_file(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole interview; nothing is wider than the terminal, nothing is started, and the command repeats it."""
    terminal = Terminal("exp", *_flags(FLAGS))
    asked = terminal.answer(ANSWERS)
    assert asked == [*ANSWERS]
    assert max(int(total) for total in re.findall(r"^\d+/(\d+) ", terminal.seen, re.MULTILINE)) <= MOST_QUESTIONS
    assert terminal.end() == 0
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m", "", terminal.seen).splitlines()) <= 80
    text = (tmp_path / "exp" / "experiment.yaml").read_text()
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["experiment.yaml"]
    (tmp_path / "exp" / "experiment.yaml").unlink()
    assert _run(monkeypatch, "init", "exp", "--yes", *_flags(FLAGS | ANSWERS)) == 0
    assert (tmp_path / "exp" / "experiment.yaml").read_text() == text

    written = read_experiment(text, "experiment.yaml").experiment
    assert written.factors == {"train.lora.rank": [4, 16], "train.learning_rate": [1e-4, 1e-3]}
    assert (written.task, written.seeds, written.controls) == ("exact_match", (3, 4), ("base", "noop"))
    train = written.train
    assert (train.epochs, train.packed, train.backend, train.validate_every_steps) == (2, False, "trl", 5)
    assert (written.name, written.compute.gpu) == ("first_try", "cpu")


@pytest.mark.slow
def test_enter_alone_and_yes_write_the_same_file_which_passes_check(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From an own CSV to a reviewed plan with one command; every default has a reason in the file or the document."""
    terminal = Terminal()
    terminal.answer({})
    assert terminal.end() == 0
    file = tmp_path / "reviews" / "experiment.yaml"
    text = file.read_text()
    assert _run(monkeypatch, "init", "--replace", "--json") == 2
    capfd.readouterr()
    assert _run(monkeypatch, "init", "--yes", "--replace", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert file.read_text() == text
    answers = document["init"]["answers"]
    assert {answer["source"] for answer in answers} == {"default"}
    assert [answer["question"] for answer in answers if not answer["reason"]] == []
    assert len(document["plan"]["runs"]) == 7
    report, _ = api.check([file.parent], settings)
    assert [each for each in report.findings if each.severity is Severity.ERROR] == []
    assert _run(monkeypatch, "init", "--yes", "--replace") == 0
    assert "1M_rank8" in capfd.readouterr().out


@pytest.mark.slow
def test_a_wrong_answer_is_asked_again_and_ctrl_c_leaves_nothing(settings: UserConfig, tmp_path: Path) -> None:
    """The message says what is expected; the printed command holds the answers so far and completes the interview."""
    terminal = Terminal("exp")
    for name, wrong, right in (
        ("data", "absent.csv", "'reviews.csv'"),
        ("model", "reviews.csv", ""),
        ("vary", "rnak=8,16", "rank=8,16"),
    ):
        assert terminal.question() == name
        terminal.process.sendline(wrong)
        assert terminal.question() == "again"
        terminal.process.sendline(right)
    assert "'rank'" in terminal.seen
    assert "is a data file" in terminal.seen
    assert terminal.question() == "trainer"
    terminal.process.sendintr()
    assert terminal.end() == 130
    assert "no experiment was written" in terminal.seen
    assert not (tmp_path / "exp").exists()
    line = re.sub(r"\r\n", "\n", terminal.seen).partition("with these answers: ")[2].strip()
    words = shlex.split(line)
    assert words == [*("touchline", "init", "exp", "--data", "reviews.csv", "--vary", "rank=8,16")]
    resumed = Terminal(*words[2:])
    assert resumed.answer({})[0] == "model"
    assert resumed.end() == 0
    assert (tmp_path / "exp" / "experiment.yaml").exists()


def test_an_experiment_is_replaced_only_when_that_is_allowed(settings: UserConfig, tmp_path: Path) -> None:
    """Refused before the first question, or at its end where that names the folder; allowed by a flag."""
    file = tmp_path / "exp" / "experiment.yaml"
    file.parent.mkdir()
    file.write_text("name: mine\n")

    def ask(interview: Interview, question: Question, default: Defaulted, problem: InputError | None) -> str:
        return "exp" if question.name == "name" else ""

    for folder, asked in ((file.parent, lambda *_: pytest.fail("asked")), (None, ask)):
        with pytest.raises(PolicyError):
            api.init(folder, settings, data=Path("reviews.csv"), ask=asked)
        assert file.read_text() == "name: mine\n"
    api.init(file.parent, settings, defaults=True, replace_existing=True)
    assert "factors:" in file.read_text()


def test_one_level_is_a_setting_and_faults_of_rows_are_those_of_the_file(settings: UserConfig, tmp_path: Path) -> None:
    made = api.init(tmp_path / "exp", settings, answers={"vary": ("rank=8 lr=1e-4,1e-3",)}, defaults=True)
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    assert (written.factors, written.train.lora.rank) == ({"train.learning_rate": [1e-4, 1e-3]}, 8)
    Path("reviews.csv").write_text("text,label\n,good\n" + "fine,good\nbad,poor\n" * 20)
    answers = {"data": ("reviews.csv",), "input": ("text",), "output": ("label",)}
    caught = refusal(api.init, tmp_path / "other", settings, answers=answers)
    assert {each.subject for each in caught.findings} == {"--data"}


def test_all_wrong_flags_are_reported_at_once(settings: UserConfig, tmp_path: Path) -> None:
    """Also those that contradict each other; nothing is asked and nothing is written."""
    wrong = {
        "vary": "epochs=1,2",
        "model": "absent",
        "data": "absent.csv",
        "epochs": "3",
        "controls": "base,placebo",
        "gpu": "H9000",
        "seeds": "-1",
        "packing": "perhaps",
        "trainer": "tochtune",
    }
    caught = refusal(api.init, tmp_path / "exp", settings, answers={name: (text,) for name, text in wrong.items()})
    found = {finding.subject for finding in caught.findings}
    assert found == {f"--{name.replace('_', '-')}" for name in wrong} - {"--vary"}
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("cluster", "installed", "vary", "trainer"),
    [
        ("", {"peft", "trl", "torchtune"}, "rank=8,16", "peft"),
        ("", {"trl"}, "rank=8,16", "trl"),
        ("", set(), "rank=8,16", "peft"),
        ("slurm:", {"peft", "trl", "torchtune"}, "rank=8,16", "torchtune"),
        ("sbatch", {"peft", "trl", "axolotl"}, "rank=8,16", "trl"),
        ("sbatch", {"peft", "trl", "torchtune"}, "method=lora,full", "trl"),
    ],
)
def test_the_trainer_is_one_that_can_run_here_and_on_a_cluster_that_of_the_main_road(
    cluster: str,
    installed: set[str],
    vary: str,
    trainer: str,
    settings: UserConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trainer that lacks what varies is not proposed; any other can be named."""
    states = tuple(replace(state, installed=state.name in installed) for state in environments.backend_states())
    monkeypatch.setattr(environments, "backend_states", lambda: states)
    if cluster == "sbatch":
        (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / "sbatch").chmod(0o755)
    elif cluster:
        settings = replace(settings, slurm=SlurmSite(partition="gpu"))
    answers = {"vary": (vary,), "gpu": ("A100-80GB",)}
    made = api.init(tmp_path / "exp", settings, answers=answers, defaults=True)
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    assert written.train.backend == trainer
    named = api.init(tmp_path / "named", settings, answers={**answers, "trainer": ("axolotl",)}, defaults=True)
    assert read_experiment(named.path.read_text(), "experiment.yaml").experiment.train.backend == "axolotl"


def test_the_folder_has_the_experiments_name_and_the_next_command_the_folders(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "init", "--name", "lr2", "--yes") == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("lr2/experiment.yaml\nlr2: ")
    assert shown.err.endswith("next: touchline run lr2\n")
    assert not (tmp_path / "reviews").exists()
    (tmp_path / "lr2").rename(tmp_path / "moved")
    assert _run(monkeypatch, "plan", "moved") == 0
    planned = capfd.readouterr()
    assert planned.out == shown.out.partition("\n")[2], "one screen for both commands"
    assert planned.err.endswith("next: touchline run moved\n")


def test_example_data_and_a_comparison_of_datasets_and_models(settings: UserConfig, tmp_path: Path) -> None:
    """The same words in every call; several datasets, and several models, are levels."""
    answers = {"data": ("create",)}
    made = api.init(tmp_path / "exp", settings, answers=answers)
    plan = api.plan(made.path, settings, dry_run=True).plan
    assert plan.task == "capitalization"
    assert all(path.startswith("data/") for path in plan.datasets)
    before = {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()}
    assert len(before) == 2
    api.init(tmp_path / "exp", settings, answers=answers, replace_existing=True)
    assert {path: path.read_bytes() for path in before} == before

    (tmp_path / "hard.csv").write_text((tmp_path / "reviews.csv").read_text().replace("fine", "neither long nor short"))
    write_tiny_model(tmp_path / "models" / "Tiny-2M-Instruct", seed=1)
    both = {"data": ("reviews.csv", "hard.csv"), "vary": ("none",), "seeds": ("1",)}
    compared = api.init(
        tmp_path / "compared", settings, answers={**both, "model": ("Tiny-1M-Instruct,Tiny-2M-Instruct",)}
    )
    plan = api.plan(compared.path, settings, dry_run=True).plan
    assert len([run for run in plan.runs if run.train is not None]) == 4


def test_on_a_cluster_the_type_of_gpu_comes_from_the_config_or_is_named(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    site = SlurmSite(partition="gpu")
    caught = refusal(api.init, tmp_path / "exp", replace(settings, slurm=site), defaults=True)
    assert [finding.subject for finding in caught.findings] == ["--gpu"]
    known = replace(settings, slurm=replace(site, gpu_type="A100-80GB"))
    written = read_experiment(api.init(tmp_path / "exp", known, defaults=True).path.read_text(), "x").experiment
    assert (written.compute.executor, written.compute.gpu, written.compute.gpus_per_run) == ("slurm", "auto", 1)


REVIEWS = [{"id": n, "text": f"Film {n} was fine", "label": ("good", "bad", "not: sure")[n % 3]} for n in range(120)]
FEW_ANSWERS = [
    {"instruction": f"Task {n}", "input": "", "output": ("4", "banana", "positive")[n % 3]} for n in range(90)
]
ALPACA = [
    {"instruction": f"Add {n}", "input": "" if n % 2 else "shortly", "output": f"the sum is {n}"} for n in range(120)
]
CHATS = [
    {"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": f"Hello {n}"}]}
    for n in range(120)
]
ODD = [{"the question: #1": f"what is {n}?", "no": f"it is {n * n}"} for n in range(120)]


@pytest.fixture
def empty_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    return write(path, "\n".join(json.dumps(row) for row in rows) + "\n")


@pytest.mark.parametrize(
    ("rows", "options", "task", "columns"),
    [
        (REVIEWS, {}, "classification", ("text", "label", None)),
        (ALPACA, {}, "exact_match", (("instruction", "input"), "output", None)),
        (FEW_ANSWERS, {}, "exact_match", (("instruction", "input"), "output", None)),
        (CHATS, {}, "exact_match", ("input", "output", "conversations")),
        (ODD, {"input_columns": ["the question: #1"], "output_column": "no"}, "exact_match", None),
    ],
)
def test_what_it_writes_can_be_planned(
    rows: list[dict[str, object]],
    options: dict[str, object],
    task: str,
    columns: tuple[object, str, str | None] | None,
    empty_settings: UserConfig,
    tmp_path: Path,
) -> None:
    """Columns, task, batch and length follow from the data, wherever it lies; the plan has no error."""
    data = _write(tmp_path / "else where" / "my file.jsonl", rows)
    made = api.init(None, empty_settings, data=data, **options)  # type: ignore[arg-type]
    assert made.path == Path("my_file/experiment.yaml")
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    assert (written.task, written.models) == (task, ("Tiny-1M-Instruct",))
    assert written.data.path == "../else where/my file.jsonl"
    if columns is not None:
        assert (written.data.input, written.data.output, written.data.messages) == columns
    plan = api.plan(made.path, empty_settings).plan
    assert len(plan.runs) == 7
    assert all(run.batches is None or run.batches.longest_example_tokens <= run.train.max_seq_len for run in plan.runs)


def test_a_row_beyond_the_models_context_is_a_warning(empty_settings: UserConfig, tmp_path: Path) -> None:
    """No length is written that the model does not have."""
    rows = [{"question": f"{n} " * (2_000 if n % 3 else 2), "answer": f"yes {n}"} for n in range(60)]
    made = api.init(None, empty_settings, data=_write(tmp_path / "long.jsonl", rows))  # type: ignore[arg-type]
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    context = load_model("Tiny-1M-Instruct", empty_settings.models_dir).context_length
    assert written.train.max_seq_len == context
    assert any(note.startswith("warning: the longest row") for note in made.notes)


def test_nothing_is_replaced_and_nothing_is_left_after_a_fault(empty_settings: UserConfig, tmp_path: Path) -> None:
    """An experiment that is there, data that is not, a column or a model that does not exist, several models."""
    data = _write(tmp_path / "reviews.jsonl", REVIEWS)
    api.init(tmp_path / "first", empty_settings, data=data)
    before = (tmp_path / "first" / "experiment.yaml").read_bytes()
    with pytest.raises(PolicyError):
        api.init(tmp_path / "first", empty_settings, data=data)
    assert (tmp_path / "first" / "experiment.yaml").read_bytes() == before
    write_tiny_model(tmp_path / "models" / "Tiny-2M-Instruct", seed=1)
    for changed in (
        {"data": tmp_path / "absent.csv", "model": "Tiny-1M-Instruct"},
        {"data": data, "model": "Tiny-1M-Instruct", "input_columns": ["txt"]},
        {"data": data, "model": "absent"},
    ):
        with pytest.raises(InputError):
            api.init(tmp_path / "second", empty_settings, **changed)  # type: ignore[arg-type]
        assert not (tmp_path / "second").exists()


def test_columns_are_asked_for_only_where_they_are_not_found(empty_settings: UserConfig, tmp_path: Path) -> None:
    """A row that cannot be read, or a value that does not fit, is not fixed by naming the columns."""
    for name, content, asked in (
        ("semicolons.csv", "text;label\n" + "".join(f"a{number};b\n" for number in range(9)), False),
        ("empty.csv", "", False),
        ("one.jsonl", '{"input": "a", "output": "b"}\n', False),
        ("columns.csv", "a,b\n", False),
        ("test.json", '{"test": [{"input": "a", "output": "b"}]}', False),
        ("broken.jsonl", '{"text": "a", "label"\n', False),
        ("kinds.jsonl", "".join(f'{{"text": "a{number}", "label": true}}\n' for number in range(9)), False),
        ("headers.csv", "Review Text,Its Mark\n" + "".join(f"a{number},b\n" for number in range(9)), True),
    ):
        (tmp_path / name).write_text(content)
        caught = refusal(api.init, None, empty_settings, data=tmp_path / name)
        assert name in ("one.jsonl", "columns.csv", "test.json") or (caught.hint is not None) is asked, name
        assert caught.findings
