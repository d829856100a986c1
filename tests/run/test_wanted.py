"""What eval.slurm's command finds to do in a run's folder, before anything heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.run.made_plans import SITE, made_control, made_plan, made_run

from touchline.core.errors import InputError
from touchline.core.status import AttemptExit
from touchline.data.metrics import ExportMarker, SavedFile, TrainingMarker
from touchline.evaluate.wanted import PendingEvaluations, find_pending_evaluations
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.plan import PlannedRun
from touchline.run.scripts.folder import run_files

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


@pytest.mark.parametrize(
    ("epochs", "todo"), [("last", ()), ("all", ("epoch_0",)), ((1,), ()), ((0, 1), ("epoch_0",)), ((0,), ("epoch_0",))]
)
def test_what_is_there_is_evaluated_and_the_rest_is_named(tmp_path: Path, epochs: object, todo: tuple[str]) -> None:
    """A training that was stopped after its first epoch of two."""
    folder = write_run(tmp_path, replace(made_run(), evaluate=EvaluateConfig(epochs=epochs)))  # type: ignore[arg-type]
    export(folder, 0)
    end(folder, "76", 0, "completed", 3.0)
    end(folder, "77", 75, "stopped by SIGUSR1", 5.0)
    wanted = find_pending_evaluations(tmp_path, "1M_rank4")
    assert wanted.checkpoints == todo
    if epochs == (0,):
        assert wanted.missing is None
    else:
        assert wanted.missing == (
            "1M_rank4 is not trained: no training.json; no epoch_1; "
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
        "1M_rank4 is not trained: no training.json; no epoch_1; it was never started"
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
        "touchline: error: 1M_rank4 is not trained: no training.json; no epoch_1; its last attempt (job 77) ended with "
        "exit code 1 (failed)\n"
    )
