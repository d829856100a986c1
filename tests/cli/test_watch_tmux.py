"""`touchline watch` on real experiments in a real terminal: its screen is captured while keys are pressed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api import made_runs as made
from tests.api.folders import command, environment, make_experiment
from tests.cli.tmux import REQUIRE, Terminal, unavailable

from touchline import api
from touchline.cli.watch import Resuming, cancel_run, resume_run
from touchline.core.files import try_lock
from touchline.data.user_config import UserConfig
from touchline.run.folders import ExperimentFolder
from touchline.run.submission import Submitted

pytestmark = pytest.mark.slow

COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> UserConfig:
    root = tmp_path_factory.mktemp("watched")
    (root / "models").mkdir()
    (root / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    return UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history")


@pytest.fixture(scope="module")
def folder(settings: UserConfig) -> Path:
    """A folder with a planned experiment, one of its two trainings complete, and one that nobody has planned."""
    folder = settings.models_dir.parent / "experiments"
    first, second = make_experiment(folder / "first"), make_experiment(folder / "second")
    api.plan(first, settings)
    api.prepare(first, settings)
    plan = ExperimentFolder(first).planned()
    place = first / plan.runs[0].name
    made.begin(place)
    made.end(place)
    made.train(plan, plan.runs[0], place)
    made.evaluate(plan, plan.runs[0], place)
    assert (second / "experiment.yaml").is_file()
    return folder


@pytest.fixture
def job(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The other training, at work under the real supervisor."""
    process = made.at_work(folder / "first" / "1M_rank4")
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
    with Terminal(command("watch", str(folder), "--interval", "1"), env, width=80, height=24) as terminal:
        shown = terminal.until(lambda screen: "1M_rank4" in screen and "error:" in screen).splitlines()
        assert shown[0].split() == [
            "run",
            "status",
            "step",
            "done",
            "loss",
            "curve",
            "left",
            "or",
            "waits",
            "for",
            "memory",
        ]
        assert shown[1] == "tiny  3 runs: 1 completed · 1 running · 1 prepared"
        assert re.match(r"> 1M_rank2 +completed +40/40 █{10} +0.025 - ", shown[2])
        assert re.match(r" .1M_rank4 +running +20/40 █{5}░{5} +0.05 █\S*▁ +\S+ s to \S+ s +2 GiB", shown[3])
        assert shown[-1].startswith("↑↓ select  l logs  c cancel  r resume  ? help  q quit")
        assert "\x1b[7m" in terminal.codes()
        assert COLOR.findall(terminal.codes()) == []

        terminal.press("Down", "l")
        shown = terminal.until(lambda screen: "at work" in screen).splitlines()
        assert shown[0] == "log of 1M_rank4: slurm-local-77.out"
        terminal.press("Escape")
        terminal.until(lambda screen: ">!1M_rank4" in screen or "> 1M_rank4" in screen)

        terminal.press("?")
        terminal.until(lambda screen: "any key closes this help" in screen)
        terminal.press("x", "c")
        terminal.until(lambda screen: "Cancel 1M_rank4 of tiny?" in screen)
        terminal.press("n")
        terminal.until(lambda screen: "Cancel" not in screen)
        assert job.poll() is None
        terminal.press("c")
        terminal.until(lambda screen: "Cancel 1M_rank4 of tiny?" in screen)
        terminal.press("y")
        job.wait(timeout=60)
        terminal.until(lambda screen: "cancel requested: 1M_rank4" in screen and "1 running" not in screen)

        terminal.resize(40, 24)
        shown = terminal.until(lambda screen: "l logs c cancel r resume" in screen).splitlines()
        assert [line for line in shown if re.match(r"  1M_rank2 +completed +40/40$", line)]
        shutil.rmtree(folder / "second")
        terminal.until(lambda screen: "does not exist" in " ".join(screen.split()))
        terminal.press("q")
        terminal.until(lambda screen: "ended with 0" in screen)


def test_cancel_of_a_run_without_a_job_says_so(folder: Path, settings: UserConfig) -> None:
    assert cancel_run(folder / "first", settings, "1M_rank2") == "1M_rank2 has no active or queued job"


def test_resume_starts_a_command_whose_error_is_shown(folder: Path, settings: UserConfig) -> None:
    """Another command holds the experiment, so nothing is trained here."""
    lock = try_lock(ExperimentFolder(folder / "first").lock)
    assert lock is not None
    try:
        resuming = resume_run(folder / "first", settings, "1M_rank4")
        assert isinstance(resuming, Resuming)
        deadline = time.monotonic() + 60
        while (said := resuming.ended()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.close(lock)
    assert said.startswith("resume of 1M_rank4 ended with exit code 3: error: ")
    assert resuming.output.read_text().count("error: ") == 1


def test_resume_on_a_cluster_submits_and_names_the_jobs(
    folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's queue outlives the view by itself, so that no further process is needed."""
    asked: list[str | None] = []

    def submit(source: Path, settings: UserConfig, *, only: str | None) -> list[Submitted]:
        asked.append(only)
        refused = Submitted(job="evaluate x", job_id="", word="refused", reason="QOS")
        return [Submitted(job=str(only), job_id="81", word="submitted"), refused]

    monkeypatch.setattr(api, "submit", submit)
    plan = replace(ExperimentFolder(folder / "first").planned(), executor="slurm")
    monkeypatch.setattr(ExperimentFolder, "planned", lambda self: plan)
    assert resume_run(folder / "first", settings, "1M_rank4") == "1M_rank4 submitted 81; evaluate x refused QOS"
    assert asked == ["1M_rank4"]
