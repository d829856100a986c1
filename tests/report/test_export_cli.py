"""`touchline export` as a person types it on a login node: into every tracker, again, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tests.api.folders import command, environment, make_experiment, touchline
from tests.api.made_runs import START, evaluate, rows, steps, train

from touchline import api
from touchline.core.files import try_lock
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.report.trackers.protocol import TRACKERS

pytestmark = pytest.mark.trackers

ALONE = ("unshare", "--map-root-user", "--net")


@pytest.fixture
def experiment(tmp_path: Path, tiny_model: Path) -> tuple[Path, Plan]:
    """One run complete, one half way, and the control."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "Tiny-1M-Instruct").symlink_to(tiny_model)
    settings = UserConfig(models_dir=models, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    folder = make_experiment(tmp_path / "my exp")
    api.plan(folder, settings)
    plan = api.prepare(folder, settings).plan
    train(plan, plan.runs[0], folder / plan.runs[0].name)
    (folder / plan.runs[1].name / "metrics.jsonl").write_bytes(rows([START, *steps(7)]))
    for run in (plan.runs[0], plan.runs[2]):
        evaluate(plan, run, folder / run.name)
    return folder, plan


def clean(tmp: Path) -> dict[str, str]:
    """An environment in which no tracker is told where to write."""
    known = environment(tmp / "models", tmp / "cache")
    return {key: value for key, value in known.items() if not key.startswith(("TRACKIO", "WANDB", "MLFLOW"))}


def export(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, and where that is allowed, in a network namespace in which it reaches nothing, not even itself."""
    return subprocess.run(
        [*(ALONE if namespaces_are_allowed() else []), *command("export", str(folder), *arguments)],
        env=clean(folder.parent), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@cache
def namespaces_are_allowed() -> bool:
    return not subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode


def test_no_tracker_reaches_a_network_in_these_tests() -> None:
    """Every export here runs in a network namespace of its own, or this says that none did."""
    if not namespaces_are_allowed():
        pytest.skip("network namespaces are not allowed here")
    probe = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    done = subprocess.run([*ALONE, sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert "unreachable" in done.stderr


# MLflow makes its database by some fifty migrations, which takes most of the time here.
@pytest.mark.parametrize("tracker", TRACKERS)
def test_every_run_gets_there_and_nothing_twice(experiment: tuple[Path, Plan], tracker: str) -> None:
    folder, plan = experiment
    assert plan.runs[0].batches is not None
    first = export(folder, "--to", tracker, "--json")
    assert first.returncode == 0, first.stderr
    done = json.loads(first.stdout)
    assert [(run["run"], run["added"]) for run in done["runs"]] == [
        (plan.runs[0].name, plan.runs[0].batches.steps + 1),
        (plan.runs[1].name, 7),
        (plan.runs[2].name, 1),
    ]
    assert str(folder / "exports" / tracker) in done["where"]
    again = json.loads(export(folder, "--to", tracker, "--json").stdout)
    assert [run["added"] for run in again["runs"]] == [0, 0, 0]
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in done["runs"]]


def test_a_run_that_goes_on_is_followed(experiment: tuple[Path, Plan]) -> None:
    folder, plan = experiment
    arguments = ("--to", "tensorboard", "--run", plan.runs[1].name, "--json")
    added = []
    for count in (7, 9, 9):
        (folder / plan.runs[1].name / "metrics.jsonl").write_bytes(rows([START, *steps(count)]))
        (run,) = json.loads(export(folder, *arguments).stdout)["runs"]
        added.append(run["added"])
    assert added == [7, 2, 0]


def test_the_lines_for_wandb_are_printed_ready_to_type(experiment: tuple[Path, Plan]) -> None:
    folder, _ = experiment
    done = export(folder, "--to", "wandb")
    lines = [line for line in done.stdout.splitlines() if line.startswith("wandb sync ")]
    assert len(lines) == 3
    bin_ = Path(shutil.which("wandb", path=str(Path(command()[0]).parent)) or "wandb").parent
    for line in lines:
        words = f"{line} --dry-run"
        told = subprocess.run(
            ["/bin/sh", "-c", words], cwd=folder.parent, env=os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Would sync 1 run(s)" in told.stderr, told.stderr


def test_what_a_run_has_not_got_yet_is_told(experiment: tuple[Path, Plan]) -> None:
    folder, plan = experiment
    (folder / plan.runs[1].name / "metrics.jsonl").unlink()
    done = export(folder, "--to", "tensorboard")
    assert done.returncode == 0
    assert f"left out {plan.runs[1].name}: no step and no evaluation yet" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--to", "nowhere"], 2, "nowhere"),
        (["--to", "tensorboard", "--run", "no_such_run"], 2, "no run 'no_such_run'"),
        (["--to", "tensorboard", "--dir", "a_file"], 4, "a_file"),
    ],
)
def test_bad_input_is_told_in_a_line(
    experiment: tuple[Path, Plan], tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "a_file").write_text("no folder")
    done = touchline("export", str(experiment[0]), *arguments, env=clean(tmp_path), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_two_exports_at_once_are_refused(experiment: tuple[Path, Plan]) -> None:
    folder, _ = experiment
    lock = try_lock(folder / ".touchline" / "export-tensorboard.lock")
    assert lock is not None
    try:
        done = export(folder, "--to", "tensorboard")
    finally:
        os.close(lock)
    assert done.returncode == 3
    assert "being exported to tensorboard by another command" in done.stderr


def test_a_name_that_leads_elsewhere_is_not_followed(experiment: tuple[Path, Plan]) -> None:
    """A link in the tracker's folder would send a run's files anywhere."""
    folder, plan = experiment
    logs = folder / "exports" / "tensorboard"
    logs.mkdir(parents=True)
    (logs / plan.runs[0].name).symlink_to(folder.parent)
    done = export(folder, "--to", "tensorboard")
    assert done.returncode == 2
    assert "leads out" in done.stderr
