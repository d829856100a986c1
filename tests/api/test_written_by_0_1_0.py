"""Folders that version 0.1.0 wrote are read today, with the figures that 0.1.0 read out of them."""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import environment, touchline

from tools.tiny_model import write_tiny_model

WRITTEN = Path(__file__).resolve().parents[1] / "fixtures" / "written-by-0.1.0"
FIGURES: dict[str, dict[str, Any]] = json.loads((WRITTEN / "figures.json").read_text())
QUANTITIES = (
    "train_seconds",
    "validation_seconds",
    "final_train_loss",
    "final_val_loss",
    "tokens_per_second",
    "peak_memory",
    "adapter_size",
)
INTERRUPTED = "1M_rank2"


class Laptop:
    """The folders of 0.1.0 on this machine, after a restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("finished", "interrupted", "history"):
            shutil.copytree(WRITTEN / name, home / name)
        write_tiny_model(home / "models" / "Tiny-1M-Instruct")
        for file in (home / "interrupted" / INTERRUPTED / "status").iterdir():
            file.write_text(file.read_text().replace('"laptop"', json.dumps(platform.node())))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = environment(self.home / "models", self.home / "cache", self.home / "history")
        return touchline(*arguments, env=env, cwd=self.home)

    def touchline(self, *arguments: str, expect: int = 0) -> str:
        """Run a command to its end and give what it printed."""
        done = self.run(*arguments)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run a command with --json and give what it printed."""
        return json.loads(self.touchline(*arguments, "--json"))


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """Folders that are read, and written to only by `report`."""
    return Laptop(tmp_path_factory.mktemp("ada"))


@pytest.mark.planning
@pytest.mark.slow
def test_results_gives_the_figures_that_0_1_0_gave(laptop: Laptop) -> None:
    """Scores, losses, times, speeds, memory and sizes of every run; differences from the control."""
    runs = {run["name"]: run for run in laptop.json("results", "finished")["runs"]}
    assert list(runs) == list(FIGURES)
    for name, figures in FIGURES.items():
        run = runs[name]
        assert run["status"] == figures["status"]
        assert run["steps_done"] == figures["steps_done"]
        assert [run["exact_match"]["k"], run["exact_match"]["n"]] == figures["exact_match"]
        for quantity in QUANTITIES:
            if quantity in figures:
                assert run[quantity]["value"] == pytest.approx(figures[quantity]), (name, quantity)
            else:
                assert run[quantity]["missing"], (name, quantity)
        if "difference" in figures:
            found = {key: run["difference"][key] for key in figures["difference"]}
            assert found == pytest.approx(figures["difference"]), name


@pytest.mark.planning
@pytest.mark.slow
def test_status_of_a_finished_and_of_an_interrupted_experiment(laptop: Laptop) -> None:
    """The states and the steps; a killed job is seen as gone on the machine that it ran on."""
    finished = {run["name"]: run for run in laptop.json("status", "finished")["runs"]}
    assert {name: run["status"] for name, run in finished.items()} == dict.fromkeys(FIGURES, "completed")
    interrupted = {run["name"]: run for run in laptop.json("status", "interrupted")["runs"]}
    assert {name: (run["status"], run["steps_done"]) for name, run in interrupted.items()} == {
        INTERRUPTED: ("interrupted", 17),
        "1M_rank4": ("prepared", 0),
    }


@pytest.mark.planning
@pytest.mark.slow
def test_report_writes_the_scores_and_finds_every_checkpoint_valid(laptop: Laptop) -> None:
    """The report of 0.1.0 is replaced by one with the same scores."""
    (laptop.home / "finished" / "RESULTS.md").unlink()
    laptop.touchline("report", "finished")
    report = (laptop.home / "finished" / "RESULTS.md").read_text()
    for figures in FIGURES.values():
        k, n = figures["exact_match"]
        assert f"{100 * k / n:.1f}%" in report
        if "final_val_loss" in figures:
            assert f"{figures['final_val_loss']:.4g}" in report
    assert "All 4 checkpoints are" in report


@pytest.mark.planning
@pytest.mark.slow
def test_history_lists_the_records_that_0_1_0_kept(laptop: Laptop) -> None:
    """Names, steps, speeds and memory of the four trainings."""
    records = {record["name"]: record for record in laptop.json("history", "list")["history"]}
    trained = {name: figures for name, figures in FIGURES.items() if figures["steps_done"]}
    assert len(trained) == 4
    assert set(records) == set(trained)
    for name, figures in trained.items():
        record = records[name]
        assert record["outcome"] == "completed"
        assert record["steps_done"]["value"] == figures["steps_done"]
        seconds = figures["train_seconds"] / figures["steps_done"]
        assert record["seconds_per_step"]["value"] == pytest.approx(seconds)


@pytest.mark.slow
def test_resume_ends_the_interrupted_training(tmp_path: Path) -> None:
    """It goes on from the state that 0.1.0 saved, and the run is then complete."""
    laptop = Laptop(tmp_path)
    laptop.touchline("resume", "interrupted", "--run", INTERRUPTED)
    [run] = [run for run in laptop.json("results", "interrupted")["runs"] if run["name"] == INTERRUPTED]
    assert run["outcome"] == "complete"
    assert run["attempts"] == 2
    steps = [point["step"] for point in run["train_losses"]]
    assert steps == list(range(1, 81))


@pytest.mark.planning
@pytest.mark.slow
def test_an_experiment_with_a_removed_key_is_read_and_a_line_says_what_is_not_shown(tmp_path: Path) -> None:
    """Only a new plan is refused."""
    laptop = Laptop(tmp_path)
    for name in ("experiment.yaml", "plan.json", "1M_rank1/eval.yaml"):
        path = laptop.home / "finished" / name
        key = '"general": {"tasks": ["arc_easy"], "limit": 9}'
        text = path.read_text().replace("max_new_tokens: 4, batch", f"max_new_tokens: 4, {key}, batch")
        path.write_text(text.replace('"general": null', key).replace("  general: null", f"  {key}"))
        assert "arc_easy" in path.read_text()
    line = "`evaluate.general` was removed after 0.1.0, use an Inspect task under evaluate.tasks"
    for words in (("status",), ("results",), ("report",)):
        done = laptop.run(*words, "finished")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(line) == 1
    assert "was removed after 0.1.0" in (laptop.home / "finished" / "RESULTS.md").read_text()
    assert line in laptop.run("plan", "finished").stderr
