"""The whole way by the same commands: other trainers, runs side by side, slots of a CPU, kills at any moment."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.api.finished import Finished
from tests.api.folders import command, interrupted, make_experiment, touchline, words_experiment
from tests.api.harm import kill_everything, kill_first_process, training_processes, wait_for_steps
from tests.trainer_environments import require_trainer

from touchline.data.metrics_file import read_metrics

EXPERIMENT = """
name: sweep
question: Does the rank matter?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  checkpoint: {resume_minutes: 0.001}
factors: {train.lora.rank: [2, 4, 8]}
controls: [base]
compute: {cohorts: always}
"""
RUNS = ("1M_rank2", "1M_rank4", "1M_rank8")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_sweep_side_by_side_by_the_same_commands(tmp_path: Path, tiny_model: Path) -> None:
    folder, env = words_experiment(tmp_path, tiny_model, EXPERIMENT, n_train=48)
    planned = touchline("plan", str(folder), "--json", env=env)
    assert planned.returncode == 0, planned.stderr
    (cohort,) = json.loads((folder / "plan.json").read_text())["cohorts"]
    assert tuple(cohort["runs"]) == RUNS
    assert cohort["gain"]["low"] < cohort["gain"]["value"] < 3
    checked = touchline("check", str(folder), env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    process = subprocess.Popen(
        command("run", str(folder), "--no-probe"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    saved = [folder / run / "resume" for run in RUNS]
    while not all(any(place.glob("step_*/state.json")) for place in saved) and time.monotonic() < deadline:
        time.sleep(0.02)
    kill_everything(process)
    assert all(any(place.glob("step_*/state.json")) for place in saved)
    assert not any((folder / run / "training.json").exists() for run in RUNS)

    done = touchline("resume", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(touchline("results", str(folder), "--json", env=env).stdout)
    assert {run["name"]: run["status"] for run in answer["runs"]} == {name: "completed" for name in (*RUNS, "1M_base")}
    for run in RUNS:
        attempts = [
            row
            for line in (folder / run / "metrics.jsonl").read_text().splitlines()
            if "from_step" in (row := json.loads(line))
        ]
        assert len(attempts) == 2
        assert attempts[-1]["from_step"] > 0
        assert sorted([run, *attempts[-1]["cohort"]]) == list(RUNS)


SLOTS_EXPERIMENT = """
name: slots
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train:
  epochs: 3
  global_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  checkpoint: {resume_minutes: 0.001}
factors: {train.lora.rank: [2, 4, 8]}
controls: [base]
compute: {slots: 2, cohorts: never}
"""


def rows(folder: Path, run: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]


def start(folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Run the experiment until two trainings have made a step."""
    process = subprocess.Popen(
        command("run", str(folder), "--no-probe"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for run in RUNS[:2]:
        wait_for_steps(process, folder / run, 1)
    return process


@pytest.mark.slow
@pytest.mark.thorough
def test_two_at_once_survive_kills_and_keep_their_threads(tmp_path: Path, tiny_model: Path) -> None:
    folder, env = words_experiment(tmp_path, tiny_model, SLOTS_EXPERIMENT, n_train=64)
    env["OMP_NUM_THREADS"] = "2"
    process = start(folder, env)
    assert not (folder / RUNS[2] / "metrics.jsonl").exists()
    kill_everything(process)
    assert not any(training_processes(folder / run) for run in RUNS)

    process = start(folder, env)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert not any(training_processes(folder / run) for run in RUNS)

    # Slots of an interrupted experiment stay, whatever the file says of them.
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("slots: 2", "slots: auto"))
    done = touchline("run", str(folder), "--no-probe", env=env)
    assert done.returncode == 0, done.stderr
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["machine"]["slots"], plan["machine"]["threads"]) == (2, 2)
    attempts = {run: [row for row in rows(folder, run) if "from_step" in row] for run in RUNS}
    assert {attempt["threads"] for found in attempts.values() for attempt in found} == {1}
    assert all(len(attempts[run]) >= 2 for run in RUNS[:2])
    answer = json.loads(touchline("results", str(folder), "--json", env=env).stdout)
    assert {run["name"]: run["status"] for run in answer["runs"]} == dict.fromkeys((*RUNS, "1M_base"), "completed")


TRAINERS = ("peft", "trl", "torchtune")
TRAINERS_EXPERIMENT = """
name: migration
question: Do the trainers agree?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train:
  global_batch_size: 8
  micro_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  lora: {rank: 4}
factors:
  train.backend: [peft, trl, torchtune]
"""


@pytest.mark.usefixtures("started_alone")
@pytest.mark.slow
@pytest.mark.thorough
def test_three_trainers_by_the_same_commands(tmp_path: Path, tiny_model: Path) -> None:
    require_trainer("torchtune")
    folder, env = words_experiment(tmp_path, tiny_model, TRAINERS_EXPERIMENT, n_train=24)
    assert touchline("plan", str(folder), env=env).returncode == 0
    checked = touchline("check", str(folder), env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    process = subprocess.Popen(
        command("run", str(folder), "--no-probe"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (folder / "1M_rank4_trl" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_everything(process)
    assert not (folder / "1M_rank4_torchtune" / "training.json").exists()

    done = touchline("resume", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    losses = {}
    for trainer in TRAINERS:
        marker = json.loads((folder / f"1M_rank4_{trainer}" / "training.json").read_text())
        assert marker["steps"] == 3
        losses[trainer] = marker["final_validation_loss"]
    assert losses["trl"] == pytest.approx(losses["peft"], abs=1e-5)
    # Its adapter starts from other random numbers.
    assert losses["torchtune"] == pytest.approx(losses["peft"], abs=0.2)
    answer = json.loads(touchline("results", str(folder), "--json", env=env).stdout)
    assert {run["name"]: run["status"] for run in answer["runs"]} == {
        f"1M_rank4_{trainer}": "completed" for trainer in TRAINERS
    }
    assert "| torchtune, peft |" in (folder / "RESULTS.md").read_text()


@pytest.mark.slow
@pytest.mark.thorough
def test_qlora_on_two_processes_by_the_same_commands(tmp_path: Path, tiny_model: Path) -> None:
    """Kill -9 of the first process of each trainer leaves no orphan, and the same commands end what it began."""
    text = TRAINERS_EXPERIMENT.replace("[peft, trl, torchtune]", "[peft, trl]").replace(
        "name: migration", "name: quantized"
    )
    text = text.replace("  micro_batch_size: 4\n", "  micro_batch_size: 2\n  epochs: 4\n  quantization: nf4\n")
    text = text.replace("  lora:", "  checkpoint: {resume_minutes: 1e-9}\n  lora:")
    text += "compute: {gpu: cpu, gpus_per_run: 2}\n"
    folder, env = words_experiment(tmp_path, tiny_model, text, n_train=24)
    assert touchline("plan", str(folder), env=env).returncode == 0
    checked = touchline("check", str(folder), env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    peft, trl = (folder / f"1M_rank4_{trainer}" for trainer in ("peft", "trl"))
    words = command("run", str(folder), "--no-probe")
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for_steps(process, peft, 3)
        kill_first_process(peft, together=2)
        # The command resumes it by itself. The next time it is killed too.
        wait_for_steps(process, trl, 3)
        process.kill()
    kill_first_process(trl, together=2)

    done = touchline("resume", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    rows = {run.name: read_metrics(run / "metrics.jsonl") for run in (peft, trl)}
    for metrics in rows.values():
        assert len(metrics.attempts) == 2
        assert {row.data_parallel_size for row in metrics.attempts} == {2}
        assert [row.step for row in metrics.steps] == list(range(1, 13))
    for one, other in zip(rows[peft.name].steps, rows[trl.name].steps, strict=True):
        # Products with a base in 4 bits are rounded in another order.
        assert one.loss == pytest.approx(other.loss, abs=2e-3)
        assert (one.examples, one.target_tokens) == (other.examples, other.target_tokens)
    report = (folder / "RESULTS.md").read_text()
    assert "| nf4 |" in report
    assert "| trl, peft |" in report


KILLS_RUNS = ("1M_rank2", "1M_rank4")
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
    return sum(_last_step(folder / run / "metrics.jsonl") for run in KILLS_RUNS)


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
    for run in KILLS_RUNS:
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
