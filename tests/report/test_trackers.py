"""From metrics.jsonl and results to TensorBoard and W&B: names, steps, ids; nothing is exported twice."""

import importlib.util
import math
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.folders import make_experiment, tiny_settings
from tests.api.made_runs import START, VALIDATION, finish, rows, steps

from touchline import api
from touchline.core.errors import HostError, InputError, PolicyError, install_hint
from touchline.core.files import try_lock
from touchline.core.status import RunStatus
from touchline.data.metrics import AttemptRow, EndRow, Metrics, MetricsRow
from touchline.data.metrics_file import read_metrics
from touchline.experiment.plan import Plan, PlannedRun
from touchline.report import trackers as exporting
from touchline.report.trackers import Point, RunSeries, run_id, run_series
from touchline.results.collect import collect_results
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning

NO_METRICS = Metrics(attempts=(), steps=(), validations=(), checkpoints=(), end=None, superseded_steps=0, torn_lines=0)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("series")
    settings = tiny_settings(folder, tiny_model)
    experiment = make_experiment(folder / "exp")
    return finish(experiment, settings), experiment


def trained(planned: tuple[Plan, Path]) -> tuple[Plan, PlannedRun, RunResult, Path]:
    plan, folder = planned
    (result,) = [each for each in collect_results(plan, folder) if each.name == plan.runs[0].name]
    return plan, plan.runs[0], result, folder / plan.runs[0].name


def read(tmp_path: Path, items: list[MetricsRow]) -> Metrics:
    # A loss that is no number is null in JSON as pydantic writes it.
    (tmp_path / "metrics.jsonl").write_bytes(rows(items).replace(b'"loss":null', b'"loss":NaN'))
    return read_metrics(tmp_path / "metrics.jsonl")


def test_a_training_and_its_scores_are_all_there(planned: tuple[Plan, Path]) -> None:
    """Every step with its figures and their units; scores at the step of their checkpoint."""
    plan, run, result, folder = trained(planned)
    found = run_series(plan, run, result, read_metrics(folder / "metrics.jsonl"))
    assert run.batches is not None
    assert [point.step for point in found.training] == list(range(1, run.batches.steps + 1))
    first = found.training[0].values
    assert first["train/loss"] == 1.0
    assert first["train/tokens_per_second"] == 40.0
    assert first["train/peak_memory_process_gib"] == 2.0
    assert "train/gpu_percent" not in first, "what was not measured is left out"
    (score,) = found.evaluations
    assert score.step == run.batches.steps
    assert score.values["evaluation/capitalization/exact_match"] == 1.0
    assert score.values["evaluation/capitalization/exact_match_low"] < 1.0
    assert score.values["evaluation/capitalization/items"] == 24
    assert found.config["lora_rank"] == run.train.lora.rank  # type: ignore[union-attr]
    assert found.config["train.lora.rank"] == str(run.train.lora.rank)  # type: ignore[union-attr]
    assert found.status == "completed"
    assert not found.failed


def test_a_control_has_its_score_at_step_0(planned: tuple[Plan, Path]) -> None:
    plan, folder = planned
    control = plan.runs[-1]
    (result,) = [each for each in collect_results(plan, folder) if each.name == control.name]
    found = run_series(plan, control, result, NO_METRICS)
    assert found.training == ()
    assert [point.step for point in found.evaluations] == [0]
    assert found.started_unix > 0, "a tracker wants a time; the plan's day is one"


def test_what_was_not_done_twice_stands_once(planned: tuple[Plan, Path], tmp_path: Path) -> None:
    """A step that was done again after a kill is told as it was done last; a validation joins its step."""
    plan, run, result, _ = trained(planned)
    resume = replace(START, event="resume", attempt=2, from_step=3, time_unix=2000.0)
    again = [replace(row, loss=9.0) for row in steps(3, first=4, attempt=2, since=2000.0)]
    checked = replace(VALIDATION, step=5, loss=0.5)
    metrics = read(tmp_path, [START, VALIDATION, *steps(5), resume, *again, checked])
    found = run_series(plan, run, result, metrics)
    assert [point.step for point in found.training] == [0, 1, 2, 3, 4, 5, 6]
    assert [point.values.get("train/loss") for point in found.training[4:]] == [9.0, 9.0, 9.0]
    assert found.training[0].values == {"validation/loss": 0.25}
    assert found.training[5].values["validation/loss"] == 0.5


def test_the_last_step_of_a_run_at_work_is_held_back(planned: tuple[Plan, Path], tmp_path: Path) -> None:
    """Its validation may still follow, and a tracker takes a step once."""
    plan, run, result, _ = trained(planned)
    metrics = read(tmp_path, [START, *steps(4)])
    at_work = replace(result, status=RunStatus.RUNNING)
    assert [point.step for point in run_series(plan, run, at_work, metrics).training] == [1, 2, 3]
    killed = replace(result, status=RunStatus.INTERRUPTED)
    assert [point.step for point in run_series(plan, run, killed, metrics).training] == [1, 2, 3, 4]


def test_a_loss_that_is_no_number_stays_none(planned: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, run, result, _ = trained(planned)
    metrics = read(tmp_path, [START, replace(steps(1)[0], loss=math.nan)])
    (point,) = run_series(plan, run, result, metrics).training
    assert math.isnan(point.values["train/loss"])


@given(written=st.integers(0, 40), every=st.integers(1, 7))
def test_a_series_only_grows_at_its_end(planned: tuple[Plan, Path], written: int, every: int) -> None:
    """Whatever was exported at any moment of a training is the beginning of what is exported later."""
    plan, run, result, _ = trained(planned)
    whole: list[MetricsRow] = [START, VALIDATION]
    for row in steps(30):
        whole.append(row)
        if row.step % every == 0:
            whole.append(replace(VALIDATION, step=row.step, loss=1.0))
    metrics = [_gathered(whole[: 1 + written]), _gathered(whole)]
    at_work = replace(result, status=RunStatus.RUNNING)
    early = run_series(plan, run, at_work, metrics[0]).training
    assert run_series(plan, run, result, metrics[1]).training[: len(early)] == early


def _gathered(items: list[MetricsRow]) -> Metrics:
    return replace(
        NO_METRICS,
        attempts=tuple(row for row in items if isinstance(row, AttemptRow)),
        steps=tuple(row for row in items if row.event == "step"),  # type: ignore[misc]
        validations=tuple(row for row in items if row.event == "validation"),  # type: ignore[misc]
        end=next((row for row in items if isinstance(row, EndRow)), None),
    )


def test_the_id_is_the_trainings(planned: tuple[Plan, Path]) -> None:
    """The same wherever the folder lies and however often it was resumed; another for another training."""
    plan, run, *_ = trained(planned)
    known = run_id(plan.experiment, run, START)
    assert known == run_id(plan.experiment, run, START)
    others = [
        run_id("another", run, START),
        run_id(plan.experiment, replace(run, digest="0"), START),
        run_id(plan.experiment, run, replace(START, time_unix=1001.0)),
        run_id(plan.experiment, run, None),
        run_id(plan.experiment, plan.runs[1], START),
    ]
    assert len({known, *others}) == 6


def test_a_resumed_training_keeps_its_id_and_a_fresh_one_does_not(planned: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, run, result, _ = trained(planned)
    resume = replace(START, event="resume", attempt=2, from_step=3, time_unix=2000.0)
    once = run_series(plan, run, result, read(tmp_path, [START, *steps(3)]))
    more = steps(2, first=4, attempt=2)
    resumed = run_series(plan, run, result, read(tmp_path, [START, *steps(3), resume, *more]))
    fresh = run_series(
        plan, run, result, read(tmp_path, [START, *steps(3), replace(resume, event="start", from_step=0)])
    )
    assert once.id == resumed.id
    assert once.id != fresh.id
    assert fresh.started_unix == 2000.0


@pytest.mark.parametrize("name", ["a" * 80, "135M_rank4", "x.y-z_0", "A/b #?:%é"])
def test_an_id_is_one_that_every_tracker_takes(planned: tuple[Plan, Path], name: str) -> None:
    plan, run, *_ = trained(planned)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", run_id(plan.experiment, replace(run, name=name), START))


class Kept:
    """A tracker that keeps what it is given."""

    VARIABLE = "KEPT_DIR"

    def __init__(self) -> None:
        self.written: dict[str, list[tuple[int, tuple[Point, ...]]]] = {}

    def view(self, directory: Path) -> str | None:
        return str(directory)

    def write(self, directory: Path, run: RunSeries, new: tuple[Point, ...], first: int) -> None:
        assert directory.is_dir()
        self.written.setdefault(run.run, []).append((first, new))

    def command(self, directory: Path, run: RunSeries) -> str | None:
        return f"upload {run.id}"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    tracker = Kept()
    monkeypatch.setattr(exporting, "open_tracker", lambda name: tracker)
    return tracker


def test_every_run_gets_there_and_nothing_twice(planned: tuple[Plan, Path], kept: Kept, tmp_path: Path) -> None:
    plan, folder = planned
    assert plan.runs[0].batches is not None
    first = api.export(folder, "wandb", directory=tmp_path)
    counts = {run.name: (0 if run.batches is None else run.batches.steps) + 1 for run in plan.runs}
    assert {run.run: run.added for run in first.runs} == counts
    assert {name: len(new) for name, [(_, new)] in kept.written.items()} == counts
    again = api.export(folder, "wandb", directory=tmp_path)
    assert [(run.added, run.total, run.command) for run in again.runs] == [
        (0, run.total, f"upload {run.id}") for run in first.runs
    ]
    assert {len(writes) for writes in kept.written.values()} == {1}


@pytest.mark.parametrize("note", [None, "", "[]", '{"points": 3'])
def test_what_came_since_is_added(
    planned: tuple[Plan, Path], kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str | None
) -> None:
    """In parts without a gap; a spoiled note about earlier parts begins again."""
    plan, folder = planned
    run = plan.runs[1]
    monkeypatch.setenv("KEPT_DIR", str(tmp_path))
    whole = (folder / run.name / "metrics.jsonl").read_bytes()
    begun = rows([START, *steps(7)])
    (folder / run.name / "metrics.jsonl").write_bytes(begun)
    try:
        api.export(folder, "wandb", only=run.name)
        (written,) = tmp_path.glob("*.touchline.json")
        if note is not None:
            written.write_text(note)
        (folder / run.name / "metrics.jsonl").write_bytes(rows([START, *steps(9)]))
        (done,) = api.export(folder, "wandb", only=run.name).runs
    finally:
        (folder / run.name / "metrics.jsonl").write_bytes(whole)
    assert done.added == (2 if note is None else 10)


def test_a_run_without_data_is_named_and_two_exports_at_once_are_refused(
    planned: tuple[Plan, Path], kept: Kept, tmp_path: Path
) -> None:
    plan, folder = planned
    control = plan.runs[-1].name
    (folder / control / "eval").rename(tmp_path / "eval")
    try:
        done = api.export(folder, "wandb", directory=tmp_path)
    finally:
        (tmp_path / "eval").rename(folder / control / "eval")
    assert [text.split(":")[0] for text in done.skipped] == [control]
    lock = try_lock(folder / ".touchline" / "export-wandb.lock")
    assert lock is not None
    try:
        with pytest.raises(PolicyError, match="being exported to wandb by another command"):
            api.export(folder, "wandb", directory=tmp_path)
    finally:
        os.close(lock)


@pytest.mark.parametrize("tracker", exporting.TRACKERS)
def test_a_tracker_that_is_not_installed_or_unknown_is_named(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError) as told:
        exporting.open_tracker(tracker)
    assert told.value.hint == install_hint(tracker)
    with pytest.raises(InputError, match="there is no tracker 'aim'"):
        exporting.open_tracker("aim")


def test_tensorboard_reads_an_export_back(planned: tuple[Plan, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan, folder = planned
    done = api.export(folder, "tensorboard", directory=tmp_path)
    assert done.view is not None
    run = run_series(*trained(planned)[:3], read_metrics(folder / plan.runs[0].name / "metrics.jsonl"))
    seen = EventAccumulator(str(tmp_path / run.run)).Reload()
    events = seen.Scalars("train/loss")
    assert [(event.step, event.wall_time) for event in events] == [(p.step, p.time_unix) for p in run.training]
    assert [event.value for event in events] == pytest.approx([p.values["train/loss"] for p in run.training])
    assert seen.Scalars("evaluation/capitalization/exact_match")[0].value == 1.0


def test_wandb_writes_an_offline_run_of_each_part(planned: tuple[Plan, Path], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    plan, folder = planned
    name = plan.runs[0].name
    for _ in range(2):
        (done,) = api.export(folder, "wandb", directory=tmp_path, only=name).runs
        assert done.command is not None
        program, sync, *places = shlex.split(done.command)
        assert (program, sync) == ("wandb", "sync")
        assert [path.parent for path in tmp_path.rglob("*.wandb")] == [Path(place) for place in places]
