"""The whole way with the real model, small: plan, train, a kill, resume, evaluate, report, load elsewhere; a chain."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import command, environment, touchline
from tests.api.harm import kill_everything
from tests.cases import some

from touchline.core.status import EXIT_LINEAGE, EXIT_PARENT_NOT_READY
from touchline.data.create import create_capitalization

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

MODEL = "SmolLM2-135M-Instruct"
EXPERIMENT = """\
name: small
question: Does a short training help?
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: data/words_8L_60P_160.json}
train:
  global_batch_size: 8
  learning_rate: 1e-3
  max_seq_len: 128
  validate_every_steps: 6
  checkpoint: {resume_minutes: 0.02}
factors:
  train.lora.rank: [8]
controls: [base]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models_dir with the real model, taken from where `touchline models get` puts it."""
    from touchline.data.user_config import load_settings
    from touchline.tools.environments import get_model

    settings = load_settings()
    get_model(MODEL, settings)
    return settings.models_dir


@pytest.fixture(scope="module")
def env(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a command: two threads, this model."""
    return environment(models, tmp_path_factory.mktemp("cache")) | {"OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    """An experiment that was killed once in the middle of its training and then finished."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    create_capitalization(folder / "data", word_length=8, num_words=160, train_fraction=0.6, seed=1)
    process = subprocess.Popen(command("run", str(folder)), env=env, stderr=subprocess.DEVNULL)
    while not list((folder / "135M_rank8").glob("resume/step_*/state.json")):
        assert process.poll() is None, "it ended before it saved anything"
        time.sleep(0.05)
    kill_everything(process)
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    return folder


def test_training_helps_and_the_report_says_so(finished: Path, env: dict[str, str]) -> None:
    """96 words are enough to beat the base on the same held-out words; every figure comes with its unit and kind."""
    done = touchline("results", str(finished), "--json", env=env)
    assert done.returncode == 0
    runs = {run["name"]: run for run in json.loads(done.stdout)["runs"]}
    trained, base = runs["135M_rank8"], runs["135M_base"]
    assert trained["status"] == base["status"] == "completed"
    assert trained["exact_match"]["n"] == base["exact_match"]["n"] == 48
    assert trained["exact_match"]["k"] > base["exact_match"]["k"]
    assert trained["steps_done"] == trained["steps_planned"] == 12
    assert trained["attempts"] == 2
    assert trained["train_seconds"]["unit"] == "s"
    assert trained["tokens_per_second"]["token_unit"] == "real"
    assert trained["peak_memory"]["kind"] in ("process", "allocated")
    assert trained["peak_memory"]["phase"] == "step"
    assert base["train_seconds"] == {"missing": "not trained"}
    assert (finished / "figures" / "train_loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_kill_left_no_trace_in_the_adapter(finished: Path, tmp_path: Path, env: dict[str, str]) -> None:
    """The adapter of the killed run is, byte for byte, that of one that was never interrupted."""
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT.replace("controls: [base]", "controls: []"))
    create_capitalization(tmp_path / "data", word_length=8, num_words=160, train_fraction=0.6, seed=1)
    # What was `auto` is taken over: by now there is evidence, and another layout of the rows gives other last digits.
    plan = json.loads((finished / "plan.json").read_text(encoding="utf-8"))
    decided = next(run["train"] for run in plan["runs"] if run["name"] == "135M_rank8")
    layout = [f"train.{key}={json.dumps(decided[key])}" for key in ("micro_batch_size", "packed")]
    done = touchline("run", str(tmp_path), *layout, env=env)
    assert done.returncode == 0, done.stderr
    weights = Path("135M_rank8") / "epoch_0" / "adapter_model.safetensors"
    assert (finished / weights).read_bytes() == (tmp_path / weights).read_bytes()


def test_the_adapter_loads_with_peft_from_another_folder(finished: Path, tmp_path: Path) -> None:
    """The exported folder is complete: absolute base path, tokenizer and all."""
    program = (
        "import sys; from peft import AutoPeftModelForCausalLM; from transformers import AutoTokenizer\n"
        "m = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert any('lora' in n for n, _ in m.named_parameters()); print(m.peft_config['default'].r, len(t))"
    )
    epoch = finished / "135M_rank8" / "epoch_0"
    done = subprocess.run(
        [sys.executable, "-c", program, str(epoch)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "8"


def test_every_log_is_genuine_and_names_its_run(finished: Path) -> None:
    """Inspect opens it; it knows experiment, run, checkpoint and hashes; its scores are those of the report."""
    from inspect_ai.log import read_eval_log

    logs = sorted(finished.glob("*/eval/*.eval"))
    assert len(logs) == 2
    for path in some(logs):
        log = read_eval_log(str(path))
        assert log.status == "success"
        metadata = log.eval.metadata or {}
        assert {"experiment", "run", "checkpoint", "base_sha256", "data_sha256", "adapter_sha256"} <= set(metadata)
        assert log.samples is not None
        assert len(log.samples) == 48
        scores = json.loads(path.with_name(path.name.replace(".eval", ".scores.json")).read_text())
        exact = [sample.scores["exact"].value in (1, 1.0, "C", True) for sample in log.samples if sample.scores]
        assert sum(exact) == sum(sample["exact"] for sample in scores["samples"])


# ---- a chain of two stages -------------------------------------------------------------------------------------------

EASY, HARD = "135M_rank8_easy", "135M_rank8_hard"
CHAIN = """\
name: chain
question: Do short words first help with long words?
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: data/words_10L_60P_100.json}
train:
  {global_batch_size: 8, micro_batch_size: 8, packed: false, max_seq_len: 128, learning_rate: 1e-3, lora: {rank: 8}}
stages:
  - {name: easy, data: {path: data/words_5L_60P_100.json}}
  - {name: hard, parent: easy, continue: adapter}
"""


def script(folder: Path, run: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`bash finetune.slurm` in a run's folder, as a person does it."""
    return subprocess.run(
        ["bash", "finetune.slurm"], cwd=folder / run, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    """The experiment, prepared, with its first stage trained; not to be written to."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "experiment.yaml").write_text(CHAIN)
    for length in (5, 10):
        create_capitalization(folder / "data", word_length=length, num_words=100, train_fraction=0.6, seed=1)
    for verb in ("plan", "prepare"):
        done = touchline(verb, str(folder), env=env)
        assert done.returncode == 0, done.stderr
    done = script(folder, HARD, env)
    assert done.returncode == EXIT_PARENT_NOT_READY, done.stderr
    done = script(folder, EASY, env)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(easy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(easy, tmp_path / "chain"))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_lineage_of_a_real_chain_is_proved(folder: Path, env: dict[str, str]) -> None:
    """The loss before the first step, on the parent's items, is the parent's last one: printed side by side."""
    done = script(folder, HARD, env)
    assert done.returncode == 0, done.stderr
    lineage, parent = read(folder / HARD / "lineage.json"), read(folder / EASY / "training.json")
    loss = lineage["loss"]
    assert loss["recorded"] == parent["final_validation_loss"]
    assert abs(loss["found"] / loss["recorded"] - 1) <= 1e-3
    assert lineage["adapter_sha256"] == lineage["marker_sha256"] == lineage["record_sha256"] == parent["adapter_sha256"]
    assert lineage["file_tensors_sha256"] == lineage["model_tensors_sha256"]
    assert lineage["trainable_parameters"] == lineage["parent_parameters"] == 2_442_240
    assert read(folder / HARD / "training.json")["adapter_sha256"] != parent["adapter_sha256"]


def test_a_swapped_adapter_stops_a_real_chain(folder: Path, env: dict[str, str]) -> None:
    """Where all records were forged, by its loss."""
    from tests.train.tiny_run import other_adapter, rewrite_records, swap_adapter

    checkpoint = folder / EASY / "epoch_0"
    swap_adapter(checkpoint, other_adapter(checkpoint, zeros=False))
    rewrite_records(folder / EASY, checkpoint)
    done = script(folder, HARD, env)
    assert done.returncode == EXIT_LINEAGE, done.stderr
    assert "validation loss before the first step" in done.stderr
    assert not (folder / HARD / "training.json").exists()
    assert not list((folder / HARD).glob("epoch_*"))
