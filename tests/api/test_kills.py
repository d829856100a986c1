"""Kill anything at any time; the same command again finishes what is missing, as if it had never been interrupted."""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.api.finished import Finished
from tests.api.folders import command, interrupted, make_experiment, touchline

from touchline.data.metrics_file import read_metrics

RUNS = ("1M_rank2", "1M_rank4")
VICTIMS = {
    "parent": "touchline.cli.main",
    "supervisor": "touchline.run.attempt",
    "trainer": "touchline.train",
    "evaluator": "touchline.evaluate",
}
STORM = (
    *(("trainer", 3), ("parent", 9), ("supervisor", 14), ("trainer", 21), ("trainer", 30), ("parent", 33)),
    *(("trainer", 41), ("supervisor", 47), ("parent", 52), ("trainer", 58), ("trainer", 63), ("supervisor", 68)),
)
"""What is killed, and after how many steps of both trainings. Then evaluators are killed."""
FEW = (("trainer", 7), ("parent", 52))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "evaluators"), [(FEW, 1), pytest.param(STORM, 6, marks=pytest.mark.thorough)], ids=["few", "storm"]
)
def test_kills_change_nothing(
    kills: tuple[tuple[str, int], ...], evaluators: int, tmp_path: Path, env: dict[str, str], finished: Finished
) -> None:
    """Parent, supervisor, trainer and evaluator are killed after counted steps; adapters and scores stay the same."""
    folder = make_experiment(tmp_path / "rough")
    # What was `auto` is taken over: another layout of the rows gives other last digits.
    decided = finished.told["probed"]["runs"][0]["train"]
    layout = "".join(f"  {key}: {json.dumps(decided[key])}\n" for key in ("micro_batch_size", "packed"))
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("train:\n", f"train:\n{layout}"))
    victims = [*kills, *[("evaluator", 0)] * evaluators]
    process = _start(folder, env)
    for name, steps in victims:
        deadline = time.monotonic() + 300
        while (victim := _alive(folder).get(name)) is None or _steps(folder) < steps:
            assert time.monotonic() < deadline, f"no {name} after {steps} steps"
            if process.poll() is not None:
                # All is done: take the evaluations away, as a person might.
                for path in folder.glob("*/eval/*.*"):
                    path.unlink()
                process = _start(folder, env)
            time.sleep(0.002)
        _kill(victim)
    process.kill()
    process.wait()
    last = touchline("run", str(folder), env=env)
    assert last.returncode == 0, last.stderr
    assert _outcome(folder) == _outcome(finished.folder)
    _nothing_twice_and_nothing_left(folder)
    before = _snapshot(folder)
    again = touchline("run", str(folder), env=env)
    assert again.returncode == 0, again.stderr
    assert _snapshot(folder) == before


def _start(folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    words = command("run", str(folder), "--no-probe")
    return subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _steps(folder: Path) -> int:
    """Steps that both trainings have logged, whatever attempts made them."""
    return sum(_last_step(folder / run / "metrics.jsonl") for run in RUNS)


def _last_step(metrics: Path) -> int:
    if not metrics.exists():
        return 0
    return max((row.step for row in read_metrics(metrics).steps), default=0)


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
        found |= {name: process for name, wanted in VICTIMS.items() if module == wanted}
    return found


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        if process.ppid() == psutil.Process().pid:
            process.wait(10)
    except psutil.NoSuchProcess:
        pass


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
    for run in RUNS:
        steps = json.loads((folder / run / "training.json").read_text())["steps"]
        assert steps == 40
        results = list((folder / run / "eval").glob("*.eval"))
        assert len(results) == 1
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp") or ".tmp-" in path.name]
    assert left == []
    assert _alive(folder) == {}


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, env: dict[str, str]) -> None:
    """The trainer's own stop is recorded; no step before it is done again."""
    folder = make_experiment(tmp_path / "it's an experiment", ranks="[2]", n_train=160, n_test=8)
    metrics = folder / "1M_rank2" / "metrics.jsonl"
    code, talk = interrupted(
        "run", str(folder), env=env, when=lambda: metrics.exists() and '"event":"step"' in metrics.read_text()
    )
    assert code == 130, talk
    assert "rerun the same command to resume" in talk
    assert "Traceback" not in talk
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows[-1]["event"] == "end"
    stopped = rows[-1]["step"]
    assert 0 < stopped < 40
    shown = touchline("status", str(folder), "--json", env=env)
    assert [run["status"] for run in json.loads(shown.stdout)["runs"]] == ["interrupted", "prepared"]
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "step"] == list(range(1, 41))
