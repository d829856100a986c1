"""Files of planned runs that cannot be read are told, and nothing stops for them."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.results.made_seed002 import RUNS, log_of

from touchline.core.status import JobState
from touchline.results import folder_issues as module
from touchline.results.folder_issues import folder_issues
from touchline.results.imported import find
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning


@pytest.fixture
def run(tmp_path: Path) -> RunResult:
    """A result whose folder is there."""
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
    assert set(found) == {"an evaluation's log is cut", "scores cannot be read"}
    assert found["an evaluation's log is cut"].where == "1B_rank4/eval/cut_epoch_0.eval"


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
