"""A cohort on a real SLURM: one job, killed and cancelled in the middle, gives what separate trainings give."""

import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tests.api.faults import plant
from tests.api.folders import make_experiment
from tests.api.kills import training_processes
from tests.slurm.test_run_on_slurm import CONFIG, ON_SLURM, Site, events, site, submissions, until

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
