"""The whole way with the real model, small: plan, train, a kill, go on, evaluate, report, load elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.api.folders import command, touchline
from tests.cases import some

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
    from touchline.run.model_download import get_model

    settings = load_settings()
    get_model(MODEL, settings)
    return settings.models_dir


@pytest.fixture(scope="module")
def environment(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a command: two threads, this model."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {"TOUCHLINE_MODELS_DIR": str(models), "TOUCHLINE_CACHE_DIR": cache, "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """An experiment that was killed once in the middle of its training and then finished."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    create_capitalization(folder / "data", word_length=8, num_words=160, train_fraction=0.6, seed=1)
    process = subprocess.Popen(command("run", str(folder)), env=environment, stderr=subprocess.DEVNULL)
    while not list((folder / "135M_rank8").glob("resume/step_*/state.json")):
        assert process.poll() is None, "it ended before it saved anything"
        time.sleep(0.05)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()
    done = touchline("run", str(folder), env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def test_training_helps_and_the_report_says_so(finished: Path, environment: dict[str, str]) -> None:
    """96 words are enough to beat the base on the same held-out words; every figure comes with its unit and kind."""
    done = touchline("results", str(finished), "--json", env=environment)
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
    assert base["train_seconds"] == {"missing": "nothing is trained"}
    assert (finished / "figures" / "train_loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_kill_left_no_trace_in_the_adapter(finished: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """The adapter of the killed run is, byte for byte, that of one that was never interrupted."""
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT.replace("controls: [base]", "controls: []"))
    create_capitalization(tmp_path / "data", word_length=8, num_words=160, train_fraction=0.6, seed=1)
    # What was `auto` is taken over: by now there is evidence, and another layout of the rows gives other last digits.
    plan = json.loads((finished / "plan.json").read_text(encoding="utf-8"))
    decided = next(run["train"] for run in plan["runs"] if run["name"] == "135M_rank8")
    layout = [f"train.{key}={json.dumps(decided[key])}" for key in ("micro_batch_size", "packed")]
    done = touchline("run", str(tmp_path), *layout, env=environment)
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
