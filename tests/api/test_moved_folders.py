"""Folders that moved, and folders that version 0.1.0 wrote: every verb works there."""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.api.finished import Finished
from tests.api.folders import environment, interrupted, make_experiment, touchline

from tools.tiny_model import write_tiny_model
from touchline.data.metrics_file import read_metrics

RUN = "1M_rank2"
VERBS = (
    ("check",),
    ("plan",),
    ("prepare",),
    ("status",),
    ("results",),
    ("collect",),
    ("optimize",),
    ("logs", "--run", RUN),
    ("clean",),
    ("compare", "OTHER"),
    ("evaluate",),
    ("report",),
    ("resume",),
    ("run",),
    ("place", "--gpus", "1"),
    ("cancel", "--all"),
)
FINE = {"check": (0, 1), "place": (0, 2)}
"""Exit codes beside 0: a finished experiment may have findings, and has nothing left to place."""


def test_checking_a_finished_experiment_finds_nothing_in_what_its_runs_wrote(
    finished: Finished, tmp_path: Path
) -> None:
    done = touchline("check", str(finished.folder), "--json", env=finished.env)
    after = json.loads(done.stdout)["findings"]
    for name in ("experiment.yaml", "data"):
        source = finished.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    before = json.loads(touchline("check", str(tmp_path), "--json", env=finished.env).stdout)["findings"]
    assert {each["code"] for each in after} == {each["code"] for each in before}
    assert {Path(each["path"]).name for each in after} == {Path(each["path"]).name for each in before}
    marker = next(finished.folder.glob("*/training.json"))
    assert touchline("check", str(marker), env=finished.env).returncode == 0


def _made(root: Path) -> dict[str, int]:
    """Modification times of what a training or an evaluation makes: nothing may be made a second time."""
    kept = ("metrics.jsonl", "adapter_model.safetensors", ".eval")
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.name.endswith(kept)
    }


def _old_places(root: Path, *places: Path) -> dict[str, str]:
    """Files that a person or touchline reads and that name one of the places, with the first such line."""
    found: dict[str, str] = {}
    for path in root.rglob("*"):
        # What a tool wrote once, with the place where it did: genuine logs, and PEFT's own field.
        once = path.suffix in (".eval", ".out") or path.name.startswith(("adapter_config", "touchline.json", "start."))
        if not path.is_file() or once or path.name in ("metrics.jsonl", "ledger.jsonl"):
            continue
        text = path.read_bytes().decode(errors="replace")
        found |= {
            str(path.relative_to(root)): line for line in text.splitlines() if any(str(p) in line for p in places)
        }
    return found


@pytest.mark.slow
def test_every_verb_works_where_an_experiment_was_moved_to(finished: Finished, tmp_path: Path) -> None:
    """Another machine: neither the old folder, nor the old models, nor cache and history are there."""
    root = tmp_path / "a place, it's far" / "tiny copy"
    shutil.copytree(finished.folder, root, symlinks=True)
    shutil.copytree(finished.base / "models", tmp_path / "models here")
    hidden = finished.base.with_name("hidden")
    finished.base.rename(hidden)
    try:
        env = environment(tmp_path / "models here", tmp_path / "cache", tmp_path / "history")
        shutil.copytree(root, tmp_path / "other")
        made = _made(root)
        for verb, *rest in VERBS:
            words = [str(tmp_path / "other") if word == "OTHER" else word for word in rest]
            done = touchline(verb, str(root), *words, env=env)
            assert done.returncode in FINE.get(verb, (0,)), (verb, done.returncode, done.stdout, done.stderr)
        assert _made(root) == made
        assert _old_places(root, finished.base) == {}
        shown = json.loads(touchline("results", str(root), "--json", env=env).stdout)
        assert [run["status"] for run in shown["runs"]] == ["completed"] * 3
        # Trained adapters name the base's old folder; it is found under its name, with the same hash.
        for path in root.glob("*/eval/*"):
            if path.is_file():
                path.unlink()
        again = touchline("evaluate", str(root), env=env)
        assert again.returncode == 0, again.stderr
        assert len(list(root.glob("*/eval/*.eval"))) == 3
    finally:
        hidden.rename(finished.base)


def _as_written_by_0_1_0(root: Path, was: Path) -> None:
    """Have plan.json and the configs name the dataset by its absolute path, as version 0.1.0 wrote them."""
    short, long = "data/words.json", str(was / "data" / "words.json")
    for path in (root / "plan.json", *root.glob("*/finetune.yaml"), *root.glob("*/eval.yaml")):
        text = path.read_text()
        for old in (f'"../{short}"', f'"{short}"'):
            text = text.replace(old, f'"{long}"')
        path.write_text(text)
    plan = json.loads((root / "plan.json").read_text())
    for run in plan["runs"]:
        run["data"]["path"] = short
    (root / "plan.json").write_text(json.dumps(plan))
    (root / ".touchline" / "prepared.json").unlink()
    assert long in (root / "plan.json").read_text()


@pytest.mark.slow
def test_a_folder_of_version_0_1_0_may_be_moved(finished: Finished, tmp_path: Path) -> None:
    """Its plan has absolute paths, and the place that they name is gone."""
    root = tmp_path / "tiny"
    shutil.copytree(finished.folder, root)
    _as_written_by_0_1_0(root, Path("/gone/tiny"))
    made = _made(root)
    shutil.copytree(root, tmp_path / "other")
    for verb in ("status", "results", "report", "optimize", "run"):
        done = touchline(verb, str(root), env=finished.env)
        assert done.returncode == 0, (verb, done.stderr)
    assert _made(root) == made
    assert _old_places(root, Path("/gone")) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "written",
    [
        "ABSOLUTE",
        *(
            pytest.param(each, marks=pytest.mark.thorough)
            for each in ("./data/../data/words.json", "../shared", "LINK")
        ),
    ],
)
def test_a_copy_of_a_training_at_work_trains_by_itself(written: str, finished: Finished, tmp_path: Path) -> None:
    """The process belongs to the original: the copy neither waits for it, nor shows it, nor stops it.

    However the data was named, what lies outside the folder is found where experiment.yaml now says.
    """
    root, env = make_experiment(tmp_path / "first" / "tiny", ranks="[2]", n_train=1200, n_test=8), finished.env
    data = root / "data" / "words.json"
    if written == "../shared":
        data.rename(root.parent / "shared.json")
    elif written == "LINK":
        data.rename(tmp_path / "elsewhere.json")
        data.symlink_to(tmp_path / "elsewhere.json")
    text = (root / "experiment.yaml").read_text()
    named = {"ABSOLUTE": str(data), "LINK": "data/words.json", "../shared": "../shared.json"}.get(written, written)
    (root / "experiment.yaml").write_text(text.replace("data/words.json", named))
    moved = tmp_path / "second" / "tiny"

    def copied() -> bool:
        if not _steps(root):
            return False
        shutil.copytree(root.parent, moved.parent, symlinks=True, ignore=_vanishing)
        shown = touchline("status", str(moved), "--json", env=env)
        assert json.loads(shown.stdout)["runs"][0]["status"] == "interrupted", shown.stdout
        assert touchline("cancel", str(moved), "--all", env=env).returncode == 0
        return True

    code, said = interrupted("run", str(root), "--no-probe", env=env, when=copied)
    assert code == 130, said
    if written == "ABSOLUTE":
        # The file names the old place: a person says where it is now, and the hash says that it is the same data.
        (moved / "experiment.yaml").write_text(text)
    shutil.rmtree(tmp_path / "first")
    trained = moved / RUN / "training.json"
    code, said = interrupted("run", str(moved), env=env, when=trained.exists)
    assert code in (0, 130), said
    assert trained.exists(), said
    assert _steps(moved) == list(range(1, 301))
    assert not (moved / RUN / "superseded").exists()


def _steps(root: Path) -> list[int]:
    """The steps that count: some are made again after the last saved state."""
    metrics = root / RUN / "metrics.jsonl"
    return [row.step for row in read_metrics(metrics).steps] if metrics.exists() else []


def _vanishing(folder: str, names: list[str]) -> list[str]:
    """Files that are about to be renamed, which a copy of a living folder does not get."""
    return [name for name in names if ".tmp" in name or not (Path(folder) / name).exists()]


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
