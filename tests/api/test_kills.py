"""Kill anything at any time; the same command again finishes what is missing, as if it had never been interrupted."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.api.folders import command, environment, make_experiment, touchline

KILLS = 20
VICTIMS = {
    "parent": "touchline.cli.main",
    "supervisor": "touchline.run.attempt",
    "trainer": "touchline.train",
    "evaluator": "touchline.evaluate",
}


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """Parent, supervisor, trainer, evaluator are killed at seeded random moments; adapters and scores stay the same."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(models, tmp_path / "cache")
    calm = make_experiment(tmp_path / "calm")
    done = touchline("run", str(calm), env=env)
    assert done.returncode == 0, done.stderr
    rough = make_experiment(tmp_path / "rough")
    hit = {name: 0 for name in VICTIMS}
    dice = random.Random(2026)
    process = subprocess.Popen(
        command("run", str(rough)), env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while sum(hit.values()) < KILLS or _unhurt(hit):
        time.sleep(dice.uniform(0.2, 4.0))
        if process.poll() is not None:
            if _finished(rough):
                _take_a_step_back(rough, dice)
            process = subprocess.Popen(
                command("run", str(rough)), env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            continue
        victims = _alive(rough)
        if sum(hit.values()) >= KILLS:
            # On a busy machine the first twenty may all fall into the training: the others go on until theirs come.
            victims = {name: victims[name] for name in victims.keys() & _unhurt(hit)}
        name = dice.choice(sorted(victims)) if victims else None
        if name is not None:
            _kill(victims[name])
            hit[name] += 1
    process.kill()
    process.wait()
    last = touchline("run", str(rough), env=env)
    assert last.returncode == 0, last.stderr
    assert not _unhurt(hit), hit
    assert _outcome(rough) == _outcome(calm)
    _nothing_twice_and_nothing_left(rough)
    before = _snapshot(rough)
    again = touchline("run", str(rough), env=env)
    assert again.returncode == 0, again.stderr
    assert _snapshot(rough) == before


def _unhurt(hit: dict[str, int]) -> set[str]:
    """The kinds that must have been killed at least once and have not."""
    return {name for name in ("parent", "trainer", "evaluator") if not hit[name]}


def _alive(folder: Path) -> dict[str, psutil.Process]:
    """One process of each kind that works on a folder."""
    found: dict[str, psutil.Process] = {}
    psutil.process_iter.cache_clear()
    for process in psutil.process_iter():
        try:
            words, place = process.cmdline(), process.cwd()
        except psutil.Error:
            continue
        if not (str(folder) in " ".join(words) or place.startswith(str(folder))) or "-m" not in words:
            continue
        module = words[words.index("-m") + 1]
        for name, wanted in VICTIMS.items():
            if module == wanted:
                found[name] = process
    return found


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        if process.ppid() == psutil.Process().pid:
            process.wait(10)
    except psutil.NoSuchProcess:
        pass


def _finished(folder: Path) -> bool:
    return all((folder / run / "training.json").exists() for run in ("1M_rank2", "1M_rank4"))


def _take_a_step_back(folder: Path, dice: random.Random) -> None:
    """More kills than the experiment lasts: take away an evaluation or a whole run, as a person might."""
    import shutil

    run = folder / dice.choice(["1M_rank2", "1M_rank4"])
    for path in run.glob("eval/*"):
        path.unlink()
    if dice.random() < 0.5:
        for name in ("epoch_0", "epoch_1", "resume", "status"):
            shutil.rmtree(run / name, ignore_errors=True)
        for name in ("training.json", "metrics.jsonl"):
            (run / name).unlink(missing_ok=True)


def _outcome(folder: Path) -> dict[str, object]:
    """Bytes of every adapter, and every answer."""
    found: dict[str, object] = {}
    for path in sorted(folder.glob("*/epoch_*/adapter_model.safetensors")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.glob("*/eval/*.scores.json")):
        record = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = [(sample["id"], sample["output"]) for sample in record["samples"]]
    assert len(found) == 4 + 3
    return found


def _nothing_twice_and_nothing_left(folder: Path) -> None:
    """Steps count once, no temporary is left, no process is left."""
    for run in ("1M_rank2", "1M_rank4"):
        steps = json.loads((folder / run / "training.json").read_text())["steps"]
        assert steps == 40
        results = list((folder / run / "eval").glob("*.eval"))
        assert len(results) == 1
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp") or ".tmp-" in path.name]
    assert left == []
    assert _alive(folder) == {}


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
