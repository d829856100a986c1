"""One experiment, three trainers: plan, check, run, kill -9, resume, evaluate and report by the same commands."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from tests.api.folders import command, touchline, words_experiment
from tests.api.kills import kill_everything, kill_first_process, wait_for_steps
from tests.trainer_environments import require_trainer

from touchline.data.metrics_file import read_metrics

TRAINERS = ("peft", "trl", "torchtune")
EXPERIMENT = """
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
    folder, env = words_experiment(tmp_path, tiny_model, EXPERIMENT, n_train=24)
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
    text = EXPERIMENT.replace("[peft, trl, torchtune]", "[peft, trl]").replace("name: migration", "name: quantized")
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
