"""Commands in real terminals: submit asks, and status --watch is used by its keys."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest
from tests.api import made_runs as made
from tests.api.folders import command, environment, make_experiment, tiny_settings, touchline, words_experiment
from tests.cases import python_program, until
from tests.cli.tmux import REQUIRE, Terminal, unavailable

from touchline import api
from touchline.cli.watch_app import start_command
from touchline.core.files import try_lock
from touchline.data.user_config import UserConfig
from touchline.run.folders import ExperimentFolder

pytestmark = pytest.mark.slow


COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> UserConfig:
    root = tmp_path_factory.mktemp("watched")
    return tiny_settings(root, tiny_model)


@pytest.fixture(scope="module")
def folder(settings: UserConfig) -> Path:
    """A planned experiment, one of its two trainings complete."""
    folder = make_experiment(settings.models_dir.parent / "tiny")
    api.plan(folder, settings)
    api.prepare(folder, settings)
    plan = ExperimentFolder(folder).planned()
    place = folder / plan.runs[0].name
    made.begin(place)
    made.end(place)
    made.train(plan, plan.runs[0], place)
    made.evaluate(plan, plan.runs[0], place)
    return folder


@pytest.fixture
def job(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The other training, at work under the real supervisor."""
    process = made.at_work(folder / "1M_rank4")
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_person_watches_reads_logs_cancels_and_leaves(
    folder: Path, settings: UserConfig, job: subprocess.Popen[bytes]
) -> None:
    reason = unavailable()
    if reason is not None:
        (pytest.fail if os.environ.get(REQUIRE) == "1" else pytest.skip)(reason)
    env = environment(settings.models_dir, settings.cache_dir) | {"NO_COLOR": "1"}
    with Terminal(command("status", str(folder), "--watch"), env, width=80, height=24) as terminal:
        shown = terminal.until(lambda screen: "1M_rank4" in screen).splitlines()
        assert shown[0].split()[:2] == ["run", "status"]
        assert shown[1] == "tiny  3 runs: 1 completed · 1 running · 1 prepared"
        assert re.match(r"> 1M_rank2 +completed .*40/40 ", shown[2])
        assert re.match(r" .1M_rank4 +running .*20/40 .*\S+ s to \S+ s", shown[3])
        assert shown[-1].startswith("↑↓ select  l logs  c cancel  r resume  q quit")
        assert COLOR.findall(terminal.codes()) == []

        terminal.press("Down", "l")
        terminal.until(lambda screen: "log of 1M_rank4" in screen and "at work" in screen)
        terminal.press("C-c")
        terminal.until(lambda screen: "Enter goes back" in screen)
        assert job.poll() is None
        terminal.press("Enter")
        terminal.until(lambda screen: ">!1M_rank4" in screen or "> 1M_rank4" in screen)
        terminal.press("c")
        terminal.until(lambda screen: "Cancel 1M_rank4 of tiny?" in screen)
        assert job.poll() is None
        terminal.press("y")
        job.wait(timeout=60)
        terminal.until(lambda screen: "touchline cancel 1M_rank4" in screen and "1 running" not in screen)
        terminal.resize(40, 24)
        terminal.until(lambda screen: "l logs c cancel r resume" in screen)
        terminal.press("q")
        terminal.until(lambda screen: "ended with 0" in screen)


def test_resume_starts_a_command_and_names_its_output(folder: Path, settings: UserConfig) -> None:
    """Another command holds the experiment, so nothing is trained here."""
    lock = try_lock(ExperimentFolder(folder).lock)
    assert lock is not None
    output = folder / ".touchline" / "resume-1M_rank4.log"
    try:
        assert start_command(folder, "resume", "1M_rank4") == f"touchline resume 1M_rank4; its output: {output}"
        until(lambda: "error: " in output.read_text())
    finally:
        os.close(lock)


def test_resume_on_a_cluster_submits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's queue outlives the view by itself, so that no process waits for it."""
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: called.append(words))
    plan = replace(ExperimentFolder(folder).planned(), executor="slurm")
    monkeypatch.setattr(ExperimentFolder, "planned", lambda self: plan)
    assert start_command(folder, "resume", "1M_rank4").startswith("touchline submit 1M_rank4; ")
    assert called[0][3:] == ["submit", str(folder / "experiment.yaml"), "--run", "1M_rank4"]


TEXT = """\
name: tiny
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train: {epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128, base_dtype: float32}
factors: {train.lora.rank: [2, 4]}
controls: [base]
compute: {executor: slurm, gpu: cpu, time_limit: 30min}
"""
NOTHING_QUEUED = """
import sys
from pathlib import Path
from tests.run.slurm_bench import simulated
from tests.slurm.fake_jobs import SimClock

words = [Path(sys.argv[0]).name, *sys.argv[1:]]
sys.stdout.write(simulated(SimClock()).run(words, timeout_seconds=1).out)
"""
ASKED = re.compile(
    r"5 jobs: 2 trainings, 3 evaluations\s+"
    r"predicted: .*\d.* of devices\s+"
    r"by their time limits, at most: [\d.:]+.* of devices\s+"
    r"Submit\? \[y/N\]: "
)


@pytest.mark.parametrize(
    ("options", "is_terminal", "answer", "submitted", "code"),
    [((), True, "n", 0, 130), ((), True, "y", 5, 0), (("--yes",), True, None, 5, 0), ((), False, None, 5, 0)],
    ids=["no", "yes", "--yes", "no-terminal"],
)
def test_submit_asks_in_a_terminal_alone(
    options: tuple[str, ...],
    is_terminal: bool,
    answer: str | None,
    submitted: int,
    code: int,
    tmp_path: Path,
    tiny_model: Path,
) -> None:
    folder, environment = words_experiment(tmp_path, tiny_model, TEXT, n_train=40)
    programs, log = tmp_path / "bin", tmp_path / "sbatch.log"
    programs.mkdir()
    (programs / "sbatch").write_text(f'#!/bin/sh\n[ "$1" = --test-only ] || {{ echo x >> {log}; wc -l < {log}; }}\n')
    for name in ("squeue", "sacct"):
        python_program(programs / name, NOTHING_QUEUED)
    for program in programs.iterdir():
        program.chmod(0o755)
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    assert touchline("plan", str(folder), env=environment).returncode == 0
    words = ("submit", str(folder), *options)
    if is_terminal:
        program, *arguments = command(*words)
        terminal = pexpect.spawn(program, arguments, env=environment, timeout=120, encoding="utf-8")  # type: ignore[arg-type]
        if answer is not None:
            terminal.expect(ASKED)
            assert not log.exists()
            terminal.sendline(answer)
        terminal.expect(pexpect.EOF)
        said = str(terminal.before)
        terminal.close()
        assert terminal.exitstatus == code, said
        assert "Submit?" not in said
    else:
        assert touchline(*words, env=environment).returncode == code
    assert (len(log.read_text().splitlines()) if log.exists() else 0) == submitted
