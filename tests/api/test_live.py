"""What `status` says of a run at any moment, from folders made by hand: statuses, figures, and what needs a person."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tests.api import made_runs as made
from tests.api.folders import make_experiment

from touchline import api
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus
from touchline.data.metrics import EndRow
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.results import live_status as live_module
from touchline.results.collect import collect_results
from touchline.results.live_status import LiveRun, glances, jobs_to_ask, live
from touchline.run.loaded_plan import LoadedPlan
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning

NOW = 2_000_000.0


@dataclass
class Experiment:
    """A prepared experiment of two runs and a control."""

    planned: LoadedPlan

    @property
    def plan(self) -> Plan:
        return self.planned.plan

    @property
    def run(self) -> PlannedRun:
        return self.plan.runs[0]

    @property
    def place(self) -> Path:
        return self.planned.folder.root / self.run.name

    @property
    def control(self) -> Path:
        return self.planned.folder.root / self.plan.runs[-1].name

    def look(self, views: Mapping[str, JobView] | None = None, now: float = NOW) -> LiveRun:
        """The first run."""
        return self.all(views, now)[0]

    def all(self, views: Mapping[str, JobView] | None = None, now: float = NOW) -> list[LiveRun]:
        return live(self.planned, views or {}, now_unix=now)

    def on_slurm(self, **changes: object) -> Experiment:
        return self.replanned(self.run, executor="slurm", **changes)

    def replanned(self, run: PlannedRun, **changes: object) -> Experiment:
        plan = replace(self.plan, runs=(run, *self.plan.runs[1:]), **changes)  # type: ignore[arg-type]
        return Experiment(planned=replace(self.planned, plan=plan))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, settings: UserConfig) -> LoadedPlan:
    folder = make_experiment(tmp_path_factory.mktemp("live") / "tiny")
    api.plan(folder, settings)
    return api.prepare(folder, settings)


@pytest.fixture
def experiment(prepared: LoadedPlan, tmp_path: Path) -> Experiment:
    root = tmp_path / "tiny"
    shutil.copytree(prepared.folder.root, root)
    return Experiment(planned=replace(prepared, folder=type(prepared.folder)(root)))


def view(state: JobState, **more: object) -> JobView:
    known: dict[str, object] = {"job_id": "76", "state": state, "active": not state.ended, "source": "squeue"}
    return JobView(**known | more)  # type: ignore[arg-type]


def codes(run: LiveRun) -> list[str]:
    return [flag.code for flag in run.flags]


def running(experiment: Experiment, *, steps: int = 20, since: float = 100.0, seconds: float = 2.0) -> None:
    """A training at work on another machine: `steps` of them done, the last one just now."""
    last = NOW - 1
    made.begin(experiment.place, at=NOW - since)
    made.beat(experiment.place, NOW)
    rows = [
        replace(made.START, time_unix=NOW - since),
        *made.steps(steps, since=last - steps * seconds, seconds=seconds),
    ]
    made.write_metrics(experiment.place, rows)


def usual_speed(experiment: Experiment, seconds: float = 2.0) -> Experiment:
    """The same plan, had it expected such steps."""
    expected = Quantity(value=seconds, unit="s", low=seconds / 2, high=seconds * 2, coverage=0.9)
    return experiment.replanned(replace(experiment.run, seconds_per_step=expected))


def test_before_anything_the_plan_says_how_long_it_will_take(experiment: Experiment) -> None:
    first, second, control = experiment.all()
    assert [first.status, second.status, control.status] == [RunStatus.PREPARED] * 3
    assert (first.job, first.job_state, first.attempts, first.steps_done, first.flags) == (None, None, 0, 0, ())
    assert isinstance(first.seconds_left, Quantity)
    assert isinstance(experiment.run.train_seconds, Quantity)
    assert first.seconds_left.value == experiment.run.train_seconds.value
    assert isinstance(first.loss, Missing)
    assert (control.steps_done, control.steps_planned) == (None, None)
    shutil.rmtree(experiment.place)
    assert experiment.look().status is RunStatus.PLANNED


def test_a_training_at_work(experiment: Experiment) -> None:
    """The memory of a trainer that logs none is the sampler's."""
    running(experiment)
    amount = {"value": 3.0, "unit": "B", "kind": "process", "aggregation": "peak"}
    nothing = {"missing": "no"}
    summary = {
        "job_id": "local-1", "restart": 0, "time_unix": 1.0, "seconds": 5.0, "samples": 3, "memory_mean": amount,
        "memory_peak": amount, "cpu_mean": nothing, "cpu_peak": nothing, "gpus": [], "gpu_reason": "no driver",
    }  # fmt: skip
    (experiment.place / "status" / "resources.local-1.0.json").write_text(json.dumps(summary))
    (experiment.place / "status" / "resources.local-2.0.json").write_text("{torn")
    metrics = experiment.place / "metrics.jsonl"
    metrics.rename(experiment.place / "kept")
    other = experiment.look().memory
    assert isinstance(other, Quantity)
    assert other.value == 3.0
    (experiment.place / "kept").rename(metrics)
    seen = usual_speed(experiment).look()
    assert (seen.status, seen.job_state, seen.steps_done, seen.steps_planned) == ("running", "RUNNING", 20, 40)
    assert isinstance(seen.loss, Quantity)
    assert seen.loss.value == pytest.approx(1 / 20)
    assert isinstance(seen.tokens_per_second, Quantity)
    assert (seen.tokens_per_second.value, seen.tokens_per_second.token_unit) == (pytest.approx(40), "real")
    assert isinstance(seen.memory, Quantity)
    assert isinstance(seen.seconds_left, Quantity)
    assert seen.seconds_left.low is not None
    assert seen.seconds_left.high is not None
    assert seen.seconds_left.low < 40 < seen.seconds_left.high
    assert seen.seconds_left.value == pytest.approx(40, rel=0.2)
    assert seen.flags == ()


def test_a_process_of_this_machine_is_looked_for_and_not_believed_by_its_pid(experiment: Experiment) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = {"job_id": "local-1", "restart": 0, "token": "t", "host": platform.node(), "boot_id": boot}
    status = experiment.place / "status"
    status.mkdir()
    own = psutil.Process().pid
    (status / "start.local-1.0.json").write_text(
        json.dumps(start | {"pid": own, "pid_started": 12.0, "time_unix": NOW})
    )
    seen = experiment.look()
    assert (seen.status, codes(seen)) == (RunStatus.INTERRUPTED, ["RN107"])


def test_complete_and_evaluated_is_what_collect_says_too(experiment: Experiment) -> None:
    made.begin(experiment.place)
    made.end(experiment.place)
    made.train(experiment.plan, experiment.run, experiment.place)
    assert experiment.look().status is RunStatus.TRAINED
    scores = made.evaluate(experiment.plan, experiment.run, experiment.place)
    made.evaluate(experiment.plan, experiment.plan.runs[-1], experiment.control)
    seen = experiment.all()
    assert [run.status for run in seen] == [RunStatus.COMPLETED, RunStatus.PREPARED, RunStatus.COMPLETED]
    collected = collect_results(experiment.plan, experiment.planned.folder.root)
    assert [run.status for run in seen] == [run.status for run in collected]
    assert isinstance(seen[0].seconds_left, Missing)
    data = json.loads(scores.read_text())
    for key in ("settings_sha256", "base_sha256", "adapter_sha256"):
        scores.write_text(json.dumps(data | {key: "0" * 64}))
        assert experiment.look().status is RunStatus.TRAINED
        assert collect_results(experiment.plan, experiment.planned.folder.root)[0].status is RunStatus.TRAINED
    # Written another way, it is the same.
    scores.write_text(json.dumps({"samples": data.pop("samples"), **data}))
    assert experiment.look().status is RunStatus.COMPLETED
    scores.write_text(scores.read_text()[:100])
    assert experiment.look().status is RunStatus.TRAINED


@pytest.mark.parametrize("harm", ["shorter", "gone", "no marker", "other plan"])
def test_a_training_whose_checkpoint_is_harmed_is_not_complete(experiment: Experiment, harm: str) -> None:
    made.begin(experiment.place)
    made.end(experiment.place)
    made.train(experiment.plan, experiment.run, experiment.place)
    weights = experiment.place / "epoch_0" / "adapter_model.safetensors"
    if harm == "shorter":
        weights.write_bytes(b"x")
    elif harm == "gone":
        weights.unlink()
    elif harm == "no marker":
        (experiment.place / "epoch_0" / "touchline.json").unlink()
    other = experiment.replanned(replace(experiment.run, digest="f" * 64)) if harm == "other plan" else experiment
    seen = other.look()
    assert seen.status is RunStatus.INTERRUPTED
    assert codes(seen) == ["RN110"]
    assert collect_results(other.plan, other.planned.folder.root)[0].status is RunStatus.INTERRUPTED


@pytest.mark.parametrize(
    ("code", "reason", "steps", "complete", "status", "found"),
    [
        (1, "failed", 3, True, RunStatus.COMPLETED_FAILED_EXIT, ["RN109"]),
        (4, "failed", 3, False, RunStatus.FAILED, ["RN111"]),
        (75, "stopped by SIGTERM", 3, False, RunStatus.INTERRUPTED, []),
    ],
)
def test_an_ended_attempt(
    experiment: Experiment, code: int, reason: str, steps: int, complete: bool, status: RunStatus, found: list[str]
) -> None:
    """Failed though complete it is not done again, a failure names its log, and a saved stop is nothing to look at."""
    made.begin(experiment.place)
    made.end(experiment.place, code=code, reason=reason)
    made.write_metrics(experiment.place, [made.START, *made.steps(steps)])
    if complete:
        made.train(experiment.plan, experiment.run, experiment.place)
        made.evaluate(experiment.plan, experiment.run, experiment.place)
    seen = experiment.look()
    assert (seen.status, codes(seen)) == (status, found)
    assert found != ["RN111"] or (
        "exit code 4" in seen.flags[0].message and "touchline logs" in str(seen.flags[0].hint)
    )


def test_attempts_count_over_requeues_and_what_was_moved_aside(experiment: Experiment) -> None:
    for restart in (0, 1):
        made.begin(experiment.place, job_id="76", restart=restart, at=1000.0 + restart)
        made.end(experiment.place, job_id="76", restart=restart, code=75, reason="stopped by SIGUSR1; queued again")
    made.begin(experiment.place / "superseded" / "1", job_id="70")
    made.begin(experiment.place / "superseded" / "2", job_id="71")
    (experiment.place / "superseded" / "readme").write_text("not a folder")
    pending = view(JobState.PENDING, reason="BeginTime")
    seen = experiment.on_slurm().look({experiment.run.name: pending})
    assert (seen.attempts, seen.status, seen.queue_reason) == (4, RunStatus.QUEUED, "BeginTime")


# ---- flags ---------------------------------------------------------------------------------------------------------


def stalled(experiment: Experiment, seconds: float) -> Experiment:
    """The last step so many seconds ago, the heartbeat now."""
    made.begin(experiment.place, at=NOW - seconds - 100)
    made.beat(experiment.place, NOW)
    rows = [made.START, made.VALIDATION, *made.steps(20, since=NOW - seconds - 40)]
    made.write_metrics(experiment.place, rows)
    return usual_speed(experiment)


def test_an_alive_training_is_stalled_or_spoiled_by_its_last_row(experiment: Experiment) -> None:
    """No new step for long, unless all is done and copied; and a loss that is not a number."""
    assert codes(stalled(experiment, 60).look()) == []
    planned = stalled(experiment, 600)
    assert codes(planned.look()) == ["RN102"]
    metrics = experiment.place / "metrics.jsonl"
    before = metrics.read_bytes()
    metrics.write_bytes(before + made.rows([EndRow(event="end", attempt=1, step=20, time_unix=1.0, reason="done")]))
    os.utime(metrics, (NOW - 600, NOW - 600))
    assert codes(planned.look()) == []
    metrics.write_bytes(before + made.rows([replace(made.STEP, step=21, time_unix=NOW, loss=float("nan"))]))
    seen = planned.look()
    assert codes(seen) == ["RN100"]
    assert isinstance(seen.loss, Missing)


def test_a_clock_that_jumped_is_no_stall_and_no_death(experiment: Experiment) -> None:
    planned = stalled(experiment, 5)
    # The node's clock jumps an hour on: the heartbeat is an hour younger than the last row, the disk knows better.
    (experiment.place / "status" / "heartbeat.local-1.0").write_text(f"{NOW + 3600}\n")
    assert codes(planned.look()) == []
    # An hour back: the heartbeat looks an hour old, the disk knows better.
    (experiment.place / "status" / "heartbeat.local-1.0").write_text(f"{NOW - 3600}\n")
    slurm = planned.on_slurm()
    assert (
        codes(slurm.look({experiment.run.name: view(JobState.RUNNING, started_unix=NOW - 100, time_limit_seconds=9e9)}))
        == []
    )
    # This machine's own clock is off by a day, both ways.
    for off in (-86400, 86400):
        seen = planned.look({experiment.run.name: view(JobState.RUNNING)}, now=NOW + off)
        assert set(codes(seen)) <= {"RN108"}


def test_no_first_step_is_a_stall_after_long_enough(experiment: Experiment) -> None:
    made.begin(experiment.place, at=NOW - 300)
    made.beat(experiment.place, NOW)
    assert codes(experiment.look()) == []
    status = made.begin(experiment.place, at=NOW - 90_000)
    os.utime(status / "start.local-1.0.json", (NOW - 90_000, NOW - 90_000))
    assert codes(experiment.look()) == ["RN102"]


def test_a_limit_that_comes_before_the_end(experiment: Experiment) -> None:
    running(experiment)
    slurm = usual_speed(experiment).on_slurm()
    for limit, expected in ((3600.0, []), (139.0, ["RN104"]), (110.0, ["RN104"])):
        job = view(JobState.RUNNING, started_unix=NOW - 100, time_limit_seconds=limit)
        seen = slurm.look({experiment.run.name: job})
        assert codes(seen) == expected
    assert seen.flags[0].severity == "error"


def test_a_disk_that_will_be_full(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    running(experiment)
    usage: Callable[[Path], SimpleNamespace] = lambda path: SimpleNamespace(free=1000)  # noqa: E731
    monkeypatch.setattr(live_module.shutil, "disk_usage", usage)
    first, second, _ = usual_speed(experiment).all()
    assert codes(first) == ["RN105"]
    assert codes(second) == []


def test_a_dependency_that_is_never_satisfied_offers_cancel(experiment: Experiment) -> None:
    job = view(JobState.PENDING, reason="DependencyNeverSatisfied")
    seen = experiment.on_slurm().look({experiment.run.name: job})
    assert (seen.status, codes(seen), seen.queue_reason) == (RunStatus.QUEUED, ["RN106"], "DependencyNeverSatisfied")
    assert "touchline cancel" in (seen.flags[0].hint or "")
    evaluation = {f"evaluate {experiment.run.name}": job}
    assert codes(experiment.on_slurm().look(evaluation)) == ["RN106"]


def test_a_job_that_is_gone_and_one_that_shows_no_life(experiment: Experiment) -> None:
    slurm = experiment.on_slurm()
    gone = slurm.look({experiment.run.name: view(JobState.UNKNOWN, active=False, source="ledger")})
    assert codes(gone) == ["RN107"]
    killed = view(JobState.UNKNOWN, active=False, source="sacct", reason="killed by signal 9")
    assert "killed by signal 9" in slurm.look({experiment.run.name: killed}).flags[0].message
    made.begin(experiment.place, job_id="76", at=NOW - 4000)
    made.beat(experiment.place, NOW - 1000, job_id="76")
    job = view(JobState.RUNNING, started_unix=NOW - 4000, time_limit_seconds=9e9)
    silent = slurm.look({experiment.run.name: job})
    assert (silent.status, codes(silent)) == (RunStatus.RUNNING, ["RN108"])
    # The queue does not answer; a fresh heartbeat does.
    made.beat(experiment.place, NOW - 3, job_id="76")
    unknown = slurm.look({experiment.run.name: view(JobState.UNKNOWN, active=True, source="ledger")})
    assert (unknown.status, unknown.job_state) == (RunStatus.RUNNING, JobState.RUNNING)


# ---- evaluations ---------------------------------------------------------------------------------------------------


def test_an_evaluation_on_a_cluster_tells_its_items(experiment: Experiment) -> None:
    made.begin(experiment.place, job_id="76")
    made.end(experiment.place, job_id="76")
    made.train(experiment.plan, experiment.run, experiment.place)
    name = experiment.run.name
    said = f"loading\n{name} epoch_0: 8/24\n{name}x epoch_0: 24/24\n{name} epoch_0: 16/24\n"
    (experiment.place / "slurm-eval-77.out").write_text(said)
    seen = experiment.on_slurm().look({f"evaluate {name}": view(JobState.RUNNING, job_id="77")})
    assert (seen.status, seen.job_state) == (RunStatus.TRAINED, JobState.RUNNING)
    assert (seen.items_done, seen.items_planned) == (16, 24)
    failed = view(JobState.FAILED, job_id="77", exit_code=1)
    assert codes(experiment.on_slurm().look({f"evaluate {name}": failed})) == ["RN111"]


def test_an_evaluation_that_runs_share_is_seen_at_the_runs_it_is_asked_for(experiment: Experiment) -> None:
    model, control = next(iter(experiment.plan.models)), experiment.plan.runs[-1].name
    folder = experiment.planned.folder
    request = folder.write_request(model, [{"run": control, "checkpoint": "base"}])
    (request.parent / "status").mkdir()
    (request.parent / "local-9.out").write_text(f"{control} base: 4/24\n")
    views = {f"evaluate {model}": view(JobState.RUNNING, job_id="local-9")}
    first, _, base = experiment.all(views)
    assert (base.status, base.job_state, base.items_done, base.evaluation) == (RunStatus.RUNNING, "RUNNING", 4, None)
    assert first.status is RunStatus.PREPARED
    request.write_text("{")
    assert experiment.all(views)[-1].status is RunStatus.PREPARED


def test_finished_runs_are_not_asked_after(experiment: Experiment) -> None:
    planned = experiment.planned
    assert [job.name for job in jobs_to_ask(planned, glances(planned))] == []
    slurm = experiment.on_slurm()
    names = [run.name for run in slurm.plan.runs]
    asked = [job.name for job in jobs_to_ask(slurm.planned, glances(slurm.planned))]
    assert asked == [names[0], f"evaluate {names[0]}", names[1], f"evaluate {names[1]}", f"evaluate {names[2]}"]
    made.begin(experiment.place)
    assert [job.name for job in jobs_to_ask(planned, glances(planned))] == [experiment.run.name]
    made.end(experiment.place)
    made.train(experiment.plan, experiment.run, experiment.place)
    made.evaluate(experiment.plan, experiment.run, experiment.place)
    assert experiment.run.name not in [job.name for job in jobs_to_ask(slurm.planned, glances(slurm.planned))]


def test_a_folder_that_is_a_file_and_a_file_that_is_a_folder_are_survived(experiment: Experiment) -> None:
    for name in ("status", "eval", "superseded"):
        (experiment.place / name).write_text("not a folder")
    for name in ("metrics.jsonl", "training.json"):
        (experiment.place / name).mkdir()
    assert experiment.look().status is RunStatus.PREPARED
