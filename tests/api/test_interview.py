"""The interview of `touchline init`: through a terminal, by flags, by defaults alone, and from every template."""

from __future__ import annotations

import csv
import hashlib
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

import pexpect
import pytest
from tests.cases import some
from tests.history.made import make_record, number
from tests.tiny_model import write_tiny_words
from typer.main import get_command

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.cli.main import app
from touchline.cli.main import main as run_main
from touchline.core.errors import InputError, PolicyError
from touchline.core.finding import Severity
from touchline.data.user_config import UserConfig
from touchline.experiment.read import read_experiment
from touchline.experiment.site import SlurmSite
from touchline.history.history import store_record
from touchline.history.reading import SourcedText
from touchline.history.record import DatasetFacts
from touchline.run import environments
from touchline.run.interview.answers import Defaulted, Question
from touchline.run.interview.interview import AnswerSource, Interview
from touchline.run.interview.questions import QUESTIONS
from touchline.run.interview.templates import TEMPLATES

pytestmark = pytest.mark.planning

ANSWERS = {
    "vary": "rank=4,16 lr=1e-4,1e-3",
    "model": "Tiny-1M-Instruct",
    "data": "reviews.csv",
    "input": "text",
    "output": "label",
    "task": "exact_match",
    "executor": "local",
    "trainer": "trl",
    "validation": "5",
    "packing": "no",
    "batch_size": "8",
    "controls": "base, noop",
    "epochs": "2",
    "seeds": "3,4",
    "deadline": "2h",
    "name": "first_try",
    "question": "Is it: the rank, or the rate?",
}
"""An answer to every question that is asked with them, on a machine without a GPU and without a cluster."""
MOST_QUESTIONS = 20
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
        """Read up to a prompt; give the name of its question, `again` after an error, None for yes or no or the end."""
        found = self.process.expect([r"> $", r"\[y/N\] $", pexpect.EOF])
        text = self.process.before
        self.seen += text + (self.process.after if found < 2 else "")
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
    for question in some(QUESTIONS):
        assert question.text.endswith("?")
        assert len(question.text) + len(question.flag) < 68


def test_answers_by_keyboard_and_by_flags_write_the_same_file(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole interview; nothing is wider than the terminal, nothing is started, and the command repeats it."""
    terminal = Terminal("exp")
    asked = terminal.answer(ANSWERS)
    assert asked == [*ANSWERS]
    assert max(int(total) for total in re.findall(r"^\d+/(\d+) ", terminal.seen, re.MULTILINE)) <= MOST_QUESTIONS
    terminal.process.sendline("")
    assert terminal.end() == 0
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m", "", terminal.seen).splitlines()) <= 80
    assert "Nothing has been started. Start it now with touchline run? [y/N]" in terminal.seen
    text = (tmp_path / "exp" / "experiment.yaml").read_text()
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["experiment.yaml"]
    (tmp_path / "exp" / "experiment.yaml").unlink()
    assert _run(monkeypatch, "init", "exp", "--yes", *_flags(ANSWERS)) == 0
    assert (tmp_path / "exp" / "experiment.yaml").read_text() == text

    written = read_experiment(text, "experiment.yaml").experiment
    assert written.factors == {"train.lora.rank": [4, 16], "train.learning_rate": [1e-4, 1e-3]}
    assert (written.task, written.seeds, written.controls) == ("exact_match", (3, 4), ("base", "noop"))
    train = written.train
    assert (train.epochs, train.global_batch_size, train.packed, train.backend) == (2, 8, False, "trl")
    assert (train.validate_every_steps, written.compute.deadline) == (5, "2h")
    assert (written.name, written.question) == ("first_try", "Is it: the rank, or the rate?")


def test_what_is_not_asked_is_still_a_flag(settings: UserConfig, tmp_path: Path) -> None:
    """GPUs on a machine without one, and alpha, which follows the rank."""
    answers = {"gpu": ("cpu",), "gpus": ("2",), "alpha": ("32",)}
    made = api.init(tmp_path / "exp", settings, answers=answers, defaults=True)
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    assert (written.compute.gpu, written.compute.gpus_per_run, written.train.lora.alpha) == ("cpu", 2, 32.0)


def test_enter_alone_and_yes_write_the_same_file_which_passes_check(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From an own CSV to a reviewed plan with one command; every default has a reason in the file or the document."""
    terminal = Terminal()
    terminal.answer({})
    terminal.process.sendline("n")
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
    assert len(document["plan"]["runs"]) == 5
    report, _ = api.check([file.parent], settings)
    assert [each for each in report.findings if each.severity is Severity.ERROR] == []
    assert _run(monkeypatch, "init", "--yes", "--replace") == 0
    shown = capfd.readouterr().out
    assert [heading in shown for heading in ("Run design", "All runs", "Totals", "Folders")] == [True] * 4
    assert "1M_rank8_seed2/" in shown


def test_a_wrong_answer_is_asked_again_and_ctrl_c_leaves_nothing(settings: UserConfig, tmp_path: Path) -> None:
    """The message says what is expected; the printed command holds the answers so far and completes the interview."""
    terminal = Terminal("exp")
    assert terminal.question() == "vary"
    terminal.process.sendline("rnak=8,16")
    assert terminal.question() == "again"
    assert "'rank'" in terminal.seen
    terminal.process.sendline("rank=8,16")
    for name, wrong, right in (
        ("model", "absent", ""),
        ("data", "absent.csv", "'reviews.csv'"),
        ("input", "txt", "text"),
        ("output", "txt", ""),
        ("task", "exactmatch", "number"),
    ):
        assert terminal.question() == name
        terminal.process.sendline(wrong)
        assert terminal.question() == "again"
        terminal.process.sendline(right)
    assert terminal.question() == "executor"
    terminal.process.sendintr()
    assert terminal.end() == 130
    assert "no experiment was written" in terminal.seen
    assert not (tmp_path / "exp").exists()
    line = re.sub(r"\r\n", "\n", terminal.seen).partition("with these answers: ")[2].strip()
    words = shlex.split(line)
    expected = [*("touchline", "init", "exp", "--vary", "rank=8,16", "--data", "reviews.csv")]
    assert words == [*expected, "--input", "text", "--task", "number"]
    resumed = Terminal(*words[2:], "--no-start")
    assert resumed.answer({})[0] == "model"
    assert resumed.end() == 0
    assert (tmp_path / "exp" / "experiment.yaml").exists()


def test_an_experiment_is_replaced_only_when_that_is_allowed(settings: UserConfig, tmp_path: Path) -> None:
    """Asked on a terminal before the other questions, refused elsewhere, and allowed by a flag."""
    file = tmp_path / "exp" / "experiment.yaml"
    file.parent.mkdir()
    file.write_text("name: mine\n")
    terminal = Terminal("exp")
    assert terminal.question() is None
    terminal.process.sendline("")
    assert terminal.end() == 3
    assert file.read_text() == "name: mine\n"
    with pytest.raises(PolicyError):
        api.init(file.parent, settings, defaults=True)
    assert file.read_text() == "name: mine\n"
    api.init(file.parent, settings, defaults=True, replace_existing=True)
    assert "factors:" in file.read_text()


def test_all_wrong_flags_are_reported_at_once(settings: UserConfig, tmp_path: Path) -> None:
    """Also those that contradict each other; nothing is asked and nothing is written."""
    wrong = {
        "vary": "epochs=1,2",
        "model": "absent",
        "data": "absent.csv",
        "epochs": "3",
        "batch_size": "many",
        "controls": "base,placebo",
        "gpu": "H9000",
        "seeds": "-1",
        "deadline": "soon",
        "packing": "perhaps",
    }
    with pytest.raises(InputError) as caught:
        api.init(tmp_path / "exp", settings, answers={name: (text,) for name, text in wrong.items()})
    found = {finding.subject for finding in caught.value.findings}
    assert found == {f"--{name.replace('_', '-')}" for name in wrong} - {"--vary"}
    assert not (tmp_path / "exp").exists()
    with pytest.raises(InputError, match="template"):
        api.init(tmp_path / "exp", settings, template="classify")


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if not template.has_images])
def test_every_template_passes_check_and_can_be_planned(name: str, settings: UserConfig, tmp_path: Path) -> None:
    """With its own example data, which is the same in every call; a second call finds it and keeps it."""
    made = api.init(tmp_path / "exp", settings, template=name)
    report, _ = api.check([made.path.parent], settings)
    assert [each for each in report.findings if each.severity is Severity.ERROR] == []
    plan = api.plan(made.path, settings, dry_run=True).plan
    assert len(plan.runs) >= 3
    assert all(path.startswith("data/") for path in plan.datasets)
    assert (max(run.link is not None for run in plan.runs)) is TEMPLATES[name].is_chain
    before = {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()}
    assert len(before) >= 2
    api.init(tmp_path / "exp", settings, template=name, replace_existing=True)
    assert {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()} == before


def test_defaults_come_from_past_runs_of_the_same_model_data_and_task(settings: UserConfig, tmp_path: Path) -> None:
    """A run on other data or of another task leaves the learning rate to the rule, however new it is."""
    write_tiny_model(tmp_path / "models" / "Tiny-2M-Instruct", seed=1)
    sha256 = hashlib.sha256((tmp_path / "reviews.csv").read_bytes()).hexdigest()

    def defaults() -> dict[str, tuple[str, str]]:
        made = api.init(None, settings, defaults=True, replace_existing=True)
        return {answer.question: (answer.texts[0], answer.reason) for answer in made.answers}

    def store(name: str, model: str, task: str, data: str) -> None:
        record = make_record(
            name, model=SourcedText(value=model), epochs=number(3), learning_rate=number(5e-4), steps_done=number(9)
        )
        dataset = DatasetFacts(sha256=SourcedText(value=data))
        own = replace(record, origin="touchline", experiment="before", run=name, task=task, dataset=dataset)
        store_record(settings.history_dir, own)

    store("one", "Tiny-1M-Instruct", "classification", sha256)
    store("two", "Tiny-2M-Instruct", "exact_match", sha256)
    store("three", "Tiny-2M-Instruct", "classification", "0" * 64)
    found = defaults()
    assert [found[name][0] for name in ("model", "epochs", "learning_rate")] == ["Tiny-2M-Instruct", "1", "auto"]
    assert re.match(r"9\.2e-3: LoRA Without Regret, 2025; extrapolated", found["learning_rate"][1])
    store("four", "Tiny-2M-Instruct", "classification", sha256)
    found = defaults()
    assert [found[name][0] for name in ("epochs", "learning_rate")] == ["3", "0.0005"]
    assert "past run" in found["epochs"][1]


@pytest.mark.parametrize(
    ("cluster", "installed", "vary", "trainer"),
    [
        ("", {"peft", "trl", "torchtune"}, "rank=8,16", "peft"),
        ("", {"trl"}, "rank=8,16", "trl"),
        ("", set(), "rank=8,16", "peft"),
        ("sbatch", {"peft", "trl", "torchtune"}, "rank=8,16", "torchtune"),
        ("slurm:", {"peft", "trl", "torchtune"}, "rank=8,16", "torchtune"),
        ("sbatch", {"peft", "trl", "axolotl"}, "rank=8,16", "trl"),
        ("sbatch", {"peft", "llamafactory"}, "rank=8,16", "peft"),
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
    with pytest.raises(InputError):
        api.init(tmp_path / "wrong", settings, answers={**answers, "trainer": ("tochtune",)}, defaults=True)


def test_a_template_keeps_its_task_and_prompt_with_own_data(settings: UserConfig, tmp_path: Path) -> None:
    write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    made = api.init(None, settings, template="capitalization", data=Path("words.json"))
    own = api.plan(made.path, settings, dry_run=True).plan
    example = api.init(tmp_path / "example", settings, template="capitalization")
    theirs = api.plan(example.path, settings, dry_run=True).plan
    assert own.task == theirs.task == "capitalization"
    assert {run.data.prompt for run in own.runs} == {run.data.prompt for run in theirs.runs}


def test_the_folder_has_the_experiments_name_and_the_tree_the_folders(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "init", "--name", "lr2", "--yes") == 0
    assert "\nlr2/\n" in capfd.readouterr().out
    assert not (tmp_path / "reviews").exists()
    (tmp_path / "lr2").rename(tmp_path / "moved")
    assert _run(monkeypatch, "plan", "moved") == 0
    assert "\nmoved/\n" in capfd.readouterr().out
    assert "lr2/\n" not in (tmp_path / "moved" / "runs_plan.md").read_text()


def test_a_name_typed_at_the_end_never_replaces_another_folder(settings: UserConfig, tmp_path: Path) -> None:
    """The user agreed to replace the folder named after the data, and then named another one that exists."""
    for name in ("reviews", "lr2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.yaml").write_text("name: mine\n")
    asked: list[Path] = []

    class User:
        def ask(self, interview: Interview, question: Question, default: Defaulted, problem: InputError | None) -> str:
            return "lr2" if question.name == "name" else ""

        def may_replace(self, path: Path) -> bool:
            asked.append(path)
            return path.parent.name == "reviews"

    with pytest.raises(PolicyError):
        api.init(None, settings, data=Path("reviews.csv"), ask=User())
    assert asked == [Path("reviews/experiment.yaml"), Path("lr2/experiment.yaml")]
    assert (tmp_path / "lr2" / "experiment.yaml").read_text() == "name: mine\n"


def test_starting_needs_a_flag_or_a_yes(
    settings: UserConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started: list[Path] = []
    monkeypatch.setattr("touchline.cli.main.run", started.append)
    assert _run(monkeypatch, "init", "--yes") == 0
    assert started == []
    assert _run(monkeypatch, "init", "again", "--yes", "--start") == 0
    assert started == [Path("again")]
    assert _run(monkeypatch, "init", "more", "--yes", "--start", "--json") == 2
    capfd.readouterr()


def test_data_without_rows_to_train_on_is_an_error(settings: UserConfig, tmp_path: Path) -> None:
    """One row, no training split, a folder, another model: refused, or written and planned, never a traceback."""
    (tmp_path / "folder.csv").mkdir()
    for name, content in (
        ("test.json", json.dumps({"test": [{"input": "a", "output": "b"}]})),
        ("one.jsonl", json.dumps({"input": "a", "output": "b"}) + "\n"),
        ("columns.csv", "a,b\n"),
    ):
        (tmp_path / name).write_text(content)
    for name in ("test.json", "one.jsonl", "columns.csv", "folder.csv"):
        with pytest.raises(InputError):
            api.init(tmp_path / "exp", settings, data=Path(name))
        assert not (tmp_path / "exp").exists()
    with pytest.raises(InputError):
        api.init(tmp_path / "exp", settings, template="vision")


def test_a_chain_of_own_files_and_a_comparison_of_datasets(settings: UserConfig, tmp_path: Path) -> None:
    """Several datasets are stages in a chain, else levels of a factor; several models are a factor too."""
    rows = (tmp_path / "reviews.csv").read_text()
    (tmp_path / "hard.csv").write_text(rows.replace("fine", "neither long nor short"))
    write_tiny_model(tmp_path / "models" / "Tiny-2M-Instruct", seed=1)
    both = {"data": ("reviews.csv", "hard.csv"), "vary": ("none",)}
    chain = api.init(tmp_path / "chain", settings, template="curriculum", answers=both)
    stages = read_experiment(chain.path.read_text(), "experiment.yaml").experiment.stages
    assert [stage.data["path"] for stage in stages] == ["../reviews.csv", "../hard.csv"]
    assert [stage.parent for stage in stages] == [None, "stage1"]
    api.plan(chain.path, settings, dry_run=True)
    with pytest.raises(InputError):
        api.init(tmp_path / "short", settings, template="curriculum", answers={"data": ("hard.csv",)})

    models = ("Tiny-1M-Instruct,Tiny-2M-Instruct",)
    compared = api.init(tmp_path / "compared", settings, answers={**both, "model": models, "seeds": ("1",)})
    plan = api.plan(compared.path, settings, dry_run=True).plan
    assert len([run for run in plan.runs if run.train is not None]) == 4
    assert [answer.source for answer in compared.answers[:3]] == [AnswerSource.FLAG] * 3
