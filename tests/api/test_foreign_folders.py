"""Commands on folders that another tool made: they say what is known and what is not, and write nothing into them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.api.test_stated_facts import write_log
from tests.cases import call_main
from tests.results.made_seed002 import NAME, make

pytestmark = [pytest.mark.planning, pytest.mark.slow]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))
    return partial(call_main, monkeypatch, capsys)


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
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


RUNS = ["1B_rank4", "1B_rank64", "3B_rank4", "3B_rank64"]


def test_every_command_that_reads_works_and_writes_nothing(call: Call, seed: Path, plain: Path) -> None:
    for folder, names in ((seed, RUNS), (plain, ["slurm-101", "slurm-102"])):
        before = state(folder)
        for verb in ("status", "results"):
            code, told, talk = call(verb, folder)
            assert code == 0, (verb, talk)
            assert all(name in told for name in names), (verb, told)
            code, told, _ = call(verb, folder, "--json")
            assert code == 0
            json.loads(told)
        assert state(folder) == before


def test_what_is_not_known_is_said(call: Call, seed: Path) -> None:
    _, told, _ = call("status", seed, "--json")
    runs = json.loads(told)["runs"]
    assert [run["name"] for run in runs] == RUNS
    assert {run["seconds_left"]["missing"] for run in runs} == {"nothing was planned here"}
    assert all(run["steps_done"] for run in runs)


def test_what_needs_a_plan_refuses_such_a_folder(call: Call, seed: Path) -> None:
    before = state(seed)
    for words in (("collect",), ("clean",), ("clean", "--delete"), ("logs", "--run", "1B_rank4")):
        code, _, talk = call(words[0], seed, *words[1:])
        assert code == 2, words
        assert "experiment.yaml" in talk
    assert state(seed) == before


def test_a_folder_without_runs_is_an_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for verb in ("status", "results"):
        assert call(verb, tmp_path / "empty")[0] == 2
