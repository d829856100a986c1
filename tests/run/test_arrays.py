"""Arrays: one task a run, split where the cluster has its limit, submitted in the order in which runs build up."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.run.allocation import make_run

from touchline.experiment.site import SlurmSite
from touchline.run.scripts.mega import Array, ArrayTask, array_text, split_array, submit_arrays_text

pytestmark = pytest.mark.planning

SITE = SlurmSite(signal_seconds=120)


def _array(names: list[str], **more: object) -> Array:
    tasks = tuple(ArrayTask(name=name, folder=name) for name in names)
    return replace(Array(file="array_1.slurm", tasks=tasks, script="finetune.slurm", gpus=1), **more)  # type: ignore[arg-type]


@given(count=st.integers(1, 300), most=st.integers(1, 120))
def test_pieces_hold_every_task_once_and_none_is_too_large(count: int, most: int) -> None:
    whole = _array([f"r{number}" for number in range(count)])
    pieces = split_array(whole, most)
    assert [task for piece in pieces for task in piece.tasks] == list(whole.tasks)
    assert max(len(piece.tasks) for piece in pieces) <= most
    assert len({piece.file for piece in pieces}) == len(pieces)


def test_the_header_asks_for_one_run_each() -> None:
    array = _array(["a", "b", "c"], cpus=8, memory_gb=60.0, seconds=7200.0, at_once=2)
    text = array_text("exp", array, SITE)
    header = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert header == [
        "--job-name=exp-array_1",
        "--array=0-2%2",
        "--output=.touchline/slurm-array-%A_%a.out",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        "--gpus=1",
        "--cpus-per-task=8",
        "--mem=60G",
        "--time=2:00:00",
        "--requeue",
        "--signal=B:USR1@120",
    ]


@pytest.mark.parametrize("name", ["plain", "it's $(touch x)"])
def test_a_task_runs_its_runs_own_script_in_its_folder(tmp_path: Path, name: str) -> None:
    make_run(tmp_path, "first")
    make_run(tmp_path, name)
    (tmp_path / "array_1.slurm").write_text(array_text("exp", _array(["first", name]), SITE))
    environment = os.environ | {
        "SLURM_JOB_ID": "92",
        "SLURM_ARRAY_JOB_ID": "90",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    done = subprocess.run(["bash", "array_1.slurm"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / name / "training.json").exists()
    assert (tmp_path / name / "status" / "exit.90_1.0.json").exists()
    assert "GPUs" in (tmp_path / name / "slurm-90_1.out").read_text()
    assert not (tmp_path / "first" / "status").exists()


def test_without_a_task_it_says_how_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "array_1.slurm").write_text(array_text("exp", _array(["a"]), SITE))
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "array_1.slurm"], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "sbatch array_1.slurm" in done.stderr


def _submit(tmp_path: Path, arrays: list[Array], refused: str) -> tuple[int, str, list[str]]:
    calls = tmp_path / "calls"
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/bin/bash\necho "$@" >>{calls}\nif [ "${{!#}}" = {refused} ]; then echo no >&2; exit 1; fi\n'
        f'echo "$((100 + $(wc -l <{calls})));sim"\n'
    )
    sbatch.chmod(0o755)
    (tmp_path / "submit_arrays.sh").write_text(submit_arrays_text("exp", arrays))
    environment = os.environ | {"PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(tmp_path / "submit_arrays.sh")], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, calls.read_text().splitlines()


def _chain() -> list[Array]:
    return [
        _array(["a1", "b1"]),
        _array(["a2"], file="array_2.slurm", after=("array_1.slurm",)),
        _array(["c"], file="array_3.slurm"),
        _array(["a3"], file="array_4.slurm", after=("array_2.slurm", "array_3.slurm")),
    ]


def test_later_arrays_wait_for_those_that_they_build_on(tmp_path: Path) -> None:
    code, out, calls = _submit(tmp_path, _chain(), "nothing")
    assert code == 0
    assert calls == [
        "--parsable array_1.slurm",
        "--parsable --dependency=afterany:101 array_2.slurm",
        "--parsable array_3.slurm",
        "--parsable --dependency=afterany:102:103 array_4.slurm",
    ]
    assert out.splitlines() == ["101  array_1.slurm", "102  array_2.slurm", "103  array_3.slurm", "104  array_4.slurm"]


def test_a_refused_array_keeps_back_only_what_builds_on_it(tmp_path: Path) -> None:
    code, out, calls = _submit(tmp_path, _chain(), "array_2.slurm")
    assert code == 2
    assert [call.split()[-1] for call in calls] == ["array_1.slurm", "array_2.slurm", "array_3.slurm"]
    assert "array_3.slurm" in out
    assert "array_4.slurm" not in out


def test_an_array_is_submitted_after_what_it_waits_for() -> None:
    with pytest.raises(ValueError, match="not submitted before"):
        submit_arrays_text("exp", list(reversed(_chain())))
