"""`touchline export --follow` beside a training that writes: every step once, through torn lines, kills and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.api.folders import command
from tests.api.made_runs import START, evaluate, rows, steps, train
from tests.report.test_export_cli import clean, experiment  # noqa: F401
from tests.report.test_tensorboard import read

from touchline.experiment.plan import Plan

pytestmark = pytest.mark.trackers

STEPS = 12
SECONDS = 60
"""Longest time that a test waits for a program."""


def follow(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    words = command("export", str(folder), "--to", "tensorboard", "--follow", "--every", "0.2", *arguments)
    return subprocess.Popen(
        words, env=clean(folder.parent), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def steps_of(folder: Path, run: str) -> list[int]:
    """The exported steps, as TensorBoard reads them."""
    return [step for step, _ in read(folder / "exports" / "tensorboard", run).get("train/loss", [])]


def wait_for(folder: Path, run: str, step: int) -> None:
    deadline = time.monotonic() + SECONDS
    while step not in steps_of(folder, run):
        assert time.monotonic() < deadline, steps_of(folder, run)
        time.sleep(0.1)


def test_every_step_gets_there_once(experiment: tuple[Path, Plan]) -> None:  # noqa: F811
    """The writer cuts its lines in two; the follower is killed in the middle and started again."""
    folder, plan = experiment
    run = plan.runs[1]
    place = folder / run.name
    halfway = threading.Event()
    goes_on = threading.Event()

    def write() -> None:
        with (place / "metrics.jsonl").open("wb") as stream:
            for number, row in enumerate([START, *steps(STEPS)]):
                line = rows([row])
                for part in (line[: len(line) // 2], line[len(line) // 2 :]):
                    stream.write(part)
                    stream.flush()
                    time.sleep(0.05)
                if number == STEPS // 2:
                    halfway.set()
                    goes_on.wait(SECONDS)
        train(plan, run, place)
        evaluate(plan, run, place)

    (place / "metrics.jsonl").unlink()
    writer = threading.Thread(target=write)
    writer.start()
    killed = follow(folder)
    assert killed.stderr is not None
    assert f"waiting for 1 run: {run.name}" in killed.stderr.readline()
    assert halfway.wait(SECONDS)
    # Of a run that goes on, the last step is held back: its validation may follow.
    wait_for(folder, run.name, STEPS // 2 - 1)
    killed.kill()
    killed.communicate()
    again = follow(folder)
    goes_on.set()
    out, told = again.communicate(timeout=SECONDS)
    writer.join(SECONDS)
    assert again.returncode == 0, told
    assert "all runs are done" in told
    assert run.batches is not None
    assert steps_of(folder, run.name) == list(range(1, run.batches.steps + 1))
    assert any(name.startswith("evaluation/") for name in read(folder / "exports" / "tensorboard", run.name))
    assert f"{run.name}: " in out


def test_ctrl_c_ends_the_export_and_says_how_to_go_on(experiment: tuple[Path, Plan]) -> None:  # noqa: F811
    folder, plan = experiment
    run = plan.runs[1].name
    child = follow(folder)
    assert child.stderr is not None
    assert f"{run} (interrupted, to be resumed)" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=SECONDS)
    assert child.returncode == 0, told
    assert "rerun the same command" in told
    assert "Traceback" not in told
    assert steps_of(folder, run) == [1, 2, 3, 4, 5, 6]


def test_what_is_done_is_not_waited_for(experiment: tuple[Path, Plan]) -> None:  # noqa: F811
    folder, plan = experiment
    child = follow(folder, "--run", plan.runs[0].name)
    _, told = child.communicate(timeout=SECONDS)
    assert child.returncode == 0
    assert "waiting" not in told
