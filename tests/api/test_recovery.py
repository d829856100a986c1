"""Failed trainings are tried again as far as it helps, and a run is reproduced."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import command, environment, make_experiment, touchline
from tests.api.harm import kill_everything, plant, wait_for_steps
from tests.cases import some

from touchline import api
from touchline.core.errors import RunsFailedError
from touchline.core.files import sha256_file
from touchline.core.status import JobState, RunStatus
from touchline.data.user_config import UserConfig, load_settings
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import read_ledger
from touchline.run.statusfiles import read_attempts

pytestmark = pytest.mark.slow


OVERRIDES = ("train.micro_batch_size=4", "train.packed=false", "train.epochs=1", "evaluate.samples=4")


@pytest.fixture
def settings(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    for name, value in environment(models, tmp_path / "cache", tmp_path / "history").items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_experiment(tmp_path / "tiny", n_train=48, n_test=8)


def test_out_of_memory_halves_the_micro_batch_and_the_siblings_learn_it(
    tmp_path: Path, folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 do not fit, 2 do: the global batch stays, each change is a revision, the sibling never fails."""
    plant(tmp_path / "planted", monkeypatch, oom_above="2")
    said: list[str] = []
    found = api.run(folder, settings, OVERRIDES, on_message=said.append)
    assert all(result.status is RunStatus.COMPLETED for result in found)
    plan = ExperimentFolder(folder).read_plan()
    assert plan is not None
    for run in some(plan.runs):
        if run.train is not None and run.batches is not None:
            assert (run.train.micro_batch_size, run.train.global_batch_size) == (2, 8)
            assert run.batches.gradient_accumulation_steps == 4
    reasons = [revision.reason for revision in plan.revisions]
    assert sum("out of memory" in reason for reason in reasons) == 1
    assert sum("sibling" in reason for reason in reasons) == 1
    first, second = (result for result in found if result.steps_planned)
    assert (first.attempts, second.attempts) == (2, 1)
    assert [(each.state, each.superseded) for each in first.attempt_list] == [
        (JobState.OUT_OF_MEMORY, True),
        (JobState.COMPLETED, False),
    ]
    moved = [read_attempts(path / "status") for path in sorted((folder / first.name / "superseded").iterdir())]
    assert [attempts[-1].state for attempts in moved] == [JobState.OUT_OF_MEMORY]
    assert sum("out of memory" in sentence for sentence in said) == 1
    assert api.run(folder, settings, OVERRIDES) == api.results(folder)


@pytest.mark.thorough
def test_an_error_is_tried_once_more_and_then_stopped_with_its_line(
    tmp_path: Path, folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other runs end well; a third call does not try again, unless it is told to."""
    plant(tmp_path / "planted", monkeypatch, raise_at="3")
    said: list[str] = []
    with pytest.raises(RunsFailedError):
        api.run(folder, settings, OVERRIDES, only="1M_rank2", on_message=said.append)
    status = folder / "1M_rank2" / "status"
    assert len(read_attempts(status)) == 2
    (stopped,) = (sentence for sentence in said if "stopped" in sentence)
    assert "the weights of layer 3 went away" in stopped
    decided = [(e.state, e.job) for e in read_ledger(folder / "ledger.jsonl") if e.event == "decided"]
    assert decided == [("again", "1M_rank2"), ("stop", "1M_rank2")]
    with pytest.raises(RunsFailedError):
        api.resume(folder, settings, only="1M_rank2", on_message=said.append)
    assert len(read_attempts(status)) == 2
    assert "--retry" in said[-1]
    monkeypatch.delenv("FAULT_RAISE_AT")
    (found, *_) = api.resume(folder, settings, only="1M_rank2", retry=True)
    assert found.status is RunStatus.COMPLETED
    assert len(read_attempts(status)) == 3


@pytest.mark.thorough
def test_an_error_that_does_not_come_again_costs_one_attempt(
    tmp_path: Path, folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines err."""
    plant(tmp_path / "planted", monkeypatch, raise_at="3", once=str(tmp_path / "once"))
    (found, *_) = api.run(folder, settings, OVERRIDES, only="1M_rank2")
    assert found.status is RunStatus.COMPLETED
    assert found.attempts == 2


def test_cancelling_all_starts_no_evaluation(folder: Path, settings: UserConfig) -> None:
    """Neither of what was trained nor of a control; the next run does what is missing."""
    cancelled: list[str] = []

    def cancel(*_: object) -> None:
        if not cancelled:
            cancelled.extend(api.cancel(folder, settings))

    with suppress(RunsFailedError):
        api.run(folder, settings, OVERRIDES, on_progress=cancel)
    assert any("base" in name for name in cancelled)
    assert not any(run.evaluations for run in api.results(folder))


FINISHED = Path(__file__).resolve().parents[1] / "fixtures" / "written-by-0.1.0" / "finished"
RUN = "1M_rank4"


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A reproduction of the fixture's run, which is itself a finished run to reproduce."""

    root: Path
    env: dict[str, str]
    answer: dict[str, Any]
    before: Mapping[str, str]
    after: Mapping[str, str]


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Reproduced:
    root = tmp_path_factory.mktemp("reproduce")
    original = Path(shutil.copytree(FINISHED, root / "finished"))
    env = environment(models, root / "cache")
    before = files(original)
    done = touchline("reproduce", str(original), "--run", RUN, "--out", str(root / "first"), "--json", env=env)
    assert done.returncode == 0, done.stderr
    return Reproduced(root, env, json.loads(done.stdout), before, files(original))


def test_a_run_of_another_machine_is_reproduced_beside_it(first: Reproduced) -> None:
    """An earlier version trained it, on a processor that is perhaps not this one."""
    assert first.answer["outcome"] in ("byte-equal", "within tolerance")
    assert first.after == first.before
    assert first.answer["folder"] == str(first.root / "first" / RUN)
    assert {each["what"] for each in first.answer["losses"]} == {"training loss", "validation loss"}
    assert first.answer["scores"][0]["items"] == 20


def test_a_killed_reproduction_is_resumed_and_byte_equal(first: Reproduced) -> None:
    words = ["reproduce", str(first.root / "first"), "--run", RUN, "--out", str(first.root / "second")]
    killed = subprocess.Popen(
        command(*words), env=first.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    wait_for_steps(killed, first.root / "second" / RUN, 2)
    kill_everything(killed)  # type: ignore[arg-type]
    done = touchline(*words, env=first.env)
    assert done.returncode == 0, done.stderr
    assert f"{RUN}: byte-equal" in done.stdout
    metrics = first.root / "second" / RUN / "metrics.jsonl"
    trained = metrics.stat().st_mtime_ns
    again = touchline(*words, "--json", env=first.env)
    assert json.loads(again.stdout)["outcome"] == "byte-equal"
    assert metrics.stat().st_mtime_ns == trained


@pytest.mark.thorough
def test_another_library_gives_close_numbers(first: Reproduced) -> None:
    """A torch of another version is recorded, and this one computes without vector instructions, as others may."""
    if platform.machine() != "x86_64":
        pytest.skip("the kernels without vector instructions are the usual ones here")
    other = Path(shutil.copytree(first.root / "first", first.root / "other"))
    metrics = other / RUN / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"torch":"', '"torch":"1.', 1))
    env = first.env | {"ATEN_CPU_CAPABILITY": "default"}
    done = touchline("reproduce", str(other), "--run", RUN, "--json", env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "within tolerance"
    assert [each["what"] for each in answer["environment"]] == ["torch"]
    assert answer["weights"]["equal"] == 0
    assert 0 < answer["weights"]["relative"] < 1e-2
    assert all(check["found"] <= check["allowed"] for check in answer["checks"])
    assert Path(answer["folder"]).samefile(other / "reproduced" / RUN / RUN)
