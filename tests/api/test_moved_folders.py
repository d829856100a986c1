"""`cp -r` and `mv` of an experiment: every verb goes on, from any place, on this machine or on another one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.folders import command, environment, interrupted, make_experiment, touchline

from tools.tiny_model import write_tiny_model

MODEL = "Tiny-1M-Instruct"
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


@dataclass(frozen=True)
class Site:
    """A finished experiment and the machine that it was made on."""

    root: Path
    base: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One run and one control, trained and evaluated for real; not to be written to."""
    base = tmp_path_factory.mktemp("first machine")
    write_tiny_model(base / "models" / MODEL)
    env = environment(base / "models", base / "cache") | {"TOUCHLINE_HISTORY_DIR": str(base / "history")}
    root = make_experiment(base / "tiny", ranks="[2]", n_train=40, n_test=8)
    done = touchline("run", str(root), env=env)
    assert done.returncode == 0, done.stderr
    return Site(root, base, env)


def test_checking_a_finished_experiment_finds_nothing_in_what_its_runs_wrote(site: Site, tmp_path: Path) -> None:
    done = touchline("check", str(site.root), "--json", env=site.env)
    after = json.loads(done.stdout)["findings"]
    for name in ("experiment.yaml", "data"):
        source = site.root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    before = json.loads(touchline("check", str(tmp_path), "--json", env=site.env).stdout)["findings"]
    assert {each["code"] for each in after} == {each["code"] for each in before}
    assert {Path(each["path"]).name for each in after} == {Path(each["path"]).name for each in before}
    marker = next(site.root.glob("*/training.json"))
    assert touchline("check", str(marker), env=site.env).returncode == 0


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


def _every_verb(root: Path, other: Path, env: dict[str, str]) -> None:
    for verb, *rest in VERBS:
        words = [str(other) if word == "OTHER" else word for word in rest]
        done = touchline(verb, str(root), *words, env=env)
        assert done.returncode in FINE.get(verb, (0,)), (verb, done.returncode, done.stdout, done.stderr)
        assert "internal error" not in done.stderr, (verb, done.stderr)


@pytest.mark.slow
def test_every_verb_works_where_an_experiment_was_moved_to(site: Site, tmp_path: Path) -> None:
    """Another machine: neither the old folder, nor the old models, nor cache and history are there."""
    root = tmp_path / "a place, it's far" / "tiny copy"
    shutil.copytree(site.root, root, symlinks=True)
    shutil.copytree(site.base / "models", tmp_path / "models here")
    hidden = site.base.with_name("hidden")
    site.base.rename(hidden)
    try:
        env = environment(tmp_path / "models here", tmp_path / "cache")
        env |= {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
        shutil.copytree(root, tmp_path / "other")
        made = _made(root)
        _every_verb(root, tmp_path / "other", env)
        assert _made(root) == made
        assert _old_places(root, site.base) == {}
        shown = json.loads(touchline("results", str(root), "--json", env=env).stdout)
        assert [run["status"] for run in shown["runs"]] == ["completed", "completed"]
        # Trained adapters name the base's old folder; it is found under its name, with the same hash.
        for path in root.glob("*/eval/*"):
            if path.is_file():
                path.unlink()
        again = touchline("evaluate", str(root), env=env)
        assert again.returncode == 0, again.stderr
        assert len(list(root.glob("*/eval/*.eval"))) == 2
    finally:
        hidden.rename(site.base)


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
def test_a_folder_of_version_0_1_0_may_be_moved(site: Site, tmp_path: Path) -> None:
    """Its plan has absolute paths, and the place that they name is gone."""
    root = tmp_path / "tiny"
    shutil.copytree(site.root, root)
    _as_written_by_0_1_0(root, Path("/gone/tiny"))
    made = _made(root)
    shutil.copytree(root, tmp_path / "other")
    for verb in ("status", "results", "report", "optimize", "run"):
        done = touchline(verb, str(root), env=site.env)
        assert done.returncode == 0, (verb, done.stderr)
    assert _made(root) == made
    assert _old_places(root, Path("/gone")) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "written", ["data/words.json", "./data/../data/words.json", "ABSOLUTE", "../shared.json", "LINK"]
)
def test_a_stopped_training_goes_on_in_the_copy(written: str, site: Site, tmp_path: Path) -> None:
    """However the data was named; what lies outside the folder is found where experiment.yaml now says."""
    root = make_experiment(tmp_path / "first" / "tiny", ranks="[2]", n_train=400, n_test=8)
    data = root / "data" / "words.json"
    if written == "../shared.json":
        data.rename(root.parent / "shared.json")
    elif written == "LINK":
        data.rename(tmp_path / "elsewhere.json")
        data.symlink_to(tmp_path / "elsewhere.json")
    text = (root / "experiment.yaml").read_text()
    named = {"ABSOLUTE": str(data), "LINK": "data/words.json"}.get(written, written)
    (root / "experiment.yaml").write_text(text.replace("data/words.json", named))
    _stop_after_first_step(root, site.env)
    shutil.copytree(root.parent, tmp_path / "second", symlinks=True)
    moved = tmp_path / "second" / "tiny"
    if written == "ABSOLUTE":
        # The file names the old place: a person says where it is now, and the hash says that it is the same data.
        (moved / "experiment.yaml").write_text(text)
    shutil.rmtree(tmp_path / "first")
    before = _steps(moved)
    trained = moved / RUN / "training.json"
    code, said = interrupted("run", str(moved), env=site.env, when=trained.exists)
    assert code in (0, 130), said
    assert trained.exists(), said
    assert _steps(moved) == list(range(1, 101))
    assert 0 < len(before) < 100
    assert not (moved / RUN / "superseded").exists()


def _steps(root: Path) -> list[int]:
    rows = [json.loads(line) for line in (root / RUN / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["event"] == "step"]


def _has_begun(root: Path) -> bool:
    """Return True if the training has logged a step."""
    metrics = root / RUN / "metrics.jsonl"
    return metrics.exists() and '"event":"step"' in metrics.read_text()


def _stop_after_first_step(root: Path, env: dict[str, str]) -> None:
    code, said = interrupted("run", str(root), env=env, when=lambda: _has_begun(root))
    assert code == 130, said


@pytest.mark.slow
def test_a_copy_of_what_runs_is_stopped_and_trains_by_itself(site: Site, tmp_path: Path) -> None:
    """The process belongs to the original: the copy neither waits for it, nor shows it, nor stops it."""
    root = make_experiment(tmp_path / "tiny", ranks="[2]", n_train=1600, n_test=8)
    process = subprocess.Popen(command("run", str(root)), env=site.env, stderr=subprocess.PIPE, text=True)
    try:
        while not _has_begun(root):
            assert process.poll() is None, "it ended before its first step"
            time.sleep(0.05)
        copy = tmp_path / "copy"
        shutil.copytree(root, copy, ignore=_vanishing)
        shown = touchline("status", str(copy), "--json", env=site.env)
        assert json.loads(shown.stdout)["runs"][0]["status"] == "interrupted", shown.stdout
        assert touchline("cancel", str(copy), "--all", env=site.env).returncode == 0
        assert process.poll() is None
        assert json.loads(touchline("status", str(root), "--json", env=site.env).stdout)["runs"][0]["status"] in (
            "running",
            "trained",
        )
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


def _vanishing(folder: str, names: list[str]) -> list[str]:
    """Files that are about to be renamed, which a copy of a living folder does not get."""
    return [name for name in names if ".tmp" in name or not (Path(folder) / name).exists()]
