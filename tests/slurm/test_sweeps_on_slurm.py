"""Sweeps on a real SLURM: a cohort that is killed and cancelled, two phases, and the guide's first sweep."""

import json
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.api.harm import plant, training_processes
from tests.slurm.test_run_on_slurm import CONFIG, ON_SLURM, Site, events, site, submissions, until
from tests.strategy.stand_ins import decided
from tests.strategy.test_for_real import make
from tests.tiny_model import write_tiny_words
from tests.trainer_environments import require_trainer

from touchline.core.status import RunStatus
from touchline.data.machine import cpu_name
from touchline.data.metrics import Metrics
from touchline.data.metrics_file import read_metrics
from touchline.experiment.plan import Cohort
from touchline.run.folders import ExperimentFolder
from touchline.run.scripts.header import slurm_memory
from touchline.run.statusfiles import read_attempts

__all__ = ["site"]
pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
FLOAT32 = 1e-5
"""Tolerance for sums in another order, in nats."""
RUNS = ("1M_rank2", "1M_rank4", "1M_rank8")
TRAINING = ("train.micro_batch_size=4", "train.packed=false", "train.lora.dropout=0", "evaluate.samples=4")


def experiment(site: Site, name: str) -> Path:
    return make_experiment(site.root / name, ranks="[2, 4, 8]", n_train=96, n_test=8)


def metrics(folder: Path, run: str) -> Metrics:
    return read_metrics(folder / run / "metrics.jsonl")


def cohort_of(folder: Path) -> Cohort:
    plan = ExperimentFolder(folder).read_plan()
    (cohort,) = plan.cohorts
    assert cohort.runs == RUNS
    return cohort


def saved_steps(folder: Path) -> list[int]:
    """The step of each run's newest saved state, 0 without one."""
    states = [(folder / run).glob("resume/step_*/state.json") for run in RUNS]
    return [max((int(path.parent.name[5:]) for path in each), default=0) for each in states]


def wait_for_saved_states(folder: Path, after: int) -> None:
    """Wait until every run has saved a state beyond a step, and none is trained."""

    def saved() -> bool:
        assert not any((folder / run / "training.json").exists() for run in RUNS)
        return min(saved_steps(folder)) > after

    until(saved)


def test_a_cohort_cancelled_and_killed_equals_separate_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One job covers all: it is cancelled by any of its runs, killed, and goes on with all of them."""
    # The memory that the script asks for is what is predicted for all runs.
    (site.root / "config" / "touchline" / "config.yaml").write_text(CONFIG.replace(" memory_gb: 2,", ""))
    plant(site.root / "planted", monkeypatch, slow="0.1")
    alone, folder = experiment(site, "alone"), experiment(site, "beside")
    site.call("run", alone, *TRAINING)
    site.call(
        "plan",
        folder,
        *TRAINING,
        "controls=[]",
        ON_SLURM.replace("executor: slurm", "executor: slurm, cohorts: always"),
    )
    cohort = cohort_of(folder)

    with site.no_room():
        site.call("submit", folder)
        (job,) = (entry for entry in events(folder, "submitted") if entry.job in RUNS)
        assert job.job == RUNS[0]
        assert cohort.peak_memory.high is not None
        asked = site.cluster.ask("scontrol", "show", "job", "-o", str(job.job_id)).split()
        assert "TimeLimit=02:00:00" in asked
        assert slurm_memory(cohort.peak_memory.high) in {word.partition("=")[2] for word in asked if "Memory" in word}
        assert {run["status"] for run in site.json("status", folder)["runs"]} == {"queued"}
        assert submissions(folder)[RUNS[0]] == 1

    wait_for_saved_states(folder, 0)
    assert {run["status"] for run in site.json("status", folder)["runs"]} == {"running"}
    site.call("cancel", folder, "--run", RUNS[1])
    until(lambda: not site.states(folder))
    stopped = max(saved_steps(folder))

    site.call("submit", folder)
    wait_for_saved_states(folder, stopped)
    (process,) = training_processes(folder / RUNS[0])
    process.send_signal(signal.SIGKILL)
    site.call("resume", folder)

    assert [submissions(folder)[run] for run in RUNS] == [3, 0, 0]
    assert {run["status"] for run in site.json("status", folder, "--no-queue")["runs"]} == {"completed"}
    for run in RUNS:
        found, other = metrics(folder, run), metrics(alone, run)
        assert [sorted([run, *attempt.cohort]) for attempt in found.attempts] == [list(RUNS)] * 3
        assert all(before.from_step < after.from_step for before, after in pairwise(found.attempts))
        last = {row.step: row.loss for row in found.steps}
        assert last.keys() == {row.step for row in other.steps}
        for row in other.steps:
            assert last[row.step] == pytest.approx(row.loss, abs=FLOAT32)
        assert len(read_attempts(folder / run / "status")) == 3


def test_decisions_taken_by_submit_are_those_that_are_taken_here(site: Site) -> None:
    """Jobs end COMPLETED while their trainings are paused; runs of a later stage are submitted when it is needed."""
    here, folder = make(site.root / "here"), make(site.root / "there")
    site.call("run", here, "--no-probe")
    site.call("plan", folder, ON_SLURM)
    done = site.call("submit", folder)
    assert "point 1 of 1, step 3, waits for 3 runs" in done.stderr
    assert "touchline submit" in done.stderr
    until(lambda: not site.states(folder))
    explored = set(submissions(folder))
    assert len(explored) == 3, "no evaluation is submitted of a training that pauses"
    states = {run["name"]: run["status"] for run in site.json("status", folder)["runs"]}
    assert {states[run] for run in explored} == {RunStatus.PAUSED.value}
    for count in range(2, 5):
        site.call("submit", folder)
        until(lambda: not site.states(folder))
        assert len(decided(folder)) >= count
    site.call("submit", folder)
    assert decided(folder) == decided(here)
    assert {entry.state for entry in events(folder, "ended")} == {"COMPLETED"}
    shown = json.loads(site.call("status", folder, "--json").stdout)["strategy"]
    assert set(shown["verdicts"].values()) == {"established"}
    assert shown["stop"]["reason"] == "settled"


INIT = ("--task", "capitalization", "--model", "Tiny-1M-Instruct", "--vary", "rank=2,4", "--trainer", "torchtune")


def test_from_a_question_to_a_report_through_torchtune(site: Site) -> None:
    """init, check, plan, prepare, submit one, submit all, status, collect, report: torchtune's own runs, evaluated."""
    require_trainer("torchtune")
    words = write_tiny_words(site.root / "words.json", 48, 8, 8)
    folder = site.root / "sweep"
    target = ("--executor", "slurm", "--gpu", "cpu", "--epochs", "2", "--seeds", "1")
    site.call("init", folder, *INIT, *target, "--data", str(words), "--yes")
    site.call("check", folder)
    plan = site.call("plan", folder, ON_SLURM, "--show", "design").stdout
    assert "lora_finetune_single_device" in plan
    site.call("prepare", folder)
    site.call("submit", folder, "--run", "1M_rank2")
    site.call("submit", folder, "--yes")
    until(lambda: {run["status"] for run in site.json("status", folder)["runs"]} == {"completed"})
    site.call("collect", folder)
    site.call("report", folder)
    assert (folder / "report.html").is_file()
    runs = {run["name"]: run for run in site.json("results", folder)["runs"]}
    assert set(runs) == {"1M_rank2", "1M_rank4", "1M_base"}
    assert all(run["evaluations"] for run in runs.values())
    for name in ("1M_rank2", "1M_rank4"):
        assert "tune run" in (folder / name / "finetune.yaml").read_text()
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        assert sum("loss" in row for row in rows) >= 12
        # The name by which times are looked up: the next plan counts on this run's steps.
        assert rows[0]["device"] == cpu_name()
