"""Files of planned runs that cannot be read are told; so are no-op controls that do not answer as the base does."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report import made_gathered
from tests.results.made_seed002 import RUNS, log_of

from touchline.core.finding import Severity
from touchline.core.status import JobState
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.imported import find
from touchline.results.imported import issues as module
from touchline.results.imported.issues import folder_issues, no_op_issues
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning


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


def issues(noop: EvaluationRecord, base: EvaluationRecord | None) -> tuple[Issue, ...]:
    control = replace(made_gathered.run("tiny_base", "tiny"), kind=RunKind.CONTROL, control=ControlKind.BASE)
    made = replace(control, name="tiny_noop", control=ControlKind.NO_OP, evaluations=(noop,))
    return no_op_issues([replace(control, evaluations=() if base is None else (base,)), made])


def test_other_answers_are_an_error_though_the_scores_are_the_same() -> None:
    """Both are wrong, and still the adapter has changed something."""
    (issue,) = issues(record("tiny_noop", ["x", "z"]), record("tiny_base", ["x", "y"]))
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
    assert issues(record("tiny_noop", ["y"]), base) == ()
