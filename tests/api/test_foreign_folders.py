"""Commands on folders that another tool made: they say what is known and what is not, and write nothing into them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.test_stated_facts import write_log
from tests.results.made_seed002 import NAME, make

pytestmark = [pytest.mark.planning, pytest.mark.slow]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`touchline ...`: exit code, stdout, stderr."""
    from touchline.cli.main import main

    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["touchline", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert isinstance(end.value.code, int)
        return end.value.code, told.out, told.err

    return run


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trainings of torchtune whose jobs failed by their last command."""
    return make(tmp_path_factory.mktemp("found") / NAME)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder of nothing but two jobs' outputs."""
    write_log(tmp_path / "plain" / "slurm-101.out")
    write_log(tmp_path / "plain" / "slurm-102.out")
    return tmp_path / "plain"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of everything in a folder."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


RUNS = ["1B_rank4", "1B_rank64", "3B_rank4", "3B_rank64"]


def test_every_command_that_reads_works_and_writes_nothing(call: Call, seed: Path, plain: Path) -> None:
    for folder, names in ((seed, RUNS), (plain, ["slurm-101", "slurm-102"])):
        before = state(folder)
        for words in (("status",), ("results",), ("collect",), ("clean",)):
            code, told, talk = call(*words, folder)
            assert code == 0, (words, talk)
            assert words == ("clean",) or all(name in told for name in names), (words, told)
            code, told, _ = call(*words, folder, "--json")
            assert code == 0
            json.loads(told)
        code, told, talk = call("logs", folder, "--run", names[0], "-n", "3")
        assert code == 0
        assert len(told.splitlines()) == 3
        assert names[0] in talk
        assert state(folder) == before


def test_what_is_not_known_is_said(call: Call, seed: Path) -> None:
    _, told, talk = call("status", seed, "--json")
    assert "no plan, queue and time limit are known" in talk
    runs = json.loads(told)["runs"]
    assert [run["name"] for run in runs] == RUNS
    assert {run["seconds_left"]["missing"] for run in runs} == {"nothing was planned here"}
    assert all(run["steps_done"] for run in runs)
    code, _, talk = call("logs", seed)
    assert code == 2
    assert "--run with one of 1B_rank4" in talk
    code, _, talk = call("logs", seed, "--run", "1B_rank5")
    assert code == 2
    code, told, _ = call("logs", seed / "1B_rank4", "-n", "2")
    assert code == 0
    assert len(told.splitlines()) == 2


def test_collect_writes_where_it_is_told_and_never_into_the_folder(call: Call, seed: Path, tmp_path: Path) -> None:
    _, _, talk = call("collect", seed)
    assert "nothing was written" in talk
    assert "--out" in talk
    out = tmp_path / "out"
    code, _, _ = call("collect", seed, "--out", out)
    assert code == 0
    assert sorted(path.parent.name for path in out.glob("*/run_metrics.yaml")) == RUNS
    digest = hashlib.sha256((out / "runs_status.yaml").read_bytes()).hexdigest()
    call("collect", seed, "--out", out)
    assert hashlib.sha256((out / "runs_status.yaml").read_bytes()).hexdigest() == digest
    for inside in (seed, seed / "new", seed / ".." / seed.name / "x"):
        code, _, talk = call("collect", seed, "--out", inside)
        assert code == 2
        assert "another tool made" in talk
    assert not (seed / "new").exists()


def test_nothing_of_another_tool_is_deleted(call: Call, seed: Path) -> None:
    before = state(seed)
    code, _, talk = call("clean", seed, "--delete")
    assert code == 3
    assert "made by another tool" in talk
    assert state(seed) == before


def test_a_folder_without_runs_is_an_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (("status",), ("results",), ("collect",), ("clean",), ("logs",)):
        code, _, talk = call(*words, tmp_path / "empty")
        assert code == 2, words
        assert "holds no run" in talk
