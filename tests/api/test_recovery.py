"""Recovery as users see it: out of memory, errors once and twice, cancelled runs; on the tiny model, here."""

from contextlib import suppress
from pathlib import Path

import pytest
from tests.api.faults import plant
from tests.api.folders import environment, make_experiment
from tests.cases import some

from touchline import api
from touchline.core.errors import RunsFailedError
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
