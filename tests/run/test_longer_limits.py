"""A job that its time limit ends before it has saved anything: once more with twice the limit, then a report."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from tests.run.made_plans import made_plan, made_run
from tests.run.slurm_bench import simulated
from tests.slurm.fake_jobs import SimClock

from touchline.core.quantity import Quantity
from touchline.core.status import AttemptExit, AttemptStart, EndReason, JobState
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import ComputeConfig, EvaluationCompute
from touchline.experiment.plan import Plan
from touchline.plan.recovery import RecoveryAction
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import Ledger
from touchline.run.planning import LoadedPlan
from touchline.run.protocol import Job
from touchline.run.recovering import Recovery
from touchline.run.run_jobs import run_evaluation, run_training
from touchline.run.slurm import SlurmExecutor
from touchline.run.statusfiles import write_exit, write_start
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning
RUN = "1M_rank4"
START_UNIX = 1_800_000_000.0
LIMIT = 900.0


class Cluster:
    """One experiment on the simulated SLURM; every command is a new process, which knows files alone."""

    def __init__(self, root: Path) -> None:
        self.folder = ExperimentFolder(root)
        self.slurm = simulated(SimClock())
        self.said: list[str] = []
        self.number = 0

    def command(self, plan: Plan) -> Recovery:
        planned = LoadedPlan(plan=plan, folder=self.folder, changed=False)
        root = self.folder.root
        settings = UserConfig(models_dir=root / "m", cache_dir=root / "c", history_dir=root / "h")
        self.executor = SlurmExecutor(self.slurm, self.folder.ledger, clock=self.slurm.clock)
        ledger = Ledger(self.folder.ledger, "slurm")
        return Recovery(planned, settings, ledger, self.said.append)

    def time_out(self, job: Job, limit: float) -> JobView:
        """Start a job and end it at its limit, before it has made anything."""
        self.number += 1
        job_id = self.executor.start(job, "token", ())
        begun = START_UNIX + 1000 * self.number
        start = AttemptStart(
            job_id=job_id, restart=0, token="token", host="n", boot_id="b", pid=1, pid_started=1.0, time_unix=begun
        )
        write_start(job.status, start)
        write_exit(
            job.status,
            AttemptExit(
                job_id=job_id,
                restart=0,
                code=143,
                reason="stopped by SIGUSR1",
                time_unix=begun + 1,
                end=EndReason.TIME_LIMIT_SIGNAL,
            ),
        )
        state = JobState.TIMEOUT
        return JobView(job_id=job_id, state=state, active=False, source="exit", exit_code=143, time_limit_seconds=limit)

    def asked(self) -> list[str]:
        """Time limits of the submissions; empty for that of the script."""
        calls = [words for words in self.slurm.calls if words[0] == "sbatch"]
        return [next((word.partition("=")[2] for word in words if word.startswith("--time=")), "") for words in calls]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "experiment.yaml").touch()
    (tmp_path / RUN / "eval" / "status").mkdir(parents=True)
    (tmp_path / RUN / "status").mkdir()
    for script in ("finetune.slurm", "eval.slurm"):
        (tmp_path / RUN / script).write_text("#!/bin/bash\n")
    return Cluster(tmp_path)


@pytest.mark.parametrize("evaluates", [False, True])
def test_it_is_retried_once_with_twice_the_limit_whatever_command_comes_next(
    cluster: Cluster, *, evaluates: bool
) -> None:
    plan = made_plan(made_run(limit=Quantity(value=LIMIT, unit="s")))
    job = (run_evaluation if evaluates else run_training)(cluster.folder, RUN)
    recovery = cluster.command(plan)
    (first,) = recovery.admit([job])
    (again,) = recovery.after(first, cluster.time_out(first, LIMIT))
    assert "twice the limit, 30:00" in cluster.said[-1]
    # Another command on another day starts it: the ledger knows.
    later = cluster.command(plan)
    (admitted,) = later.admit([job])
    assert admitted.time_limit_seconds == again.time_limit_seconds == 2 * LIMIT
    assert later.after(admitted, cluster.time_out(admitted, 2 * LIMIT)) == ()
    assert cluster.asked() == ["", "0:30:00"]
    key = "compute.evaluation.time_limit" if evaluates else "compute.time_limit"
    assert later.stopped[job.name].endswith(f"before anything was saved; increase {key}")
    decided = [entry.state for entry in cluster.command(plan)._ledger.entries() if entry.event == "decided"]
    assert decided == [RecoveryAction.LONGER.value, RecoveryAction.STOP.value]
    # What the advice says to type takes the place of what was found, and may be doubled once more.
    hour = EvaluationCompute(time_limit="1h") if evaluates else EvaluationCompute()
    raised = ComputeConfig(executor="slurm", time_limit=None if evaluates else "1h", evaluation=hour)
    last = cluster.command(dataclasses.replace(plan, compute=raised))
    (admitted,) = last.admit([job])
    assert admitted.time_limit_seconds is None
    (again,) = last.after(admitted, cluster.time_out(admitted, 3600.0))
    assert again.time_limit_seconds == 7200


def test_an_evaluation_that_scored_a_checkpoint_continues_with_the_limit_that_it_had(cluster: Cluster) -> None:
    """What is evaluated is kept, so that the next attempt gets further."""
    plan = made_plan(made_run(limit=Quantity(value=LIMIT, unit="s")))
    recovery = cluster.command(plan)
    (job,) = recovery.admit([run_evaluation(cluster.folder, RUN)])
    view = cluster.time_out(job, LIMIT)
    scores = cluster.folder.run(RUN) / "eval" / "capitalization_epoch_0.scores.json"
    scores.write_text("{}")
    os.utime(scores, (START_UNIX + 2000, START_UNIX + 2000))
    (again,) = recovery.after(job, view)
    assert again.time_limit_seconds is None
    assert "resuming from the last saved state" in cluster.said[-1]
