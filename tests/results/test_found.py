"""Seed 002's runs: what a report must get right of them that a report by hand got wrong."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import some
from tests.report import made_gathered
from tests.results.made_seed002 import EPOCHS, NAME, RUNS, TEXTS, log_of, make

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.units import GIB
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.build import build_report
from touchline.report.markdown import results_markdown
from touchline.results.imported import find
from touchline.results.imported import issues as module
from touchline.results.imported.issues import folder_issues, no_op_issues
from touchline.results.report_inputs import Issue, ReportInputs
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def gathered(folder: Path) -> ReportInputs:
    return find(folder)


@pytest.fixture(scope="module")
def markdown(gathered: ReportInputs) -> str:
    return results_markdown(build_report(gathered), (), "")


def value(measured: Quantity | Missing) -> float:
    assert isinstance(measured, Quantity), measured
    return measured.value


def run_of(gathered: ReportInputs, name: str) -> RunResult:
    return next(run for run in gathered.runs if run.name == name)


def issues(gathered: ReportInputs, words: str, subject: str | None = None) -> list[Issue]:
    return [each for each in gathered.issues if words in each.title and subject in (None, each.subject)]


# ---- four complete trainings with failed exits -----------------------------------------------------------------------


def test_four_complete_trainings_with_failed_exits(gathered: ReportInputs) -> None:
    assert [run.name for run in gathered.runs] == [run.name for run in RUNS]
    for run in some(gathered.runs):
        assert run.outcome is TrainingOutcome.COMPLETE
        assert run.job_state is JobState.FAILED
        assert run.status is RunStatus.COMPLETED_FAILED_EXIT
    told = issues(gathered, "failed exit, complete training")
    assert [each.subject for each in told] == [run.name for run in RUNS]
    for issue, run in zip(told, RUNS, strict=True):
        assert "are the same file" in issue.lines[0]
        assert "exit code 1:0" in issue.text
        assert issue.where is not None
        file, _, line = issue.where.partition(":")
        assert file == f"{run.name}/slurm-{run.job}.out"
        assert (TEXTS / file).read_bytes().split(b"\n")[int(line) - 1].startswith(b"mv: ")


def test_the_report_counts_them_as_complete_and_tells_the_cause_once(gathered: ReportInputs, markdown: str) -> None:
    assert build_report(gathered).completed == 4
    assert "0 of 4" not in markdown
    (cause,) = issues(gathered, "moved onto itself")
    assert "4 of 4 of these runs are complete" in cause.text


# ---- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", RUNS, ids=lambda run: run.name)
def test_figures_are_those_of_the_logs(gathered: ReportInputs, known: object) -> None:
    expected = next(run for run in RUNS if run is known)
    run = run_of(gathered, expected.name)
    assert (run.steps_done, run.steps_planned) == (expected.steps, expected.steps)
    assert value(run.final_train_loss) == pytest.approx(expected.loss)
    assert value(run.final_val_loss) == pytest.approx(expected.validation)
    assert value(run.train_seconds) == expected.seconds
    assert value(run.peak_memory) == pytest.approx(expected.memory * GIB)
    assert run.model == expected.base.name
    assert {level.factor: level.value for level in run.levels}["train.lora.rank"] == str(expected.rank)
    assert run.train_losses[-1].step == expected.steps
    assert run.validation_losses[-1].loss == pytest.approx(expected.validation)
    assert run.settings["effective_batch_size"] == expected.batch
    assert run.settings["epochs"] == EPOCHS


def test_every_number_names_its_file_and_line(gathered: ReportInputs) -> None:
    for run in some(gathered.runs):
        for measured in (run.final_train_loss, run.final_val_loss, run.train_seconds, run.tokens_per_second):
            assert isinstance(measured, Quantity)
            assert measured.where is not None
            file, _, line = measured.where.partition(":")
            assert 1 <= int(line) < len((TEXTS / run.name / file).read_bytes().split(b"\n"))


def test_rates_are_of_label_tokens_and_the_last_logged_ones(gathered: ReportInputs) -> None:
    for run, known in zip(some(gathered.runs), RUNS, strict=True):
        rate = run.tokens_per_second
        assert isinstance(rate, Quantity)
        assert (rate.value, rate.unit, rate.token_unit, rate.aggregation) == (
            known.rate, "tokens/s/GPU", "label", "last",
        )  # fmt: skip
        assert rate.method is not None
        assert "of one step" in rate.method


def test_the_newest_log_counts_and_the_older_is_an_attempt(gathered: ReportInputs) -> None:
    run = run_of(gathered, "3B_rank64")
    assert [(each.job_id, each.state) for each in run.attempt_list] == [
        ("61000412", JobState.FAILED),
        ("61000504", JobState.FAILED),
    ]
    assert "memory" in run.attempt_list[0].reason
    assert gathered.files["3B_rank64"][0] == ("log", "3B_rank64/slurm-61000412.out")
    assert [path for what, path in gathered.files["3B_rank64"] if what == "log"][-1] == "3B_rank64/slurm-61000504.out"


def test_what_varied_and_when(gathered: ReportInputs) -> None:
    assert gathered.experiment == NAME
    assert gathered.date == "2025-10-18"
    assert gathered.plan is None
    assert set(gathered.factors) == {"models", "train.lora.rank"}
    assert gathered.factors["train.lora.rank"] == ("4", "64")


# ---- what the report by hand got wrong -------------------------------------------------------------------------------


def test_sizes_are_those_of_the_files(gathered: ReportInputs, markdown: str) -> None:
    storage = {each.run: each for each in gathered.verification.storage.runs}
    full = {name: value(each.full_model_bytes) / GIB for name, each in storage.items()}
    assert full == pytest.approx({"1B_rank4": 7.22, "1B_rank64": 7.44, "3B_rank4": 18.33, "3B_rank64": 18.80}, abs=0.01)
    assert value(storage["3B_rank64"].adapter_only_bytes) / 2**20 == pytest.approx(515, abs=1)
    assert storage["3B_rank64"].total_bytes / GIB == pytest.approx(19.3, abs=0.05)
    assert "18.8 GiB" in markdown


def test_different_batch_sizes_are_told_as_confounded(gathered: ReportInputs) -> None:
    (issue,) = issues(gathered, "batch size changes with the base model")
    assert "16 with Llama-3.2-1B-Instruct, 8 with Llama-3.2-3B-Instruct" in issue.text
    assert not issues(gathered, "micro-batch")


def test_the_seven_sections_are_there(markdown: str) -> None:
    headings = [line[3:] for line in markdown.splitlines() if line.startswith("## ")]
    wanted = ("Overview", "Key findings", "Issues", "Next steps", "Training results", "Checkpoint", "Storage")
    places = [next(k for k, heading in enumerate(headings) if heading.startswith(word)) for word in wanted]
    assert places == sorted(places)
    assert markdown.startswith("# ")
    assert "wandb sync" in markdown or "tail -n 40" in markdown
    assert len(markdown.split("<details>")[0].splitlines()) <= 120


def test_all_twelve_checkpoints_are_sound(gathered: ReportInputs) -> None:
    assert len(gathered.verification.checkpoints) == 12
    assert all(each.sound for each in gathered.verification.checkpoints)
    assert not gathered.verification.missing


def test_our_own_report_beside_it_changes_nothing(folder: Path, gathered: ReportInputs, markdown: str) -> None:
    ours = {"RESULTS.md": markdown, "report.html": "<p>touchline</p>", "samples.jsonl": "{}\n"}
    for name, text in ours.items():
        (folder / name).write_text(text)
    (folder / "figures").mkdir()
    try:
        assert find(folder) == gathered
    finally:
        for name in ours:
            (folder / name).unlink()
        (folder / "figures").rmdir()


def test_one_run_folder_alone_is_a_report_too(folder: Path) -> None:
    alone = find(folder / "1B_rank4")
    assert [run.name for run in alone.runs] == ["1B_rank4"]
    assert alone.runs[0].outcome is TrainingOutcome.COMPLETE
    assert alone.factors == {}


def test_a_trainers_word_for_a_size_is_the_only_model_of_that_size(tmp_path: Path) -> None:
    root = make(tmp_path, weights=False)
    log = next((root / "1B_rank4").glob("slurm-*.out"))
    log.write_text(log.read_text(encoding="utf-8").replace("Llama-3.2-1B-Instruct", "base"), encoding="utf-8")
    for config in (root / "1B_rank4").glob("*.yaml"):
        config.unlink()
    assert {run.model for run in find(root).runs} == {"Llama-3.2-1B-Instruct", "Llama-3.2-3B-Instruct"}


@pytest.fixture
def run(tmp_path: Path) -> RunResult:
    folder = tmp_path / "1B_rank4"
    folder.mkdir()
    (folder / "slurm-1.out").write_text(log_of(RUNS[0], failing=False))
    return replace(find(tmp_path).runs[0], job_state=None)


def test_a_sound_folder_and_none_at_all_tell_nothing(tmp_path: Path, run: RunResult) -> None:
    assert folder_issues(tmp_path, [run, replace(run, name="gone")]) == ()


def test_cut_logs_and_broken_scores(tmp_path: Path, run: RunResult) -> None:
    folder = tmp_path / run.name / "eval"
    folder.mkdir()
    with zipfile.ZipFile(folder / "whole_epoch_0.eval", "w") as archive:
        archive.writestr("header.json", "{}")
    (folder / "cut_epoch_0.eval").write_bytes((folder / "whole_epoch_0.eval").read_bytes()[:40])
    (folder / "whole_epoch_0.scores.json").write_text('{"samples": [')
    found = {each.title: each for each in folder_issues(tmp_path, [run])}
    assert set(found) == {"an evaluation's log is truncated", "scores cannot be read"}
    assert found["an evaluation's log is truncated"].where == "1B_rank4/eval/cut_epoch_0.eval"


def test_a_failed_job_shows_its_last_lines(tmp_path: Path, run: RunResult) -> None:
    path = tmp_path / run.name / "slurm-2.out"
    path.write_bytes(
        b"\x00\xff first\n" + b"x" * 100_000 + b"\nbar 1\rbar 2\nHF_TOKEN=hf_abcdefghijklmnopqrst\nKilled\n\n"
    )
    (issue,) = folder_issues(tmp_path, [replace(run, job_state=JobState.FAILED)])
    assert issue.lines[-1] == "Killed"
    assert "bar 2" in issue.lines
    assert not any("hf_abc" in line for line in issue.lines)
    assert all(len(line) <= 300 for line in issue.lines)


def test_no_permission_is_an_issue(tmp_path: Path, run: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module.os, "scandir", refuse)
    (issue,) = folder_issues(tmp_path, [run])
    assert "Permission denied" in issue.text


# ---- no-op controls --------------------------------------------------------------------------------------------------


def record(run: str, outputs: list[str]) -> EvaluationRecord:
    samples = [
        SampleScore(id=f"test-{number}", target="A", output=output, exact=False, match=False)
        for number, output in enumerate(outputs)
    ]
    made = made_gathered.record(run, "base", [True])
    return replace(made, log=f"{run}.eval", task="capitalization", samples=tuple(samples))


def folder_problems(noop: EvaluationRecord, base: EvaluationRecord | None) -> tuple[Issue, ...]:
    control = replace(made_gathered.run("tiny_base", "tiny"), kind=RunKind.CONTROL, control=ControlKind.BASE)
    made = replace(control, name="tiny_noop", control=ControlKind.NO_OP, evaluations=(noop,))
    return no_op_issues([replace(control, evaluations=() if base is None else (base,)), made])


def test_other_answers_are_an_error_though_the_scores_are_the_same() -> None:
    (issue,) = folder_problems(record("tiny_noop", ["x", "z"]), record("tiny_base", ["x", "y"]))
    assert (issue.weight, issue.subject) == (Severity.ERROR, "tiny_noop")
    assert issue.text.startswith("1 of 2 answers on capitalization differ from those of tiny_base")
    assert issue.lines == ("test-1: 'z', without the adapter 'y'",)
    assert issue.where == "tiny_noop/eval/tiny_noop.eval"


@pytest.mark.parametrize(
    "base",
    [
        record("tiny_base", ["y"]),
        None,
        *(replace(record("tiny_base", ["x"]), **{key: "other"}) for key in ("settings_sha256", "data_sha256", "task")),
    ],
    ids=["the same answers", "no base", "other settings", "other items", "another task"],
)
def test_what_is_the_same_or_was_asked_otherwise_is_no_issue(base: EvaluationRecord | None) -> None:
    assert folder_problems(record("tiny_noop", ["y"]), base) == ()
