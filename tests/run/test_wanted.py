"""What eval.slurm's command finds to do in a run's folder, before anything heavy is loaded."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.cases import parametrize
from tests.run.made_plans import SITE, made_control, made_plan, made_run
from tests.run.slurm_bench import simulated
from tests.slurm.fake_jobs import SimClock

from touchline.core.errors import InputError
from touchline.core.quantity import Quantity
from touchline.core.status import AttemptExit, AttemptStart, EndReason, JobState
from touchline.data.metrics import ExportMarker, SavedFile, TrainingMarker
from touchline.data.user_config import UserConfig
from touchline.evaluate.wanted import PendingEvaluations, find_pending_evaluations
from touchline.experiment.experiment import ComputeConfig, EvaluateConfig, EvaluationCompute
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.recovery import RecoveryAction
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job, run_evaluation, run_training
from touchline.run.ledger import Ledger
from touchline.run.loaded_plan import LoadedPlan
from touchline.run.recovering import Recovery
from touchline.run.scripts.folder import run_files
from touchline.run.slurm import SlurmExecutor
from touchline.run.statusfiles import write_exit, write_start
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning


def write_run(root: Path, run: PlannedRun) -> Path:
    folder = root / run.name
    folder.mkdir()
    (folder / "eval.yaml").write_text(run_files(made_plan(run), run, SITE)["eval.yaml"])
    return folder


def export(folder: Path, epoch: int, *, size: int = 3) -> None:
    """epoch_N as the trainer leaves it; another size than is there makes it broken."""
    checkpoint = folder / f"epoch_{epoch}"
    checkpoint.mkdir()
    (checkpoint / "adapter_model.safetensors").write_bytes(b"abc")
    marker = ExportMarker(
        experiment="cap_8L", run=folder.name, run_digest="1" * 64, kind="adapter", step=10, epoch=epoch,
        validation_loss=None, base_path="/m", base_weights_sha256="f" * 64, adapter_sha256="2" * 64,
        files={"adapter_model.safetensors": SavedFile(size=size, sha256="3" * 64)},
    )  # fmt: skip
    (checkpoint / "touchline.json").write_bytes(TypeAdapter(ExportMarker).dump_json(marker))


def finish(folder: Path, *epochs: int, digest: str = "1" * 64) -> None:
    marker = TrainingMarker(
        experiment="cap_8L", run=folder.name, run_digest=digest, steps=20, final_train_loss=0.1,
        final_validation_loss=None, best_epoch=None, elapsed_seconds=1.0, validation_seconds=0.0,
        checkpoints=tuple(f"epoch_{epoch}" for epoch in epochs), adapter_sha256="2" * 64,
    )  # fmt: skip
    (folder / "training.json").write_bytes(TypeAdapter(TrainingMarker).dump_json(marker))


def end(folder: Path, job: str, code: int, reason: str, when: float) -> None:
    status = folder / "status"
    status.mkdir(exist_ok=True)
    (status / f"start.{job}.0.json").write_text("{}")
    told = AttemptExit(job_id=job, restart=0, code=code, reason=reason, time_unix=when)
    (status / f"exit.{job}.0.json").write_bytes(TypeAdapter(AttemptExit).dump_json(told))


def test_the_last_epoch_of_a_trained_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path, made_run())
    export(folder, 0)
    export(folder, 1)
    finish(folder, 0, 1)
    assert find_pending_evaluations(tmp_path, "1M_rank4") == PendingEvaluations(checkpoints=("epoch_1",), missing=None)


def test_a_control_is_evaluated_without_training(tmp_path: Path) -> None:
    write_run(tmp_path, made_control())
    assert find_pending_evaluations(tmp_path, "1M_base") == PendingEvaluations(checkpoints=("base",), missing=None)


def test_a_training_that_failed_in_its_last_line_has_trained_well(tmp_path: Path) -> None:
    """The checkpoint is whole, although nothing says that the training ended."""
    folder = write_run(tmp_path, made_run())
    export(folder, 1)
    end(folder, "77", 1, "failed", 5.0)
    assert find_pending_evaluations(tmp_path, "1M_rank4") == PendingEvaluations(checkpoints=("epoch_1",), missing=None)


@parametrize(
    "epochs, todo", ("last", ()), ("all", ("epoch_0",)), ((1,), ()), ((0, 1), ("epoch_0",)), ((0,), ("epoch_0",))
)
def test_what_is_there_is_evaluated_and_the_rest_is_named(tmp_path: Path, epochs: object, todo: tuple[str]) -> None:
    """A training that was stopped after its first epoch of two."""
    folder = write_run(tmp_path, replace(made_run(), evaluate=EvaluateConfig(epochs=epochs)))
    export(folder, 0)
    end(folder, "76", 0, "completed", 3.0)
    end(folder, "77", 75, "stopped by SIGUSR1", 5.0)
    wanted = find_pending_evaluations(tmp_path, "1M_rank4")
    assert wanted.checkpoints == todo
    if epochs == (0,):
        assert wanted.missing is None
    else:
        assert wanted.missing == (
            "1M_rank4 is not trained: no training.json, no epoch_1, "
            "its last attempt (job 77) ended with exit code 75 (stopped by SIGUSR1)"
        )


def test_checkpoints_that_were_not_kept_are_no_fault(tmp_path: Path) -> None:
    folder = write_run(tmp_path, replace(made_run(), evaluate=EvaluateConfig(epochs="all")))
    export(folder, 1)
    finish(folder, 1)
    assert find_pending_evaluations(tmp_path, "1M_rank4") == PendingEvaluations(checkpoints=("epoch_1",), missing=None)


def test_each_reason_why_there_is_nothing_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path, made_run())
    assert find_pending_evaluations(tmp_path, "1M_rank4").missing == (
        "1M_rank4 is not trained: no training.json, no epoch_1, it was never started"
    )
    export(folder, 1, size=4)
    assert "epoch_1 is incomplete (adapter_model.safetensors has 3 bytes, expected 4)" in str(
        find_pending_evaluations(tmp_path, "1M_rank4").missing
    )
    (folder / "status").mkdir()
    (folder / "status" / "start.5.0.json").write_text("{}")
    (folder / "status" / "exit.5.0.json").write_text("torn")
    assert str(find_pending_evaluations(tmp_path, "1M_rank4").missing).endswith("no attempt has an exit record")
    finish(folder, 1, digest="4" * 64)
    assert "training.json has settings that the run no longer has" in str(
        find_pending_evaluations(tmp_path, "1M_rank4").missing
    )


def test_an_eval_yaml_of_before_takes_the_length_from_what_was_trained(tmp_path: Path) -> None:
    folder = write_run(tmp_path, made_run())
    text = (folder / "eval.yaml").read_text()
    (folder / "eval.yaml").write_text("".join(line for line in text.splitlines(True) if "train_epochs" not in line))
    assert "no training.json" in str(find_pending_evaluations(tmp_path, "1M_rank4").missing)
    export(folder, 0)
    export(folder, 1)
    finish(folder, 0, 1)
    assert find_pending_evaluations(tmp_path, "1M_rank4") == PendingEvaluations(checkpoints=("epoch_1",), missing=None)


@pytest.mark.parametrize("name", ["nothing", "../elsewhere"])
def test_a_run_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        find_pending_evaluations(tmp_path, name)


def test_the_process_ends_at_once_and_says_why(tmp_path: Path) -> None:
    """With code 77 and one line, and without loading what evaluates."""
    folder = write_run(tmp_path, made_run())
    end(folder, "77", 1, "failed", 5.0)
    code = (
        "import sys; from touchline.evaluate.__main__ import main; "
        f"code = main(['--experiment', {json.dumps(str(tmp_path))}, '--run', '1M_rank4']); "
        "assert not {'torch', 'inspect_ai', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert done.stderr == (
        "touchline: error: 1M_rank4 is not trained: no training.json, no epoch_1, its last attempt (job 77) ended with "
        "exit code 1 (failed)\n"
    )


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
def test_it_is_retried_once_with_twice_the_limit_by_any_command(cluster: Cluster, *, evaluates: bool) -> None:
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
